"""A signature shows every change of a trace, and stock OpenSSH agrees."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import Reason
from engine.verify import signature, ssh_keygen
from engine.verify.signature import NAMESPACE, Signers, Standing, look, sign, verify
from engine.verify.ssh_keygen import SignatureError
from tests.support.refusals import refuses
from tests.support.stories import Story

WHO = "alice@example.org"


def keygen(*arguments: str | Path, content: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["ssh-keygen", *map(str, arguments)], input=content, capture_output=True, timeout=60, check=False
    )


def new_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    made = keygen("-q", "-t", kind, "-N", passphrase, "-C", "a comment", "-f", path)
    assert made.returncode == 0, made.stderr
    return path


@pytest.fixture
def key(private: Path) -> Path:
    return new_key(private / "key")


@pytest.fixture
def trace(private: Path) -> Path:
    return Story().write(private / "trace.jsonl")


def signed(trace: Path, key: Path) -> Path:
    return Path(sign(str(trace), str(key)))


def checked(trace: Path, key: Path) -> signature.Signature:
    return Signers.of_key(f"{key}.pub").check(trace.read_bytes(), f"{trace}.sig")


def signers_file(path: Path, key: Path, options: str = "") -> Path:
    path.write_text(f"# who may sign\n{WHO} {options} {Path(f'{key}.pub').read_text()}")
    return path


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_what_is_signed_verifies_here_and_with_stock_openssh(private: Path, trace: Path, kind: str) -> None:
    key = new_key(private / "other", kind)
    beside = signed(trace, key)
    assert checked(trace, key).standing is Standing.VERIFIED
    arguments = ("-f", signers_file(private / "signers", key), "-I", WHO, "-n", NAMESPACE, "-s", beside)
    said = keygen("-Y", "verify", *arguments, content=trace.read_bytes())
    assert said.returncode == 0, said.stderr
    fingerprint = checked(trace, key).key
    assert fingerprint is not None
    assert fingerprint in keygen("-l", "-f", f"{key}.pub").stdout.decode()


def test_what_stock_openssh_signs_verifies_here(trace: Path, key: Path) -> None:
    assert keygen("-Y", "sign", "-n", NAMESPACE, "-f", key, trace).returncode == 0
    assert checked(trace, key).standing is Standing.VERIFIED


def _edited(content: bytes) -> bytes:
    return content.replace(b'"mode":"0755"', b'"mode":"0555"')


def _reordered(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join([lines[0], lines[2], lines[1], *lines[3:]])


@pytest.mark.parametrize(
    "change",
    [
        _edited,
        _reordered,
        lambda content: content[: content.rindex(b"\n", 0, -1) + 1],
        lambda content: content[:-1],
        lambda content: content + b"\n",
        lambda content: content + content,
        lambda _: b"",
    ],
    ids=["edited", "reordered", "last line cut", "newline cut", "newline added", "doubled", "emptied"],
)
def test_every_change_of_the_trace_is_caught(
    trace: Path, key: Path, change: Callable[[bytes], bytes]
) -> None:
    signed(trace, key)
    before = trace.read_bytes()
    trace.write_bytes(change(before))
    assert trace.read_bytes() != before
    assert checked(trace, key).standing is Standing.BAD
    (verified,) = verify([str(trace)], Signers.of_key(f"{key}.pub"))
    assert not verified.is_good


def test_each_single_byte_matters(trace: Path, key: Path) -> None:
    signed(trace, key)
    content, signers = trace.read_bytes(), Signers.of_key(f"{key}.pub")
    for at in range(0, len(content), 97):
        changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        assert signers.check(changed, f"{trace}.sig").standing is Standing.BAD


def test_a_trace_signed_anew_by_another_key_is_caught(private: Path, trace: Path, key: Path) -> None:
    """He who edits a trace and signs it himself: everything fits but the key."""
    signed(trace, key)
    trace.write_bytes(_edited(trace.read_bytes()))
    Path(f"{trace}.sig").unlink()
    signed(trace, new_key(private / "mallory"))
    found = checked(trace, key)
    assert found.standing is Standing.BAD
    assert "another key" in str(found.why)


def test_the_signature_of_another_trace_is_caught(private: Path, trace: Path, key: Path) -> None:
    other = Story(steps=2, end="refused").write(private / "other.jsonl")
    signed(other, key).rename(f"{trace}.sig")
    assert checked(trace, key).standing is Standing.BAD


def test_signature_in_another_namespace_is_not_good(trace: Path, key: Path) -> None:
    assert keygen("-Y", "sign", "-n", "git", "-f", key, trace).returncode == 0
    found = checked(trace, key)
    assert (found.standing, found.why) == (
        Standing.BAD,
        f"it was made for something else, not for '{NAMESPACE}'",
    )


@pytest.mark.parametrize(
    ("options", "standing"),
    [
        (f'namespaces="{NAMESPACE}"', Standing.VERIFIED),
        ('namespaces="git,file"', Standing.BAD),
        ('valid-before="20200101"', Standing.BAD),
        ('valid-after="20200101"', Standing.VERIFIED),
    ],
)
def test_the_options_of_allowed_signers_count(
    private: Path, trace: Path, key: Path, options: str, standing: Standing
) -> None:
    signed(trace, key)
    signers = Signers.of_identity(str(signers_file(private / "signers", key, options)), WHO)
    assert signers.check(trace.read_bytes(), f"{trace}.sig").standing is standing


def test_an_identity_that_is_not_listed_has_signed_nothing(private: Path, trace: Path, key: Path) -> None:
    signed(trace, key)
    signers = Signers.of_identity(str(signers_file(private / "signers", key)), "bob@example.org")
    assert signers.check(trace.read_bytes(), f"{trace}.sig").standing is Standing.BAD


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        b"-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----\n",
        b"-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAQ==\n-----END SSH SIGNATURE-----\n",
        b"-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAf////8=\n-----END SSH SIGNATURE-----\n",
        b"-----BEGIN SSH SIGNATURE-----\n\xff\n-----END SSH SIGNATURE-----\n",
    ],
)
def test_a_file_that_is_no_signature_does_not_verify(trace: Path, key: Path, content: bytes) -> None:
    Path(f"{trace}.sig").write_bytes(content)
    assert checked(trace, key).standing is Standing.BAD
    assert look(trace.read_bytes(), f"{trace}.sig").standing is Standing.BAD


def test_each_damaged_byte_of_a_signature_is_caught(trace: Path, key: Path) -> None:
    armored = signed(trace, key).read_bytes()
    content, signers = trace.read_bytes(), Signers.of_key(f"{key}.pub")
    beside = Path(f"{trace}.sig")
    for at in range(30, armored.index(b"-----END") - 1, 5):
        if armored[at : at + 1] not in b"\n=":
            beside.write_bytes(
                armored[:at] + (b"B" if armored[at : at + 1] == b"A" else b"A") + armored[at + 1 :]
            )
            assert signers.check(content, str(beside)).standing is Standing.BAD, at


def test_unsigned_trace_fails_where_signatures_are_required(trace: Path, key: Path) -> None:
    (wanted,) = verify([str(trace)], Signers.of_key(f"{key}.pub"))
    (not_asked,) = verify([str(trace)], None)
    assert (wanted.is_good, not_asked.is_good) == (False, True)
    assert str(wanted).endswith("signature: not signed")
    signed(trace, key)
    (unchecked,) = verify([str(trace)], None)
    assert str(unchecked).endswith("signature: signed, not checked")


def test_a_signed_trace_that_does_not_conform_is_not_good(trace: Path, key: Path) -> None:
    trace.write_bytes(_edited(trace.read_bytes()))
    signed(trace, key)
    (verified,) = verify([str(trace)], Signers.of_key(f"{key}.pub"))
    assert verified.signature is not None
    assert (verified.signature.standing, verified.is_good) == (Standing.VERIFIED, False)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_private_key_that_others_can_read_is_refused(trace: Path, key: Path, mode: int) -> None:
    key.chmod(mode)
    with refuses(SignatureError, Reason.LOOSE_MODE, f"{mode:04o}"):
        sign(str(trace), str(key))
    assert not Path(f"{trace}.sig").exists()


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_public_half_is_named_as_such(private: Path, trace: Path, kind: str, mode: int) -> None:
    public = new_key(private / "other", kind).with_suffix(".pub")
    public.chmod(mode)
    with refuses(SignatureError, Reason.MALFORMED, "public", private / "other"):
        sign(str(trace), str(public))


def test_a_private_key_of_another_user_is_refused(trace: Path, key: Path, needs_root: None) -> None:
    os.chown(key, 12345, 0)
    with refuses(SignatureError, Reason.FOREIGN_OWNER, 12345):
        sign(str(trace), str(key))


@pytest.mark.parametrize("form", ["RFC4716", "PEM", "PKCS8"])
def test_an_encrypted_key_is_named_with_the_way_to_use_it(private: Path, trace: Path, form: str) -> None:
    key = private / "locked"
    assert keygen("-q", "-t", "ecdsa", "-m", form, "-N", "correct horse", "-f", key).returncode == 0
    with refuses(SignatureError, Reason.UNSUPPORTED) as caught:
        sign(str(trace), str(key))
    assert not any(line and line in str(caught.value) for line in key.read_text().splitlines())


def test_what_is_no_private_key_is_refused_without_showing_it(private: Path, trace: Path, key: Path) -> None:
    secret = private / "secret"
    secret.write_text(
        "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2hunter2\n-----END OPENSSH PRIVATE KEY-----\n"
    )
    secret.chmod(0o600)
    public = Path(f"{key}.pub")
    public.chmod(0o600)
    for path in (secret, public):
        with refuses(SignatureError, Reason.MALFORMED) as caught:
            sign(str(trace), str(path))
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["none", ".", "fifo", "nul\0"])
def test_a_key_that_is_no_file_is_refused(private: Path, trace: Path, name: str) -> None:
    os.mkfifo(private / "fifo", 0o600)
    with pytest.raises(SignatureError):
        sign(str(trace), str(private / name))
    with pytest.raises(SignatureError):
        Signers.of_key(str(private / name))
    with pytest.raises(SignatureError):
        Signers.of_identity(str(private / name), WHO)


def test_a_signature_is_never_overwritten_and_follows_no_link(private: Path, trace: Path, key: Path) -> None:
    elsewhere = private / "elsewhere"
    beside = Path(f"{trace}.sig")
    beside.symlink_to(elsewhere)
    with refuses(SignatureError, Reason.EXISTS):
        sign(str(trace), str(key))
    assert not elsewhere.exists()
    beside.unlink()
    first = signed(trace, key).read_bytes()
    with refuses(SignatureError, Reason.EXISTS):
        sign(str(trace), str(key))
    assert beside.read_bytes() == first


# -- ssh-keygen as a child


@pytest.mark.parametrize("form", ["RFC4716", "PEM", "PKCS8"])
@pytest.mark.parametrize("beside", [True, False])
def test_key_of_each_form_signs_without_its_public_half_too(
    private: Path, trace: Path, form: str, beside: bool
) -> None:
    key = private / "other"
    assert keygen("-q", "-t", "ecdsa", "-m", form, "-N", "", "-f", key).returncode == 0
    public = Path(f"{key}.pub").rename(private / "public.pub")
    if beside:  # of another key: it must not matter
        Path(f"{new_key(private / 'mallory')}.pub").rename(f"{key}.pub")
    signed(trace, key)
    found = Signers.of_key(str(public)).check(trace.read_bytes(), f"{trace}.sig")
    assert found.standing is Standing.VERIFIED


def test_certificate_of_a_listed_authority_is_good(private: Path, trace: Path, key: Path) -> None:
    authority = new_key(private / "authority")
    assert keygen("-q", "-s", authority, "-I", "id", "-n", WHO, f"{key}.pub").returncode == 0
    certificate = private / "key-cert.pub"
    assert keygen("-Y", "sign", "-n", NAMESPACE, "-f", certificate, trace).returncode == 0
    for options, standing in (("cert-authority", Standing.VERIFIED), ("", Standing.BAD)):
        signers = Signers.of_identity(str(signers_file(private / "signers", authority, options)), WHO)
        assert signers.check(trace.read_bytes(), f"{trace}.sig").standing is standing


#: Options of a line that takes nothing of its key: whatever their case, misspelt, or given twice.
BAD_OPTIONS = (
    'VALID-BEFORE="20000101"',
    'Valid-Before="20000101"',
    'valid-before="20000101"',
    'valid-before="200001010000"',
    'valid-before="20000101Z"',
    "valid-before=20000101",
    'valid-before="tomorrow"',
    'valid-before=""',
    'VALID-AFTER="29990101"',
    'valid-after="29990101",valid-before="29990201"',
    'valid-after="20000102",valid-before="20000101"',
    'valid-before="20000101",valid-before="29990101"',
    'valid-before="29990101",valid-before="29990101"',
    'valid-after="20000101",valid-after="20000101"',
    'NAMESPACES="git"',
    'Namespaces="git"',
    'namespaces="git"',
    'namespaces=""',
    'namespaces="git",namespaces="trace@gvisor-engine"',
    'namespaces="trace@gvisor-engine",namespaces="trace@gvisor-engine"',
    'namespaces="TRACE@GVISOR-ENGINE"',
    'namespaces="!trace@gvisor-engine,*"',
    "CERT-AUTHORITY",
    "Cert-Authority",
    "cert-authority,cert-authority",
    "cert-authorities",
    'valid-befor="20000101"',
    'valid_before="20000101"',
    'namespace="trace@gvisor-engine"',
    "no-touch-required",
    "valid-before",
    "namespaces",
    'cert-authority="yes"',
)
#: Options of a line that takes its key.
GOOD_OPTIONS = (
    'VALID-BEFORE="29990101"',
    'NAMESPACES="trace@gvisor-engine"',
    'namespaces="git,trace@gvisor-engine"',
    'Namespaces="trace@*",valid-after="20000101"',
)


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_no_signature_is_good_by_a_line_that_does_not_allow_it(
    private: Path, trace: Path, key: Path, options: str
) -> None:
    signed(trace, key)
    signers = Signers.of_identity(str(signers_file(private / "signers", key, options)), WHO)
    assert signers.check(trace.read_bytes(), f"{trace}.sig").standing is Standing.BAD


@pytest.mark.parametrize(
    "line",
    [
        "{who} {key}",
        "*@example.org {key}",
        "!{who},* {key}",
        "bob,{who} {key}",
        '{who} namespaces="*" {key}',
        '{who} namespaces="trace@*,!trace@gvisor-engine" {key}',
        '{who} valid-after="19700101",valid-before="20000101" {key}',
        '{who} valid-before="29990101Z" {key}',
        "{who} cert-authority {key}",
        "{who} unknown-option {key}",
        "nonsense\n{who} {key}",
        "{who} unknown-option {key}\n{who} {key}",
        '"{who}" {key}',
        "{who} {key} trailing words",
        "\t{who}\t{key}",
        "{WHO} {key}",
        "{who} {key}\0",
        *(f"{{who}} {options} {{key}}" for options in BAD_OPTIONS),
        *(f"{{who}} {options} {{key}}" for options in GOOD_OPTIONS),
        "{who} {key}\r",
        "\r\n{who} {key}",
        "  {who} {key}",
        "# {who} {key}",
        "\ufeff{who} {key}",
        "{who},{who} {key}",
        "{who}, {key}",
        ",{who} {key}",
        "* {key}",
        "? {key}",
        "al?ce@example.org {key}",
        "!{who} {key}",
        "!* {key}",
        "{who} {key} {key}",
        "{who}\n{key}",
        "{who} ssh-rsa {key}",
        "{who} # {key}",
        '"{who} {key}',
        "'{who}' {key}",
        '{who} {key}\n{who} valid-before="20000101" {key}',
        '{who} valid-before="20000101" {key}\n{who} {key}',
        "mallory {key}\n{who} {key}",
        "{who} ssh-ed25519 AAAA\n{who} {key}",
        "{who}" + " " * 5000 + "{key}",
        "x" * 9000 + ",{who} {key}",
    ],
)
def test_a_signers_file_is_judged_as_ssh_keygen_judges_it(
    private: Path, trace: Path, key: Path, line: str
) -> None:
    beside = signed(trace, key)
    public = " ".join(Path(f"{key}.pub").read_text().split()[:2])
    file = private / "signers"
    file.write_text(line.format(who=WHO, WHO=WHO.upper(), key=public) + "\n")
    arguments = ("-f", file, "-I", WHO, "-n", NAMESPACE, "-s", beside)
    stock = keygen("-Y", "verify", *arguments, content=trace.read_bytes()).returncode == 0
    try:
        ours = Signers.of_identity(str(file), WHO).check(trace.read_bytes(), str(beside)).standing
    except SignatureError:  # no line has a key at all
        ours = Standing.BAD
    assert (ours is Standing.VERIFIED) == stock


def test_nothing_of_the_callers_environment_is_run_or_asked(
    private: Path, trace: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = private / "marker"
    fake = private / "bin" / "ssh-keygen"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch {marker}\n")
    fake.chmod(0o755)
    for name, value in {
        "PATH": str(fake.parent),
        "SSH_ASKPASS": str(fake),
        "SSH_ASKPASS_REQUIRE": "force",
        "SSH_SK_HELPER": str(fake),
        "SSH_AUTH_SOCK": str(private / "agent"),
        "HOME": str(private),
    }.items():
        monkeypatch.setenv(name, value)
    signed(trace, key)
    assert checked(trace, key).standing is Standing.VERIFIED
    assert not marker.exists()


def test_missing_ssh_keygen_is_reported_with_its_package(
    private: Path, trace: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed(trace, key)
    monkeypatch.setattr(ssh_keygen, "PROGRAMS", ("/nowhere/ssh-keygen",))
    for act in (
        lambda: sign(str(trace), str(key)),
        lambda: Signers.of_key(f"{key}.pub"),
        lambda: Signers.of_identity(str(signers_file(private / "signers", key)), WHO),
    ):
        with refuses(SignatureError, Reason.UNAVAILABLE, "/nowhere/ssh-keygen"):
            act()
    found = look(trace.read_bytes(), f"{trace}.sig")
    assert (found.standing, found.key) == (Standing.UNCHECKED, None)


def test_an_ssh_keygen_that_cannot_judge_makes_no_signature_bad(
    private: Path, trace: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a uid without a name, or a release without -Y: that is an error, and no verdict."""
    signed(trace, key)
    signers = Signers.of_key(f"{key}.pub")
    broken = private / "broken"
    monkeypatch.setattr(ssh_keygen, "PROGRAMS", (str(broken),))
    for script in (
        "echo No user exists for uid 7 >&2; exit 255",
        "exit 0",
        "echo Good; exit 0",
        "kill -9 $$",
    ):
        broken.write_text(f"#!/bin/sh\n{script}\n")
        broken.chmod(0o755)
        with refuses(SignatureError, Reason.PROGRAM_FAILED):
            signers.check(trace.read_bytes(), f"{trace}.sig")


