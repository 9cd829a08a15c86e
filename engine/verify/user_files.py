"""Files that a user names for signatures: keys, and what is written beside a trace. Errors never show their content."""

from __future__ import annotations

import os
import stat
from io import BufferedReader

from engine.errors import Reason, hint_for
from engine.verify.evidence import open_regular
from engine.verify.ssh_keygen import SignatureError

#: How a public key begins, sshd(8) and PEM.
_PUBLIC = (b"ssh-", b"ecdsa-", b"sk-", b"-----BEGIN PUBLIC KEY-----")
#: Bytes. A signature is a few hundred, a file of keys a few thousand.
MAX_SIZE = 1 << 20


def open_private_key(path: str) -> BufferedReader:
    """The open file of a key that nobody but its owner may read. Raises `SignatureError`."""
    try:
        file = open_regular(path)
    except (OSError, ValueError) as error:
        raise unreadable(path, error, "name a private key that you can read") from None
    if file.peek(8).startswith(_PUBLIC):
        file.close()
        raise SignatureError(
            f"{path!r} is the public half of a key",
            reason=Reason.MALFORMED,
            hint=f"sign with the private one{f': --key {path[:-4]}' if path.endswith('.pub') else ''}",
        )
    status = os.fstat(file.fileno())
    if status.st_mode & 0o077:
        file.close()
        raise SignatureError(
            f"the key {path!r} can be read by others (mode {stat.S_IMODE(status.st_mode):04o})",
            reason=Reason.LOOSE_MODE,
            hint=f"chmod 600 {path!r}, after asking who may have read it",
        )
    if status.st_uid not in {0, os.geteuid()}:
        file.close()
        raise SignatureError(
            f"the key {path!r} is owned by uid {status.st_uid}",
            reason=Reason.FOREIGN_OWNER,
            hint="sign with a key of your own",
        )
    return file


def write_new(path: str, content: bytes, mode: int = 0o644) -> None:
    """Write a signature to a new file, whole or not at all. Raises `SignatureError`."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise SignatureError(
            f"{path!r} exists",
            reason=Reason.EXISTS,
            hint="a signature is never overwritten: verify it, or remove it first",
        ) from None
    except OSError as error:
        raise unreadable(path, error, "sign where you can write beside the trace") from None
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:
        os.unlink(path)
        raise unreadable(path, error, "free space there") from None


def unreadable(path: str, error: OSError | ValueError, hint: str) -> SignatureError:
    """What is raised for a file that cannot be used."""
    if isinstance(error, OSError):
        return SignatureError(
            f"{path!r}: {error.strerror}", reason=Reason.FAILURE, hint=hint_for(error, hint)
        )
    return SignatureError(f"{path!r}: {error}", reason=Reason.MALFORMED, hint=hint)


def read_given(path: str) -> bytes:
    """The content of a file that the user named. Raises `SignatureError`."""
    if (content := read_optional(path)) is None:
        raise SignatureError(f"{path!r} does not exist", reason=Reason.NO_SUCH, hint="name a file that does")
    return content


def read_optional(path: str, limit: int = MAX_SIZE) -> bytes | None:
    """The file's content, of `limit` bytes at most; None where there is none. Raises `SignatureError`."""
    try:
        with open_regular(path) as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise unreadable(path, error, "name a file that you can read") from None
    if len(content) > limit:
        raise SignatureError(
            f"{path!r} has more than {limit} bytes", reason=Reason.TOO_LARGE, hint="name another file"
        )
    return content
