"""Detached signatures beside traces, in OpenSSH's own format (PROTOCOL.sshsig), so that stock `ssh-keygen` checks them.

What is signed is every byte of the file: whatever is edited, cut off, added or moved, the signature no longer fits.
It says who vouched for the bytes, not when, and not that the run was as the trace tells it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any

from engine.errors import EngineError, Reason, hint_for, printable
from engine.lifecycle.spec_graph import SpecGraph, spec_graph
from engine.verify.chunks import Chunk, split
from engine.verify.evidence import ReportError, open_regular, read
from engine.verify.extra import require
from engine.verify.trace_check import TraceResult, Verdict
from engine.verify.workers import ThisProcess, Workers

#: What a signature here is for, ssh-keygen(1) `-n`: one made for mail or for git is not one of a trace.
NAMESPACE = "trace@gvisor-engine"
#: As `ssh-keygen -Y sign` names it.
SUFFIX = ".sig"

#: The algorithms that are taken. Not among them is ssh-rsa, whose hash is SHA-1.
_ALGORITHMS = frozenset(
    {
        b"ssh-ed25519",
        b"ecdsa-sha2-nistp256",
        b"ecdsa-sha2-nistp384",
        b"ecdsa-sha2-nistp521",
        b"rsa-sha2-256",
        b"rsa-sha2-512",
        b"sk-ssh-ed25519@openssh.com",
        b"sk-ecdsa-sha2-nistp256@openssh.com",
    }
)
_BEGIN, _END = b"-----BEGIN SSH SIGNATURE-----", b"-----END SSH SIGNATURE-----"
#: Bytes. A signature is a few hundred, a file of keys a few thousand.
_LARGEST = 1 << 20


class SignatureError(EngineError):
    """A trace cannot be signed, or what its signature should be checked with cannot be read."""

    step = "signature"


class Standing(StrEnum):
    """What is known of a trace's signature."""

    VERIFIED = "verified"
    BAD = "does not verify"
    UNSIGNED = "not signed"
    UNCHECKED = "signed, not checked"


@dataclass(frozen=True, slots=True)
class Signature:
    """What came of looking for a trace's signature at `path`.

    `why` says what speaks against a bad one. `key` is the fingerprint of the key that the signature names; nothing
    but `VERIFIED` says that this key made it. `signer` is whose it is.
    """

    standing: Standing
    path: str
    why: str | None = None
    key: str | None = None
    signer: str | None = None


def sign(path: str, key_path: str) -> str:
    """Sign the bytes of the file `path` with the private key in `key_path`; answers with the signature's path.

    A signature is never overwritten. Raises `SignatureError`.
    """
    asyncssh = require("asyncssh", "sign traces")
    key = _private_key(key_path)
    try:
        with open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha512").digest()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, "name a trace that you can read") from None
    try:
        text = asyncssh.create_sshsig(key, digest, is_hashed=True, hash_name="sha512", namespace=NAMESPACE)
    except (ValueError, asyncssh.KeyImportError) as error:
        raise SignatureError(
            f"{key_path!r} cannot sign: {error}",
            reason=Reason.MALFORMED,
            hint="use an Ed25519 key (ssh-keygen -t ed25519)",
        ) from None
    _write_new(path + SUFFIX, text)
    return path + SUFFIX


def _private_key(path: str) -> Any:
    """The key in the file, which nobody but its owner may read. Errors never hold what is in it."""
    asyncssh = require("asyncssh", "sign traces")
    try:
        file = open_regular(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, "name a private key that you can read") from None
    with file:
        status = os.fstat(file.fileno())
        if status.st_mode & 0o077:
            raise SignatureError(
                f"the key {path!r} can be read by others (mode {stat.S_IMODE(status.st_mode):04o})",
                reason=Reason.LOOSE_MODE,
                hint=f"chmod 600 {path!r}, after asking who may have read it",
            )
        if status.st_uid not in {0, os.geteuid()}:
            raise SignatureError(
                f"the key {path!r} is owned by uid {status.st_uid}",
                reason=Reason.FOREIGN_OWNER,
                hint="sign with a key of your own",
            )
        content = file.read(_LARGEST)
    try:
        return asyncssh.import_private_key(content)
    except (
        ValueError
    ) as error:  # asyncssh's own errors are of this kind, and tell this case by their text alone
        if "assphrase" not in str(error):
            raise SignatureError(
                f"{path!r} holds no private key that is known here",
                reason=Reason.MALFORMED,
                hint="name an OpenSSH or PEM private key, such as ssh-keygen -t ed25519 makes",
            ) from None
    raise SignatureError(
        f"the key {path!r} is encrypted, and no passphrase is asked for here",
        reason=Reason.UNSUPPORTED,
        hint=f"let ssh-keygen ask for it: ssh-keygen -Y sign -n {NAMESPACE} -f KEY TRACE makes the same signature",
    )


