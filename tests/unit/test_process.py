"""Which processes execute a file, and their ends: none is taken for another, and none is killed in its place."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.linux import process
from engine.linux.process import (
    arguments,
    die_with_parent,
    end_all,
    end_group,
    executing,
    runs,
    started,
)
from tests.support.forked import in_a_child

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def program(private: Path) -> Path:
    """A shell of our own under a name that proc_pid_stat(5) does not escape."""
    shell = shutil.which("sh")
    assert shell is not None
    return Path(shutil.copy(shell, private / "a) Z (b"))


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a shell that waits, with arguments that it does not look at."""
    with ExitStack() as ends:

        def start(program: Path, *about: str) -> subprocess.Popen[bytes]:
            waits = "echo; read end"
            given = subprocess.Popen(
                [program, "-c", waits, "name", *about], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            ends.enter_context(given)
            ends.callback(given.kill)
            assert given.stdout is not None
            assert given.stdout.readline() == b"\n"
            return given

        yield start


def identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def that_run(program: Path, *about: str) -> Callable[[int], bool]:
    return lambda pid: runs(pid, {identity(program)}, about)


def end_without_waiting(given: subprocess.Popen[bytes]) -> None:
    given.kill()
    os.waitid(os.P_PID, given.pid, os.WEXITED | os.WNOWAIT)


def test_process_has_an_executable_and_marked_arguments(program: Path, start: Start) -> None:
    pid = start(program, "--root=/a=b", "/c", "/\udcff").pid
    for about in ((), ("/a=b",), ("/c",), ("/c", "/a=b"), ("/\udcff",), ("--root=/a=b",)):
        assert runs(pid, {identity(program)}, about), about
    for about in (("/d",), ("/c", "/d"), ("/a",), ("b",), ("--root",)):
        assert not runs(pid, {identity(program)}, about), about
    assert not runs(pid, {(identity(program)[0], 1)}, ())
    assert not runs(pid, {(0, identity(program)[1])}, ())


def test_ended_process_has_no_executable_start_or_arguments(program: Path, start: Start) -> None:
    given = start(program, "/a")
    assert runs(given.pid, {identity(program)}, ("/a",))
    assert isinstance(started(given.pid), int)
    end_without_waiting(given)
    assert not runs(given.pid, {identity(program)}, ())
    assert started(given.pid) is None
    given.wait()
    assert not runs(given.pid, {identity(program)}, ())
    assert started(given.pid) is None
    assert arguments(given.pid) == []


def test_the_start_is_the_twenty_second_field_whatever_the_name(
    program: Path, start: Start, monkeypatch: pytest.MonkeyPatch, private: Path
) -> None:
    pid = start(program).pid
    stat = Path(f"/proc/{pid}/stat").read_text()
    assert stat.startswith(f"{pid} (a) Z (b) ")
    assert started(pid) == int(stat.removeprefix(f"{pid} (a) Z (b) ").split()[19])
    fields = "S " + " ".join(map(str, range(4, 53)))
    for state, found in ((fields, 22), (fields.replace("S", "X", 1), None), ("S Z" + fields[3:], 22)):
        (private / "stat").write_text(f"1 (a) X (b) {state}\n")
        paths = {"/proc/1/stat": private / "stat"}
        monkeypatch.setattr(process, "open", lambda path, mode, of=paths: of[path].open(mode), raising=False)
        assert started(1) == found


def test_the_arguments_are_what_it_was_started_with(program: Path, start: Start) -> None:
    given = start(program, "a b", "", "XX")
    assert arguments(given.pid) == [
        *(os.fsencode(program), b"-c", b"echo; read end", b"name", b"a b", b"", b"XX"),
        b"",
    ]


def test_all_that_execute_a_file_about_something_are_found(program: Path, start: Start) -> None:
    mine = [start(program, *about).pid for about in (("/a",), ("/b", "/a"))]
    others = [start(program, "/b").pid, start(Path("/bin/sh"), "/a").pid]
    assert sorted(executing({identity(program)}, ("/a",))) == sorted(mine)
    assert sorted(executing({identity(program)}, ())) == sorted([*mine, others[0]])


def test_all_of_them_are_killed_and_no_other(program: Path, start: Start) -> None:
    mine = [start(program, *about) for about in (("/a",), ("/b", "/a"))]
    others = [start(program, "/b"), start(Path("/bin/sh"), "/a")]
    before = set(os.listdir("/proc/self/fd"))
    assert end_all(that_run(program, "/a"), seconds=60) == []
    assert set(os.listdir("/proc/self/fd")) == before
    assert [given.wait() for given in mine] == [-signal.SIGKILL] * 2
    assert [given.poll() for given in others] == [None, None]


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock on which each sleep takes a quarter of a second, and how long the sleeps were to be."""
    told: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: 100 + len(told) / 4, sleep=told.append)
    monkeypatch.setattr(process, "time", clock)
    return told


def test_what_does_not_die_in_time_is_told(
    program: Path, start: Start, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    signals: list[int] = []
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda held, number: signals.append(number))
    pid = start(program, "/a").pid
    assert end_all(that_run(program, "/a"), seconds=0.5) == [pid]
    assert slept == [0.005] * 3
    assert signals == [signal.SIGKILL] * 4


def test_process_that_is_gone_or_another_is_passed_over(
    program: Path, start: Start, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, another, mine = start(program, "/a"), start(program, "/b"), start(program, "/a")
    gone.kill()
    gone.wait()
    seen = [[gone.pid, another.pid, mine.pid], []]
    monkeypatch.setattr(process, "_all", lambda _: seen.pop(0))
    assert end_all(that_run(program, "/a"), seconds=1) == []
    assert mine.wait() == -signal.SIGKILL
    assert another.poll() is None
    assert slept == [0.005]


def test_one_that_ends_before_it_is_killed_is_no_error(
    program: Path, start: Start, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = start(program)

    def kill(held: int, number: int) -> None:
        end_without_waiting(given)
        raise ProcessLookupError

    monkeypatch.setattr(signal, "pidfd_send_signal", kill)
    before = set(os.listdir("/proc/self/fd"))
    assert end_all(that_run(program), seconds=1) == []
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("leader_ends", [False, True])
def test_a_group_ends_as_a_whole_also_when_its_leader_has_ended(leader_ends: bool) -> None:
    code = "sleep 600 & echo $!; " + ("exit 3" if leader_ends else "wait")
    with subprocess.Popen(["sh", "-c", code], stdout=subprocess.PIPE, start_new_session=True) as leader:
        assert leader.stdout is not None
        other = int(leader.stdout.readline())
        if leader_ends:
            os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
        end_group(leader)
        assert leader.returncode == (3 if leader_ends else -signal.SIGKILL)
        assert leader.stdout.read() == b""  # the other had it open
    end = time.monotonic() + 10
    while started(other) is not None:  # it closes its files before it has ended
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_group_whose_leader_was_waited_for_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.killpg", lambda *_: pytest.fail("its number may be another's"))
    with subprocess.Popen(["true"], start_new_session=True) as leader:
        leader.wait()
        end_group(leader)


# --- The end of the parent ------------------------------------------------------------------------------------


def test_the_kernel_kills_a_child_with_its_parent() -> None:
    """PR_GET_PDEATHSIG is 2, prctl(2)."""

    def act() -> int:
        die_with_parent(os.getppid())
        found = ctypes.c_int()
        assert ctypes.CDLL(None).prctl(2, ctypes.byref(found), 0, 0, 0) == 0
        return found.value

    assert in_a_child(act) == signal.SIGKILL


def test_child_whose_parent_is_gone_ends_as_if_killed() -> None:
    child = os.fork()
    if child == 0:
        try:
            die_with_parent(os.getpid())  # who is not the parent
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137
