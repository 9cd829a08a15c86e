"""The staged copy can be executed where its owner is not mapped, and runsc does not blame it for what fails."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from engine.runsc.installation import SIDECARS
from tests.integration.oci_runtime import Oci
from tests.support.bundles import NAMESPACES
from tests.support.harness import Engine

FOREVER = "while :; do sleep 1000; done"
_MAPPING = [{"containerID": 0, "hostID": 100000, "size": 65536}]


@pytest.fixture
def oci(root_engine: Engine) -> Oci:
    return Oci(root_engine)


@pytest.fixture
def starts_sidecars(runsc: Path) -> bool:
    """Whether this runsc executes files by their paths, which are private: then it cannot run such bundles."""
    return (runsc.parent / SIDECARS).is_dir()


def _unmapped(engine: Engine, script: str) -> Path:
    """A bundle as of `podman run --uidmap 0:100000:65536`: root of the host is not mapped."""
    linux: dict[str, Any] = {
        **NAMESPACES,
        "namespaces": [*NAMESPACES["namespaces"], {"type": "user"}],
        "uidMappings": _MAPPING,
        "gidMappings": _MAPPING,
    }
    bundle = engine.shell(script, linux=linux)
    for path in (engine.directory, *engine.directory.rglob("*")):
        if bundle.is_relative_to(path):
            path.chmod(0o711)
    for path in (bundle / "rootfs", *(bundle / "rootfs").rglob("*")):
        os.chown(path, 100000, 100000, follow_symlinks=False)
    return bundle


def test_root_that_is_not_mapped_runs_a_container(root_engine: Engine, starts_sidecars: bool) -> None:
    finished = root_engine.run(_unmapped(root_engine, "exit 7"))
    assert finished.code == (128 if starts_sidecars else 7), finished
    assert ("permission denied" in finished.stderr) is starts_sidecars


def test_a_manager_creates_a_container_without_root_mapped(
    oci: Oci, root_engine: Engine, starts_sidecars: bool
) -> None:
    bundle = _unmapped(root_engine, FOREVER)
    container_id = root_engine.new_id()
    created = oci("create", "--bundle", bundle, container_id)
    if starts_sidecars:
        assert created.code != 0
        assert oci.state(container_id) is None
        return
    assert created.code == 0, created
    oci.ok("start", container_id)
    assert oci.status(container_id) == "running"
    oci.ok("exec", container_id, "/bin/true")
    oci.ok("kill", container_id, "KILL")
    oci.is_gone_after_delete(container_id)


def test_after_a_failed_boot_runsc_does_not_blame_its_copy(root_engine: Engine) -> None:
    linux = {**NAMESPACES, "resources": {"pids": {"limit": 16}}}
    finished = root_engine.run(root_engine.bundle(linux=linux))
    assert finished.code == 128, finished
    assert "permissions" not in finished.stderr


def test_container_of_an_older_engine_is_used_and_deleted(oci: Oci, root_engine: Engine) -> None:
    """That engine's copies had mode 0500."""
    container_id = oci.create(root_engine.shell(FOREVER))
    copy = root_engine.staged(container_id)
    for path in (copy, *(copy.parent / SIDECARS).glob("*")):
        path.chmod(0o500)
    oci.ok("start", container_id)
    oci.ok("exec", container_id, "/bin/true")
    another = oci.running(root_engine.shell(FOREVER, name="another"))
    assert root_engine.staged(another).stat().st_mode & 0o7777 == 0o555
    assert copy.stat().st_mode & 0o7777 == 0o500
    for each in (container_id, another):
        oci.ok("delete", "--force", each)
        assert oci.state(each) is None
