"""What is true of a manager's container, whatever command about it was killed.

Its record, runsc's own state file and which processes execute the staged copy of runsc say it together.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from engine.linux.files import PrivateDirectory, UntrustedPathError, open_private_directory
from engine.linux.process import arguments, executing, runs, started
from engine.linux.regular_files import read_own
from engine.records import dataclass
from engine.state import container as containers
from engine.state.container import OCI_RECORD, RUNSC_ROOT, component, is_component
from engine.state.oci_lifecycle import Status, status
from engine.state.record import LIMIT, Attempt, Record, read

#: Seconds. runsc writes its state file in place; whoever looks meanwhile looks again.
_MID_WRITE = 2.0
#: The same where nobody is known to write it.
_AT_REST = 0.1
#: By what runsc's own processes of a container are told from commands about it, which execute the same file.
_PARTS = frozenset({b"boot", b"gofer", b"umount"})


@dataclass(frozen=True, slots=True)
class StateFile:
    """What runsc's own state file says: `status` is what it was when last written."""

    status: str
    pid: int


def open_state_root(base: PrivateDirectory, container: PrivateDirectory, record: Record) -> PrivateDirectory:
    """Where runsc's file about the container is: its own root, or its sandbox's. Raises as `artifacts`' own."""
    if record.sandbox is None:
        return containers.open_runsc_root(container)
    name = component(record.sandbox.id)
    with contextlib.closing(open_private_directory(base.descriptor, base.path, name)) as sandbox:
        return containers.open_runsc_root(sandbox)


def argv_markers(base: PrivateDirectory, container: PrivateDirectory, record: Record) -> tuple[str, ...]:
    """By which arguments its processes are told from others that execute the same file.

    They are given runsc's root, and those of a pod, which are given the same one, each their bundle.
    """
    if record.sandbox is None:
        return (os.path.join(container.path, RUNSC_ROOT),)
    sandbox = os.path.join(base.path, component(record.sandbox.id))
    return os.path.join(sandbox, RUNSC_ROOT), record.bundle


class CutShortError(UntrustedPathError):
    """runsc's file is empty, or not whole: whoever wrote it was killed."""


def state_file(
    runsc_root: PrivateDirectory, name: str, seconds: float = _MID_WRITE
) -> tuple[StateFile, str] | None:
    """What runsc's file `name` says, and the file; None where there is none. Looks again for so many `seconds`.

    Raises `OSError`, `UntrustedPathError`, and of that `CutShortError`.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            data = read_own(runsc_root, name, LIMIT)
            return _parsed(data), data.decode()
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            if time.monotonic() > end:
                raise CutShortError(
                    os.path.join(runsc_root.path, name), "is no state file that this engine can read"
                ) from None
            time.sleep(0.01)


def _parsed(data: bytes | str) -> StateFile:
    fields = json.loads(data)
    return StateFile(str(fields["status"]), int((fields.get("sandbox") or {}).get("pid", 0)))


@dataclass(frozen=True, slots=True)
class ContainerState:
    """What is true of a recorded container.

    `doubt` is an attempt that nobody makes any more, and of which runsc's file does not tell whether the sandbox did
    it; `is_told` says whether runsc's file says what is `known`.

    `known` is what runsc's file says, None when runsc does not know of it (yet, or any more); `sandbox` is the
    sandbox's process, None when it does not run; `processes` are the parts of it that live, looked
    for only where runsc does not know of the container; `is_being_created`: its creator lives; `monitor` is there while
    it waits.
    """

    known: str | None
    sandbox: int | None
    processes: tuple[int, ...]
    is_being_created: bool
    monitor: int | None = None
    doubt: Attempt | None = None
    is_told: bool = True

    @property
    def status(self) -> Status:
        """Where the container is."""
        return status(
            known=self.known,
            lives=bool(self.processes) if self.known is None else self.sandbox is not None,
            is_being_created=self.is_being_created,
        )

    @property
    def pid(self) -> int:
        """The process that stands for the container on the host; 0 when it does not run."""
        return (self.monitor or self.sandbox or 0) if self.sandbox else 0

    @property
    def is_kept(self) -> bool:
        """Whether it is still somebody's: runsc knows of it, or processes of it live."""
        return self.known is not None or bool(self.processes)


def inspect(base: PrivateDirectory, container: PrivateDirectory, record: Record) -> ContainerState:
    """Find out what is true of the container. Raises `OSError` and `UntrustedPathError`."""
    if record.is_of_earlier_boot:
        return _after_a_boot(base, container, record)
    pid, start = record.creator
    is_being_created = (
        started(pid) == start
    )  # asked first: what a creator that is gone has not made, is not made
    attempt = record.attempt
    was_killed = attempt is not None and not attempt.goes_on
    file, is_told = None, True
    ours = argv_markers(base, container, record)
    with contextlib.suppress(FileNotFoundError):
        root = open_state_root(base, container, record)
        with contextlib.closing(root):
            try:
                found = state_file(root, record.state_file, _AT_REST if was_killed else _MID_WRITE)
                file = found and found[0]
            except CutShortError:
                is_told = False
                if attempt is not None:  # the sandbox had done it: only then runsc writes
                    file = StateFile(str(attempt.target), _parsed(attempt.file).pid)
    program = (record.program.device, record.program.inode) if record.program else None
    if file is None or file.status == Status.CREATING:
        processes = executing(program, ours) if program else ()
        parts = tuple(process for process in processes if not _PARTS.isdisjoint(arguments(process)))
        return ContainerState(None, None, parts, is_being_created, is_told=is_told)
    boot = record.sandbox.program if record.sandbox else record.program
    alive = boot is not None and runs(file.pid, (boot.device, boot.inode), ours[:1])
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
    """What was created in an earlier boot has ended, whatever runsc's file says of it and its process."""
    known = None
    with (
        contextlib.suppress(FileNotFoundError),
        contextlib.closing(open_state_root(base, container, record)) as root,
    ):
        try:
            found = state_file(root, record.state_file, _AT_REST)
            known = found and found[0].status
        except CutShortError:
            known = str(Status.STOPPED)
    if known == Status.CREATING:
        known = None
    return ContainerState(known, None, (), is_being_created=False)


def members(base: PrivateDirectory, sandbox: Record) -> list[str]:
    """The ids of the containers that have joined this very sandbox and have a record.

    What cannot be read is none of them: nobody could have created it here. Raises `OSError` where the base cannot be.
    """
    found = []
    for name in os.listdir(base.descriptor):
        if not is_component(name):
            continue
        with contextlib.suppress(OSError, UntrustedPathError):
            with contextlib.closing(open_private_directory(base.descriptor, base.path, name)) as container:
                if sandbox.creation.encode() not in read_own(container, OCI_RECORD, LIMIT):
                    continue  # a hundred of them are to be passed over quickly
                noted = read(container)
            if noted is not None and noted.sandbox is not None and noted.sandbox.creation == sandbox.creation:
                found.append(noted.id)
    return sorted(found)


def in_use_reason(base: PrivateDirectory, container: PrivateDirectory) -> str | None:
    """Why only `delete` may take away what a manager has there, in one phrase. The caller holds the lock.

    None where there is no record, and where what was being created never came to be. Raises as `inspect`.
    """
    record = read(container)
    if record is None:
        return None
    if inspect(base, container, record).is_kept:
        return "exists"
    if left := members(base, record):
        return f"is gone, and containers of its sandbox are not: {', '.join(map(repr, left))}"
    return None
