"""Who does the work of judging many traces: processes of this machine, or those of a Dask cluster.

Both answer in the order of the tasks and have only some under way at a time, so that the memory they take does not
depend on how many there are.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context, parent_process
from typing import Any, Protocol, TypeVar

from engine import __version__
from engine.errors import EngineError, Reason
from engine.lifecycle.spec_files import spec_digest

_Task = TypeVar("_Task")
_Answer = TypeVar("_Answer")
_AHEAD = 2  # tasks for each worker: one that it does, one that waits for it
#: How long a cluster is waited for, in seconds.
TIMEOUT = 10


class WorkersError(EngineError):
    """Those who do the work cannot go on."""

    step = "workers"


class Workers(Protocol):
    """What shares work out."""

    def map(self, work: Callable[[_Task], _Answer], tasks: Iterable[_Task]) -> Iterator[_Answer]:
        """What `work`, a function of a module, makes of each task, in their order. Raises `WorkersError`."""


class ThisProcess:
    """One after the other, here."""

    def map(self, work: Callable[[_Task], _Answer], tasks: Iterable[_Task]) -> Iterator[_Answer]:
        return map(work, tasks)


class Processes:
    """So many processes of this machine. They end with the one that asked."""

    def __init__(self, number: int) -> None:
        self._number = number

    def map(self, work: Callable[[_Task], _Answer], tasks: Iterable[_Task]) -> Iterator[_Answer]:
        from concurrent.futures import ProcessPoolExecutor
        from concurrent.futures.process import BrokenProcessPool

        pool = ProcessPoolExecutor(self._number, get_context("forkserver"), _begin)
        try:
            yield from _ahead(pool.submit, work, tasks, self._number * _AHEAD)
        except BrokenProcessPool:
            raise WorkersError(
                "one of the processes was ended from outside",
                reason=Reason.PROGRAM_FAILED,
                hint="free memory, or give fewer --jobs",
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Leave Ctrl-C to the process that asked, and end when that does, whatever ended it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asking = parent_process()

    def end_with_it() -> None:
        if asking is not None:
            asking.join()
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


class DaskCluster:
    """The workers of the Dask scheduler at `address`, each of which reads the files itself, by the same path."""

    def __init__(self, address: str) -> None:
        self._address = address

    def map(self, work: Callable[[_Task], _Answer], tasks: Iterable[_Task]) -> Iterator[_Answer]:
        client = self._connect()
        try:
            threads = sum(client.nthreads().values())
            if not threads:
                raise WorkersError(
                    f"{self._address} has no workers",
                    reason=Reason.UNAVAILABLE,
                    hint="start some: dask worker ADDRESS",
                )
            same = __version__, spec_digest()

            def submit(work: Callable[[_Task], _Answer], task: _Task) -> Any:
                return client.submit(_as_here, same, work, task, pure=False)

            for answer, unlike in _ahead(submit, work, tasks, threads * _AHEAD):
                if unlike is not None:
                    raise WorkersError(
                        unlike, reason=Reason.STALE, hint="install this very gvisor-engine where they run"
                    )
                yield answer
        except EngineError:
            raise
        except Exception as error:  # it raises what it likes, and what a worker raises
            raise WorkersError(
                f"{self._address}: {type(error).__name__}: {error}",
                reason=Reason.PROGRAM_FAILED,
                hint="look at the workers' log; the very same gvisor-engine must be installed where they run",
            ) from error
        finally:
            with contextlib.suppress(Exception):
                client.close(timeout=TIMEOUT)

    def _connect(self) -> Any:
        try:
            import logging

            from distributed import Client
            from distributed.comm.addressing import get_address_host_port
        except ModuleNotFoundError as error:
            raise WorkersError(
                f"{error.name} is needed to use a cluster, and is not installed",
                reason=Reason.UNAVAILABLE,
                hint="pip install 'gvisor-engine[fleet]'",
            ) from None
        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is said in one line
        try:
            get_address_host_port(
                self._address, strict=True
            )  # a client leaves much behind that cannot use its address
            return Client(self._address, timeout=TIMEOUT, set_as_default=False)  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as error:
            raise WorkersError(
                f"no Dask scheduler answers at {self._address!r} ({error})",
                reason=Reason.UNAVAILABLE,
                hint="start one (dask scheduler) and name it, e.g. tcp://host:8786",
            ) from None


def _as_here(same: tuple[str, str], work: Callable[[_Task], _Answer], task: _Task) -> tuple[Any, str | None]:
    """What `work` makes of `task`, and what speaks against asking this worker: another engine, or another spec."""
    if (here := (__version__, spec_digest())) != same:
        return (
            None,
            f"a worker has the engine {here[0]} and the spec {here[1]:.12}, and not {same[0]}, {same[1]:.12}",
        )
    return work(task), None


def _ahead(
    submit: Callable[[Callable[[_Task], _Answer], _Task], Any],
    work: Callable[[_Task], _Answer],
    tasks: Iterable[_Task],
    number: int,
) -> Iterator[Any]:
    """The results in order, with `number` tasks under way."""
    waiting: deque[Any] = deque()
    for task in tasks:
        waiting.append(submit(work, task))
        if len(waiting) >= number:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
