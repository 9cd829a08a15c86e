"""Whole processes, measured in turn: A B C, B C A, ... so that a machine that slows down slows all of them down.

pyperf and hyperfine measure one command to its end and then the next; on a machine that others use, too, the ratio of
two such figures is noise. So this is our own, and all of it.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIMEOUT = 120


@dataclass(frozen=True)
class Contender:
    """Something that starts a container. `command` makes the arguments for a container's id that nobody has had."""

    key: str
    label: str
    command: Callable[[str], Sequence[str]]
    environment: Mapping[str, str]
    identity: Mapping[str, Any] = field(default_factory=dict)

    def start(self, container_id: str, **more: Any) -> subprocess.Popen[bytes]:
        how: dict[str, Any] = {**self.identity, **more}
        process: subprocess.Popen[bytes] = subprocess.Popen(
            list(self.command(container_id)),
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            **how,
        )
        return process

    def once(self) -> float:
        """Milliseconds from before the process is made to after it has ended. Raises `RuntimeError`."""
        container_id = new_id()
        began = time.perf_counter_ns()
        process = self.start(container_id)
        _, said = process.communicate(timeout=TIMEOUT)
        took = (time.perf_counter_ns() - began) / 1e6
        if process.returncode != 0:
            raise RuntimeError(f"{self.label}: exit code {process.returncode}: {said.decode().strip()}")
        return took


_ids = iter(range(1 << 62))


def new_id() -> str:
    return f"bench-{os.getpid()}-{next(_ids)}"


def in_turn(contenders: Sequence[Contender], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each, by key, after one round that is not counted."""
    found: dict[str, list[float]] = {contender.key: [] for contender in contenders}
    for number in range(-1, rounds):
        first = number % len(contenders)
        for contender in [*contenders[first:], *contenders[:first]]:
            took = contender.once()
            if number >= 0:
                found[contender.key].append(round(took, 2))
    return found


def at_once(contender: Contender, parallel: int, starts: int) -> float:
    """Containers a second, when `parallel` of `starts` are always under way."""
    began = time.perf_counter()
    with ThreadPoolExecutor(parallel) as pool:
        list(pool.map(lambda _: contender.once(), range(starts)))
    return starts / (time.perf_counter() - began)


_PEAKS = """
import os, sys
null = os.open(os.devnull, os.O_RDWR)
for number in range(int(sys.argv[1])):
    argv = [arg.replace("{}", f"{os.getpid()}-{number}") for arg in sys.argv[2:]]
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)])
    _, status, used = os.wait4(pid, 0)
    print(used.ru_maxrss, os.waitstatus_to_exitcode(status))
"""


def peaks(contender: Contender, times: int) -> list[int]:
    """KiB that the process took at most, each time: getrusage(2) of a child that a small interpreter starts.

    Linux counts for a program what the process was before it executed it, so the one that starts it must be small.
    """
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _PEAKS, str(times), *contender.command("peak-{}")],
        env=dict(contender.environment),
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT,
        cwd="/",
        **contender.identity,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    if any(code != "0" for _, code in lines):
        raise RuntimeError(f"{contender.label}: {done.stderr.strip()}")
    return [int(peak) for peak, _ in lines]


def ratios(of: Sequence[float], to: Sequence[float]) -> float:
    """The median of the ratios, pair by pair."""
    return statistics.median(one / other for one, other in zip(of, to, strict=True))


def machine(runsc: str) -> dict[str, str]:
    """What this was measured on."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    load = os.getloadavg()
    version = subprocess.run([runsc, "--version"], capture_output=True, text=True, check=True)
    return {
        "CPU": cpu,
        "cores": str(os.cpu_count()),
        "memory": f"{memory / (1 << 30):.0f} GiB",
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
        "Python": platform.python_version(),
        "runsc": version.stdout.splitlines()[0].removeprefix("runsc version "),
        "load before": f"{load[0]:.1f}",
    }
