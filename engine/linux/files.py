"""Path walks by descriptor: every directory on the way is opened without following links, then checked.

A path that was checked may name something else when it is used again. So each function here returns an open descriptor
of what it checked. Sources: openat(2), fstat(2), inode(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Collection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final


#: As the kernel's own limit, path_resolution(7).
MAX_LINKS = 40

_NIX_STORE = "/nix/store"


class UntrustedPathError(Exception):
    """Something on a path cannot be trusted: `path` says which, `why` says what is wrong with it."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path!r} {why}")
        self.path = path
        self.why = why


class Opened:
    """An `O_PATH` descriptor, the path, free of links, by which it was reached, and its directory's status."""

    def __init__(self, descriptor: int, path: str, parent: os.stat_result | None = None) -> None:
        self.descriptor: Final = descriptor
        self.path: Final = path
        self.parent: Final = parent


def is_text(path: str) -> bool:
    """Whether the path is UTF-8: os.fsdecode makes half a surrogate pair of a byte that is none."""
    return path.isascii() or not any("\ud800" <= character <= "\udfff" for character in path)


def is_loosely_writable(status: os.stat_result) -> bool:
    """Whether others than the owner can replace entries: writable by group or world, and not sticky.

    A POSIX ACL that lets another user write shows in the group bits, acl(5).
    """
    return bool(status.st_mode & 0o022) and not status.st_mode & stat.S_ISVTX


def is_immutable_store_entry(path: str, status: os.stat_result) -> bool:
    """Whether this is a Nix store entry whose mode lets nobody write, not even its owner."""
    return path.startswith(_NIX_STORE + "/") and not status.st_mode & 0o222


def distrust(path: str, status: os.stat_result, owners: Collection[int | None]) -> str | None:
    """Why an untrusted user could rewrite the directory or link at `path`; None if none could."""
    if status.st_uid not in owners and not is_immutable_store_entry(path, status):
        wanted = " or ".join(f"uid {uid}" for uid in sorted(uid for uid in owners if uid is not None))
        return f"is owned by uid {status.st_uid} (expected {wanted})"
    if stat.S_ISDIR(status.st_mode) and is_loosely_writable(status):
        return (
            f"has unsafe permissions {stat.S_IMODE(status.st_mode):04o} (writable by others and not sticky)"
        )
    return None


def open_trusted(  # noqa: PLR0912, PLR0915 (one walk)
    path: str,
    owners: Collection[int],
    *,
    follow_links: bool,
    unmapped: int | None = None,
    directory: bool = False,
    device_without_links: int | None = None,
) -> Opened:
    """Open the absolute `path`, checking every directory and link on the way from the root.

    `owners`: uids that may own them. `follow_links`: a link is checked and then followed, by reading the link that was
    opened; otherwise links and `..` are refused. The last component is opened but, unless it is a link, left for the
    caller to check; with `directory` it is checked like those above it. `unmapped`: a uid that may also own
    directories, but none inside a directory of the effective user. `device_without_links`: the number of a file system
    whose links are refused.

    Raises `UntrustedPathError`, `FileNotFoundError` and other `OSError`s that name the part that failed.
    """
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is not absolute")
    if not follow_links and ".." in path.split("/"):
        raise UntrustedPathError(path, "has a parent-directory component '..'")
    stack = [Opened(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), "/")]
    pending = _components(path)
    trusted = {*owners, unmapped}
    links = 0
    try:
        while pending:
            name = pending.pop()
            here = stack[-1]
            parent = _judge_directory(here, trusted)
            if parent.st_uid == os.geteuid():
                trusted.discard(unmapped)
            if name == "..":
                if len(stack) > 1:
                    os.close(stack.pop().descriptor)
                continue
            where = os.path.join(here.path, name)
            try:
                descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here.descriptor)
            except OSError as error:
                raise _located(error, where) from None
            stack.append(Opened(descriptor, where, parent))
            status = os.fstat(descriptor)
            if not stat.S_ISLNK(status.st_mode):
                continue
            try:
                if not follow_links:
                    raise UntrustedPathError(where, "is a symbolic link")
                if status.st_dev == device_without_links:
                    raise UntrustedPathError(where, "is a link of a file system whose links are not followed")
                if why := distrust(where, status, trusted):
                    raise UntrustedPathError(where, f"is a symbolic link that {why}")
                target = os.readlink("", dir_fd=descriptor)
            finally:
                os.close(stack.pop().descriptor)
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith("/"):
                while len(stack) > 1:
                    os.close(stack.pop().descriptor)
            pending.extend(_components(target))
        if directory:
            _judge_directory(stack[-1], trusted)
        return stack.pop()
    finally:
        for opened in stack:
            os.close(opened.descriptor)


