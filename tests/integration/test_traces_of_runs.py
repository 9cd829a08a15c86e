"""The record that each run leaves: of a good one, of one that is refused in each step, and where it may be kept."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import engine as package
from engine.errors import Reason
from engine.lifecycle.runner import NO_TRACE
from engine.lifecycle.spec_files import specs_directory
from tests.support.harness import REFUSED, WARNING, Engine, Finished, listing, read_trace, waiting_program

KEYS = {"seq", "time", "monotonic_ns", "container", "previous", "state", "trigger", "next", "facts", "error"}

STEPS = [
    ("start", "resolve", "resolved"),
    ("resolved", "validate", "validated"),
    ("validated", "secure_root", "root_secured"),
    ("root_secured", "stage", "staged"),
    ("staged", "apply_policy", "policy_settled"),
    ("policy_settled", "exec", "handed_off"),
]


def _moves(trace: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(line["state"], line["trigger"], line["next"]) for line in trace[1:]]


def _check_lines(trace: list[dict[str, Any]], container_id: str) -> None:
    """What holds of every trace, however the run ended."""
    assert [line["seq"] for line in trace] == list(range(len(trace)))
    assert {line["container"] for line in trace} == {container_id}
    assert all(line.keys() == KEYS for line in trace[1:])
    times = [line["time"] for line in trace]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", time) for time in times)
    assert [datetime.fromisoformat(time) for time in times] == sorted(map(datetime.fromisoformat, times))


def test_good_run_records_six_steps_and_ends_handed_off(engine: Engine, platform: str) -> None:
    container_id = engine.new_id()
    bundle = engine.shell("exit 42")
    finished = engine.run(bundle, "--id", container_id, "--platform", platform)
    assert finished.code == 42
    trace = engine.trace(container_id)
    _check_lines(trace, container_id)
    assert _moves(trace) == STEPS
    assert all(line["error"] is None for line in trace[1:])

    header = trace[0]
    spec = Path(specs_directory(), "GVisorRuntime.tla").read_bytes()
    assert header["spec"] == hashlib.sha256(spec).hexdigest()
    assert header["engine"] == package.__version__
    assert header["options"] == {
        "network": "none",
        "platform": platform,
        "rootless": not engine.caller.is_root,
        "ignore_cgroups": False,
        "exec_policy": "auto",
        "require_exec_policy": False,
        "runsc": None,
    }
    assert header["bundle"]["path"] == str(bundle)
    assert header["bundle"]["sha256"] == hashlib.sha256((bundle / "config.json").read_bytes()).hexdigest()


def test_the_trace_tells_what_was_executed(engine: Engine, runsc: Path) -> None:
    container_id = engine.new_id()
    process = engine.start_waiting(container_id)
    facts = {line["trigger"]: line["facts"] for line in engine.trace(container_id)[1:]}
    running = Path(f"/proc/{process.pid}/exe")
    assert facts["validate"]["path"] == str(runsc)
    assert facts["stage"]["path"] == os.readlink(running) == facts["exec"]["argv"][0]
    assert facts["stage"]["sha256"] == hashlib.sha256(running.read_bytes()).hexdigest()
    assert facts["stage"]["sha256"] == hashlib.sha256(runsc.read_bytes()).hexdigest()
    command = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()
    assert "\0".join([*facts["exec"]["argv"], ""]) == command
    assert engine.finish(process, b"\n").code == 9


def test_trace_is_private_and_lies_apart_from_the_container(engine: Engine) -> None:
    container_id = engine.new_id()
    assert engine.run(engine.shell("exit 42"), "--id", container_id).code == 42
    (path,) = engine.traces(container_id)
    status = path.lstat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, engine.caller.uid)
    assert stat.S_ISREG(status.st_mode)


def test_a_trace_can_be_kept_elsewhere(engine: Engine) -> None:
    container_id = engine.new_id()
    path = engine.directory / "elsewhere.jsonl"
    assert engine.run(engine.shell("exit 42"), "--id", container_id, "--trace", path.name).code == 42
    assert _moves(read_trace(path)) == STEPS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert engine.traces(container_id) == []


def test_two_runs_of_one_id_leave_two_traces(engine: Engine) -> None:
    container_id = engine.new_id()
    bundle = engine.shell("exit 42")
    for _ in range(2):
        assert engine.run(bundle, "--id", container_id).code == 42
    traces = [read_trace(path) for path in engine.traces(container_id)]
    assert [_moves(trace) for trace in traces] == [STEPS, STEPS]


# --- Places where no trace can be kept ------------------------------------------------------------------------


def _a_file(path: Path) -> None:
    path.write_text("precious")


def _a_link_to_a_file(path: Path) -> None:
    (path.with_name("target")).write_text("precious")
    path.symlink_to("target")


def _a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [_a_file, _a_link_to_a_file, _a_dangling_link, os.mkfifo, Path.mkdir])
def test_a_trace_never_replaces_what_is_there(idle_engine: Engine, make: Callable[[Path], None]) -> None:
    bundle = idle_engine.bundle()
    path = idle_engine.directory / "trace"
    make(path)
    before = listing(idle_engine.directory)
    said = idle_engine.run(bundle, "--trace", path, "--json").refused(Reason.EXISTS, repr(str(path)))
    assert said["step"] == "trace"
    assert listing(idle_engine.directory) == before


@pytest.mark.parametrize(
    "path", ["missing/trace", "bundle/config.json/trace", "", ".", "x" * 300, "/proc/trace"]
)
def test_a_place_where_no_trace_can_be_made_is_refused(idle_engine: Engine, path: str) -> None:
    bundle = idle_engine.bundle()
    before = listing(idle_engine.directory)
    assert idle_engine.run(bundle, "--trace", path).refusal().startswith("engine: trace: ")
    assert listing(idle_engine.directory) == before


# --- Refusals -------------------------------------------------------------------------------------------------


def _refused_trace(
    engine: Engine, step: str, *options: str | Path, bundle: Path | None = None, **more: Any
) -> tuple[str, list[dict[str, Any]]]:
    """The line and the trace of a run that `step` refuses, after checking what holds of all of these."""
    container_id = engine.new_id()
    path = engine.directory / f"trace-{container_id}"
    finished = engine.run(bundle or engine.bundle(), "--id", container_id, "--trace", path, *options, **more)
    line = finished.refusal()
    trace = read_trace(path)
    _check_lines(trace, container_id)
    triggers = [trigger for _, trigger, _ in STEPS]
    done = triggers.index(step)
    assert _moves(trace) == [*STEPS[:done], (STEPS[done][0], "refuse", "refused")]
    error = trace[-1]["error"]
    assert error.keys() == {"step", "reason", "what", "hint"}
    assert line == f"engine: {error['step']}: {error['what']}; {error['hint']}"
    assert error["step"] == step
    assert all(error.values())
    for gone in trace[-1]["facts"]["cleaned"]:
        assert not os.path.lexists(gone)
    return line, trace


def _writable_by_all(engine: Engine, runsc: Path) -> Path:
    path = engine.own_runsc(runsc)
    path.chmod(0o777)
    return path


def _writable_by_group(engine: Engine, runsc: Path) -> Path:
    path = engine.own_runsc(runsc)
    path.chmod(0o775)
    return path


def _not_executable(engine: Engine, runsc: Path) -> Path:
    path = engine.own_runsc(runsc)
    path.chmod(0o644)
    return path


def _in_a_directory_of_all(engine: Engine, runsc: Path) -> Path:
    path = engine.own_runsc(runsc)
    path.parent.chmod(0o777)
    return path


def _no_binary(engine: Engine, runsc: Path) -> Path:
    path = engine.write(engine.directory / "runsc", b"neither a program nor a script")
    path.chmod(0o755)
    return path


def _any_script(engine: Engine, runsc: Path) -> Path:
    path = engine.write(engine.directory / "runsc", b"#!/bin/sh\nexec /bin/true\n")
    path.chmod(0o755)
    return path


def _a_fifo(engine: Engine, runsc: Path) -> Path:
    path = engine.directory / "runsc"
    os.mkfifo(path, 0o755)
    return engine.owned(path)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (_writable_by_all, "can be written by group or world (mode 0777)"),
        (_writable_by_group, "can be written by group or world (mode 0775)"),
        (_not_executable, "is not executable"),
        (_in_a_directory_of_all, "has unsafe permissions 0777"),
        (_no_binary, "is not an ELF binary"),
        (_any_script, "names no runsc binary"),
        (_a_fifo, "is not a regular file"),
        (lambda engine, runsc: engine.directory, "is not a regular file"),
    ],
)
def test_a_runsc_that_is_not_trusted_is_refused_by_validate(
    idle_engine: Engine, runsc: Path, make: Callable[[Engine, Path], Path], named: str
) -> None:
    line, _ = _refused_trace(idle_engine, "validate", "--runsc", make(idle_engine, runsc))
    assert named in line
    assert not idle_engine.base.exists()


def test_a_runsc_of_another_user_is_refused_by_validate(root_engine: Engine, runsc: Path) -> None:
    path = root_engine.own_runsc(runsc)
    os.chown(path, 12345, 12345)
    line, _ = _refused_trace(root_engine, "validate", "--runsc", path)
    assert "is owned by uid 12345" in line


def test_a_missing_runsc_is_refused_by_resolve(idle_engine: Engine) -> None:
    line, _ = _refused_trace(idle_engine, "resolve", "--runsc", "missing/runsc")
    assert str(idle_engine.directory / "missing/runsc") in line
    assert not idle_engine.base.exists()


def _base_is_a_link(engine: Engine) -> None:
    engine.base.symlink_to(engine.make_directory("target", 0o700))


def _link_above(engine: Engine) -> None:
    (engine.directory / "link").symlink_to(engine.make_directory("target", 0o700))
    engine.base = engine.directory / "link" / "base"


def _loose_parent(engine: Engine) -> None:
    engine.base = engine.make_directory("loose", 0o777) / "base"


def _group_writable_above(engine: Engine) -> None:
    loose = engine.make_directory("loose", 0o770)
    engine.make_directory("loose/tight", 0o700)
    engine.base = loose / "tight" / "base"


def _base_is_a_file(engine: Engine) -> None:
    engine.write(engine.base, b"")


def _parent_is_missing(engine: Engine) -> None:
    engine.base = engine.directory / "missing" / "base"


def _dots(engine: Engine) -> None:
    engine.make_directory("inner", 0o700)
    engine.base = engine.directory / "inner" / ".." / "base"


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (_base_is_a_link, "is a symbolic link"),
        (_link_above, "is a symbolic link"),
        (_loose_parent, "has unsafe permissions 0777"),
        (_group_writable_above, "has unsafe permissions 0770"),
        (_base_is_a_file, "is not a directory"),
        (_parent_is_missing, "No such file or directory"),
        (_dots, "'..'"),
    ],
)
def test_secure_root_refuses_an_unsafe_artifact_base(
    idle_engine: Engine, make: Callable[[Engine], None], named: str
) -> None:
    make(idle_engine)
    bundle = idle_engine.bundle()
    before = {*idle_engine.directory.rglob("*")}
    line, _ = _refused_trace(idle_engine, "secure_root", bundle=bundle)
    assert named in line
    (made,) = {*idle_engine.directory.rglob("*")} - before
    assert made.name == f"trace-{idle_engine.ids[-1]}"


def test_another_users_artifact_base_is_refused_by_secure_root(root_engine: Engine) -> None:
    root_engine.make_directory("base", 0o700)
    os.chown(root_engine.base, 12345, 12345)
    line, _ = _refused_trace(root_engine, "secure_root")
    assert "is owned by uid 12345 (expected uid 0)" in line


def test_where_no_trace_can_be_kept_of_a_refusal_that_is_said(idle_engine: Engine) -> None:
    _loose_parent(idle_engine)
    finished = idle_engine.run(idle_engine.bundle())
    assert finished.code == REFUSED
    *_, warning, refusal = finished.stderr.splitlines()
    assert warning.startswith(f"{WARNING}{NO_TRACE}: ")
    assert refusal.startswith("engine: secure_root: ")
    assert idle_engine.leftovers() == []


def test_stage_refuses_a_copy_too_large_and_removes_it(idle_engine: Engine) -> None:
    """The caller's own limit on the size of a file, which setrlimit(2) describes, cuts the copy short."""
    container_id = idle_engine.new_id()
    command = idle_engine.run_command(idle_engine.bundle(), "--id", container_id)
    finished = idle_engine.finish(
        idle_engine.start(["sh", "-c", 'ulimit -f 2048; exec "$@"', "sh", *command])
    )
    assert "engine: stage: " in finished.refusal()
    assert "File too large" in finished.refusal()
    assert idle_engine.trace(container_id)[-1]["next"] == "refused"
    assert _only_traces(idle_engine)


