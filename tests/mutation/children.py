"""A plugin of pytest that lets mutmut see what the children of a test do.

mutmut notes in memory which functions a test calls, and tries a mutant with the tests that call its function. What
cannot be undone, such as a namespace or a filter of system calls, is tested in a child, whose notes end with it. So
they are kept in memory that a test and its children share. And a mutant that takes the parent for the child ends the
tests themselves: that must not look as if they had passed.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
from typing import NoReturn

import pytest
from mutmut.state import state

_PR_SET_PDEATHSIG = 1
_LENGTH = struct.Struct("I")


class _Calls(set[str]):
    """The names of the functions called, also of those called in children."""

    def __init__(self) -> None:
        super().__init__()
        self._shared = mmap.mmap(-1, 1 << 20)

    def add(self, name: str) -> None:
        if name not in self:
            super().add(name)
            noted = self._noted() + f"{name}\n".encode()
            self._shared[: _LENGTH.size + len(noted)] = _LENGTH.pack(len(noted)) + noted

    def clear(self) -> None:
        super().clear()
        self._shared[: _LENGTH.size] = _LENGTH.pack(0)

    def collect(self) -> None:
        """Take over what the children called."""
        self.update(self._noted().decode().split())

    def _noted(self) -> bytes:
        (length,) = _LENGTH.unpack_from(self._shared)
        return self._shared[_LENGTH.size : _LENGTH.size + length]


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
