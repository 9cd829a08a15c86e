"""Detached signatures beside traces, made and checked by OpenSSH's own `ssh-keygen -Y`, ssh-keygen(1).

What is signed is every byte of the file: whatever is edited, cut off, added or moved, the signature no longer fits.
It says who vouched for the bytes, not when, and not that the run was as the trace tells it. `ssh-keygen` is given
the bytes that were read here, by descriptor, and never a path that somebody could swap meanwhile.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import IO, Any

from engine.errors import Reason, printable
from engine.lifecycle.spec_graph import SpecGraph, spec_graph
from engine.verify.chunks import Chunk, split
from engine.verify.evidence import ReportError, open_regular, read
from engine.verify.ssh_keygen import SignatureError, ask, by_descriptor, find, in_memory, last_line
from engine.verify.trace_check import TraceResult, Verdict
from engine.verify.trace_file import SUFFIX
from engine.verify.user_files import open_private_key, read_given, read_optional, unreadable, write_new
from engine.verify.workers import ThisProcess, Workers

#: What a signature here is for, ssh-keygen(1) `-n`: one made for mail or for git is not one of a trace.
NAMESPACE = "trace@gvisor-engine"

#: What `ssh-keygen -Y` prints on stdout when it has judged a signature and it is not good.
_NOT_GOOD = b"Could not verify signature."


class Standing(StrEnum):
    """What is known of a trace's signature."""

    VERIFIED = "verified"
    BAD = "does not verify"
    UNSIGNED = "not signed"
    UNCHECKED = "signed, not checked"


@dataclass(frozen=True, slots=True)
class Signature:
    """What came of looking for a trace's signature at `path`.

    `why` says what speaks against a bad one. `key` is the fingerprint of the key that signed these very bytes; nothing
    but `VERIFIED` says whose it is, which is `signer`.
    """

    standing: Standing
    path: str
    why: str | None = None
    key: str | None = None
    signer: str | None = None


def check_key(path: str) -> None:
    """Raise `SignatureError` where the private key in the file `path` cannot sign."""
    with open_private_key(path) as key:
        _public_half(key, path)


def sign(path: str, key_path: str) -> str:
    """Sign the bytes of the file `path` with the private key in `key_path`; answers with the signature's path.

    A signature is never overwritten. Raises `SignatureError`.
    """
    with open_private_key(key_path) as key, tempfile.TemporaryDirectory(prefix="engine-sign-") as directory:
        # ssh-keygen wants the public key of a PEM key beside it, so both get a name in a directory of ours.
        place = Path(directory, "key")
        place.symlink_to(by_descriptor(key))
        place.with_suffix(".pub").write_bytes(_public_half(key, key_path))
        arguments = ("-Y", "sign", "-P", "", "-n", NAMESPACE, "-f", str(place))
        try:
            with open_regular(path) as file:
                done = ask(*arguments, stdin=file, shared=[key])
        except (OSError, ValueError) as error:
            raise unreadable(path, error, "name a trace that you can read") from None
    if done.returncode != 0:
        raise SignatureError(
            f"{key_path!r} cannot sign: {last_line(done)}",
            reason=Reason.PROGRAM_FAILED,
            hint="use an Ed25519 key (ssh-keygen -t ed25519)",
        )
    write_new(path + SUFFIX, done.stdout)
    return path + SUFFIX


def _public_half(key: IO[bytes], path: str) -> bytes:
    """The public key of a private one, as a line of a .pub file. Errors never hold what is in the file."""
    done = ask("-y", "-P", "", "-f", by_descriptor(key), shared=[key])
    if done.returncode == 0:
        return done.stdout
    if b"passphrase" in done.stderr:
        raise SignatureError(
            f"the key {path!r} is encrypted, and no passphrase is asked for here",
            reason=Reason.UNSUPPORTED,
            hint=f"let ssh-keygen ask for it: ssh-keygen -Y sign -n {NAMESPACE} -f KEY TRACE does the same",
        )
    raise SignatureError(
        f"{path!r} holds no private key that ssh-keygen knows",
        reason=Reason.MALFORMED,
        hint="name an OpenSSH or PEM private key, such as ssh-keygen -t ed25519 makes",
    )


