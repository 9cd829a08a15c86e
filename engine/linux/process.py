"""What one process hands to the program that replaces it: descriptors, signal dispositions, execve(2)."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self


class HeldSignals:
    """While it is entered, SIGHUP, SIGINT and SIGTERM are noted instead of acted on, signal(7).

    What the caller had ignored stays ignored. `block` makes the kernel keep them pending, so that none is
    lost between the last look and execve; `release` gives back the caller's mask and the default actions.
    """

    _SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.arrived: str | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._mask: set[signal.Signals | int] | None = None

    def __enter__(self) -> Self:
        for number in self._SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._unblock()

    def block(self) -> None:
        """Keep them pending from here on."""
        if self._mask is None:
            self._mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, self._SIGNALS))

    def release(self) -> None:
        """Let them act as they did before the interpreter started: one that is pending ends this process."""
        for number in self._handlers:
            signal.signal(number, signal.SIG_DFL)
        self._unblock()

    def _unblock(self) -> None:
        if self._mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            self._mask = None

    def _note(self, number: int, _frame: object) -> None:
        self.arrived = signal.Signals(number).name


def keep_only_descriptors(kept: Collection[int]) -> None:
    """Let 0, 1, 2 and `kept` survive execve, and nothing else the caller left open."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor <= 2:
            continue
        try:
            os.set_inheritable(descriptor, descriptor in kept)
        except OSError:
            # The descriptor of the listing itself is closed by now, and is the only one that can be.
            if descriptor in kept:
                raise


def restore_default_signals() -> None:
    """Undo what the interpreter ignores at its start; an ignored signal would stay ignored over execve."""
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def replace_process(program: int, argv: Sequence[str], environment: Mapping[str, str]) -> None:
    """execve(2) the file open on descriptor `program`. Returns only by raising `OSError`."""
    os.execve(program, list(argv), dict(environment))  # noqa: S606 (the point of it all)
