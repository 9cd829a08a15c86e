"""`engine run --supervise`: the end is recorded as it was, signals reach the container, and nothing is left.

ENGINE_TEST_EVERY_STEP=1 kills the supervisor before every step of it; otherwise before some.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engine.verify.trace_check import Verdict, verify
from tests.support.bundles import NAMESPACES
from tests.support.harness import (
    TIMEOUT,
    Engine,
    Finished,
    cgroups_of,
    executable,
    processes_about,
    read_trace,
    wait_for,
)

ROOT = Path(__file__).parents[2]
STEPPER = Path(__file__).with_name("stepper.py")
EVERY = bool(os.environ.get("ENGINE_TEST_EVERY_STEP"))
LIMIT = 96 << 20


def supervised(engine: Engine, bundle: Path, *options: str | Path, **more: Any) -> tuple[Finished, Path]:
    """A supervised run, and its trace."""
    trace = engine.directory / f"trace-{os.urandom(4).hex()}"
    return engine.run(bundle, "--supervise", "--trace", trace, *options, **more), trace


def end_of(trace: Path) -> dict[str, Any]:
    """What the last line says of the end; the whole trace conforms."""
    (result,) = verify([str(trace)])
    assert (result.verdict, result.state) == (Verdict.CONFORMS, "ended"), result
    facts: dict[str, Any] = read_trace(trace)[-1]["facts"]
    return facts


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runsc_of(engine: Engine, process: subprocess.Popen[bytes]) -> int:
    """The process that became runsc, as soon as it has."""

    def find() -> int | None:
        return next(
            (child for child in children_of(process.pid) if (executable(child) or "").endswith("/runsc")),
            None,
        )

    return wait_for("a child that is runsc", find)


def nothing_lives(engine: Engine) -> None:
    wait_for("the end of every process of the container", lambda: not processes_about(engine.directory))


@pytest.mark.parametrize(
    ("script", "code"),
    [("true", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("exit 255", 255)],
)
def test_the_exit_code_is_recorded_and_answered(engine: Engine, script: str, code: int) -> None:
    finished, trace = supervised(engine, engine.shell(f"echo out; echo err >&2; {script}"))
    assert (finished.code, finished.stdout, finished.said_by_container) == (code, b"out\n", "err\n")
    end = end_of(trace)
    assert (end["exit_code"], end["signal"], end["oom"], end["oom_counter"]) == (code, None, "unknown", None)
    assert end["duration_ns"] > 0
    assert end["resources"]["max_rss_kib"] > 0


def test_nothing_is_left_but_a_trace_in_the_base(engine: Engine) -> None:
    container_id = engine.new_id()
    finished = engine.run(engine.bundle("/bin/true"), "--supervise", "--id", container_id)
    assert finished.code == 0, finished
    (trace,) = engine.traces(container_id)
    assert not engine.container(container_id).exists()
    assert end_of(trace)["exit_code"] == 0
    assert cgroups_of(container_id) == []
    assert engine.run(engine.bundle("/bin/true", name="again"), "--supervise", "--id", container_id).code == 0


@pytest.fixture
def key(root_engine: Engine) -> Path:
    """A private key. ssh-keygen takes it from nobody without a name in /etc/passwd, as the tests' user is."""
    path = root_engine.directory / "key"
    made = root_engine.finish(
        root_engine.start(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)])
    )
    assert made.code == 0, made
    return path


def test_a_signed_runs_whole_trace_is_signed(root_engine: Engine, key: Path) -> None:
    container_id = root_engine.new_id()
    finished = root_engine.run(root_engine.shell("exit 3"), "--sign", key, "--id", container_id, "--verbose")
    assert finished.code == 3, finished
    (trace,) = root_engine.traces(container_id)
    assert end_of(trace)["exit_code"] == 3
    assert root_engine.call("trace", "verify", trace, "--key", f"{key}.pub").code == 0


def test_a_refused_run_that_was_to_be_signed_is_signed(root_engine: Engine, key: Path) -> None:
    container_id = root_engine.new_id()
    bundle = root_engine.bundle("/bin/true")
    root_engine.run(bundle, "--sign", key, "--id", container_id, "--runsc", "/nonexistent").refusal()
    (trace,) = root_engine.traces(container_id)
    assert root_engine.call("trace", "verify", trace, "--key", f"{key}.pub").code == 0


def test_a_key_that_cannot_sign_is_refused_before_the_start(root_engine: Engine, key: Path) -> None:
    container_id = root_engine.new_id()
    bundle = root_engine.bundle("/bin/true")
    for bad in (f"{key}.pub", key.with_name("none"), bundle / "config.json"):
        refused = root_engine.run(bundle, "--sign", bad, "--id", container_id)
        assert refused.code == 125, refused
    assert root_engine.traces(container_id) == []


def test_a_trace_that_cannot_be_signed_is_said_and_the_exit_code_stays(
    root_engine: Engine, key: Path
) -> None:
    container_id = root_engine.new_id()
    trace = root_engine.directory / "signed"
    bundle = root_engine.shell("echo ready; read line; exit 9")
    process = root_engine.start_waiting(container_id, "--sign", key, "--trace", trace, bundle=bundle)
    Path(f"{trace}.sig").write_text("precious")
    finished = root_engine.finish(process, b"\n")
    assert finished.code == 9, finished
    assert "the trace is not signed" in finished.stderr
    assert Path(f"{trace}.sig").read_text() == "precious"


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "QUIT"])
def test_a_signal_reaches_the_programs_trap(engine: Engine, name: str) -> None:
    container_id, trace = engine.new_id(), engine.directory / "trace"
    bundle = engine.shell(f"trap 'echo cleaned; exit 7' {name}; echo ready; while :; do sleep 0.1; done")
    process = engine.start_waiting(container_id, "--supervise", "--trace", trace, bundle=bundle)
    process.send_signal(signal.Signals[f"SIG{name}"])
    finished = engine.finish(process)
    assert (finished.code, finished.stdout) == (7, b"cleaned\n")
    assert end_of(trace)["exit_code"] == 7


def test_a_signal_that_comes_early_is_not_lost(engine: Engine) -> None:
    bundle = engine.shell("trap 'echo cleaned; exit 7' TERM; while :; do sleep 0.1; done")
    trace = engine.directory / "trace"
    process = engine.start_run(bundle, "--supervise", "--trace", trace)
    runsc_of(engine, process)
    process.send_signal(signal.SIGTERM)
    finished = engine.finish(process)
    end = end_of(trace)
    # Before the shell has its trap, the signal ends it.
    assert finished.code in (7, 143)
    assert end["exit_code"] == finished.code or end["signal"] == "SIGTERM"
    nothing_lives(engine)


def test_signals_to_the_group_reach_the_program_once(engine: Engine) -> None:
    script = "trap 'echo got' USR1; trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done"
    process = engine.start_waiting(
        engine.new_id(), "--supervise", bundle=engine.shell(script), process_group=0
    )
    os.killpg(process.pid, signal.SIGUSR1)
    assert process.stdout is not None
    assert process.stdout.readline() == b"got\n"
    time.sleep(0.5)  # a second one would have come by now
    os.killpg(process.pid, signal.SIGTERM)
    finished = engine.finish(process)
    assert (finished.code, finished.stdout) == (7, b"")


@pytest.mark.parametrize("terminal", [False, True])
def test_interrupt_at_the_terminal_reaches_the_program_once(engine: Engine, terminal: bool) -> None:
    script = (
        "n=0; trap 'n=$((n+1))' INT; sleep 1; echo ready; i=0; "
        "while [ $i -lt 20 ]; do sleep 0.1; i=$((i+1)); done; echo got $n; exit 7"
    )
    bundle = engine.shell(script, process={"terminal": terminal})
    ours, theirs = pty.openpty()
    trace = engine.directory / "trace"
    command = ["setsid", "--ctty", *engine.run_command(bundle, "--supervise", "--trace", trace)]
    os.fchown(theirs, engine.caller.uid, engine.caller.gid)
    process = engine.start(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown, is_typed = b"", False
    with open(ours, "r+b", buffering=0) as screen:
        while process.poll() is None or select.select([screen], [], [], 0.1)[0]:
            if select.select([screen], [], [], 1)[0]:
                try:
                    shown += screen.read(4096)
                except OSError:  # EIO: nobody has it open any more
                    break
            if b"ready" in shown and not is_typed:
                is_typed = True
                screen.write(b"\x03")
    assert process.wait(TIMEOUT) == 7, shown
    assert b"got 1" in shown
    assert end_of(trace)["exit_code"] == 7


def test_a_stopped_job_goes_on(engine: Engine) -> None:
    """Ctrl-Z gives the shell its terminal again, and SIGCONT goes on with the container."""
    script = "trap 'echo cont' CONT; echo ready; while :; do sleep 0.1; done"
    ours, theirs = pty.openpty()
    os.fchown(theirs, engine.caller.uid, engine.caller.gid)
    command = ["setsid", "--ctty", *engine.run_command(engine.shell(script), "--supervise")]
    process = engine.start(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.close(theirs)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    pid = process.pid
    os.write(ours, b"\x1a")

    def state() -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    wait_for("a stopped supervisor", lambda: state() == "T")
    os.kill(pid, signal.SIGCONT)
    assert process.stdout.readline() == b"cont\n"
    process.send_signal(signal.SIGKILL)
    process.wait(TIMEOUT)
    process.communicate()
    os.close(ours)
    nothing_lives(engine)


def test_output_goes_where_the_caller_said(engine: Engine) -> None:
    target = engine.write(engine.directory / "out", b"before\n")
    bundle = engine.shell("echo out; cat; echo err >&2")
    with target.open("ab") as out:
        process = engine.start_run(bundle, "--supervise", stdin=subprocess.PIPE, stdout=out)
        finished = engine.finish(process, b"given\n" * 5000)
    assert finished.code == 0, finished
    assert target.read_bytes() == b"before\nout\n" + b"given\n" * 5000
    assert finished.said_by_container == "err\n"


def test_a_caller_that_ignores_its_children_gets_the_exit_code(engine: Engine) -> None:
    bundle = engine.shell("exit 3")
    trace = engine.directory / "trace"
    command = engine.run_command(bundle, "--supervise", "--trace", trace)
    shell = ["env", "--ignore-signal=CHLD", *command]
    assert engine.finish(engine.start(shell)).code == 3
    assert end_of(trace)["exit_code"] == 3


def test_a_refused_run_has_no_end(engine: Engine) -> None:
    trace = engine.directory / "trace"
    refused = engine.run(
        engine.bundle("/bin/true"), "--supervise", "--trace", trace, "--runsc", "/nonexistent", "--json"
    )
    assert refused.code == 125
    assert read_trace(trace)[-1]["next"] == "refused"


def test_a_signal_before_the_hand_off_refuses_the_run(engine: Engine) -> None:
    trace = engine.directory / "trace"
    process = engine.start_run(engine.bundle("/bin/true"), "--supervise", "--trace", trace)
    wait_for("a child", lambda: children_of(process.pid) if process.poll() is None else [0])
    process.send_signal(signal.SIGTERM)
    finished = engine.finish(process)
    if not trace.exists():  # it had not begun: as without a supervisor, the signal ended it
        assert finished.code == 128 + signal.SIGTERM
    elif (last := read_trace(trace)[-1]["next"] if len(read_trace(trace)) > 1 else "") == "refused":
        assert finished.code == 125
    else:
        assert finished.code == (
            128 + signal.SIGTERM if last != "ended" else end_of(trace)["exit_code"] or 143
        )
    nothing_lives(engine)


def test_an_end_for_memory_is_seen_and_explained(engine: Engine) -> None:
    if engine.caller.uid != 0:
        pytest.skip("only root has cgroups here")
    bundle = engine.shell(
        "x=a; while :; do x=$x$x; done", linux={"resources": {"memory": {"limit": LIMIT}}, **NAMESPACES}
    )
    container_id = engine.new_id()
    finished, trace = supervised(engine, bundle, "--id", container_id)
    end = end_of(trace)
    assert finished.code == end["exit_code"] != 0, finished
    assert end["oom"] == "killed"
    assert container_id in end["oom_counter"]
    assert sum(str(LIMIT) in line for line in finished.stderr.splitlines()) == 1
    assert cgroups_of(container_id) == []


@pytest.mark.parametrize(("script", "code"), [("kill -9 $$", 137), ("exit 0", 0)])
def test_what_was_not_for_memory_is_said_so(engine: Engine, script: str, code: int) -> None:
    if engine.caller.uid != 0:
        pytest.skip("only root has cgroups here")
    bundle = engine.shell(script, linux={"resources": {"memory": {"limit": LIMIT}}, **NAMESPACES})
    finished, trace = supervised(engine, bundle)
    end = end_of(trace)
    assert (finished.code, end["exit_code"], end["oom"]) == (code, code, "none")
    assert ("not for its memory limit" in finished.stderr) is (code == 137)


def test_without_a_counter_an_end_under_a_limit_is_not_known(engine: Engine) -> None:
    bundle = engine.shell("kill -9 $$", linux={"resources": {"memory": {"limit": LIMIT}}, **NAMESPACES})
    finished, trace = supervised(engine, bundle, "--ignore-cgroups")
    end = end_of(trace)
    assert (finished.code, end["oom"], end["oom_counter"]) == (137, "unknown", None)
    assert "perhaps" in finished.stderr


def test_an_end_of_2_under_a_pids_limit_is_explained(engine: Engine) -> None:
    limits = {"resources": {"pids": {"limit": 200}}, **NAMESPACES}
    finished, trace = supervised(engine, engine.shell("exit 2", linux=limits), "--ignore-cgroups")
    assert finished.code == end_of(trace)["exit_code"] == 2
    assert re.search(r"pids limit.*200", finished.stderr)


def test_a_killed_runsc_is_recorded_and_its_container_ended(engine: Engine) -> None:
    container_id, trace = engine.new_id(), engine.directory / "trace"
    process = engine.start_waiting(container_id, "--supervise", "--trace", trace)
    os.kill(runsc_of(engine, process), signal.SIGKILL)
    finished = engine.finish(process)
    end = end_of(trace)
    assert (finished.code, end["exit_code"], end["signal"]) == (137, None, "SIGKILL")
    assert processes_about(engine.directory) == {}
    assert cgroups_of(container_id) == []
    assert not engine.container(container_id).exists()


def test_with_a_killed_supervisor_its_container_ends_and_has_no_end(engine: Engine) -> None:
    container_id, trace = engine.new_id(), engine.directory / "trace"
    process = engine.start_waiting(container_id, "--supervise", "--trace", trace)
    process.kill()
    process.communicate(timeout=TIMEOUT)
    nothing_lives(engine)
    (result,) = verify([str(trace)])
    assert (result.verdict, result.state) == (Verdict.CONFORMS, "handed_off")
    assert "end unknown" in str(result)
    collected = engine.call("gc")
    assert collected.code == 0, collected
    assert not engine.container(container_id).exists()
    assert cgroups_of(container_id) == []


def test_a_second_run_of_the_container_is_refused_while_the_first_ends(engine: Engine) -> None:
    container_id = engine.new_id()
    process = engine.start_waiting(container_id, "--supervise")
    again = engine.run(engine.bundle("/bin/true"), "--supervise", "--id", container_id, "--json")
    again.refused("alive", container_id)
    process.kill()
    process.communicate(timeout=TIMEOUT)
    nothing_lives(engine)


def test_an_unsupervised_run_says_that_its_end_is_unknown(engine: Engine) -> None:
    trace = engine.directory / "trace"
    engine.run(engine.bundle("/bin/true"), "--trace", trace)
    said = engine.call("trace", "verify", trace)
    assert said.code == 0
    assert b"end unknown" in said.stdout


def test_wherever_the_supervisor_is_killed_no_false_end_is_recorded(engine: Engine) -> None:
    """The stepper counts the supervisor's own system calls. The end is recorded once, and as it was, or not at all."""
    if engine.caller.uid != 0:
        pytest.skip("only root may execute this checkout's stepper")
    report = engine.directory / "steps"
    bundle = engine.shell("exit 3")

    def run(at: int) -> tuple[int, list[str], Path]:
        trace = engine.directory / f"trace-{at}"
        command = [sys.executable, str(STEPPER), str(report), str(at)]
        process = engine.start(
            [*command, *engine.run_command(bundle, "--supervise", "--trace", trace)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            environment={"PYTHONPATH": str(ROOT)},
        )
        code = process.wait(TIMEOUT)
        steps = report.read_text().splitlines() if report.exists() else []
        return code, steps, trace

    engine.write(report, b"")
    code, steps, trace = run(0)
    assert code == 3
    assert end_of(trace)["exit_code"] == 3
    fork = next(number for number, step in enumerate(steps, 1) if "clone" in step or "fork" in step)
    after = range(fork, len(steps) + 1)
    seen = set()
    for at in after if EVERY else after[:: max(1, len(after) // 12)]:
        code, _, trace = run(at)
        nothing_lives(engine)
        if not trace.exists():
            seen.add("nothing")
            continue
        lines = read_trace(trace)
        ends = [line["facts"] for line in lines[1:] if line["trigger"] == "end"]
        assert [end["exit_code"] for end in ends] in ([], [3]), (at, lines[-1])
        (result,) = verify([str(trace)])
        assert result.verdict.is_good, (at, result)
        seen.add(str(result.state))
        assert engine.call("gc").code == 0
        assert engine.leftovers() == [], at
    assert {"handed_off", "ended"} <= seen