def _only_traces(engine: Engine) -> bool:
    """Whether nothing is left beneath the base but traces."""
    files = [path for path in engine.base.rglob("*") if path.parent != engine.base]
    return bool(files) and all(path.parent == engine.base / "traces" for path in files)


def _on_a_tmpfs(engine: Engine, options: str) -> tuple[Finished, list[dict[str, Any]]]:
    """A run whose artifact base is on a tmpfs that is mounted with `options` for that run alone, and its trace."""
    container_id = engine.new_id()
    mount = engine.make_directory("mount")
    engine.base = mount / "base"
    copy = engine.make_directory("copy")
    script = (
        f'mount -t tmpfs -o mode=755,{options} tmpfs "$MOUNT" || exit; '
        '"$@"; code=$?; cp -a "$MOUNT/." "$COPY" || exit; exit $code'
    )
    command = engine.run_command(engine.bundle(), "--id", container_id)
    finished = engine.finish(
        engine.start(
            ["unshare", "--mount", "sh", "-c", script, "sh", *command],
            environment={"MOUNT": str(mount), "COPY": str(copy)},
        )
    )
    engine.base = copy / "base"
    return finished, engine.trace(container_id)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("ro", "Read-only file system"),
        ("nr_inodes=1", "No space left on device"),
        ("size=4k", "No space left on device"),
    ],
)
def test_no_container_runs_where_no_trace_can_be_kept(root_engine: Engine, options: str, said: str) -> None:
    place = "/var/lib/gvisor-engine/traces"
    script = (
        "for path in /run /var/lib; do mount -t tmpfs -o mode=755 none $path || exit; done; "
        f'mkdir -p {place} && mount -t tmpfs -o mode=700,{options} none {place} || exit; "$@"; '
        "code=$?; find /run/gvisor-engine -mindepth 2 | head >&2; exit $code"
    )
    command = root_engine.run_command(root_engine.bundle(), "--id", root_engine.new_id(), "--json")
    finished = root_engine.finish(
        root_engine.start(
            ["unshare", "--mount", "sh", "-c", script, "sh", *command],
            environment={"ENGINE_ARTIFACT_BASE": ""},
        )
    )
    refused = finished.refused(Reason.FAILURE, place, said)
    assert refused["step"] == "trace"


