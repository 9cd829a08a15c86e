"""Share the checking of many traces among processes of this machine or workers of a Dask cluster.

Results come in the order of the tasks. Only a few tasks are in progress at a time, so memory use does not depend on
their number.
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
_AHEAD = 2  # tasks for each worker: one in progress, one waiting
#: Time limit for the cluster's answer, in seconds.
TIMEOUT = 10


class WorkersError(EngineError):
    """The workers failed."""

    step = "workers"


class Workers(Protocol):
    """Runs tasks."""

    def map(self, work: Callable[[_Task], _Answer], tasks: Iterable[_Task]) -> Iterator[_Answer]:
        """The results of `work`, a module-level function, in the order of the tasks. Raises `WorkersError`."""


class ThisProcess:
    """Run the tasks one by one in this process."""

    def map(self, work: Callable[[_Task], _Answer], tasks: Iterable[_Task]) -> Iterator[_Answer]:
        return map(work, tasks)


class Processes:
    """Run the tasks in several processes, which end with this one."""

    def __init__(self, number: int) -> None:
        self._number = number

    def map(self, work: Callable[[_Task], _Answer], tasks: Iterable[_Task]) -> Iterator[_Answer]:
        from concurrent.futures import ProcessPoolExecutor
        from concurrent.futures.process import BrokenProcessPool

        # Forked: other ways start an interpreter that imports from the current directory.
        pool = ProcessPoolExecutor(self._number, get_context("fork"), _begin)
        try:
            yield from _ahead(pool.submit, work, tasks, self._number * _AHEAD)
        except BrokenProcessPool:
            raise WorkersError(
                "a worker process was killed",
                reason=Reason.PROGRAM_FAILED,
                hint="free memory, or use fewer --jobs",
            ) from None
        finally:
            with contextlib.suppress(
                OSError
            ):  # at the interpreter's end its pipes may be closed already, EBADF
                pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Ignore Ctrl-C, which the parent handles, and exit when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asking = parent_process()

    def end_with_it() -> None:
        if asking is not None:
            asking.join()
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


class DaskCluster:
    """Run the tasks on the workers of the Dask scheduler at `address`; each reads the files by the same paths."""

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
                        unlike, reason=Reason.STALE, hint="install the same gvisor-engine on the workers"
                    )
                yield answer
        except EngineError:
            raise
        except Exception as error:  # Dask raises any exception of its own or of a worker
            raise WorkersError(
                f"{self._address}: {type(error).__name__}: {error}",
                reason=Reason.PROGRAM_FAILED,
                hint="check the workers' log; they need the same gvisor-engine",
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
            logging.getLogger(name).setLevel(logging.CRITICAL)  # our error is one line
        try:
            get_address_host_port(
                self._address, strict=True
            )  # a client that cannot use its address leaves warnings and tasks behind
            return Client(self._address, timeout=TIMEOUT, set_as_default=False)  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as error:
            raise WorkersError(
                f"no Dask scheduler answers at {self._address!r} ({error})",
                reason=Reason.UNAVAILABLE,
                hint="start one (dask scheduler) and give its address, e.g. tcp://host:8786",
            ) from None


def _as_here(same: tuple[str, str], work: Callable[[_Task], _Answer], task: _Task) -> tuple[Any, str | None]:
    """The result of `work` on `task`, and why this worker must not be used: another engine or spec."""
    if (here := (__version__, spec_digest())) != same:
        return (
            None,
            f"a worker has engine {here[0]} and spec {here[1]:.12}, expected {same[0]} and {same[1]:.12}",
        )
    return work(task), None


def _ahead(
    submit: Callable[[Callable[[_Task], _Answer], _Task], Any],
    work: Callable[[_Task], _Answer],
    tasks: Iterable[_Task],
    number: int,
) -> Iterator[Any]:
    """The results in order, with `number` tasks in progress."""
    waiting: deque[Any] = deque()
    for task in tasks:
        waiting.append(submit(work, task))
        if len(waiting) >= number:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
