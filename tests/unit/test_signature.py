"""A signature shows every change of a trace, and stock OpenSSH agrees."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import Reason
from engine.verify import signature
from engine.verify.signature import NAMESPACE, SignatureError, Signers, Standing, look, sign, verify
from tests.conformance_traces import Story
from tests.support.refusals import refuses

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


def test_a_signature_made_for_something_else_is_no_signature_of_a_trace(trace: Path, key: Path) -> None:
    assert keygen("-Y", "sign", "-n", "git", "-f", key, trace).returncode == 0
    found = checked(trace, key)
    assert (found.standing, found.why) == (Standing.BAD, f"it was made for 'git', not for '{NAMESPACE}'")


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
    assert look(f"{trace}.sig").standing is Standing.BAD


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


def test_an_unsigned_trace_is_not_good_where_signatures_are_wanted(trace: Path, key: Path) -> None:
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
