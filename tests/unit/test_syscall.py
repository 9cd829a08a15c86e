"""System calls by number and by name: every argument arrives whole, and an error names what it is about."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from engine.linux.syscall import OPENAT2, library_call, system_call


@pytest.fixture
def file(private: Path) -> int:
    (private / "file").touch()
    return os.open(private / "file", os.O_RDWR)


def test_an_argument_wider_than_an_int_arrives_whole(private: Path, file: int) -> None:
    library_call("lseek", file, 2**32 + 5, os.SEEK_SET)
    assert os.lseek(file, 0, os.SEEK_CUR) == 2**32 + 5
    how = struct.pack("QQQ", os.O_PATH, 0, 0)
    descriptor = system_call(OPENAT2, -100, bytes(private), how, len(how))
    assert os.fstat(descriptor).st_ino == private.stat().st_ino
    with pytest.raises(OSError, match="it") as failure:
        system_call(OPENAT2, -100, bytes(private), how, 2**32 + len(how), about="it")
    assert failure.value.errno == errno.E2BIG  # of the kernel, which was told of so many bytes


def test_an_error_says_what_it_is_about() -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as by_name:
        library_call("lseek", 99999, 0, 0, about="it")
    with pytest.raises(OSError, match="Bad file descriptor") as by_number:
        system_call(OPENAT2, 99999, b"x", b"\0" * 24, 24, about="it")
    for failure in (by_name.value, by_number.value):
        assert (failure.errno, failure.filename) == (errno.EBADF, "it")
