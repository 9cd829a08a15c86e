"""Remove the cgroups of a failed or killed container: runsc makes them before it records them.

Before the hand-off, the cgroups that do not exist yet are listed: in the record of a manager's container, else in the
file `cgroups` of the container's directory. Once no process of the container is left, those of the list that exist are
removed. A cgroup that existed before belongs to its manager. Source: cgroups(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Mapping

from engine.linux.boot import boot_id
from engine.linux.files import PrivateDirectory, UntrustedPathError
from engine.state.container import CGROUPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

_TOP = "/sys/fs/cgroup"
#: Seconds. A killed process stays in its cgroup until its teardown is complete.
_TIMEOUT = 2.0
#: Bytes, at most, of that file.
_MAX_SIZE = 1 << 20


def missing(config: Mapping[str, Any], container_id: str) -> tuple[str, ...]:
    """The cgroup directories that runsc will create for the bundle with this `config`, the deepest first.

    Empty for a systemd path (`slice:prefix:name`): systemd removes what it made.
    """
    path = str(config.get("linux", {}).get("cgroupsPath") or f"/{container_id}")
    if ":" in path:
        return ()
    found: list[str] = []
    for top, own in _hierarchies():
        here = os.path.normpath(f"{top}/{path}" if path.startswith("/") else f"{top}/{own}/{path}")
        while here.startswith(f"{top}/") and not os.path.isdir(here):
            found.append(here)
            here = os.path.dirname(here)
    return tuple(dict.fromkeys(found))


def _hierarchies() -> Iterator[tuple[str, str]]:
    """The mount point of each hierarchy, and this process's path in it."""
    with (
        contextlib.suppress(OSError),
        open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file,
    ):
        for line in file:
            _, controllers, own = line.rstrip("\n").split(":", 2)
            for name in controllers.split(","):
                top = f"{_TOP}/{name.removeprefix('name=')}".rstrip("/")
                if os.path.isdir(top):
                    yield os.path.realpath(top), own


class Listed:
    """The list in the directory `container`, which a refused run removes."""

    def __init__(self, container: PrivateDirectory) -> None:
        self.container: Final = container

    def discard(self) -> list[str]:
        """Remove the list: nothing was made. Raises `OSError`."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(CGROUPS, dir_fd=self.container.descriptor)
        return []

    def close(self) -> None:
        """Nothing to close."""


def note(container: PrivateDirectory, paths: tuple[str, ...]) -> Listed:
    """List `paths` in the directory `container`, with the id of this boot: no cgroup outlives it. Raises `OSError`."""
    text = "\0".join((boot_id(), *paths)).encode("utf-8", "surrogateescape")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(CGROUPS, flags, 0o600, dir_fd=container.descriptor)
        with open(descriptor, "wb", buffering=0) as file:
            file.write(text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.path.join(container.path, CGROUPS)) from None
    return Listed(container)


def remove_listed(container: PrivateDirectory) -> None:
    """Remove the cgroups that are listed in the directory `container`, and then the list.

    What is no list of ours goes, too, and is not followed. Raises `OSError`: EBUSY while a cgroup has processes; then
    the list stays.
    """
    from engine.linux.regular_files import read_own

    try:
        boot, *paths = read_own(container, CGROUPS, _MAX_SIZE).decode("utf-8", "surrogateescape").split("\0")
    except FileNotFoundError:
        return
    except UntrustedPathError:
        from engine.state.trees import remove_tree

        remove_tree(container, CGROUPS)
        return
    if boot == boot_id():
        remove_all(paths)
    os.unlink(CGROUPS, dir_fd=container.descriptor)


def remove_all(paths: Iterable[str]) -> None:
    """As `remove`. Raises `OSError`: EBUSY for one that could not be removed."""
    if left := remove(paths):
        raise OSError(errno.EBUSY, "a cgroup of the container remains", left[0])


def remove(paths: Iterable[str]) -> list[str]:
    """Remove the cgroups `paths` that exist; returns those that could not be removed."""
    import time

    end = time.monotonic() + _TIMEOUT
    left = []
    for path in paths:
        while True:
            try:
                os.rmdir(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno == errno.EBUSY and time.monotonic() < end:
                    time.sleep(0.01)
                    continue
                if os.path.isdir(path):
                    left.append(path)
            break
    return left
