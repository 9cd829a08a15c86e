"""The parts of a supervisor: signals taken and passed on, the counter for memory, what an end is recorded as."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from engine.lifecycle.forwarding import Forwarding
from engine.runsc.arguments import kill_arguments
from engine.state import cgroups, oom
from engine.state.oom import OomWatch, counters
from tests.support.harness import wait_for
from tests.support.refusals import one_line

# -- signals ---------------------------------------------------------------------------------------------------------

#: Waits for a child that ends with 5 once the file in argv[1] exists, and prints what arrived; SIGCHLD was ignored.
_WAITS = """
import os, signal, sys, time
from engine.linux.signals import Blocked
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
blocked = Blocked()
child = os.fork()
if child == 0:
    blocked.release()
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
    os._exit(5)
other = os.fork()
if other == 0:
    os._exit(77)
arrived = []
def take(number):
    arrived.append(number)
    print(number, flush=True)
print("ready", flush=True)
status, used = blocked.wait(child, arrived=take, notified=lambda: None, again=lambda: None)
print("ended", os.waitstatus_to_exitcode(status), used.ru_utime >= 0, flush=True)
"""


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _WAITS, str(tmp_path / "end")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    (tmp_path / "end").touch()
    process.communicate(timeout=30)


def test_every_signal_is_taken_in_order_and_the_right_child_waited_for(
    waiting: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert waiting.stdout is not None
    given = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE, signal.SIGTSTP]
    for number in given:
        waiting.send_signal(number)
        assert waiting.stdout.readline() == f"{int(number)}\n"
    os.kill(waiting.pid, signal.SIGCHLD)  # tells nothing of the child
    (tmp_path / "end").touch()
    assert waiting.stdout.readline() == "ended 5 True\n"
    assert waiting.wait(30) == 0


# -- passing on ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shell() -> Iterator[int]:
    descriptor = os.open("/bin/sh", os.O_RDONLY | os.O_CLOEXEC)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def drive(forwarding: Forwarding, seconds: float = 10.0) -> None:
    """As the supervisor does: go on until nothing waits."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        again = forwarding.go_on()
        if again is None and forwarding._sender is None:
            return
        select.select([], [], [], min(again or 0.01, 0.05))
    raise AssertionError("it does not come to an end")


def test_before_the_hand_off_the_run_itself_gets_a_signal(sleeper: subprocess.Popen[bytes]) -> None:
    Forwarding(sleeper.pid, has_terminal=False).send(signal.SIGTERM)
    assert sleeper.wait(30) == -signal.SIGTERM


@pytest.mark.parametrize("has_terminal", [False, True])
def test_what_comes_at_the_hand_off_waits_for_it(
    sleeper: subprocess.Popen[bytes], shell: int, tmp_path: Path, has_terminal: bool
) -> None:
    forwarding = Forwarding(sleeper.pid, has_terminal=has_terminal)
    forwarding.hold()
    forwarding.send(signal.SIGTERM)
    assert forwarding.go_on() is None
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.2)
    forwarding.becomes_runsc(shell, ("sh", "-c", f"echo $0 > {tmp_path}/sent"), {})
    drive(forwarding)
    if has_terminal:
        assert sleeper.wait(30) == -signal.SIGTERM
    else:
        assert (tmp_path / "sent").read_text() == "15\n"


def test_an_engine_that_stays_one_gets_what_came_at_the_hand_off(sleeper: subprocess.Popen[bytes]) -> None:
    forwarding = Forwarding(sleeper.pid, has_terminal=False)
    forwarding.hold()
    forwarding.send(signal.SIGTERM)
    forwarding.stays_the_engine()
    assert sleeper.wait(30) == -signal.SIGTERM


def test_with_a_terminal_runsc_gets_it(sleeper: subprocess.Popen[bytes], shell: int) -> None:
    forwarding = Forwarding(sleeper.pid, has_terminal=True)
    forwarding.becomes_runsc(shell, ("sh", "-c", "exit 1"), {})
    forwarding.send(signal.SIGTERM)
    assert sleeper.wait(30) == -signal.SIGTERM


