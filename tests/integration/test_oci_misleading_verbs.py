"""Verbs that runsc does otherwise than runc: each does what it says, or is refused in one line."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from engine.errors import Reason
from tests.integration.oci_runtime import Oci
from tests.integration.test_oci_pods import member_bundle, sandbox_bundle, state, status
from tests.support.harness import Engine, wait_for

PR_SET_CHILD_SUBREAPER = 36
FOREVER = "exec sleep 1000"
CAPABILITIES = (
    "while read -r name set; do case $name in Cap*) echo $name $set;; esac; done < /proc/self/status"
)
CHOWN, KILL, NET_BIND = 1 << 0, 1 << 5, 1 << 10


@pytest.fixture
def oci(root_engine: Engine, of_each_layout: tuple[str, ...]) -> Iterator[Oci]:
    runtime = Oci(root_engine, of_each_layout)
    yield runtime
    for container in root_engine.ids:
        runtime.ok("delete", "--force", container)


def with_capabilities(oci: Oci, **sets: list[str]) -> str:
    return oci.running(oci.engine.shell(FOREVER, process={"capabilities": sets}))


def sets_of_exec(oci: Oci, container: str, *flags: str) -> dict[str, int]:
    lines = oci.ok("exec", *flags, container, "/bin/sh", "-c", CAPABILITIES).splitlines()
    return {name: int(given, 16) for name, given in (line.split(":") for line in lines)}


def test_exec_cap_adds_to_the_containers_own(oci: Oci) -> None:
    own = ["CAP_CHOWN", "CAP_KILL"]
    container = with_capabilities(oci, bounding=own, effective=own, permitted=own)
    for flags, sets in (
        ((), CHOWN | KILL),
        (("--cap", "CAP_NET_BIND_SERVICE"), CHOWN | KILL | NET_BIND),
        (("--cap", "CAP_KILL", "-c", "CAP_NET_BIND_SERVICE"), CHOWN | KILL | NET_BIND),
    ):
        given = sets_of_exec(oci, container, *flags)
        assert {given[name] for name in ("CapBnd", "CapEff", "CapPrm")} == {sets}


def test_exec_cap_where_the_container_has_none(oci: Oci) -> None:
    container = with_capabilities(oci)
    assert sets_of_exec(oci, container, "--cap", "CAP_KILL")["CapEff"] == KILL


@pytest.mark.parametrize(
    "sets",
    [
        {"bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
        {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"], "inheritable": ["CAP_KILL"]},
    ],
)  # fmt: skip
def test_exec_cap_whose_sets_differ_is_refused(oci: Oci, sets: dict[str, list[str]]) -> None:
    container = with_capabilities(oci, **sets)
    asked = ("exec", "--cap", "CAP_SYS_TIME", container, "/bin/true")
    oci.refused(1, Reason.USAGE, *asked, facts=("CAP_SYS_TIME", container))


@pytest.mark.parametrize("name", ["37", "SIGRTMIN+3", "RTMIN+3", "rtmax-1", "64"])
def test_kill_with_a_real_time_signal_is_refused(oci: Oci, name: str) -> None:
    container = oci.running(oci.engine.shell(FOREVER))
    oci.refused(1, Reason.USAGE, "kill", container, name, facts=(name,))
    assert oci.status(container) == "running"


def test_kill_with_the_last_ordinary_signal_ends_it(oci: Oci) -> None:
    container = oci.running(oci.engine.shell(FOREVER))
    oci.ok("kill", container, "31")
    oci.wait_for(container, "stopped")


#: runsc leaves out of its own command line each argument with this word.
WORD = "--detach"


def named_detach(oci: Oci, bundle: Path) -> str:
    container = oci.create(bundle, f"{oci.engine.new_id()}-detach")
    oci.engine.ids.append(container)
    oci.ok("start", container)
    return container


@pytest.mark.parametrize("has_pid_file", [True, False])
def test_detached_exec_keeps_an_argument_with_detach(oci: Oci, has_pid_file: bool) -> None:
    container = named_detach(oci, oci.engine.shell(FOREVER))
    directory = oci.engine.make_directory("detach")
    said, pid_file = directory / "said", directory / "pid-detach"
    flags = ("--env=A=detach", *(("--pid-file", pid_file) if has_pid_file else ()))
    with said.open("wb") as out:
        asked = (
            "exec",
            "--detach",
            *flags,
            container,
            "/bin/sh",
            "-c",
            'echo "$A $# $*"',
            "detach",
            WORD,
            "x",
        )
        assert oci.start(*asked, stdout=out, stderr=out).wait(timeout=60) == 0
    wait_for("what it prints", lambda: said.read_text() == f"detach 2 {WORD} x\n")
    assert pid_file.exists() == has_pid_file


@pytest.mark.parametrize("has_pid_file", [True, False])
def test_detached_exec_with_a_terminal_keeps_detach(oci: Oci, has_pid_file: bool) -> None:
    container = named_detach(oci, oci.engine.shell(FOREVER))
    path = oci.engine.make_directory("detach") / "console"
    flags = ("--console-socket", path, *(("--pid-file", f"{path}-pid") if has_pid_file else ()))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        script = 'test -t 0 && test -t 2 && echo "$# $*" && sleep 1'
        oci.ok("exec", "--detach", *flags, container, "/bin/sh", "-c", script, "detach", WORD, "x")
        with listening.accept()[0] as given:
            (terminal,) = socket.recv_fds(given, 100, 1)[1]
    assert os.read(terminal, 100) == f"2 {WORD} x\r\n".encode()
    os.close(terminal)


def test_exec_whose_console_socket_is_absent_is_refused(oci: Oci) -> None:
    container = oci.running(oci.engine.shell(FOREVER))
    path = oci.engine.directory / "no-such"
    oci.refused(
        1, Reason.FAILURE, "exec", "--detach", "--console-socket", path, container, "/bin/true", facts=(path,)
    )
    assert oci.ok("ps", "--format", "json", container).strip() == "[1]"


@pytest.fixture
def reaps_nothing() -> Iterator[None]:
    """What a verb leaves becomes a child of this process, which reaps none of them until the test has ended."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def kill_unreaped(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_for("a zombie", lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")


