"""A new container beside gc: it waits for a lock that gc holds for a moment, and only a live namesake refuses it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.errors import Reason, SecureRootError
from engine.lifecycle.secure_root import secure_root
from engine.linux.files import open_private_directory
from engine.state import container as containers
from engine.state.base import open_base
from engine.state.container import component, open_container, take_lock, take_lock_to_remove
from engine.state.gc import collect
from tests.support.refusals import refuses

#: How many containers are made beside gc. ENGINE_TEST_CHURN is for more.
CONTAINERS = int(os.environ.get("ENGINE_TEST_CHURN", "300"))
COLLECT = """
import sys
from engine.state.gc import collect
print(flush=True)
while True:
    found = collect({"ENGINE_ARTIFACT_BASE": sys.argv[1]})
    assert not found.failed, found
"""


def environment(base: Path) -> dict[str, str]:
    return {"ENGINE_ARTIFACT_BASE": str(base)}


def test_no_container_is_refused_beside_two_gcs(private: Path) -> None:
    base = private / "base"
    command = [sys.executable, "-P", "-c", COLLECT, str(base)]
    gcs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    try:
        for gc in gcs:
            assert gc.stdout is not None
            assert gc.stdout.readline() == b"\n"
        for number in range(CONTAINERS):
            for container_id in (f"fresh-{number}", "the-same"):
                root = secure_root(container_id, environment(base))
                assert root.changed() is None
                root.close()
    finally:
        for gc in gcs:
            gc.kill()
    assert [(gc.wait(), gc.communicate()[1]) for gc in gcs] == [(-signal.SIGKILL, b"")] * 2


def test_new_container_waits_for_the_removal_of_its_namesake(private: Path) -> None:
    base = open_base(str(private / "base"))
    made, lock = open_container(base, component("web"))
    assert lock is not None
    os.close(lock)
    with take_lock_to_remove(made) as is_taken:
        assert is_taken
        began = time.monotonic()
        done: list[float] = []

        def run() -> None:
            secure_root("web", environment(private / "base")).close()
            done.append(time.monotonic())

        waiting = threading.Thread(target=run)
        waiting.start()
        time.sleep(0.2)
    waiting.join()
    assert done[0] - began > 0.2


def test_removal_that_never_ends_is_named(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "_REMOVAL_TIMEOUT", 0.05)
    base = open_base(str(private / "base"))
    made, lock = open_container(base, component("web"))
    assert lock is not None
    os.close(lock)
    with take_lock_to_remove(made), refuses(SecureRootError, Reason.FAILURE, made.path):
        secure_root("web", environment(private / "base"))


def test_live_namesake_refuses_at_once_and_is_not_removed(private: Path) -> None:
    base = private / "base"
    root = secure_root("web", environment(base))
    began = time.monotonic()
    with refuses(SecureRootError, Reason.ALIVE, "web"):
        secure_root("web", environment(base))
    assert time.monotonic() - began < 1
    assert collect(environment(base)).alive == (root.container.path,)
    root.close()


def test_only_one_at_a_time_removes_a_container(private: Path) -> None:
    base = open_base(str(private / "base"))
    made, lock = open_container(base, component("web"))
    assert lock is not None
    os.close(lock)
    other = open_private_directory(base.descriptor, base.path, component("web"))
    with take_lock_to_remove(made) as first:
        with take_lock_to_remove(other) as second:
            assert (first, second) == (True, False)
        assert take_lock(other) is None
    with take_lock_to_remove(other) as again:
        assert again
