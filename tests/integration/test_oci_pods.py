"""Pods: containers that live in another's sandbox, as containerd, cri-o and podman annotate them."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Reason
from engine.runsc.installation import SIDECARS
from engine.state.gc import collect
from engine.state.store import SETTLED_NS, STORE
from engine.verify.trace_check import verify
from tests.integration.oci_runtime import Oci
from tests.support.harness import Engine, cgroups_of, wait_for

FOREVER = "while :; do sleep 1000; done"
CONTAINERD = ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id")
CRI_O = ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID")


@pytest.fixture
def oci(root_engine: Engine, of_each_layout: tuple[str, ...]) -> Oci:
    return Oci(root_engine, of_each_layout)


_NAMES = itertools.count()


def shell(oci: Oci, script: str) -> Path:
    return oci.engine.shell(script, name=f"bundle-{next(_NAMES)}")


def annotated(bundle: Path, **annotations: str) -> Path:
    path = bundle / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "annotations": annotations}))
    return bundle


def sandbox_bundle(oci: Oci) -> Path:
    return annotated(shell(oci, FOREVER), **{CONTAINERD[0]: "sandbox"})


def member_bundle(oci: Oci, sandbox: str, script: str = FOREVER, keys: tuple[str, str] = CONTAINERD) -> Path:
    return annotated(shell(oci, script), **dict(zip(keys, ("container", sandbox), strict=True)))


def state(oci: Oci, container_id: str) -> dict[str, Any] | None:
    finished = oci("state", container_id)
    return json.loads(finished.stdout) if finished.code == 0 else None


def status(oci: Oci, container_id: str) -> str | None:
    found = state(oci, container_id)
    return None if found is None else str(found["status"])


def is_there(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def facts(oci: Oci, container_id: str, trigger: str) -> dict[str, Any]:
    (trace,) = oci.traces(container_id)
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    found: dict[str, Any] = next(line["facts"] for line in lines if line.get("trigger") == trigger)
    return found


def only_traces_are_left(oci: Oci) -> None:
    assert {*os.listdir(oci.engine.base)} - {STORE} == {"traces"}
    paths = [str(path) for path in (oci.engine.base / "traces").glob("*.jsonl")]
    assert all(result.verdict.is_good for result in verify(paths))


@pytest.mark.parametrize("keys", [CONTAINERD, CRI_O], ids=["containerd", "cri-o"])
def test_a_member_lives_in_the_sandbox_that_its_annotation_names(oci: Oci, keys: tuple[str, str]) -> None:
    sandbox = oci.running(sandbox_bundle(oci))
    script = "echo out; echo err >&2; read line; echo got $line; exec sleep 1000"
    member, pid_file = oci.engine.new_id(), oci.engine.directory / "pid"
    bundle = member_bundle(oci, sandbox, script, keys)
    said, complained = oci.engine.directory / "said", oci.engine.directory / "complained"
    given, give = os.pipe()
    with said.open("wb") as out, complained.open("wb") as err:
        create = oci.start(
            "create",
            "--bundle",
            bundle,
            "--pid-file",
            pid_file,
            member,
            stdin=given,
            stdout=out,
            stderr=err,
        )
        assert create.wait(timeout=60) == 0
    os.close(given)
    assert status(oci, member) == "created"
    oci.ok("start", member)
    os.write(give, b"a line\n")
    os.close(give)
    wait_for("what it says where create said it", lambda: said.read_text() == "out\ngot a line\n")
    assert complained.read_text() == "err\n"
    running = state(oci, member)
    assert running is not None
    assert running["status"] == "running"
    assert running["pid"] == int(pid_file.read_text())
    assert is_there(running["pid"])
    assert oci.ok("exec", member, "sh", "-c", "echo inside") == "inside\n"

    root = str(oci.engine.container(sandbox) / "runsc-root")
    assert facts(oci, member, "exec")["argv"][1:3] == ["--root", root]
    joined = facts(oci, member, "secure_root")["sandbox"]
    assert (joined["id"], joined["directories"][1]["path"]) == (sandbox, root)
    assert joined["sha256"] == facts(oci, member, "stage")["sha256"]

    oci.ok("kill", member, "KILL")
    wait_for("the end of the member", lambda: status(oci, member) == "stopped")
    wait_for("the end of what stands for it", lambda: not is_there(running["pid"]))
    assert status(oci, sandbox) == "running"
    oci.ok("delete", member)
    assert status(oci, member) is None
    assert status(oci, sandbox) == "running"
    oci.ok("delete", "--force", sandbox)
    only_traces_are_left(oci)


def test_members_that_only_name_their_sandbox_share_its_loopback(oci: Oci) -> None:
    """podman 5 annotates so; and its sandbox with the id of the pod, which is no container's."""
    sandbox = oci.running(annotated(shell(oci, FOREVER), **{CRI_O[1]: "the-pod"}))
    serves = "echo page > /tmp/page; while :; do nc -l -p 8080 < /tmp/page; done"
    server, asks = (
        annotated(shell(oci, script), **{CRI_O[1]: sandbox})
        for script in (
            serves,
            "until nc 127.0.0.1 8080 < /dev/null > /tmp/got; do sleep 0.1; done; exec sleep 1000",
        )
    )
    members = [oci.running(server), oci.running(asks)]
    wait_for("the page", lambda: oci("exec", members[1], "cat", "/tmp/got").stdout == b"page\n")
    added = {CRI_O[0]: "container"}
    for member in members:
        assert facts(oci, member, "exec")["config"]["changes"]["annotations"] == added
        found = state(oci, member)
        assert found is not None
        assert CRI_O[0] not in found["annotations"]
        assert found["bundle"] != facts(oci, member, "exec")["argv"][-2]
    assert "annotations" not in facts(oci, sandbox, "exec")["config"]["changes"]
    for each in (*members, sandbox):
        oci.ok("delete", "--force", each)
    only_traces_are_left(oci)


