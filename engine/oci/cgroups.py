"""The cgroups that a creation may leave: runsc makes them before it writes down anywhere that it did.

Those that are missing before the hand-off are noted in the record; once nothing of the container lives, those of them
that are there are removed. A cgroup that was there before is its manager's. Source: cgroups(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable, Iterator, Mapping

from engine.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_TOP = "/sys/fs/cgroup"
#: Seconds. A process that was killed is in its cgroup until all of it is torn down.
_TIMEOUT = 2.0


def missing(config: Mapping[str, Any], container_id: str) -> tuple[str, ...]:
    """The directories that runsc will make for the bundle with this `config`, the deepest first.

    A path of systemd's (`slice:prefix:name`) has none: systemd removes what it made.
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
    """Where each hierarchy is mounted, and the path of this process in it."""
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
    """Remove those of the cgroups `paths` that are there, and answer with those that could not be."""
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