def test_an_ssh_keygen_that_does_not_end_is_ended(
    private: Path, trace: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = private / "broken"
    broken.write_text("#!/bin/sh\nexec sleep 60\n")
    broken.chmod(0o755)
    monkeypatch.setattr(ssh_keygen, "PROGRAMS", (str(broken),))
    monkeypatch.setattr(ssh_keygen, "_TIMEOUT", 0.2)
    with refuses(SignatureError, Reason.TIME_LIMIT):
        sign(str(trace), str(key))


def test_an_error_reaches_whoever_shared_the_work_out() -> None:
    error = pickle.loads(pickle.dumps(SignatureError("what", reason=Reason.FAILURE, hint="hint")))
    assert (type(error), error.what, error.reason, error.hint) == (
        SignatureError,
        "what",
        Reason.FAILURE,
        "hint",
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"\n# nobody\n", b"one two\n", b"ssh-ed25519 AAAA\n"],
)
def test_a_file_without_a_signer_or_a_key_is_refused(private: Path, content: bytes) -> None:
    file = private / "file"
    file.write_bytes(content)
    with refuses(SignatureError, Reason.MALFORMED, str(file)):
        Signers.of_identity(str(file), WHO)
    with refuses(SignatureError, Reason.MALFORMED, str(file)):
        Signers.of_key(str(file))
