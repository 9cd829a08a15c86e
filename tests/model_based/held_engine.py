"""Real engine processes that stand still at every system call, so that whoever holds them can step in.

`ForkServer` starts them: forked from one small process, which makes a run cost milliseconds. Each `Engine` runs the
engine's own code, execve included; before every call that the steps make it asks the test whether to go on, to
fail, or to wait while the world is changed. The notable thing: nothing of the engine is replaced but what would
depend on this machine (the trusted paths, and whether its kernel enforces a policy), so several runs of one
container can be interleaved call by call, and what is judged is what the kernel did.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from tests.model_based.two_steps import (
    EveryPath,
    can_be_done_without,
    choose_the_kernel,
    make_staging_small,
    make_the_binary_anothers,
)

#: A run makes some 150 calls; one that makes this many, and never waits for anybody, goes round in circles.
_MAX_CALLS = 5_000
#: The mark of an engine that waits for another's lock.
WAITS = "waits"
#: Seconds after which an engine that says nothing hangs.
_TIMEOUT = 60.0

#: Which functions of os are stopped at; `flock`, `fcntl`, `openat2` and the built-in `open` of a step are, too.
OS_CALLS = (
    *(
        "open",
        "close",
        "mkdir",
        "stat",
        "lstat",
        "fstat",
        "fchmod",
        "read",
        "write",
        "pread",
        "unlink",
        "rmdir",
    ),
    *("readlink", "listdir", "scandir", "ftruncate", "fstatvfs", "set_inheritable", "execve"),
    *("dup", "mkfifo", "link", "symlink", "replace", "preadv", "copy_file_range", "sendfile", "lseek"),
)
#: Which are not, and why.
NOT_STOPPED_AT = {
    **dict.fromkeys(
        ("geteuid", "getegid", "getpid", "getppid", "umask", "uname"),
        "cannot fail, and what it tells nobody can change",
    ),
    **dict.fromkeys(
        ("strerror", "fsencode", "waitstatus_to_exitcode", "major", "minor"), "is no system call"
    ),
    **dict.fromkeys(
        ("fork", "waitpid", "_exit", "pipe", "access", "posix_spawn", "statvfs", "chdir"),
        "is of a policy's probe, which says here what the test chose",
    ),
    **dict.fromkeys(("get_blocking", "dup2"), "is of a command's standard streams, no step's"),
    **dict.fromkeys(("setpgid", "kill", "wait4"), "is of a supervisor, which takes no step"),
    "urandom": "fails on no kernel that the engine runs on, getrandom(2)",
    **dict.fromkeys(
        ("pidfd_open", "killpg"), "is of the OCI verbs' deletion and of the doctor, which no step of a run is"
    ),
    "getcwd": "is called for a relative base only",
}

_FCNTL = fcntl.fcntl

#: The phase of a run that is between two steps, or takes back what it made.
CLEAN_UP = "clean_up"

Message = dict[str, Any]


# -- in the engine's process ------------------------------------------------------------------------------------


class _Stops:
    """The engine's side: asks before each call, and tells where it is."""

    def __init__(self, asks: socket.socket) -> None:
        self._asks = asks
        self._calls_left = 0
        self._until: str | None = None
        self._calls = 0
        self._waited_at = 0
        self._fails: dict[str, int] = {}
        self._faults: list[tuple[str, str, int]] = []
        self._done_without: list[tuple[str, str, int]] = []
        self.phase = "start"

    def mark(self, name: str, **more: Any) -> None:
        """Stop at a place between calls, unconditionally."""
        self._ask({"mark": name, **more})

    def wait(self, real: Callable[[float], None], seconds: float) -> None:
        """Stop before each sleep: whoever is waited for may be an engine that the test holds."""
        self._waited_at = self._calls
        self.mark(WAITS)
        real(seconds)

    def call(self, name: str, real: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Make the call, unless it is to fail; stop before it when the calls that were granted are used up."""
        if name == "close" and not _is_written(arguments[0]):
            return real(*arguments)
        self._calls += 1
        if self._calls - self._waited_at > _MAX_CALLS:
            os._exit(99)
        self._calls_left -= 1
        number = None
        if self._calls_left <= 0 or name in ("execve", self._until):
            order = self._ask({"call": name})
            self._fails.update(order.get("fail_from_now", {}))
            number = order.get("fail")
            if order.get("short") and name == "write":
                return real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
        number = number or self._fails.get(name)
        if number is None:
            return real(*arguments, **named)
        self._faults.append((self.phase, name, number))
        if can_be_done_without(number, sys._getframe(1)):
            self._done_without.append((self.phase, name, number))
        if name == "close":
            real(
                *arguments
            )  # what it reports is the fate of earlier writes: the descriptor is gone all the same
        raise _failure(number, arguments)

    def _ask(self, message: Message) -> Message:
        so_far = {"phase": self.phase, "calls": self._calls, "faults": self._faults}
        self._asks.send(json.dumps({**so_far, "done_without": self._done_without, **message}).encode())
        answer = self._asks.recv(4096)
        if not answer:
            os._exit(98)  # whoever held us is gone
        order: Message = json.loads(answer)
        self._calls_left = order["calls"]
        self._until = order.get("until")
        return order


def _is_written(descriptor: int) -> bool:
    """Whether closing it can fail, close(2): only what was written can turn out not to have been."""
    return _FCNTL(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def _failure(number: int, arguments: Sequence[Any]) -> OSError:
    named = [argument for argument in arguments[:1] if isinstance(argument, str)]
    return OSError(number, os.strerror(number), *named)


def _install(stops: _Stops, job: Message) -> None:
    """Put the questions in: before each call, at each step of the machine, at the last look."""
    from engine.bundle import bundle
    from engine.lifecycle import guards, machine, resolve, runner, secure_root
    from engine.linux import mounts
    from engine.state import cgroups
    from engine.traces.writer import Trace

    if sabotage := job.get("sabotage"):
        from tests.model_based.sabotage import SABOTAGES

        SABOTAGES[sabotage]()
    real_perform, real_changed = machine.Lifecycle.perform, secure_root.StateDirs.changed
    real_close = Trace.close

    def perform(self: Any, trigger: Any, act: Any, commit: Any = None) -> Any:
        stops.phase = str(trigger)
        stops.mark("begin")
        try:
            established = real_perform(self, trigger, act, commit)
        except BaseException:
            stops.phase = CLEAN_UP
            stops.mark("failed")
            raise
        stops.phase = CLEAN_UP  # a run that goes on makes no call before its next step
        return established

    def changed(self: Any) -> Any:
        stops.mark("look")
        return real_changed(self)

    def close(self: Any) -> None:
        stops.mark("last line")
        real_close(self)

    _replace(machine.Lifecycle, "perform", perform)
    _replace(Trace, "close", close)
    _replace(secure_root.StateDirs, "changed", changed)
    _replace(runner, "resolve", partial(resolve.resolve, trusted_paths=job.get("trusted_paths", [])))
    _replace(guards, "TRUSTED_PATHS", EveryPath())
    make_staging_small(_replace, settled=job.get("settled", True))
    if job.get("anothers"):
        make_the_binary_anothers(_replace)
    choose_the_kernel(
        _replace,
        kernel=job.get("kernel", "cannot"),
        restricted=lambda allowed: stops.mark("restrict", allowed=allowed),
        in_part=lambda: stops.mark("in part"),
    )
    _replace(bundle, "openat2", partial(stops.call, "openat2", vars(bundle)["openat2"]))
    _replace(time, "sleep", partial(stops.wait, time.sleep))
    _replace(fcntl, "flock", partial(stops.call, "flock", fcntl.flock))
    _replace(fcntl, "fcntl", partial(stops.call, "fcntl", fcntl.fcntl))
    for module in (mounts, cgroups):
        _replace(module, "open", partial(stops.call, "open", open), new_name=True)
    for name in OS_CALLS:
        _replace(os, name, partial(stops.call, name, getattr(os, name)))


def _replace(where: Any, name: str, new: Any, *, new_name: bool = False) -> None:
    if not new_name and not hasattr(where, name):
        raise AttributeError(f"the engine no longer has {where!r}.{name}: these tests would not see it")
    setattr(where, name, new)


def _play(job: Message, asks: socket.socket) -> NoReturn:
    """Run the engine as `job` says; end as runsc, or tell how it ended and wait to be dismissed."""
    from engine.bundle.bundle import open_bundle
    from engine.errors import EngineError
    from engine.lifecycle import runner
    from engine.options import ExecPolicy, RunOptions
    from engine.state.gc import collect

    # A file that the caller left open for everybody: runsc must not get it.
    os.set_inheritable(os.open(job["bait"], os.O_RDONLY), True)
    stops = _Stops(asks)
    said: list[str] = []
    bundle = open_bundle(job["bundle"]) if job["what"] == "run" else None
    _install(stops, job)
    ending: Message
    try:
        stops.mark("start")
        if bundle is None:
            stops.phase = "gc"
            collected = collect(job["environment"])
            ending = {"alive": collected.alive, "removed": collected.removed, "foreign": collected.foreign}
            ending["failed"] = collected.failed
        else:
            options = {**job["options"], "exec_policy": ExecPolicy(job["options"]["exec_policy"])}
            runner.run(
                bundle,
                RunOptions(job["id"], **options),
                job["environment"],
                trace_path=job["trace"],
                warn=said.append,
            )
    except EngineError as error:
        ending = {"refused": error.step, "why": str(error.reason)}
    except Exception as error:
        import traceback

        ending = {"raised": repr(error), "traceback": traceback.format_exc()}
    stops.phase = "end"
    stops.mark("end", said=said, **ending)
    os._exit(0)


#: The signals of a terminal, and of its end: engines meet them as a program in the foreground does.
_AS_BY_DEFAULT = (signal.SIGHUP, signal.SIGINT)


def _serve(control: socket.socket) -> None:
    """Fork an engine for each job; the status of one that is over is told when it is asked for."""
    import shutil  # noqa: F401 (it looks at the functions of os when it is imported)

    import engine.lifecycle.runner
    import engine.state.gc  # noqa: F401 (as above)

    gc.freeze()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 2)
        if not data:
            return
        job: Message = json.loads(data)
        if "reap" in job:
            _, status = os.waitpid(job["reap"], 0)
            control.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
            continue
        child = os.fork()
        if child == 0:
            try:
                control.close()
                asks_descriptor, stdin = descriptors
                os.dup2(stdin, 0)
                os.close(stdin)
                asks = socket.socket(fileno=asks_descriptor)
                asks.set_inheritable(False)
                _play(job, asks)
            finally:
                import traceback

                traceback.print_exc()
                os._exit(97)
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(json.dumps(child).encode())


# -- in the test's process --------------------------------------------------------------------------------------


def _ignored_by_a_new_process() -> int:
    told = ["/bin/sed", "-n", "s/^SigIgn://p", "/proc/self/status"]
    return int(subprocess.run(told, capture_output=True, check=True).stdout, 16)


class ForkServer:
    """The process from which engines are forked: small, with one thread, and of the signals of no terminal."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # the very engine under test
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._control.settimeout(_TIMEOUT)
        #: What engines ignore from their start, by the will of whoever started the suite, a bit each.
        self.ignored = _ignored_by_a_new_process()
        for number in _AS_BY_DEFAULT:
            self.ignored &= ~(1 << (number - 1))

    def start(self, job: Mapping[str, Any]) -> Engine:
        """A new engine, standing before its first step."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stdin, its_end = os.pipe()
        try:
            socket.send_fds(self._control, [json.dumps(job).encode()], [theirs.fileno(), stdin])
            pid: int = json.loads(self._control.recv(4096))
        finally:
            theirs.close()
            os.close(stdin)
        return Engine(self, pid, ours, its_end)

    def reap(self, pid: int) -> int:
        """The exit code of `pid`, negative for a signal; waits for its end."""
        self._control.send(json.dumps({"reap": pid}).encode())
        code: int = json.loads(self._control.recv(4096))
        return code

    def close(self) -> None:
        self._control.close()
        self._process.wait()


class Engine:
    """One engine process, standing at `at`: the last thing it asked. None while it is no engine any more.

    Its life ends in one of: `ended` (it told how), `became_runsc` (the kernel executed something in its place),
    `exit_code` (it died).
    """

    def __init__(self, fork_server: ForkServer, pid: int, asks: socket.socket, stdin: int) -> None:
        self._fork_server = fork_server
        self._asks = asks
        self._stdin = stdin
        self.pid = pid
        self.at: Message | None = None
        self.ended: Message | None = None
        self.became_runsc = False
        self.exit_code: int | None = None
        asks.settimeout(_TIMEOUT)
        self._hear()

    def go(self, calls: int, **order: Any) -> None:
        """Let it make `calls` calls more, or fewer: it stops at each step, too. `order` as in `_Stops.call`."""
        with contextlib.suppress(BrokenPipeError):  # it has died of a signal, which `_hear` finds out
            self._asks.send(json.dumps({"calls": calls, **order}).encode())
        self._hear()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal. SIGKILL is waited for."""
        os.kill(self.pid, number)
        if number is signal.SIGKILL:
            self._is_dead()

    def dismiss(self) -> None:
        """Let the container, or an engine that is done, come to its end."""
        os.close(self._stdin)
        self._stdin = -1
        if self.ended is not None:
            self._asks.send(json.dumps({"calls": 0}).encode())
        self._is_dead()

    def descriptors(self) -> dict[int, str]:
        """What it has open, by number."""
        where = f"/proc/{self.pid}/fd"
        return {int(name): os.readlink(f"{where}/{name}") for name in os.listdir(where)}

    def held(self) -> set[tuple[int, int]]:
        """Device and inode of everything it has open."""
        found = set()
        for number in self.descriptors():
            status = os.stat(f"/proc/{self.pid}/fd/{number}")
            found.add((status.st_dev, status.st_ino))
        return found

    def _hear(self) -> None:
        try:
            message = self._asks.recv(1 << 16)
        except ConnectionResetError:
            message = b""
        if message:
            self.at = json.loads(message)
            if self.at and self.at.get("mark") == "end":
                self.ended = self.at
            return
        self.at = None
        # The socket is closed on exec, after the program was replaced, or by death, after the program was unmapped.
        try:
            os.readlink(f"/proc/{self.pid}/exe")
        except OSError:
            self._is_dead()
        else:
            self.became_runsc = True

    def _is_dead(self) -> None:
        self.at = None
        self.exit_code = self._fork_server.reap(self.pid)
        self._asks.close()
        if self._stdin >= 0:
            with contextlib.suppress(OSError):
                os.close(self._stdin)
            self._stdin = -1


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