# Whose signature it is


@dataclass(frozen=True, slots=True)
class Signers:
    """Whose signatures count: those that `ssh-keygen -Y verify -I identity` takes with this `allowed_signers` file.

    `allowed`: the content of the file. `shown`: what a user is told instead of the identity.
    """

    allowed: bytes
    identity: str
    shown: str

    @classmethod
    def of_key(cls, path: str) -> Signers:
        """Whoever holds the private half of the public key in `path`. Raises `SignatureError`."""
        lines = [line for line in read_given(path).splitlines() if line.strip() and not line.startswith(b"#")]
        key = b" ".join(lines[0].split()[:2]) if len(lines) == 1 else b""
        with in_memory(key) as file:
            is_key = key and ask("-l", "-f", "-", stdin=file).returncode == 0
        if not is_key:
            raise SignatureError(
                f"{path!r} holds no public key",
                reason=Reason.MALFORMED,
                hint="name the .pub file that ssh-keygen wrote beside the private key",
            )
        return cls(b"key " + key + b"\n", "key", f"the holder of {path}")

    @classmethod
    def of_identity(cls, path: str, identity: str) -> Signers:
        """The principal `identity` of the allowed signers file `path`, ssh-keygen(1). Raises `SignatureError`."""
        find()
        content = read_given(path)
        lines = (line for line in content.splitlines() if not line.startswith(b"#"))
        if not any(len(line.split()) >= 3 for line in lines):
            raise SignatureError(
                f"{path!r} is no allowed signers file: no line names a principal and a key",
                reason=Reason.MALFORMED,
                hint="write lines such as: alice@example.org ssh-ed25519 AAAA...",
            )
        return cls(content, identity, identity)

    def check(self, content: bytes, path: str) -> Signature:
        """Whether the file at `path` is a signature of theirs over `content`. Raises `SignatureError`."""
        try:
            armored = read_optional(path)
        except SignatureError as error:
            return Signature(Standing.BAD, path, error.what)
        if armored is None:
            return Signature(Standing.UNSIGNED, path)
        with in_memory(self.allowed) as allowed:
            given = ("-f", by_descriptor(allowed), "-I", self.identity)
            done = _judge("verify", content, armored, *given, shared=[allowed])
        if done.returncode == 0:
            return Signature(Standing.VERIFIED, path, key=_fingerprint(done), signer=self.shown)
        if done.stderr:
            return Signature(Standing.BAD, path, _why(done))
        made = _judge("check-novalidate", content, armored)
        why = f"it is not by {self.shown}: it was made with another key, or for a use or at a time that is not allowed"
        return Signature(Standing.BAD, path, why, _fingerprint(made) if made.returncode == 0 else None)


def look(content: bytes, path: str) -> Signature:
    """Whether the signature at `path` is one over `content`, whoever made it. Raises `SignatureError`.

    Where `ssh-keygen` is missing it is only said that there is one.
    """
    try:
        if (armored := read_optional(path)) is None:
            return Signature(Standing.UNSIGNED, path)
    except SignatureError as error:
        return Signature(Standing.BAD, path, error.what)
    try:
        find()
    except SignatureError:
        return Signature(Standing.UNCHECKED, path)
    done = _judge("check-novalidate", content, armored)
    if done.returncode == 0:
        return Signature(Standing.UNCHECKED, path, key=_fingerprint(done))
    return Signature(Standing.BAD, path, _why(done))


