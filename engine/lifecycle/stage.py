"""Step `stage`: a private copy of the pinned bytes, which is what will be executed.

The bytes come from the descriptor that `validate` pinned, never from the path. No fsync: nothing here has to
survive a crash of the machine, as no container does.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from dataclasses import asdict, dataclass
from typing import Any

from engine import artifacts
from engine.errors import StageError
from engine.lifecycle.secure_root import SecuredRoot
from engine.lifecycle.validate import Identity, Validated
from engine.linux.files import PrivateDirectory, UntrustedPathError, make_private_directory

PROGRAM = "runsc"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Staged:
    """The copy: `descriptor` is open on it for reading, and is what execve is given.

    `digest` is the SHA-256, in hexadecimal, of the bytes that were read from the pinned descriptor and
    written. `pinned` is the identity that the pinned file still had after the last byte was read.
    """

    exec_allow: PrivateDirectory
    directory: PrivateDirectory
    descriptor: int
    path: str
    digest: str
    size: int
    mode: int
    pinned: Identity

    def facts(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "sha256": self.digest,
            "size": self.size,
            "mode": f"{self.mode:04o}",
            "pinned": asdict(self.pinned),
        }

    def discard(self) -> list[str]:
        """Remove the copy and its directories, close everything, and say what is gone."""
        os.close(self.descriptor)
        return _remove(self.exec_allow, self.directory)

    def close(self) -> None:
        for descriptor in (self.exec_allow.descriptor, self.directory.descriptor, self.descriptor):
            os.close(descriptor)


def stage(binary: Validated, root: SecuredRoot) -> Staged:
    """Copy the pinned `binary` to `exec-allow/stage-*/runsc` under `root`, mode 0500.

    Raises `StageError` when a directory is linked or foreign, when the pinned file is no longer what was
    validated, on a short copy, and when there is no space; nothing half-made stays behind.
    """
    try:
        exec_allow = make_private_directory(
            root.runsc_root.descriptor, root.runsc_root.path, artifacts.EXEC_ALLOW
        )
    except UntrustedPathError as error:
        raise StageError(str(error), remedy="remove it and run again") from None
    except OSError as error:
        raise _failed(error, root.runsc_root.path) from None
    try:
        directory = make_private_directory(
            exec_allow.descriptor, exec_allow.path, f"stage-{os.getpid()}-{os.urandom(8).hex()}"
        )
    except (UntrustedPathError, OSError) as error:
        _remove(exec_allow, None)
        if isinstance(error, OSError):
            raise _failed(error, exec_allow.path) from None
        raise StageError(str(error), remedy="run again") from None
    try:
        return _copy(binary, exec_allow, directory)
    except OSError as error:
        _remove(exec_allow, directory)
        raise _failed(error, os.path.join(directory.path, PROGRAM)) from None
    except BaseException:
        _remove(exec_allow, directory)
        raise


def _copy(binary: Validated, exec_allow: PrivateDirectory, directory: PrivateDirectory) -> Staged:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    target = os.open(PROGRAM, flags, 0o500, dir_fd=directory.descriptor)
    try:
        digest, size = _copy_bytes(binary.descriptor, target)
        os.fchmod(target, 0o500)
        written = os.fstat(target)
    finally:
        os.close(target)
    pinned = Identity.of(os.fstat(binary.descriptor))
    if pinned != binary.identity:
        raise StageError(
            f"runsc {binary.path!r} was changed after it was validated",
            remedy="let the upgrade finish and run again",
        )
    if not size == written.st_size == binary.identity.size:
        raise StageError(
            f"only {written.st_size} of {binary.identity.size} bytes of {binary.path!r} were copied",
            remedy="run again",
        )
    # Open for writing, a file cannot be executed (ETXTBSY); so it is opened again, and must be the same one.
    descriptor = os.open(PROGRAM, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory.descriptor)
    reopened = os.fstat(descriptor)
    if Identity.of(reopened) != Identity.of(written) or reopened.st_uid != os.geteuid():
        os.close(descriptor)
        raise StageError(f"the copy in {directory.path!r} was changed while it was made", remedy="run again")
    return Staged(
        exec_allow=exec_allow,
        directory=directory,
        descriptor=descriptor,
        path=os.path.join(directory.path, PROGRAM),
        digest=digest,
        size=reopened.st_size,
        mode=stat.S_IMODE(reopened.st_mode),
        pinned=pinned,
    )


def _copy_bytes(source: int, target: int) -> tuple[str, int]:
    """Copy all of `source`, from its start, to `target`: the SHA-256 and the number of the bytes copied."""
    digest = hashlib.sha256()
    offset = 0
    while chunk := os.pread(source, _CHUNK, offset):
        view = memoryview(chunk)
        while view:
            view = view[os.write(target, view) :]
        digest.update(chunk)
        offset += len(chunk)
    return digest.hexdigest(), offset


def _remove(exec_allow: PrivateDirectory, directory: PrivateDirectory | None) -> list[str]:
    gone = []
    with contextlib.suppress(OSError):  # best effort on the way out of a refusal; gc has the rest
        if directory is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(PROGRAM, dir_fd=directory.descriptor)
            os.rmdir(os.path.basename(directory.path), dir_fd=exec_allow.descriptor)
            gone.append(directory.path)
            os.close(directory.descriptor)
        os.close(exec_allow.descriptor)
    return gone


def _failed(error: OSError, path: str) -> StageError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StageError(
        f"{path!r}: {error.strerror}",
        remedy="free space there (engine gc removes what finished containers left)" if full else "run again",
    )
