"""The processes of a detached exec on the host: what happens to the pid in the pid file happens inside.

    engine-oci exec    starts the monitor, writes the pid file, and ends
    monitor            has the pid in the pid file; ends with the exec's exit code
    guard              its child; sends inside the signals that the monitor gets, and SIGKILL when that is killed
    runsc exec         the guard's child; waits for the process inside

SIGKILL of the monitor cannot be caught: the guard sees the end of a pipe. If the guard is killed, the monitor kills the
process inside. Both find its pid in a memory file, which runsc writes. In specs/OCIExec.tla.

`runsc exec --detach` writes a pid of its own and passes no signal on: what its manager ended would go on inside. It
also leaves out each argument that has "detach" in it. So runsc is never given `--detach`; a terminal is made here.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Collection, Sequence

from engine.errors import EngineError, Reason
from engine.linux.files import leave_caller
from engine.linux.regular_files import replace_file
from engine.oci.container import Container, ContainerError, unreadable
from engine.oci.request import Request
from engine.runsc.arguments import build_environment
from engine.state.container import RUNTIME

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Final, NoReturn

#: Exit code of an exec that was killed with its monitor, its guard or its runsc.
_KILLED = 128 + signal.SIGKILL
#: Milliseconds between two looks for the pid inside, until it is there; and between two tries to kill that process.
_START_INTERVAL = 5
_KILL_INTERVAL = 500
#: Seconds to try where no runsc is left to show whether that process lives.
_KILL_TIMEOUT = 10.0
#: Not passed on: SIGCHLD, and what the kernel sends for a fault of the monitor itself.
_OWN_SIGNALS = {signal.SIGCHLD, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
#: Messages. The last byte of `_ENDED` is the exit code.
_STARTED, _ENDED, _KNOWN = b"s0", b"e", b"k"


class _Exec:
    """What monitor and guard know of it. `program`: the container's copy of runsc, open. `note`: a memory file."""

    def __init__(self, found: Container, program: int) -> None:
        self.found: Final = found
        self.program: Final = program
        self.note: Final = os.memfd_create("pid-inside")

    def pid_inside(self) -> int | None:
        """The pid of the process in its container, once runsc has written it."""
        return int(os.pread(self.note, 32, 0) or 0) or None

    def send(self, number: int) -> bool:
        """Send the signal inside; False if runsc could not, as when that process has ended."""
        noted = self.found.record
        verb = ["kill", "--pid", str(self.pid_inside()), noted.id, str(number)]
        path = f"/proc/self/fd/{self.program}"
        environment = build_environment(os.path.join(self.found.runsc_root, RUNTIME))
        child = os.posix_spawn(path, [path, *noted.flags, *verb], environment)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def run(
    found: Container,
    request: Request,
    flags: Sequence[str],
    command: Sequence[str],
    preserved: int,
    *,
    console: str | None,
    pidfd_socket: socket.socket | None = None,
) -> int:
    """Start the exec, and write the pid files of `request` once it runs. Returns the exit code: runsc's if it refuses.

    `console`: the socket on which the manager waits for a terminal, if it shall have one. `pidfd_socket`: where it
    waits for a descriptor of the monitor. Raises `ContainerError`.
    """
    try:
        with found.program() as program:
            exec_ = _Exec(found, program)
            told, tell = os.pipe()
            acknowledged, acknowledge = os.pipe()
            monitor = os.fork()
            if monitor == 0:
                os.close(told)
                os.close(acknowledge)
                _become_monitor(exec_, tell, acknowledged, request, flags, command, preserved, console)
        os.close(tell)
        os.close(acknowledged)
        answer = os.read(told, 2)
        if answer != _STARTED:
            return answer[1] if answer else EngineError.exit_code
        for name, pid in (("internal-pid-file", exec_.pid_inside()), ("pid-file", monitor)):
            if path := request.flags.value(name):
                replace_file(os.path.abspath(path), str(pid).encode(), mode=0o644)
        if pidfd_socket is not None:
            from engine.oci import pidfd

            pidfd.send(request, pidfd_socket, monitor)
        os.write(acknowledge, _KNOWN)
    except OSError as error:
        raise unreadable(request.verb, error) from None
    return 0


def _become_monitor(
    exec_: _Exec,
    tell: int,
    acknowledged: int,
    request: Request,
    flags: Sequence[str],
    command: Sequence[str],
    preserved: int,
    console: str | None,
) -> NoReturn:
    code = _KILLED
    try:
        os.setsid()
        signals, signalled = os.pipe()
        told, tell_monitor = os.pipe()
        alive, living = os.pipe()
        if os.fork() == 0:
            for descriptor in (tell, acknowledged, signalled, told, alive):
                os.close(descriptor)
            guard = _Guard(exec_, signals, tell_monitor)
            guard.start(living, request, flags, command, preserved, console=console)
            guard.main()
        os.set_blocking(signalled, False)
        # Python's own handler writes each signal's number there.
        signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
        for number in signal.valid_signals() - _OWN_SIGNALS - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, lambda *_: None)
        leave_caller({exec_.note, exec_.program, tell, acknowledged, signalled, told, alive})
        code = _monitor(exec_, told, tell, acknowledged, alive)
    finally:
        os._exit(code)


