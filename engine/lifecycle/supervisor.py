"""`--supervise`: the engine stays as the parent of the run, and records how the container ended.

The run is a child, which goes through the lifecycle as any other and becomes runsc. The parent forks it early, before
most imports, so it stays small, outside of every execute policy. Just before execve the child gives it the trace, the
directories and the lock, unix(7) SCM_RIGHTS: the lock is then held by both, so nobody starts or removes the container
before its end is recorded, and runsc keeps it should the parent be killed. The kernel then kills runsc, too.
In specs/Supervision.tla: `Wait`, `EndTheRest`, `End`, `CleanUp`.
"""

from __future__ import annotations

import _socket
import fcntl
import json
import os
import signal
import struct
import time

from engine.lifecycle.forwarding import Forwarding
from engine.linux.files import leave_caller
from engine.linux.signals import Blocked
from engine.quick import import_transitions
from engine.runsc.arguments import kill_arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Final

    from engine.bundle.bundle import Bundle
    from engine.lifecycle.exec import HandOff
    from engine.lifecycle.secure_root import StateDirs
    from engine.options import RunOptions
    from engine.state.oom import OomWatch
    from engine.traces.chained import ChainedRun
    from engine.traces.end_schema import EndFacts
    from engine.traces.writer import Trace

_MAX_MESSAGE = 1 << 16
#: The descriptors of the base, the container, the lock, the trace and runsc.
_NUMBERS = "5i"
_REFUSED = b"refused"
#: The exit codes of a program that was killed, and of one whose Go runtime could start no thread.
_KILLED, _NO_THREAD = 137, 2


class Channel:
    """The child's end: it gives the parent what it needs, and says when it was no hand-off after all."""

    def __init__(self, end: _socket.socket, parent: int) -> None:
        self._end: Final = end
        self._parent: Final = parent

    def hand_over(
        self, root: StateDirs, trace: Trace, given: HandOff, chained: ChainedRun | None = None
    ) -> None:
        """Give the parent the trace and what it cleans up; if it is killed from now on, so is this process.

        Raises `OSError`: EPIPE if the parent is gone.
        """
        from engine.linux.process import die_with_parent

        seq, previous, descriptor = trace.position()
        told = {
            "base": root.base.path,
            "container": root.container.path,
            "trace": trace.path,
            "seq": seq,
            "previous": previous,
            "at": time.monotonic_ns(),
            "argv": given.argv,
            "environment": dict(given.environment),
            "chain": None if chained is None else (chained.place, vars(chained.start)),
        }
        descriptors = root.base.descriptor, root.container.descriptor, root.lock, descriptor, given.program
        message = json.dumps(told).encode("utf-8", "surrogateescape")
        self._end.sendmsg(
            [message],
            [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(_NUMBERS, *descriptors))],
            _socket.MSG_NOSIGNAL,
        )
        die_with_parent(self._parent)

    def take_back(self) -> None:
        """The kernel refused execve: this process is still the engine. Raises `OSError`."""
        self._end.send(_REFUSED, _socket.MSG_NOSIGNAL)


