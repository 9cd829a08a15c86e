"""An installation of several files under the engine: each is judged, staged and recorded, or nothing runs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import Reason
from engine.state.store import SETTLED_NS
from tests.support.harness import Engine, argv, executable, processes_about
from tests.support.standin import RELEASE, SENTRY, Installation, build

#: The policy has tests of its own.
OPTIONS = ("--exec-policy", "off")


@pytest.fixture
def collected(engine: Engine) -> Iterator[Engine]:
    """An engine after whose runs gc unmounts what runsc left."""
    yield engine
    assert engine.call("gc").code == 0


def test_each_file_that_runs_is_the_one_recorded(collected: Engine, standin: Installation) -> None:
    engine = collected
    container_id = engine.new_id()
    process = engine.start_waiting(container_id, "--runsc", standin.runsc, *OPTIONS)
    stage = engine.staged(container_id).parent
    pids = processes_about(engine.base)
    sandboxes = {executable(pid) for pid in pids if argv(pid)[0] == "runsc-sandbox"}
    assert sandboxes == {str(stage / "gvisor-bin" / SENTRY)}
    assert engine.finish(process, b"\n").code == 9
    trace = engine.trace(container_id)
    validated, staged = trace[2]["facts"], trace[4]["facts"]
    assert validated["release"] == RELEASE
    names = sorted(path.name for path in standin.files[1:])
    assert [file["name"] for file in validated["sidecars"]] == names
    assert [file["name"] for file in staged["sidecars"]] == names
    for original, copy in zip(validated["sidecars"], staged["sidecars"], strict=True):
        assert original["path"] == str(standin.sidecars / original["name"])
        assert copy["path"] == str(stage / "gvisor-bin" / original["name"])
        assert copy["sha256"] == hashlib.sha256(Path(original["path"]).read_bytes()).hexdigest()
        assert copy["sha256"] == hashlib.sha256(Path(copy["path"]).read_bytes()).hexdigest()


def test_a_second_run_takes_every_file_from_the_store(collected: Engine, standin: Installation) -> None:
    engine = collected
    newest = max(path.stat().st_ctime_ns for path in standin.files)
    time.sleep(max(0, newest + SETTLED_NS - time.time_ns()) / 1e9)
    ids = [engine.new_id(), engine.new_id()]
    for container_id in ids:
        options = ("--runsc", standin.runsc, "--id", container_id, *OPTIONS)
        assert engine.run(engine.shell("exit 42", name=container_id), *options).code == 42
    staged = engine.trace(ids[1])[4]["facts"]
    for facts in (staged, *staged["sidecars"]):
        assert facts["from_store"]
        assert not facts["hashed"]


@pytest.mark.parametrize("name", [SENTRY, "gvisor-sentry-prewarmer"])
def test_an_installation_that_lacks_a_file_is_refused(root_engine: Engine, name: str) -> None:
    own = build(root_engine.make_directory("own"))
    (own.sidecars / name).unlink()
    finished = root_engine.run(root_engine.shell("echo never"), "--json", "--runsc", own.runsc)
    finished.refused(Reason.INCOMPLETE, own.runsc, name)
    assert finished.stdout == b""


def test_an_installation_of_two_releases_is_refused(root_engine: Engine) -> None:
    own = build(root_engine.make_directory("own"), releases={SENTRY: "release-20261005.0"})
    finished = root_engine.run(root_engine.shell("echo never"), "--json", "--runsc", own.runsc)
    finished.refused(Reason.MIXED_RELEASES, RELEASE, "release-20261005.0")


def test_a_sidecar_that_others_can_write_is_refused(root_engine: Engine) -> None:
    own = build(root_engine.make_directory("own"))
    own.prewarmer.chmod(0o777)
    finished = root_engine.run(root_engine.shell("echo never"), "--json", "--runsc", own.runsc)
    finished.refused(Reason.LOOSE_MODE, own.prewarmer, "0777")
