"""Clean-up executes no file that nobody judged, whatever lies in the place of the staged runsc by then."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Reason
from engine.runsc.installation import SIDECARS
from tests.integration.oci_runtime import Oci
from tests.support.harness import Engine, cgroups_of, processes_about, wait_for
from tests.support.standin import Installation

FOREVER = "while :; do sleep 1000; done"
WRITABLE = {"path": "rootfs", "readonly": False}
MEMBER = ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id")


@pytest.fixture
def oci(root_engine: Engine, of_each_layout: tuple[str, ...]) -> Oci:
    return Oci(root_engine, of_each_layout)


@pytest.fixture(params=["2022", "2024", "2024 rootless", "several files"])
def options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """By which `engine run` takes each kind of runsc; the oldest runs containers of root only with --rootless."""
    if request.param == "2022":
        old = request.getfixturevalue("old_runsc")
        return ("--rootless", "--platform", "ptrace", f"--runsc={old}")
    if request.param == "several files":
        installation: Installation = request.getfixturevalue("standin")
        return (f"--runsc={installation.runsc}",)
    return ("--rootless",) if "rootless" in request.param else ()


@pytest.fixture
def mark(root_engine: Engine) -> Path:
    """What a planted program makes."""
    return root_engine.directory / "mark"


def plant(engine: Engine, container_id: str, mark: Path) -> None:
    """Put another executable of root's in the place of each staged file of the container."""
    stages = list(engine.container(container_id).glob("runsc-root/exec-allow/stage-*"))
    assert stages
    for stage in stages:
        for path in (stage / "runsc", *(stage / SIDECARS).glob("*")):
            path.unlink()
            path.write_text(f"#!/bin/sh\ntouch {mark}\n")
            path.chmod(0o555)


def bundle_of(engine: Engine, name: str = "bundle", script: str = FOREVER, **changes: Any) -> Path:
    return engine.shell(script, name=name, root=WRITABLE, **changes)


def filestores(bundle: Path) -> list[str]:
    return [name for name in os.listdir(bundle / "rootfs") if name.startswith(".gvisor")]


def state_file(engine: Engine, container_id: str) -> Path:
    (path,) = (engine.container(container_id) / "runsc-root").glob("*.state")
    return path


def kill_all(about: Path) -> None:
    def is_over() -> bool:
        found = processes_about(about)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    wait_for("the end of every process", is_over)


