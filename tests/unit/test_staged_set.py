"""Step `stage` and the last look, of an installation: each file is staged, held and looked at as runsc's is."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest

from engine.errors import Reason, StageError
from engine.lifecycle import secure_root as secure_root_step
from engine.lifecycle import staged_file
from engine.lifecycle.resolve import Resolved
from engine.lifecycle.secure_root import StateDirs, secure_root
from engine.lifecycle.stage import Staged, stage
from engine.lifecycle.validate import Validated, validate
from engine.linux.locks import has_lease
from engine.options import Platform
from engine.state import programs, store
from engine.state.base import open_base
from engine.state.gc import collect
from engine.traces.schema import PinnedSidecar, StagedSidecar, StageFacts, ValidateFacts
from tests.support.refusals import refuses

SENTRY = "gvisor_sentry"
NAMES = ["gvisor-sentry-prewarmer", SENTRY, "of-a-later-version"]


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SETTLED_NS", 0)  # the files were made just now


@pytest.fixture
def environment(private: Path) -> dict[str, str]:
    return {"ENGINE_ARTIFACT_BASE": str(private / "base")}


@pytest.fixture(params=["within", "apart"])
def root(
    request: pytest.FixtureRequest,
    private: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> StateDirs:
    if request.param == "apart":
        monkeypatch.setattr(secure_root_step, "open_place", lambda _: open_base(str(private / "programs")))
    return secure_root("web", environment)


@pytest.fixture
def pinned(installation: Path) -> Iterator[Validated]:
    pinned = validate(Resolved(str(installation / "runsc"), "option"), Platform.AUTO)
    yield pinned
    pinned.close()


@pytest.fixture
def staged(pinned: Validated, root: StateDirs) -> Staged:
    return stage(pinned, root)


def remains(private: Path) -> list[Path]:
    return list(private.rglob("stage-*"))


def test_files_lie_in_the_layout_of_an_installation(staged: Staged, installation: Path) -> None:
    directory = Path(staged.runsc.path).parent
    assert [sidecar.name for sidecar in staged.sidecars] == NAMES
    for name, at in (("runsc", "runsc"), *((name, f"gvisor-bin/{name}") for name in NAMES)):
        path = directory / at
        assert path.read_bytes() == (installation / at).read_bytes(), name
        assert path.stat().st_mode & 0o7777 == 0o555
    assert (directory / "gvisor-bin").stat().st_mode & 0o7777 == 0o700
    assert sorted(os.listdir(directory / "gvisor-bin")) == NAMES


@pytest.mark.parametrize("from_store", [False, True])
def test_what_is_executed_was_opened_by_its_staged_name(
    pinned: Validated, environment: dict[str, str], from_store: bool
) -> None:
    for container in ("first", "second") if from_store else ("first",):
        staged = stage(pinned, secure_root(container, environment))
    for file in (staged.runsc, *staged.sidecars):
        assert file.from_store is from_store
        assert os.readlink(f"/proc/self/fd/{file.descriptor}") == file.path
        assert has_lease(file.descriptor)
        assert not os.get_inheritable(file.descriptor)


def test_the_sandbox_executes_the_sentry(staged: Staged) -> None:
    status = (Path(staged.runsc.path).parent / "gvisor-bin" / SENTRY).stat()
    assert staged.sandbox_file == (status.st_dev, status.st_ino)


def test_the_sandbox_of_one_file_executes_runsc(binary: Path, root: StateDirs) -> None:
    staged = stage(validate(Resolved(str(binary), "option"), Platform.AUTO), root)
    status = os.stat(staged.runsc.path)
    assert staged.sandbox_file == (status.st_dev, status.st_ino)
    assert "sidecars" not in staged.facts()


def test_each_file_is_recorded(staged: Staged, pinned: Validated, installation: Path) -> None:
    facts, validated = staged.facts()["sidecars"], pinned.facts()["sidecars"]
    content = (installation / "gvisor-bin" / SENTRY).read_bytes()
    assert facts[1] == {
        "name": SENTRY,
        "path": os.path.join(os.path.dirname(staged.runsc.path), "gvisor-bin", SENTRY),
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "mode": "0555",
        "pinned": validated[1]["identity"],
        "made_from": validated[1]["identity"],
        "from_store": False,
        "shared": True,
        "hashed": True,
        "compared": False,
    }


def test_what_is_recorded_has_the_schemas_fields_in_order(staged: Staged, pinned: Validated) -> None:
    pinned.unenforced = ()
    for facts, kind, of_sidecar in (
        (pinned.facts(), ValidateFacts, PinnedSidecar),
        (staged.facts(), StageFacts, StagedSidecar),
    ):
        msgspec.convert(facts, kind, strict=True)
        assert list(facts) == list(get_type_hints(kind))
        for sidecar in facts["sidecars"]:
            assert list(sidecar) == list(get_type_hints(of_sidecar))


def test_a_second_run_links_every_file_and_reads_none(pinned: Validated, environment: dict[str, str]) -> None:
    first = stage(pinned, secure_root("first", environment))
    second = stage(pinned, secure_root("second", environment))
    for one, other in zip((first.runsc, *first.sidecars), (second.runsc, *second.sidecars), strict=True):
        assert os.path.samestat(os.fstat(one.descriptor), os.fstat(other.descriptor))
        assert (other.from_store, other.hashed, other.compared) == (True, False, False)
        assert other.digest == one.digest


def replace(path: Path) -> None:
    shutil.copyfile(path, path.with_name("new"))
    os.chmod(path.with_name("new"), 0o555)
    path.with_name("new").rename(path)


def remove(path: Path) -> None:
    path.unlink()


def link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


@pytest.mark.parametrize("at", ["runsc", *(f"gvisor-bin/{name}" for name in NAMES)])
@pytest.mark.parametrize("change", [replace, remove, link])
def test_a_set_of_which_one_file_changed_is_not_what_was_staged(
    staged: Staged, at: str, change: Callable[[Path], None]
) -> None:
    assert staged.changed() is None
    path = Path(staged.runsc.path).parent / at
    change(path)
    said = staged.changed()
    assert said is not None
    assert repr(str(path)) in said


@pytest.mark.parametrize("at", ["gvisor-bin", "."])
def test_a_directory_that_was_replaced_is_not_what_was_staged(staged: Staged, at: str) -> None:
    directory = Path(staged.runsc.path).parent / at
    moved = directory.with_name("moved")
    directory.rename(moved)
    shutil.copytree(moved, directory, symlinks=True)
    directory.chmod(0o700)
    said = staged.changed()
    assert said is not None
    assert repr(str(directory)) in said


def test_a_replaced_exec_allow_is_not_what_was_staged(pinned: Validated, environment: dict[str, str]) -> None:
    staged = stage(pinned, secure_root("web", environment))
    exec_allow = Path(staged.exec_allow.path)
    exec_allow.rename(exec_allow.with_name("moved"))
    shutil.copytree(exec_allow.with_name("moved"), exec_allow)
    said = staged.changed()
    assert said is not None
    assert repr(str(exec_allow)) in said


@pytest.mark.parametrize("number", range(3))
def test_a_sidecar_opened_for_writing_is_not_what_was_staged(staged: Staged, number: int) -> None:
    sidecar = staged.sidecars[number]
    os.chmod(sidecar.path, 0o700)
    with pytest.raises(BlockingIOError):
        os.open(sidecar.path, os.O_WRONLY | os.O_NONBLOCK)
    said = staged.changed()
    assert said is not None
    assert repr(sidecar.path) in said


@pytest.mark.parametrize("at", ["runsc", *(f"gvisor-bin/{name}" for name in NAMES)])
@pytest.mark.parametrize("how", ["rewritten", "touched"])
def test_a_file_that_changed_since_it_was_judged_is_not_staged(
    pinned: Validated, root: StateDirs, installation: Path, private: Path, at: str, how: str
) -> None:
    path = installation / at
    if how == "rewritten":
        with path.open("r+b") as file:
            file.write(b"\x7fELF trojan")
    else:
        path.chmod(0o700)
    with refuses(StageError, Reason.NOT_WHAT_WAS_PINNED, repr(str(path))):
        stage(pinned, root)
    assert remains(private) == []


@pytest.mark.parametrize("at", ["runsc", *NAMES])
def test_no_half_of_a_set_stays(
    pinned: Validated, root: StateDirs, private: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    real = os.open

    def full(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if path == at and flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return real(path, flags, *arguments, **named)

    with monkeypatch.context() as patch, refuses(StageError, Reason.FAILURE, "No space left on device"):
        patch.setattr("os.open", full)
        stage(pinned, root)
    assert remains(private) == []
    assert list(private.rglob("staged/*")) == []


def test_a_name_that_no_longer_leads_to_what_was_linked_is_refused(
    pinned: Validated, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(pinned, secure_root("first", environment))
    root = secure_root("second", environment)
    real = staged_file._reopen

    def exchanged(name: str, directory: Any) -> int:
        if name == SENTRY:
            replace(Path(directory.path, name))
        return real(name, directory)

    monkeypatch.setattr(staged_file, "_reopen", exchanged)
    with refuses(StageError, Reason.NOT_WHAT_WAS_PINNED, "gvisor-bin"):
        stage(pinned, root)
    assert not list(Path(root.container.path).rglob("stage-*"))


def test_a_store_that_another_has_gives_each_file_a_copy(
    pinned: Validated, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stage(pinned, secure_root("first", environment))
    monkeypatch.setattr(store, "TIMEOUT", 0.0)
    monkeypatch.setattr(store, "lock", lambda *_: False)
    second = stage(pinned, secure_root("second", environment))
    for one, other in zip((first.runsc, *first.sidecars), (second.runsc, *second.sidecars), strict=True):
        assert (other.from_store, other.shared, other.hashed) == (False, False, True)
        assert not os.path.samestat(os.fstat(one.descriptor), os.fstat(other.descriptor))
    assert second.changed() is None


def test_a_set_can_be_taken_back(staged: Staged, private: Path) -> None:
    gone = staged.discard()
    staged.close()
    assert os.path.dirname(staged.runsc.path) in gone
    assert remains(private) == []
    assert list(private.rglob("staged")) == []
    for file in (staged.runsc, *staged.sidecars):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(file.descriptor)


def a_directory(path: Path) -> None:
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "file").touch()


def a_closed_directory(path: Path) -> None:
    a_directory(path)
    (path / "inner").chmod(0)
    path.chmod(0o555)


def a_deep_directory(path: Path) -> None:
    """Deeper than the interpreter's stack and the number of descriptors."""
    path.mkdir()
    here = os.open(path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("x", dir_fd=here)
        inner = os.open("x", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


def a_link_to_precious(path: Path) -> None:
    path.symlink_to(path.parents[len(path.parents) - 3])


def a_link_within(path: Path) -> None:
    path.mkdir()
    a_link_to_precious(path / "link")


KINDS = [a_directory, a_closed_directory, a_link_to_precious, a_link_within, os.mkfifo]
PLACES = ["gvisor-bin/foreign", "foreign", "gvisor-bin/gvisor_sentry", "runsc", "gvisor-bin", "state"]


@pytest.mark.parametrize(
    ("at", "kind"),
    [
        *((at, kind) for at in PLACES for kind in KINDS if (at, kind) != ("state", a_link_to_precious)),
        ("gvisor-bin/foreign", a_deep_directory),
    ],
)
def test_whatever_is_in_a_stage_is_removed_with_it(
    staged: Staged,
    root: StateDirs,
    private: Path,
    environment: dict[str, str],
    kind: Callable[[Path], None],
    at: str,
) -> None:
    """No entry there blocks the container for ever, and none is followed."""
    (private / "precious").touch()
    path = Path(staged.runsc.path).parent / at
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    kind(path)
    staged.close()
    root.close()
    collected = collect(environment)
    assert (collected.failed, collected.foreign) == ((), ())
    assert remains(private / "base") == []
    again = secure_root("web", environment)
    again.close()
    assert (private / "precious").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", ["gvisor-bin/foreign", "foreign"])
def test_a_set_with_another_entry_can_be_taken_back(
    staged: Staged, private: Path, kind: Callable[[Path], None], at: str
) -> None:
    kind(Path(staged.runsc.path).parent / at)
    assert os.path.dirname(staged.runsc.path) in staged.discard()
    assert remains(private) == []


@pytest.mark.parametrize("at", ["programs", "runsc-root/exec-allow/foreign", "runsc-root/exec-allow"])
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_in_the_containers_directory_is_removed(
    private: Path, environment: dict[str, str], kind: Callable[[Path], None], at: str
) -> None:
    (private / "precious").touch()
    root = secure_root("web", environment)
    path = Path(root.container.path) / at
    path.parent.mkdir(mode=0o700, exist_ok=True)
    (Path(root.runsc_root.path) / "x_sandbox:x.state").touch()  # so that runsc is looked for there
    kind(path)
    root.close()
    collected = collect(environment)
    assert collected.removed == (root.container.path,) or (at, kind) == ("programs", a_link_to_precious)
    assert (private / "precious").exists()


def test_a_directory_in_the_store_goes_with_it(
    staged: Staged, root: StateDirs, environment: dict[str, str]
) -> None:
    place = root.programs or root.base
    a_directory(Path(place.path) / store.STORE / "0-0")
    staged.close()
    root.close()
    assert collect(environment).failed == ()


def test_what_cannot_be_removed_is_named_and_all_else_goes(
    needs_root: None,
    staged: Staged,
    root: StateDirs,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where somebody gave it the attribute that chattr(1) calls immutable."""
    folder = Path(staged.runsc.path).parent / "gvisor-bin"
    a_directory(folder / "a")
    a_directory(folder / "b")
    real = os.unlink

    def unlink(path: Any, *, dir_fd: int | None = None) -> None:
        if path == "file" and "/a/" in os.readlink(f"/proc/self/fd/{dir_fd}"):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        real(path, dir_fd=dir_fd)

    monkeypatch.setattr("os.unlink", unlink)
    with pytest.raises(PermissionError) as failure:
        staged.discard()
    assert failure.value.filename == str(folder / "a" / "inner" / "file")
    assert not (folder / "b").exists()
    staged.close()
    root.close()
    if root.programs is None:
        assert collect(environment).failed == ((failure.value.filename, "Operation not permitted"),)


def test_gc_removes_a_set_that_is_over(
    staged: Staged, root: StateDirs, private: Path, environment: dict[str, str]
) -> None:
    staged.close()
    root.close()
    collect(environment)
    assert remains(private) == ([] if root.programs is None else remains(private / "programs"))
    assert not list((private / "base").rglob("gvisor-bin"))


@pytest.mark.parametrize("at", ["runsc", "gvisor-bin/gvisor_sentry"])
def test_a_stage_of_which_any_file_is_executed_stays(
    private: Path, installation: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Its state is gone, as after a logout: then only what is executed tells that its container lives."""
    sleep = shutil.which("sleep")
    assert sleep is not None
    added = (installation / at).read_bytes()
    shutil.copy(sleep, installation / at)
    with (installation / at).open("ab") as file:
        file.write(added)
    monkeypatch.setattr(secure_root_step, "open_place", lambda _: open_base(str(private / "programs")))
    root = secure_root("web", environment)
    staged = stage(validate(Resolved(str(installation / "runsc"), "option"), Platform.AUTO), root)
    stage_path = Path(staged.runsc.path).parent
    staged.close()
    root.close()
    shutil.rmtree(private / "base")
    with closing(open_base(str(private / "programs"))) as place:
        living = subprocess.Popen([stage_path / at, "60"])
        try:
            assert not programs.may_go(place, stage_path.name)
        finally:
            living.kill()
            living.wait()
        assert programs.may_go(place, stage_path.name)
