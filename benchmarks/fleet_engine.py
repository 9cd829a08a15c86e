"""One way to share out the checking of an archive, in an interpreter of its own: what it costs, as JSON.

usage: python -m benchmarks.fleet_engine processes|dask|ray FILE WORKERS
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from engine.verify.trace_check import verify
from engine.verify.workers import DaskCluster, Processes, Workers


@contextmanager
def processes(number: int) -> Iterator[Workers]:
    yield Processes(number)


@contextmanager
def dask(number: int) -> Iterator[Workers]:
    from distributed import LocalCluster

    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=number, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        yield DaskCluster(cluster.scheduler_address)


@contextmanager
def ray(number: int) -> Iterator[Workers]:
    import ray as library

    library.init(num_cpus=number, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    class Ray:
        def map(self, work: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
            remote = library.remote(num_cpus=1)(work)
            waiting: list[Any] = []
            for task in tasks:
                waiting.append(remote.remote(task))
                if len(waiting) >= 2 * number:
                    yield library.get(waiting.pop(0))
            for each in waiting:
                yield library.get(each)

    try:
        yield Ray()
    finally:
        library.shutdown()


def warm(number: int) -> int:
    """Nothing much: whoever answers has started."""
    return number


def resident(of: int) -> int:
    """KiB of all processes of this session, each with its share of what several hold, proc(5)."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, StopIteration):
            if os.getsid(int(process.name)) == of:
                lines = (process / "smaps_rollup").read_text().splitlines()
                found += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return found


def main(arguments: list[str]) -> int:
    name, file, workers = arguments
    ways: dict[str, Callable[[int], AbstractContextManager[Workers]]] = {
        "processes": processes,
        "dask": dask,
        "ray": ray,
    }
    package = {"processes": "gvisor-engine", "dask": "distributed", "ray": "ray"}[name]
    began = time.perf_counter()
    with ways[name](int(workers)) as made:
        list(made.map(warm, range(int(workers))))
        ready = time.perf_counter()
        digest, most = hashlib.sha256(), 0
        for number, result in enumerate(verify([file], runs=True, workers=made)):
            digest.update(f"{result}\n".encode())
            if number % 20_000 == 0:
                most = max(most, resident(os.getsid(0)))
        done = time.perf_counter()
    print(
        json.dumps(
            {
                "version": importlib.metadata.version(package),
                "start_seconds": ready - began,
                "seconds": done - ready,
                "memory_mb": most / 1024,
                "digest": digest.hexdigest(),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
