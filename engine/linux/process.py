"""Processes: what one hands to the program that replaces it, execve(2), and which ones execute a given file."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Collection, Mapping, Sequence

from engine.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Self

_PR_SET_PDEATHSIG = 1


class SignalGuard:
    """What a run takes from its own process while it is entered, and gives back before it becomes runsc.

    Signals that would end the process are noted instead of acted on, signal(7): what the caller had ignored
    stays ignored. `block` makes the kernel keep them pending, so that none is lost between the last look and
    execve. The umask is 077 meanwhile, so that nothing is ever more open, or more closed, than it is meant.
    """

    _SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
    #: What the interpreter ignores from its start; an ignored signal would stay ignored over execve.
    _IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)

    def __init__(self) -> None:
        self._arrived: str | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._mask: set[signal.Signals | int] | None = None
        self._umask: int  # the caller's, from when this is entered

    def __enter__(self) -> Self:
        self._umask = os.umask(0o077)
        for number in self._SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._ignore_what_python_ignores()
        self._unblock()
        os.umask(self._umask)

    @property
    def arrived(self) -> str | None:
        """The name of a signal that came, noted or pending; None when none did."""
        if self._arrived is None:
            pending = sorted(signal.sigpending().intersection(self._handlers))
            return signal.Signals(pending[0]).name if pending else None
        return self._arrived

    def block(self) -> None:
        """Keep them pending from here on."""
        if self._mask is None:
            self._mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, self._SIGNALS))

    def release(self) -> None:
        """Give all of it back as it was before the interpreter started: a pending signal ends this process."""
        os.umask(self._umask)
        for number in (*self._handlers, *self._IGNORED_BY_PYTHON):
            signal.signal(number, signal.SIG_DFL)
        self._unblock()

    def retake(self) -> None:
        """Undo `release`, as execve failed and there is cleaning up to do."""
        self.block()
        self._ignore_what_python_ignores()
        for number in self._handlers:
            signal.signal(number, self._note)
        os.umask(0o077)

    def _ignore_what_python_ignores(self) -> None:
        for number in self._IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_IGN)

    def _unblock(self) -> None:
        if self._mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            self._mask = None

    def _note(self, number: int, _frame: object) -> None:
        self._arrived = signal.Signals(number).name


def keep_only_descriptors(kept: Collection[int]) -> None:
    """Let 0, 1, 2 and `kept` survive execve, and nothing else the caller left open."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor <= 2:
            continue
        try:
            os.set_inheritable(descriptor, descriptor in kept)
        except OSError as error:
            # The descriptor of the listing itself is closed by now, and is the only one that can be.
            if error.errno != errno.EBADF or descriptor in kept:
                raise


def replace_process(program: int, argv: Sequence[str], environment: Mapping[str, str]) -> None:
    """execve(2) the file open on descriptor `program`. Returns only by raising `OSError`."""
    os.execve(program, list(argv), dict(environment))  # noqa: S606 (the point of it all)


def runs(pid: int, program: tuple[int, int], argv_markers: tuple[str, ...]) -> bool:
    """Whether process `pid` lives, executes the file `program` (device and inode), and was given all `argv_markers`.

    Containers may share the file, so each path in `argv_markers` must be one of the arguments, or the value of one,
    proc_pid_exe(5), proc_pid_cmdline(5). A process that ended and was not waited for yet executes nothing, and a
    number that was given to another process since does not deceive. One that this user may not look at is not one of
    this user's containers.
    """
    try:
        status = os.stat(f"/proc/{pid}/exe")
    except OSError:
        return False
    if (status.st_dev, status.st_ino) != program:
        return False
    told = {value for given in arguments(pid) for value in (given, given.partition(b"=")[2])}
    return told.issuperset(map(os.fsencode, argv_markers))


def started(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot, proc_pid_stat(5): it tells it from a later one.

    None when it has ended, waited for or not.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def arguments(pid: int) -> list[bytes]:
    """The arguments that process `pid` was started with; none when it has ended."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def executing(program: tuple[int, int], argv_markers: tuple[str, ...]) -> list[int]:
    """The processes that `runs` is true of."""
    return [
        int(name) for name in os.listdir("/proc") if name.isdigit() and runs(int(name), program, argv_markers)
    ]


def end_all(program: tuple[int, int], argv_markers: tuple[str, ...], *, seconds: float) -> list[int]:
    """Kill every process that `runs` is true of, and wait for their ends; those that remain after `seconds`.

    Each is held by a pidfd before it is looked at again, so that none is killed in the place of another,
    pidfd_open(2).
    """
    deadline = time.monotonic() + seconds
    while remaining := executing(program, argv_markers):
        for pid in remaining:
            try:
                held = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                if runs(pid, program, argv_markers):
                    signal.pidfd_send_signal(held, signal.SIGKILL)
            except ProcessLookupError:
                pass
            finally:
                os.close(held)
        if time.monotonic() > deadline:
            return remaining
        time.sleep(0.005)
    return []


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, its parent, ends, whatever ends that, PR_SET_PDEATHSIG(2const).

    It stays so over execve(2), and is not passed on to children. Raises `OSError`. Ends this process where the
    parent is gone already.
    """
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)
