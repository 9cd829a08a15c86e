"""Waiting for others who have a file: locks with a deadline, flock(2), and leases, fcntl(2)."""

from __future__ import annotations

import fcntl
import signal
import time

#: Seconds between two tries: at first, and at most.
_FIRST_WAIT, _MAX_WAIT = 0.001, 0.01


def lock(descriptor: int, until: float = 0.0) -> bool:
    """Lock the open file for this process alone; False where another has it still.

    `until` is when to give up, time.monotonic(); 0 tries once. Closing all copies of the descriptor unlocks it. Raises
    `OSError`.
    """
    wait = _FIRST_WAIT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(wait)
            wait = min(2 * wait, _MAX_WAIT)
        else:
            return True


def take_lease(descriptor: int) -> None:
    """Make who opens the file for writing wait until it is closed here, or until `has_lease` is false.

    Raises `BlockingIOError` where somebody has it open for writing, and other `OSError`s where there are no leases.
    """
    # The kernel sends SIGIO to the holder when it is to let go, which ends a process; nobody need notice this signal.
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)


def has_lease(descriptor: int) -> bool:
    """Whether nobody has asked to write the file since `take_lease`."""
    return fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK
