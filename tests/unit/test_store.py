"""The store of staged binaries: a link is what a copy would have been, and nothing in it outlives its use."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from engine import store
from engine.errors import StageError
from engine.gc import collect
from engine.lifecycle.resolve import Resolved
from engine.lifecycle.secure_root import secure_root
from engine.lifecycle.stage import Staged, stage
from engine.lifecycle.validate import validate
from engine.options import Platform


class World:
    """One artifact base, in which any number of containers stage one binary."""

    def __init__(self, base: Path, binary: Path) -> None:
        self.base = base
        self.binary = binary
        self.environment = {"ENGINE_ARTIFACT_BASE": str(base)}
        self._runs = 0

    def stage(self) -> Staged:
        """What the next container stages; its lock is let go, so that it counts as over."""
        self._runs += 1
        root = secure_root(f"run-{self._runs}", self.environment)
        pinned = validate(Resolved(str(self.binary), "option"), Platform.AUTO)
        try:
            return stage(pinned, root)
        finally:
            os.close(root.lock)

    @property
    def kept(self) -> list[Path]:
        """The kept copies."""
        return [path for path in (self.base / store.STORE).glob("*") if path.suffix != ".json"]


@pytest.fixture
def world(private: Path, binary: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(store, "SETTLED_NS", 0)  # the binary was made just now
    return World(private / "base", binary)


def test_the_second_run_links_what_the_first_copied(world: World) -> None:
    first, second, third = world.stage(), world.stage(), world.stage()
    assert [staged.from_store for staged in (first, second, third)] == [False, True, True]
    assert os.path.samestat(os.fstat(first.descriptor), os.fstat(third.descriptor))
    assert third.digest == first.digest
    assert third.facts()["made_from"] == third.facts()["pinned"]
    assert Path(third.path).read_bytes() == world.binary.read_bytes()
    assert (third.mode, third.size) == (0o500, world.binary.stat().st_size)


def test_a_binary_that_was_upgraded_is_copied_anew(world: World) -> None:
    world.stage()
    world.binary.write_bytes(b"\x7fELF anew" + world.binary.read_bytes()[9:])
    again = world.stage()
    assert not again.from_store
    assert Path(again.path).read_bytes() == world.binary.read_bytes()


def test_a_write_in_place_that_hides_its_time_is_copied_anew(world: World) -> None:
    before = world.binary.stat()
    world.stage()
    with world.binary.open("r+b") as file:
        file.seek(100)
        file.write(b"anew")
    os.utime(world.binary, ns=(before.st_atime_ns, before.st_mtime_ns))  # ctime cannot be set
    again = world.stage()
    assert not again.from_store
    assert Path(again.path).read_bytes() == world.binary.read_bytes()


def test_a_binary_that_was_changed_just_now_is_not_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SETTLED_NS", 10**18)
    world.stage()
    assert not world.stage().from_store
    assert world.kept == []


@pytest.mark.parametrize("hide_the_time", [False, True])
def test_a_kept_copy_that_was_written_is_never_run(world: World, hide_the_time: bool) -> None:
    first = world.stage()
    first.close()  # or the write would have to wait for it
    (kept,) = world.kept
    before = kept.stat()
    kept.chmod(0o700)
    with kept.open("r+b") as file:
        file.seek(100)
        file.write(b"trojan")
    kept.chmod(0o500)
    if hide_the_time:
        os.utime(kept, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = world.stage()
    assert not again.from_store
    assert Path(again.path).read_bytes() == world.binary.read_bytes()


def test_a_kept_copy_whose_links_went_is_used_again_once_its_digest_was_found_right(world: World) -> None:
    world.stage()
    second = world.stage()
    second.discard()  # moves the ctime of the copy
    assert world.stage().from_store


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b"null", b'{"made_from": {}}', b"\xff"])
def test_a_copy_with_a_broken_record_is_made_anew(world: World, record: bytes) -> None:
    world.stage()
    (written,) = (world.base / store.STORE).glob("*.json")
    written.write_bytes(record)
    assert not world.stage().from_store
    assert world.stage().from_store


def test_a_record_of_another_file_is_not_believed(world: World) -> None:
    world.stage()
    (written,) = (world.base / store.STORE).glob("*.json")
    record = json.loads(written.read_bytes())
    record["made_from"]["inode"] += 1
    written.write_text(json.dumps(record))
    assert not world.stage().from_store


@pytest.mark.parametrize("mode", [0o700, 0o555, 0o400])
def test_a_kept_copy_with_another_mode_is_made_anew(world: World, mode: int) -> None:
    world.stage()
    world.kept[0].chmod(mode)
    again = world.stage()
    assert not again.from_store
    assert again.mode == 0o500


@pytest.mark.parametrize("code", [errno.EMLINK, errno.EPERM, errno.EXDEV])
def test_where_the_file_system_takes_no_link_it_is_copied(
    world: World, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    world.stage()

    def link(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.link", link)
    staged = world.stage()
    assert not staged.from_store
    assert Path(staged.path).read_bytes() == world.binary.read_bytes()


def test_a_linked_store_is_refused_and_not_followed(world: World, private: Path) -> None:
    world.base.mkdir(mode=0o700)
    (private / "victim").mkdir()
    (world.base / store.STORE).symlink_to(private / "victim")
    with pytest.raises(StageError, match="staged' is a symbolic link"):
        world.stage()
    assert list((private / "victim").iterdir()) == []


def test_gc_removes_a_kept_copy_that_nobody_links_and_no_other(world: World) -> None:
    root = secure_root("alive", world.environment)
    alive = stage(validate(Resolved(str(world.binary), "option"), Platform.AUTO), root)
    world.stage()
    assert collect(world.environment).failed == ()
    assert len(world.kept) == 1
    assert os.path.samestat(world.kept[0].stat(), os.fstat(alive.descriptor))
    assert world.stage().from_store
    os.close(root.lock)
    assert collect(world.environment).foreign == ()
    assert list(world.base.iterdir()) == []


def test_a_run_that_is_taken_back_leaves_nothing_in_the_store(world: World) -> None:
    world.stage().discard()
    assert not (world.base / store.STORE).exists()
