"""No cgroup stays: whatever failed or was killed, gc or the next container of the id removes what runsc made."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.oci_runtime import Oci
from tests.support.harness import Engine, cgroups_of

#: How many runs are killed, each at another moment of its start.
KILLS = int(os.environ.get("ENGINE_TEST_CHURN", "6"))
#: Seconds from the start of the engine within which the container runs.
START = 0.5


@pytest.fixture
def unbootable(root_engine: Engine) -> Path:
    """A bundle that runsc refuses after it has made cgroups: the source of a bind mount is missing."""
    mount = {"destination": "/x", "type": "bind", "source": "/nonexistent/x", "options": ["bind"]}
    return root_engine.bundle("/bin/true", name="unbootable", mounts=[mount])


def test_gc_removes_the_cgroups_of_a_failed_run(root_engine: Engine, unbootable: Path) -> None:
    container_id = root_engine.new_id()
    assert root_engine.run(unbootable, "--id", container_id).code != 0
    made = cgroups_of(container_id)
    if not made:
        pytest.skip("this runsc left no cgroup")
    assert root_engine.call("gc").code == 0
    assert cgroups_of(container_id) == []


def test_next_run_of_the_id_removes_the_cgroups_of_a_failed_one(
    root_engine: Engine, unbootable: Path
) -> None:
    container_id = root_engine.new_id()
    root_engine.run(unbootable, "--id", container_id)
    assert root_engine.run(root_engine.bundle("/bin/true"), "--id", container_id).code == 0
    assert cgroups_of(container_id) == []


def test_gc_leaves_a_cgroup_that_was_there_before(root_engine: Engine, unbootable: Path) -> None:
    container_id = root_engine.new_id()
    top = next(top for top in map(Path, ("/sys/fs/cgroup/memory", "/sys/fs/cgroup")) if top.is_dir())
    (top / container_id).mkdir()
    root_engine.run(unbootable, "--id", container_id)
    root_engine.call("gc")
    assert cgroups_of(container_id) == [top / container_id]
    (top / container_id).rmdir()


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_parent_that_other_containers_use_goes_when_they_have_gone(
    root_engine: Engine, force: tuple[str, ...]
) -> None:
    oci = Oci(root_engine)
    parent = f"parent-{root_engine.new_id()}"
    namespaces = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]
    first, second = (
        root_engine.shell(
            "sleep 1000", name=name, linux={"namespaces": namespaces, "cgroupsPath": f"/{parent}/{name}"}
        )
        for name in ("first", "second")
    )
    one, other = oci.create(first), oci.create(second)
    for _ in range(2):  # again, as managers restart a container
        deleted = oci("delete", *force, one)
        assert (deleted.code, deleted.stderr) == (0, "")
        assert oci.status(one) is None
        assert cgroups_of(parent)
        oci.create(first, one)
    for each in (one, other):
        oci.ok("delete", *force, each)
    assert root_engine.call("gc").code == 0
    assert cgroups_of(parent) == []
    assert [oci.left(each) for each in (one, other)] == [[], []]


def test_cgroup_that_others_are_in_is_named_and_goes_later(root_engine: Engine) -> None:
    oci = Oci(root_engine)
    container_id = oci.create(root_engine.shell("sleep 1000"))
    other = root_engine.start(["sleep", "1000"])
    cgroup = next(path for path in cgroups_of(container_id) if path.parent.name in ("pids", "cgroup"))
    (cgroup / "cgroup.procs").write_text(str(other.pid))
    deleted = oci("delete", "--force", container_id)
    assert deleted.code == 0
    assert str(cgroup) in deleted.stderr
    assert root_engine.call("gc").code != 0
    assert cgroups_of(container_id) == [cgroup]
    other.kill()
    other.wait()
    assert root_engine.call("gc").code == 0
    assert oci.left(container_id) == []


@pytest.mark.parametrize("verb", ["run", "create"])
def test_gc_removes_the_cgroups_of_a_killed_start(root_engine: Engine, verb: str) -> None:
    oci = Oci(root_engine)
    bundle = root_engine.shell("sleep 1000")
    moments = random.Random(4)
    for _ in range(KILLS):
        container_id = root_engine.new_id()
        if verb == "run":
            process = root_engine.start_run(bundle, "--id", container_id, stdout=subprocess.DEVNULL)
        else:
            process = oci.start("create", "--bundle", bundle, container_id, stdout=subprocess.DEVNULL)
        time.sleep(moments.uniform(0.05, START))
        process.kill()
        process.wait()
        if oci.status(container_id) is not None:
            oci.ok("delete", "--force", container_id)
        assert root_engine.call("gc").code == 0
        assert oci.left(container_id) == []
