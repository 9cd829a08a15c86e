"""Regular files, by their name in an open directory: opened and checked, read, replaced as a whole.

The open file is checked, never a name. A link, a FIFO or another user's file is refused, and does not block the engine.
Sources: open(2), rename(2), inode(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from engine.linux.files import PrivateDirectory, UntrustedPathError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_CHUNK = 1 << 20
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
}
#: What another user could have put in the place of an output, for it to be read or written elsewhere.
_LEADING_ELSEWHERE = frozenset({stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK})
#: As the kernel follows, path_resolution(7).
_MAX_LINKS = 40
#: A FIFO opens without waiting for a writer; a terminal does not become the controlling one.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Identity:
    """Identifies a version of a file: any write, chmod or link changes `ctime_ns`.

    Device, inode, size in bytes, and the times in nanoseconds.
    """

    def __init__(self, device: int, inode: int, size: int, mtime_ns: int, ctime_ns: int) -> None:
        self.device: Final = device
        self.inode: Final = inode
        self.size: Final = size
        self.mtime_ns: Final = mtime_ns
        self.ctime_ns: Final = ctime_ns

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.device, self.inode, self.ctime_ns))

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def facts(self) -> dict[str, int]:
        """The five by name, as recorded in a trace."""
        return dict(vars(self))


def open_regular(name: str, directory: int, path: str, *, owner: int | None = None) -> int:
    """Open the regular file `name` in `directory` for reading; with `owner`, it must be that user's.

    Raises `UntrustedPathError` for anything else, and `OSError`; both name `path`.
    """
    try:
        descriptor = os.open(name, _READ | os.O_NOFOLLOW, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UntrustedPathError(path, "is a symbolic link") from None
        if error.errno == errno.ENXIO:
            raise UntrustedPathError(path, _not_regular("a socket, or a device that is not there")) from None
        raise OSError(error.errno, error.strerror, path) from None
    return _judged(descriptor, path, owner)


def open_named(path: str) -> int:
    """Open the regular file at a user's `path` for reading; links are followed.

    Raises `OSError` that names `path`: EINVAL for anything else.
    """
    try:
        _judge(os.stat(path), path)  # before open(2), which has effects on some devices
        return _judged(os.open(path, _READ), path)
    except UntrustedPathError as error:
        raise OSError(errno.EINVAL, f"it {error.why}", path) from None
    except ValueError as error:  # a NUL
        raise OSError(errno.EINVAL, str(error), path) from None


def _judged(descriptor: int, path: str, owner: int | None = None) -> int:
    """`descriptor`, if it is of a regular file; otherwise it is closed."""
    try:
        status = os.fstat(descriptor)
        _judge(status, path)
        if owner is not None and status.st_uid != owner:
            raise UntrustedPathError(path, f"is owned by uid {status.st_uid} (expected uid {owner})")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _judge(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UntrustedPathError(path, _not_regular(_KINDS[stat.S_IFMT(status.st_mode)]))


def _not_regular(kind: str) -> str:
    return f"is {kind}, not a regular file"


def open_own(directory: PrivateDirectory, name: str) -> int:
    """Open a regular file of the effective user for reading. Raises as `open_regular`."""
    path = os.path.join(directory.path, name)
    return open_regular(name, directory.descriptor, path, owner=os.geteuid())


def read_regular(name: str, directory: int, path: str, limit: int, *, owner: int | None = None) -> bytes:
    """Read all of a file. Raises as `open_regular`, and `OSError` EFBIG if it has more than `limit` bytes."""
    return _all_of(open_regular(name, directory, path, owner=owner), path, limit)


def read_named(path: str, limit: int) -> bytes:
    """Read all of a file. Raises as `open_named`, and `OSError` EFBIG if it has more than `limit` bytes."""
    return _all_of(open_named(path), path, limit)


def _all_of(descriptor: int, path: str, limit: int) -> bytes:
    """Read all of the open file, and close it."""
    try:
        size, data = os.fstat(descriptor).st_size, bytearray()
        while max(size, len(data)) <= limit:  # it may grow
            piece = os.read(descriptor, _CHUNK)
            if not piece:
                return bytes(data)
            data += piece
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(descriptor)
    raise OSError(errno.EFBIG, f"it is larger than {limit} bytes", path)


def read_own(directory: PrivateDirectory, name: str, limit: int) -> bytes:
    """Read all of a regular file of the effective user. Raises as `read_regular`."""
    path = os.path.join(directory.path, name)
    return read_regular(name, directory.descriptor, path, limit, owner=os.geteuid())


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`. Raises `OSError`: some of it may then be written."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def replace_own(directory: PrivateDirectory, name: str, data: bytes, *, mode: int = 0o600) -> None:
    """Replace the content of the file `name`, all or nothing. The caller holds the directory's lock.

    Anything but a directory is replaced. Raises `OSError` that names it; then it is unchanged. No fsync: the file
    survives the process, not a crash of the machine.
    """
    new, path = f"{name}.new", os.path.join(directory.path, name)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=directory.descriptor)  # left by a killed process
        _replace(directory.descriptor, new, name, data, mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def replace_file(path: str, data: bytes, *, mode: int = 0o666) -> None:
    """As `replace_own`, in a directory that others may use too: a link at `path` is replaced, not followed.

    Raises `OSError` that names `path`.
    """
    where, name = os.path.split(path)
    try:
        directory = os.open(where or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _replace(directory, f".engine-{os.urandom(8).hex()}", name, data, mode)
        finally:
            os.close(directory)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    except ValueError as error:  # a NUL
        raise OSError(errno.EINVAL, str(error), path) from None


def write_output(path: str, data: bytes, *, mode: int = 0o666) -> None:
    """Write a command's output to the file at a user's `path`.

    A regular file, or none yet: replaced as a whole, with this `mode`. A link of this user or of root is followed; a
    device, a FIFO or an open descriptor (/dev/stdout) is written to. Raises `OSError` that names `path`: EPERM for
    another user's link or FIFO, which may lead anywhere.
    """
    at = path
    try:
        for _ in range(_MAX_LINKS):
            try:
                status = os.lstat(at)
            except FileNotFoundError:
                return replace_file(at, data, mode=mode)
            if status.st_uid not in {0, os.geteuid()} and stat.S_IFMT(status.st_mode) in _LEADING_ELSEWHERE:
                kind = "link" if stat.S_ISLNK(status.st_mode) else "FIFO or socket"
                raise OSError(errno.EPERM, f"it leads to a {kind} of another user", path)
            if not stat.S_ISLNK(status.st_mode):
                break
            where = os.path.realpath(os.path.dirname(at))
            if where == f"/proc/{os.getpid()}/fd":
                return _write_to(os.dup(int(os.path.basename(at))), data)
            at = os.path.join(where, os.readlink(at))
        else:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            return replace_file(at, data, mode=mode)
        return _write_to(os.open(at, os.O_WRONLY | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC), data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    except ValueError as error:  # a NUL
        raise OSError(errno.EINVAL, str(error), path) from None


def _write_to(descriptor: int, data: bytes) -> None:
    try:
        write_all(descriptor, data)
    finally:
        os.close(descriptor)


def _replace(directory: int, new: str, name: str, data: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(new, flags, mode, dir_fd=directory)
    try:
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)
        os.replace(new, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):  # report the first error
            os.unlink(new, dir_fd=directory)
        raise