def test_json_and_verbose_say_id_and_trace_on_stderr_alone(engine: Engine) -> None:
    bundle, container_id = engine.shell("echo out; exit 42"), engine.new_id()
    finished = engine.run(bundle, "--id", container_id, "--json")
    (path,) = engine.traces(container_id)
    assert (finished.code, finished.stdout) == (42, b"out\n")
    said = [json.loads(line) for line in finished.stderr.splitlines() if line.startswith("{")]
    assert {"run": {"id": container_id, "trace": str(path)}} in said
    finished = engine.run(bundle, "--id", container_id, "--verbose")
    (later,) = set(engine.traces(container_id)) - {path}
    assert (finished.code, finished.stdout) == (42, b"out\n")
    assert f"engine: container {container_id}, trace {later}\n" in finished.stderr
    assert engine.call("trace", "path", container_id, "--last").stdout.decode() == f"{later}\n"


def test_a_refusal_with_json_names_its_trace(idle_engine: Engine) -> None:
    container_id = idle_engine.new_id()
    finished = idle_engine.run(
        idle_engine.bundle(), "--id", container_id, "--runsc", "/nonexistent", "--json"
    )
    finished.refused(Reason.NOT_FOUND)
    (path,) = idle_engine.traces(container_id)
    assert json.loads(finished.stderr)["run"] == {"id": container_id, "trace": str(path)}


