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