def test_without_one_runscs_command_sends_each_in_order(
    sleeper: subprocess.Popen[bytes], shell: int, tmp_path: Path
) -> None:
    forwarding = Forwarding(sleeper.pid, has_terminal=False)
    forwarding.becomes_runsc(
        shell, ("sh", "-c", 'echo "$0 $X" >> "$WHERE"'), {"WHERE": str(tmp_path / "sent"), "X": "x"}
    )
    assert forwarding.go_on() is None
    for number in (15, 2, 15):
        forwarding.send(number)
    drive(forwarding)
    assert (tmp_path / "sent").read_text() == "15 x\n2 x\n15 x\n"
    assert sleeper.poll() is None


def test_a_container_that_does_not_run_yet_is_asked_again(
    sleeper: subprocess.Popen[bytes], shell: int, tmp_path: Path
) -> None:
    forwarding = Forwarding(sleeper.pid, has_terminal=False)
    script = f"echo try >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) -ge 3 ]"
    forwarding.becomes_runsc(shell, ("sh", "-c", script), {"PATH": os.environ["PATH"]})
    forwarding.send(signal.SIGTERM)
    drive(forwarding)
    assert (tmp_path / "tries").read_text() == "try\n" * 3
    assert sleeper.poll() is None


def test_one_that_never_runs_gets_it_as_runsc(
    sleeper: subprocess.Popen[bytes], shell: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.lifecycle.forwarding._TIMEOUT", 0.1)
    forwarding = Forwarding(sleeper.pid, has_terminal=False)
    forwarding.becomes_runsc(shell, ("sh", "-c", "exit 1"), {})
    forwarding.send(signal.SIGTERM)
    drive(forwarding)
    assert sleeper.wait(30) == -signal.SIGTERM


def test_runsc_is_asked_with_the_flags_that_started_it() -> None:
    argv = [
        "/p/runsc",
        "--root",
        "/r",
        "--rootless",
        "--network",
        "none",
        "--platform",
        "kvm",
        "--x",
        "run",
        "c",
    ]
    assert kill_arguments(argv) == [*argv[:8], "kill"]


# -- memory ----------------------------------------------------------------------------------------------------------


def test_the_counter_is_where_each_kind_of_cgroup_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, file in (("v1", "memory.limit_in_bytes"), ("v2", "cgroup.controllers"), ("pids", "other")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    places = [(f"{tmp_path}/{name}", f"{tmp_path}/{name}/c") for name in ("v1", "v2", "pids")]
    monkeypatch.setattr(cgroups, "places", lambda *_: iter(places))
    assert counters({}, "c") == (f"{tmp_path}/v1/c/memory.oom_control", f"{tmp_path}/v2/c/memory.events")


def test_no_cgroup_is_no_answer(tmp_path: Path) -> None:
    watch = OomWatch([str(tmp_path / "memory.events")])
    watch.begin()
    assert watch.result() is None


@pytest.mark.parametrize(("later", "killed"), [(4, False), (5, True)])
def test_kills_of_before_are_not_the_containers(
    tmp_path: Path, later: int, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oom, "_ask_for_notices", lambda *_: os.eventfd(0))
    counter = tmp_path / "memory.oom_control"
    counter.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    watch = OomWatch([str(counter)])
    watch.begin()
    wait_for("the watch", lambda: watch._path)
    counter.write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {later}\n")
    assert watch.result() == (killed, str(counter))


def test_a_kill_is_remembered_when_the_cgroup_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices = os.eventfd(0)
    monkeypatch.setattr(oom, "_ask_for_notices", lambda *_: notices)
    counter = tmp_path / "memory.oom_control"
    watch = OomWatch([str(counter)])
    watch.begin()
    (tmp_path / "new").write_text("oom_kill 0\n")
    (tmp_path / "new").rename(counter)  # a cgroup's counter is never empty
    wait_for("the watch", lambda: watch._path)
    with counter.open("r+") as file:
        file.write("oom_kill 1\n")
    os.eventfd_write(notices, 1)
    wait_for("the count", lambda: watch._count)
    counter.unlink()
    assert watch.result() == (True, str(counter))


@pytest.mark.parametrize(("noticed", "answer"), [(1, False), (2, None)])
def test_a_cgroup_that_goes_gives_one_notice_and_another_is_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noticed: int, answer: bool | None
) -> None:
    notices = os.eventfd(0, os.EFD_NONBLOCK)
    monkeypatch.setattr(oom, "_ask_for_notices", lambda *_: notices)
    counter = tmp_path / "memory.oom_control"
    watch = OomWatch([str(counter)])
    counter.write_text("oom_kill 0\n")
    watch.begin()
    wait_for("the watch", lambda: watch._path)
    time.sleep(0.1)
    counter.write_text("")  # as ENODEV: nothing can be read any more
    os.eventfd_write(notices, noticed)
    assert watch._done.acquire(timeout=10)
    watch._done.release()
    counter.unlink()
    assert watch.result() == (None if answer is None else (answer, str(counter)))


# -- what is recorded ------------------------------------------------------------------------------------------------

#: A supervised run whose child does as argv[1] says after it has given the trace: a header and a hand-off, on the disk.
_SUPERVISES = """
import os, signal, sys, time
from types import SimpleNamespace
from engine.errors import EngineError
from engine.lifecycle.spec_graph import spec_graph
from engine.lifecycle.supervisor import Channel, fork
from engine.linux.files import make_private_directory
from engine.options import RunOptions
from engine.state.container import open_container
from engine.traces.writer import Trace, options_facts

what, directory = sys.argv[1:]
options = RunOptions("c", supervise=True)
bundle = SimpleNamespace(config={"process": {}})
channel = fork(bundle, options, lambda text: print("warning:", text, file=sys.stderr, flush=True))
if not isinstance(channel, Channel):
    sys.exit(channel)
if what == "ends before":
    sys.exit(9)
top = os.open(directory, os.O_RDONLY)
base = make_private_directory(top, directory, "base")
container, lock = open_container(base, "id-" + "0" * 32)
trace = Trace("c", {"options": options_facts(options), "spec": spec_graph().spec})
trace.create(directory + "/trace")
program = os.open("/bin/sh", os.O_RDONLY)
given = SimpleNamespace(argv=("sh", "--platform", "x"), environment={}, program=program)
channel.hand_over(SimpleNamespace(base=base, container=container, lock=lock), trace, given)
if what == "is refused":
    channel.take_back()
    sys.exit(125)
if what == "is killed":
    os.kill(os.getpid(), signal.SIGKILL)
os.execv("/bin/sh", ["sh", "-c", what])
"""


@pytest.mark.parametrize(
    ("what", "code", "end"),
    [
        ("ends before", 9, None),
        ("is refused", 125, None),
        ("is killed", 128 + signal.SIGKILL, None),
        ("sleep 0.3; exit 3", 3, {"exit_code": 3, "signal": None}),
        ("sleep 0.3; kill -TERM $$", 128 + signal.SIGTERM, {"exit_code": None, "signal": "SIGTERM"}),
        ("sleep 0.3; kill -36 $$", 128 + 36, {"exit_code": None, "signal": "SIGRTMIN2"}),
        ("sleep 0.3; kill -33 $$", 128 + 33, {"exit_code": None, "signal": "SIGRTMIN-1"}),
    ],
)
def test_only_the_end_of_what_was_executed_is_recorded(
    tmp_path: Path, what: str, code: int, end: dict[str, object] | None
) -> None:
    """Who is killed just before execve did not become runsc, so nothing of runsc has ended."""
    done = subprocess.run(
        [sys.executable, "-c", _SUPERVISES, what, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done
    assert done.stderr == ""
    trace = tmp_path / "trace"
    lines = [json.loads(line) for line in trace.read_text().splitlines()] if trace.exists() else []
    ends = [line for line in lines if line.get("trigger") == "end"]
    if end is None:
        assert ends == []
        return
    (last,) = ends
    assert {key: last["facts"][key] for key in end} == end
    assert last["previous"] == sha256(trace.read_bytes().splitlines(keepends=True)[-2]).hexdigest()
    assert os.listdir(tmp_path / "base") == []


def test_an_end_in_a_trace_that_somebody_removed_is_warned_of(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SUPERVISES, f"sleep 0.3; rm {tmp_path}/trace; exit 3", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 3, done
    assert "trace" in one_line(done.stderr)
    assert os.listdir(tmp_path / "base") == []
