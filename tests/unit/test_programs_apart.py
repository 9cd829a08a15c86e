"""Staged programs that lie apart from the state: what names what, and what is taken back."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from engine.errors import SecureRootError
from engine.lifecycle import secure_root as secure_root_step
from engine.lifecycle.resolve import Resolved
from engine.lifecycle.secure_root import StateDirs, secure_root
from engine.lifecycle.stage import Staged, stage
from engine.lifecycle.validate import validate
from engine.linux.boot import boot_id
from engine.options import Platform
from engine.state.base import open_base

NAME = re.compile(rf"stage-{boot_id()}-[0-9a-f]{{16}}")


@pytest.fixture
def place(private: Path) -> Path:
    return private / "programs"


@pytest.fixture
def root(private: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> StateDirs:
    monkeypatch.setattr(secure_root_step, "open_place", lambda _: open_base(str(place)))
    return secure_root("web", {"ENGINE_ARTIFACT_BASE": str(private / "base")})


@pytest.fixture
def staged(root: StateDirs, binary: Path) -> Staged:
    return stage(validate(Resolved(str(binary), "option"), Platform.AUTO), root)


def stages(place: Path) -> list[str]:
    return [name for name in os.listdir(place) if name != "staged"]


def test_the_place_is_recorded_with_owner_and_mode(root: StateDirs, place: Path) -> None:
    assert root.facts()["programs"] == {
        "path": str(place),
        "owner": os.geteuid(),
        "mode": "0700",
        "created": True,
    }


def test_a_place_that_was_moved_is_a_change(root: StateDirs, place: Path) -> None:
    assert root.changed() is None
    place.rename(place.with_name("elsewhere"))
    said = root.changed()
    assert said is not None
    assert str(place) in said


def test_closing_the_root_closes_the_place(root: StateDirs) -> None:
    assert root.programs is not None
    root.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(root.programs.descriptor)


def test_a_refusal_closes_the_place(private: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def opening(_: object) -> object:
        opened.append(open_base(str(place)))
        return opened[-1]

    def failing(_: object) -> None:
        raise OSError(5, "Input/output error", "the sandbox")

    monkeypatch.setattr(secure_root_step, "open_place", opening)
    with pytest.raises(SecureRootError):
        secure_root("web", {"ENGINE_ARTIFACT_BASE": str(private / "base")}, failing)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0].descriptor)


def test_container_and_stage_directory_name_each_other(
    root: StateDirs, staged: Staged, place: Path, binary: Path
) -> None:
    (name,) = stages(place)
    assert NAME.fullmatch(name)
    assert staged.runsc.path == str(place / name / "runsc")
    assert Path(staged.runsc.path).read_bytes() == binary.read_bytes()
    assert os.readlink(Path(root.container.path, "programs")) == str(place / name)
    assert os.readlink(place / name / "state") == root.container.path
    assert staged.exec_allow.path == str(place)
    assert not staged.exec_allow.created


def test_discarding_takes_both_links_and_the_program(root: StateDirs, staged: Staged, place: Path) -> None:
    (name,) = stages(place)
    gone = staged.discard()
    assert gone[0] == str(place / name)
    assert stages(place) == []
    assert not os.path.lexists(Path(root.container.path, "programs"))


def test_discarding_leaves_another_directory_in_the_place(staged: Staged, place: Path) -> None:
    (name,) = stages(place)
    (place / name).rename(place / "moved")
    (place / name).mkdir()
    (place / name / "runsc").touch()
    assert str(place / name) not in staged.discard()
    assert (place / name / "runsc").exists()


def test_closing_the_staged_copy_leaves_the_place_open(root: StateDirs, staged: Staged) -> None:
    staged.close()
    assert root.programs is not None
    os.fstat(root.programs.descriptor)
