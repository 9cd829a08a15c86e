"""Locks with a deadline, flock(2), and read leases, fcntl(2)."""

from __future__ import annotations

import fcntl
import signal
import time

#: Seconds between two attempts: at first, and at most.
_FIRST_WAIT, _MAX_WAIT = 0.001, 0.01


def lock(descriptor: int, until: float = 0.0, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock the open file, for this process alone unless `kind` is LOCK_SH; False if another still has it at `until`.

    `until`: time.monotonic(); 0 tries once. Closing all copies of the descriptor unlocks it. Raises `OSError`.
    """
    wait = _FIRST_WAIT
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(wait)
            wait = min(2 * wait, _MAX_WAIT)
        else:
            return True


def take_lease(descriptor: int) -> None:
    """Block later writers of the open file until it is closed here, or the kernel breaks the lease.

    Raises `BlockingIOError` while a writer exists, and other `OSError`s if the file system has no leases.
    """
    # When the kernel breaks a lease it signals the holder. The default, SIGIO, would end the process.
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)


def has_lease(descriptor: int) -> bool:
    """Whether nobody has tried to open the file for writing since `take_lease`."""
    return fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK
