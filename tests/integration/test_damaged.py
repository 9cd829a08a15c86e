"""One damaged thing harms only itself: `list` goes on and names it, and `delete --force` removes its container."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.oci_runtime import Oci
from tests.support.harness import Engine

FOREVER = "while :; do sleep 1000; done"

DAMAGE: dict[str, Callable[[Path, bytes], object]] = {
    "empty": lambda path, _: path.write_bytes(b""),
    "torn": lambda path, before: path.write_bytes(before[: len(before) // 2]),
    "newer": lambda path, before: path.write_bytes(before.replace(b'"format":1', b'"format":2') + b"{}"),
    "types": lambda path, _: path.write_text('{"format":1,"id":[1],"status":{"a":1},"program":7}'),
    "link": lambda path, _: path.symlink_to("/etc/passwd"),
    "directory": lambda path, _: (path / "in").mkdir(parents=True),
    "fifo": lambda path, _: os.mkfifo(path, 0o600),
}
FILES = {
    "record": lambda container: container / "oci.json",
    "runsc's file": lambda container: next((container / "runsc-root").glob("*.state")),
    "lock": lambda container: container / "lock",
}


@pytest.fixture
def oci(root_engine: Engine) -> Oci:
    return Oci(root_engine)


@pytest.mark.parametrize(
    ("what", "kind"), [(what, kind) for what in FILES for kind in DAMAGE if (what, kind) != ("lock", "fifo")]
)
def test_damaged_file_harms_only_its_container(oci: Oci, what: str, kind: str) -> None:
    bundle = oci.engine.shell(FOREVER)
    good, bad = oci.running(bundle), oci.running(bundle)
    path = FILES[what](oci.engine.container(bad))
    before = path.read_bytes() if path.is_file() else b""
    path.unlink()
    DAMAGE[kind](path, before)
    listed = oci("list", "--format=json")
    assert listed.code == 0, listed
    ids = [each["id"] for each in json.loads(listed.stdout)]
    assert good in ids
    assert bad in ids or str(path) in listed.stderr
    oci.engine.call("gc")
    assert oci.status(good) == "running"
    assert oci.left(bad)
    assert oci("delete", "--force", bad).code == 0
    assert oci.left(bad) == []
    assert Path("/etc/passwd").exists()
    assert oci.status(good) == "running"
    oci.is_gone_after_delete(oci.running(bundle))
    oci.is_gone_after_delete(good)


@pytest.mark.parametrize("verb", ["kill", "delete", "state", "create"])
def test_verb_names_a_damaged_record_and_what_helps(oci: Oci, verb: str) -> None:
    bundle = oci.engine.shell(FOREVER)
    container_id = oci.running(bundle)
    path = oci.engine.container(container_id) / "oci.json"
    path.write_text("{")
    more = ("--bundle", bundle) if verb == "create" else ()
    finished = oci(verb, *more, container_id)
    assert finished.code != 0
    assert str(path) in finished.stderr
    assert oci.left(container_id)
    oci.ok("delete", "--force", container_id)
    assert oci.left(container_id) == []
