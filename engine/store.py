"""Binaries that were staged before, kept to be linked instead of copied: `<base>/staged/`.

    <base>/staged/<key>         a staged copy, mode 0500; each container that runs it has a hard link to it
    <base>/staged/<key>.json    what it is: the file it was made from, its SHA-256, its own identity when last used

`<key>` is the identity of the pinned file: device, inode, size, mtime and ctime. Any write to that file moves its
ctime (but see `SETTLED_NS`), so equal keys mean equal bytes. The copy has an identity too, recorded after each link,
as a link moves its ctime: while that is as it was recorded nobody has written it; otherwise its digest decides.

Whoever uses the store holds the lock of its directory, flock(2), so of many first starts one copies and the others
link, and nothing is removed while it is linked. No fsync: after a crash of the machine a record that is torn, or a
copy that is not what its record says, is made anew.

A link is no weaker than a copy against those the engine protects from: both lie in 0700 directories of the
effective user. It is shared by that user's containers, so one who acts as that user may spoil it for all of them,
record included; he could as well rewrite the engine. While a container runs, nobody can write it (ETXTBSY).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator

from engine.linux.files import PrivateDirectory, make_private_directory, open_private_directory
from engine.linux.identity import Identity
from engine.records import dataclass

STORE = "staged"
#: Nanoseconds. The kernel's clock for ctime ticks every few milliseconds, so a file that was written in this very
#: tick can be written again and keep its identity; one that has been left alone for this long cannot.
SETTLED_NS = 2_000_000_000

_CHUNK = 1 << 18
_NEW = "new"


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept copy, open for reading on `descriptor`: made from the file `made_from`, its SHA-256 in hexadecimal."""

    descriptor: int
    made_from: Identity
    digest: str


@contextlib.contextmanager
def opened(base: PrivateDirectory) -> Iterator[PrivateDirectory]:
    """The store under `base`, made if there is none, locked while entered. Waits for whoever has the lock.

    Raises `UntrustedPathError` where it is a link, foreign or no directory, and `OSError`.
    """
    while True:
        with contextlib.closing(make_private_directory(base.descriptor, base.path, STORE)) as store:
            fcntl.flock(store.descriptor, fcntl.LOCK_EX)
            if store.is_named_in(base.descriptor):  # else gc removed it while we waited
                yield store
                return


def find(store: PrivateDirectory, identity: Identity) -> Kept | None:
    """The kept copy of the file with this `identity`; None, and nothing left of it, where there is no good one.

    Raises `OSError`.
    """
    key = _key(identity)
    try:
        descriptor = os.open(
            key, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=store.descriptor
        )
    except FileNotFoundError:
        return None
    try:
        if digest := _digest_of_a_good_copy(store, key, identity, descriptor):
            return Kept(descriptor, identity, digest)
        _remove(store, key)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def keep(store: PrivateDirectory, made: Kept) -> None:
    """Keep the copy that was `made` for the next run. Raises `OSError` where it cannot be, or has no name any more.

    A copy of a file that was changed just now is not kept.
    """
    if time.time_ns() - made.made_from.ctime_ns >= SETTLED_NS:
        link(made, store, _key(made.made_from))
        note(store, made)


def link(kept: Kept, directory: PrivateDirectory, name: str) -> None:
    """Give the very file that is open another name, by the kernel's link to it, proc(5). Raises `OSError`."""
    os.link(f"/proc/self/fd/{kept.descriptor}", name, dst_dir_fd=directory.descriptor, follow_symlinks=True)


def note(store: PrivateDirectory, kept: Kept) -> None:
    """Record what the copy is, and that it now is as it should be: called after each link. Raises `OSError`."""
    record = {
        "made_from": kept.made_from.facts(),
        "sha256": kept.digest,
        "copy": Identity.of(os.fstat(kept.descriptor)).facts(),
    }
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(_NEW, flags, 0o600, dir_fd=store.descriptor)
    with open(descriptor, "w", encoding="ascii") as file:
        json.dump(record, file)
    os.replace(
        _NEW,
        f"{_key(kept.made_from)}.json",
        src_dir_fd=store.descriptor,
        dst_dir_fd=store.descriptor,
    )


def collect(base: PrivateDirectory) -> list[str]:
    """Remove each copy that no container has a link to, and the store when that empties it: what is gone.

    Raises `UntrustedPathError` and `OSError`.
    """
    try:
        store = open_private_directory(base.descriptor, base.path, STORE)
    except FileNotFoundError:
        return []
    gone = []
    with contextlib.closing(store):
        fcntl.flock(store.descriptor, fcntl.LOCK_EX)
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


def _key(identity: Identity) -> str:
    return "-".join(f"{number:x}" for number in identity.facts().values())


def _digest_of_a_good_copy(
    store: PrivateDirectory, key: str, identity: Identity, descriptor: int
) -> str | None:
    """The digest of the copy open on `descriptor` where it still is what its record says, else None."""
    status = os.fstat(descriptor)
    if not (
        stat.S_ISREG(status.st_mode)
        and stat.S_IMODE(status.st_mode) == 0o500
        and status.st_uid == os.geteuid()
        and status.st_size == identity.size
    ):
        return None
    try:
        recorded = os.open(f"{key}.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=store.descriptor)
        with open(recorded, encoding="ascii") as file:
            record = json.load(file)
        made_from, digest, copy = record["made_from"], str(record["sha256"]), record["copy"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if made_from != identity.facts():
        return None
    if copy == Identity.of(status).facts() or digest_of(descriptor) == digest:
        return digest
    return None


def _is_linked(store: PrivateDirectory, name: str) -> bool:
    status = os.stat(name, dir_fd=store.descriptor, follow_symlinks=False)
    return stat.S_ISREG(status.st_mode) and status.st_nlink > 1


def _remove(store: PrivateDirectory, key: str) -> None:
    for name in (key, f"{key}.json"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=store.descriptor)