def _components(path: str) -> list[str]:
    """The names in `path`, last first, so that `pop` returns the next one."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _judge_directory(opened: Opened, owners: Collection[int | None]) -> os.stat_result:
    """The status of `opened`, which must be a directory that only `owners` can rewrite.

    Raises `UntrustedPathError`, and `NotADirectoryError`.
    """
    status = os.fstat(opened.descriptor)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), opened.path)
    if why := distrust(opened.path, status, owners):
        raise UntrustedPathError(opened.path, why)
    return status


def _located(error: OSError, path: str) -> OSError:
    return OSError(error.errno, error.strerror, path)


class PrivateDirectory:
    """A directory of the effective user alone: mode 0700, not a link, open on `descriptor`."""

    def __init__(self, descriptor: int, path: str, created: bool) -> None:
        self.descriptor: Final = descriptor
        self.path: Final = path
        self.created: Final = created

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode, inode(7)."""
        status = os.fstat(self.descriptor)
        return status.st_dev, status.st_ino

    def close(self) -> None:
        """Close the descriptor; the directory stays."""
        os.close(self.descriptor)

    def is_named_in(self, parent: int) -> bool:
        """Whether its name in the open `parent` is still its own. Raises `OSError`."""
        try:
            status = os.stat(os.path.basename(self.path), dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self.identity

    def changed(self, parent: int) -> str | None:
        """How it has changed in the open `parent`, in one phrase; None if it has not."""
        try:
            if not self.is_named_in(parent):
                return f"{self.path!r} is gone or was replaced"
            status = os.fstat(self.descriptor)
        except OSError as error:
            return f"{self.path!r}: {error.strerror}"
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) != 0o700:
            return f"{self.path!r} changed its owner or mode"
        return None


def make_private_directory(
    parent: int, parent_path: str, name: str, *, tighten: bool = True
) -> PrivateDirectory:
    """Make or open the directory `name` in `parent`, owned by the effective user, with mode 0700.

    An existing directory of our own with another mode gets this one, or is refused without `tighten`. Raises
    `UntrustedPathError` for a link, anything but a directory, another owner, or such a mode; `OSError` if the kernel
    refuses. If it made the directory and could not open it, it removes it again.
    """
    path = os.path.join(parent_path, name)
    while True:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
            created = True
        except FileExistsError:
            created = False
        except OSError as error:
            raise _located(error, path) from None
        try:
            return _adopt(parent, path, name, created=created, tighten=tighten or created)
        except FileNotFoundError:
            continue  # another engine removed it; if the parent is gone, mkdir fails
        except BaseException:
            if created:
                with contextlib.suppress(OSError):
                    os.rmdir(name, dir_fd=parent)
            raise


def open_private_directory(parent: int, parent_path: str, name: str) -> PrivateDirectory:
    """Open the directory `name` in `parent`, owned by the effective user; its mode is not changed.

    Raises as `make_private_directory`, and `FileNotFoundError`.
    """
    path = os.path.join(parent_path, name)
    descriptor = _open_own_directory(parent, path, name)
    return PrivateDirectory(descriptor, path, created=False)


def _adopt(parent: int, path: str, name: str, *, created: bool, tighten: bool) -> PrivateDirectory:
    descriptor = _open_own_directory(parent, path, name)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode != 0o700:
            if not tighten:
                raise UntrustedPathError(path, f"has permissions {mode:04o} (expected 0700)")
            os.fchmod(descriptor, 0o700)
    except BaseException:
        os.close(descriptor)
        raise
    return PrivateDirectory(descriptor, path, created)


def _open_own_directory(parent: int, path: str, name: str) -> int:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        raise _refused_kind(error, parent, name, path) from None
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid():
            raise UntrustedPathError(path, f"is owned by uid {status.st_uid} (expected uid {os.geteuid()})")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _refused_kind(error: OSError, parent: int, name: str, path: str) -> Exception:
    """Why openat(2) refused a directory; the stat is for the message only."""
    if error.errno not in (errno.ELOOP, errno.ENOTDIR):
        return _located(error, path)
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        return UntrustedPathError(path, "is a symbolic link")
    return UntrustedPathError(path, "is not a directory")


def close_all_but(kept: Collection[int]) -> None:
    """Close every descriptor of this process but those in `kept`."""
    for name in os.listdir("/proc/self/fd"):
        if (descriptor := int(name)) not in kept:
            with contextlib.suppress(OSError):  # the descriptor of the listing itself
                os.close(descriptor)


def leave_caller(kept: Collection[int], *, standard: Collection[int] = (0, 1, 2)) -> None:
    """Hold nothing of the caller's: not its directory, the streams `standard`, or descriptors but those in `kept`.

    What reads the caller's output then sees its end, whatever this process waits for. Raises `OSError`.
    """
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for stream in standard:
        os.dup2(nothing, stream)
    close_all_but({0, 1, 2, *kept})