def _monitor(exec_: _Exec, told: int, tell: int, acknowledged: int, alive: int) -> int:
    """Wait for the guard's message of the end, and pass on that of the start. Returns the exit code."""
    poll = select.poll()
    poll.register(told, select.POLLIN)
    poll.register(acknowledged, select.POLLIN)
    code: int | None = None
    is_told = is_known = False
    while code is None or (is_told and not is_known):
        for descriptor, _ in poll.poll():
            if descriptor == acknowledged:
                is_known = bool(os.read(acknowledged, 1))
                if not is_known:  # the caller was killed: nobody will look for this process
                    return _KILLED
                poll.unregister(acknowledged)
                continue
            message = os.read(told, 2)
            if message == _STARTED:
                is_told = True
                os.write(tell, _STARTED)
                continue
            poll.unregister(told)
            code = message[1] if message else _kill_inside(exec_, alive)
    if not is_told:
        os.write(tell, _ENDED + bytes((code,)))
    return code


def _kill_inside(exec_: _Exec, alive: int) -> int:
    """The guard was killed: kill the process inside until runsc has ended, which has the other end of `alive`."""
    poll = select.poll()
    poll.register(alive, select.POLLIN)
    while not poll.poll(_KILL_INTERVAL if exec_.pid_inside() and not exec_.send(signal.SIGKILL) else 50):
        pass
    return _KILLED


class _Guard:
    """The monitor's child. `signals`: what the monitor receives, until that ends. `tell`: to the monitor."""

    def __init__(self, exec_: _Exec, signals: int, tell: int) -> None:
        self._exec: Final = exec_
        self._signals: Final = signals
        self._tell: Final = tell
        self._runsc = 0

    def start(
        self,
        living: int,
        request: Request,
        flags: Sequence[str],
        command: Sequence[str],
        preserved: int,
        *,
        console: str | None,
    ) -> None:
        """Start runsc, and let go of all that is the exec's: what reads its output must see its end."""
        note = self._exec.note
        kept = {living, note}
        given = [f"--internal-pid-file=/proc/self/fd/{note}"]
        self._runsc = os.fork()
        if self._runsc == 0:
            _become_runsc(self._exec.found, request, [*given, *flags], command, preserved, kept, console)
        leave_caller({note, self._exec.program, self._signals, self._tell, *kept} - {living})

    def main(self) -> NoReturn:
        """Pass on signals until the exec has ended; then tell the monitor the exit code."""
        code = _KILLED
        try:
            code = self._guard()
        finally:
            with contextlib.suppress(OSError):
                os.write(self._tell, _ENDED + bytes((code,)))
            os._exit(0)

    def _guard(self) -> int:
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        runsc = os.pidfd_open(self._runsc)
        poll.register(runsc, select.POLLIN)
        waiting: list[int] = []
        is_started = is_killed = False
        while True:
            ready = [each for each, _ in poll.poll(self._interval(is_started, is_killed))]
            if not is_started and self._exec.pid_inside():
                is_started = True
                with contextlib.suppress(OSError):
                    os.write(self._tell, _STARTED)
            if runsc in ready:
                break
            if self._signals in ready:
                received = os.read(self._signals, 64)
                waiting += received
                if not received:
                    poll.unregister(self._signals)
                    is_killed = True
            if is_started:
                for number in [signal.SIGKILL] if is_killed else waiting:
                    self._exec.send(number)
                waiting.clear()
        status = os.waitpid(self._runsc, 0)[1]
        if os.WIFSIGNALED(status) and is_started:
            end = time.monotonic() + _KILL_TIMEOUT
            while not self._exec.send(signal.SIGKILL) and time.monotonic() < end:
                time.sleep(_KILL_INTERVAL / 1000)
        return _code(status)

    @staticmethod
    def _interval(is_started: bool, is_killed: bool) -> int | None:
        if not is_started:
            return _START_INTERVAL
        return _KILL_INTERVAL if is_killed else None


def _become_runsc(
    found: Container,
    request: Request,
    flags: Sequence[str],
    command: Sequence[str],
    preserved: int,
    kept: Collection[int],
    console: str | None,
) -> NoReturn:
    code = 1
    try:
        if console is not None:
            _take_terminal(request, console)
        found.become_runsc(request, request.verb, flags, command, preserved, kept)
    except ContainerError as error:
        request.report(error)
    finally:
        os._exit(code)


def _take_terminal(request: Request, console: str) -> None:
    """Make a terminal for this process, and send its other side to the socket `console`. Raises `ContainerError`."""
    import socket

    try:
        other, own = os.openpty()
        with socket.socket(socket.AF_UNIX) as manager:
            manager.connect(console)
            socket.send_fds(manager, [b"/dev/ptmx"], [other])
        os.close(other)
        os.login_tty(own)
    except OSError as error:
        raise ContainerError(
            request.verb,
            f"no terminal on the console socket {console!r}: {error.strerror or error}",
            reason=Reason.FAILURE,
            hint="give the path of a socket on which the manager listens",
        ) from None


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
