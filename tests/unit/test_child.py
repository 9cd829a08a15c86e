"""A function in a forked child: its answer or its error, and what is said when there is neither."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from engine.linux import child as module
from engine.linux.child import Child, Helper, ask_child
from tests.support.forked import failure, in_a_child

pytestmark = pytest.mark.usefixtures("no_child_left", "no_descriptor_left")
NO_ANSWER = errno.EIO, "it ended without an answer", "a child process"


@pytest.fixture
def no_descriptor_left() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("answer", [b"", b"a\0b", bytes(1 << 20)])
def test_the_answer_comes_whole_from_another_process(answer: bytes) -> None:
    parent = os.getpid()
    assert ask_child(lambda: answer) == answer
    assert int(ask_child(lambda: b"%d" % os.getppid())) == parent
    assert ask_child(lambda: None) == b""


@pytest.mark.parametrize("about", ["/a \udcff b", None])
def test_an_error_comes_with_its_number_words_and_name(about: str | None) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "no\0room", about)

    assert failure(lambda: ask_child(fail)) == (errno.ENOSPC, "no\0room", about)


def test_an_error_without_a_number_is_still_an_error() -> None:
    def fail() -> None:
        raise OSError("odd")

    assert failure(lambda: ask_child(fail)) == (errno.EIO, "odd", None)


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(0)


def fault() -> None:
    raise RuntimeError


def interrupted() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("end", [be_killed, leave, fault, interrupted])
def test_a_child_that_ends_otherwise_has_not_answered(
    end: Callable[[], None], capfd: pytest.CaptureFixture[str]
) -> None:
    assert failure(lambda: ask_child(end)) == NO_ANSWER
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("length", [3, 5])
def test_an_answer_of_another_length_than_was_said_is_none(
    monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """As that of a child that was killed while it wrote."""

    class Told(bytes):
        def __len__(self) -> int:
            return length

    monkeypatch.setattr(module, "_outcome", lambda _: (b"=", Told(b"four")))
    assert failure(lambda: ask_child(lambda: None)) == NO_ANSWER


def test_a_process_that_cannot_fork_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("os.fork", fork)
    assert failure(lambda: ask_child(lambda: None)) == (
        *(errno.EAGAIN, "Resource temporarily unavailable", None),
    )


def test_answer_comes_with_sigchld_ignored() -> None:
    def act() -> bytes:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        return ask_child(lambda: b"there")

    assert in_a_child(act) == b"there"


def test_the_parent_may_do_something_before_it_asks(tmp_path: Path) -> None:
    go, gone = os.pipe()
    child = Child(lambda: os.read(go, 9) + os.fsencode(str((tmp_path / "made").exists())))
    (tmp_path / "made").touch()
    os.write(gone, b"now ")
    assert child.answer() == b"now True"
    os.close(go)
    os.close(gone)


def counts() -> Generator[bytes]:
    for number in range(2):
        yield b"%d of %d" % (number, os.getppid())
    raise OSError(errno.ENOSPC, "no room", "/a")


def test_a_helper_answers_whenever_it_is_asked_until_it_fails() -> None:
    helper = Helper(counts)
    assert [helper.ask(), helper.ask()] == [b"0 of %d" % os.getpid(), b"1 of %d" % os.getpid()]
    assert failure(helper.ask) == (errno.ENOSPC, "no room", "/a")
    helper.end()


@pytest.mark.parametrize("end", [be_killed, leave, fault, interrupted])
def test_a_helper_that_ends_otherwise_has_not_answered(end: Callable[[], None]) -> None:
    def answers() -> Generator[bytes]:
        yield b"there"
        end()

    helper = Helper(answers)
    assert helper.ask() == b"there"
    for _ in range(2):
        assert failure(helper.ask) == NO_ANSWER
    helper.end()


def test_a_helper_closes_its_generator_at_its_end(tmp_path: Path) -> None:
    def answers() -> Generator[bytes]:
        try:
            yield b""
        finally:
            (tmp_path / "closed").touch()

    helper = Helper(answers)
    helper.ask()
    helper.end()
    assert (tmp_path / "closed").exists()


def test_a_disowned_helper_is_nobodys_child_here_and_its_end_is_waited_for(tmp_path: Path) -> None:
    def answers() -> Generator[bytes]:
        try:
            yield b"%d" % os.getppid()
        finally:
            time.sleep(0.1)
            (tmp_path / "closed").touch()

    helper = Helper(answers, disowned=True)
    parent = int(helper.ask())
    helper.end()
    assert parent != os.getpid()
    assert (tmp_path / "closed").exists()


@pytest.mark.parametrize("disowned", [True, False])
def test_a_helper_ends_with_its_parent(disowned: bool) -> None:
    def act() -> int:
        def answers() -> Generator[bytes]:
            yield b"%d" % os.getpid()

        return int(Helper(answers, disowned=disowned).ask())

    pid = in_a_child(act)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split():
        assert time.monotonic() < deadline
        time.sleep(0.01)
