"""Processes: which of them execute a file, and how to end them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection

from engine.linux.syscall import library_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import Popen
    from typing import Any

_PR_SET_PDEATHSIG = 1


def runs(pid: int, files: Collection[tuple[int, int]], argv_markers: tuple[str, ...]) -> bool:
    """Whether process `pid` lives, executes one of the `files` (device and inode), and has all `argv_markers`.

    Containers may share the file, so each path in `argv_markers` must be an argument or the value of one,
    proc_pid_exe(5), proc_pid_cmdline(5). A zombie executes nothing, and a reused pid does not match. A process that
    this user may not inspect is not of this user's containers.
    """
    try:
        status = os.stat(f"/proc/{pid}/exe")
    except OSError:
        return False
    if (status.st_dev, status.st_ino) not in files:
        return False
    told = {value for given in arguments(pid) for value in (given, given.partition(b"=")[2])}
    return told.issuperset(map(os.fsencode, argv_markers))


def started(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot, proc_pid_stat(5): this tells it from a reused pid.

    None if it has ended, reaped or not.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def arguments(pid: int) -> list[bytes]:
    """The arguments of process `pid`; none if it has ended."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def executing(files: Collection[tuple[int, int]], argv_markers: tuple[str, ...]) -> list[int]:
    """The processes for which `runs` is true."""
    return _all(lambda pid: runs(pid, files, argv_markers))


def _all(is_one: Callable[[int], bool]) -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and is_one(int(name))]


def end_all(
    is_one: Callable[[int], bool],
    *,
    seconds: float,
    ends_itself: Callable[[int], bool] | None = None,
    grace: float = 0.0,
) -> list[int]:
    """Kill every process for which `is_one` is true, and wait for their ends; those left after `seconds`.

    Each is opened as a pidfd and then checked again, so that no process with a reused pid is killed, pidfd_open(2).
    Those for which `ends_itself` is true are killed only after `grace` seconds.
    """
    begin = time.monotonic()
    deadline = begin + seconds
    while remaining := _all(is_one):
        for pid in remaining:
            if ends_itself is not None and time.monotonic() < begin + grace and ends_itself(pid):
                continue
            try:
                held = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                if is_one(pid):
                    signal.pidfd_send_signal(held, signal.SIGKILL)
            except ProcessLookupError:
                pass
            finally:
                os.close(held)
        if time.monotonic() > deadline:
            return remaining
        time.sleep(0.005)
    return []


def end_group(leader: Popen[Any]) -> None:
    """Kill and reap the process group of `leader`, unless that was reaped."""
    if leader.returncode is None:  # not reaped: its pid is still the group's
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent, `parent`, ends, PR_SET_PDEATHSIG(2const).

    This lasts over execve(2), and children do not inherit it. Raises `OSError`. Ends this process if the parent is
    already gone.
    """
    library_call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, about="PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)
