"""The one execve(2): this process becomes runsc.

It is given the descriptor of the file that was judged, not its path, so what runs is what was judged. Nothing of the
caller's descriptors and environment is passed on, and its signals and umask are given back as they were.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Collection, Mapping, Sequence

from engine.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, NoReturn, Self


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
                raise OSError(error.errno, error.strerror, f"descriptor {name}") from None


def become_runsc(
    program: int,
    argv: Sequence[str],
    environment: Mapping[str, str],
    process: SignalGuard,
    kept: Collection[int] = (),
) -> NoReturn:
    """execve(2) the file open on descriptor `program`; 0, 1, 2 and the descriptors in `kept` stay open in it.

    Raises `OSError` that names `argv[0]`, or what of the descriptors failed: this process is then as it was before.
    """
    keep_only_descriptors(kept)
    try:
        process.release()
        os.execve(program, list(argv), dict(environment))  # noqa: S606 (the point of it all)
    except OSError as error:
        process.retake()
        for descriptor in kept:
            with contextlib.suppress(OSError):  # the caller may have named one that is not open
                os.set_inheritable(descriptor, False)
        raise OSError(error.errno, error.strerror, argv[0]) from None
