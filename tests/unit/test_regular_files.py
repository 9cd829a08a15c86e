"""Regular files: what is refused in the place of one, and a replacement that is whole or leaves things as they were."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine.linux.files import PrivateDirectory, UntrustedPathError
from engine.linux.regular_files import (
    open_named,
    open_own,
    open_regular,
    read_named,
    read_own,
    read_regular,
    replace_file,
    replace_own,
    write_all,
    write_output,
)
from tests.support.forked import failure, in_a_child

pytestmark = pytest.mark.usefixtures("no_descriptor_left")


@pytest.fixture
def no_descriptor_left() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def here(private: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateDirectory]:
    """The private directory, which is the current one too: a socket's path may not be long."""
    monkeypatch.chdir(private)
    descriptor = os.open(private, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.closing(PrivateDirectory(descriptor, str(private), created=False)) as directory:
        yield directory


def fail(number: int) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


# --- Opening and reading --------------------------------------------------------------------------------------


def test_a_regular_file_is_open_for_reading_and_not_after_execve(here: PrivateDirectory) -> None:
    Path("file").write_bytes(b"content")
    for descriptor in (open_own(here, "file"), open_regular("file", here.descriptor, "/named")):
        assert os.read(descriptor, 99) == b"content"
        assert not os.get_inheritable(descriptor)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(descriptor, b"x")
        os.close(descriptor)


def bind(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: os.symlink("/etc/passwd", path), "is a symbolic link"),
        (lambda path: os.symlink("nowhere", path), "is a symbolic link"),
        (os.mkdir, "is a directory, not a regular file"),
        (os.mkfifo, "is a FIFO, not a regular file"),
        (bind, "is a socket, or a device that is not there, not a regular file"),
    ],
)
def test_anything_else_in_its_place_is_refused_without_waiting(
    here: PrivateDirectory, make: Callable[[str], None], why: str
) -> None:
    make("file")
    for act in (open_own, partial(read_own, limit=9)):
        with pytest.raises(UntrustedPathError) as refused:
            act(here, "file")
        assert str(refused.value) == f"'{here.path}/file' {why}"
        assert refused.value.why == why


def test_a_device_is_refused() -> None:
    devices = os.open("/dev", os.O_RDONLY)
    with pytest.raises(UntrustedPathError, match=r"^'/named' is a character device, not a regular file$"):
        open_regular("null", devices, "/named")
    os.close(devices)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (os.mkdir, "it is a directory, not a regular file"),
        (os.mkfifo, "it is a FIFO, not a regular file"),
        (bind, "it is a socket, not a regular file"),
        (lambda path: os.symlink("/dev/null", path), "it is a character device, not a regular file"),
    ],
)
@pytest.mark.parametrize("is_swapped", [False, True])
def test_what_somebody_names_is_opened_only_if_it_is_a_file(
    here: PrivateDirectory,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[str], None],
    why: str,
    is_swapped: bool,
) -> None:
    make("file")
    if is_swapped:  # a regular file was there when it was looked at
        Path("other").touch()
        then = os.stat("other")
        monkeypatch.setattr("os.stat", lambda _: then)
        if make is bind:
            assert failure(lambda: open_named("file"))[0] == errno.ENXIO
            return
    for act in (open_named, partial(read_named, limit=9)):
        assert failure(partial(act, "file")) == (errno.EINVAL, why, "file")


def test_what_somebody_names_may_be_a_link_to_a_file(here: PrivateDirectory) -> None:
    Path("file").write_bytes(b"content")
    Path("link").symlink_to("file")
    assert read_named("link", 7) == b"content"
    os.close(open_named("link"))
    assert failure(lambda: read_named("link", 6)) == (errno.EFBIG, "it is larger than 6 bytes", "link")
    assert failure(lambda: open_named("none")) == (errno.ENOENT, "No such file or directory", "none")
    assert failure(lambda: open_named("a\0b"))[0::2] == (errno.EINVAL, "a\0b")


def test_another_users_file_is_refused_where_it_must_be_ones_own(
    here: PrivateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_bytes(b"theirs")
    owner = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: 4242)
    for act in (open_own, partial(read_own, limit=9)):
        with pytest.raises(
            UntrustedPathError, match=rf"file' is owned by uid {owner} \(expected uid 4242\)$"
        ):
            act(here, "file")
    assert read_regular("file", here.descriptor, "file", 9) == b"theirs"


