"""A staged copy has mode 0555 in private directories; what an older engine left has 0500, and is still understood."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.lifecycle.resolve import Resolved
from engine.lifecycle.secure_root import StateDirs, secure_root
from engine.lifecycle.stage import Staged, stage
from engine.lifecycle.validate import validate
from engine.linux.syscall import library_call
from engine.options import Platform
from engine.state import store
from engine.state.gc import collect
from engine.state.record import Program
from engine.state.recorded import OtherProgramError, open_recorded, open_recorded_to_clean_up
from tests.support.forked import become_ordinary, can_run, failure, in_a_child

_NEW_USER_NAMESPACE = 0x10000000
_UNMAPPED = 100000


class World:
    """A base in which containers stage one binary."""

    def __init__(self, base: Path, binary: Path) -> None:
        self.base = base
        self.environment = {"ENGINE_ARTIFACT_BASE": str(base)}
        self._binary = str(binary)

    def stage(self, name: str) -> Staged:
        return stage(
            validate(Resolved(self._binary, "option"), Platform.AUTO), secure_root(name, self.environment)
        )

    def collect(self) -> None:
        collect(self.environment)

    @property
    def kept(self) -> list[Path]:
        return [path for path in (self.base / store.STORE).glob("*") if path.suffix != ".json"]


@pytest.fixture
def world(private: Path, binary: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(store, "SETTLED_NS", 0)  # the binary was made just now
    return World(private / "base", binary)


def program_of(staged: Staged) -> Program:
    """As a manager's container records it."""
    status = os.fstat(staged.runsc.descriptor)
    path = os.path.relpath(staged.runsc.path, staged.root.container.path)
    return Program(
        path, staged.runsc.digest, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    )


def leave(staged: Staged) -> StateDirs:
    """Let go of all that a run holds, as at its end: what it had of directories."""
    staged.close()
    os.close(staged.root.lock)
    return staged.root


def directories_of(staged: Staged, base: Path) -> list[Path]:
    """The engine's own directories above the copy, from the base on."""
    return [above for above in Path(staged.runsc.path).parents if above.is_relative_to(base)]


@pytest.mark.usefixtures("needs_root")
def test_every_directory_above_a_copy_is_private_and_the_copy_cannot_be_written(world: World) -> None:
    staged = world.stage("web")
    modes = [directory.stat().st_mode & 0o7777 for directory in directories_of(staged, world.base)]
    assert modes == [0o700] * 5
    for path in (Path(staged.runsc.path), *world.kept):
        assert path.stat().st_mode & 0o7777 == 0o555


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize("depth", range(5))
def test_each_directory_alone_keeps_other_users_from_the_copy(world: World, depth: int) -> None:
    staged = world.stage("web")
    directory = directories_of(staged, world.base)[depth]
    rest = str(Path(staged.runsc.path).relative_to(directory.parent))

    def act() -> list[int | None]:
        above = os.open(directory.parent, os.O_PATH)
        os.fchdir(above)  # as if each directory above could be passed
        become_ordinary()
        asked: list[Callable[[], object]] = [
            lambda: os.open(rest, os.O_RDONLY),
            lambda: os.open(rest, os.O_PATH),
            lambda: os.stat(rest),
            lambda: os.execv(rest, [rest]),
        ]
        return [failure(ask)[0] for ask in asked]

    assert in_a_child(act) == [errno.EACCES] * 4


def _enter_a_namespace_without_the_owner() -> None:
    """Become root of a user namespace where root of this one is not mapped."""
    ready, go = os.pipe()
    parent = os.getpid()
    helper = os.fork()
    if helper == 0:
        os.close(go)
        os.read(ready, 1)
        for kind in ("uid", "gid"):
            Path(f"/proc/{parent}/{kind}_map").write_text(f"0 {_UNMAPPED} 65536")
        os._exit(0)
    os.close(ready)
    library_call("unshare", _NEW_USER_NAMESPACE)
    os.close(go)
    assert os.waitpid(helper, 0)[1] == 0
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    library_call("prctl", 4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: as after execve, its files in /proc are its own


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize(("mode", "code"), [(0o555, 0), (0o500, 13)])
def test_a_namespace_without_the_owner_executes_the_copy_by_descriptor_only(
    world: World, mode: int, code: int
) -> None:
    """runsc executes /proc/self/exe there, a magic link as those in /proc/self/fd."""
    staged = world.stage("web")
    os.chmod(staged.runsc.path, mode)

    def act() -> tuple[int, int]:
        _enter_a_namespace_without_the_owner()
        return can_run(f"/proc/self/fd/{staged.runsc.descriptor}"), can_run(staged.runsc.path)

    assert in_a_child(act) == (code, 13)


@pytest.mark.parametrize(
    ("mode", "is_it"), [(0o555, True), (0o500, True), (0o700, False), (0o755, False), (0o444, False)]
)
def test_a_recorded_copy_has_the_mode_of_this_engine_or_of_an_older_one(
    world: World, mode: int, is_it: bool
) -> None:
    staged = world.stage("web")
    program, container = program_of(staged), staged.root.container
    os.chmod(staged.runsc.path, mode)
    if is_it:
        assert open_recorded(container, program) > 0
        assert open_recorded_to_clean_up(container, program) is not None
    else:
        with pytest.raises(OtherProgramError):
            open_recorded(container, program)
        assert open_recorded_to_clean_up(container, program) is None


def test_no_new_container_gets_a_copy_of_an_older_engine(world: World) -> None:
    before = world.stage("before")
    [old] = world.kept
    old.chmod(0o500)
    after = world.stage("after")
    assert not after.runsc.from_store
    assert not os.path.samefile(before.runsc.path, after.runsc.path)
    modes = [os.stat(staged.runsc.path).st_mode & 0o7777 for staged in (before, after)]
    assert modes == [0o500, 0o555]
    [kept] = world.kept
    assert kept.samefile(after.runsc.path)


def test_gc_removes_the_copies_of_an_older_engine(world: World) -> None:
    ended = leave(world.stage("ended"))
    [old] = world.kept
    old.chmod(0o500)
    world.collect()
    assert not os.path.lexists(ended.container.path)
    assert world.kept == []
