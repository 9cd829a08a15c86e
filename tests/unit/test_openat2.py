"""openat2: a walk that the kernel could not finish for now is tried again, and not for ever."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from engine.linux import openat2 as module
from engine.linux.openat2 import RESOLVE_BENEATH, openat2
from engine.linux.syscall import system_call


@pytest.fixture
def directory(private: Path) -> int:
    (private / "file").write_text("content")
    return os.open(private, os.O_PATH | os.O_DIRECTORY)


def fail_first(monkeypatch: pytest.MonkeyPatch, times: int, number: int) -> list[str | None]:
    """Let the first calls fail, and answer with what each call is about."""
    calls: list[str | None] = []

    def call(which: int, *arguments: int | bytes, about: str | None = None) -> int:
        calls.append(about)
        if len(calls) <= times:
            raise OSError(number, os.strerror(number), about)
        return system_call(which, *arguments, about=about)

    monkeypatch.setattr(module, "system_call", call)
    return calls


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EINTR])
@pytest.mark.parametrize("times", [0, 1, 31])
def test_interrupted_open_is_tried_again(
    directory: int, monkeypatch: pytest.MonkeyPatch, times: int, number: int
) -> None:
    calls = fail_first(monkeypatch, times, number)
    descriptor = openat2(directory, "file", os.O_RDONLY, resolve=RESOLVE_BENEATH)
    assert os.read(descriptor, 99) == b"content"
    assert not os.get_inheritable(descriptor)
    assert calls == ["file"] * (times + 1)


def test_a_walk_is_given_up_in_the_end(directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fail_first(monkeypatch, 1000, errno.EAGAIN)
    with pytest.raises(BlockingIOError) as failure:
        openat2(directory, "file", os.O_RDONLY, resolve=RESOLVE_BENEATH)
    assert (failure.value.filename, len(calls)) == ("file", 32)


def test_any_other_error_is_final(directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fail_first(monkeypatch, 0, 0)
    with pytest.raises(FileNotFoundError) as failure:
        openat2(directory, "absent", os.O_RDONLY, resolve=RESOLVE_BENEATH)
    assert (failure.value.filename, len(calls)) == ("absent", 1)
