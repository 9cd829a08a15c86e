"""A detached exec: what its manager does to the pid in the pid file happens to the process in the container."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.oci_runtime import Oci, kill
from tests.support.harness import Engine, argv, wait_for

FOREVER = "exec sleep 1000"
#: Bytes of private memory that a process of the engine which stays may take.
MAX_PRIVATE = 8 << 20


@pytest.fixture
def oci(root_engine: Engine, of_each_layout: tuple[str, ...]) -> Iterator[Oci]:
    runtime = Oci(root_engine, of_each_layout)
    yield runtime
    for container in root_engine.ids:
        runtime.ok("delete", "--force", container)


#: As conmon and containerd's shim: what a verb leaves becomes its child. It says how each of them ended.
MANAGER = """
import ctypes, json, os, subprocess, sys
assert ctypes.CDLL(None).prctl(36, 1) == 0  # PR_SET_CHILD_SUBREAPER
codes = {"verb": subprocess.call(sys.argv[2:])}
open(sys.argv[1] + "-started", "w").close()
while True:
    try:
        pid, status = os.wait()
    except ChildProcessError:
        break
    codes[pid] = os.waitstatus_to_exitcode(status)
    with open(sys.argv[1] + "-new", "w") as file:
        json.dump(codes, file)
    os.rename(sys.argv[1] + "-new", sys.argv[1])
"""


class Exec:
    """A detached exec of a script in a new container."""

    def __init__(self, oci: Oci, script: str, *flags: str | Path) -> None:
        self.oci = oci
        self.container = oci.running(oci.engine.shell(FOREVER))
        self.pid_file = oci.engine.directory / "exec-pid"
        self.inside_file = oci.engine.directory / "exec-pid-inside"
        self.said = oci.engine.directory / "exec-said"
        self.pid_files = ("--pid-file", self.pid_file, "--internal-pid-file", self.inside_file)
        self.codes = oci.engine.directory / "exec-codes"
        asked = ("exec", "--detach", *self.pid_files, *flags, self.container, "sh", "-c", script)
        command = [sys.executable, "-c", MANAGER, str(self.codes), *oci.command(*asked)]
        with self.said.open("wb") as out:
            self.manager = oci.engine.start(command, stdout=out, stderr=out)
        wait_for("the verb", Path(f"{self.codes}-started").exists)
        self.monitor = int(self.pid_file.read_text())

    @property
    def guard(self) -> int:
        (guard,) = children(self.monitor)
        return guard

    def is_inside(self) -> bool:
        return int(self.inside_file.read_text()) in pids_in(self.oci, self.container)

    def exit_code(self) -> int:
        """That which a manager gets when it waits for the pid."""
        wait_for("the end of the monitor", lambda: self.codes.exists() and str(self.monitor) in self.read())
        return self.read()[str(self.monitor)]

    def read(self) -> dict[str, int]:
        codes: dict[str, int] = json.loads(self.codes.read_text())
        return codes

    def is_over(self) -> None:
        """Nothing of it is left, inside or outside."""
        wait_for("the end inside", lambda: not self.is_inside())
        assert self.manager.wait(timeout=30) == 0
        assert execs_of(self.container) == []
        assert self.oci.status(self.container) == "running"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def pids_in(oci: Oci, container: str) -> list[int]:
    pids: list[int] = json.loads(oci.ok("ps", "--format", "json", container))
    return pids


def execs_of(container: str) -> list[int]:
    """The processes outside that are about an exec in `container`."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            words = argv(int(name))
            found += [int(name)] if "exec" in words and container in words else []
    return found


def private_memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))


def test_exec_whose_pid_is_killed_ends_inside(oci: Oci) -> None:
    running = Exec(oci, FOREVER)
    assert running.is_inside()
    kill(running.monitor)
    assert running.exit_code() == -signal.SIGKILL
    running.is_over()


def test_signal_to_the_pid_is_sent_inside(oci: Oci) -> None:
    running = Exec(oci, "trap 'echo told; exit 7' TERM; echo up; while :; do sleep 0.05; done")
    wait_for("the trap", lambda: running.said.read_text() == "up\n")
    os.kill(running.monitor, signal.SIGTERM)
    assert running.exit_code() == 7
    assert running.said.read_text() == "up\ntold\n"
    running.is_over()


