"""The execute policy with the real kernel and the stock runsc: what runs under it, and what does not any more."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.linux import seccomp
from engine.linux.namespaces import sysctl
from engine.state.store import SETTLED_NS
from engine.survey.busybox import static_busybox
from engine.traces.move import Strength
from tests.integration.attempts import ATTEMPTS, ATTEMPTS_ON_A_SET
from tests.support.harness import WARNING, Engine, status_of
from tests.support.standin import PREWARMER, Installation

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "exec-policy.md"
#: How many containers are started one after the other; docs/exec-policy.md has the figures of many more.
MANY = int(os.environ.get("ENGINE_TEST_RUNS", "10"))


def _policy(engine: Engine, container_id: str) -> dict[str, Any]:
    facts: dict[str, Any] = engine.trace(container_id)[5]["facts"]
    return facts


def _files_of_a_set(engine: Engine, container_id: str) -> list[str]:
    """The staged files of a runsc of several; none where it is one file."""
    staged = engine.trace(container_id)[4]["facts"]
    sidecars = [sidecar["path"] for sidecar in staged.get("sidecars", [])]
    return [staged["path"], *sidecars] if sidecars else []


# --- A container runs under it --------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["none", "host"])
@pytest.mark.parametrize("readonly", [True, False])
def test_a_container_runs_under_the_required_policy(
    engine: Engine, platform: str, network: str, readonly: bool
) -> None:
    container_id = engine.new_id()
    namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    bundle = engine.shell(
        "read line; echo out $line; echo err >&2; exit 42",
        root={"path": "rootfs", "readonly": readonly},
        linux={"namespaces": namespaces},
    )
    options = ("--platform", platform, "--network", network, "--rootless", "--require-exec-policy")
    process = engine.start_run(bundle, "--id", container_id, *options, stdin=-1)
    finished = engine.finish(process, b"in\n")
    assert (finished.code, finished.stdout) == (42, b"out in\n")
    *warnings, last = finished.stderr.splitlines()
    assert (len(warnings), last) == (1 if network == "host" else 0, "err")
    policy = _policy(engine, container_id)
    assert (policy["outcome"], policy["mechanism"]) == ("enforced", "locked-mounts")
    sealed = readonly and seccomp.is_known_machine()
    assert policy["strength"] == (Strength.SEALED if sealed else Strength.HOST)
    assert policy["allowed"] == [str(bundle / "rootfs"), *_files_of_a_set(engine, container_id)]
    assert policy["ids"] == ("all" if engine.caller.is_root else "single")


@pytest.mark.parametrize("readonly", [True, False])
def test_so_it_does_with_the_runsc_of_debian_12(engine: Engine, old_runsc: Path, readonly: bool) -> None:
    container_id = engine.new_id()
    bundle = engine.shell("exit 42", root={"path": "rootfs", "readonly": readonly})
    options = ("--platform", "ptrace", "--runsc", old_runsc, "--rootless", "--require-exec-policy")
    finished = engine.run(bundle, "--id", container_id, *options)
    assert (finished.code, finished.stderr) == (42, "")
    sealed = readonly and seccomp.is_known_machine()
    assert _policy(engine, container_id)["strength"] == (Strength.SEALED if sealed else Strength.HOST)


#: The engine, but for the exception that it makes for the bundle's files.
WITHOUT_EXCEPTIONS = """
from engine.cli.main import main
from engine.linux import locked_mounts
prepare = locked_mounts.prepare
locked_mounts.prepare = lambda ids, trees, **more: prepare(ids, [each for each in trees if not each.executable], **more)
raise SystemExit(main())
"""
#: runsc's own version, the release of Debian that has it, and its platforms.
BUILDS = {"0.0~20221219.0": ("12", ("ptrace",)), "0.0~20240729.0": ("13", ("systrap", "ptrace"))}


def test_runsc_needs_an_executable_root_on_each_platform(
    unprivileged_engine: Engine, runsc: Path, old_runsc: Path
) -> None:
    """So nothing less than it can stay executable. The page has what is found here."""
    if not seccomp.is_known_machine():
        pytest.skip(f"nothing can be sealed on {os.uname().machine}")
    engine = unprivileged_engine
    bundle = engine.shell("exit 42")
    rows = []
    for path in (old_runsc, runsc):
        version = subprocess.check_output([path, "--version"], text=True).split()[2]
        if version not in BUILDS:
            pytest.skip(f"the page is not about runsc {version}")
        release, platforms = BUILDS[version]
        for platform in platforms:
            options = ("--platform", platform, "--runsc", path, "--require-exec-policy", "--rootless")
            kept = engine.run(bundle, *options).code
            command = [engine.caller.python, "-P", "-c", WITHOUT_EXCEPTIONS, "run", str(bundle)]
            without = engine.finish(engine.start([*command, *map(str, options)])).code
            rows.append(f"| {version} (Debian {release}) | {platform} | {kept} | {without} |")
    assert "\n".join(rows) in PAGE.read_text(), rows


@pytest.mark.parametrize("who", ["unprivileged"])
def test_no_container_of_many_fails_to_start_under_the_policy(engine: Engine, platform: str) -> None:
    bundle = engine.shell("exit 42")
    options = ("--platform", platform, "--require-exec-policy")
    codes = [engine.run(bundle, *options).code for _ in range(MANY)]
    assert codes == [42] * MANY


def test_gc_removes_from_outside_what_a_confined_container_left(engine: Engine) -> None:
    for end in ("killed", "finished"):
        container_id = engine.new_id()
        process = engine.start_waiting(container_id, "--rootless", "--require-exec-policy")
        assert engine.call("gc").stdout.decode() == f"alive, left: {engine.container(container_id)}\n"
        if end == "killed":
            process.kill()
        engine.finish(process, b"\n" if end == "finished" else None)
        assert engine.call("gc").stdout.decode() == f"removed: {engine.container(container_id)}\n"
        assert engine.leftovers() == []


def test_what_a_bundle_binds_can_be_executed_in_the_container(engine: Engine) -> None:
    tools = engine.make_directory("tools")
    busybox = static_busybox()
    assert busybox is not None
    shutil.copy(busybox, tools / "busybox")
    engine.owned(tools / "busybox")
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/tools", "type": "bind", "source": str(tools), "options": ["rbind", "ro"]},
    ]
    bundle = engine.shell("/tools/busybox echo from the tools", mounts=mounts)
    container_id = engine.new_id()
    finished = engine.run(bundle, "--id", container_id, "--rootless", "--require-exec-policy")
    assert (finished.code, finished.stdout) == (0, b"from the tools\n"), finished
    policy = _policy(engine, container_id)
    allowed = [str(bundle / "rootfs"), str(tools), *_files_of_a_set(engine, container_id)]
    assert policy["allowed"] == allowed
    # runsc had to make /tools in the root, so that could not be read-only; the second time it is there.
    assert policy["strength"] == Strength.HOST
    container_id = engine.new_id()
    finished = engine.run(bundle, "--id", container_id, "--rootless", "--require-exec-policy")
    assert (finished.code, finished.stdout) == (0, b"from the tools\n"), finished
    if seccomp.is_known_machine():
        assert _policy(engine, container_id)["strength"] == Strength.SEALED


def test_the_engine_runs_inside_an_already_mapped_user_namespace(unprivileged_engine: Engine) -> None:
    engine = unprivileged_engine
    container_id = engine.new_id()
    command = engine.run_command(
        engine.shell("id -u; exit 42"), "--id", container_id, "--require-exec-policy"
    )
    finished = engine.finish(engine.start(["unshare", "--map-root-user", "--mount", *command]))
    assert finished.code == 42, finished
    assert _policy(engine, container_id)["ids"] == "single"  # there is no other


def test_the_base_may_lie_in_a_directory_of_the_hosts_root(
    needs_root: None, unprivileged_engine: Engine, arena: Path
) -> None:
    """As /var/lib/SOMEBODY does. In the namespaces of the policy that directory is of an owner without a name."""
    engine = unprivileged_engine
    base = engine.owned(Path(tempfile.mkdtemp(dir=arena)))
    options = ("--rootless", "--require-exec-policy")
    chosen = {"ENGINE_ARTIFACT_BASE": str(base)}
    finished = engine.run(engine.shell("exit 42"), "--id", engine.new_id(), *options, environment=chosen)
    assert (finished.code, finished.stderr) == (42, "")
    assert engine.call("gc", environment=chosen).code == 0
    shutil.rmtree(base)


def test_subordinate_ids_are_mapped_where_the_user_has_some(
    needs_root: None, unprivileged_engine: Engine
) -> None:
    """In a mount namespace of its own, in which the user has an account and ranges."""
    engine = unprivileged_engine
    if shutil.which("newuidmap") is None:
        pytest.skip("needs newuidmap, of the package uidmap")
    uid = engine.caller.uid
    files = {"subuid": f"{uid}:200000:70000\n", "subgid": f"{uid}:200000:70000\n"}
    files["passwd"] = Path("/etc/passwd").read_text() + f"tested:x:{uid}:{uid}::/:/bin/sh\n"
    script = ""
    for name, text in files.items():
        engine.write(engine.directory / name, text.encode())
        (engine.directory / name).chmod(0o644)
        os.chown(engine.directory / name, 0, 0)
        Path("/etc", name).touch(exist_ok=True)
        script += f'mount --bind "{engine.directory / name}" /etc/{name} || exit 99; '
    bundle = engine.shell("ls -ln /theirs; exit 42")
    theirs = bundle / "rootfs" / "theirs"
    theirs.write_text("")
    os.chown(theirs, 200000 + 999, 200000 + 999)  # uid 1000 of the container
    container_id = engine.new_id()
    become = ["setpriv", f"--reuid={uid}", f"--regid={engine.caller.gid}", "--clear-groups"]
    command = [*become, *engine.run_command(bundle, "--id", container_id, "--require-exec-policy")]
    finished = engine.finish(
        engine.start(
            ["unshare", "--mount", "sh", "-c", f'{script}exec "$@"', "sh", *command], as_caller=False
        )
    )
    assert finished.code == 42, finished
    assert finished.stdout.decode().split()[2:4] == ["1000", "1000"]
    assert _policy(engine, container_id)["ids"] == "subordinate"


# --- Where it cannot be had -----------------------------------------------------------------------------------


def _where_user_namespaces_are_forbidden(engine: Engine, *options: str) -> tuple[str, list[str]]:
    """The id of a container, and the command that runs it where no further user namespace can be made."""
    container_id = engine.new_id()
    command = engine.run_command(engine.shell("exit 42"), "--id", container_id, *options)
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    return container_id, ["unshare", "--map-root-user", "--mount", "sh", "-c", forbid, "sh", *command]


FORBIDDEN = "user.max_user_namespaces = 0"


def test_required_policy_without_user_namespaces_is_refused(
    unprivileged_engine: Engine,
) -> None:
    container_id, command = _where_user_namespaces_are_forbidden(unprivileged_engine, "--require-exec-policy")
    line = unprivileged_engine.finish(unprivileged_engine.start(command)).refusal()
    assert line.startswith("engine: apply_policy: ")
    assert FORBIDDEN in line
    assert line.endswith("; sysctl user.max_user_namespaces=10000")
    error = unprivileged_engine.trace(container_id)[-1]["error"]
    assert error["reason"] == "policy_not_enforced"
    moves = [move["trigger"] for move in unprivileged_engine.trace(container_id)[1:]]
    assert moves == ["resolve", "validate", "secure_root", "stage", "refuse"]


def test_without_that_demand_the_run_goes_on_and_says_so(unprivileged_engine: Engine) -> None:
    container_id, command = _where_user_namespaces_are_forbidden(unprivileged_engine)
    finished = unprivileged_engine.finish(unprivileged_engine.start(command))
    warning, *_ = finished.stderr.splitlines()
    policy = _policy(unprivileged_engine, container_id)
    assert policy["outcome"] == "unavailable"
    assert FORBIDDEN in policy["reason"]
    assert warning.startswith(WARNING)
    assert policy["reason"] in warning


# --- What is tried from where the supervisor is ---------------------------------------------------------------


@contextlib.contextmanager
def _mounted_again(directory: Path) -> Iterator[str]:
    """Another mount of the directory, not beneath those that an attempt mounts."""
    with tempfile.TemporaryDirectory(prefix="ge-again-") as place:
        subprocess.run(["mount", "--bind", directory, place], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)


def _attempts(
    engine: Engine, *options: str, readonly: bool = True, name: str, on_set: Path | None = None
) -> dict[str, Any]:
    """What `attempts.py` found in the place of the supervisor; `on_set`: a runsc of several files, also on these."""
    busybox = static_busybox()
    assert busybox is not None
    bundle = engine.bundle(root={"path": "rootfs", "readonly": readonly}, name=name)
    script = engine.write(bundle / "rootfs" / "script", b"#!/bin/sh\n")
    script.chmod(0o755)
    attempt = engine.write(bundle / "rootfs" / "attempt", Path(busybox).read_bytes())
    attempt.chmod(0o755)
    os.link(attempt, bundle / "linked")
    program = engine.write(engine.directory / f"program-{name}", Path(busybox).read_bytes())
    program.chmod(0o755)
    scratch = engine.make_directory(f"scratch-{name}")
    source = engine.write(
        engine.directory / f"attempts-{name}.py", Path(__file__).with_name("attempts.py").read_bytes()
    )
    arguments = ["run", str(bundle), "--rootless", *options]
    environment, where = (
        {"ATTEMPTS_PROGRAM": str(program), "ATTEMPTS_SCRATCH": str(scratch)},
        bundle / "rootfs",
    )
    if on_set is not None:
        arguments += ["--runsc", str(on_set)]
        environment["ATTEMPTS_OTHER"], environment["ATTEMPTS_STORED"] = _names_of_the_prewarmer(
            engine, on_set
        )
        where = Path(environment["ATTEMPTS_STORED"]).parent
    with program.open("rb") as given, _mounted_again(bundle / "rootfs") as again:
        environment["ATTEMPTS_AGAIN"] = again
        process = engine.start(
            # Started by a shell of the caller's: whose process it is whose mounts and root are tried.
            ["sh", "-c", 'cd "$0"; "$@"; exit $?', str(where), engine.caller.python, str(source), *arguments],
            environment=environment,
            stdin=given,
        )
        finished = engine.finish(process)
    assert finished.code == 0, finished
    found: dict[str, Any] = json.loads(finished.stdout)
    assert found["answers"].keys() == ATTEMPTS.keys() | (ATTEMPTS_ON_A_SET.keys() if on_set else set())
    return found


def _names_of_the_prewarmer(engine: Engine, runsc: Path) -> tuple[str, str]:
    """Its path in the stage of another container, which lives, and its name in the store."""
    changed = max(path.stat().st_ctime_ns for path in (runsc, *(runsc.parent / "gvisor-bin").iterdir()))
    time.sleep(max(0, changed + SETTLED_NS - time.time_ns()) / 1e9)  # until then the store has no copy
    container_id = engine.new_id()
    engine.start_waiting(container_id, "--require-exec-policy", "--runsc", runsc)
    other = engine.staged(container_id).parent / "gvisor-bin" / PREWARMER
    (stored,) = (path for path in (engine.base / "staged").iterdir() if path.samefile(other))
    return str(other), str(stored)


@pytest.fixture(scope="module")
def columns() -> dict[str, Mapping[str, str]]:
    """The answers under each policy, as far as they were asked for."""
    return {}


def _ask(
    columns: dict[str, Mapping[str, str]], new_engine: Callable[[str], Engine]
) -> dict[str, Mapping[str, str]]:
    if not columns:
        user = new_engine("unprivileged")
        locked = ("--require-exec-policy",)
        columns["off"] = _attempts(user, "--exec-policy", "off", name="off")["answers"]
        columns["writable"] = _attempts(user, *locked, readonly=False, name="writable")["answers"]
        columns["sealed"] = _attempts(user, *locked, name="sealed")["answers"]
        columns["root"] = _attempts(new_engine("root"), *locked, name="root")["answers"]
    return columns


@pytest.fixture
def answers(
    needs_root: None,
    columns: dict[str, Mapping[str, str]],
    new_engine: Callable[[str], Engine],
    why_no_user_namespace: Callable[[], str | None],
) -> Mapping[str, Mapping[str, str]]:
    if why := why_no_user_namespace():
        pytest.skip(f"no unprivileged user namespaces: {why}")
    if not seccomp.is_known_machine():
        pytest.skip(f"nothing can be sealed on {os.uname().machine}")
    return _ask(columns, new_engine)


#: Under the locked mounts, with a root that the bundle has read-only, this much can still be executed.
STAYS_POSSIBLE = {"a_file_of_the_root", "a_file_in_memory", "standard_input"}
#: And this besides, where the container may write its root: what is new can be brought to execution anyway.
IF_THE_ROOT_IS_WRITABLE = {
    "a_file_written_to_the_root",
    "a_hard_link",
    "another_mount",
    "the_working_directory",
    "a_tmpfs",
    "a_tmpfs_remounted",
    "the_newer_mount_calls",
}


def test_supervisor_can_execute_nothing_of_the_host(
    answers: Mapping[str, Mapping[str, str]],
) -> None:
    for column in ("sealed", "root"):
        possible = {name for name, answer in answers[column].items() if answer == "runs"}
        assert possible <= STAYS_POSSIBLE
    possible = {name for name, answer in answers["writable"].items() if answer == "runs"}
    assert possible <= STAYS_POSSIBLE | IF_THE_ROOT_IS_WRITABLE


def test_without_a_policy_the_attempts_succeed_so_they_are_fair(
    answers: Mapping[str, Mapping[str, str]],
) -> None:
    """An attempt that fails anyway proves nothing. These need what no unprivileged caller has, or are no programs."""
    never = {"the_lock", "the_callers_mounts", "the_outer_user_namespace"}
    if (sysctl("kernel.yama.ptrace_scope") or "0") != "0":
        never.add("the_callers_shell")
    if sysctl("vm.memfd_noexec") == "2":
        never.add("a_file_in_memory")
    if sysctl("dev.tty.legacy_tiocsti") == "0":
        never.add("the_callers_terminal")
    assert {name for name, answer in answers["off"].items() if answer != "runs"} == never


@pytest.fixture(scope="module")
def columns_on_a_set() -> dict[str, Mapping[str, str]]:
    return {}


@pytest.fixture
def answers_on_a_set(
    answers: Mapping[str, Mapping[str, str]],
    columns_on_a_set: dict[str, Mapping[str, str]],
    new_engine: Callable[[str], Engine],
    standin: Installation,
) -> Mapping[str, Mapping[str, str]]:
    """The same, and the attempts on the files of the set, where runsc has several."""
    found = columns_on_a_set
    if not found:
        user = new_engine("unprivileged")
        for name, options, readonly in (
            ("off", ("--exec-policy", "off"), True),
            ("writable", ("--require-exec-policy",), False),
            ("sealed", ("--require-exec-policy",), True),
        ):
            found[name] = _attempts(user, *options, readonly=readonly, name=name, on_set=standin.runsc)[
                "answers"
            ]
    return found


#: What runsc itself executes by path.
THE_SET = {"a_sidecar", "the_staged_runsc"}


def test_nothing_but_the_files_of_a_set_becomes_executable(
    answers: Mapping[str, Mapping[str, str]], answers_on_a_set: Mapping[str, Mapping[str, str]]
) -> None:
    for column in ("writable", "sealed"):
        found = answers_on_a_set[column]
        possible = {name for name in ATTEMPTS_ON_A_SET if found[name] == "runs"}
        assert possible == THE_SET, found
        same = [name for name in ATTEMPTS if name != "the_working_directory"]  # which is the store
        assert {name: found[name] for name in same} == {name: answers[column][name] for name in same}


def test_without_a_policy_the_attempts_on_a_set_succeed(
    answers_on_a_set: Mapping[str, Mapping[str, str]],
) -> None:
    found = {name: answers_on_a_set["off"][name] for name in ATTEMPTS_ON_A_SET}
    assert set(found.values()) == {"runs"}, found


def _table(answers: Mapping[str, Mapping[str, str]], attempts: Mapping[str, str]) -> str:
    heads = {
        "off": "off",
        "writable": "locked mounts, root writable",
        "sealed": "locked mounts, root read-only",
        "root": "the same, by root",
    }
    shown = [column for column in heads if column in answers]
    lines = [f"| attempt | {' | '.join(heads[column] for column in shown)} |"]
    lines.append("|---" * (1 + len(shown)) + "|")
    for name, words in attempts.items():
        cells = [answers[column][name] for column in shown]
        lines.append(
            f"| {words} | {' | '.join('**runs**' if cell == 'runs' else f'`{cell}`' for cell in cells)} |"
        )
    return "\n".join(lines)


def test_the_documented_tables_are_what_the_kernel_answers(
    answers: Mapping[str, Mapping[str, str]], answers_on_a_set: Mapping[str, Mapping[str, str]]
) -> None:
    for name, usual in (
        ("vm.memfd_noexec", "0"),
        ("kernel.yama.ptrace_scope", "0"),
        ("dev.tty.legacy_tiocsti", "1"),
    ):
        if (value := sysctl(name) or usual) != usual:
            pytest.skip(f"{name} = {value}: more is closed here than on the page, which shows the default")
    found = re.findall(r"<!-- generated by .*? -->\n\n(.*?)\n\n<!-- end -->", PAGE.read_text(), re.DOTALL)
    tables = [_table(answers, ATTEMPTS), _table(answers_on_a_set, ATTEMPTS_ON_A_SET)]
    assert found == tables, "the page is to say:\n\n" + "\n\n".join(tables)


def test_the_running_runsc_is_where_the_attempts_were_made(
    needs_root: None, new_engine: Callable[[str], Engine], why_no_user_namespace: Callable[[], str | None]
) -> None:
    """The stock runsc has the very mounts, filters and capabilities that the attempts had."""
    if why := why_no_user_namespace():
        pytest.skip(f"no unprivileged user namespaces: {why}")
    engine = new_engine("unprivileged")
    tried = _attempts(engine, "--require-exec-policy", name="tried")
    bundle = engine.shell("echo ready; read line; exit 9", name="real")
    container_id = engine.new_id()
    process = engine.start_waiting(container_id, "--require-exec-policy", bundle=bundle)
    lines = Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()
    mounts = sorted([line.split()[4], line.split()[5]] for line in lines)

    def of_any_container(mounts: list[list[str]]) -> list[list[str]]:
        own = [
            (str(bundle.parent / "tried"), str(bundle)),
            (r"/(id-)?[0-9a-f]{32}", "/ID"),
            (r"/stage-[^/]+", "/S"),
        ]
        for pattern, name in own:
            mounts = [[re.sub(pattern, name, point), flags] for point, flags in mounts]
        return sorted(each for each in mounts if "/ge-again-" not in each[0])

    assert of_any_container(mounts) == of_any_container(tried["mounts"])
    executable = {point for point, flags in mounts if "noexec" not in flags.split(",")}
    assert executable == {str(bundle / "rootfs"), *_files_of_a_set(engine, container_id)}
    status = {key: status_of(process.pid, key) for key in ("NoNewPrivs", "CapEff")}
    assert status == {key: tried["status"][key] for key in status}
    assert int(status_of(process.pid, "Seccomp")) == int(tried["status"]["Seccomp"]) == 2
    # And from within those namespaces, entered by root: the host's programs are there, and cannot be executed.
    enter = ["nsenter", f"--target={process.pid}", "--user", "--mount", "--preserve-credentials", "/bin/true"]
    refused = engine.finish(engine.start(enter, as_caller=False))
    assert refused.code != 0
    assert "Permission denied" in refused.stderr
    assert engine.finish(process, b"\n").code == 9


def test_memfd_noexec_closes_the_last_way_and_runsc_runs(
    needs_root: None, new_engine: Callable[[str], Engine]
) -> None:
    """In a PID namespace of its own, as the setting is one of PID namespaces, memfd_create(2)."""
    if not Path("/proc/sys/vm/memfd_noexec").exists():
        pytest.skip("the kernel has no vm.memfd_noexec (Linux 6.3)")
    engine = new_engine("root")
    container_id = engine.new_id()
    command = engine.run_command(
        engine.shell("exit 42"), "--id", container_id, "--rootless", "--require-exec-policy"
    )
    setting = 'echo 2 >/proc/sys/vm/memfd_noexec && "$@"'
    isolated = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", setting, "sh", *command]
    finished = engine.finish(engine.start(isolated))
    assert finished.code == 42, finished
    assert "memfd" not in _policy(engine, container_id)["open"]
