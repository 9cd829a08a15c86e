"""What containers share of runsc: one file, which no container can change for another, alive or after its end."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from engine.linux.regular_files import Identity
from tests.support.harness import Engine, processes_about, wait_for


def kept(engine: Engine) -> Path:
    """The copy of runsc in the store, where those of its sidecars may be as well; the latest of the links to one."""
    last = max(engine.base.rglob("exec-allow/*/runsc"), key=lambda path: path.parent.stat().st_ctime_ns)
    (copy,) = (path for path in (engine.base / "staged").iterdir() if path.samefile(last))
    return copy


def staged(engine: Engine, container_id: str) -> dict[str, object]:
    """What the run recorded of its copy."""
    facts: dict[str, object] = engine.trace(container_id)[4]["facts"]
    return facts


def run(engine: Engine) -> tuple[dict[str, object], Path]:
    """Run one container to its end: what it recorded of its copy, and where that is."""
    container_id = engine.new_id()
    assert engine.run(engine.shell("exit 42", name=container_id), "--id", container_id).code == 42
    return staged(engine, container_id), engine.staged(container_id)


def write_through(link: str) -> None:
    """As one may who has the file at hand and acts as its owner: loosen the mode, write, restore all but ctime."""
    before = os.stat(link)
    os.chmod(link, 0o700)
    try:
        descriptor = os.open(link, os.O_WRONLY | os.O_NONBLOCK)
        os.pwrite(descriptor, b"poison", before.st_size // 2)
        os.close(descriptor)
    finally:
        os.chmod(link, 0o555)
    os.utime(link, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_containers_of_root_share_one_runsc(root_engine: Engine) -> None:
    first, second = run(root_engine), run(root_engine)
    assert [facts["shared"] for facts, _ in (first, second)] == [True, True]
    assert [facts["from_store"] for facts, _ in (first, second)] == [False, True]
    assert [facts["hashed"] for facts, _ in (first, second)] == [True, False]
    assert first[0]["sha256"] == second[0]["sha256"]
    assert first[1].samefile(second[1])
    assert kept(root_engine).stat().st_nlink == 3


def test_users_share_roots_runsc_and_each_run_compares_it(
    needs_root: None, unprivileged_engine: Engine, runsc: Path
) -> None:
    (first, one), (second, other) = run(unprivileged_engine), run(unprivileged_engine)
    assert [facts["shared"] for facts in (first, second)] == [True, True]
    assert [facts["from_store"] for facts in (first, second)] == [False, True]
    assert [facts["compared"] for facts in (first, second)] == [False, True]
    assert [facts["hashed"] for facts in (first, second)] == [True, False]
    assert first["sha256"] == second["sha256"]
    assert one.samefile(other)
    assert one.read_bytes() == runsc.read_bytes()


def test_copy_forged_by_a_user_is_not_run(needs_root: None, unprivileged_engine: Engine, runsc: Path) -> None:
    """Whoever acted as this user once, and is gone, leaves nothing that a later run executes."""
    run(unprivileged_engine)
    wait_for("the end of every process", lambda: not processes_about(unprivileged_engine.directory))
    copy = kept(unprivileged_engine)
    write_through(str(copy))
    record = copy.with_name(f"{copy.name}.json")
    as_it_is = {
        "sha256": hashlib.sha256(copy.read_bytes()).hexdigest(),
        "copy": Identity.of(copy.stat()).facts(),
    }
    unprivileged_engine.write(record, json.dumps({**json.loads(record.read_bytes()), **as_it_is}).encode())
    again, staged_now = run(unprivileged_engine)
    assert (again["from_store"], again["compared"]) == (False, False)
    assert staged_now.read_bytes() == runsc.read_bytes()


def test_nobody_can_write_what_a_container_runs(root_engine: Engine) -> None:
    run(root_engine)
    container_id = root_engine.new_id()
    process = root_engine.start_waiting(container_id)
    for link in (kept(root_engine), root_engine.staged(container_id), f"/proc/{process.pid}/exe"):
        with pytest.raises(OSError) as refused:  # noqa: PT011 (the number is looked at)
            write_through(str(link))
        assert refused.value.errno == errno.ETXTBSY
    assert root_engine.finish(process, b"\n").code == 9


@pytest.mark.parametrize("by_the_store", [True, False])
def test_copy_written_after_a_containers_end_is_not_run(root_engine: Engine, by_the_store: bool) -> None:
    """By any name: what broke out of a container may have kept its own program at hand."""
    facts, own = run(root_engine)
    wait_for("the end of every process", lambda: not processes_about(root_engine.directory))
    write_through(str(kept(root_engine) if by_the_store else own))
    again, copy = run(root_engine)
    assert (again["from_store"], again["hashed"], again["sha256"]) == (False, True, facts["sha256"])
    assert copy.samefile(kept(root_engine))
    assert not copy.samefile(own)
    assert run(root_engine)[0]["from_store"] is True


def test_upgrade_is_run_next_and_gc_removes_the_old_copy(root_engine: Engine, runsc: Path) -> None:
    own = root_engine.own_runsc(runsc)
    bundle = root_engine.shell("exit 42")
    digests = []
    for content in (b"one", b"two"):
        with own.open("ab") as file:
            file.write(content)  # behind the ELF file's end, where nothing looks
        container_id = root_engine.new_id()
        assert root_engine.run(bundle, "--id", container_id, "--runsc", own).code == 42
        digests.append(staged(root_engine, container_id)["sha256"])
    assert digests[0] != digests[1]
    assert root_engine.call("gc").code == 0
    assert root_engine.leftovers() == []
