"""Locks with a deadline, and leases: who waits for whom, and how long."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.linux import locks
from engine.linux.locks import has_lease, lock, take_lease
from tests.support.forked import failure


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    return tmp_path / "file"


@pytest.fixture
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def theirs(path: Path) -> Iterator[int]:
    """The lock of the file, which somebody else has."""
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield descriptor
    os.close(descriptor)


def test_a_lock_that_is_free_is_taken_and_holds_off_others(path: Path, opened: int) -> None:
    assert lock(opened)
    with path.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_taken_lock_is_tried_once_without_a_deadline(
    opened: int, theirs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waited"))
    assert not lock(opened)


def test_it_is_waited_for_until_the_deadline(
    opened: int, theirs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: 100 + sum(waits), sleep=waits.append)
    monkeypatch.setattr(locks, "time", clock)
    assert not lock(opened, until=101)
    assert 1 <= sum(waits) <= 1.01
    assert waits[:5] == [0.001, 0.002, 0.004, 0.008, 0.01]


def test_a_lock_that_comes_free_meanwhile_is_had(opened: int, theirs: int) -> None:
    later = threading.Timer(0.05, lambda: fcntl.flock(theirs, fcntl.LOCK_UN))
    later.start()
    assert lock(opened, until=time.monotonic() + 60)
    later.join()


def test_another_error_is_not_waited_out(opened: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    assert failure(lambda: lock(opened, until=time.monotonic() + 60))[0] == errno.ENOLCK


def test_a_lease_is_had_until_somebody_wants_to_write(path: Path, opened: int) -> None:
    take_lease(opened)
    assert has_lease(opened)
    came: list[int] = []
    before = signal.signal(signal.SIGURG, lambda number, _: came.append(number))
    try:
        with pytest.raises(BlockingIOError):
            os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    finally:
        signal.signal(signal.SIGURG, before)
    assert came == [signal.SIGURG]
    assert not has_lease(opened)


def test_there_is_no_lease_of_a_file_that_is_open_for_writing(path: Path, opened: int) -> None:
    with path.open("ab"), pytest.raises(BlockingIOError):
        take_lease(opened)
    assert not has_lease(opened)
