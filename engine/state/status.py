"""The real status of a manager's container, whichever command was killed.

It follows from the record, runsc's own state file, and the processes that execute the staged files. The sandbox
executes the sentry's file if there is one, else runsc's; all other processes execute runsc's.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from engine.linux.files import PrivateDirectory, UntrustedPathError, open_private_directory
from engine.linux.process import arguments, executing, runs, started
from engine.linux.regular_files import read_own
from engine.state import container as containers
from engine.state.container import OCI_RECORD, RUNSC_ROOT, component, is_component
from engine.state.oci_lifecycle import Status, status
from engine.state.processes import PARTS
from engine.state.record import MAX_SIZE, Attempt, Record, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

#: Seconds to wait for a complete state file, as runsc writes it in place ...
_WRITE_TIMEOUT = 2.0
#: ... and where no writer is known.
_REST_TIMEOUT = 0.1


class StateFile:
    """The content of runsc's state file: the `status` when it was last written, and the sandbox's pid."""

    def __init__(self, status: str, pid: int) -> None:
        self.status: Final = status
        self.pid: Final = pid


def open_state_root(base: PrivateDirectory, container: PrivateDirectory, record: Record) -> PrivateDirectory:
    """Open the root with runsc's file about the container: its own, or its sandbox's. Raises as `open_runsc_root`."""
    if record.sandbox is None:
        return containers.open_runsc_root(container)
    name = component(record.sandbox.id)
    with contextlib.closing(open_private_directory(base.descriptor, base.path, name)) as sandbox:
        return containers.open_runsc_root(sandbox)


def argv_markers(base: PrivateDirectory, container: PrivateDirectory, record: Record) -> tuple[str, ...]:
    """The arguments that tell its processes from others that execute the same file.

    These are runsc's root and, as the members of a pod share that, a member's bundle.
    """
    if record.sandbox is None:
        return (os.path.join(container.path, RUNSC_ROOT),)
    sandbox = os.path.join(base.path, component(record.sandbox.id))
    bundle = record.bundle if record.given is None else os.path.join(container.path, RUNSC_ROOT, record.given)
    return os.path.join(sandbox, RUNSC_ROOT), bundle


class CutShortError(UntrustedPathError):
    """runsc's file is empty or incomplete: its writer was killed."""


