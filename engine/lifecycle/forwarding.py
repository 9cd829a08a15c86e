"""Passes signals on to the container of a supervised run.

Until it has become runsc, the run itself gets them. Then runsc does where the container has a terminal: it passes them
on to the foreground process there. Without one runsc would end of them, so runsc's own command sends them to the
container's first process. Observed in runsc of 2022-12 to 2026-08.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

#: Seconds between two attempts while the container starts; and after how many runsc itself gets the signal.
_INTERVAL, _TIMEOUT = 0.05, 10.0


class Forwarding:
    """The signals for the child `pid`, in order; `has_terminal`: whether the container has one."""

    def __init__(self, pid: int, *, has_terminal: bool) -> None:
        self._pid: Final = pid
        self._has_terminal: Final = has_terminal
        self._command: tuple[int, Sequence[str], Mapping[str, str]] | None = None
        #: Signals that wait, each with the time after which runsc itself gets it.
        self._waiting: list[tuple[int, float]] = []
        self._sender: int | None = None
        self._next = 0.0
        self._is_held = False

    def hold(self) -> None:
        """The run is about to become runsc: what comes now waits until it has."""
        self._is_held = True

    def stays_the_engine(self) -> None:
        """It did not become runsc."""
        self._let_go()

    def becomes_runsc(self, program: int, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """From now on signals go to the container: `program` with `arguments` and a signal's number sends one."""
        if self._has_terminal:
            self._let_go()
        else:
            os.set_inheritable(program, True)
            self._command = program, arguments, environment
            self._is_held = False

    def send(self, number: int) -> None:
        """Pass on a signal, as soon as that is possible."""
        if self._command is None and not self._is_held:
            self._send_directly(number)
        else:
            self._waiting.append((number, time.monotonic() + _TIMEOUT))

    def _let_go(self) -> None:
        self._is_held = False
        for number, _ in self._waiting:
            self._send_directly(number)
        self._waiting.clear()

    def go_on(self) -> float | None:
        """Send what waits: seconds until this is to be called again; None if only a signal brings more to do."""
        if self._sender is not None:
            reaped, status = os.waitpid(self._sender, os.WNOHANG)
            if reaped == 0:
                return None  # its end is a signal
            self._sender = None
            number, until = self._waiting[0]
            if status == 0 or time.monotonic() > until:
                del self._waiting[0]
                if status != 0:
                    self._send_directly(number)
            else:
                self._next = time.monotonic() + _INTERVAL  # the container does not run yet
        if self._command is None or not self._waiting:
            return None
        if (seconds := self._next - time.monotonic()) > 0:
            return seconds
        self._begin(self._waiting[0][0], *self._command)
        return None

    def _begin(
        self, number: int, program: int, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        with open(os.devnull, "r+b", buffering=0) as nothing:
            self._sender = os.posix_spawn(
                f"/proc/self/fd/{program}",
                (*arguments, str(number)),
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, nothing.fileno(), standard) for standard in (0, 1, 2)],
                setsigmask=(),
            )

    def _send_directly(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, number)