def _write_new(path: str, content: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise SignatureError(
            f"{path!r} exists",
            reason=Reason.EXISTS,
            hint="a signature is never overwritten: verify it, or remove it first",
        ) from None
    except OSError as error:
        raise _unreadable(path, error, "sign where you can write beside the trace") from None
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:
        os.unlink(path)
        raise _unreadable(path, error, "free space there") from None


def _unreadable(path: str, error: OSError | ValueError, hint: str) -> SignatureError:
    if isinstance(error, OSError):
        return SignatureError(
            f"{path!r}: {error.strerror}", reason=Reason.FAILURE, hint=hint_for(error, hint)
        )
    return SignatureError(f"{path!r}: {error}", reason=Reason.MALFORMED, hint=hint)


class Signers:
    """Whose signatures count: those of one public key, or of one identity in an OpenSSH `allowed_signers` file."""

    def __init__(self, allowed: str, identity: str, shown: str) -> None:
        """`allowed` is the text of an allowed signers file. Raises `ValueError`."""
        asyncssh = require("asyncssh", "check signatures")
        self._text = allowed
        self._allowed = asyncssh.import_allowed_signers(allowed)
        self._identity = identity
        self._shown = shown

    def __reduce__(self) -> tuple[type[Signers], tuple[str, str, str]]:
        """For workers, which parse the text again."""
        return Signers, (self._text, self._identity, self._shown)

    @classmethod
    def of_key(cls, path: str) -> Signers:
        """Whoever holds the private half of the public key in `path`. Raises `SignatureError`."""
        asyncssh = require("asyncssh", "check signatures")
        content = _given(path)
        try:
            key = asyncssh.import_public_key(content)
        except ValueError:
            raise SignatureError(
                f"{path!r} holds no public key",
                reason=Reason.MALFORMED,
                hint="name the .pub file that ssh-keygen wrote beside the private key",
            ) from None
        line = key.export_public_key("openssh").decode()
        return cls(f"key {line}", "key", f"the holder of {path}")

    @classmethod
    def of_identity(cls, path: str, identity: str) -> Signers:
        """The principal `identity` of the allowed signers file `path`, ssh-keygen(1). Raises `SignatureError`."""
        content = _given(path)
        try:
            return cls(content.decode(), identity, identity)
        except ValueError as error:
            what = "it is not text" if isinstance(error, UnicodeDecodeError) else str(error)
            raise SignatureError(
                f"{path!r} is no allowed signers file: {what}",
                reason=Reason.MALFORMED,
                hint="write lines such as: alice@example.org ssh-ed25519 AAAA...",
            ) from None

    def check(self, content: bytes, path: str) -> Signature:
        """Whether the file at `path` is a signature of theirs over `content`."""
        try:
            if (armored := _read(path)) is None:
                return Signature(Standing.UNSIGNED, path)
            blob = _Blob.read(armored)
        except (SignatureError, ValueError) as error:
            return _not_a_signature(path, error)
        if why := blob.refused() or self._against(content, armored, blob):
            return Signature(Standing.BAD, path, why, blob.fingerprint)
        return Signature(Standing.VERIFIED, path, key=blob.fingerprint, signer=self._shown)

    def _against(self, content: bytes, armored: bytes, blob: _Blob) -> str | None:
        """What speaks against the signature being theirs over `content`."""
        asyncssh = require("asyncssh", "check signatures")
        try:
            whoever = asyncssh.import_allowed_signers(f"key {blob.key_line}")
            if not asyncssh.validate_sshsig(content, armored, "key", whoever):
                return "the trace is not what was signed, or the signature was changed"
            if not asyncssh.validate_sshsig(content, armored, self._identity, self._allowed):
                return f"it is not by {self._shown}: it was made with another key"
        except ValueError as error:
            return str(error)
        return None


def look(path: str) -> Signature:
    """What the signature at `path` says of itself, which proves nothing yet."""
    try:
        if (armored := _read(path)) is None:
            return Signature(Standing.UNSIGNED, path)
        return Signature(Standing.UNCHECKED, path, key=_Blob.read(armored).fingerprint)
    except (SignatureError, ValueError) as error:
        return _not_a_signature(path, error)


def _not_a_signature(path: str, error: SignatureError | ValueError) -> Signature:
    why = error.what if isinstance(error, SignatureError) else "it is not an SSH signature"
    return Signature(Standing.BAD, path, why)


@dataclass(frozen=True, slots=True)
class _Blob:
    """What a signature says of itself: asyncssh checks it, but tells none of this."""

    key: bytes
    kind: str
    namespace: bytes
    algorithm: bytes

    @classmethod
    def read(cls, armored: bytes) -> _Blob:
        """Raises `ValueError` for what PROTOCOL.sshsig does not have."""
        lines = armored.strip().splitlines()
        if len(lines) < 3 or (lines[0], lines[-1]) != (_BEGIN, _END):
            raise ValueError
        blob = base64.b64decode(b"".join(lines[1:-1]), validate=True)
        if blob[:10] != b"SSHSIG\x00\x00\x00\x01":
            raise ValueError
        key, namespace, _reserved, _hash, signature = _strings(blob[10:])
        kind, algorithm = next(_strings(key), b""), next(_strings(signature), b"")
        return cls(key, kind.decode(), namespace, algorithm)

    def refused(self) -> str | None:
        """Why it is none for a trace, whoever made it; None when it may be one."""
        if self.namespace != NAMESPACE.encode():
            return f"it was made for {self.namespace.decode(errors='replace')!r}, not for {NAMESPACE!r}"
        if self.kind.endswith("cert-v01@openssh.com"):
            return "it was made with a certificate, which is not taken: list the key itself"
        if self.algorithm not in _ALGORITHMS:
            return f"its algorithm {self.algorithm.decode(errors='replace')!r} is not taken"
        return None

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it."""
        digest = base64.b64encode(hashlib.sha256(self.key).digest()).decode().rstrip("=")
        return f"SHA256:{digest}"

    @property
    def key_line(self) -> str:
        """The key as a line of a .pub file has it."""
        return f"{self.kind} {base64.b64encode(self.key).decode()}"


def _strings(data: bytes) -> Iterator[bytes]:
    """The strings of RFC 4251, section 5, that `data` is made of. Raises `ValueError`."""
    while data:
        length = int.from_bytes(data[:4])
        if len(data) < 4 + length:
            raise ValueError
        yield data[4 : 4 + length]
        data = data[4 + length :]


def _given(path: str) -> bytes:
    """The content of a file that the user named. Raises `SignatureError`."""
    if (content := _read(path)) is None:
        raise SignatureError(f"{path!r} does not exist", reason=Reason.NO_SUCH, hint="name a file that does")
    return content


def _read(path: str) -> bytes | None:
    """The file's content; None where there is none. Raises `SignatureError`."""
    try:
        with open_regular(path) as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, "name a file that you can read") from None
    if len(content) > _LARGEST:
        raise SignatureError(
            f"{path!r} has more than {_LARGEST} bytes", reason=Reason.TOO_LARGE, hint="name another file"
        )
    return content


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
    signature = look(path + SUFFIX) if signers is None else signers.check(content, path + SUFFIX)
    matters = signers is not None or signature.standing is not Standing.UNSIGNED
    return Verified(evidence.result, signature if matters else None, signers is not None)