def test_monitor_ends_with_the_exit_code(oci: Oci) -> None:
    running = Exec(oci, "exit 42")
    assert running.exit_code() == 42
    running.is_over()


def test_signal_that_ends_the_exec_is_in_its_exit_code(oci: Oci) -> None:
    running = Exec(oci, FOREVER)
    os.kill(running.monitor, signal.SIGINT)
    assert running.exit_code() == 128 + signal.SIGINT
    running.is_over()


def test_exec_whose_guard_is_killed_ends_inside(oci: Oci) -> None:
    running = Exec(oci, FOREVER)
    kill(running.guard)
    assert running.exit_code() == 128 + signal.SIGKILL
    running.is_over()


def test_exec_whose_runsc_is_killed_ends_inside(oci: Oci) -> None:
    running = Exec(oci, FOREVER)
    (runsc,) = children(running.guard)
    kill(runsc)
    assert running.exit_code() == 128 + signal.SIGKILL
    running.is_over()


def test_monitor_ends_with_its_sandbox(oci: Oci) -> None:
    running = Exec(oci, FOREVER)
    oci.ok("kill", running.container, "KILL")
    assert running.exit_code() != 0
    wait_for("the end of all that stood for it", lambda: execs_of(running.container) == [])


def test_exec_killed_before_it_has_a_pid_file_ends_inside(oci: Oci) -> None:
    container = oci.running(oci.engine.shell(FOREVER))
    pid_file = oci.engine.directory / "never"
    for at in range(1, 30):
        ended = oci(
            "exec", "--detach", "--pid-file", pid_file, container, "sleep", "1000", killed_at=at
        )  # fmt: skip
        if ended.code == 0:
            break
        assert not pid_file.exists()
        wait_for("the end of all that stood for it", lambda: execs_of(container) == [])
        assert pids_in(oci, container) == [1]
    assert at > 3


def test_process_that_does_not_start_is_refused(oci: Oci) -> None:
    container = oci.running(oci.engine.shell(FOREVER))
    pid_file = oci.engine.directory / "never"
    refused = oci("exec", "--detach", "--pid-file", pid_file, container, "/no-such-program")
    assert refused.code == 128
    assert "/no-such-program" in refused.stderr
    assert not pid_file.exists()
    assert execs_of(container) == []


def test_output_of_an_exec_ends_when_it_is_killed(oci: Oci) -> None:
    """A manager reads it to its end: nothing that stays may hold it."""
    container = oci.running(oci.engine.shell(FOREVER))
    pid_file = oci.engine.directory / "pid"
    reader, writer = os.pipe()
    asked = oci.start(
        "exec", "--detach", "--pid-file", pid_file, container, "sleep", "1000", stdout=writer, stderr=writer
    )
    os.close(writer)
    assert asked.wait(timeout=60) == 0
    kill(int(pid_file.read_text()))
    with os.fdopen(reader, "rb") as output:
        assert output.read() == b""
    wait_for("the end of all that stood for it", lambda: execs_of(container) == [])


def test_exec_with_a_terminal_ends_inside(oci: Oci) -> None:
    path = oci.engine.directory / "console"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        running = Exec(oci, "test -t 0 && echo a terminal; exec sleep 1000", "--console-socket", path)
        with listening.accept()[0] as given:
            (terminal,) = socket.recv_fds(given, 100, 1)[1]
    assert os.read(terminal, 100) == b"a terminal\r\n"
    assert running.is_inside()
    kill(running.monitor)
    assert running.exit_code() == -signal.SIGKILL
    running.is_over()
    os.close(terminal)


def test_what_stays_for_an_exec_takes_little_memory(oci: Oci) -> None:
    running = Exec(oci, FOREVER)
    for pid in (running.monitor, running.guard):
        assert private_memory(pid) <= MAX_PRIVATE
    kill(running.monitor)
    running.is_over()