def killed_run(
    engine: Engine, bundle: Path, options: tuple[str, ...], container_id: str | None = None
) -> str:
    """The id of a container of `engine run` whose supervisor was killed, and the container with it."""
    container_id = container_id or engine.new_id()
    run = engine.start_run(
        bundle, "--id", container_id, *options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for("runsc's file", lambda: runs(engine, container_id))
    run.kill()
    run.wait()
    wait_for("its end", lambda: not processes_about(engine.container(container_id)))
    return container_id


def runs(engine: Engine, container_id: str) -> bool:
    try:
        return bool(json.loads(state_file(engine, container_id).read_text())["status"] == "running")
    except ValueError:  # none yet, or being written
        return False


def nothing_is_left(oci: Oci, container_id: str, bundle: Path) -> None:
    assert oci.left(container_id) == []
    assert filestores(bundle) == []
    assert str(oci.engine.directory) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("verb", ["gc", "run", "create"])
def test_killed_run_is_cleaned_up_without_what_was_planted(
    root_engine: Engine, options: tuple[str, ...], mark: Path, verb: str
) -> None:
    oci = Oci(root_engine)
    bundle = bundle_of(root_engine)
    container_id = killed_run(root_engine, bundle, options)
    plant(root_engine, container_id, mark)
    short = bundle_of(root_engine, "short", "exit 3")
    if verb == "gc":
        collected = root_engine.call("gc")
        assert (collected.code, collected.stderr) == (0, "")
    elif verb == "run":
        assert root_engine.run(short, "--id", container_id, *options).code == 3
    else:
        oci.ok("create", "--bundle", short, container_id)
    assert not mark.exists()
    assert filestores(bundle) == []
    if verb == "create":
        oci.ok("delete", "--force", container_id)
    root_engine.call("gc")
    nothing_is_left(oci, container_id, bundle)


def test_clean_up_without_runsc_leaves_nothing(engine: Engine) -> None:
    """Also of a container beside whose files nobody planted anything."""
    bundle = bundle_of(engine)
    container_id = killed_run(engine, bundle, ())
    assert engine.call("gc").code == 0
    nothing_is_left(Oci(engine), container_id, bundle)
    assert engine.leftovers() == []


def test_control_socket_of_a_long_id_is_removed(root_engine: Engine, options: tuple[str, ...]) -> None:
    """runsc makes it elsewhere where the path of its root is too long for a socket."""
    bundle = bundle_of(root_engine)
    container_id = os.urandom(32).hex()
    root_engine.ids.append(container_id)
    killed_run(root_engine, bundle, options, container_id)
    assert root_engine.call("gc").code == 0
    nothing_is_left(Oci(root_engine), container_id, bundle)
    assert [str(path) for path in sockets(container_id)] == []


def sockets(container_id: str) -> Iterator[Path]:
    for directory in ("/run", "/var/run", "/tmp"):
        yield from Path(directory).glob(f"runsc-{container_id}*")


VERBS = (
    "delete",
    "start",
    "exec",
    "kill",
    "pause",
    "ps",
    "state",
    "events --stats",
)


def test_managers_container_is_deleted_without_what_was_planted(oci: Oci, mark: Path) -> None:
    bundle = bundle_of(oci.engine)
    container_id = oci.running(bundle)
    kill_all(oci.engine.container(container_id))
    plant(oci.engine, container_id, mark)
    oci.refused(1, Reason.PROGRAM_FAILED, "delete", container_id)
    for verb in VERBS:
        oci(*verb.split(), container_id, *(["/bin/true"] if verb == "exec" else []))
    assert oci.engine.call("gc").code == 0
    assert oci("create", "--bundle", bundle, container_id).code != 0
    assert oci.engine.run(bundle, "--id", container_id).code != 0
    assert not mark.exists()
    oci.ok("delete", "--force", container_id)
    assert not mark.exists()
    nothing_is_left(oci, container_id, bundle)


def test_living_container_is_not_asked_by_what_was_planted(oci: Oci, mark: Path) -> None:
    bundle = bundle_of(oci.engine)
    container_id = oci.running(bundle)
    plant(oci.engine, container_id, mark)
    for verb in VERBS:
        oci(*verb.split(), container_id, *(["/bin/true"] if verb == "exec" else []))
    assert not mark.exists()
    oci.ok("delete", "--force", container_id)
    assert not mark.exists()
    nothing_is_left(oci, container_id, bundle)


def test_damaged_record_is_deleted_without_what_was_planted(oci: Oci, mark: Path) -> None:
    bundle = bundle_of(oci.engine)
    container_id = oci.running(bundle)
    kill_all(oci.engine.container(container_id))
    plant(oci.engine, container_id, mark)
    (oci.engine.container(container_id) / "oci.json").write_text("{")
    oci.engine.call("gc")
    assert not mark.exists()
    oci.ok("delete", "--force", container_id)
    assert not mark.exists()
    assert oci.left(container_id) == []
    assert filestores(bundle) == []


@pytest.mark.parametrize("verb", ["gc", "create", "run"])
def test_interrupted_creation_is_cleaned_up_without_what_was_planted(oci: Oci, mark: Path, verb: str) -> None:
    """runsc create was killed: nobody but gc and the next container of the id has to do with it."""
    bundle = bundle_of(oci.engine)
    container_id = oci.create(bundle)
    kill_all(oci.engine.container(container_id))
    is_being_created(state_file(oci.engine, container_id))
    plant(oci.engine, container_id, mark)
    short = bundle_of(oci.engine, "short", "exit 3")
    if verb == "gc":
        assert oci.engine.call("gc").code == 0
    elif verb == "run":
        assert oci.engine.run(short, "--id", container_id, *oci.common).code == 3
        assert oci.engine.call("gc").code == 0
    else:
        oci.ok("create", "--bundle", short, container_id)
        oci.ok("delete", "--force", container_id)
    assert not mark.exists()
    nothing_is_left(oci, container_id, bundle)


def is_being_created(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "creating"}))


@pytest.mark.parametrize("planted", [True, False], ids=["planted", "as recorded"])
def test_interrupted_member_leaves_its_living_sandbox(oci: Oci, mark: Path, planted: bool) -> None:
    """Only the recorded copy of runsc may have the sandbox forget it."""
    engine = oci.engine
    sandbox = oci.running(bundle_of(engine, "sandbox", annotations={MEMBER[0]: "sandbox"}))
    annotations = dict(zip(MEMBER, ("container", sandbox), strict=True))
    bundle = bundle_of(engine, "member", annotations=annotations)
    member = oci.create(bundle)
    kill_all(bundle)  # its gofer
    path = engine.container(sandbox) / "runsc-root" / f"{member}_sandbox:{sandbox}.state"
    is_being_created(path)
    if planted:
        plant(engine, member, mark)
    assert engine.call("gc").code == 0
    assert not mark.exists()
    assert oci.status(sandbox) == "running"
    assert not path.exists()
    assert oci.left(member) == []
    assert filestores(bundle) == []
    if not planted:  # its sandbox knows it no more
        oci.create(bundle, member)
        oci.ok("start", member)
        oci.ok("delete", "--force", member)
    oci.ok("delete", "--force", sandbox)
    nothing_is_left(oci, sandbox, bundle)
    assert cgroups_of(member) == []