def test_a_sandbox_lies_in_the_cgroup_of_its_pod(oci: Oci) -> None:
    """Its pause container's has two CPU shares: there the whole pod would starve."""
    pod = f"parent-{oci.engine.new_id()}/pod1f"
    namespaces = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]
    linux = {"namespaces": namespaces, "cgroupsPath": f"/{pod}/pause"}
    bundle = oci.engine.shell(FOREVER, name=f"bundle-{next(_NAMES)}", linux=linux)
    sandbox = oci.running(annotated(bundle, **{CONTAINERD[0]: "sandbox"}))
    running = state(oci, sandbox)
    assert running is not None
    lies = [line.split(":", 2)[2] for line in Path(f"/proc/{running['pid']}/cgroup").read_text().splitlines()]
    assert any(path.endswith(f"/{pod}") for path in lies)
    assert not any(path.endswith("/pause") for path in lies)
    assert facts(oci, sandbox, "exec")["config"]["changes"]["annotations"] == {
        "dev.gvisor.spec.cgroup-parent": f"/{pod}"
    }
    assert running["annotations"].keys() & {"dev.gvisor.spec.cgroup-parent"} == set()
    oci.ok("delete", "--force", sandbox)
    assert cgroups_of(pod.partition("/")[0]) == []
    only_traces_are_left(oci)


def test_member_that_ends_is_stopped_while_its_sandbox_runs(oci: Oci) -> None:
    sandbox = oci.running(sandbox_bundle(oci))
    member = oci.running(member_bundle(oci, sandbox, "exit 3"))
    wait_for("the end of the member", lambda: status(oci, member) == "stopped")
    assert status(oci, sandbox) == "running"
    oci.ok("kill", "--all", member, "KILL")
    oci.refused(1, Reason.WRONG_STATE, "kill", member, "KILL")
    oci.ok("delete", member)
    oci.ok("delete", "--force", sandbox)
    only_traces_are_left(oci)


def test_sandbox_ends_members_and_keeps_its_directory_for_them(oci: Oci) -> None:
    bundle = sandbox_bundle(oci)
    sandbox = oci.running(bundle)
    started, created = oci.running(member_bundle(oci, sandbox)), oci.create(member_bundle(oci, sandbox))
    oci.ok("kill", sandbox, "KILL")
    ended = ["stopped"] * 3
    wait_for("the end of all", lambda: [status(oci, one) for one in (sandbox, started, created)] == ended)
    oci.refused(1, Reason.WRONG_STATE, "kill", "--all", started, "KILL")
    oci.ok("delete", sandbox)
    assert status(oci, sandbox) is None
    assert (oci.engine.container(sandbox) / "runsc-root").exists()
    assert collect({"ENGINE_ARTIFACT_BASE": str(oci.engine.base)}).removed == ()
    oci.refused(125, Reason.KEPT, "create", "--bundle", bundle, sandbox, facts=[repr(started)])
    assert status(oci, started) == "stopped"
    oci.ok("delete", started)
    assert oci.engine.container(sandbox).exists()
    oci.ok("delete", created)
    only_traces_are_left(oci)


def test_monitor_ends_with_a_sandbox_killed_before_the_start(oci: Oci) -> None:
    sandbox = oci.running(sandbox_bundle(oci))
    member, pid_file = oci.engine.new_id(), oci.engine.directory / "pid"
    oci.ok("create", "--bundle", member_bundle(oci, sandbox), "--pid-file", pid_file, member)
    monitor = int(pid_file.read_text())
    assert is_there(monitor)
    oci.ok("kill", sandbox, "KILL")
    wait_for("the end of the monitor", lambda: not is_there(monitor))
    oci.ok("delete", member)
    oci.ok("delete", sandbox)
    only_traces_are_left(oci)


