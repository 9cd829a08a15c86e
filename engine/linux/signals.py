"""Waits for signals and for a child: for a process that stands for another one.

All signals are blocked meanwhile and taken one by one, sigwaitinfo(2), so none is lost and none ends this process but
SIGKILL.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

#: What a terminal sends to its foreground processes: keys, its end, its size; and SIGCONT of a shell.
_OF_TERMINALS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGWINCH,
    signal.SIGCONT,
)


class Blocked:
    """All signals of this process, blocked; and SIGCHLD, which an ignoring caller would keep from saying anything."""

    def __init__(self) -> None:
        self._signals: Final = signal.valid_signals()
        self._mask: Final = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        self._at_child: Any = signal.getsignal(signal.SIGCHLD)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def release(self) -> None:
        """Restore the caller's, as for a child that goes its own way."""
        if self._at_child is not None:
            signal.signal(signal.SIGCHLD, self._at_child)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def wait(
        self,
        pid: int,
        *,
        arrived: Callable[[int], None],
        notified: Callable[[], None],
        again: Callable[[], float | None],
    ) -> tuple[int, Any]:
        """Wait for the end of the child `pid`: its wait status and what it used, wait4(2).

        `arrived` gets every other signal that a process or a terminal sent. SIGIO of the kernel calls `notified`.
        `again` is called after each of them, and after as many seconds as it said.
        """
        while True:
            seconds = again()
            if seconds is None:
                given = signal.sigwaitinfo(self._signals)
            elif (soon := signal.sigtimedwait(self._signals, seconds)) is not None:
                given = soon
            else:
                continue
            number, is_of_process = given.si_signo, given.si_code <= 0  # SI_USER and its kind, sigaction(2)
            if number == signal.SIGCHLD:
                reaped, status, used = os.wait4(pid, os.WNOHANG)
                if reaped == pid:
                    return status, used
            elif is_of_process or number in _OF_TERMINALS:
                arrived(number)
                if number == signal.SIGTSTP and not is_of_process:
                    os.kill(
                        os.getpid(), signal.SIGSTOP
                    )  # the shell has the terminal again, until it continues us
            elif number == signal.SIGIO:
                notified()
