"""The store of staged binaries: a link is what a copy would have been, and nothing in it outlives its use."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import Reason, StageError
from engine.lifecycle import staged_file
from engine.lifecycle.resolve import Resolved
from engine.lifecycle.secure_root import secure_root
from engine.lifecycle.stage import Staged, stage
from engine.lifecycle.validate import Validated, validate
from engine.linux.regular_files import Identity
from engine.options import Platform
from engine.runsc.binary import version_of
from engine.state import store
from engine.state.base import open_base
from engine.state.cleanup import remove_leftovers
from engine.state.gc import collect
from tests.support.objects import changed
from tests.support.refusals import refuses


class World:
    """One artifact base, in which any number of containers stage one binary."""

    def __init__(self, base: Path, binary: Path) -> None:
        self.base = base
        self.binary = binary
        self.environment = {"ENGINE_ARTIFACT_BASE": str(base)}
        self._runs = 0

    def stage(self) -> Staged:
        """What the next container stages; its lock is let go, so that it counts as over."""
        return self._stage(validate(Resolved(str(self.binary), "option"), Platform.AUTO))

    def stage_as_anothers(self) -> Staged:
        """As if the binary were trusted and somebody else's: root's, where root does not run this."""
        pinned = validate(Resolved(str(self.binary), "option"), Platform.AUTO)
        return self._stage(changed(pinned, runsc=changed(pinned.runsc, owner=pinned.runsc.owner + 1)))

    def _stage(self, pinned: Validated) -> Staged:
        self._runs += 1
        root = secure_root(f"run-{self._runs}", self.environment)
        try:
            staged = stage(pinned, root)
        except StageError:
            root.close()
            pinned.close()
            raise
        os.close(root.lock)
        return staged

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
    assert [staged.runsc.from_store for staged in (first, second, third)] == [False, True, True]
    assert os.path.samestat(os.fstat(first.runsc.descriptor), os.fstat(third.runsc.descriptor))
    assert third.runsc.digest == first.runsc.digest
    assert third.facts()["made_from"] == third.facts()["pinned"]
    assert Path(third.runsc.path).read_bytes() == world.binary.read_bytes()
    assert (third.runsc.mode, third.runsc.size) == (0o555, world.binary.stat().st_size)


def test_a_binary_that_was_upgraded_is_copied_anew(world: World) -> None:
    world.stage()
    world.binary.write_bytes(b"\x7fELF anew" + world.binary.read_bytes()[9:])
    again = world.stage()
    assert not again.runsc.from_store
    assert Path(again.runsc.path).read_bytes() == world.binary.read_bytes()


def test_a_write_in_place_that_hides_its_time_is_copied_anew(world: World) -> None:
    before = world.binary.stat()
    world.stage()
    with world.binary.open("r+b") as file:
        file.seek(100)
        file.write(b"anew")
    os.utime(world.binary, ns=(before.st_atime_ns, before.st_mtime_ns))  # ctime cannot be set
    again = world.stage()
    assert not again.runsc.from_store
    assert Path(again.runsc.path).read_bytes() == world.binary.read_bytes()


def test_a_binary_that_was_changed_just_now_is_not_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SETTLED_NS", 10**18)
    world.stage()
    assert not world.stage().runsc.from_store
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
    kept.chmod(0o555)
    if hide_the_time:
        os.utime(kept, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = world.stage()
    assert not again.runsc.from_store
    assert Path(again.runsc.path).read_bytes() == world.binary.read_bytes()


def test_copy_without_links_is_reused_after_its_digest_matched(world: World) -> None:
    world.stage()
    second = world.stage()
    second.discard()  # moves the ctime of the copy
    assert world.stage().runsc.from_store


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b"null", b'{"made_from": {}}', b"\xff"])
def test_a_copy_with_a_broken_record_is_made_anew(world: World, record: bytes) -> None:
    world.stage()
    (written,) = (world.base / store.STORE).glob("*.json")
    written.write_bytes(record)
    assert not world.stage().runsc.from_store
    assert world.stage().runsc.from_store


def test_a_record_of_another_file_is_not_believed(world: World) -> None:
    world.stage()
    (written,) = (world.base / store.STORE).glob("*.json")
    record = json.loads(written.read_bytes())
    record["made_from"]["inode"] += 1
    written.write_text(json.dumps(record))
    assert not world.stage().runsc.from_store


@pytest.mark.parametrize("version", [b"release-20260914.0", b"0.0~20240729.0", b""])
def test_the_version_is_looked_for_once_and_kept(
    world: World, version: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.binary.open("ab") as file:
        file.write(b"\0" + version + b"\0")
    looked: list[int] = []

    def looking(descriptor: int) -> str | None:
        looked.append(descriptor)
        return version_of(descriptor)

    monkeypatch.setattr(staged_file, "version_of", looking)
    runs = [world.stage() for _ in range(3)]
    runs[1].discard()  # its unlink writes the record again
    runs.append(world.stage())
    assert [run.facts()["version"] for run in runs] == [version.decode() or None] * 4
    assert len(looked) == 1


@pytest.mark.parametrize("version", [None, 5, "of my own", "release-20260914.0\n", ["release-20260914.0"]])
def test_a_record_without_a_version_gets_one(world: World, version: object) -> None:
    with world.binary.open("ab") as file:
        file.write(b"\0release-20260914.0\0")
    world.stage()
    (written,) = (world.base / store.STORE).glob("*.json")
    record = json.loads(written.read_bytes())
    for change in ({"version": version}, {}):
        written.write_text(
            json.dumps({key: value for key, value in record.items() if key != "version"} | change)
        )
        again = world.stage()
        assert again.runsc.from_store
        assert again.facts()["version"] == "release-20260914.0"
        assert json.loads(written.read_bytes())["version"] == "release-20260914.0"


@pytest.mark.parametrize("mode", [0o700, 0o500, 0o400])
def test_a_kept_copy_with_another_mode_is_made_anew(world: World, mode: int) -> None:
    world.stage()
    world.kept[0].chmod(mode)
    again = world.stage()
    assert not again.runsc.from_store
    assert again.runsc.mode == 0o555


@pytest.mark.parametrize("code", [errno.EMLINK, errno.EPERM, errno.EXDEV, errno.ENOENT])
def test_where_the_file_system_takes_no_link_it_is_copied(
    world: World, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    world.stage()

    def link(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.link", link)
    staged = world.stage()
    assert not staged.runsc.from_store
    assert Path(staged.runsc.path).read_bytes() == world.binary.read_bytes()


def test_shared_copy_cannot_be_opened_for_writing(world: World) -> None:
    first, second = world.stage(), world.stage()
    (kept,) = world.kept
    kept.chmod(0o700)
    for staged in (first, second):
        assert staged.changed() is None
    with pytest.raises(BlockingIOError):
        os.open(kept, os.O_WRONLY | os.O_NONBLOCK)
    expected = "which other containers share, was opened for writing"
    assert [staged.changed() for staged in (first, second)] == [
        f"{s.runsc.path!r}, {expected}" for s in (first, second)
    ]
    first.close()
    second.close()
    os.close(os.open(kept, os.O_WRONLY | os.O_NONBLOCK))


def test_a_kept_copy_that_is_open_for_writing_is_not_linked(world: World) -> None:
    first = world.stage()
    first.close()
    (kept,) = world.kept
    kept.chmod(0o700)
    with kept.open("r+b"):
        kept.chmod(0o555)
        again = world.stage()
    assert (again.runsc.from_store, again.runsc.shared) == (False, True)
    assert not os.path.samestat(os.fstat(again.runsc.descriptor), os.stat(first.runsc.path))


def test_without_leases_each_run_has_its_own_copy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fcntl(*_: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr("fcntl.fcntl", fcntl)
    for _ in range(2):
        staged = world.stage()
        assert (staged.runsc.from_store, staged.runsc.shared, staged.changed()) == (False, False, None)
    assert world.kept == []


def test_copy_of_anothers_binary_is_compared_each_time(world: World) -> None:
    runs = [world.stage_as_anothers() for _ in range(3)]
    assert [
        (run.runsc.from_store, run.runsc.shared, run.runsc.hashed, run.runsc.compared) for run in runs
    ] == [
        (False, True, True, False),
        (True, True, False, True),
        (True, True, False, True),
    ]
    assert len({run.runsc.digest for run in runs}) == 1
    assert len({os.fstat(run.runsc.descriptor).st_ino for run in runs}) == 1
    assert {Path(run.runsc.path).read_bytes() for run in runs} == {world.binary.read_bytes()}
    assert all(run.changed() is None for run in runs)


def test_one_that_is_the_callers_own_is_not_compared(world: World) -> None:
    assert [world.stage().runsc.compared for _ in range(2)] == [False, False]
    assert world.stage_as_anothers().runsc.compared


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"x" + content[1:],
        lambda content: content[:-1] + b"x",
        lambda content: content[: len(content) // 2] + b"x" + content[len(content) // 2 + 1 :],
    ],
    ids=["first", "last", "middle"],
)
def test_a_record_of_anothers_is_not_believed_whatever_it_says(
    world: World, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]
) -> None:
    """Its owner wrote the copy, and recorded it as what it now is; a piece is less than the file and divides it not."""
    monkeypatch.setattr(store, "_CHUNK", 1000)
    first = world.stage_as_anothers()
    first.close()  # its lease would hold up the write until the kernel breaks it: 45 s
    (kept,) = world.kept
    poison = change(kept.read_bytes())
    assert poison != world.binary.read_bytes()
    kept.chmod(0o700)
    kept.write_bytes(poison)
    kept.chmod(0o555)
    record = kept.with_name(f"{kept.name}.json")
    as_it_is = {"sha256": hashlib.sha256(poison).hexdigest(), "copy": Identity.of(kept.stat()).facts()}
    record.write_text(json.dumps({**json.loads(record.read_bytes()), **as_it_is}))
    again = world.stage_as_anothers()
    assert (again.runsc.from_store, again.runsc.compared, again.runsc.digest) == (
        False,
        False,
        first.runsc.digest,
    )
    assert Path(again.runsc.path).read_bytes() == world.binary.read_bytes()
    assert world.stage_as_anothers().runsc.compared


def test_a_file_that_ends_before_the_other_is_not_the_same(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_CHUNK", 4)
    opened = []
    for number, content in enumerate(
        [b"12345678", b"12345678", b"1234567", b"123456789", b"12345678abcd", b""]
    ):
        (private / str(number)).write_bytes(content)
        opened.append(os.open(private / str(number), os.O_RDONLY))
    found = [[store._have_equal_bytes(one, other) for other in opened] for one in opened]
    same = {(0, 1), (1, 0)} | {(each, each) for each in range(len(opened))}
    assert found == [[(row, column) in same for column in range(len(opened))] for row in range(len(opened))]
    for descriptor in opened:
        os.close(descriptor)


@pytest.mark.parametrize("digest", ["", "ab", "AB" * 32, "g" * 64, "ab" * 33, 7, None, ["ab" * 32]])
def test_what_is_no_digest_is_not_taken_for_one(world: World, digest: object) -> None:
    first = world.stage_as_anothers()
    (written,) = (world.base / store.STORE).glob("*.json")
    written.write_text(json.dumps({**json.loads(written.read_bytes()), "sha256": digest}))
    again = world.stage_as_anothers()
    assert again.runsc.hashed
    assert again.runsc.digest == first.runsc.digest


def test_run_waits_a_limited_time_for_the_store(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.stage()
    monkeypatch.setattr(store, "TIMEOUT", 0.01)
    descriptor = os.open(world.base / store.STORE, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    staged = world.stage()
    os.close(descriptor)
    assert (staged.runsc.from_store, staged.runsc.shared, staged.runsc.hashed) == (False, False, True)
    assert world.stage().runsc.from_store


def test_what_is_kept_is_recorded_for_the_next(world: World) -> None:
    first = world.stage()
    (written,) = (world.base / store.STORE).glob("*.json")
    pinned = first.facts()["pinned"]
    assert written.name == "-".join(f"{number:x}" for number in dict(pinned).values()) + ".json"
    assert json.loads(written.read_bytes()) == {
        "made_from": pinned,
        "sha256": hashlib.sha256(world.binary.read_bytes()).hexdigest(),
        "copy": Identity.of(os.fstat(first.runsc.descriptor)).facts(),
        "version": "",
    }
    assert written.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (world.base / store.STORE).iterdir()) == [written.stem, written.name]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_failed_link_is_refused_and_leaves_nothing_open(
    world: World, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    world.stage()
    root = secure_root("another", world.environment)
    pinned = validate(Resolved(str(world.binary), "option"), Platform.AUTO)

    def link(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.link", link)
    with refuses(StageError, Reason.FAILURE, os.strerror(code)):
        stage(pinned, root)
    assert os.listdir(f"{root.runsc_root.path}/exec-allow") == []


def test_a_copy_that_cannot_be_kept_is_not_shared(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("os.link", link)
    staged = world.stage()
    assert (staged.runsc.shared, staged.runsc.from_store, staged.runsc.hashed) == (False, False, True)
    assert staged.changed() is None


def test_unwritable_record_makes_the_next_run_copy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_file = os.replace

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.replace", fail)
    first, others = world.stage(), world.stage_as_anothers()
    assert (first.runsc.shared, others.runsc.hashed) == (True, True)
    monkeypatch.setattr("os.replace", replace_file)
    second, third = world.stage(), world.stage()
    assert [staged.runsc.from_store for staged in (second, third)] == [False, True]
    assert not os.path.samestat(os.fstat(first.runsc.descriptor), os.fstat(second.runsc.descriptor))


def test_a_directory_in_the_place_of_a_record_is_not_read(world: World) -> None:
    opened = [len(os.listdir("/proc/self/fd"))]
    world.stage_as_anothers()
    opened.append(len(os.listdir("/proc/self/fd")))
    (written,) = (world.base / store.STORE).glob("*.json")
    written.unlink()
    written.mkdir()
    assert world.stage_as_anothers().runsc.hashed
    opened.append(len(os.listdir("/proc/self/fd")))
    assert opened[2] - opened[1] == opened[1] - opened[0]


def test_a_linked_store_is_refused_and_not_followed(world: World, private: Path) -> None:
    world.base.mkdir(mode=0o700)
    (private / "victim").mkdir()
    (world.base / store.STORE).symlink_to(private / "victim")
    with refuses(StageError, Reason.STAGE_NOT_OWN, "staged'"):
        world.stage()
    assert list((private / "victim").iterdir()) == []


def test_gc_removes_a_kept_copy_that_nobody_links_and_no_other(world: World) -> None:
    root = secure_root("alive", world.environment)
    alive = stage(validate(Resolved(str(world.binary), "option"), Platform.AUTO), root)
    world.stage()
    assert collect(world.environment).failed == ()
    assert len(world.kept) == 1
    assert os.path.samestat(world.kept[0].stat(), os.fstat(alive.runsc.descriptor))
    assert world.stage().runsc.from_store
    os.close(root.lock)
    assert collect(world.environment).foreign == ()
    assert list(world.base.iterdir()) == []


def test_a_run_that_is_taken_back_leaves_nothing_in_the_store(world: World) -> None:
    world.stage().discard()
    assert not (world.base / store.STORE).exists()


def test_discarded_run_leaves_an_earlier_runs_copy(world: World) -> None:
    first, second = world.stage(), world.stage()
    first.discard()
    assert second.discard() == [second.directory.path]
    assert len(world.kept) == 1


def test_binary_changed_while_its_copy_is_linked_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.stage()
    monkeypatch.setattr(store, "update", lambda *_: world.binary.chmod(0o700))
    with refuses(StageError, Reason.NOT_WHAT_WAS_PINNED, repr(str(world.binary))):
        world.stage()
    links = Path("/proc/self/fd")
    kept = {path.stat().st_ino for path in world.kept}
    opened = [os.fstat(int(name)).st_ino for name in os.listdir(links) if (links / name).exists()]
    assert sum(inode in kept for inode in opened) == 1  # that of the first run


def test_file_in_the_place_of_the_store_is_left(world: World, private: Path) -> None:
    staged = world.stage()
    (world.base / store.STORE).rename(private / "moved")
    (world.base / store.STORE).symlink_to(private / "moved")
    assert staged.discard() == [staged.directory.path]
    assert len(list((private / "moved").iterdir())) == 2  # the copy and its record


def unlinked(world: World, staged: Staged) -> None:
    """The container is over: what it had is removed."""
    staged.close()
    remove_leftovers(open_base(str(world.base)), staged.root.container)


def test_a_copy_that_another_container_left_is_not_read_again(world: World) -> None:
    first, second = world.stage(), world.stage()
    unlinked(world, first)
    third = world.stage()
    assert (third.runsc.from_store, third.runsc.hashed) == (True, False)
    unlinked(world, second)
    unlinked(world, third)
    again = world.stage()  # the base was chosen, so its store stays until gc
    assert (again.runsc.from_store, again.runsc.hashed) == (True, False)
    assert again.runsc.digest == hashlib.sha256(world.binary.read_bytes()).hexdigest()


@pytest.mark.parametrize("hide_the_time", [False, True])
def test_removing_a_link_hides_no_write(world: World, hide_the_time: bool) -> None:
    first, second = world.stage(), world.stage()
    first.close()
    second.close()
    (kept,) = world.kept
    before = kept.stat()
    kept.chmod(0o700)
    with kept.open("r+b") as file:
        file.seek(100)
        file.write(b"trojan")
    kept.chmod(0o555)
    if hide_the_time:
        os.utime(kept, ns=(before.st_atime_ns, before.st_mtime_ns))
    remove_leftovers(open_base(str(world.base)), first.root.container)
    again = world.stage()
    assert not again.runsc.from_store
    assert Path(again.runsc.path).read_bytes() == world.binary.read_bytes()


@pytest.mark.parametrize("spoil", ["no record", "no store", "a link in its place", "another's name"])
def test_a_link_is_removed_whatever_is_recorded(world: World, spoil: str) -> None:
    first, second = world.stage(), world.stage()
    (record,) = (world.base / store.STORE).glob("*.json")
    if spoil == "no record":
        record.unlink()
    elif spoil == "no store":
        (world.base / store.STORE).rename(world.base / "moved")
    elif spoil == "a link in its place":
        os.unlink(first.runsc.path)
        os.symlink(world.binary, first.runsc.path)
    else:
        record.rename(record.with_name("not-a-key.json"))
    unlinked(world, first)
    assert not os.path.lexists(first.runsc.path)
    assert world.binary.exists()
    assert os.path.exists(second.runsc.path)
    second.close()


def test_a_link_that_is_written_meanwhile_is_removed_and_not_recorded(world: World) -> None:
    first, second = world.stage(), world.stage()
    first.close()
    second.close()
    os.chmod(second.runsc.path, 0o700)
    with open(second.runsc.path, "r+b") as file:
        remove_leftovers(open_base(str(world.base)), first.root.container)
        file.seek(100)
        file.write(b"trojan")
    os.chmod(second.runsc.path, 0o555)
    assert not os.path.lexists(first.runsc.path)
    assert not world.stage().runsc.from_store
