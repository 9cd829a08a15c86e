"""The guard of a run's end: whether a supervisor can have seen what is recorded."""

from __future__ import annotations

import os
from collections.abc import Mapping

from engine.traces.move import Facts, Oom

_MAX_EXIT_CODE = 255
_CGROUPS = "/sys/fs/cgroup/"
#: The counters of kills for memory: of cgroup v1, and of v2.
OOM_COUNTERS = ("memory.oom_control", "memory.events")
#: Signals whose default is to end a process, signal(7); and real-time ones. glibc keeps two of those below SIGRTMIN.
_ENDING = frozenset(
    {
        *("SIGABRT", "SIGALRM", "SIGBUS", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT", "SIGIO", "SIGKILL"),
        *("SIGPIPE", "SIGPROF", "SIGPWR", "SIGQUIT", "SIGSEGV", "SIGSTKFLT", "SIGSYS", "SIGTERM", "SIGTRAP"),
        *("SIGUSR1", "SIGUSR2", "SIGVTALRM", "SIGXCPU", "SIGXFSZ", "SIGRTMIN", "SIGRTMAX"),
        *(f"SIGRTMIN{number}" for number in (-2, -1, *range(1, 30))),
    }
)


def end_can_be_so(known: Mapping[str, Facts]) -> bool:
    end, options = known["end"], known["header"]["options"]
    code, signal, counter, used = end["exit_code"], end["signal"], end["oom_counter"], end["resources"]
    if (code is None) is (signal is None):
        return False
    if code is not None and not 0 <= code <= _MAX_EXIT_CODE:
        return False
    if signal is not None and signal not in _ENDING:
        return False
    if (counter is None) is not (end["oom"] == Oom.UNKNOWN):
        return False
    if counter is not None and (options["ignore_cgroups"] or not _is_counter(counter)):
        return False
    return end["duration_ns"] >= 0 and all(value >= 0 for value in used.values())


def _is_counter(path: str) -> bool:
    return (
        path.startswith(_CGROUPS)
        and os.path.normpath(path) == path
        and os.path.basename(path) in OOM_COUNTERS
    )
