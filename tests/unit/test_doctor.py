"""`engine doctor` tries what it reports, ends in time, leaves nothing behind, and names a hint for each lack."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from engine.cli.main import main
from engine.doctor import doctor, kernel, platforms
from engine.doctor.part import Part, Status
from engine.doctor.places import where_state_lies
from engine.doctor.probe import SAYS, SLEEP, probe
from engine.doctor.trial import run_limited
from engine.errors import Reason, ResolveError, SecureRootError, ValidateError
from engine.lifecycle.secure_root import secure_root
from engine.lifecycle.trusted_runsc import find_runsc
from engine.lifecycle.validate import Validated
from engine.linux import locked_mounts
from engine.options import Platform
from engine.runsc.capabilities import UNKNOWN, Capabilities
from engine.spec.java import PACKAGED_JAR_SHA256
from tests.support.objects import changed
from tests.support.refusals import refuses

#: Stands in for a runsc that hangs: a child in a session of its own, as the sandbox is, with runsc's arguments.
HANGING = """\
#!{python}
import os, time
if os.fork() == 0:
    os.setsid()
open({started!r}, "a").write(f"{{os.getpid()}}\\n")
time.sleep(60)
"""


@pytest.fixture
def installed() -> Iterator[Validated]:
    """The runsc that is installed, as of a build whose platforms are not known: each is tried."""
    try:
        real = find_runsc(None, os.environ)
    except ResolveError as error:
        pytest.fail(f"{error}; ./just setup installs it")
    yield changed(real, capabilities=UNKNOWN)
    real.close()


def fake_engine(directory: Path, text: str) -> tuple[str, ...]:
    """Something that a trial executes in the place of the engine."""
    path = directory / "engine"
    path.write_text(text)
    path.chmod(0o755)
    return (str(path),)


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def running(started: Path) -> list[int]:
    """Those of the started processes that run now."""
    return [process for process in map(int, started.read_text().split()) if is_running(process)]


def left_of(started: Path) -> list[int]:
    """Those that go on: waits until there is none, as one that was killed may take a moment to be gone."""
    patience = time.monotonic() + 30
    while True:
        left = running(started)
        if not left or time.monotonic() > patience:
            return left
        time.sleep(0.02)


# The whole


def test_every_part_that_is_not_ok_has_a_hint_and_all_is_json() -> None:
    parts = doctor.examine(platform_limit=2.0)
    assert [part.name for part in parts] == [
        "runsc",
        "known faults",
        "platform systrap",
        "platform kvm",
        "platform ptrace",
        "state",
        "programs",
        "cgroups",
        "user namespaces",
        "subordinate ids",
        "locked mounts",
        "Java",
        "tla2tools",
        "graphviz",
        "Python",
        "podman",
        "containerd",
    ]
    for part in parts:
        assert bool(part.hint) == (part.status is not Status.OK), part
        assert part.found, part
        assert part.enables, part
        assert "\n" not in part.found + part.hint, part
    again = json.loads(json.dumps([asdict(part) for part in parts]))
    assert again[0]["status"] == "ok"
    assert len(again[0]["detail"]["sha256"]) == 64


@pytest.mark.parametrize("kind", ["link", "file", "others can read it"])
def test_a_base_that_a_run_refuses_is_missing(private: Path, kind: str) -> None:
    base = private / "base"
    if kind == "link":
        base.symlink_to(private)
    elif kind == "file":
        base.touch()
    else:
        base.mkdir()
        base.chmod(0o755)
    environment = {"ENGINE_ARTIFACT_BASE": str(base)}
    with refuses(SecureRootError, Reason.ROOT_NOT_PRIVATE):
        secure_root("web", environment)
    assert where_state_lies(environment).status is Status.MISSING


def test_a_base_that_is_made_or_adopted_is_ok(private: Path) -> None:
    environment = {"ENGINE_ARTIFACT_BASE": str(private / "base")}
    assert where_state_lies(environment).status is Status.OK
    assert not (private / "base").exists()
    secure_root("web", environment).close()
    assert where_state_lies(environment).status is Status.OK


def test_a_termination_signal_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    fake, started, temporary = tmp_path / "fake", tmp_path / "started", tmp_path / "temporary"
    fake.mkdir()
    temporary.mkdir()
    engine = fake_engine(fake, HANGING.format(python=sys.executable, started=str(started)))
    code = (
        f"from engine.doctor import doctor, platforms; platforms.ENGINE = {engine!r}; "
        "doctor.examine(platform_limit=60.0)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(temporary)})
    deadline = time.monotonic() + 20
    while not (started.exists() and len(started.read_text().split()) == 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(running(started)) == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert left_of(started) == []
    assert list(temporary.iterdir()) == []


# runsc


def test_the_installed_runsc_runs_a_container_on_the_platform_auto_takes() -> None:
    binary = find_runsc(None, os.environ)
    try:
        part = platforms.try_platform(binary.platform, binary, platforms.PLATFORM_TIMEOUT)
    finally:
        binary.discard()
    assert part.status is Status.OK, part
    assert part.found.startswith("ran a container in ")


def test_a_platform_that_hangs_is_ended_at_the_limit_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: Validated
) -> None:
    started, temporary = tmp_path / "started", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    hanging = HANGING.format(python=sys.executable, started=str(started))
    monkeypatch.setattr(platforms, "ENGINE", fake_engine(tmp_path, hanging))
    before = time.monotonic()
    part = platforms.try_platform(Platform.PTRACE, installed, 1.0)
    assert time.monotonic() - before < 30  # it would have hung for 60
    assert (part.status, part.found) == (Status.DEGRADED, "no answer in 1 s, and was killed")
    assert len(started.read_text().split()) == 2
    assert left_of(started) == []
    assert list(temporary.iterdir()) == []


def test_a_platform_that_fails_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: Validated
) -> None:
    failing = "#!/bin/sh\necho starting; echo ptrace: Operation not permitted >&2; exit 128\n"
    monkeypatch.setattr(platforms, "ENGINE", fake_engine(tmp_path, failing))
    part = platforms.try_platform(Platform.PTRACE, installed, 5.0)
    assert (part.status, part.found) == (Status.DEGRADED, "exit code 128: ptrace: Operation not permitted")
    assert part.detail["exit_code"] == 128


def test_success_that_printed_nothing_from_inside_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: Validated
) -> None:
    monkeypatch.setattr(platforms, "ENGINE", fake_engine(tmp_path, "#!/bin/sh\nexit 0\n"))
    assert platforms.try_platform(Platform.PTRACE, installed, 5.0).status is Status.DEGRADED


def test_a_runsc_that_the_engine_refuses_is_not_run_in_place(tmp_path: Path, installed: Validated) -> None:
    refused = tmp_path / "runsc"
    refused.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    refused.chmod(0o755)
    part = platforms.try_platform(
        Platform.PTRACE, changed(installed, runsc=changed(installed.runsc, path=str(refused))), 10.0
    )
    assert (part.status, part.detail["exit_code"]) == (Status.DEGRADED, 125)
    assert not (tmp_path / "ran").exists()


def test_a_platform_that_is_not_built_in_is_not_tried(installed: Validated) -> None:
    binary = changed(installed, capabilities=Capabilities(("ptrace", "kvm")))
    part = platforms.try_platform(Platform.SYSTRAP, binary, 5.0)
    assert (part.status, part.found) == (Status.MISSING, "not built into this runsc")
    assert "newer runsc" in part.hint


def test_the_program_inside_outlives_the_first_second(tmp_path: Path) -> None:
    program = tmp_path / "probe"
    program.write_bytes(probe())
    program.chmod(0o755)
    before = time.monotonic()
    done = run_limited([str(program)], 10.0)
    assert (done.code, done.output) == (0, SAYS)
    assert time.monotonic() - before >= SLEEP > 1


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 62), ("aarch64", 183)])
def test_the_program_inside_is_for_its_machine(machine: str, number: int) -> None:
    program = probe(machine)
    assert program[:5] == b"\x7fELF\2"
    assert int.from_bytes(program[18:20], "little") == number
    assert SAYS.encode() in program


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (ResolveError("no runsc", reason=Reason.NOT_FOUND, hint="install gVisor"), Status.MISSING),
        (ValidateError("can be written by all", reason=Reason.LOOSE_MODE, hint="chmod it"), Status.DEGRADED),
    ],
)
def test_without_a_usable_runsc_its_own_refusal_is_the_answer(
    refusal: ResolveError | ValidateError, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Validated:
        raise refusal

    monkeypatch.setattr(platforms, "find_runsc", refuse)
    first, *others = doctor.examine()
    assert (first.status, first.found, first.hint) == (status, refusal.what, refusal.hint)
    tried = [part for part in others if part.name.startswith("platform ")]
    assert [part.found for part in tried] == ["not tried: no usable runsc"] * 3


# Programs


def test_a_descendant_that_keeps_the_output_open_does_not_hold_us_up() -> None:
    outcome = run_limited(["sh", "-c", "sleep 60 & echo said"], 10.0)
    assert (outcome.code, outcome.output) == (0, "said\n")


def test_at_the_limit_the_whole_group_goes(tmp_path: Path) -> None:
    started = tmp_path / "started"
    outcome = run_limited(["sh", "-c", f"sleep 60 & echo $! >{started}; wait"], 0.5)
    assert outcome.code is None
    assert len(started.read_text().split()) == 1
    assert left_of(started) == []


def test_a_program_that_does_not_tell_its_version_is_degraded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "java", "echo 'Error: could not find libjava.so' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    part = doctor._java()
    assert part.status is Status.DEGRADED
    assert part.found.endswith("exit code 1: Error: could not find libjava.so")


def test_a_program_that_is_not_there_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    part = doctor._java()
    assert (part.status, part.found) == (Status.MISSING, "no java on PATH")
    assert "default-jre-headless" in part.hint


def test_the_jar_is_the_one_that_check_would_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TLA2TOOLS_JAR", raising=False)
    part = doctor._tla2tools()
    assert (part.status, part.detail["sha256"]) == (Status.OK, PACKAGED_JAR_SHA256)


def test_a_jar_that_check_would_refuse_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLA2TOOLS_JAR", "/no/such.jar")
    part = doctor._tla2tools()
    assert part.status is Status.MISSING
    assert "/no/such.jar" in part.found
    assert part.hint


def proc_with(tmp_path: Path, mounts: str, cgroup: str) -> tuple[str, str]:
    """A /sys/fs/cgroup and a /proc/self; ROOT in `mounts` stands for the former."""
    root, proc = tmp_path / "cgroup", tmp_path / "proc"
    root.mkdir()
    proc.mkdir()
    (proc / "mounts").write_text(mounts.replace("ROOT", str(root)))
    (proc / "cgroup").write_text(cgroup)
    return str(root), str(proc)


def v1(*hierarchies: str) -> str:
    """The mounts of version 1, each with its controllers as its name."""
    named = "cgroup ROOT/systemd cgroup rw,xattr,name=systemd 0 0\n"
    return "".join(f"cgroup ROOT/{name} cgroup rw,relatime,{name} 0 0\n" for name in hierarchies) + named


V1 = v1("cpu,cpuacct", "memory", "pids")
OWN_V1 = "4:pids:/\n3:memory:/c\n2:cpu,cpuacct:/a\n1:name=systemd:/b\n"
GROUPS_V1 = ["pids", "memory/c", "cpu,cpuacct/a", "systemd/b"]
ALL_OF_V2 = "cpuset cpu io memory hugetlb pids rdma misc"


@pytest.mark.parametrize(
    ("mounts", "cgroup", "groups", "version"),
    [
        ("cgroup2 ROOT cgroup2 rw 0 0\n", "0::/user/mine\n", ["user/mine"], "v2"),
        (V1, OWN_V1, GROUPS_V1, "v1"),
        (
            V1 + "cgroup2 ROOT/unified cgroup2 rw 0 0\n",
            OWN_V1 + "0::/u\n",
            [*GROUPS_V1, "unified/u"],
            "hybrid",
        ),
    ],
)
def test_cgroups_are_ok_where_our_own_groups_can_be_written(
    tmp_path: Path, mounts: str, cgroup: str, groups: list[str], version: str
) -> None:
    root, proc = proc_with(tmp_path, mounts, cgroup)
    for group in groups:
        Path(root, group).mkdir(parents=True)
    Path(root, "cgroup.controllers").write_text(ALL_OF_V2)
    part = kernel.try_cgroups(root, proc)
    assert (part.status, part.detail["version"]) == (Status.OK, version)
    assert part.detail["limits"] == ["memory", "cpu", "pids"]
    assert {"memory", "cpu", "pids"} <= set(part.detail["controllers"])
    Path(root, groups[-1]).rmdir()
    part = kernel.try_cgroups(root, proc)
    assert part.status is Status.DEGRADED
    assert f"1 of {len(groups)} hierarchies not writable" in part.found
    assert "--ignore-cgroups" in part.hint
    assert part.detail["limits"] == []


@pytest.mark.parametrize("absent", ["memory", "cpu", "pids", "cpuset", "io"])
def test_v2_without_a_controller_that_runsc_needs_is_degraded(tmp_path: Path, absent: str) -> None:
    root, proc = proc_with(tmp_path, "cgroup2 ROOT cgroup2 rw 0 0\n", "0::/\n")
    Path(root, "cgroup.controllers").write_text(" ".join(set(ALL_OF_V2.split()) - {absent}) + "\n")
    part = kernel.try_cgroups(root, proc)
    assert part.status is Status.DEGRADED
    assert absent in part.found
    assert "--ignore-cgroups" in part.hint
    assert part.detail["limits"] == []


@pytest.mark.parametrize("text", ["", None])
def test_v2_without_any_controller_is_degraded(tmp_path: Path, text: str | None) -> None:
    root, proc = proc_with(tmp_path, "cgroup2 ROOT cgroup2 rw 0 0\n", "0::/\n")
    if text is not None:
        Path(root, "cgroup.controllers").write_text(text)
    part = kernel.try_cgroups(root, proc)
    assert (part.status, part.detail["controllers"]) == (Status.DEGRADED, [])


def test_v1_without_the_memory_controller_is_degraded(tmp_path: Path) -> None:
    """Version 2 beside it has the controller: there runsc does not look."""
    mounts = v1("cpu", "pids") + "cgroup2 ROOT/unified cgroup2 rw 0 0\n"
    root, proc = proc_with(tmp_path, mounts, "3:pids:/\n2:cpu:/\n1:name=systemd:/\n0::/\n")
    for group in ("cpu", "pids", "systemd", "unified"):
        Path(root, group).mkdir()
    Path(root, "unified", "cgroup.controllers").write_text("memory\n")
    part = kernel.try_cgroups(root, proc)
    assert part.status is Status.DEGRADED
    assert "memory" in part.found
    assert part.detail["limits"] == ["cpu", "pids"]


def test_no_cgroups_at_all_are_missing(tmp_path: Path) -> None:
    root, proc = proc_with(tmp_path, "tmpfs ROOT tmpfs rw 0 0\ncgroup2 /elsewhere cgroup2 rw 0 0\n", "")
    part = kernel.try_cgroups(root, proc)
    assert part.status is Status.MISSING
    assert "--ignore-cgroups" in part.hint


def namespaces_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unshare: str, sysctls: dict[str, str]
) -> Part:
    script(tmp_path / "unshare", unshare)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(kernel, "sysctl", sysctls.get)
    return kernel.try_user_namespaces()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("user.max_user_namespaces", "0"),
        ("kernel.unprivileged_userns_clone", "0"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1"),
    ],
)
def test_what_forbids_user_namespaces_is_named(
    key: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = namespaces_with(monkeypatch, tmp_path, "exit 1", {key: value})
    assert (part.status, part.found) == (Status.MISSING, f"forbidden by {key} = {value}")
    assert key in part.hint
    part = namespaces_with(monkeypatch, tmp_path, "exit 0", {key: value})
    assert part.status is Status.OK
    assert f"{key} forbids them to others" in part.found


def test_user_namespaces_that_fail_for_no_known_reason_are_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "unshare: unshare failed: Operation not permitted"
    part = namespaces_with(
        monkeypatch, tmp_path, f"echo '{words}' >&2; exit 1", {"user.max_user_namespaces": "5"}
    )
    assert (part.status, part.found) == (Status.MISSING, f"exit code 1: {words}")


def test_a_newuidmap_without_its_power_is_degraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("newuidmap", "newgidmap"):
        script(tmp_path / name, "")
    monkeypatch.setenv("PATH", str(tmp_path))
    part = kernel.try_subordinate_ids()
    assert part.status is Status.DEGRADED
    assert "neither setuid root nor with file capabilities" in part.found


def test_locked_mounts_that_cannot_be_had_are_missing_with_the_hint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def probe(*_: object, **__: object) -> None:
        raise locked_mounts.UnusableError("user namespaces are forbidden", "sysctl x=1")

    monkeypatch.setattr(locked_mounts, "probe", probe)
    part = kernel.try_locked_mounts()
    assert (part.status, part.found, part.hint) == (
        Status.MISSING,
        "user namespaces are forbidden",
        "sysctl x=1",
    )


#: What a machine that runs containers has, at least.
ENOUGH = {
    "runsc": Status.OK,
    "platform systrap": Status.MISSING,
    "platform ptrace": Status.OK,
    "state": Status.DEGRADED,
    "programs": Status.OK,
    "Java": Status.MISSING,
}


def _parts(**changes: Status) -> list[Part]:
    statuses = {**ENOUGH, **changes}
    found = "/a/very/long/path" * 6 + " and " + "words " * 60 + "\x1b[2J"
    return [
        Part(name, status, found, "enables " * 30, "" if status is Status.OK else "hint " * 50)
        for name, status in statuses.items()
    ]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"runsc": Status.MISSING}, 1),
        ({"runsc": Status.DEGRADED}, 1),
        ({"state": Status.MISSING}, 1),
        ({"programs": Status.MISSING}, 1),
        ({"platform ptrace": Status.DEGRADED}, 1),
        ({"platform systrap": Status.OK, "platform ptrace": Status.MISSING}, 0),
    ],
)
@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "--json"]])
def test_exit_code_says_whether_a_container_can_run(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], changes: dict[str, Status], code: int
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda **_: _parts(**changes))
    assert main(arguments) == code


def test_lines_fit_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "examine", lambda **_: _parts())
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() for line in lines)
    assert all(len(line) <= 100 for line in lines if "/a/very" not in line)
    assert [line.split("  ")[0] for line in lines if not line.startswith(" ")] == list(ENOUGH)


def test_what_takes_long_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platforms, "ENGINE", fake_engine(tmp_path, "#!/bin/sh\nexit 1\n"))
    told: list[str] = []
    doctor.examine(platform_limit=1, progress=told.append)
    assert [str(name) in line for name, line in zip(("systrap", "kvm", "ptrace"), told, strict=True)] == [
        True
    ] * 3


def test_graphviz_without_its_python_package_is_degraded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    part = doctor._graphviz()
    assert part.status is Status.DEGRADED
    assert "gvisor-engine[audit]" in part.hint