@pytest.mark.parametrize("before", ["created", "running", "paused"])
@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.usefixtures("reaps_nothing")
def test_sandbox_that_nobody_reaps_is_stopped(oci: Oci, before: str, force: tuple[str, ...]) -> None:
    container = oci.create(oci.engine.shell(FOREVER))
    if before != "created":
        oci.ok("start", container)
    if before == "paused":
        oci.ok("pause", container)
    sandbox = oci_pid(oci, container)
    kill_unreaped(sandbox)
    assert oci.status(container) == "stopped"
    oci.ok("delete", *force, container)
    assert oci.left(container) == []
    os.waitpid(sandbox, 0)


#: Seconds. containerd gives each verb 10 of them.
DELETED_SOON = 5.0


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.usefixtures("reaps_nothing")
def test_pod_whose_sandbox_nobody_reaps_is_deleted_soon(oci: Oci, force: tuple[str, ...]) -> None:
    sandbox = oci.running(sandbox_bundle(oci))
    members = [oci.running(member_bundle(oci, sandbox)), oci.create(member_bundle(oci, sandbox))]
    pid = oci_pid(oci, sandbox)
    kill_unreaped(pid)
    for container in (*members, sandbox):
        wait_for(f"the end of {container}", partial(is_status, oci, container, "stopped"))
        before = time.monotonic()
        oci.ok("delete", *force, container)
        assert time.monotonic() - before < DELETED_SOON
    for container in (*members, sandbox):
        assert oci.left(container) == []
    os.waitpid(pid, 0)


def oci_pid(oci: Oci, container: str) -> int:
    found = state(oci, container)
    assert found is not None
    return int(found["pid"])


def is_status(oci: Oci, container: str, wanted: str) -> bool:
    return status(oci, container) == wanted
