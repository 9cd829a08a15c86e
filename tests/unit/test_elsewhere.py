"""The notes of which chosen bases have containers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from engine.state import elsewhere
from engine.state.container import component
from engine.state.elsewhere import bases, forget, note, prune

WEB, DB = component("web"), component("db")


@pytest.fixture(autouse=True)
def default(private: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(elsewhere, "default_base", lambda: str(private / "base"))
    return private / "base"


def test_two_bases_with_one_id_are_both_noted() -> None:
    note(WEB, "/one")
    note(WEB, "/other")
    note(WEB, "/other")
    assert bases() == ("/one", "/other")
    forget(WEB, "/other")
    assert bases() == ("/one",)


def test_a_base_is_noted_until_its_last_container_is_forgotten() -> None:
    note(WEB, "/one")
    note(DB, "/one")
    forget(WEB, "/one")
    assert bases() == ("/one",)
    forget(DB, "/one")
    assert bases() == ()


def test_prune_forgets_what_is_gone_but_not_what_is_being_created(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = private / "there"
    (there / WEB).mkdir(parents=True)
    note(WEB, str(there))
    note(WEB, "/gone")
    prune()
    assert bases() == ("/gone", str(there))
    later = time.time() + 100
    monkeypatch.setattr(time, "time", lambda: later)
    prune()
    assert bases() == (str(there),)


@pytest.mark.parametrize("name", [WEB, f"{WEB}@0123456789abcdef", f"notes@{0:016x}"])
def test_a_link_that_no_note_made_is_passed_over(default: Path, name: str) -> None:
    note(DB, "/one")
    (default / "elsewhere" / name).symlink_to("/other")
    assert bases() == ("/one",)
    assert len(os.listdir(default / "elsewhere")) == 2


def test_notes_in_a_base_that_others_can_read_are_none(default: Path) -> None:
    note(WEB, "/one")
    default.chmod(0o755)
    assert bases() == ()
    note(DB, "/other")
    default.chmod(0o700)
    assert bases() == ("/one",)
