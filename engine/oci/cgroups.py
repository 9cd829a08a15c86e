"""Remove the cgroups of a failed creation: runsc makes them before it records them.

Before the hand-off, the record lists the cgroups that do not exist yet. Once no process of the container is left, those
of the list that exist are removed. A cgroup that existed before belongs to its manager. Source: cgroups(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable, Iterator, Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TOP = "/sys/fs/cgroup"
#: Seconds. A killed process stays in its cgroup until its teardown is complete.
_TIMEOUT = 2.0


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


def remove(paths: Iterable[str]) -> list[str]:
    """Remove the cgroups `paths` that exist; returns those that could not be removed."""
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
