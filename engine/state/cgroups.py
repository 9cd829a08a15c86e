"""Remove the cgroups of a failed or killed container: runsc makes them before it records them.

Before the hand-off, the cgroups that do not exist yet are listed: in the record of a manager's container, else in the
file `cgroups` of the container's directory. Once no process of the container is left, those of the list that exist are
removed. A cgroup that existed before belongs to its manager. Source: cgroups(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping

from engine.linux.boot import boot_id
from engine.linux.files import PrivateDirectory, UntrustedPathError
from engine.linux.regular_files import read_own, replace_own
from engine.state.container import CGROUPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

TOP = "/sys/fs/cgroup"
#: Seconds. A killed process stays in its cgroup until its teardown is complete.
_TIMEOUT = 2.0
#: Bytes, at most, of that file.
_MAX_SIZE = 1 << 20


def missing(config: Mapping[str, Any], container_id: str) -> tuple[str, ...]:
    """The cgroup directories that runsc will create for the bundle with this `config`, the deepest first.

    Empty for a systemd path (`slice:prefix:name`): systemd removes what it made. Raises `OSError` if it cannot be told
    whether one exists: that one may be its manager's.
    """
    found: list[str] = []
    for top, path in places(config, container_id):
        here = path
        while here.startswith(f"{top}/") and not _is_directory(here):
            found.append(here)
            here = os.path.dirname(here)
    return tuple(dict.fromkeys(found))


def places(config: Mapping[str, Any], container_id: str) -> Iterator[tuple[str, str]]:
    """The cgroup in each hierarchy for the bundle with this `config`: the hierarchy's mount point, and the directory.

    None for a systemd path. Raises `OSError`.
    """
    path = str(config.get("linux", {}).get("cgroupsPath") or f"/{container_id}")
    if ":" in path:
        return
    for top, own in _hierarchies():
        yield top, os.path.normpath(f"{top}/{path}" if path.startswith("/") else f"{top}/{own}/{path}")


def _hierarchies() -> Iterator[tuple[str, str]]:
    """The mount point of each hierarchy, and this process's path in it. Raises `OSError`."""
    for line in _memberships():
        _, controllers, own = line.rstrip("\n").split(":", 2)
        for name in controllers.split(","):
            top = f"{TOP}/{name.removeprefix('name=')}".rstrip("/")
            if _is_directory(top):
                yield os.path.realpath(top, strict=True), own


def _memberships() -> list[str]:
    """The lines of /proc/self/cgroup: none where the kernel has no cgroups. Raises `OSError`."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            return file.readlines()
    except FileNotFoundError:
        return []


def _is_directory(path: str) -> bool:
    """As `os.path.isdir`, but a failure is no answer: raises `OSError`."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except ValueError:  # a NUL, or what no file name can be encoded from
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path) from None


class Listed:
    """The list in the directory `container`. A refused run takes back what it added to those listed `before`."""

    def __init__(self, container: PrivateDirectory, before: list[str]) -> None:
        self.container: Final = container
        self.before: Final = before

    def discard(self) -> list[str]:
        """Take it back: nothing was made. Raises `OSError`."""
        if self.before:
            _write(self.container, self.before)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(CGROUPS, dir_fd=self.container.descriptor)
        return []

    def close(self) -> None:
        """Nothing to close."""


def note(container: PrivateDirectory, paths: Iterable[str]) -> Listed:
    """List `paths` in the directory `container`, with the id of this boot: no cgroup outlives it.

    What is listed there already stays listed. Raises `OSError`.
    """
    before = _listed(container) or []
    _write(
        container, sorted({*paths, *before}, key=lambda path: (-path.count("/"), path))
    )  # the deepest first
    return Listed(container, before)


def _write(container: PrivateDirectory, paths: list[str]) -> None:
    text = "\0".join((boot_id(), *paths)).encode("utf-8", "surrogateescape")
    replace_own(container, CGROUPS, text)  # all or nothing: a path cut short may be another's cgroup


def _listed(container: PrivateDirectory) -> list[str] | None:
    """What is listed in the directory `container` in this boot; None if there is no list. Raises `OSError`."""
    try:
        boot, *paths = read_own(container, CGROUPS, _MAX_SIZE).decode("utf-8", "surrogateescape").split("\0")
    except FileNotFoundError:
        return None
    except UntrustedPathError:  # no list of ours: it goes, too, and is not followed
        from engine.state.trees import remove_tree

        remove_tree(container, CGROUPS)
        return None
    return paths if boot == boot_id() else []


def remove_listed(container: PrivateDirectory) -> bool:
    """Remove the cgroups that are listed in the directory `container`, and then the list: whether it is gone.

    One in which there are others' cgroups stays listed. Raises `OSError`: EBUSY while one has processes; then the list
    stays as it is.
    """
    if (paths := _listed(container)) is None:
        return True
    left = remove(paths)
    if busy := in_use(left):
        raise OSError(errno.EBUSY, "a cgroup of the container remains", busy[0])
    if left:
        return False
    os.unlink(CGROUPS, dir_fd=container.descriptor)
    return True


def in_use(left: Iterable[str]) -> list[str]:
    """Those of the cgroups `left` that are more than a parent of others: they have processes, or nobody can tell."""
    return [path for path in left if not _is_parent(path)]


def _is_parent(path: str) -> bool:
    try:
        with os.scandir(path) as entries:
            return any(entry.is_dir(follow_symlinks=False) for entry in entries)
    except OSError:
        return False


def remove(paths: Iterable[str]) -> list[str]:
    """Remove the cgroups `paths` that exist; returns those that could not be removed."""
    import time

    end = time.monotonic() + _TIMEOUT
    left = []
    for path in paths:
        while (failure := _rmdir(path)) == errno.EBUSY and not _is_parent(path) and time.monotonic() < end:
            time.sleep(0.01)
        if failure and _may_exist(path):
            left.append(path)
    return left


def _rmdir(path: str) -> int:
    """The error number of rmdir(2); 0 if it is gone."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return 0
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _may_exist(path: str) -> bool:
    """Whether a cgroup remains, or nobody can tell: a read-only file system refuses rmdir(2) of what is not there."""
    try:
        return _is_directory(path)
    except OSError:
        return True
