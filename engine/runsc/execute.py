"""The one execve(2): this process becomes runsc.

It gets the descriptor of the checked file, not its path, so what runs is what was checked. None of the caller's
descriptors or environment is passed on; signals and umask are restored.

A container's output to a regular file is appended. runsc writes it with pwrite(2) at offsets of its own, which begin at
0 and leave the caller's offset alone: it would overwrite what is in the file, and the caller's next line would
overwrite the output. With O_APPEND both always write at the end, pwrite(2) too. The flag belongs to the open file
that the caller shares, and stays set there. Sources: fcntl(2), pwrite(2) (Bugs).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
from collections.abc import Collection, Mapping, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, Self


class SignalGuard:
    """Signals and umask of this process, changed during a run and restored before it becomes runsc.

    Signals that would end the process are recorded instead, signal(7); those that the caller ignored stay ignored.
    `block` keeps them pending, so that none is lost between the last check and execve. The umask is 077 meanwhile, so
    that every file has exactly the mode it is made with.
    """

    _SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
    #: Python ignores these; they would stay ignored over execve.
    _IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)

    def __init__(self) -> None:
        self._arrived: str | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._mask: set[signal.Signals | int] | None = None
        self._umask: int  # the caller's, set on entry

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
        """The name of a signal that was recorded or is pending; None if there is none."""
        if self._arrived is None:
            pending = sorted(signal.sigpending().intersection(self._handlers))
            return signal.Signals(pending[0]).name if pending else None
        return self._arrived

    def block(self) -> None:
        """Keep signals pending from here on."""
        if self._mask is None:
            self._mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, self._SIGNALS))

    def release(self) -> None:
        """Restore everything as it was before the interpreter started: a pending signal then ends this process."""
        os.umask(self._umask)
        for number in (*self._handlers, *self._IGNORED_BY_PYTHON):
            signal.signal(number, signal.SIG_DFL)
        self._unblock()

    def retake(self) -> None:
        """Undo `release` after a failed execve, for the clean-up."""
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
    """Close all descriptors at execve except 0, 1, 2 and `kept`."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor <= 2:
            continue
        try:
            os.set_inheritable(descriptor, descriptor in kept)
        except OSError as error:
            # Only the listing's own descriptor can be closed by now.
            if error.errno != errno.EBADF or descriptor in kept:
                raise OSError(error.errno, error.strerror, f"descriptor {name}") from None


def append_output() -> dict[int, int]:
    """Set O_APPEND on each standard descriptor that is a regular file open for writing.

    Returns the earlier flags of those that had no O_APPEND. Raises `OSError` that names the descriptor; then none is
    changed.
    """
    before: dict[int, int] = {}
    for descriptor in (0, 1, 2):
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                continue
            import fcntl

            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
            if flags & os.O_ACCMODE != os.O_RDONLY and not flags & os.O_APPEND:
                fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_APPEND)
                before[descriptor] = flags
        except OSError as error:
            if error.errno == errno.EBADF:  # closed
                continue
            restore_flags(before)
            raise OSError(error.errno, error.strerror, f"descriptor {descriptor}") from None
    return before


def restore_flags(before: Mapping[int, int]) -> None:
    """Undo `append_output`."""
    import fcntl

    for descriptor, flags in before.items():
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)


def become_runsc(
    program: int,
    argv: Sequence[str],
    environment: Mapping[str, str],
    process: SignalGuard,
    kept: Collection[int] = (),
    *,
    has_output: bool = False,
) -> NoReturn:
    """execve(2) the file open on descriptor `program`; 0, 1, 2 and the descriptors in `kept` stay open.

    `has_output`: 0, 1 and 2 become the container's. Raises `OSError` that names `argv[0]`, or the descriptor that
    failed; then this process is as before.
    """
    keep_only_descriptors(kept)
    before = append_output() if has_output else {}
    try:
        process.release()
        os.execve(program, list(argv), dict(environment))  # noqa: S606 (no shell)
    except OSError as error:
        process.retake()
        restore_flags(before)
        for descriptor in kept:
            with contextlib.suppress(OSError):  # the caller's number may not be open
                os.set_inheritable(descriptor, False)
        raise OSError(error.errno, error.strerror, argv[0]) from None
