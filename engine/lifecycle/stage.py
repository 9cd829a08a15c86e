"""Step `stage`: a private copy of the pinned bytes, to be executed.

The bytes come from the descriptor that `validate` pinned, never from the path; or from a copy in the store, which an
earlier run made of a file with the same identity. That is compared with the pinned file unless the effective user owns
the binary. No fsync: a container does not survive a crash of the machine either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from engine.errors import Reason, StageError, hint_for
from engine.lifecycle.secure_root import StateDirs
from engine.lifecycle.validate import Validated
from engine.linux.files import PrivateDirectory, UntrustedPathError, make_private_directory
from engine.linux.locks import has_lease
from engine.linux.regular_files import Identity
from engine.records import TYPE_CHECKING, dataclass
from engine.state import programs, store
from engine.state.container import EXEC_ALLOW
from engine.state.store import CacheEntry
from engine.traces.writer import identity_facts

if TYPE_CHECKING:
    from engine.traces.schema import StageFacts

PROGRAM = programs.PROGRAM
#: Bytes to copy in one system call: usually all of runsc.
_CHUNK = 1 << 30


@dataclass(frozen=True, slots=True)
class Staged:
    """The copy, open for reading on `descriptor`, which execve gets.

    `digest`: its SHA-256, in hexadecimal. `made_from`: the file it was made from, by this run or (`from_store`) by an
    earlier one. `pinned`: the pinned file's identity after the copy was made. `shared`: the store and other containers
    have it under other names. `hashed`: this run computed the digest; otherwise it is from an earlier run. `compared`:
    this run compared the copy with the pinned file.
    """

    exec_allow: PrivateDirectory
    directory: PrivateDirectory
    descriptor: int
    path: str
    digest: str
    size: int
    mode: int
    pinned: Identity
    from_store: bool
    made_from: Identity
    shared: bool
    hashed: bool
    compared: bool
    root: StateDirs

    def facts(self) -> StageFacts:
        return {
            "path": self.path,
            "sha256": self.digest,
            "size": self.size,
            "mode": f"{self.mode:04o}",
            "pinned": identity_facts(self.pinned),
            "from_store": self.from_store,
            "made_from": identity_facts(self.made_from),
            "shared": self.shared,
            "hashed": self.hashed,
            "compared": self.compared,
        }

    def changed(self) -> str | None:
        """How the copy has changed, in one phrase; None if it is as staged."""
        if self.shared and not has_lease(self.descriptor):
            return f"{self.path!r}, which other containers share, was opened for writing"
        return None

    def discard(self) -> list[str]:
        """Remove the copy, its directory, and what it added to the store: what was removed. Raises `OSError`."""
        gone = _remove(self.root, self.exec_allow, self.directory)
        if not self.from_store:
            with contextlib.suppress(UntrustedPathError):  # something else is in the store's place
                gone += store.collect(_home(self.root))
        return gone

    def close(self) -> None:
        """Close the copy and its directories."""
        for descriptor in (self.descriptor, self.directory.descriptor, self.exec_allow.descriptor):
            os.close(descriptor)


def stage(binary: Validated, root: StateDirs) -> Staged:
    """Link or copy the pinned `binary` to `stage-*/runsc`, mode 0500, in `root`'s place for programs.

    Without such a place: in `exec-allow` in runsc's own directory.

    Raises `StageError`: a linked or foreign directory, a noexec file system, a pinned file that has changed, a short
    copy, no space, or another runsc than that of the sandbox to join. Then nothing is left behind.
    """
    if not programs.is_executable((root.programs or root.runsc_root).descriptor):
        raise StageError(
            f"{root.runsc_root.path!r} is on a file system that is mounted noexec",
            reason=Reason.NOEXEC,
            hint=programs.noexec_hint(),
        )
    with contextlib.ExitStack() as undo:
        undo.callback(_empty_the_store, root)
        try:
            exec_allow = _open_nest(root)
            undo.callback(os.close, exec_allow.descriptor)
            name = programs.new_name()
            if root.programs is not None:
                directory = programs.make_stage(exec_allow, root.container, name)
            else:
                directory = make_private_directory(exec_allow.descriptor, exec_allow.path, name)
            undo.callback(os.close, directory.descriptor)
            undo.callback(_remove_what_can_be, root, exec_allow, directory)
            staged = _make(binary, root, exec_allow, directory)
            undo.callback(os.close, staged.descriptor)
            if root.sandbox is not None and staged.digest != root.sandbox.digest:
                raise StageError(
                    f"runsc {binary.path!r} is not the one that sandbox {root.sandbox.id!r} runs",
                    reason=Reason.OTHER_RUNSC,
                    hint="leave out --runsc, which takes the sandbox's, or create the pod anew",
                )
        except UntrustedPathError as error:
            raise StageError(
                str(error), reason=Reason.STAGE_NOT_OWN, hint="remove it and run again"
            ) from None
        except OSError as error:
            raise StageError(
                f"{error.filename or (root.programs or root.runsc_root).path!r}: {error.strerror}",
                reason=Reason.FAILURE,
                hint=hint_for(error, "run again"),
            ) from None
        undo.pop_all()
    return staged


def _home(root: StateDirs) -> PrivateDirectory:
    """The directory that contains the store."""
    return root.programs or root.base


def _open_nest(root: StateDirs) -> PrivateDirectory:
    """The directory that contains the stage directories."""
    if root.programs is None:
        return make_private_directory(root.runsc_root.descriptor, root.runsc_root.path, EXEC_ALLOW)
    return PrivateDirectory(os.dup(root.programs.descriptor), root.programs.path, created=False)


def _make(
    binary: Validated, root: StateDirs, exec_allow: PrivateDirectory, directory: PrivateDirectory
) -> Staged:
    """The staged file in `directory`: a link to the store's copy of these bytes, or a copy that is then added to it."""
    entry, from_store, shared = _link_or_copy(binary, _home(root), directory)
    try:
        status, pinned = os.fstat(entry.descriptor), Identity.of(os.fstat(binary.descriptor))
        if pinned != binary.identity:
            raise _changed(binary)
    except BaseException:
        os.close(entry.descriptor)
        raise
    return Staged(
        exec_allow=exec_allow,
        directory=directory,
        descriptor=entry.descriptor,
        path=os.path.join(directory.path, PROGRAM),
        digest=entry.digest,
        size=status.st_size,
        mode=stat.S_IMODE(status.st_mode),
        pinned=pinned,
        from_store=from_store,
        made_from=entry.made_from,
        shared=shared,
        hashed=entry.hashed,
        compared=entry.compared,
        root=root,
    )


