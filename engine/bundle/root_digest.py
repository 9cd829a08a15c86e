"""A digest of a root file system, computed on request: what is in it, and nothing outside of it.

It is the SHA-256 of one record for each entry, the root itself first, as `.`: a directory before what is in it, names
in the order of their bytes. A record is six fields, each with a NUL behind it:

    path    below the root, with `/` between names
    kind    d, f, l, c, b, p or s, as find(1) prints it
    mode    four octal digits, with set-uid, set-gid and sticky
    uid, gid
    detail  of a file the SHA-256 of its content, in hexadecimal; of a link where it leads, as it is written;
            of a device `major:minor`; else nothing

Times, extended attributes, inode numbers and hard links are left out. No link is followed.
"""

from __future__ import annotations

import hashlib
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Protocol

    class Hash(Protocol):
        """As hashlib has it."""

        def update(self, data: bytes, /) -> None: ...

        def hexdigest(self) -> str: ...


_CHUNK = 1 << 20
#: Directories below each other, of which each is a descriptor.
MAX_DEPTH = 200
_KINDS = {
    stat.S_IFDIR: b"d",
    stat.S_IFREG: b"f",
    stat.S_IFLNK: b"l",
    stat.S_IFCHR: b"c",
    stat.S_IFBLK: b"b",
    stat.S_IFIFO: b"p",
    stat.S_IFSOCK: b"s",
}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ANY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class UnknownDigestError(Exception):
    """There is no digest; the text says why, in one phrase."""


def root_digest(directory: int) -> str:
    """The digest, in hexadecimal, of the root file system open on `directory`, which may be open with O_PATH.

    Raises `UnknownDigestError` if any of it cannot be read, or changes until all was read.
    """
    content = hashlib.sha256()
    versions = []
    try:
        for wanted in (None, content, None):  # before, while and after it is read
            seen = hashlib.sha256()
            _Walk(seen, wanted).enter(".", directory, b".", 0)
            versions.append(seen.digest())
    except OSError as error:
        raise UnknownDigestError(f"{error.filename or 'a file'!r}: {error.strerror}") from None
    if len(set(versions)) != 1:
        raise UnknownDigestError("something in it changed meanwhile")
    return content.hexdigest()


class _Walk:
    """Adds each entry's version to `seen`, and its record to `content`, unless that is None."""

    def __init__(self, seen: Hash, content: Hash | None) -> None:
        self._seen: Final = seen
        self._content: Final = content

    def enter(self, name: str | bytes, above: int, path: bytes, depth: int) -> None:
        """The directory `name` in the one open on `above`, and all in it."""
        if depth > MAX_DEPTH:
            raise UnknownDigestError(f"it has more than {MAX_DEPTH} directories below each other")
        directory = os.open(name, _DIRECTORY, dir_fd=above)
        try:
            self._add(path, os.fstat(directory), lambda: b"")
            for inner in sorted(os.listdir(os.fsencode(f"/proc/self/fd/{directory}"))):
                inner_path = inner if path == b"." else path + b"/" + inner
                descriptor = os.open(inner, _ANY, dir_fd=directory)
                try:
                    status = os.fstat(descriptor)
                    if stat.S_ISDIR(status.st_mode):
                        self.enter(".", descriptor, inner_path, depth + 1)
                    else:
                        self._add(inner_path, status, lambda d=descriptor, s=status: _detail(d, s))  # type: ignore[misc]
                finally:
                    os.close(descriptor)
        finally:
            os.close(directory)

    def _add(self, path: bytes, status: os.stat_result, detail: Callable[[], bytes]) -> None:
        version = (
            status.st_dev,
            status.st_ino,
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
        self._seen.update(b"%d\0%b\0%b\0" % (len(path), path, repr(version).encode()))
        if self._content is not None:
            fields = (
                path,
                _KINDS[stat.S_IFMT(status.st_mode)],
                b"%04o" % stat.S_IMODE(status.st_mode),
                b"%d" % status.st_uid,
                b"%d" % status.st_gid,
                detail(),
            )
            self._content.update(b"".join(field + b"\0" for field in fields))


def _detail(descriptor: int, status: os.stat_result) -> bytes:
    if stat.S_ISREG(status.st_mode):
        return _content(descriptor)
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(b"", dir_fd=descriptor)
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        return b"%d:%d" % (os.major(status.st_rdev), os.minor(status.st_rdev))
    return b""


def _content(descriptor: int) -> bytes:
    """The SHA-256 of the regular file on `descriptor`: the kernel's own link to it, not its name again, proc(5)."""
    digest = hashlib.sha256()
    file = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        while piece := os.read(file, _CHUNK):
            digest.update(piece)
    finally:
        os.close(file)
    return digest.hexdigest().encode()
