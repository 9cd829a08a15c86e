"""A manager's container, opened by its record: its state, and the copy of runsc that created it.

Every later command runs that copy, opened by descriptor from the container's own directory and compared with the
record. The path of an installed runsc, which may have been replaced, is not used.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from engine.errors import EngineError, Reason, hint_for
from engine.linux.files import PrivateDirectory, UntrustedPathError
from engine.linux.process import started
from engine.linux.regular_files import replace_file
from engine.oci.request import Request
from engine.runsc.arguments import build_environment
from engine.runsc.execute import SignalGuard, become_runsc
from engine.state import oci_lifecycle as machine
from engine.state import record
from engine.state.container import (
    RUNSC_ROOT,
    RUNTIME,
    take_lock,
)
from engine.state.oci_lifecycle import Status, Verb
from engine.state.record import Attempt, Record
from engine.state.recorded import OtherProgramError, open_recorded
from engine.state.status import ContainerState, inspect, open_state_root, state_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn

#: Seconds to wait for another command that creates or deletes the same container.
TIMEOUT = 10.0
_RUNSC = "runsc"
_PAST = {"start": "started", "pause": "paused", "resume": "resumed"}


class ContainerError(EngineError):
    """The verb cannot be done. `step` is the verb."""

    exit_code = 1

    def __init__(self, verb: str, what: str, *, reason: str, hint: str) -> None:
        self.step = verb
        super().__init__(what, reason=reason, hint=hint)


class NoSuchError(ContainerError):
    """There is no container with this id. podman and containerd look for this exact text."""

    def __init__(self, verb: str, container_id: str) -> None:
        super().__init__(
            verb,
            f"container {container_id!r} does not exist",
            reason=Reason.NO_SUCH,
            hint="engine-oci list shows those that do",
        )


class Container:
    """A container with a record, and its open directories."""

    def __init__(
        self, verb: str, base: PrivateDirectory, directory: PrivateDirectory, record: Record
    ) -> None:
        self.verb: Final = verb
        self.base: Final = base
        self.directory: Final = directory
        self.record: Final = record

    def with_record(self, noted: Record) -> Container:
        """The same container, of which this is recorded by now."""
        return Container(self.verb, self.base, self.directory, noted)

    def state(self) -> ContainerState:
        """Its current state. Raises `ContainerError`."""
        try:
            state = inspect(self.base, self.directory, self.record)
        except (UntrustedPathError, OSError) as error:
            raise unreadable(self.verb, error) from None
        if state.doubt is not None:
            return self._found_out(state, state.doubt)
        if self.record.sandbox is None or state.sandbox is None or state.known == Status.CREATED:
            return state
        # A live sandbox does not mean that this container of it lives: only the sandbox knows.
        if self._runsc_says_stopped():
            state.sandbox = None
        return state

    def has_sandbox(self) -> bool:
        """Whether the sandbox that it runs in lives. Raises `ContainerError`."""
        try:
            return inspect(self.base, self.directory, self.record).sandbox is not None
        except (UntrustedPathError, OSError) as error:
            raise unreadable(self.verb, error) from None

    def _found_out(self, state: ContainerState, doubt: Attempt) -> ContainerState:
        from engine.oci import attempt

        try:
            with self.program() as program:
                status = attempt.found_out(self.directory, self.record, doubt, program)
        except (UntrustedPathError, OSError) as error:
            raise unreadable(self.verb, error) from None
        if status is Status.STOPPED:
            state.sandbox = None
        else:
            state.known, state.is_told = str(status), status == state.known
        return state

    def _runsc_says_stopped(self) -> bool:
        import subprocess

        from engine.runsc.command import ask

        runtime = os.path.join(self.runsc_root, RUNTIME)
        with contextlib.suppress(OSError, subprocess.TimeoutExpired, ValueError), self.program() as program:
            done = ask(program, [*self.record.flags, "state", self.record.id], runtime)
            if done.returncode == 0:
                return bool(json.loads(done.stdout).get("status") == Status.STOPPED)
        return False  # then runsc's file is right

    def status(self) -> Status:
        """Its status. Raises `ContainerError`."""
        return self.state().status

    def repaired(self) -> Container:
        """Repair runsc's state file if needed; returns the container as it is now. The caller holds the lock.

        Raises `ContainerError`.
        """
        try:
            noted = record.read(self.directory)
            if noted is None or noted.creation != self.record.creation:
                raise NoSuchError(self.verb, self.record.id)
            now = self.with_record(noted)
            state = now.state()
            if not state.is_told and state.known is not None:
                from engine.oci import attempt

                attempt.repair_state_file(self.base, self.directory, noted, Status(state.known))
        except (UntrustedPathError, OSError) as error:
            raise unreadable(self.verb, error) from None
        return now

    def note_attempt(
        self, verb: Verb, settle: Callable[[Record, ContainerState], object] = lambda *_: None
    ) -> Container:
        """Record that this process is about to become runsc to start, pause or resume the container.

        `settle` may change the record first. Returns the container with the new record. Waits for another such attempt.
        Raises `ContainerError`, and `NotPermittedError` if the status changed meanwhile.
        """
        end = time.monotonic() + TIMEOUT
        while True:
            with self.locked(), self.program():  # record no attempt that cannot be made
                now = self.repaired()
                before = now.record.attempt
                if before is None or not before.goes_on:
                    state = now.state()
                    machine.require(verb, state.status, self.record.id)
                    try:
                        settle(now.record, state)
                        with contextlib.closing(
                            open_state_root(self.base, self.directory, now.record)
                        ) as root:
                            found = state_file(root, now.record.state_file)
                        pid_and_start_time = (os.getpid(), started(os.getpid()) or 0)
                        now.record.attempt = Attempt(str(verb), pid_and_start_time, found[1] if found else "")
                        record.write(self.directory, now.record)
                    except (UntrustedPathError, OSError) as error:
                        raise unreadable(self.verb, error) from None
                    return now
            if time.monotonic() > end:
                raise ContainerError(
                    self.verb,
                    f"container {self.record.id!r} is being {_PAST[before.verb]} by another command",
                    reason=Reason.BUSY,
                    hint="wait for it, or end it",
                )
            time.sleep(0.01)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the container's lock: no other command creates or deletes it. Raises `ContainerError`."""
        try:
            lock = take_or_refuse(self.verb, self.record.id, self.directory)
        except FileNotFoundError:
            raise NoSuchError(self.verb, self.record.id) from None  # deleted by another command
        except (UntrustedPathError, OSError) as error:
            raise unreadable(self.verb, error) from None
        try:
            yield
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def program(self) -> Iterator[int]:
        """The staged copy of runsc that created it, open. Raises `ContainerError` if it is another file."""
        noted = self.record.program
        if noted is None:
            raise ContainerError(
                self.verb,
                f"container {self.record.id!r} was never handed off",
                reason=Reason.NOT_HANDED_OFF,
                hint="delete it",
            )
        try:
            descriptor = open_recorded(self.directory, noted)
        except OtherProgramError as error:
            raise ContainerError(
                self.verb,
                str(error),
                reason=Reason.OTHER_RUNSC,
                hint="find out who changed it; engine-oci delete --force does not need it",
            ) from None
        except (UntrustedPathError, OSError) as error:
            raise unreadable(self.verb, error) from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def capabilities(self) -> dict[str, Any]:
        """`process.capabilities` of its bundle, from runsc's state file: lists of names. Raises `ContainerError`."""
        try:
            with contextlib.closing(open_state_root(self.base, self.directory, self.record)) as root:
                found = state_file(root, self.record.state_file)
        except (UntrustedPathError, OSError) as error:
            raise unreadable(self.verb, error) from None
        sets = (json.loads(found[1])["spec"].get("process") or {}).get("capabilities") if found else None
        return sets if isinstance(sets, dict) else {}

    @property
    def runsc_root(self) -> str:
        """The directory of this container's copy of runsc."""
        return os.path.join(self.directory.path, RUNSC_ROOT)

    def become_runsc(
        self,
        request: Request,
        verb: str,
        flags: Sequence[str] = (),
        arguments: Sequence[str] = (),
        preserved: int = 0,
        kept: Collection[int] = (),
    ) -> NoReturn:
        """Become the staged runsc with `verb`; the descriptors `kept` stay open. Raises `ContainerError`."""
        environment = build_environment(os.path.join(self.runsc_root, RUNTIME))
        log = request.hold_log()
        with self.program() as program, SignalGuard() as process:
            argv = (
                os.path.join(
                    self.directory.path, self.record.program.path if self.record.program else _RUNSC
                ),
                *self.record.flags,
                *request.log_flags(),
                verb,
                *flags,
                self.record.id,
                *arguments,
            )
            try:
                become_runsc(
                    program,
                    argv,
                    environment,
                    process,
                    {*range(3, 3 + preserved), *kept, *(() if log is None else (log,))},
                    has_output=verb == Verb.EXEC or (verb == Verb.START and self.record.sandbox is not None),
                )
            except OSError as error:
                raise ContainerError(
                    self.verb,
                    f"runsc cannot be executed: {error.filename!r}: {error.strerror}",
                    reason=Reason.FAILURE,
                    hint=hint_for(error, "check the machine's limits"),
                ) from None

    @property
    def given_bundle(self) -> str:
        """The directory with the config.json that runsc was given; the caller's bundle by an older engine."""
        given = self.record.given
        return self.record.bundle if given is None else os.path.join(self.runsc_root, given)

    def start_monitor(self, pid_file: str | None) -> None:
        """Start the monitor process of a pod member; its pid goes into the record and `pid_file`.

        The caller holds the lock. Raises `ContainerError`.
        """
        from engine.oci import monitor

        try:
            with self.program() as program:
                pid = monitor.begin(self.base, self.directory, self.record, program)
            self.record.waiter = pid, started(pid) or 0
            record.write(self.directory, self.record)
            if pid_file is not None:
                replace_file(pid_file, str(pid).encode(), mode=0o644)
        except (UntrustedPathError, OSError) as error:
            raise unreadable(self.verb, error) from None