def _link_or_copy(
    binary: Validated, home: PrivateDirectory, directory: PrivateDirectory
) -> tuple[CacheEntry, bool, bool]:
    """The staged file, open; whether it came from the store; and whether it is shared with it."""
    with store.opened(home) as kept_copies:
        if kept_copies is None:
            return _copy(binary, directory), False, False
        if entry := _link(binary, kept_copies, directory):
            return entry, True, True
        copy = _copy(binary, directory)
        return copy, False, store.add(kept_copies, copy)


def _link(binary: Validated, kept_copies: PrivateDirectory, directory: PrivateDirectory) -> CacheEntry | None:
    """Link the store's copy of the pinned bytes; None if there is none, or no more links are possible."""
    # The store's owner could not write another owner's binary, so must not be able to do so through the store.
    pinned = None if binary.owner == os.geteuid() else binary.descriptor
    entry = store.get(kept_copies, binary.identity, pinned)
    if entry is None:
        return None
    try:
        store.link(entry, directory, PROGRAM)
    except OSError as error:
        os.close(entry.descriptor)
        if error.errno in (errno.EMLINK, errno.EXDEV, errno.EPERM, errno.ENOENT):
            return None
        raise
    store.update(kept_copies, entry)
    return entry


def _copy(binary: Validated, directory: PrivateDirectory) -> CacheEntry:
    """A copy of the pinned bytes."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    target = os.open(PROGRAM, flags, 0o500, dir_fd=directory.descriptor)
    try:
        size = _copy_bytes(binary.descriptor, target)
        os.fchmod(target, 0o500)
        digest = store.digest_of(target)
        written = os.fstat(target)
    finally:
        os.close(target)
    if Identity.of(os.fstat(binary.descriptor)) != binary.identity:
        raise _changed(binary)
    if not size == written.st_size == binary.identity.size:
        raise StageError(
            f"only {written.st_size} of {binary.identity.size} bytes of {binary.path!r} were copied",
            reason=Reason.NOT_WHAT_WAS_PINNED,
            hint="run again",
        )
    # A file open for writing cannot be executed (ETXTBSY): open it again, and check that it is the same file.
    descriptor = os.open(PROGRAM, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory.descriptor)
    try:
        reopened = os.fstat(descriptor)
        if Identity.of(reopened) != Identity.of(written) or reopened.st_uid != os.geteuid():
            raise StageError(
                f"the copy in {directory.path!r} was changed while it was made",
                reason=Reason.NOT_WHAT_WAS_PINNED,
                hint="run again",
            )
    except BaseException:
        os.close(descriptor)
        raise
    return CacheEntry(descriptor, binary.identity, digest, hashed=True)


def _changed(binary: Validated) -> StageError:
    return StageError(
        f"runsc {binary.path!r} was changed after it was validated",
        reason=Reason.NOT_WHAT_WAS_PINNED,
        hint="let the upgrade finish and run again",
    )


def _copy_bytes(source: int, target: int) -> int:
    """Copy all of `source`, from its start, to `target`, within the kernel: the number of bytes copied.

    copy_file_range(2) shares the blocks if the file system can (reflink); sendfile(2) copies across file systems, and
    where the former is not supported.
    """
    offset = 0
    try:
        while count := os.copy_file_range(source, target, _CHUNK, offset, offset):
            offset += count
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
    os.lseek(target, offset, os.SEEK_SET)
    while count := os.sendfile(target, source, offset, _CHUNK):
        offset += count
    return offset


def _remove(root: StateDirs, exec_allow: PrivateDirectory, directory: PrivateDirectory) -> list[str]:
    if root.programs is not None:
        is_own = directory.is_named_in(exec_allow.descriptor)
        programs.remove_stage(exec_allow, root.container, directory)
        return [directory.path] if is_own else []
    with contextlib.suppress(FileNotFoundError):
        os.unlink(PROGRAM, dir_fd=directory.descriptor)
    if not directory.is_named_in(exec_allow.descriptor):
        return []  # another directory has its name
    os.rmdir(os.path.basename(directory.path), dir_fd=exec_allow.descriptor)
    return [directory.path]


def _remove_what_can_be(root: StateDirs, exec_allow: PrivateDirectory, directory: PrivateDirectory) -> None:
    with contextlib.suppress(OSError):  # the refusal is what to report; gc removes the rest
        _remove(root, exec_allow, directory)


def _empty_the_store(root: StateDirs) -> None:
    with contextlib.suppress(OSError, UntrustedPathError):  # as above
        store.collect(_home(root))
