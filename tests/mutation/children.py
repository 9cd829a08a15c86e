"""A plugin of pytest that lets mutmut see what the children of a test do.

mutmut notes in memory which functions a test calls, and tries a mutant with the tests that call its function. What
cannot be undone, such as a namespace or a filter of system calls, is tested in a child, whose notes end with it. So
they are kept in a file that a test and its children share. And a mutant that takes the parent for the child ends the
tests themselves: that must not look as if they had passed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
from typing import NoReturn

import pytest
from mutmut.state import state

_PR_SET_PDEATHSIG = 1
#: Beyond what a test opens, or counts on to be closed.
_FIRST_DESCRIPTOR = 500


class _Calls(set[str]):
    """The names of the functions called, also of those called in children: a file that each of them appends to."""

    def __init__(self) -> None:
        super().__init__()
        memory = os.memfd_create("calls")
        self._file = fcntl.fcntl(memory, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR)
        os.close(memory)
        fcntl.fcntl(self._file, fcntl.F_SETFL, os.O_APPEND)

    def add(self, name: str) -> None:
        if name not in self:
            super().add(name)
            with contextlib.suppress(OSError):  # a child may close what it likes
                _write(self._file, f"{name}\n".encode())

    def collect(self) -> None:
        """Take over what the children called."""
        self.update(_pread(self._file, 1 << 20, 0).decode().split())
        _ftruncate(self._file, 0)


# As they are before a test puts others in their place.
_write, _pread, _ftruncate = os.write, os.pread, os.ftruncate
_CALLS = _Calls()
_exit = os._exit


def pytest_configure() -> None:
    if os.environ.get("MUTANT_UNDER_TEST") == "stats":
        state()._stats = _CALLS
    tests = os.getpid()

    def exit_and_fail(status: int) -> NoReturn:
        _exit(1 if os.getpid() == tests else status)

    os._exit = exit_and_fail


def pytest_unconfigure() -> None:
    os._exit = _exit


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    _CALLS.collect()


_LIBC = ctypes.CDLL(None)


def _end_with_the_parent() -> None:
    """A mutant may wait for ever, and mutmut then ends the test, but not the child that the test waits for."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


os.register_at_fork(after_in_child=_end_with_the_parent)
