"""An attestation says what its trace says, for OpenSSL too; every change of it, of the trace or of a file is found."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cli.main import main
from engine.errors import Reason
from engine.lifecycle.spec_graph import spec_graph
from engine.verify import evidence
from engine.verify.attestation import PAYLOAD_TYPE, SUFFIX, Attestation, attest, verify
from engine.verify.ssh_keygen import SignatureError
from engine.verify.statement import difference, encoded, statement
from tests.support.dsse import new_key, opened, signed
from tests.support.refusals import refuses
from tests.support.stories import CONFIG, Story, given_facts, read, save, written
from tests.unit.test_forged_traces import NAMES, of_a_set

#: Kinds of keys, and the digest that belongs to each curve.
KINDS = {"ed25519": None, "P-256": "sha256", "P-384": "sha384", "P-521": "sha512"}


@pytest.fixture
def key(private: Path) -> Path:
    return new_key(private / "key")


@pytest.fixture
def trace(private: Path) -> Path:
    return Story().write(private / "trace.jsonl")


def beside(trace: Path) -> Path:
    return Path(f"{trace}{SUFFIX}")


def judged(trace: Path, key: Path, **files: str) -> Attestation:
    (found,) = verify([str(trace)], f"{key}.pub", **files)
    return found


def said_of(trace: Path) -> dict[str, Any]:
    return statement(*evidence.read(str(trace), spec_graph()))


def envelope_of(trace: Path, key: Path, payload: bytes) -> Path:
    """An envelope with these bytes beside the trace, which OpenSSL signed."""
    beside(trace).write_text(json.dumps(signed(PAYLOAD_TYPE, payload, key)))
    return beside(trace)


@pytest.mark.parametrize("kind", KINDS)
def test_openssl_takes_what_is_attested(private: Path, trace: Path, kind: str) -> None:
    key = new_key(private / "other", kind)
    assert attest(str(trace), str(key)) == str(beside(trace))
    assert judged(trace, key).is_good
    payload_type, said = opened(beside(trace), Path(f"{key}.pub"), KINDS[kind])
    assert payload_type == "application/vnd.in-toto+json"
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["predicateType"] == "https://in-toto.io/attestation/runtime-trace/v0.2"
    digests = {each["name"]: each["digest"]["sha256"] for each in said["subject"]}
    assert digests == {
        "config.json": sha256(CONFIG).hexdigest(),
        "given/config.json": given_facts(CONFIG, "/base/b")["sha256"],
        "runsc": "cd" * 32,
        "trace.jsonl": sha256(trace.read_bytes()).hexdigest(),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_openssl_signs_is_good(private: Path, trace: Path, kind: str) -> None:
    key = new_key(private / "other", kind)
    made = signed(PAYLOAD_TYPE, encoded(said_of(trace)), key, KINDS[kind])
    beside(trace).write_text(json.dumps(made, indent=2))
    assert judged(trace, key).is_good


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_keys_of_openssh_attest(private: Path, trace: Path, kind: str) -> None:
    key = private / "ssh"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", key], check=True, timeout=60)
    attest(str(trace), str(key))
    assert judged(trace, key).is_good
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", f"{key}.pub"], capture_output=True, text=True, check=True
    )
    (signature,) = json.loads(beside(trace).read_bytes())["signatures"]
    assert signature["keyid"] in shown.stdout.split()


def test_attestation_is_private_as_the_trace(trace: Path, key: Path) -> None:
    attest(str(trace), str(key))
    assert beside(trace).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("story", "subjects", "finished"),
    [
        (Story(), 4, False),
        (Story(end="ended", supervised=True), 4, True),
        (Story(steps=2, end="refused"), 2, True),
        (Story(end="refused"), 4, True),
        (Story(name="\udcff\udcfe"), 3, False),
    ],
    ids=["handed off", "ended", "refused early", "execve refused", "no UTF-8"],
)
def test_each_end_of_a_run_is_attested(
    private: Path, key: Path, story: Story, subjects: int, finished: bool
) -> None:
    trace = story.write(private / "trace.jsonl")
    attest(str(trace), str(key))
    assert judged(trace, key).is_good
    _, said = opened(beside(trace), Path(f"{key}.pub"))
    assert len(said["subject"]) == subjects
    assert ("buildFinishedOn" in said["predicate"]["metadata"]) == finished
    log = said["predicate"]["monitorLog"]["process"]
    assert [line.get("trigger") for line in log] == [line.get("trigger") for line in read(trace)]


def _numbers(value: Any) -> list[object]:
    if isinstance(value, dict | list):
        members = value.values() if isinstance(value, dict) else value
        return [number for member in members for number in _numbers(member)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def test_no_number_can_be_changed_by_a_reader_of_floats(trace: Path) -> None:
    assert _numbers(read(trace))
    assert not _numbers(said_of(trace))


@pytest.mark.parametrize(
    ("story", "verdict"),
    [(Story(steps=3, end="killed"), "incomplete"), (Story(), "differs")],
)
def test_only_a_trace_that_conforms_is_attested(private: Path, key: Path, story: Story, verdict: str) -> None:
    trace = story.write(private / "trace.jsonl")
    if verdict == "differs":
        trace.write_bytes(trace.read_bytes().replace(b'"mode":"0755"', b'"mode":"0777"'))
    with refuses(SignatureError, Reason.MALFORMED, trace, verdict):
        attest(str(trace), str(key))
    assert not beside(trace).exists()


def test_a_trace_written_anew_is_not_what_was_attested(trace: Path, key: Path) -> None:
    attest(str(trace), str(key))
    lines = read(trace)
    lines[0]["host"]["name"] = "other"
    save(trace, written(lines))
    assert evidence.read(str(trace), spec_graph())[0].conforms
    found = judged(trace, key)
    assert not found.is_good
    assert "host.name" in str(found.why)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.replace(b'"mode":"0755"', b'"mode":"0777"'),
        lambda content: content[: content.rindex(b"\n", 0, -1) + 1],
        lambda content: content + content,
        lambda _: b"",
    ],
    ids=["edited", "last line cut", "doubled", "emptied"],
)
def test_a_changed_trace_is_not_good(trace: Path, key: Path, change: Callable[[bytes], bytes]) -> None:
    attest(str(trace), str(key))
    trace.write_bytes(change(trace.read_bytes()))
    assert not judged(trace, key).is_good


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        members = value.items() if isinstance(value, dict) else enumerate(value)
        return [found for name, member in members for found in _paths(member, (*path, name))]
    return [path]


def _changed(said: Any, path: tuple[Any, ...], value: object) -> Any:
    whole = json.loads(json.dumps(said))
    inner = whole
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return whole


@settings(deadline=None)
@given(data=st.data())
def test_every_member_of_the_statement_is_compared(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whoever has the key may sign anything: what the trace does not say is found, whatever member it is in."""
    said = said_of(_STORY.write(tmp_path_factory.mktemp("said") / "trace.jsonl"))
    path = data.draw(st.sampled_from(_paths(said)))
    value: object = data.draw(st.sampled_from(["other", "", None, True, 0, 1.5, [], {}]))
    changed = _changed(said, path, value)
    assert (difference(changed, said) is None) == (json.dumps(changed) == json.dumps(said))


_STORY = Story()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("subject", 1, "digest", "sha256"), "ab" * 32),
        (("subject", 0, "name"), "other.json"),
        (("predicate", "monitorLog", "process", 0, "host", "user"), "1"),
        (("predicate", "monitor", "more"), "claim"),
        (("predicateType",), "https://in-toto.io/attestation/link/v0.3"),
        (("_type",), "https://in-toto.io/Statement/v0.1"),
        (("subject",), []),
        (("predicate",), {}),
        (("more",), 1),
    ],
)
def test_a_signed_statement_of_something_else_is_not_good(
    trace: Path, key: Path, path: tuple[Any, ...], value: object
) -> None:
    payload = encoded(_changed(said_of(trace), path, value))
    opened(envelope_of(trace, key, payload), Path(f"{key}.pub"))  # it is signed
    assert not judged(trace, key).is_good


def test_another_key_has_attested_nothing(private: Path, trace: Path, key: Path) -> None:
    attest(str(trace), str(key))
    found = judged(trace, new_key(private / "mallory"))
    assert not found.is_good
    assert found.signer is None
    assert "no signature" in str(found.why)


def _envelope(trace: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(beside(trace).read_bytes())
    return said


@pytest.mark.parametrize(
    "change",
    [
        lambda signature: signature.pop("keyid"),
        lambda signature: signature.update(keyid=""),
        lambda signature: signature.update(keyid="somebody else's"),
        lambda signature: signature.update(sig=signature["sig"].replace("+", "-").replace("/", "_")),
    ],
    ids=["no key id", "empty", "another", "URL-safe base64"],
)
def test_the_key_id_is_a_hint_and_both_base64_are_read(
    trace: Path, key: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    attest(str(trace), str(key))
    envelope = _envelope(trace)
    change(envelope["signatures"][0])
    beside(trace).write_text(json.dumps(envelope))
    assert judged(trace, key).is_good


def test_a_second_signer_may_stand_first(private: Path, trace: Path, key: Path) -> None:
    other = new_key(private / "other")
    attest(str(trace), str(key))
    envelope = _envelope(trace)
    payload = base64.b64decode(envelope["payload"])
    envelope["signatures"] = signed(PAYLOAD_TYPE, payload, other)["signatures"] + envelope["signatures"]
    beside(trace).write_text(json.dumps(envelope))
    assert judged(trace, key).is_good
    assert judged(trace, other).is_good
    assert not judged(trace, new_key(private / "third")).is_good


def _edited(content: bytes, **members: object) -> bytes:
    return json.dumps({**json.loads(content), **members}).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda _: b"nonsense",
        lambda _: b"[]",
        lambda _: b"\xff",
        lambda _: b"[" * 100_000,
        lambda content: content + content,
        lambda content: content[:-2],
        lambda content: b'{"payload":"AA==",' + content[1:],
        lambda content: _edited(content, payload=1),
        lambda content: _edited(content, payload="!"),
        lambda content: _edited(content, payload="é"),
        lambda content: _edited(content, payload="AA=="),
        lambda content: _edited(content, payloadType="text/plain"),
        lambda content: _edited(content, payloadType=["application/vnd.in-toto+json"]),
        lambda content: _edited(content, signatures=[]),
        lambda content: _edited(content, signatures={}),
        lambda content: _edited(content, signatures=[1, {}, {"sig": 1}, {"sig": "!"}, {"sig": ""}]),
    ],
)
def test_what_is_no_envelope_is_not_good(trace: Path, key: Path, change: Callable[[bytes], bytes]) -> None:
    attest(str(trace), str(key))
    beside(trace).write_bytes(change(beside(trace).read_bytes()))
    found = judged(trace, key)
    assert not found.is_good
    assert str(found).isprintable()