def state_file(
    runsc_root: PrivateDirectory, name: str, seconds: float = _WRITE_TIMEOUT
) -> tuple[StateFile, str] | None:
    """What runsc's file `name` says, and its text; None if there is none. Retries an incomplete file for `seconds`.

    Raises `OSError`, `UntrustedPathError`, and of that `CutShortError`.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            data = read_own(runsc_root, name, MAX_SIZE)
            return _parsed(data), data.decode()
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            if time.monotonic() > end:
                raise CutShortError(
                    os.path.join(runsc_root.path, name), "is no state file that this engine can read"
                ) from None
            time.sleep(0.01)


def _parsed(data: bytes | str) -> StateFile:
    fields = json.loads(data)
    return StateFile(str(fields["status"]), int((fields.get("sandbox") or {}).get("pid", 0)))


class ContainerState:
    """The real state of a recorded container.

    `known`: the status in runsc's file; None if runsc has no file about it (yet, or any more). `sandbox`: the sandbox's
    pid; None if it does not run. `processes`: those of it that live, searched only without a file. `is_being_created`:
    its creator lives. `monitor`: the pid of its monitor while that lives.

    `doubt`: an interrupted attempt of which runsc's file does not say whether the sandbox did it. `is_told`: whether
    runsc's file says what is `known`.
    """

    def __init__(
        self,
        known: str | None,
        sandbox: int | None,
        processes: tuple[int, ...],
        is_being_created: bool,
        monitor: int | None = None,
        doubt: Attempt | None = None,
        is_told: bool = True,
    ) -> None:
        self.known = known
        self.sandbox = sandbox
        self.processes: Final = processes
        self.is_being_created: Final = is_being_created
        self.monitor: Final = monitor
        self.doubt: Final = doubt
        self.is_told = is_told

    @property
    def status(self) -> Status:
        """The status of the container."""
        return status(
            known=self.known,
            lives=bool(self.processes) if self.known is None else self.sandbox is not None,
            is_being_created=self.is_being_created,
        )

    @property
    def pid(self) -> int:
        """The host process that represents the container; 0 if it does not run."""
        return (self.monitor or self.sandbox or 0) if self.sandbox else 0

    @property
    def is_kept(self) -> bool:
        """Whether it is in use: runsc has a file about it, or it has live processes."""
        return self.known is not None or bool(self.processes)


def inspect(base: PrivateDirectory, container: PrivateDirectory, record: Record) -> ContainerState:
    """Find out the real state of the container. Raises `OSError` and `UntrustedPathError`."""
    if record.is_of_earlier_boot:
        return _after_a_boot(base, container, record)
    pid, start = record.creator
    # Check this first: a dead creator cannot create anything later.
    is_being_created = started(pid) == start
    attempt = record.attempt
    was_killed = attempt is not None and not attempt.goes_on
    file, is_told = None, True
    ours = argv_markers(base, container, record)
    with contextlib.suppress(FileNotFoundError):
        root = open_state_root(base, container, record)
        with contextlib.closing(root):
            try:
                found = state_file(root, record.state_file, _REST_TIMEOUT if was_killed else _WRITE_TIMEOUT)
                file = found and found[0]
            except CutShortError:
                is_told = False
                if attempt is not None:  # runsc writes only after the sandbox has done it
                    file = StateFile(str(attempt.target), _parsed(attempt.file).pid)
    if file is None or file.status == Status.CREATING:
        processes = executing(record.program.files, ours) if record.program else ()
        parts = tuple(process for process in processes if not PARTS.isdisjoint(arguments(process)))
        return ContainerState(None, None, parts, is_being_created, is_told=is_told)
    boot = record.sandbox.program if record.sandbox else record.program
    alive = boot is not None and runs(file.pid, {boot.sandbox_file}, ours[:1])
    monitor = record.waiter[0] if record.waiter and started(record.waiter[0]) == record.waiter[1] else None
    return ContainerState(
        file.status,
        file.pid if alive else None,
        (),
        is_being_created=False,
        monitor=monitor,
        doubt=attempt
        if alive and attempt is not None and was_killed and file.status == attempt.source
        else None,
        is_told=is_told,
    )


def _after_a_boot(base: PrivateDirectory, container: PrivateDirectory, record: Record) -> ContainerState:
    """A container of an earlier boot has ended, whatever runsc's file says."""
    known = None
    with (
        contextlib.suppress(FileNotFoundError),
        contextlib.closing(open_state_root(base, container, record)) as root,
    ):
        try:
            found = state_file(root, record.state_file, _REST_TIMEOUT)
            known = found and found[0].status
        except CutShortError:
            known = str(Status.STOPPED)
    if known == Status.CREATING:
        known = None
    return ContainerState(known, None, (), is_being_created=False)


def members(base: PrivateDirectory, sandbox: Record) -> list[str]:
    """The ids of the recorded containers that have joined this sandbox.

    A directory that cannot be read is not a member: it was not created here. Raises `OSError` if the base cannot be
    read.
    """
    found = []
    for name in os.listdir(base.descriptor):
        if not is_component(name):
            continue
        with contextlib.suppress(OSError, UntrustedPathError):
            with contextlib.closing(open_private_directory(base.descriptor, base.path, name)) as container:
                if sandbox.creation.encode() not in read_own(container, OCI_RECORD, MAX_SIZE):
                    continue  # cheaper than parsing a hundred records
                noted = read(container)
            if noted is not None and noted.sandbox is not None and noted.sandbox.creation == sandbox.creation:
                found.append(noted.id)
    return sorted(found)


def in_use_reason(base: PrivateDirectory, container: PrivateDirectory) -> str | None:
    """Why only `delete` may remove a manager's container, in one phrase. The caller holds the lock.

    None if there is no record, or its creation was interrupted. Raises as `inspect`.
    """
    record = read(container)
    if record is None:
        return None
    if inspect(base, container, record).is_kept:
        return "exists"
    if left := members(base, record):
        return f"is gone, and containers of its sandbox are not: {', '.join(map(repr, left))}"
    return None
