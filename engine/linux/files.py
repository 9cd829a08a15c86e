"""Walks by descriptor: every directory on the way is opened without following links, then judged.

A path that was checked and is then used again by name may name something else by then. So each function
here answers with an open descriptor of the very thing it judged. Sources: openat(2), fstat(2), inode(7).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection
from dataclasses import dataclass

#: As the kernel's own limit for one resolution, path_resolution(7).
MAX_LINKS = 40

_NIX_STORE = "/nix/store"


class UntrustedPathError(Exception):
    """Something on a path may not be relied on: `path` is that thing, `why` says what is wrong with it."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path!r} {why}")
        self.path = path
        self.why = why


@dataclass(frozen=True, slots=True)
class Opened:
    """An `O_PATH` descriptor, the path, free of links, by which it was reached, and its directory's status."""

    descriptor: int
    path: str
    parent: os.stat_result | None = None


def is_loosely_writable(status: os.stat_result) -> bool:
    """Whether users other than the owner can replace entries: group- or world-writable and not sticky.

    A POSIX ACL that lets another user write shows in the group bits, acl(5).
    """
    return bool(status.st_mode & 0o022) and not status.st_mode & stat.S_ISVTX


def is_immutable_store_entry(path: str, status: os.stat_result) -> bool:
    """Whether this is a Nix store artefact that nobody, its owner included, has the mode to write."""
    return path.startswith(_NIX_STORE + "/") and not status.st_mode & 0o222


def distrust(path: str, status: os.stat_result, owners: Collection[int]) -> str | None:
    """Why an untrusted user could rewrite the directory or link at `path`, or None when none could."""
    if status.st_uid not in owners and not is_immutable_store_entry(path, status):
        wanted = " or ".join(f"uid {uid}" for uid in sorted(owners))
        return f"is owned by uid {status.st_uid} (expected {wanted})"
    if stat.S_ISDIR(status.st_mode) and is_loosely_writable(status):
        return (
            f"has unsafe permissions {stat.S_IMODE(status.st_mode):04o} (writable by others and not sticky)"
        )
    return None


def open_trusted(path: str, owners: Collection[int], *, follow_links: bool) -> Opened:  # noqa: PLR0912 (one walk)
    """Open what the absolute `path` names, judging every directory and link on the way from the root.

    `owners` are the uids that may own them. With `follow_links` a link is followed after it was judged
    itself, by reading the link that was opened; without it any link is refused, and so is `..`. The last
    component is opened but, unless it is a link, not judged: that is the caller's.

    Raises `UntrustedPathError`, `FileNotFoundError` and other `OSError`s naming the part that failed.
    """
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is not absolute")
    if not follow_links and ".." in path.split("/"):
        raise UntrustedPathError(path, "has a parent-directory component '..'")
    stack = [Opened(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), "/")]
    pending = _components(path)
    links = 0
    try:
        while pending:
            name = pending.pop()
            here = stack[-1]
            parent = judge_directory(here, owners)
            if name == "..":
                if len(stack) > 1:
                    os.close(stack.pop().descriptor)
                continue
            where = os.path.join(here.path, name)
            try:
                descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here.descriptor)
            except OSError as error:
                raise _located(error, where) from None
            status = os.fstat(descriptor)
            if not stat.S_ISLNK(status.st_mode):
                stack.append(Opened(descriptor, where, parent))
                continue
            try:
                if not follow_links:
                    raise UntrustedPathError(where, "is a symbolic link")
                if why := distrust(where, status, owners):
                    raise UntrustedPathError(where, f"is a symbolic link that {why}")
                target = os.readlink("", dir_fd=descriptor)
            finally:
                os.close(descriptor)
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith("/"):
                while len(stack) > 1:
                    os.close(stack.pop().descriptor)
            pending.extend(_components(target))
        return stack.pop()
    finally:
        for opened in stack:
            os.close(opened.descriptor)


def _components(path: str) -> list[str]:
    """The names in `path`, last first, so that `pop` gives the next one."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def judge_directory(opened: Opened, owners: Collection[int]) -> os.stat_result:
    """The status of what is `opened`, which must be a directory that only `owners` can rewrite.

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


@dataclass(frozen=True, slots=True)
class PrivateDirectory:
    """A directory that is the effective user's alone: mode 0700, not a link. `descriptor` is open on it."""

    descriptor: int
    path: str
    created: bool

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode, which tell two directories at one path apart, inode(7)."""
        status = os.fstat(self.descriptor)
        return status.st_dev, status.st_ino

    def changed(self, parent: int) -> str | None:
        """What has become of it in the open `parent`, in one phrase; None when its name still names it."""
        try:
            status = os.stat(os.path.basename(self.path), dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            return f"{self.path!r}: {error.strerror}"
        if (status.st_dev, status.st_ino) != self.identity:
            return f"{self.path!r} was replaced"
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) != 0o700:
            return f"{self.path!r} changed its owner or mode"
        return None


def make_private_directory(parent: int, parent_path: str, name: str) -> PrivateDirectory:
    """Make or adopt the directory `name` in `parent`, owned by the effective user, mode exactly 0700.

    An existing directory of our own with a looser mode is tightened. Raises `UntrustedPathError` for a link,
    for anything but a directory and for another owner; `OSError` where the kernel refuses.
    """
    path = os.path.join(parent_path, name)
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
        created = True
    except FileExistsError:
        created = False
    except OSError as error:
        raise _located(error, path) from None
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        raise _refused_kind(error, parent, name, path) from None
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid():
            raise UntrustedPathError(path, f"is owned by uid {status.st_uid} (expected uid {os.geteuid()})")
        if stat.S_IMODE(status.st_mode) != 0o700:
            os.fchmod(descriptor, 0o700)
    except BaseException:
        os.close(descriptor)
        raise
    return PrivateDirectory(descriptor, path, created)


def _refused_kind(error: OSError, parent: int, name: str, path: str) -> Exception:
    """What stood in the way of opening a directory; the look is for the message only, openat has decided."""
    if error.errno not in (errno.ELOOP, errno.ENOTDIR):
        return _located(error, path)
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        return UntrustedPathError(path, "is a symbolic link")
    return UntrustedPathError(path, "is not a directory")