@pytest.mark.parametrize("payload", [b"", b"[]", b"nonsense", b'{"_type":1}', b'{"_type":"a","_type":"b"}'])
def test_a_signed_payload_that_is_no_statement_is_not_good(trace: Path, key: Path, payload: bytes) -> None:
    envelope_of(trace, key, payload)
    assert not judged(trace, key).is_good


def test_signature_over_the_bare_payload_is_not_good(private: Path, trace: Path, key: Path) -> None:
    """Without its type, a payload that was signed for something else would pass."""
    payload = encoded(said_of(trace))
    envelope = signed("text/plain", payload, key)
    beside(trace).write_text(json.dumps({**envelope, "payloadType": PAYLOAD_TYPE}))
    assert not judged(trace, key).is_good


# -- the files themselves


class _Files:
    """Bundle and installation of a run, and its trace."""

    def __init__(self, private: Path) -> None:
        self.bundle, self.runsc = private / "bundle", private / "bin" / "runsc"
        self.bundle.mkdir()
        (self.bundle / "config.json").write_bytes(CONFIG)
        lines = of_a_set(private / "first.jsonl")
        staged = lines[4]["facts"]
        for each in (staged, *staged["sidecars"]):
            path = self.runsc.parent / "gvisor-bin" / each["name"] if "name" in each else self.runsc
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(path.name.encode())
            each["sha256"] = sha256(path.name.encode()).hexdigest()
        self.trace = save(private / "trace.jsonl", written(lines))


@pytest.fixture
def files(private: Path, key: Path) -> _Files:
    made = _Files(private)
    attest(str(made.trace), str(key))
    return made


def test_files_are_compared_when_they_are_given(files: _Files, key: Path) -> None:
    found = judged(files.trace, key, bundle=str(files.bundle), runsc=str(files.runsc))
    assert found.is_good, found
    beside_it = [str(files.runsc.parent / "gvisor-bin" / name) for name in NAMES]
    assert sorted(found.files) == sorted([f"{files.bundle}/config.json", str(files.runsc), *beside_it])