class _Limits:
    """The limits of the bundle by which an end can be explained; None where there is none."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        resources = config.get("linux", {}).get("resources", {})
        memory, pids = (resources.get(kind, {}).get("limit", 0) for kind in ("memory", "pids"))
        self.memory: Final[int | None] = memory if memory > 0 else None
        self.pids: Final[int | None] = pids if pids > 0 else None


class _Ending:
    """How runsc ended, as wait4(2) has it, after `duration_ns`; and what the counter for memory says, if anything."""

    def __init__(self, status: int, used: Any, duration_ns: int, oom: tuple[bool, str] | None) -> None:
        self._status = status
        self._used = used
        self._duration_ns = duration_ns
        self.oom: Final = oom

    def facts(self) -> EndFacts:
        from engine.traces.move import Oom

        code, used = os.waitstatus_to_exitcode(self._status), self._used
        return {
            "exit_code": code if code >= 0 else None,
            "signal": None if code >= 0 else _name_of(-code),
            "oom": Oom.UNKNOWN if self.oom is None else Oom.KILLED if self.oom[0] else Oom.NONE,
            "oom_counter": None if self.oom is None else self.oom[1],
            "duration_ns": self._duration_ns,
            "resources": {
                "user_us": round(used.ru_utime * 1e6),
                "system_us": round(used.ru_stime * 1e6),
                "max_rss_kib": used.ru_maxrss,
            },
        }


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name of its own
        return f"SIGRTMIN{number - signal.SIGRTMIN}"


def fork(
    bundle: Bundle,
    options: RunOptions,
    warn: Callable[[str], None],
    *,
    recorded: Callable[[str], None] | None = None,
) -> Channel | int:
    """Fork the run: its `Channel` in the child; in the parent, after the container's end, the exit code.

    `warn` gets one line about what could not be recorded or removed, and about an end that has to be explained.
    `recorded` gets the trace's path once the end is in it. Raises `OSError`.
    """
    supervisor = _Supervisor(bundle, options, warn, recorded)
    own, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    blocked = Blocked()
    parent = os.getpid()
    try:
        child = os.fork()
    except OSError:
        blocked.release()
        raise
    if child == 0:
        # A terminal's signals, and those for the whole group, reach the parent alone, which passes each on once.
        os.setpgid(0, 0)
        blocked.release()
        own.close()
        return Channel(other, parent)
    other.close()
    return supervisor.watch(child, own, blocked)


class _Supervisor:
    def __init__(
        self,
        bundle: Bundle,
        options: RunOptions,
        warn: Callable[[str], None],
        recorded: Callable[[str], None] | None,
    ) -> None:
        self._options = options
        self._recorded = recorded
        self._warn = warn
        self._limits = _Limits(bundle.config)
        self._has_terminal = bundle.config["process"].get("terminal", False)
        self._oom = self._oom_watch(bundle)
        #: What the child gave, and the descriptors.
        self._told: Mapping[str, Any] | None = None
        self._given: tuple[int, ...] = ()
        self._is_refused = False
        #: Whether the child is known to have become runsc.
        self._is_executed = False

    def _oom_watch(self, bundle: Bundle) -> OomWatch | None:
        if self._limits.memory is None or self._options.ignore_cgroups:
            return None
        from engine.state.oom import OomWatch, counters

        return OomWatch(counters(bundle.config, self._options.container_id))

    def watch(self, child: int, channel: _socket.socket, blocked: Blocked) -> int:
        """Wait for the run's end, record it, and clean up: the exit code for this process."""
        leave_caller({channel.fileno()}, standard=(0, 1))
        channel.setblocking(False)
        if self._oom is not None:
            self._oom.begin()

        signals = Forwarding(child, has_terminal=self._has_terminal)

        def listen() -> None:
            self._listen(child, channel, signals)

        fcntl.fcntl(channel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(channel, fcntl.F_SETFL, fcntl.fcntl(channel, fcntl.F_GETFL) | os.O_ASYNC)
        listen()
        status, used = blocked.wait(child, arrived=signals.send, notified=listen, again=signals.go_on)
        now = time.monotonic_ns()
        listen()
        code = os.waitstatus_to_exitcode(status)
        if self._told is not None and not self._is_refused:
            is_of_runsc = self._is_executed or code >= 0
            self._after(self._told, (status, used, now) if is_of_runsc else None)
        return code if code >= 0 else 128 - code

    def _listen(self, child: int, channel: _socket.socket, signals: Forwarding) -> None:
        """Take what the child says. At its execve, or its end, its channel is closed, with CLOEXEC."""
        while True:
            try:
                message, ancillary, _, _ = channel.recvmsg(
                    _MAX_MESSAGE, _socket.CMSG_SPACE(struct.calcsize(_NUMBERS)), _socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            if not message:
                if self._told is not None and not self._is_executed and _executes(child, self._given[-1]):
                    self._is_executed = True
                    command = (*kill_arguments(self._told["argv"]), self._options.container_id)
                    signals.becomes_runsc(self._given[-1], command, self._told["environment"])
                return
            if message == _REFUSED:
                self._is_refused = True
                signals.stays_the_engine()
            else:
                self._told = json.loads(message.decode("utf-8", "surrogateescape"))
                self._given = struct.unpack(_NUMBERS, ancillary[0][2])
                signals.hold()

    def _after(self, told: Mapping[str, Any], ended: tuple[int, Any, int] | None) -> None:
        """End what is left of the container, record its end unless nobody knows it, and clean up."""
        import_transitions()
        from engine.lifecycle.ended import clean_up, end_the_rest, record

        if not end_the_rest(told, self._given, self._warn):
            return
        if ended is not None:
            status, used, at = ended
            ending = _Ending(status, used, at - told["at"], self._oom.result() if self._oom else None)
            is_recorded = record(self._options, told, self._given, ending, self._warn)
            if is_recorded and self._recorded is not None:
                self._recorded(told["trace"])
            self._explain(os.waitstatus_to_exitcode(status), ending.oom)
        clean_up(told, self._given, self._warn)

    def _explain(self, code: int, oom: tuple[bool, str] | None) -> None:
        """Say in one line why a container under a limit may have ended so."""
        memory, pids = self._limits.memory, self._limits.pids
        if memory is not None and (code in (_KILLED, -signal.SIGKILL) or (oom is not None and oom[0])):
            limit = f"its memory limit, linux.resources.memory.limit, {memory} bytes"
            if oom is None:
                self._warn(f"it was killed: perhaps by the kernel for {limit}; its cgroup was not seen")
            elif oom[0]:
                self._warn(f"the kernel killed a process of it for {limit}: raise it, or use less")
            else:
                self._warn(f"it was killed, and not for {limit}")
        elif pids is not None and code == _NO_THREAD:
            self._warn(
                f"exit code 2 under a pids limit, linux.resources.pids.limit, of {pids}: perhaps gVisor could start "
                "no thread; its own threads count, too: raise it"
            )


def _executes(child: int, program: int) -> bool:
    """Whether the `child` executes the open `program`, proc_pid_exe(5); one that ends executes nothing any more.

    Its channel is closed by execve and by its end alike, and it cannot be waited for until a while after that.
    """
    try:
        return os.path.samestat(os.stat(f"/proc/{child}/exe"), os.fstat(program))
    except OSError:
        return False