def test_what_the_kernel_says_comes_with_the_whole_path(
    here: PrivateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{here.path}/file"
    assert failure(lambda: open_own(here, "file")) == (errno.ENOENT, os.strerror(errno.ENOENT), path)
    Path("file").touch()
    for name, number in (("os.read", errno.EIO), ("os.open", errno.EMFILE)):
        with monkeypatch.context() as patched:
            patched.setattr(name, fail(number))
            told = failure(lambda: read_own(here, "file", 9))
        assert told == (number, os.strerror(number), path)


@pytest.mark.parametrize(("size", "is_read"), [(0, True), (5, True), (6, False), (1 << 21, False)])
def test_a_file_is_read_up_to_the_limit_and_no_further(
    here: PrivateDirectory, monkeypatch: pytest.MonkeyPatch, size: int, is_read: bool
) -> None:
    Path("file").write_bytes(b"x" * size)
    if is_read:
        assert read_own(here, "file", 5) == b"x" * size
    else:
        monkeypatch.setattr("os.read", lambda *_: pytest.fail("it was read"))
        told = failure(lambda: read_own(here, "file", 5))
        assert told == (errno.EFBIG, "it is larger than 5 bytes", f"{here.path}/file")


def test_file_that_grows_while_read_is_read_no_further(
    here: PrivateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").touch()
    pieces: list[int] = []

    def endless(_: int, count: int) -> bytes:
        pieces.append(count)
        return bytes(count)

    monkeypatch.setattr("os.read", endless)
    assert failure(lambda: read_own(here, "file", 100))[0] == errno.EFBIG
    assert len(pieces) == 1


def test_a_file_that_is_read_in_pieces_is_whole(
    here: PrivateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_bytes(b"0123456789")
    real = os.read
    monkeypatch.setattr("os.read", lambda descriptor, _: real(descriptor, 3))
    assert read_own(here, "file", 10) == b"0123456789"


# --- Writing and replacing ------------------------------------------------------------------------------------


def replace(here: PrivateDirectory, data: bytes, **mode: int) -> None:
    replace_own(here, "file", data, **mode)


def replace_by_path(here: PrivateDirectory, data: bytes, **mode: int) -> None:
    replace_file(f"{here.path}/file", data, **mode)


BOTH = pytest.mark.parametrize("act", [replace, replace_by_path])


def test_all_is_written_however_little_the_kernel_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr("os.write", lambda descriptor, data: real(descriptor, data[:3]))
    with (tmp_path / "file").open("wb") as file:
        write_all(file.fileno(), b"")
        write_all(file.fileno(), b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


@BOTH
def test_a_file_is_made_and_replaced_with_the_mode(here: PrivateDirectory, act: Callable[..., None]) -> None:
    before = os.umask(0)
    try:
        act(here, b"first", mode=0o640)
        with open("file", "rb") as first:
            act(here, b"second", mode=0o600)
            assert first.read() == b"first"  # who has it open keeps what was there
    finally:
        os.umask(before)
    assert Path("file").read_bytes() == b"second"
    assert stat.S_IMODE(os.stat("file").st_mode) == 0o600
    assert os.listdir() == ["file"]


@BOTH
@pytest.mark.parametrize("call", ["write", "open", "close", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_where_it_fails_the_old_file_stays_and_nothing_beside_it(
    here: PrivateDirectory, monkeypatch: pytest.MonkeyPatch, act: Callable[..., None], call: str, number: int
) -> None:
    Path("file").write_bytes(b"old")
    real, real_open = getattr(os, call), os.open
    refuse = fail(number)

    def refused(*given: Any, **named: Any) -> Any:
        if call == "close":
            real(*given)  # the descriptor is gone all the same, close(2)
        if call == "open" and not given[1] & os.O_CREAT:
            return real_open(*given, **named)
        return refuse()

    with monkeypatch.context() as patched:
        patched.setattr(os, call, refused)
        told = failure(lambda: act(here, b"new"))
    assert told == (number, os.strerror(number), f"{here.path}/file")
    assert Path("file").read_bytes() == b"old"
    assert os.listdir() == ["file"]


@BOTH
def test_an_end_from_outside_leaves_no_part_of_it(
    here: PrivateDirectory, monkeypatch: pytest.MonkeyPatch, act: Callable[..., None]
) -> None:
    def interrupt(*_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        act(here, b"new")
    assert os.listdir() == []


@BOTH
@pytest.mark.parametrize(
    "make", [lambda: os.symlink("victim", "file"), lambda: os.mkfifo("file"), lambda: bind("file")]
)
def test_what_stands_in_its_place_is_replaced_and_not_followed(
    here: PrivateDirectory, act: Callable[..., None], make: Callable[[], None]
) -> None:
    Path("victim").write_bytes(b"theirs")
    make()
    act(here, b"new")
    assert stat.S_ISREG(os.lstat("file").st_mode)
    assert (Path("file").read_bytes(), Path("victim").read_bytes()) == (b"new", b"theirs")


@BOTH
def test_a_directory_in_its_place_is_an_error(here: PrivateDirectory, act: Callable[..., None]) -> None:
    os.mkdir("file")
    assert failure(lambda: act(here, b"new")) == (errno.EISDIR, "Is a directory", f"{here.path}/file")
    assert os.listdir() == ["file"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Path("file.new").write_bytes(b"half of something longer"),
        lambda: os.symlink("victim", "file.new"),
        lambda: os.mkfifo("file.new"),
    ],
)
def test_what_one_left_who_was_killed_is_in_nobodys_way(
    here: PrivateDirectory, make: Callable[[], Any]
) -> None:
    Path("victim").write_bytes(b"theirs")
    make()
    replace_own(here, "file", b"new")
    assert sorted(os.listdir()) == ["file", "victim"]
    assert (Path("file").read_bytes(), Path("victim").read_bytes()) == (b"new", b"theirs")


def test_where_there_is_no_directory_the_file_is_what_is_named(private: Path) -> None:
    path = str(private / "gone" / "file")
    assert failure(lambda: replace_file(path, b"")) == (errno.ENOENT, "No such file or directory", path)
    assert failure(lambda: replace_file("a\0b", b""))[0::2] == (errno.EINVAL, "a\0b")


def test_a_plain_name_is_of_the_current_directory(here: PrivateDirectory) -> None:
    replace_file("file", b"new")
    assert Path(here.path, "file").read_bytes() == b"new"


class TestWriteOutput:
    """What a user names with --output."""

    def test_regular_file_is_replaced_as_a_whole_with_its_mode(self, here: PrivateDirectory) -> None:
        Path("file").write_bytes(b"older and longer")
        with open("file", "rb") as older:
            write_output("file", b"new", mode=0o600)
            assert older.read() == b"older and longer"
        assert Path("file").read_bytes() == b"new"
        assert stat.S_IMODE(os.stat("file").st_mode) == 0o600
        assert os.listdir() == ["file"]

    def test_own_links_are_followed_to_a_file_that_may_not_exist(self, here: PrivateDirectory) -> None:
        os.mkdir("far")
        os.symlink("far/second", "first")
        os.symlink("target", "far/second")
        for content in (b"made", b"replaced"):
            write_output("first", content)
            assert Path("far/target").read_bytes() == content
            assert os.path.islink("first")
            assert os.path.islink("far/second")

    def test_device_and_fifo_are_written_to_and_stay(self, here: PrivateDirectory) -> None:
        os.mkfifo("fifo")
        os.symlink("fifo", "link")
        reading = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
        write_output("link", b"new")
        assert os.read(reading, 10) == b"new"
        os.close(reading)
        assert stat.S_ISFIFO(os.lstat("fifo").st_mode)
        write_output("/dev/null", b"new")
        assert stat.S_ISCHR(os.lstat("/dev/null").st_mode)
        assert failure(lambda: write_output("/dev/full", b"new")) == (
            *(errno.ENOSPC, "No space left on device", "/dev/full"),
        )

    @pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
    def test_open_descriptor_is_written_to_where_it_stands(self, here: PrivateDirectory, name: str) -> None:
        def act() -> bool:
            with open("log", "wb", buffering=0) as log:
                os.dup2(log.fileno(), 1)
                log.write(b"before ")
                write_output(name, b"new")
                log.write(b" after")
            return True

        assert in_a_child(act)
        assert Path("log").read_bytes() == b"before new after"

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes files of other owners")
    @pytest.mark.parametrize("make", [lambda: os.symlink("victim", "file"), lambda: os.mkfifo("file")])
    def test_what_another_user_put_there_is_refused(
        self, here: PrivateDirectory, make: Callable[[], None]
    ) -> None:
        Path("victim").write_bytes(b"theirs")
        make()
        os.lchown("file", 4242, 4242)
        assert failure(lambda: write_output("file", b"new"))[0::2] == (errno.EPERM, "file")
        os.symlink("file", "mine")
        assert failure(lambda: write_output("mine", b"new"))[0::2] == (errno.EPERM, "mine")
        assert Path("victim").read_bytes() == b"theirs"

    def test_links_without_end_and_directories_are_errors(self, here: PrivateDirectory) -> None:
        os.symlink("file", "file")
        os.mkdir("directory")
        assert failure(lambda: write_output("file", b""))[0::2] == (errno.ELOOP, "file")
        assert failure(lambda: write_output("directory", b""))[0::2] == (errno.EISDIR, "directory")
        assert failure(lambda: write_output("none/file", b""))[0::2] == (errno.ENOENT, "none/file")
        assert failure(lambda: write_output("a\0b", b""))[0::2] == (errno.EINVAL, "a\0b")
        assert sorted(os.listdir()) == ["directory", "file"]
