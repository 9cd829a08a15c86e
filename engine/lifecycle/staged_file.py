"""One staged file: a link to the store's copy of the pinned bytes, or a copy that is then added to it."""

from __future__ import annotations

import errno
import os
import stat

from engine.errors import Reason, StageError
from engine.linux.files import PrivateDirectory
from engine.linux.locks import has_lease
from engine.linux.regular_files import Identity
from engine.runsc.binary import version_of
from engine.runsc.installation import RUNSC, PinnedFile
from engine.state import store
from engine.state.container import COPY_MODE
from engine.state.store import CacheEntry
from engine.traces.writer import identity_facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from engine.traces.schema import Copy

#: Bytes to copy in one system call: usually all of runsc.
_CHUNK = 1 << 30


class StagedFile:
    """The copy of a pinned file at `path`, open for reading on `descriptor`, which was opened by that name.

    `digest`: its SHA-256, in hexadecimal. `made_from`: the file it was made from, by this run or (`from_store`) by an
    earlier one. `pinned`: the pinned file's identity after the copy was made. `shared`: the store and other containers
    have it under other names. `hashed`: this run computed the digest; otherwise it is from an earlier run. `compared`:
    this run compared the copy with the pinned file. `version`: runsc's, by its bytes; None if unknown.
    """

    def __init__(
        self,
        name: str,
        descriptor: int,
        path: str,
        digest: str,
        size: int,
        mode: int,
        pinned: Identity,
        from_store: bool,
        made_from: Identity,
        shared: bool,
        hashed: bool,
        compared: bool,
        version: str | None = None,
    ) -> None:
        self.name: Final = name
        self.descriptor: Final = descriptor
        self.path: Final = path
        self.digest: Final = digest
        self.size: Final = size
        self.mode: Final = mode
        self.pinned: Final = pinned
        self.from_store: Final = from_store
        self.made_from: Final = made_from
        self.shared: Final = shared
        self.hashed: Final = hashed
        self.compared: Final = compared
        self.version: Final = version

    def facts(self) -> Copy:
        """What is recorded of the copy."""
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

    def changed(self, directory: int) -> str | None:
        """How it has changed, in one phrase; None if its name in `directory` still leads to the staged file."""
        if self.shared and not has_lease(self.descriptor):
            return f"{self.path!r}, which other containers share, was opened for writing"
        try:
            named = os.stat(self.name, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            return f"{self.path!r}: {error.strerror}"
        if not os.path.samestat(os.fstat(self.descriptor), named):
            return f"{self.path!r} was replaced"
        return None


def stage_file(
    file: PinnedFile, kept_copies: PrivateDirectory | None, directory: PrivateDirectory
) -> StagedFile:
    """Link or copy the pinned `file` into `directory`, by its name, and open it there.

    `kept_copies`: the store, locked; without it the file is copied. Raises `StageError` and `OSError`: then the caller
    removes what is in `directory`.
    """
    entry, from_store, shared = _link_or_copy(file, kept_copies, directory)
    try:
        status, pinned = os.fstat(entry.descriptor), Identity.of(os.fstat(file.descriptor))
        if pinned != file.identity:
            raise _changed(file)
        if stat.S_IMODE(status.st_mode) != COPY_MODE:
            raise _not_left_alone(directory)
    except BaseException:
        os.close(entry.descriptor)
        raise
    return StagedFile(
        name=file.name,
        descriptor=entry.descriptor,
        path=os.path.join(directory.path, file.name),
        digest=entry.digest,
        size=status.st_size,
        mode=stat.S_IMODE(status.st_mode),
        pinned=pinned,
        from_store=from_store,
        made_from=entry.made_from,
        shared=shared,
        hashed=entry.hashed,
        compared=entry.compared,
        version=entry.version or None,
    )


def _link_or_copy(
    file: PinnedFile, kept_copies: PrivateDirectory | None, directory: PrivateDirectory
) -> tuple[CacheEntry, bool, bool]:
    """The staged file, open; whether it came from the store; and whether it is shared with it."""
    if kept_copies is None:
        return _copy(file, directory), False, False
    if entry := _link(file, kept_copies, directory):
        return entry, True, True
    copy = _copy(file, directory)
    try:
        return copy, False, store.add(kept_copies, copy)
    except BaseException:
        os.close(copy.descriptor)
        raise


def _link(file: PinnedFile, kept_copies: PrivateDirectory, directory: PrivateDirectory) -> CacheEntry | None:
    """Link the store's copy of the pinned bytes; None if there is none, or no more links are possible."""
    # The store's owner could not write another owner's binary, so must not be able to do so through the store.
    pinned = None if file.owner == os.geteuid() else file.descriptor
    entry = store.get(kept_copies, file.identity, pinned)
    if entry is None:
        return None
    try:
        try:
            store.link(entry, directory, file.name)
        except OSError as error:
            if error.errno in (errno.EMLINK, errno.EXDEV, errno.EPERM, errno.ENOENT):
                return None
            raise
        if entry.version is None:  # a record of an earlier engine
            entry = _with_version(entry, file)
        store.update(kept_copies, entry)
        # runsc looks for its sidecars beside its /proc/self/exe: the name by which this descriptor was opened. A lease
        # ends when its descriptor is closed, so take it on the new one before closing the other.
        descriptor = _reopen(file.name, directory)
        try:
            if not (store.take_lease(descriptor) and os.path.sameopenfile(descriptor, entry.descriptor)):
                raise _not_left_alone(directory)
        except BaseException:
            os.close(descriptor)
            raise
    finally:
        os.close(entry.descriptor)
    return CacheEntry(descriptor, entry.made_from, entry.digest, entry.hashed, entry.compared, entry.version)


def _with_version(entry: CacheEntry, file: PinnedFile) -> CacheEntry:
    """The same entry, with what the bytes of runsc say of its version. No other file's is asked for."""
    version = version_of(entry.descriptor) if file.name == RUNSC else None
    return CacheEntry(
        entry.descriptor, entry.made_from, entry.digest, entry.hashed, entry.compared, version or ""
    )


def _copy(file: PinnedFile, directory: PrivateDirectory) -> CacheEntry:
    """A copy of the pinned bytes."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    target = os.open(file.name, flags, COPY_MODE, dir_fd=directory.descriptor)
    try:
        size = _copy_bytes(file.descriptor, target)
        os.fchmod(target, COPY_MODE)
        digest = store.digest_of(target)
        written = os.fstat(target)
    finally:
        os.close(target)
    if Identity.of(os.fstat(file.descriptor)) != file.identity:
        raise _changed(file)
    if not size == written.st_size == file.identity.size:
        raise StageError(
            f"only {written.st_size} of {file.identity.size} bytes of {file.path!r} were copied",
            reason=Reason.NOT_WHAT_WAS_PINNED,
            hint="run again",
        )
    # A file open for writing cannot be executed (ETXTBSY): open it again, and check that it is the same file.
    descriptor = _reopen(file.name, directory)
    try:
        reopened = os.fstat(descriptor)
        if Identity.of(reopened) != Identity.of(written) or reopened.st_uid != os.geteuid():
            raise _not_left_alone(directory)
        return _with_version(CacheEntry(descriptor, file.identity, digest, hashed=True), file)
    except BaseException:
        os.close(descriptor)
        raise


def _reopen(name: str, directory: PrivateDirectory) -> int:
    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory.descriptor)


def _not_left_alone(directory: PrivateDirectory) -> StageError:
    return StageError(
        f"the copy in {directory.path!r} was changed while it was made",
        reason=Reason.NOT_WHAT_WAS_PINNED,
        hint="run again",
    )


def _changed(file: PinnedFile) -> StageError:
    return StageError(
        f"{file.name} {file.path!r} was changed after it was validated",
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
