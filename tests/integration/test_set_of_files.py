"""A runsc of several files, as the engine runs it: what executes what, under which policy, and what is alive."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.linux import seccomp
from engine.traces.move import Strength
from tests.integration.oci_runtime import Oci
from tests.support.harness import WAIT, Engine, argv, executable, processes_about, status_of, wait_for
from tests.support.standin import SENTRY, Installation

FOREVER = "while :; do sleep 1000; done"
CONFINED = ("--rootless", "--require-exec-policy")


def facts_of(engine: Engine, container_id: str, step: str) -> dict[str, Any]:
    (facts,) = (move["facts"] for move in engine.trace(container_id)[1:] if move["trigger"] == step)
    return dict(facts)


def staged_files(engine: Engine, container_id: str) -> list[str]:
    """The paths of the container's staged files, runsc's first."""
    staged = facts_of(engine, container_id, "stage")
    return [staged["path"], *(sidecar["path"] for sidecar in staged["sidecars"])]


# --- engine run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), CONFINED, ("--rootless", "--exec-policy", "off")])
def test_container_of_a_set_runs_and_is_recorded(
    engine: Engine, standin: Installation, options: tuple[str, ...]
) -> None:
    container_id = engine.new_id()
    bundle = engine.shell("read line; echo out $line; exit 42")
    process = engine.start_run(bundle, "--id", container_id, "--runsc", standin.runsc, *options, stdin=-1)
    finished = engine.finish(process, b"in\n")
    assert (finished.code, finished.stdout, finished.said_by_container) == (42, b"out in\n", ""), finished
    files = staged_files(engine, container_id)
    assert sorted(Path(path).name for path in files) == sorted(path.name for path in standin.files)
    policy = facts_of(engine, container_id, "apply_policy")
    enforced = options == CONFINED or (options == () and not engine.caller.is_root)
    assert (policy["outcome"] == "enforced") is enforced
    assert policy["allowed"] == ([str(bundle / "rootfs"), *files] if enforced else [])


@pytest.mark.parametrize("readonly", [True, False])
def test_policy_lets_exactly_the_set_be_executed(
    engine: Engine, standin: Installation, readonly: bool
) -> None:
    container_id = engine.new_id()
    bundle = engine.shell(WAIT, root={"path": "rootfs", "readonly": readonly})
    process = engine.start_waiting(container_id, *CONFINED, "--runsc", standin.runsc, bundle=bundle)
    lines = [line.split() for line in Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()]
    executable_mounts = {line[4] for line in lines if "noexec" not in line[5].split(",")}
    files = staged_files(engine, container_id)
    assert executable_mounts == {str(bundle / "rootfs"), *files}
    flags = {line[4]: line[5].split(",") for line in lines}
    assert all("ro" in flags[path] for path in (*files, str(engine.base)))
    assert "rw" in flags[str(engine.container(container_id) / "runsc-root")]
    sealed = readonly and seccomp.is_known_machine()
    strength = facts_of(engine, container_id, "apply_policy")["strength"]
    assert strength == (Strength.SEALED if sealed else Strength.HOST)
    assert int(status_of(process.pid, "Seccomp")) == (2 if seccomp.is_known_machine() else 0)
    assert engine.finish(process, b"\n").code == 9


@pytest.mark.parametrize("options", [(), CONFINED])
def test_sandbox_executes_the_staged_sentry(
    engine: Engine, standin: Installation, options: tuple[str, ...]
) -> None:
    container_id = engine.new_id()
    process = engine.start_waiting(container_id, *options, "--runsc", standin.runsc)
    own = {path: os.stat(path) for path in staged_files(engine, container_id)}
    runsc, sentry = (next(path for path in own if path.endswith(f"/{name}")) for name in ("runsc", SENTRY))
    pids = processes_about(engine.directory)
    (sandbox,) = (pid for pid in pids if argv(pid)[0] == "runsc-sandbox")
    assert os.path.samestat(os.stat(f"/proc/{sandbox}/exe"), own[sentry])
    for pid in pids:
        if pid != sandbox:
            assert os.path.samestat(os.stat(f"/proc/{pid}/exe"), own[runsc]), argv(pid)
    assert engine.finish(process, b"\n").code == 9


@pytest.mark.parametrize("options", [(), CONFINED])
def test_set_is_found_where_the_callers_mount_namespace_ends_with_it(
    needs_root: None,
    new_engine: Callable[[str], Engine],
    standin: Installation,
    who: str,
    options: tuple[str, ...],
) -> None:
    """As that of a service may: what runsc was opened on is then no mount of any namespace any more."""
    engine = new_engine(who)
    engine.base.mkdir(mode=0o700)
    owner = f"mode=700,uid={engine.caller.uid},gid={engine.caller.gid}"
    command = engine.run_command(
        engine.shell("exit 42"), "--id", engine.new_id(), "--runsc", standin.runsc, *options
    )
    become = ["setpriv", f"--reuid={engine.caller.uid}", f"--regid={engine.caller.gid}", "--clear-groups"]
    script = f'mount -t tmpfs -o {owner} tmpfs "{engine.base}" && exec "$@"'
    finished = engine.finish(
        engine.start(["unshare", "--mount", "sh", "-c", script, "sh", *become, *command], as_caller=False)
    )
    assert finished.code == 42, finished


def test_gc_leaves_a_living_set_and_takes_a_dead_one(engine: Engine, standin: Installation) -> None:
    for options in ((), CONFINED):
        container_id = engine.new_id()
        process = engine.start_waiting(container_id, *options, "--runsc", standin.runsc)
        assert engine.call("gc").stdout.decode() == f"alive, left: {engine.container(container_id)}\n"
        (sandbox,) = (pid for pid in processes_about(engine.directory) if argv(pid)[0] == "runsc-sandbox")
        assert executable(sandbox) is not None
        process.kill()
        engine.finish(process)
        wait_for("the end of the sandbox", lambda: executable(sandbox) is None)  # noqa: B023
        collected = engine.call("gc")
        assert (collected.code, collected.stdout.decode()) == (
            0,
            f"removed: {engine.container(container_id)}\n",
        )
        assert engine.leftovers() == []


def test_what_is_bound_without_inner_mounts_is_told(engine: Engine, standin: Installation) -> None:
    """The kernel would refuse runsc that mount, as the engine's own lie beneath it."""
    mounts = [{"destination": "/a", "type": "bind", "source": str(engine.directory), "options": ["bind"]}]
    bundle = engine.shell("exit 42", mounts=mounts)
    (bundle / "rootfs" / "a").mkdir()
    options = (*CONFINED, "--runsc", standin.runsc)
    assert str(engine.directory) in engine.run(bundle, *options).refusal()
    mounts[0]["options"] = ["rbind"]
    other = engine.shell("exit 42", mounts=mounts, name="other")
    (other / "rootfs" / "a").mkdir()
    assert engine.run(other, *options).code == 42


