"""A machine as Debian and Ubuntu boot it: /run is small and noexec. State lies there all the same, programs elsewhere.

Every test of managers runs so; these are of the engine's own commands, and of what such a machine's reboots leave.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.state.container import component
from engine.survey.busybox import static_busybox
from tests.managers.arena import TIMEOUT, Arena, Done, eventually
from tests.managers.conftest import nothing_is_left
from tests.managers.image import NAME
from tests.managers.podman import Podman
from tools.make_rootfs import make_rootfs

BASE = "/run/gvisor-engine"
PLACE = "/var/lib/gvisor-engine/programs"
TRACES = "/var/lib/gvisor-engine/traces"
OLD_BASE = "/run/nucleus-gvisor"


@pytest.fixture
def machine(arena: Arena, is_ours: bool) -> Iterator[Arena]:
    """The arena, in which nothing runs afterwards and no state or program is left but traces."""
    if not is_ours:
        pytest.skip("these are commands of the engine's own")
    before = arena.mounts()
    arena.run("rm", "-rf", BASE, PLACE, OLD_BASE).ok()
    yield arena
    arena.run("engine", "gc").ok()
    nothing_is_left(arena, before)
    assert everything_in(arena, BASE) - {"elsewhere"} == set()
    assert everything_in(arena, f"{BASE}/elsewhere") == set()
    assert everything_in(arena, PLACE) == set()


def everything_in(arena: Arena, path: str) -> set[str]:
    found = arena.run("sh", "-c", f"cd {path} 2>/dev/null && ls -A || true").ok()
    return set(found.split())


def inside(arena: Arena, path: str) -> Path:
    """Where this process sees a path of there."""
    return Path(f"/proc/{arena.init}/root{path}")


def bundle(arena: Arena, name: str, script: str) -> Path:
    path = arena.directory / name
    if not path.exists():
        path.mkdir()
        busybox = static_busybox()
        assert busybox is not None, "./just setup installs a static busybox"
        make_rootfs(str(path / "rootfs"), busybox)
    process = {"cwd": "/", "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"]}
    process["user"] = {"uid": 0, "gid": 0}  # type: ignore[assignment]
    config = {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": process,
        "linux": {
            "cgroupsPath": f"/{arena.name}/{name}",
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
        },
    }
    (path / "config.json").write_text(json.dumps(config))
    return path


def created(
    arena: Arena, container: str, *, prefix: tuple[str, ...] = (), script: str = "sleep 1000"
) -> None:
    path = bundle(arena, f"bundle-{container}", script)
    arena.run(*prefix, "engine-oci", "--ignore-cgroups", "create", "--bundle", path, container).ok()


def status(arena: Arena, container: str, *prefix: str) -> str:
    state: str = json.loads(arena.run(*prefix, "engine-oci", "state", container).ok())["status"]
    return state


def after_a_boot(arena: Arena) -> tuple[str, ...]:
    """What makes a command believe that the machine was booted anew."""
    file = arena.directory / "boot-id"
    file.write_text("01234567-89ab-cdef-0123-456789abcdef\n")
    return (
        *("unshare", "--mount", "sh", "-euc"),
        f'mount --bind {file} /proc/sys/kernel/random/boot_id; exec "$@"',
        "sh",
    )


def test_a_run_leaves_its_trace_and_its_program_where_a_reboot_clears_neither(machine: Arena) -> None:
    path = bundle(machine, "runs", "echo said; exit 7")
    done = machine.run("engine", "run", path, "--id", "runs")
    assert (done.code, done.stdout) == (7, "said\n")
    planned = machine.run("engine", "run", path, "--id", "runs", "--dry-run", "--json").ok()
    assert json.loads(planned)["argv"][0] == f"{PLACE}/stage-*/runsc"
    (trace,) = inside(machine, TRACES).glob("runs-*.jsonl")
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    facts = {line.get("trigger"): line.get("facts") for line in lines}
    assert facts["secure_root"]["programs"]["path"] == PLACE
    assert re.fullmatch(rf"{PLACE}/stage-[0-9a-f]{{32}}-[0-9a-f]{{16}}/runsc", facts["stage"]["path"])
    assert facts["exec"]["argv"][0] == facts["stage"]["path"]
    verified = machine.run("engine", "trace", "verify", f"{TRACES}/{trace.name}")
    assert "conforms" in verified.ok()
    assert sum(file.stat().st_size for file in inside(machine, BASE).rglob("*") if file.is_file()) < 20_000


def test_a_refused_run_leaves_neither_a_program_nor_a_name_of_one(machine: Arena) -> None:
    path = bundle(machine, "refused", "true")
    done = machine.run("engine", "run", path, "--id", "refused", "--require-exec-policy")
    assert done.code == 125
    assert everything_in(machine, f"{BASE}/{component('refused')}") == set()
    (trace,) = inside(machine, TRACES).glob("refused-*.jsonl")
    assert json.loads(trace.read_text().splitlines()[-1])["next"] == "refused"
    assert everything_in(machine, PLACE) == set()


def test_every_verb_finds_a_container_and_its_program(machine: Arena) -> None:
    created(machine, "verbs")
    assert status(machine, "verbs") == "created"
    assert machine.run("engine", "gc").ok() == f"alive, left: {BASE}/{component('verbs')}\n"
    machine.run("engine-oci", "start", "verbs").ok()
    machine.run("engine-oci", "exec", "verbs", "/bin/true").ok()
    assert "verbs" in machine.run("engine-oci", "list", "--quiet").ok()
    machine.run("engine-oci", "kill", "verbs", "KILL").ok()
    eventually("its end", lambda: status(machine, "verbs") == "stopped")
    machine.run("engine-oci", "delete", "verbs").ok()
    assert everything_in(machine, PLACE) == set()


@pytest.mark.parametrize("prefix", [(), ("env", "ENGINE_ARTIFACT_BASE={}/chosen")], ids=["default", "chosen"])
def test_verbs_that_are_given_no_variable_find_what_create_made(
    machine: Arena, prefix: tuple[str, ...]
) -> None:
    given = tuple(part.format(machine.directory) for part in prefix)
    created(machine, "unset", prefix=given)
    machine.run("engine-oci", "start", "unset").ok()
    assert status(machine, "unset") == "running"
    assert machine.run("engine-oci", "list", "--quiet").ok() == "unset\n"
    machine.run("engine-oci", "delete", "--force", "unset").ok()
    assert everything_in(machine, f"{BASE}/elsewhere") == set()
    machine.run("rm", "-rf", f"{BASE}/elsewhere").ok()
    assert machine.run("engine-oci", "state", "unset").code == 1


def test_podman_that_is_given_a_base_starts_stops_and_removes(podman: Podman, machine: Arena) -> None:
    chosen = f"ENGINE_ARTIFACT_BASE={machine.directory}/podmans"
    run = podman.command("run", *podman.of_container("--network=none", "--detach"), NAME, "sleep", "1000")
    container = machine.run("env", chosen, *run).ok().strip()
    assert podman.status(container) == "running"
    podman("stop", "--time=0", container).ok()
    podman("start", container).ok()
    podman("rm", "--force", "--time=0", container).ok()
    machine.run("rm", "-rf", f"{BASE}/elsewhere").ok()


def test_a_root_of_a_managers_that_is_noexec_has_state_alone(machine: Arena) -> None:
    root = "--root=/run/containerd/gvisor"
    path = bundle(machine, "rooted", "exit 3")
    assert machine.run("engine-oci", root, "run", "--bundle", path, "rooted").code == 3
    machine.run("engine-oci", root, "create", "--bundle", path, "rooted").ok()
    assert len(everything_in(machine, PLACE)) == 2  # the stage directory and the store
    machine.run("engine-oci", root, "delete", "--force", "rooted").ok()
    assert everything_in(machine, PLACE) == set()


def test_nothing_can_be_executed_anywhere_and_the_hint_works(machine: Arena) -> None:
    path = bundle(machine, "nowhere", "exit 5")
    noexec = (
        f'mkdir -p {PLACE}; chmod 700 {PLACE}; mount -t tmpfs -o noexec,mode=0700 none {PLACE}; exec "$@"'
    )
    nowhere = ("unshare", "--mount", "sh", "-euc", noexec, "sh")
    done = machine.run(*nowhere, "engine", "run", path, "--id", "nowhere")
    assert (done.code, done.stdout) == (125, "")
    assert "is on a file system that is mounted noexec; " in done.stderr
    assert done.stderr.endswith("ENGINE_ARTIFACT_BASE=DIR for engine run, --root DIR for engine-oci\n")
    elsewhere = f"{machine.directory}/exec"
    again = machine.run(*nowhere, "env", f"ENGINE_ARTIFACT_BASE={elsewhere}", "engine", "run", path)
    assert again.code == 5
    assert machine.run(*nowhere, "engine-oci", f"--root={elsewhere}", "run", "-b", path, "nowhere").code == 5


def test_after_a_boot_state_that_is_left_is_of_what_has_stopped(machine: Arena) -> None:
    created(machine, "survivor")
    machine.run("engine-oci", "start", "survivor").ok()
    bystander = machine.start("sleep", "1000")
    other = eventually(
        "a process of another's",
        lambda: next((pid for pid, program in machine.processes().items() if program == "sleep 1000"), None),
    )
    file = inside(machine, f"{BASE}/{component('survivor')}/runsc-root/survivor_sandbox:survivor.state")
    told = json.loads(file.read_text())
    for pid in (told["sandbox"]["pid"], told["goferPid"]):
        machine.run("kill", "-KILL", str(pid))  # the gofer may have ended with its sandbox
    # By now another process has the numbers.
    told["sandbox"]["pid"] = told["goferPid"] = other
    file.write_text(json.dumps(told))
    state = json.loads(machine.run(*after_a_boot(machine), "engine-oci", "state", "survivor").ok())
    assert (state["status"], state["pid"]) == ("stopped", 0)
    machine.run(*after_a_boot(machine), "engine-oci", "delete", "survivor").ok()
    assert other in machine.processes()
    assert everything_in(machine, PLACE) == set()
    machine.run("kill", "-KILL", str(other)).ok()
    bystander.wait(timeout=TIMEOUT)


def test_after_a_boot_without_state_the_programs_are_collected(machine: Arena) -> None:
    created(machine, "rebooted")
    machine.run("engine-oci", "start", "rebooted").ok()
    machine.run("engine-oci", "kill", "rebooted", "KILL").ok()
    eventually("its end", lambda: status(machine, "rebooted") == "stopped")
    machine.run("rm", "-rf", BASE).ok()
    (stage,) = (name for name in everything_in(machine, PLACE) if name != "staged")
    collected = machine.run(*after_a_boot(machine), "engine", "gc")
    assert collected.ok() == f"removed: {PLACE}/{stage}\n"
    assert everything_in(machine, PLACE) == set()


def test_a_live_containers_program_stays_though_its_state_is_gone(machine: Arena) -> None:
    """As at the last logout of a user who does not linger: /run/user/UID goes, and processes stay."""
    created(machine, "loggedout")
    machine.run("engine-oci", "start", "loggedout").ok()
    pid = json.loads(machine.run("engine-oci", "state", "loggedout").ok())["pid"]
    machine.run("rm", "-rf", BASE).ok()
    staged = everything_in(machine, PLACE)
    assert machine.run("engine", "gc").ok() == ""
    assert everything_in(machine, PLACE) == staged
    machine.run("kill", "-KILL", str(pid)).ok()
    eventually("its end", lambda: pid not in machine.processes())
    eventually("its programs are collected", lambda: machine.run("engine", "gc").ok() != "")
    assert everything_in(machine, PLACE) == set()


def test_what_an_older_engine_left_is_found_and_what_is_the_published_ones_is_not_touched(
    machine: Arena,
) -> None:
    machine.run("mkdir", "-m", "0700", f"{OLD_BASE}").ok()
    machine.run("mount", "-t", "tmpfs", "-o", "mode=0700", "none", OLD_BASE).ok()
    try:
        created(machine, "older", prefix=("env", f"ENGINE_ARTIFACT_BASE={OLD_BASE}"))
        machine.run("rm", "-rf", f"{BASE}/elsewhere").ok()
        published = f"{OLD_BASE}/{'ab' * 16}/runsc-root"
        machine.run("mkdir", "-p", "-m", "0700", published).ok()
        assert status(machine, "older") == "created"
        assert machine.run("engine-oci", "list", "--quiet").ok() == "older\n"
        said = machine.run("engine", "gc").ok().splitlines()
        assert said == [
            f"alive, left: {OLD_BASE}/{component('older')}",
            f"not the engine's, left: {OLD_BASE}/{'ab' * 16}",
        ]
        assert inside(machine, published).is_dir()
        machine.run("engine-oci", "start", "older").ok()
        machine.run("engine-oci", "kill", "older", "KILL").ok()
        eventually("its end", lambda: status(machine, "older") == "stopped")
        machine.run("engine-oci", "delete", "older").ok()
        taken = machine.run(
            "env",
            f"ENGINE_ARTIFACT_BASE={OLD_BASE}",
            *("engine", "run", bundle(machine, "taken", "true"), "--id", "ab" * 16),
        )
        assert taken.code == 125
        assert inside(machine, published).is_dir()
    finally:
        machine.run("umount", OLD_BASE).ok()
        machine.run("rmdir", OLD_BASE).ok()


def test_doctor_says_where_state_and_programs_lie(machine: Arena) -> None:
    parts = {part["name"]: part for part in json.loads(machine.run("engine", "doctor", "--json").ok())}
    assert parts["state"]["status"] == "ok"
    assert parts["programs"]["status"] == "ok"
    assert PLACE in parts["programs"]["found"]
    assert "noexec" in parts["state"]["found"]


def _doctor(machine: Arena, *prefix: str) -> Done:
    return machine.run(*prefix, "engine", "doctor", "--json")


def test_doctor_says_what_is_small_and_what_is_noexec(machine: Arena) -> None:
    noexec = f"mkdir -p {PLACE}; chmod 700 {PLACE}; mount -t tmpfs -o noexec,mode=0700 none {PLACE}; "
    small = f'mkdir -p -m 0700 {BASE}; mount -t tmpfs -o noexec,mode=0700,size=1m none {BASE}; exec "$@"'
    done = _doctor(machine, "unshare", "--mount", "sh", "-euc", noexec + small, "sh")
    assert done.code == 1, done  # no container can run
    parts = {part["name"]: part for part in json.loads(done.stdout)}
    assert parts["programs"]["status"] == "missing"
    assert "noexec" in parts["programs"]["found"]
    assert parts["state"]["status"] == "degraded"
    assert "1 MiB" in parts["state"]["found"]