def take_or_refuse(verb: str, container_id: str, directory: PrivateDirectory) -> int:
    """The lock of the container in `directory`. Raises `ContainerError` if another command has it; as `take_lock`."""
    lock = take_lock(directory, TIMEOUT)
    if lock is None:
        raise ContainerError(
            verb,
            f"container {container_id!r} is being created or deleted by another command",
            reason=Reason.BUSY,
            hint="wait for it, or end it",
        )
    return lock


def processes_remain(verb: str, left: list[int]) -> ContainerError:
    """The processes `left` of a container do not end."""
    return ContainerError(
        verb,
        f"processes {left} of the container do not exit",
        reason=Reason.PROCESSES_REMAIN,
        hint="check what blocks them, and delete it again",
    )


def not_deleted(verb: str, error: OSError, about: str) -> ContainerError:
    """A system call failed while a container was deleted; `about` names it where the error names no file."""
    return ContainerError(
        verb,
        f"{error.filename or about!r}: {error.strerror}",
        reason=Reason.FAILURE,
        hint=hint_for(error, "delete it again"),
    )


def unreadable(verb: str, error: UntrustedPathError | OSError) -> ContainerError:
    """The error of `verb` if a file of the container cannot be opened or read."""
    if isinstance(error, OSError):
        what = f"{error.filename!r}: {error.strerror}"
        return ContainerError(
            verb,
            what,
            reason=Reason.FAILURE,
            hint=hint_for(error, "check that path; delete --force removes it"),
        )
    return ContainerError(
        verb,
        str(error),
        reason=Reason.ROOT_NOT_PRIVATE,
        hint="find out who changed it; engine-oci delete --force removes what is left",
    )