# --- engine-oci ------------------------------------------------------------------------------------------------


@pytest.fixture
def oci(root_engine: Engine, standin: Installation) -> Oci:
    return Oci(root_engine, (f"--runsc={standin.runsc}",))


def sandbox_of(oci: Oci, container_id: str) -> int:
    state = oci.state(container_id)
    assert state is not None
    pid = int(state["pid"])
    assert Path(executable(pid) or "").name == SENTRY
    return pid


def test_every_verb_takes_the_sentry_for_the_sandbox(oci: Oci) -> None:
    container_id = oci.create(oci.engine.shell(FOREVER))
    assert oci.status(container_id) == "created"
    sandbox_of(oci, container_id)
    oci.ok("start", container_id)
    sandbox = sandbox_of(oci, container_id)
    assert f"{container_id} " in oci.ok("list")
    assert "running" in oci.ok("list")
    oci.ok("pause", container_id)
    assert oci.status(container_id) == "paused"
    oci.ok("resume", container_id)
    assert oci.ok("exec", container_id, "/bin/sh", "-c", "echo hello") == "hello\n"
    assert "sh" in oci.ok("ps", container_id)
    assert oci("delete", container_id).code != 0
    assert sandbox_of(oci, container_id) == sandbox
    oci.ok("kill", container_id, "KILL")
    oci.wait_for(container_id, "stopped")
    oci.ok("delete", container_id)
    assert oci.left(container_id) == []


def test_gc_leaves_a_managers_living_set(oci: Oci) -> None:
    container_id = oci.running(oci.engine.shell(FOREVER))
    collected = oci.engine.call("gc")
    assert collected.code == 0, collected
    assert f"alive, left: {oci.engine.container(container_id)}\n" in collected.stdout.decode()
    sandbox_of(oci, container_id)
    oci.is_gone_after_delete(container_id)


def test_sandbox_that_was_killed_is_stopped(oci: Oci) -> None:
    container_id = oci.running(oci.engine.shell(FOREVER))
    os.kill(sandbox_of(oci, container_id), signal.SIGKILL)
    oci.wait_for(container_id, "stopped")
    oci.is_gone_after_delete(container_id)


def test_checkpoint_of_a_set_is_restored(oci: Oci) -> None:
    container_id = oci.running(oci.engine.shell(FOREVER))
    image = oci.engine.make_directory("image")
    oci.ok("checkpoint", "--image-path", image, container_id)
    oci.ok("delete", "--force", container_id)
    again = oci.engine.new_id()
    oci.ok("restore", "--image-path", image, "--bundle", oci.engine.directory / "bundle", "--detach", again)
    sandbox_of(oci, again)
    oci.is_gone_after_delete(again)
