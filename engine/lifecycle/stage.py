"""Step `stage`: a private copy of the pinned bytes, which is what will be executed.

The bytes come from the descriptor that `validate` pinned, never from the path. No fsync: nothing here has to
survive a crash of the machine, as no container does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from dataclasses import asdict, dataclass
from typing import Any

from engine import artifacts
from engine.errors import StageError, remedy_for
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
        """Remove the copy and its directory, and say what is gone. Raises `OSError`."""
        return _remove(self.exec_allow, self.directory)

    def close(self) -> None:
        """Close the copy and its directories."""
        for descriptor in (self.descriptor, self.directory.descriptor, self.exec_allow.descriptor):
            os.close(descriptor)


def stage(binary: Validated, root: SecuredRoot) -> Staged:
    """Copy the pinned `binary` to `exec-allow/stage-*/runsc` under `root`, mode 0500.

    Raises `StageError` when a directory is linked or foreign or nothing can be executed there, when the pinned
    file is no longer what was validated, on a short copy, when there is no space, and where the sandbox to be joined
    runs another runsc; nothing half-made stays.
    """
    if os.fstatvfs(root.runsc_root.descriptor).f_flag & os.ST_NOEXEC:
        raise StageError(
            f"{root.runsc_root.path!r} is on a file system that is mounted noexec",
            remedy="choose another base (ENGINE_ARTIFACT_BASE)",
        )
    with contextlib.ExitStack() as undo:
        try:
            exec_allow = make_private_directory(
                root.runsc_root.descriptor, root.runsc_root.path, artifacts.EXEC_ALLOW
            )
            undo.callback(os.close, exec_allow.descriptor)
            name = f"stage-{os.getpid()}-{os.urandom(8).hex()}"
            directory = make_private_directory(exec_allow.descriptor, exec_allow.path, name)
            undo.callback(os.close, directory.descriptor)
            undo.callback(_remove_what_can_be, exec_allow, directory)
            staged = _copy(binary, exec_allow, directory)
            undo.callback(os.close, staged.descriptor)
            if root.sandbox is not None and staged.digest != root.sandbox.digest:
                raise StageError(
                    f"runsc {binary.path!r} is not the one that sandbox {root.sandbox.id!r} runs",
                    remedy="leave out --runsc, which takes the sandbox's, or create the pod anew",
                )
        except UntrustedPathError as error:
            raise StageError(str(error), remedy="remove it and run again") from None
        except OSError as error:
            raise StageError(
                f"{error.filename or root.runsc_root.path!r}: {error.strerror}",
                remedy=remedy_for(error, "run again"),
            ) from None
        undo.pop_all()
    return staged


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
    try:
        reopened = os.fstat(descriptor)
        if Identity.of(reopened) != Identity.of(written) or reopened.st_uid != os.geteuid():
            raise StageError(
                f"the copy in {directory.path!r} was changed while it was made", remedy="run again"
            )
    except BaseException:
        os.close(descriptor)
        raise
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


def _remove(exec_allow: PrivateDirectory, directory: PrivateDirectory) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(PROGRAM, dir_fd=directory.descriptor)
    if not directory.is_named_in(exec_allow.descriptor):
        return []  # its name is another directory's by now, which is not ours to remove
    os.rmdir(os.path.basename(directory.path), dir_fd=exec_allow.descriptor)
    return [directory.path]


def _remove_what_can_be(exec_allow: PrivateDirectory, directory: PrivateDirectory) -> None:
    with contextlib.suppress(
        OSError
    ):  # on the way out of a refusal, which must stay what is said; gc has the rest
        _remove(exec_allow, directory)
