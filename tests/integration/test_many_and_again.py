"""Containers beside and after each other: in parallel, of one id, killed, collected."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import Reason
from tests.support.harness import (
    TIMEOUT,
    Engine,
    cgroups_of,
    listing,
    processes_about,
    wait_for,
)

MANY = 20


def test_twenty_containers_at_once_leave_nothing(engine: Engine) -> None:
    bundle = engine.shell("read name; echo out $name; echo err $name >&2; exit ${name#c}")
    processes = [engine.start_run(bundle, stdin=subprocess.PIPE) for _ in range(MANY)]
    for number, process in enumerate(processes):
        assert process.stdin is not None
        process.stdin.write(f"c{number}\n".encode())
        process.stdin.flush()
    for number, process in enumerate(processes):
        finished = engine.finish(process)
        assert (finished.code, finished.stdout) == (number, f"out c{number}\n".encode())
        assert finished.said_by_container == f"err c{number}\n"
    wait_for("the end of every process", lambda: not processes_about(engine.directory))
    assert len(listing(engine.base / "staged")) >= 1
    assert len(list(engine.base.iterdir())) == MANY + 2  # the store, and the traces
    collected = engine.call("gc")
    assert (collected.code, collected.stderr) == (0, "")
    assert collected.stdout.decode().count("removed: ") == MANY
    assert engine.leftovers() == []


def test_containers_start_and_end_while_gc_runs_again_and_again(engine: Engine) -> None:
    bundle = engine.shell("exit 42")
    processes = [engine.start_run(bundle) for _ in range(8)]
    while any(process.poll() is None for process in processes):
        collected = engine.call("gc")
        assert (collected.code, collected.stderr) == (0, "")
    assert [engine.finish(process).code for process in processes] == [42] * 8
    assert engine.call("gc").code == 0
    assert engine.leftovers() == []


_SECURE_AND_DISCARD = """
import os, time
from engine.errors import Reason, SecureRootError
from engine.lifecycle.secure_root import secure_root
end = time.monotonic() + 3
while time.monotonic() < end:
    try:
        secured = secure_root("one", os.environ)
        secured.discard()
        secured.close()
    except SecureRootError as error:
        if error.reason is not Reason.ALIVE:  # gc holds the lock for a moment, too
            raise
"""

_COLLECT = """
import os, time
from engine.state.gc import collect
end = time.monotonic() + 3
while time.monotonic() < end:
    if failed := collect(os.environ).failed:
        raise SystemExit(str(failed))
"""


def test_gc_beside_refused_runs_of_one_id_fails_neither(idle_engine: Engine) -> None:
    """Thousands of times in three seconds: the step that takes a container's directory, its undoing, and two gc."""
    idle_engine.make_directory("base", 0o700)
    python = [idle_engine.caller.python, "-P", "-c"]
    processes = [idle_engine.start([*python, code]) for code in (_SECURE_AND_DISCARD, _COLLECT, _COLLECT)]
    ends = [process.communicate(timeout=TIMEOUT)[1].decode() for process in processes]
    assert ends == ["", "", ""]
    assert idle_engine.leftovers() == []


# --- One id ---------------------------------------------------------------------------------------------------


def test_run_with_a_live_containers_id_is_refused(engine: Engine) -> None:
    container_id = engine.new_id()
    first = engine.start_waiting(container_id)
    again = engine.run(engine.bundle(), "--id", container_id, "--json")
    again.refused(Reason.ALIVE, repr(container_id))
    assert first.poll() is None
    assert engine.finish(first, b"\n").code == 9


def test_one_of_many_starts_of_one_id_runs_others_are_refused(
    engine: Engine,
) -> None:
    container_id = engine.new_id()
    bundle = engine.shell("sleep 5; exit 42")
    processes = [engine.start_run(bundle, "--id", container_id, "--json") for _ in range(5)]
    finished = [engine.finish(process) for process in processes]
    assert sorted(one.code for one in finished) == [42, 125, 125, 125, 125]
    for one in finished:
        if one.code == 125:
            one.refused(Reason.ALIVE, repr(container_id))


def test_id_used_again_finds_nothing_of_the_last_run(engine: Engine) -> None:
    container_id = engine.new_id()
    bundle = engine.shell("exit 42")
    for _ in range(3):
        assert engine.run(bundle, "--id", container_id).code == 42
        assert len(list(engine.container(container_id).glob("runsc-root/exec-allow/stage-*"))) == 1


# --- Killed ---------------------------------------------------------------------------------------------------


def _killed(engine: Engine, container_id: str, bundle: Path | None = None) -> None:
    """A container whose supervisor, the process that the caller started, is killed with SIGKILL."""
    process = engine.start_waiting(container_id, bundle=bundle)
    process.kill()
    assert engine.finish(process).code == -signal.SIGKILL


def test_killing_the_supervisor_ends_the_container(engine: Engine) -> None:
    _killed(engine, engine.new_id())
    wait_for("the end of every process", lambda: not processes_about(engine.directory))


def test_what_a_killed_container_left_is_collected(engine: Engine) -> None:
    container_id = engine.new_id()
    _killed(engine, container_id)
    collected = engine.call("gc")
    assert collected.stdout.decode() == f"removed: {engine.container(container_id)}\n"
    assert (collected.code, collected.stderr) == (0, "")
    assert engine.leftovers() == []