def test_runsc_behind_a_link_is_compared(private: Path, files: _Files, key: Path) -> None:
    (private / "link").symlink_to(files.runsc)
    assert judged(files.trace, key, runsc=str(private / "link")).is_good


@pytest.mark.parametrize("name", ["bundle/config.json", "bin/runsc", "bin/gvisor-bin/gvisor_sentry"])
def test_a_changed_file_is_found(private: Path, files: _Files, key: Path, name: str) -> None:
    with (private / name).open("ab") as file:
        file.write(b" ")
    found = judged(files.trace, key, bundle=str(files.bundle), runsc=str(files.runsc))
    assert not found.is_good
    assert name in str(found)
    assert judged(files.trace, key).is_good  # it was not asked


def test_a_copy_that_no_change_of_config_json_makes_is_found(private: Path, key: Path) -> None:
    """What runsc was given follows from config.json and the recorded changes."""
    made = _Files(private)
    lines = read(made.trace)
    lines[6]["facts"]["config"]["sha256"] = "ab" * 32
    save(made.trace, written(lines))
    attest(str(made.trace), str(key))
    assert judged(made.trace, key).is_good  # nobody can tell without config.json
    found = judged(made.trace, key, bundle=str(made.bundle))
    assert not found.is_good
    assert "what runsc was given" in str(found)


def test_what_is_as_asked_has_no_second_subject(private: Path, key: Path) -> None:
    trace = Story().write(private / "first.jsonl")
    lines = read(trace)
    lines[0]["asked"]["root"]["path"] = "/base/b/rootfs"
    lines[6]["facts"]["config"] = {"sha256": lines[0]["bundle"]["sha256"]}
    trace = save(private / "trace.jsonl", written(lines))
    names = [each["name"] for each in said_of(trace)["subject"]]
    assert names == ["config.json", "runsc", "trace.jsonl"]


def _directory(beside: Path) -> None:
    beside.unlink()
    beside.mkdir()


def _large(beside: Path) -> None:
    with beside.open("ab") as file:
        file.write(b" " * (4 << 20))


def _link(to: str) -> Callable[[Path], None]:
    def spoil(beside: Path) -> None:
        beside.unlink()
        beside.symlink_to(to.replace("ITSELF", str(beside)))

    return spoil


@pytest.mark.parametrize("spoil", [_directory, _large, _link("/dev/zero"), _link("ITSELF")])
def test_one_bad_attestation_hides_no_other(
    private: Path, trace: Path, key: Path, spoil: Callable[[Path], None]
) -> None:
    good = Story().write(private / "good.jsonl")
    for each in (trace, good):
        attest(str(each), str(key))
    spoil(beside(trace))
    first, second = verify([str(trace), str(good)], f"{key}.pub")
    assert (first.is_good, first.unread, second.is_good) == (False, False, True)


def test_few_signatures_are_tried(trace: Path, key: Path) -> None:
    """Each costs a reading of the payload: a file of a million would take hours."""
    attest(str(trace), str(key))
    envelope = _envelope(trace)
    envelope["signatures"] = [{"sig": "AAAA"}] * 63 + envelope["signatures"]
    beside(trace).write_text(json.dumps(envelope))
    assert judged(trace, key).is_good
    envelope["signatures"] = [{"sig": "AAAA"}] + envelope["signatures"]
    beside(trace).write_text(json.dumps(envelope))
    assert "65 signatures" in str(judged(trace, key))


def test_a_file_that_is_not_there_is_refused(private: Path, files: _Files, key: Path) -> None:
    with refuses(SignatureError, Reason.FAILURE, private / "none"):
        judged(files.trace, key, runsc=str(private / "none"))


def test_run_refused_before_it_had_a_runsc_has_none_to_compare(private: Path, key: Path) -> None:
    trace = Story(steps=1, end="refused").write(private / "trace.jsonl")
    attest(str(trace), str(key))
    assert judged(trace, key).is_good
    assert not judged(trace, key, runsc="/usr/bin/true").is_good


# -- keys


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_private_key_that_others_can_read_is_refused(trace: Path, key: Path, mode: int) -> None:
    key.chmod(mode)
    with refuses(SignatureError, Reason.LOOSE_MODE, key):
        attest(str(trace), str(key))
    assert not beside(trace).exists()


