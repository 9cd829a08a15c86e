"""Whether the kernel killed a process of a container for its memory limit, by the counter of its cgroup.

runsc makes the cgroup after the hand-off and removes it when it ends. So a thread waits for the counter to appear,
opens it and reads it whenever the kernel says that it changed. It counts from the cgroup's start: a late look misses
nothing, only the cgroup's end does. Sources: the kernel's cgroup-v1/memory.rst (memory.oom_control,
cgroup.event_control) and cgroup-v2.rst (memory.events).
"""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import time
from collections.abc import Mapping, Sequence

from engine.state import cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

_V1, _V2 = "memory.oom_control", "memory.events"
_COUNT = "oom_kill"
_MAX_SIZE = 4096
#: Seconds between two looks for the cgroup, at first and at most, and in all.
_FIRST_INTERVAL, _MAX_INTERVAL, _PATIENCE = 0.005, 0.25, 60.0
#: Seconds between two readings once the kernel has said that memory is out, and how long the count may take to follow.
_SOON, _SETTLES = 0.001, 0.1


def counters(config: Mapping[str, Any], container_id: str) -> tuple[str, ...]:
    """Where the counter of the container of this `config` will be, by kind of cgroup. Raises `OSError`."""
    found = []
    for top, path in cgroups.places(config, container_id):
        if os.path.exists(f"{top}/cgroup.controllers"):
            found.append(f"{path}/{_V2}")
        elif os.path.exists(f"{top}/memory.limit_in_bytes"):
            found.append(f"{path}/{_V1}")
    return tuple(found)


class OomWatch:
    """Watches the counter among `paths` that appears first. `begin` starts it, `result` ends it."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths: Final = paths
        #: A cgroup that its manager made may have counted before.
        self._before: Final = {path: _read_path(path) or 0 for path in paths}
        self._path: str | None = None
        self._count = 0
        self._is_sure = True
        self._is_over = False
        self._done = _thread.allocate_lock()

    def begin(self) -> None:
        """Start to watch. Call it once."""
        self._done.acquire()
        _thread.start_new_thread(self._watch, ())

    def result(self) -> tuple[bool, str] | None:
        """Whether a process was killed, and the counter that says so; None where nobody can say.

        Call it once, after the container's end.
        """
        self._is_over = True
        path = self._path
        if path is None:
            return None
        if (count := _read_path(path)) is not None:  # runsc was killed, or the cgroup is its manager's
            return count > self._before[path], path
        is_told = self._done.acquire(timeout=10 * _SETTLES)
        return (self._count > 0, path) if self._count or (is_told and self._is_sure) else None

    def _watch(self) -> None:
        try:
            with contextlib.ExitStack() as held:
                interval, until = _FIRST_INTERVAL, time.monotonic() + _PATIENCE
                while (found := self._opened(held)) is None:
                    if self._is_over or time.monotonic() > until:
                        return
                    time.sleep(interval)
                    interval = min(1.1 * interval, _MAX_INTERVAL)
                self._path, counter = found
                self._follow(counter, held)
        except OSError:
            self._is_sure = False
        finally:
            self._done.release()

    def _opened(self, held: contextlib.ExitStack) -> tuple[str, int] | None:
        for path in self._paths:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                counter = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                held.callback(os.close, counter)
                return path, counter
        return None

    def _follow(self, counter: int, held: contextlib.ExitStack) -> None:
        """Read the counter at first and at each notice, until a kill was counted or the cgroup is gone."""
        poll = select.poll()
        notices = _ask_for_notices(self._path or "", counter, held)
        poll.register(
            counter if notices is None else notices, select.POLLPRI if notices is None else select.POLLIN
        )
        before = self._before[self._path or ""]
        noticed = 0
        while True:
            until = time.monotonic() + (_SETTLES if noticed else 0)
            while True:
                count = _read(counter)
                if count is None:
                    # Its removal gives a notice of its own, so one more than that was of memory.
                    self._is_sure = notices is None or noticed + _pending(notices, poll) < 2
                    return
                self._count = max(0, count - before)
                if self._count or time.monotonic() >= until:
                    break
                time.sleep(_SOON)
            if self._count:
                return
            poll.poll()
            noticed += 1 if notices is None else os.eventfd_read(notices)


def _ask_for_notices(path: str, counter: int, held: contextlib.ExitStack) -> int | None:
    """An eventfd for when memory is out, and when the cgroup goes; None in v2, where the file itself is polled."""
    if os.path.basename(path) == _V2:
        return None
    notices = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    held.callback(os.close, notices)
    control = os.open(f"{os.path.dirname(path)}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
    held.callback(os.close, control)
    os.write(control, f"{notices} {counter}".encode())
    return notices


def _pending(notices: int, poll: select.poll) -> int:
    """What the kernel still says within the time that a removal takes."""
    poll.poll(_SETTLES * 1000)
    try:
        return os.eventfd_read(notices)
    except BlockingIOError:
        return 0


def _read(counter: int) -> int | None:
    """The count; None once the cgroup is gone."""
    try:
        text = os.pread(counter, _MAX_SIZE, 0)
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(b" ")
        if name == _COUNT.encode():
            return int(value)
    return None


def _read_path(path: str) -> int | None:
    try:
        counter = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read(counter)
    finally:
        os.close(counter)
