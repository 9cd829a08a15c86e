"""Whatever is killed and whenever: no container is lost, none is left, and `state` says what is true."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from engine.state.store import STORE
from tests.integration.oci_runtime import Oci, kill
from tests.support.harness import TIMEOUT, Engine, executable, processes_about, wait_for

FOREVER = "while :; do sleep 1000; done"
#: How many containers are created and deleted at once, and in all. ENGINE_TEST_CHURN is for more.
CHURN = int(os.environ.get("ENGINE_TEST_CHURN", "12"))
#: Commands are killed before each third of their changes, and with ENGINE_TEST_EVERY_STEP=1 before each.
STRIDE = 1 if os.environ.get("ENGINE_TEST_EVERY_STEP") else 3


@pytest.fixture
def oci(root_engine: Engine) -> Oci:
    return Oci(root_engine)


@pytest.fixture
def oci_of_each(root_engine: Engine, of_each_layout: tuple[str, ...]) -> Oci:
    return Oci(root_engine, of_each_layout)


@pytest.fixture
def bundle(root_engine: Engine) -> Path:
    return root_engine.shell(FOREVER)


@pytest.mark.parametrize(("verb", "then"), [("create", "created"), ("restore", "running")])
def test_create_killed_anywhere_leaves_what_delete_removes(
    oci_of_each: Oci, bundle: Path, verb: str, then: str
) -> None:
    oci = oci_of_each
    options: tuple[str | Path, ...] = ()
    if verb == "restore":
        image = oci.engine.make_directory("image")
        first = oci.running(bundle)
        oci.ok("checkpoint", "--image-path", image, first)
        oci.is_gone_after_delete(first)
        options = ("--detach", "--image-path", image)
    for at in itertools.count(1, STRIDE):
        container_id = oci.engine.new_id()
        ended = oci(verb, *options, "--bundle", bundle, container_id, killed_at=at)
        if ended.code == 0:
            break
        assert ended.code in (-signal.SIGKILL, 128 + signal.SIGKILL), ended
        oci.is_gone_after_delete(container_id)
    assert at > 10
    assert oci.status(container_id) == then
    oci.is_gone_after_delete(container_id)


def test_delete_killed_anywhere_is_finished_by_the_next(oci_of_each: Oci, bundle: Path) -> None:
    oci = oci_of_each
    for at in itertools.count(1, STRIDE):
        container_id = oci.running(bundle) if at // STRIDE % 2 else oci.create(bundle)
        ended = oci("delete", "--force", container_id, killed_at=at)
        oci.is_gone_after_delete(container_id)
        if ended.code == 0:
            break
        assert ended.code == -signal.SIGKILL, ended
    assert at > 4


def test_delete_cut_short_inside_runsc_is_finished_by_the_next(oci: Oci, root_engine: Engine) -> None:
    """A killed runsc had removed the overlay's file; runsc then complains that it is gone."""
    bundle = root_engine.shell(FOREVER, name="written", root={"path": "rootfs", "readonly": False})
    container = oci.running(bundle)
    (overlay,) = (bundle / "rootfs").glob(".gvisor.filestore.*")
    oci.ok("kill", container, "KILL")
    oci.wait_for(container, "stopped")
    overlay.unlink()
    oci.ok("delete", container)
    assert oci.left(container) == []


def test_runsc_killed_in_create_leaves_what_delete_removes(oci_of_each: Oci, bundle: Path) -> None:
    oci = oci_of_each
    for milliseconds in (0, 10, 20, 30, 45, 60, 80):
        container_id = oci.engine.new_id()
        keeper = oci.start("create", "--bundle", bundle, container_id, stdout=subprocess.DEVNULL)
        creator = wait_for("runsc create", partial(_creator, keeper.pid, oci.engine.base), interval=0.001)
        time.sleep(milliseconds / 1000)
        with contextlib.suppress(ProcessLookupError):  # it is over sooner on some machines
            kill(creator)
        keeper.wait()
        if keeper.returncode == 0:
            assert oci.status(container_id) == "created"
        else:
            assert oci.left(container_id) == []  # the keeper took it away
        oci.is_gone_after_delete(container_id)


def _creator(keeper: int, base: Path) -> int | None:
    """The child of `keeper` that executes a staged runsc."""
    children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    return next((int(pid) for pid in children if str(base) in (executable(int(pid)) or "")), None)


def test_monitor_and_runsc_killed_leave_what_delete_removes(oci: Oci, bundle: Path) -> None:
    for milliseconds in (0, 30, 60):
        container_id = oci.engine.new_id()
        keeper = oci.start("create", "--bundle", bundle, container_id, stdout=subprocess.DEVNULL)
        wait_for("runsc create", partial(_creator, keeper.pid, oci.engine.base), interval=0.001)
        time.sleep(milliseconds / 1000)
        kill(keeper.pid)  # and the kernel kills its child
        keeper.wait()
        oci.is_gone_after_delete(container_id)


@pytest.mark.parametrize("verb", ["start", "pause", "exec"])
def test_runsc_killed_in_a_verb_leaves_a_deletable_container(oci: Oci, bundle: Path, verb: str) -> None:
    for milliseconds in (60, 80, 110):
        container_id = oci.create(bundle) if verb == "start" else oci.running(bundle)
        more = ["/bin/sleep", "100"] if verb == "exec" else []
        process = oci.start(verb, container_id, *more)
        time.sleep(milliseconds / 1000)
        process.kill()
        process.wait()
        oci.is_gone_after_delete(container_id)