def test_pods_started_in_a_row_hold_one_copy(oci: Oci) -> None:
    files = 1
    if oci.common:
        installed = Path(oci.common[0].removeprefix("--runsc=")).parent
        made = [file.stat().st_ctime_ns for file in (installed / "runsc", *(installed / SIDECARS).iterdir())]
        files = len(made)
        wait_for("an age at which it is shared", lambda: time.time_ns() - max(made) > SETTLED_NS)
    kept = set()
    for _ in range(4):
        sandbox = oci.running(sandbox_bundle(oci))
        members = [oci.running(member_bundle(oci, sandbox)) for _ in range(2)]
        staged = [oci.engine.staged(one) for one in (sandbox, *members)]
        assert len({path.stat().st_ino for path in staged}) == 1
        kept.add(staged[0].stat().st_ino)
        for one in (*members, sandbox):
            oci.ok("delete", "--force", one)
    assert len(kept) == 1
    copies = [path for path in (oci.engine.base / STORE).iterdir() if path.suffix != ".json"]
    assert len({path.stat().st_ino for path in copies}) == len(copies) == files
    only_traces_are_left(oci)


def test_what_is_no_live_sandbox_of_ours_is_not_joined(oci: Oci, tmp_path: Path) -> None:
    sandbox = oci.running(sandbox_bundle(oci))
    member = oci.create(member_bundle(oci, sandbox))
    dead = oci.running(sandbox_bundle(oci))
    oci.ok("kill", dead, "KILL")
    wait_for("the end of the sandbox", lambda: status(oci, dead) == "stopped")
    unnamed = annotated(shell(oci, FOREVER), **{CONTAINERD[0]: "container"})
    odd = annotated(shell(oci, FOREVER), **{CONTAINERD[0]: "pod"})
    for bundle, reason, facts in (
        (member_bundle(oci, "unheard-of"), Reason.NO_SANDBOX, ["'unheard-of'"]),
        (member_bundle(oci, member), Reason.NO_SANDBOX, [repr(member), repr(sandbox)]),
        (member_bundle(oci, dead), Reason.NO_SANDBOX, [repr(dead), "stopped"]),
        (unnamed, Reason.POD_ANNOTATION, []),
        (odd, Reason.POD_ANNOTATION, ["io.kubernetes.cri.container-type", "'pod'"]),
    ):
        container_id = oci.engine.new_id()
        oci.refused(125, reason, "create", "--bundle", bundle, container_id, facts=facts)
        assert oci.left(container_id) == []
    for one in (member, sandbox, dead):
        oci.ok("delete", "--force", one)
    only_traces_are_left(oci)


def test_a_member_runs_the_very_runsc_that_its_sandbox_runs(oci: Oci) -> None:
    sandbox = oci.running(sandbox_bundle(oci))
    other = oci.engine.directory / "runsc"
    own = next((oci.engine.container(sandbox) / "runsc-root").glob("exec-allow/*/runsc"))
    other.write_bytes(own.read_bytes() + b"another")
    other.chmod(0o755)
    if (sidecars := own.with_name(SIDECARS)).exists():
        shutil.copytree(sidecars, other.with_name(SIDECARS))
    container_id = oci.engine.new_id()
    newer = Oci(oci.engine, (f"--runsc={other}",))
    arguments = ("create", "--bundle", member_bundle(oci, sandbox), container_id)
    newer.refused(125, Reason.OTHER_RUNSC, *arguments, facts=[repr(sandbox)])
    assert oci.left(container_id) == []
    oci.ok("delete", "--force", sandbox)
    only_traces_are_left(oci)


def test_member_killed_in_create_leaves_what_delete_removes(oci: Oci) -> None:
    sandbox = oci.running(sandbox_bundle(oci))
    bundle = member_bundle(oci, sandbox)
    for at in itertools.count(2, 4):
        container_id = oci.engine.new_id()
        ended = oci("create", "--bundle", bundle, container_id, killed_at=at)
        if ended.code == 0:
            break
        assert ended.code in (-signal.SIGKILL, 128 + signal.SIGKILL), ended
        state(oci, container_id)
        oci.ok("delete", "--force", container_id)
        assert not oci.engine.container(container_id).exists()
        assert status(oci, sandbox) == "running"
    assert at > 10
    oci.ok("delete", "--force", container_id)
    oci.ok("delete", "--force", sandbox)
    only_traces_are_left(oci)