def test_stage_refuses_a_full_file_system_and_removes_the_copy(root_engine: Engine) -> None:
    finished, trace = _on_a_tmpfs(root_engine, "size=8m")
    line = finished.refusal()
    assert "engine: stage: " in line
    assert "No space left on device" in line
    assert trace[-1]["next"] == "refused"
    assert (trace[-1]["error"]["step"], trace[-1]["error"]["reason"]) == ("stage", "failure")
    assert _only_traces(root_engine)


def test_run_with_a_noexec_base_has_its_program_elsewhere(root_engine: Engine) -> None:
    finished, trace = _on_a_tmpfs(root_engine, "size=8m,noexec")
    assert finished.code == 0, finished
    place = trace[3]["facts"]["programs"]["path"]
    staged = Path(trace[4]["facts"]["path"])
    assert staged.parent.parent == Path(place)
    assert not staged.is_relative_to(root_engine.base)
    shutil.rmtree(staged.parent)  # its state went with the file system


def test_exec_refuses_what_the_kernel_refuses_and_cleans_up(
    idle_engine: Engine,
) -> None:
    program = waiting_program(machine=0xFFFF)
    if program is None:
        pytest.skip(f"no program is known for {os.uname().machine}")
    path = idle_engine.write(idle_engine.directory / "runsc", program)
    path.chmod(0o755)
    container_id = idle_engine.new_id()
    finished = idle_engine.run(idle_engine.bundle(), "--id", container_id, "--runsc", path)
    assert finished.code == REFUSED
    assert "engine: exec: " in finished.said_by_container
    assert "Exec format error" in finished.said_by_container
    trace = idle_engine.trace(container_id)
    _check_lines(trace, container_id)
    # The line of the hand-off is written before execve, which then fails.
    assert _moves(trace) == [*STEPS, ("policy_settled", "refuse", "refused")]
    assert (trace[-1]["error"]["step"], trace[-1]["error"]["reason"]) == ("exec", "execve_refused")
    assert trace[-1]["facts"]["cleaned"]
    assert _only_traces(idle_engine)