def test_public_half_does_not_sign_and_private_half_does_not_verify(trace: Path, key: Path) -> None:
    with refuses(SignatureError, Reason.MALFORMED, key):
        attest(str(trace), f"{key}.pub")
    with refuses(SignatureError, Reason.MALFORMED, key):
        list(verify([str(trace)], str(key)))


@pytest.mark.parametrize(
    "make",
    [
        "openssl genpkey -algorithm ed25519 -aes256 -pass pass:secret -out",
        "ssh-keygen -q -t ed25519 -N secret -f",
        "ssh-keygen -q -t ecdsa -m PEM -N secret -f",
    ],
)
def test_an_encrypted_key_is_refused(private: Path, trace: Path, make: str) -> None:
    key = private / "locked"
    subprocess.run([*make.split(), key], check=True, timeout=60, capture_output=True)
    key.chmod(0o600)
    with refuses(SignatureError, Reason.UNSUPPORTED, key):
        attest(str(trace), str(key))


@pytest.mark.parametrize(
    "make",
    [
        "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out",
        "openssl genpkey -algorithm ed448 -out",
        "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1 -out",
        "openssl genpkey -algorithm x25519 -out",
        "ssh-keygen -q -t rsa -N  -f",
    ],
)
def test_a_key_of_another_kind_is_refused(private: Path, trace: Path, make: str) -> None:
    key = private / "other"
    subprocess.run([*make.split(" "), key], check=True, timeout=60, capture_output=True)
    key.chmod(0o600)
    with refuses(SignatureError, Reason.UNSUPPORTED, key):
        attest(str(trace), str(key))
    public = private / "public"
    if make.startswith("openssl"):
        subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True, timeout=60)
    else:
        public = Path(f"{key}.pub")
    with refuses(SignatureError, Reason.UNSUPPORTED, public):
        list(verify([str(trace)], str(public)))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "hunter2",
        "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----\n",
        "ssh-ed25519 hunter2",
        "é",
    ],
)
def test_what_is_no_key_is_refused_without_showing_it(private: Path, trace: Path, content: str) -> None:
    path = private / "other"
    path.write_text(content)
    path.chmod(0o600)
    with refuses(SignatureError, Reason.MALFORMED, path) as caught:
        attest(str(trace), str(path))
    assert "hunter2" not in str(caught.value)
    with refuses(SignatureError, Reason.MALFORMED, path) as caught:
        list(verify([str(trace)], str(path)))
    assert "hunter2" not in str(caught.value)


def test_an_attestation_is_never_overwritten_and_follows_no_link(
    private: Path, trace: Path, key: Path
) -> None:
    elsewhere = private / "elsewhere"
    beside(trace).symlink_to(elsewhere)
    with refuses(SignatureError, Reason.EXISTS):
        attest(str(trace), str(key))
    assert not elsewhere.exists()


# -- the commands


def test_commands_answer_with_the_documented_codes(
    private: Path, trace: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public, absent = f"{key}.pub", str(private / "absent.jsonl")
    assert main(["trace", "verify-attestation", str(trace), "--key", public]) == 1  # there is none
    assert main(["trace", "attest", str(trace), "--key", str(key)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"attested: {beside(trace)}"
    assert main(["trace", "verify-attestation", str(trace), "--key", public, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["good"] is True
    assert main(["trace", "verify-attestation", absent, str(trace), "--key", public]) == 3
    assert main(["trace", "attest", str(trace), "--key", str(key)]) == 125
    assert main(["trace", "attest", absent, "--key", str(key)]) == 125
    assert main(["trace", "verify-attestation", str(trace), "--key", absent]) == 125
    trace.write_bytes(trace.read_bytes()[:-1])
    assert main(["trace", "verify-attestation", absent, str(trace), "--key", public]) == 1
    with pytest.raises(SystemExit) as ended:
        main(["trace", "attest", str(trace)])
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["cryptography", "in_toto_attestation", "securesystemslib"])
def test_without_the_extra_one_line_says_so(
    trace: Path, key: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in [*sys.modules]:
        if name.partition(".")[0] == missing:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with refuses(SignatureError, Reason.UNAVAILABLE, missing):
        attest(str(trace), str(key))
    with refuses(SignatureError, Reason.UNAVAILABLE, missing):
        list(verify([str(trace)], f"{key}.pub"))
