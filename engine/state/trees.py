"""Remove a tree of whatever kind, by descriptor: no link is followed, and no depth is too much."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable

from engine.linux.files import PrivateDirectory
from engine.linux.mounts import mounted_beneath

#: A deeper directory is moved to the top of the tree first: descriptors and the interpreter's stack are limited.
_MAX_DEPTH = 64


def remove_tree(directory: PrivateDirectory, name: str) -> None:
    """Remove `name` in `directory`, of whatever kind, and all beneath it. It may be gone already.

    What cannot be removed stays, and all else goes. Raises `OSError` that names the first path that stays: EBUSY,
    before anything is removed, if something is mounted in the tree.
    """
    path = os.path.join(directory.path, name)
    try:
        status = os.stat(name, dir_fd=directory.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode) and (mounted := mounted_beneath(path)):
        raise OSError(errno.EBUSY, f"something is mounted on {mounted[0]!r}", path)
    removal = _Removal()
    removal.remove(directory.descriptor, name, path, 0)
    if removal.failed:
        raise removal.failed[0]


def remove_trees(directory: PrivateDirectory, names: Iterable[str]) -> None:
    """As `remove_tree`, for each of `names`: one that cannot be removed does not keep the others."""
    failed = []
    for name in names:
        try:
            remove_tree(directory, name)
        except OSError as error:
            failed.append(error)
    if failed:
        raise failed[0]


class _Removal:
    """One removal: what failed, each with its path, and the open top of the tree with its path."""

    def __init__(self) -> None:
        self.failed: list[OSError] = []
        self._top: tuple[int, str] | None = None

    def remove(self, parent: int, name: str, path: str, depth: int) -> None:
        try:
            try:
                os.unlink(name, dir_fd=parent)
            except IsADirectoryError:
                if self._top is not None and depth > _MAX_DEPTH:
                    os.rename(name, f"deep-{os.urandom(8).hex()}", src_dir_fd=parent, dst_dir_fd=self._top[0])
                elif self._empty(parent, name, path, depth):
                    os.rmdir(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        except OSError as error:
            self.failed.append(OSError(error.errno, error.strerror, path))

    def _empty(self, parent: int, name: str, path: str, depth: int) -> bool:
        """Remove what is in the directory; whether all of it is gone. Raises `OSError`."""
        descriptor = _open(parent, name)
        before, tried = len(self.failed), set[str]()
        try:
            if depth == 0:
                self._top = descriptor, path
            while left := set(os.listdir(descriptor)) - tried:  # what was moved to the top is found there
                tried |= left
                for entry in sorted(left):
                    self.remove(descriptor, entry, os.path.join(path, entry), depth + 1)
        finally:
            os.close(descriptor)
        return len(self.failed) == before


def _open(parent: int, name: str) -> int:
    """The directory `name` in `parent`, open; one of the effective user's own becomes writable. Raises `OSError`."""
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(name, os.O_RDONLY | flags, dir_fd=parent)
    except PermissionError:
        descriptor = os.open(name, os.O_PATH | flags, dir_fd=parent)
    opened = f"/proc/self/fd/{descriptor}"
    try:
        status = os.fstat(descriptor)
        if status.st_uid == os.geteuid() and status.st_mode & 0o700 != 0o700:
            os.chmod(opened, 0o700)
        return os.open(opened, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(descriptor)