def test_the_cgroups_of_a_killed_container_are_collected(root_engine: Engine) -> None:
    """runsc makes them for root by default, and removes them at the container's ordinary end."""
    container_id = root_engine.new_id()
    process = root_engine.start_waiting(container_id)
    if not cgroups_of(container_id):
        root_engine.finish(process, b"\n")
        pytest.skip("runsc made no cgroup: none of cgroup's hierarchies is mounted, or it is not writable")
    process.kill()
    root_engine.finish(process)
    wait_for("the end of every process", lambda: not processes_about(root_engine.directory))
    assert root_engine.call("gc").code == 0
    assert cgroups_of(container_id) == []


@pytest.mark.parametrize("readonly", [True, False], ids=["readonly", "writable"])
def test_the_id_of_a_killed_container_can_be_used_again_at_once(engine: Engine, readonly: bool) -> None:
    container_id = engine.new_id()
    bundle = engine.shell("echo ready; read line; exit 9", root={"path": "rootfs", "readonly": readonly})
    _killed(engine, container_id, bundle)
    again = engine.finish(engine.start_waiting(container_id, bundle=bundle), b"\n")
    assert again.code == 9


# --- gc -------------------------------------------------------------------------------------------------------


def test_gc_removes_what_is_over_and_never_what_is_alive(engine: Engine) -> None:
    over, alive = engine.new_id(), engine.new_id()
    assert engine.run(engine.bundle(), "--id", over).code == 0
    process = engine.start_waiting(alive)
    before = {*engine.container(alive).rglob("*")}
    collected = engine.call("gc")
    assert collected.stdout.decode() == (
        f"removed: {engine.container(over)}\nalive, left: {engine.container(alive)}\n"
    )
    assert {*engine.container(alive).rglob("*")} >= before
    assert engine.finish(process, b"\n").code == 9
    assert engine.call("gc", "--json").code == 0
    assert engine.leftovers() == []


def test_gc_removes_the_trace_of_a_refused_run_too(idle_engine: Engine) -> None:
    container_id = idle_engine.new_id()
    assert idle_engine.run(idle_engine.bundle(), "--id", container_id, "--runsc", "missing").code == 125
    assert idle_engine.trace(container_id)[-1]["next"] == "refused"
    assert idle_engine.call("gc").code == 0
    assert idle_engine.leftovers() == []


def test_gc_can_keep_the_traces(engine: Engine) -> None:
    container_id = engine.new_id()
    assert engine.run(engine.bundle(), "--id", container_id).code == 0
    assert engine.call("gc").code == 0
    assert not (engine.container(container_id) / "runsc-root").exists()
    assert engine.trace(container_id)[-1]["next"] == "handed_off"


def test_gc_says_as_json_what_became_of_each(engine: Engine) -> None:
    container_id = engine.new_id()
    assert engine.run(engine.bundle(), "--id", container_id).code == 0
    engine.make_directory("base/precious")
    assert json.loads(engine.call("gc", "--json").stdout) == {
        "base": str(engine.base),
        "dry_run": False,
        "removed": [str(engine.container(container_id))],
        "alive": [],
        "foreign": [str(engine.base / "precious")],
        "failed": [],
    }


def test_gc_leaves_what_is_not_the_engines_and_names_it(idle_engine: Engine) -> None:
    idle_engine.make_directory("base", 0o700)
    precious = idle_engine.make_directory("precious")
    idle_engine.write(precious / "file", b"precious")
    idle_engine.write(idle_engine.base / "file", b"")
    link = idle_engine.base / ("a" * 32)
    link.symlink_to(precious)
    before = listing(idle_engine.directory)
    collected = idle_engine.call("gc")
    assert collected.stdout.decode() == (
        f"not the engine's, left: {link}\nnot the engine's, left: {idle_engine.base / 'file'}\n"
    )
    assert listing(idle_engine.directory) == before


def test_gc_follows_no_link_out_of_a_container(idle_engine: Engine) -> None:
    precious = idle_engine.make_directory("precious")
    idle_engine.write(precious / "file", b"precious")
    idle_engine.make_directory("base", 0o700)
    container = idle_engine.make_directory(f"base/{'a' * 32}", 0o700)
    os.mkfifo(container / "lock", 0o600)  # by it the directory is known as this engine's
    os.chown(container / "lock", idle_engine.caller.uid, idle_engine.caller.gid)
    (container / "runsc-root").symlink_to(precious)
    inner = idle_engine.make_directory(f"base/{'a' * 32}/more", 0o700)
    (inner / "link").symlink_to(precious)
    assert idle_engine.call("gc").code == 0
    assert idle_engine.leftovers() == []
    assert (precious / "file").read_bytes() == b"precious"


def test_gc_without_an_artifact_base_has_nothing_to_do(idle_engine: Engine) -> None:
    collected = idle_engine.call("gc")
    assert (collected.code, collected.stdout, collected.stderr) == (0, b"", "")
    assert listing(idle_engine.directory) == []


def test_gc_refuses_an_artifact_base_that_is_not_safe(idle_engine: Engine) -> None:
    idle_engine.base.symlink_to(idle_engine.make_directory("target", 0o700))
    assert idle_engine.call("gc").refusal().startswith("engine: gc: ")


def test_an_ordinary_user_collects_nothing_of_roots(
    root_engine: Engine, new_engine: Callable[[str], Engine]
) -> None:
    assert root_engine.run(root_engine.bundle(), "--id", root_engine.new_id()).code == 0
    root_engine.directory.chmod(0o755)
    before = root_engine.leftovers()
    user = new_engine("unprivileged")
    user.base = root_engine.base
    assert user.call("gc").refusal().startswith(f"engine: gc: {str(user.base)!r}")
    assert root_engine.leftovers() == before