def _judge(
    action: str, content: bytes, armored: bytes, *arguments: str, shared: Sequence[IO[bytes]] = ()
) -> subprocess.CompletedProcess[bytes]:
    """What `ssh-keygen -Y` says of a signature over `content`. Raises `SignatureError` where it gives no judgement."""
    with in_memory(content) as signed, in_memory(armored) as signature:
        done = ask(
            *("-Y", action, "-n", NAMESPACE, "-s", by_descriptor(signature)),
            *arguments,
            stdin=signed,
            shared=[signature, *shared],
        )
    good = done.returncode == 0 and done.stdout.startswith(b'Good "')
    if not good and (done.returncode == 0 or not done.stdout.startswith(_NOT_GOOD)):
        raise SignatureError(
            f"ssh-keygen gave no judgement: {last_line(done)}",
            reason=Reason.PROGRAM_FAILED,
            hint="OpenSSH 8.2 or newer is needed, and a name for the caller's uid in /etc/passwd",
        )
    return done


def _fingerprint(done: subprocess.CompletedProcess[bytes]) -> str:
    """Of the key of a good signature, as `ssh-keygen -l` prints it."""
    return done.stdout.split()[-1].decode()


def _why(done: subprocess.CompletedProcess[bytes]) -> str:
    if b"namespace does not match" in done.stderr:
        return f"it was made for something else, not for {NAMESPACE!r}"
    if b"incorrect signature" in done.stderr:
        return "the trace is not what was signed, or the signature was changed"
    return f"ssh-keygen does not take it: {last_line(done)}"


@dataclass(frozen=True, slots=True)
class Verified:
    """What conformance and the signature say of the very same bytes.

    `signature` is None where there is none and none is `wanted`.
    """

    result: TraceResult
    signature: Signature | None
    wanted: bool

    @property
    def is_good(self) -> bool:
        """Nothing speaks against the run, and where signatures are `wanted` its own verifies."""
        verified = self.signature is not None and self.signature.standing is Standing.VERIFIED
        return self.result.verdict.is_good and (verified or not self.wanted)

    def as_data(self) -> dict[str, Any]:
        result, signature = self.result, self.signature
        return {
            "path": printable(result.path),
            "good": self.is_good,
            "verdict": str(result.verdict),
            "records": result.records,
            "state": result.state,
            "code": result.fault.code if result.fault is not None else None,
            "why": result.why or (str(result.fault) if result.fault is not None else None),
            "signature": None
            if signature is None
            else {
                "standing": str(signature.standing),
                "why": signature.why,
                "key": signature.key,
                "signer": signature.signer,
            },
        }

    def __str__(self) -> str:
        """One line, safe for a terminal."""
        if self.signature is None:
            return str(self.result)
        told = self.signature.why or self.signature.signer
        return f"{self.result}; signature: " + printable(
            f"{self.signature.standing}: {told}" if told else str(self.signature.standing)
        )


def verify(
    paths: Sequence[str], signers: Signers | None, workers: Workers | None = None
) -> Iterator[Verified]:
    """Hold each trace against the spec and, with `signers`, its signature against theirs.

    `workers` share the work. Raises `SpecGraphError`, and `WorkersError` when they fail.
    """
    graph = spec_graph()
    tasks = ((chunk, graph, signers) for chunk in split(paths, runs=False))
    return chain.from_iterable((workers or ThisProcess()).map(verify_chunk, tasks))


def verify_chunk(task: tuple[Chunk, SpecGraph, Signers | None]) -> list[Verified]:
    """What a worker does: what is to be said of each file of a chunk."""
    chunk, graph, signers = task
    return [_verify(path, graph, signers) for path in chunk.paths]


def _verify(path: str, graph: SpecGraph, signers: Signers | None) -> Verified:
    try:
        evidence, content = read(path, graph)
    except ReportError as error:
        result = TraceResult(path, Verdict.UNREADABLE, 1, 0, None, why=error.what)
        return Verified(result, None, signers is not None)
    beside = path + SUFFIX
    signature = look(content, beside) if signers is None else signers.check(content, beside)
    matters = signers is not None or signature.standing is not Standing.UNSIGNED
    return Verified(evidence.result, signature if matters else None, signers is not None)
