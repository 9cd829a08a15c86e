"""Staged copies of runsc, kept to be linked by later runs: `<base>/staged/`.

    <base>/staged/<key>         a staged copy, mode 0555; each container that runs it has a hard link to it
    <base>/staged/<key>.json    its record: the file it was made from, its SHA-256, its own identity when last used

`<key>` is the identity of the pinned file: device, inode, size, mtime and ctime. Any write to that file changes its
ctime (but see `SETTLED_NS`), so equal keys mean equal bytes. The copy's own identity is recorded after each link and
unlink, which change its ctime: if it is as recorded, nobody has written the copy; otherwise its digest decides. If the
record is not trusted (below), each run compares the copy with the pinned file, byte for byte.

A link is as safe as a copy only if nobody can write the file:

- Other users cannot reach it: it lies in 0700 directories of the effective user.
- Code that broke out of a container can reach its program as /proc/self/exe. While any container executes it, open(2)
  fails with ETXTBSY. From before the check until execve a run holds a read lease on it, fcntl(2): F_SETLEASE fails
  while a writer exists; later writers block until the lease is released. A write between runs changes the ctime, and
  the record of that is out of reach, so the digest is checked and differs.
- A process of its owner, outside of any sandbox, can write the record as well. So a record is trusted only if the
  binary is the effective user's own, who could change that as well (`stage`). Otherwise the copy is compared, after the
  lease was taken, and the record only supplies the digest for the trace.

Linux 6.11, and 6.12 before 6.12.2, let a program be written while it is executed; update those.

Every user of the store holds the lock of its directory, flock(2): of many first starts one copies and the others link,
and nothing is removed while it is being linked. No fsync: after a crash of the machine, a torn record or a copy that
differs from its record is made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence

from engine.linux import locks
from engine.linux.files import (
    PrivateDirectory,
    UntrustedPathError,
    make_private_directory,
    open_private_directory,
)
from engine.linux.locks import lock
from engine.linux.regular_files import Identity, open_own, read_own, replace_own
from engine.runsc.binary import is_version
from engine.state.container import COPY_MODE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

STORE = "staged"
#: Nanoseconds. ctime advances in steps of a few milliseconds: two writes within a step leave the same identity. A file
#: that has not changed for this long is safe from that.
SETTLED_NS = 2_000_000_000

#: Seconds to wait for the store's lock; a copy takes hundredths of one.
TIMEOUT = 2.0

_CHUNK = 1 << 18
#: Bytes; a record has about 400.
_MAX_RECORD = 4096


class CacheEntry:
    """A copy, open for reading on `descriptor`: made from the file `made_from`, its SHA-256 in hexadecimal.

    `hashed`: this run computed the digest; otherwise it is from the record. `compared`: this run compared the copy with
    the pinned file. `version`: what its bytes say of it, empty if nothing; None if nobody looked.
    """

    def __init__(
        self,
        descriptor: int,
        made_from: Identity,
        digest: str,
        hashed: bool,
        compared: bool = False,
        version: str | None = None,
    ) -> None:
        self.descriptor: Final = descriptor
        self.made_from: Final = made_from
        self.digest: Final = digest
        self.hashed: Final = hashed
        self.compared: Final = compared
        self.version: Final = version


@contextlib.contextmanager
def opened(base: PrivateDirectory) -> Iterator[PrivateDirectory | None]:
    """The store under `base`, made if there is none, and locked meanwhile; None if it stays locked for too long.

    Raises `UntrustedPathError` if it is a link, foreign or no directory, and `OSError`.
    """
    deadline = time.monotonic() + TIMEOUT
    while True:
        with contextlib.closing(make_private_directory(base.descriptor, base.path, STORE)) as store:
            if not lock(store.descriptor, deadline):
                yield None
                return
            if store.is_named_in(base.descriptor):  # else gc removed it meanwhile
                yield store
                return


def take_lease(descriptor: int) -> bool:
    """Make later writers of the open file wait until it is closed here; False where there is a writer already."""
    try:
        locks.take_lease(descriptor)
    except OSError:  # open for writing, or the file system has no leases
        return False
    return True


def get(store: PrivateDirectory, identity: Identity, pinned: int | None) -> CacheEntry | None:
    """The copy of the file with this `identity`, leased. A copy that is not good is removed, and the answer is None.

    `pinned`: a descriptor of that file, to compare the copy with it; None where its record is trusted. A directory in
    the copy's place stays until gc removes it. Raises `OSError`.
    """
    key = _key(identity)
    try:
        descriptor = open_own(store, key)
    except FileNotFoundError:
        return None
    except UntrustedPathError:
        _remove(store, key)
        return None
    try:
        if take_lease(descriptor) and (good := _judge(store, identity, descriptor, pinned)):
            return good
        _remove(store, key)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def add(store: PrivateDirectory, entry: CacheEntry) -> bool:
    """Put the copy `entry` into the store for the next run, and lease it. Says whether it did.

    A copy of a file that was changed just now is not added, nor one that has no name any more.
    """
    if time.time_ns() - entry.made_from.ctime_ns < SETTLED_NS or not take_lease(entry.descriptor):
        return False
    try:
        link(entry, store, _key(entry.made_from))
    except OSError:  # a file system without links, or a full one: the next run copies, too
        return False
    update(store, entry)
    return True


def link(entry: CacheEntry, directory: PrivateDirectory, name: str) -> None:
    """Make `name` in `directory` a hard link to the open file, through /proc/self/fd. Raises `OSError`."""
    os.link(f"/proc/self/fd/{entry.descriptor}", name, dst_dir_fd=directory.descriptor, follow_symlinks=True)


def update(store: PrivateDirectory, entry: CacheEntry) -> None:
    """Write the copy's record with its present identity: to be called after each link, which changes its ctime.

    Without a record the next run checks the digest, or copies.
    """
    with contextlib.suppress(OSError):
        _write_record(store, entry)


def unlink(base: PrivateDirectory, files: Sequence[tuple[PrivateDirectory, str]]) -> None:
    """Remove staged `files`, each a name in its directory, which may be links to copies in the store under `base`.

    unlink(2) changes the ctime of a copy that stays. So its record is written again, if the copy was as recorded just
    before; otherwise the next run would have to hash it. Files that are gone are skipped, and directories. Raises
    `OSError`.
    """
    with contextlib.ExitStack() as undo:
        store, entries = None, []
        with contextlib.suppress(FileNotFoundError, UntrustedPathError):
            store = open_private_directory(base.descriptor, base.path, STORE)
            undo.callback(store.close)
            if lock(store.descriptor, time.monotonic() + TIMEOUT):
                entries = _entries(store)
        for directory, name in files:
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                if store is not None and entries:
                    _unlink_copy(store, entries, directory, name)
                else:
                    os.unlink(name, dir_fd=directory.descriptor)


def _unlink_copy(
    store: PrivateDirectory,
    entries: list[tuple[Identity, str, object, str | None]],
    directory: PrivateDirectory,
    name: str,
) -> None:
    try:
        descriptor = open_own(directory, name)
    except UntrustedPathError:
        os.unlink(name, dir_fd=directory.descriptor)
        return
    try:
        # The lease first: then nobody writes the copy between the comparison and the new record.
        leased = take_lease(descriptor)
        status = os.fstat(descriptor)
        os.unlink(name, dir_fd=directory.descriptor)
        if leased and status.st_nlink > 1:
            for made_from, digest, copy, version in entries:
                if copy == Identity.of(status).facts():
                    update(store, CacheEntry(descriptor, made_from, digest, hashed=False, version=version))
    finally:
        os.close(descriptor)


def _entries(store: PrivateDirectory) -> list[tuple[Identity, str, object, str | None]]:
    """The records that can be read, each with the identity of the file that its copy was made from."""
    found = []
    for name in os.listdir(store.descriptor):
        if not name.endswith(".json"):
            continue
        with contextlib.suppress(ValueError, TypeError):
            made_from = Identity(*(int(number, 16) for number in name.removesuffix(".json").split("-")))
            if record := _read_record(store, made_from):
                found.append((made_from, *record))
    return found


def _write_record(store: PrivateDirectory, entry: CacheEntry) -> None:
    record = {
        "made_from": entry.made_from.facts(),
        "sha256": entry.digest,
        "copy": Identity.of(os.fstat(entry.descriptor)).facts(),
        "version": entry.version,
    }
    replace_own(store, f"{_key(entry.made_from)}.json", json.dumps(record).encode())


def collect(base: PrivateDirectory) -> list[str]:
    """Remove each copy that no container has a link to, and the store if it is then empty: what was removed.

    Removes nothing if the store stays locked for too long; the next collection does. Raises `UntrustedPathError` and
    `OSError`.
    """
    try:
        store = open_private_directory(base.descriptor, base.path, STORE)
    except FileNotFoundError:
        return []
    gone = []
    with contextlib.closing(store):
        if not lock(store.descriptor, time.monotonic() + TIMEOUT):
            return []
        names = set(os.listdir(store.descriptor))
        used = {name for name in names if _is_linked(store, name)}
        for name in sorted(names - used - {f"{key}.json" for key in used}):
            try:
                os.unlink(name, dir_fd=store.descriptor)
            except IsADirectoryError:
                from engine.state.trees import remove_tree  # rarely needed

                remove_tree(store, name)
            gone.append(os.path.join(store.path, name))
        if not used and store.is_named_in(base.descriptor):
            os.rmdir(STORE, dir_fd=base.descriptor)
            gone.append(store.path)
    return gone


def digest_of(descriptor: int) -> str:
    """The SHA-256, in hexadecimal, of the file open on `descriptor`. Raises `OSError`."""
    import hashlib  # only here: a slow import

    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))  # allocating one for each read would cost more than the hash
    offset = 0
    while count := os.preadv(descriptor, [buffer], offset):
        digest.update(buffer[:count])
        offset += count
    return digest.hexdigest()


def _have_equal_bytes(one: int, other: int) -> bool:
    """Whether two files have equal bytes. Use read(2): a truncated mapped file would raise SIGBUS."""
    piece, another = bytearray(_CHUNK), bytearray(_CHUNK)
    offset = 0
    while count := os.preadv(one, [piece], offset):
        if os.preadv(other, [another], offset) != count or piece != another:
            return False
        offset += count
    return not os.preadv(other, [another], offset)


def _key(identity: Identity) -> str:
    return "-".join(f"{number:x}" for number in identity.facts().values())


def _judge(
    store: PrivateDirectory, identity: Identity, descriptor: int, pinned: int | None
) -> CacheEntry | None:
    """The copy open on `descriptor` if it is still unchanged, else None."""
    status = os.fstat(descriptor)
    if stat.S_IMODE(status.st_mode) != COPY_MODE or status.st_size != identity.size:
        return None
    record = _read_record(store, identity)
    if record is None:
        return None
    digest, copy, version = record
    if pinned is not None:
        if not _have_equal_bytes(descriptor, pinned):
            return None
        return CacheEntry(descriptor, identity, digest, hashed=False, compared=True, version=version)
    hashed = copy != Identity.of(status).facts()
    if hashed and digest_of(descriptor) != digest:
        return None
    return CacheEntry(descriptor, identity, digest, hashed, version=version)


def _read_record(store: PrivateDirectory, identity: Identity) -> tuple[str, object, str | None] | None:
    """What is recorded of the file with this `identity`: the digest, the copy's own identity, and the version.

    None if there is no record, or it cannot be read.
    """
    try:
        record = json.loads(read_own(store, f"{_key(identity)}.json", _MAX_RECORD))
        if record["made_from"] != identity.facts() or not _is_digest(record["sha256"]):
            return None
        version = record.get("version")
        return record["sha256"], record["copy"], version if _is_version(version) else None
    except (OSError, UntrustedPathError, ValueError, KeyError, TypeError):
        return None


def _is_digest(text: object) -> bool:
    return isinstance(text, str) and len(text) == 64 and not text.strip("0123456789abcdef")


def _is_version(text: object) -> bool:
    return text == "" or (isinstance(text, str) and is_version(text))


def _is_linked(store: PrivateDirectory, name: str) -> bool:
    status = os.stat(name, dir_fd=store.descriptor, follow_symlinks=False)
    return stat.S_ISREG(status.st_mode) and status.st_nlink > 1


def _remove(store: PrivateDirectory, key: str) -> None:
    for name in (key, f"{key}.json"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(name, dir_fd=store.descriptor)