def test_a_required_policy_without_rootless_is_refused(root_engine: Engine) -> None:
    _, trace = _refused_trace(root_engine, "apply_policy", "--require-exec-policy")
    assert trace[-1]["error"]["reason"] == "policy_not_enforced"
    assert trace[-1]["facts"]["cleaned"]


def test_a_policy_that_is_required_and_off_is_refused(idle_engine: Engine) -> None:
    options = ("--rootless", "--require-exec-policy", "--exec-policy", "off")
    _, trace = _refused_trace(idle_engine, "apply_policy", *options)
    assert trace[-1]["error"]["reason"] == "policy_not_enforced"


# --- Platforms ------------------------------------------------------------------------------------------------


@pytest.fixture
def runsc_without_systrap(engine: Engine, runsc: Path) -> Path:
    """The real runsc with the names of that platform's package overwritten: it still runs, but not on systrap."""
    path = engine.own_runsc(runsc)
    path.write_bytes(
        path.read_bytes().replace(b"pkg/sentry/platform/systrap", b"pkg/sentry/platform/sistrap")
    )
    return path


def test_by_itself_the_engine_takes_systrap_where_runsc_has_it(engine: Engine, runsc: Path) -> None:
    if b"pkg/sentry/platform/systrap" not in runsc.read_bytes():
        pytest.skip(f"{runsc} has no systrap")
    container_id = engine.new_id()
    finished = engine.run(engine.shell("exit 42"), "--id", container_id)
    assert finished.code == 42
    assert "platform" not in finished.stderr
    assert engine.trace(container_id)[2]["facts"]["platform"] == "systrap"


def test_runsc_without_systrap_runs_on_ptrace_with_a_warning(
    engine: Engine, runsc_without_systrap: Path
) -> None:
    container_id = engine.new_id()
    bundle = engine.shell("echo on ptrace; exit 42")
    finished = engine.run(bundle, "--id", container_id, "--runsc", runsc_without_systrap)
    assert (finished.code, finished.stdout) == (42, b"on ptrace\n")
    assert f"{WARNING}platform ptrace: this runsc has no systrap\n" in finished.stderr
    argv = engine.trace(container_id)[6]["facts"]["argv"]
    assert argv[argv.index("--platform") + 1] == "ptrace"


def test_a_platform_that_runsc_lacks_is_refused_by_validate(
    engine: Engine, runsc_without_systrap: Path
) -> None:
    options = ("--platform", "systrap", "--runsc", runsc_without_systrap)
    line, _ = _refused_trace(engine, "validate", *options)
    assert "was built without the platform systrap (it has " in line


def test_a_wrapper_script_of_nix_is_followed_to_the_binary(engine: Engine, runsc: Path) -> None:
    binary = engine.own_runsc(runsc).rename(engine.directory / "own" / ".runsc-wrapped")
    wrapper = engine.write(
        binary.with_name("runsc"), f'#! /bin/sh -e\nexport A=b\nexec -a "$0" "{binary}" "$@"\n'.encode()
    )
    wrapper.chmod(0o755)
    container_id = engine.new_id()
    assert engine.run(engine.shell("exit 42"), "--id", container_id, "--runsc", wrapper).code == 42
    facts = engine.trace(container_id)[2]["facts"]
    assert (facts["wrapper"], facts["path"]) == (str(wrapper), str(binary))


def test_a_link_to_runsc_is_followed_and_its_target_named(engine: Engine, runsc: Path) -> None:
    link = engine.directory / "runsc"
    link.symlink_to(runsc)
    engine.owned(link)
    container_id = engine.new_id()
    assert engine.run(engine.shell("exit 42"), "--id", container_id, "--runsc", link).code == 42
    assert engine.trace(container_id)[2]["facts"]["path"] == str(runsc)


def test_what_was_copied_is_not_needed_any_more(engine: Engine, runsc: Path) -> None:
    """The container goes on when the runsc it came from is removed: it runs the staged copy."""
    own = engine.own_runsc(runsc)
    process = engine.start_waiting(engine.new_id(), "--runsc", own)
    shutil.rmtree(own.parent)
    assert engine.finish(process, b"\n").code == 9
