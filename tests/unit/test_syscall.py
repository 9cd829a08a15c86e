"""System calls without a wrapper: what the kernel answers is the answer, and an error says what it is about."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from engine.linux import syscall
from engine.linux.syscall import OPENAT2, library_call, system_call
from tests.support.forked import failure

CLOSE_RANGE = 436
AT_FDCWD = -100


def test_integers_and_bytes_arrive_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("found")
    how = struct.pack("QQQ", os.O_RDONLY, 0, 0)
    descriptor = system_call(OPENAT2, AT_FDCWD, os.fsencode(tmp_path / "file"), how, len(how))
    with open(descriptor) as file:
        assert file.read() == "found"


def test_an_answer_of_zero_is_no_error() -> None:
    assert system_call(CLOSE_RANGE, 1_000_000, 1_000_001, 0) == 0
    assert library_call("prctl", 3, 0, 0, 0, 0) in {0, 1}  # PR_GET_DUMPABLE
    assert library_call("getppid") == os.getppid()


@pytest.mark.parametrize("about", ["the place", None])
def test_error_has_the_kernels_number_words_and_the_subject(about: str | None) -> None:
    expected = errno.EBADF, "Bad file descriptor", about
    assert failure(lambda: system_call(OPENAT2, -1, b"x", b"\0" * 24, 24, about=about)) == expected
    with open("/dev/null") as file:  # no namespace
        wrong = failure(lambda: library_call("setns", file.fileno(), 0, about=about))
    assert wrong == (errno.EINVAL, "Invalid argument", about)
    assert failure(lambda: system_call(OPENAT2, -1, b"x", b"\0" * 24, 24, about=about)) == expected


def test_an_argument_wider_than_an_int_arrives_whole(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        library_call("lseek", file.fileno(), 2**32 + 5, os.SEEK_SET)
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 2**32 + 5
    how = struct.pack("QQQ", os.O_PATH, 0, 0)
    told = failure(lambda: system_call(OPENAT2, AT_FDCWD, b"/", how, 2**32 + len(how)))
    assert told[0] == errno.E2BIG  # of the kernel, which was told of so many bytes


def test_the_numbers_are_those_of_the_kernel() -> None:
    """As in asm-generic/unistd.h; each is asked for with what it must refuse, and is there or newer than the kernel."""
    numbers = {name: number for name, number in vars(syscall).items() if name.isupper()}
    assert numbers == {
        "OPEN_TREE": 428,
        "MOVE_MOUNT": 429,
        "FSOPEN": 430,
        "FSMOUNT": 432,
        "FSPICK": 433,
        "OPENAT2": 437,
        "MOUNT_SETATTR": 442,
        "OPEN_TREE_ATTR": 467,
    }
