"""Where programs lie apart from the state: who removes what, and what is foreseen of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine.linux.files import PrivateDirectory
from engine.state import programs
from engine.state.base import open_base
from engine.state.cleanup import remove_programs
from engine.state.container import component


@pytest.fixture
def opened() -> Iterator[Callable[[Path], PrivateDirectory]]:
    """Makes or adopts a private directory, open until the test ends."""
    with ExitStack() as held:

        def open_it(path: Path) -> PrivateDirectory:
            directory = open_base(str(path))
            held.callback(directory.close)
            return directory

        yield open_it


@pytest.fixture
def default(private: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default place for programs, which is not there; the default base is beside it."""
    place = private / "programs"
    monkeypatch.setattr(programs, "default_place", lambda: str(place))
    monkeypatch.setattr(programs, "default_base", lambda: str(private / "base"))
    return place


def staged(place: PrivateDirectory, container: PrivateDirectory) -> Path:
    """A stage directory of the container with a program in it, which no run uses any more."""
    stage = programs.make_stage(place, container, programs.new_name())
    stage.close()
    Path(stage.path, programs.PROGRAM).write_text("a runsc")
    return Path(stage.path)


def test_remove_programs_leaves_another_containers(
    private: Path, opened: Callable[[Path], PrivateDirectory]
) -> None:
    place, base = opened(private / "programs"), private / "base"
    opened(base)
    web, db = opened(base / component("web")), opened(base / component("db"))
    stage = staged(place, web)
    link = Path(db.path, "programs")
    link.symlink_to(stage)
    assert remove_programs(db) == []
    assert not link.is_symlink()
    assert (stage / programs.PROGRAM).exists()
    assert remove_programs(web) == [str(stage)]
    assert not stage.exists()


def test_remove_programs_removes_what_the_other_does_not_name(
    private: Path, opened: Callable[[Path], PrivateDirectory]
) -> None:
    place, base = opened(private / "programs"), private / "base"
    opened(base)
    web, db = opened(base / component("web")), opened(base / component("db"))
    stage = staged(place, web)
    Path(web.path, "programs").rename(Path(db.path, "programs"))
    assert remove_programs(db) == [str(stage)]


def absent(place: Path) -> None:
    assert not place.exists()


def good(place: Path) -> None:
    place.mkdir(mode=0o700)


def link(place: Path) -> None:
    (place.parent / "big").mkdir(mode=0o700)
    place.symlink_to(place.parent / "big")


def file(place: Path) -> None:
    place.touch()


def loose(place: Path) -> None:
    place.mkdir()
    place.chmod(0o755)


@pytest.mark.parametrize("prepare", [absent, good, link, file, loose])
def test_foresee_says_what_open_place_does(
    prepare: Callable[[Path], None],
    private: Path,
    default: Path,
    opened: Callable[[Path], PrivateDirectory],
) -> None:
    base = opened(private / "base")
    prepare(default)
    foreseen = programs.foresee(base.path)
    place = programs.open_place(base)
    if place is not None:
        place.close()
    assert foreseen == (None if place is None else place.path)
    assert (foreseen is None) == (prepare in (link, file, loose))


def test_foresee_follows_a_link_above_the_place(
    private: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[[Path], PrivateDirectory], default: Path
) -> None:
    base = opened(private / "base")
    (private / "big").mkdir(mode=0o700)
    (private / "link").symlink_to(private / "big")
    monkeypatch.setattr(programs, "default_place", lambda: f"{private}/link/programs")
    foreseen = programs.foresee(base.path)
    place = programs.open_place(base)
    assert place is not None
    place.close()
    assert foreseen == place.path == f"{private}/big/programs"
    assert not default.exists()