@pytest.mark.parametrize(
    ("status", "part"), [("created", "boot"), ("running", "boot"), ("paused", "boot"), ("running", "gofer")]
)
def test_state_is_stopped_once_a_part_of_it_is_killed(
    oci_of_each: Oci, bundle: Path, status: str, part: str
) -> None:
    oci = oci_of_each
    container_id = oci.create(bundle)
    if status != "created":
        oci.ok("start", container_id)
    if status == "paused":
        oci.ok("pause", container_id)
    processes = processes_about(oci.engine.container(container_id))
    (pid,) = [pid for pid, line in processes.items() if f" {part} " in line]
    kill(pid)
    if part == "boot":
        oci.wait_for(container_id, "stopped")
        oci.ok("delete", container_id)
    oci.is_gone_after_delete(container_id)


def test_gc_removes_a_killed_creation_but_no_managers_container(oci_of_each: Oci, bundle: Path) -> None:
    oci = oci_of_each
    stopped, alive = oci.running(bundle), oci.create(bundle)
    oci.ok("kill", stopped, "KILL")
    oci.wait_for(stopped, "stopped")
    lost = oci.engine.new_id()
    assert oci("create", "--bundle", bundle, lost, killed_at=9).code != 0
    oci.engine.call("gc")
    assert (oci.status(stopped), oci.status(alive), oci.status(lost)) == ("stopped", "created", None)
    assert oci.left(lost) == []
    for container_id in (stopped, alive):
        oci.is_gone_after_delete(container_id)


def test_of_managers_that_create_one_id_at_once_one_does(oci: Oci, bundle: Path) -> None:
    container_id = oci.engine.new_id()
    commands = [
        oci.start(
            "create", "--bundle", bundle, container_id, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(4)
    ]
    codes = sorted(command.wait() for command in commands)
    assert codes == [0, 125, 125, 125]
    assert oci.status(container_id) == "created"
    assert oci("create", "--bundle", bundle, container_id).code == 125
    oci.is_gone_after_delete(container_id)


def test_kill_and_delete_at_once_fail_for_no_manager(oci: Oci, bundle: Path) -> None:
    container_id = oci.running(bundle)
    deletes = [oci.start("delete", "--force", container_id) for _ in range(3)]
    kills = [oci.start("kill", container_id, "KILL") for _ in range(2)]
    assert [command.wait() for command in deletes] == [0, 0, 0]
    for command in kills:
        command.wait()
    oci.is_gone_after_delete(container_id)


def test_a_full_disk_refuses_a_creation_and_hinders_no_deletion(
    small_base: Path, oci: Oci, bundle: Path
) -> None:
    first = oci.running(bundle)
    filler = small_base / "filler"
    shutil.rmtree(small_base / STORE)  # so that each has to copy, for which none of the rooms is enough
    for room in (0, 4096, 65536, 1 << 20):
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while file.write(bytes(1 << 16)):
                file.flush()
        os.truncate(filler, max(0, filler.stat().st_size - room))
        container_id = oci.engine.new_id()
        refused = oci("create", "--bundle", bundle, container_id)
        assert refused.code == 125, refused
        assert "No space left on device" in refused.stderr
        assert oci.state(container_id) is None
        assert oci.left(container_id) == []
        assert oci.status(first) == "running"
        filler.unlink()
    filler.write_bytes(bytes(1 << 16))
    oci.ok("kill", first, "KILL")
    oci.wait_for(first, "stopped")
    oci.ok("delete", first)
    assert oci.left(first) == []
    filler.unlink()


def test_state_on_a_read_only_directory_loses_nothing(small_base: Path, oci: Oci, bundle: Path) -> None:
    container_id = oci.running(bundle)
    subprocess.run(["mount", "-o", "remount,ro", small_base], check=True)
    try:
        assert oci.status(container_id) == "running"
        refused = oci("delete", "--force", container_id)
        assert refused.code != 0
        assert "Read-only file system" in refused.stderr, refused
        other = oci("create", "--bundle", bundle, oci.engine.new_id())
        assert other.code == 125
        assert "Read-only file system" in other.stderr, other
    finally:
        subprocess.run(["mount", "-o", "remount,rw", small_base], check=True)
    oci.is_gone_after_delete(container_id)


def test_containers_that_come_and_go_by_the_dozen_leave_nothing(oci: Oci, root_engine: Engine) -> None:
    bundle = root_engine.bundle("/bin/true", name="short")

    def call(*arguments: str | Path) -> tuple[int, str]:
        with tempfile.TemporaryFile() as said:  # no pipe: the container would keep it
            done = subprocess.run(
                oci.command(*arguments),
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=root_engine.environment(),
            )
            said.seek(0)
            return done.returncode, said.read().decode()

    def churn(_: int) -> str:
        container_id = root_engine.new_id()
        assert call("create", "--bundle", bundle, container_id) == (0, "")
        assert call("start", container_id) == (0, "")
        deadline = time.monotonic() + TIMEOUT
        while (answer := call("delete", container_id)) != (0, ""):
            assert "is running" in answer[1], answer
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return container_id

    with ThreadPoolExecutor(3) as pool:
        ids = list(pool.map(churn, range(CHURN)))
    assert oci.ok("list", "--quiet") == ""
    assert [left for container_id in ids for left in oci.left(container_id)] == []
    assert {path.name for path in root_engine.base.iterdir()} - {STORE} == {"traces"}
    assert sum(len(oci.traces(container_id)) for container_id in ids) == CHURN
