"""What the last line of a supervised run says of its end. Part of `engine.traces.schema`."""

from __future__ import annotations

from typing import Annotated, TypedDict

from engine.traces.asked_schema import Says
from engine.traces.move import Oom


class Resources(TypedDict):
    """What runsc and the processes that it waited for used, getrusage(2)."""

    user_us: Annotated[
        int, Says("Time on the CPU in user mode, in microseconds.", "0 or more; at most what all CPUs have")
    ]
    system_us: Annotated[
        int, Says("Time on the CPU in the kernel, in microseconds.", "0 or more; at most what all CPUs have")
    ]
    max_rss_kib: Annotated[int, Says("The largest resident set of one process, in KiB.", free="kernel")]


class EndFacts(TypedDict):
    """How the container ended, as its supervisor saw it. Without `--supervise` there is no such line."""

    exit_code: Annotated[
        int | None,
        Says(
            "The exit code of runsc, which is the container's; null after a signal.",
            "0 to 255; null if `signal`",
        ),
    ]
    signal: Annotated[
        str | None,
        Says(
            "The signal that ended runsc itself; null if it exited.", "a signal's name; null if `exit_code`"
        ),
    ]
    oom: Annotated[
        Oom,
        Says(
            "Whether the kernel killed a process of the container for its memory limit.",
            "`unknown` if no `oom_counter`",
        ),
    ]
    oom_counter: Annotated[
        str | None,
        Says(
            "The cgroup's counter that says so; null if none was read.",
            "a memory cgroup's; `ignore_cgroups`, `asked.limits`",
        ),
    ]
    duration_ns: Annotated[
        int, Says("From the hand-off to the end, in nanoseconds.", "at most from `exec` to this line")
    ]
    resources: Annotated[Resources, Says("What it used.")]
