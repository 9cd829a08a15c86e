"""What happens between two steps: signals, and an adversary who changes what was judged before it is used."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.harness import Engine, executable, read_trace, status_of, wait_for

#: The size of a runsc, in bytes, whose copying takes long enough to step in: the real one and a hole behind it.
SLOW = 192 << 20


def _start_and_stop_in_staging(
    engine: Engine, runsc: Path, bundle: Path
) -> tuple[subprocess.Popen[bytes], Path]:
    """An engine that stands still in the middle of copying `runsc`, which is slow, and the trace it writes."""
    for attempt in range(10):
        container_id = engine.new_id()
        trace = engine.directory / f"trace-{attempt}"
        process = engine.start_run(bundle, "--id", container_id, "--runsc", runsc, "--trace", trace)
        copy = engine.staged(container_id)
        process.send_signal(signal.SIGSTOP)
        wait_for("the engine stands still", lambda: status_of(process.pid, "State")[0] in "TZ")  # noqa: B023
        if executable(process.pid) != str(copy) and copy.stat().st_size < SLOW:
            return process, trace
        process.kill()  # it was faster than we are
        engine.finish(process)
        engine.call("gc")
    raise TimeoutError("the copying was over too soon, ten times")


def _while_it_is_staged(
    engine: Engine, runsc: Path, meanwhile: Callable[[int], None], *, bundle: Path | None = None
) -> tuple[list[str], int, dict[str, str]]:
    """A run in the middle of whose staging `meanwhile` is done: the states in its trace, exit code and the error."""
    process, trace = _start_and_stop_in_staging(engine, runsc, bundle or engine.shell("exit 42"))
    meanwhile(process.pid)
    process.send_signal(signal.SIGCONT)
    finished = engine.finish(process)
    lines = read_trace(trace)
    return [line["next"] for line in lines[1:]], finished.code, lines[-1]["error"] or {}


TO_STAGE = ["resolved", "validated", "root_secured"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_signal_in_a_step_is_a_refusal_that_cleans_up(
    engine: Engine, runsc: Path, number: signal.Signals
) -> None:
    slow = engine.own_runsc(runsc, size=SLOW)
    states, code, error = _while_it_is_staged(engine, slow, lambda pid: os.kill(pid, number))
    assert (code, error["step"], error["reason"]) == (125, "apply_policy", "stopped")
    assert number.name in error["what"]
    assert states == [*TO_STAGE, "staged", "refused"]
    assert engine.leftovers() == []


def test_runsc_replaced_after_validate_is_not_executed(engine: Engine, runsc: Path) -> None:
    slow = engine.own_runsc(runsc, size=SLOW)

    def swap_the_directory(_: int) -> None:
        slow.parent.rename(engine.directory / "old")
        engine.make_directory(slow.parent.name)
        engine.write(slow, b"#!/bin/sh\necho replaced\n").chmod(0o755)

    states, code, error = _while_it_is_staged(engine, slow, swap_the_directory)
    assert code == 42, error
    assert states[-1] == "handed_off"


def _written(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")


def _cut(path: Path) -> None:
    os.truncate(path, SLOW // 2)


def _loosened(path: Path) -> None:
    path.chmod(0o777)


def _upgraded(path: Path) -> None:
    """As a package manager does it, by rename(2): the old file loses its last name."""
    other = path.with_name("new")
    other.write_bytes(b"another version")
    other.rename(path)


@pytest.mark.parametrize("change", [_written, _cut, _loosened, _upgraded])
def test_a_runsc_that_is_changed_while_it_is_copied_is_refused(
    engine: Engine, runsc: Path, change: Callable[[Path], None]
) -> None:
    slow = engine.own_runsc(runsc, size=SLOW)
    states, code, error = _while_it_is_staged(engine, slow, lambda _: change(slow))
    assert (code, states) == (125, [*TO_STAGE, "refused"])
    assert (error["step"], error["reason"]) == ("stage", "not_what_was_pinned")
    assert repr(str(slow)) in error["what"]
    assert engine.leftovers() == []


def _other_config(bundle: Path) -> None:
    config = bundle / "config.json"
    config.write_text(config.read_text().replace("exit 42", "exit 66"))


def _other_rootfs(bundle: Path) -> None:
    (bundle / "rootfs").rename(bundle / "old")
    (bundle / "rootfs").symlink_to("/")


def _other_bundle(bundle: Path) -> None:
    bundle.rename(bundle.with_name("old"))
    bundle.symlink_to("/")


def test_config_changed_after_validate_does_not_reach_runsc(engine: Engine, runsc: Path) -> None:
    slow = engine.own_runsc(runsc, size=SLOW)
    bundle = engine.shell("exit 42")
    states, code, error = _while_it_is_staged(engine, slow, lambda _: _other_config(bundle), bundle=bundle)
    assert (code, states, error) == (42, [*TO_STAGE, "staged", "policy_settled", "handed_off"], {})


@pytest.mark.parametrize("change", [_other_rootfs, _other_bundle])
def test_bundle_changed_after_validate_is_refused(
    engine: Engine, runsc: Path, change: Callable[[Path], None]
) -> None:
    slow = engine.own_runsc(runsc, size=SLOW)
    bundle = engine.shell("exit 42")
    states, code, error = _while_it_is_staged(engine, slow, lambda _: change(bundle), bundle=bundle)
    assert (code, states) == (125, [*TO_STAGE, "staged", "policy_settled", "refused"])
    assert (error["step"], error["reason"]) == ("exec", "bundle_changed")
    assert engine.leftovers() == []


def _base_moved(engine: Engine) -> None:
    engine.base.rename(engine.directory / "moved")
    engine.base.symlink_to("moved")


def _state_moved(engine: Engine) -> None:
    (container,) = (path for path in engine.base.iterdir() if path.name not in ("staged", "traces"))
    (container / "runsc-root").rename(engine.directory / "moved")
    engine.make_directory(f"base/{container.name}/runsc-root", 0o700)


def _parent_loosened(engine: Engine) -> None:
    engine.directory.chmod(0o777)


@pytest.mark.parametrize("change", [_base_moved, _state_moved, _parent_loosened])
def test_state_directory_changed_after_it_was_secured_is_refused(
    engine: Engine, runsc: Path, change: Callable[[Engine], None]
) -> None:
    slow = engine.own_runsc(runsc, size=SLOW)
    states, code, error = _while_it_is_staged(engine, slow, lambda _: change(engine))
    assert (code, states) == (125, [*TO_STAGE, "staged", "policy_settled", "refused"])
    assert (error["step"], error["reason"]) == ("exec", "root_changed")
    assert not list(engine.directory.rglob("stage-*"))


def test_gc_removes_what_an_engine_killed_in_a_step_left(engine: Engine, runsc: Path) -> None:
    slow = engine.own_runsc(runsc, size=SLOW)
    process, trace = _start_and_stop_in_staging(engine, slow, engine.bundle())
    process.kill()
    engine.finish(process)
    # Each line is written ahead of what it tells of, so the step that was not finished is not among them.
    assert [line["next"] for line in read_trace(trace)[1:]] == TO_STAGE
    container = engine.container(engine.ids[-1])
    assert list(container.glob("runsc-root/exec-allow/stage-*/runsc"))
    assert engine.call("gc").stdout.decode() == f"removed: {container}\n"
    assert engine.leftovers() == []
