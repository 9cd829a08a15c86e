"""Binaries that were staged before, kept to be linked instead of copied: `<base>/staged/`.

    <base>/staged/<key>         a staged copy, mode 0500; each container that runs it has a hard link to it
    <base>/staged/<key>.json    what it is: the file it was made from, its SHA-256, its own identity when last used

`<key>` is the identity of the pinned file: device, inode, size, mtime and ctime. Any write to that file moves its
ctime (but see `SETTLED_NS`), so equal keys mean equal bytes. The copy has an identity too, recorded after each link,
as a link moves its ctime: while that is as it was recorded nobody has written it; otherwise its digest decides. Where
the record is not to be believed (below), each run compares the copy with the pinned file, byte for byte.

A link is another name for one file, so it is no weaker than a copy only if nobody can write that file:

- Other users cannot reach it: it lies in 0700 directories of the effective user.
- What broke out of a container still has the program at hand that it was started from, /proc/self/exe. While any
  container executes it, open(2) answers ETXTBSY. From before it is judged until execve a run holds a read lease on it,
  fcntl(2), which there is none of while it is open for writing, and for which whoever opens it for writing waits.
  A write in between moves its ctime, and the record of that is out of reach, so the digest is asked and differs.
- One who acts as its owner, outside of any confinement, can write the record as well. So a record is only believed
  where he could as well write the binary itself: where that is the effective user's own (`stage`). Elsewhere it tells
  no more than the digest that the trace then names; what runs was compared, after the lease was had.

Linux 6.11, and 6.12 before 6.12.2, let a program be written while it is executed; update those.

Whoever uses the store holds the lock of its directory, flock(2), so of many first starts one copies and the others
link, and nothing is removed while it is linked. No fsync: after a crash of the machine a record that is torn, or a
copy that is not what its record says, is made anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator

from engine.linux import locks
from engine.linux.files import (
    PrivateDirectory,
    UntrustedPathError,
    make_private_directory,
    open_private_directory,
)
from engine.linux.locks import lock
from engine.linux.regular_files import Identity, open_own, read_own, replace_own
from engine.records import dataclass

STORE = "staged"
#: Nanoseconds. The kernel's clock for ctime ticks every few milliseconds, so a file that was written in this very
#: tick can be written again and keep its identity; one that has been left alone for this long cannot.
SETTLED_NS = 2_000_000_000

#: Seconds that a run waits for another that has the store: a copy takes hundredths of one.
TIMEOUT = 2.0

_CHUNK = 1 << 18
#: Bytes: ten numbers and a digest take some four hundred.
_MAX_RECORD = 4096


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A copy, open for reading on `descriptor`: made from the file `made_from`, its SHA-256 in hexadecimal.

    `hashed` says whether this run read it for that, or has it from the record of an earlier one; `compared`, whether
    this run read it to compare it with the pinned file.
    """

    descriptor: int
    made_from: Identity
    digest: str
    hashed: bool
    compared: bool = False


@contextlib.contextmanager
def opened(base: PrivateDirectory) -> Iterator[PrivateDirectory | None]:
    """The store under `base`, made if there is none, locked while entered; None where another keeps it too long.

    Raises `UntrustedPathError` where it is a link, foreign or no directory, and `OSError`.
    """
    deadline = time.monotonic() + TIMEOUT
    while True:
        with contextlib.closing(make_private_directory(base.descriptor, base.path, STORE)) as store:
            if not lock(store.descriptor, deadline):
                yield None
                return
            if store.is_named_in(base.descriptor):  # else gc removed it while we waited
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
    the copy's place stays, and gc reports it. Raises `OSError`.
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


def _write_record(store: PrivateDirectory, entry: CacheEntry) -> None:
    record = {
        "made_from": entry.made_from.facts(),
        "sha256": entry.digest,
        "copy": Identity.of(os.fstat(entry.descriptor)).facts(),
    }
    replace_own(store, f"{_key(entry.made_from)}.json", json.dumps(record).encode())


def collect(base: PrivateDirectory) -> list[str]:
    """Remove each copy that no container has a link to, and the store when that empties it: what is gone.

    Nothing where another keeps the store too long: whoever collects next has it. Raises `UntrustedPathError` and
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
            os.unlink(name, dir_fd=store.descriptor)
            gone.append(os.path.join(store.path, name))
        if not used and store.is_named_in(base.descriptor):
            os.rmdir(STORE, dir_fd=base.descriptor)
            gone.append(store.path)
    return gone


def digest_of(descriptor: int) -> str:
    """The SHA-256, in hexadecimal, of all that is open on `descriptor`. Raises `OSError`."""
    import hashlib  # only where there is much to read: it is costly to import

    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))  # one buffer: a new one a turn costs more than the hashing
    offset = 0
    while count := os.preadv(descriptor, [buffer], offset):
        digest.update(buffer[:count])
        offset += count
    return digest.hexdigest()


def _have_equal_bytes(one: int, other: int) -> bool:
    """Whether two files are the same to their ends. Read, not mapped: one that is cut short then ends nobody."""
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
    """The copy open on `descriptor` where it still is what it should be, else None."""
    status = os.fstat(descriptor)
    if stat.S_IMODE(status.st_mode) != 0o500 or status.st_size != identity.size:
        return None
    record = _read_record(store, identity)
    if record is None:
        return None
    if pinned is not None:
        if not _have_equal_bytes(descriptor, pinned):
            return None
        return CacheEntry(descriptor, identity, record.digest, hashed=False, compared=True)
    hashed = record.copy != Identity.of(status).facts()
    if hashed and digest_of(descriptor) != record.digest:
        return None
    return CacheEntry(descriptor, identity, record.digest, hashed)


@dataclass(frozen=True, slots=True)
class _Record:
    digest: str
    copy: object


def _read_record(store: PrivateDirectory, identity: Identity) -> _Record | None:
    """What was recorded of the file with this `identity`; None where that is nothing, or not to be read."""
    try:
        record = json.loads(read_own(store, f"{_key(identity)}.json", _MAX_RECORD))
        if record["made_from"] != identity.facts() or not _is_digest(record["sha256"]):
            return None
        return _Record(record["sha256"], record["copy"])
    except (OSError, UntrustedPathError, ValueError, KeyError, TypeError):
        return None


def _is_digest(text: object) -> bool:
    return isinstance(text, str) and len(text) == 64 and not text.strip("0123456789abcdef")


def _is_linked(store: PrivateDirectory, name: str) -> bool:
    status = os.stat(name, dir_fd=store.descriptor, follow_symlinks=False)
    return stat.S_ISREG(status.st_mode) and status.st_nlink > 1


def _remove(store: PrivateDirectory, key: str) -> None:
    for name in (key, f"{key}.json"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(name, dir_fd=store.descriptor)
