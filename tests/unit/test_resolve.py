"""Step `resolve`: which file is runsc."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from engine.errors import Reason, ResolveError
from engine.lifecycle.resolve import TRUSTED_PATHS, resolve
from tests.support.refusals import refuses
from tools.system_parts import RUNSC_PATHS


def executable(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x7fELF")
    path.chmod(0o755)
    return str(path)


def as_user(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)


def test_page_and_setup_name_the_trusted_paths_in_their_order() -> None:
    page = (Path(__file__).parents[2] / "docs/usage.md").read_text()
    (row,) = re.findall(r"^\| `--runsc PATH` \|.*$", page, re.MULTILINE)
    assert tuple(re.findall(r"`(/[^`]*)`", row)) == TRUSTED_PATHS
    assert RUNSC_PATHS == TRUSTED_PATHS


def test_the_first_trusted_path_that_is_an_executable_file_wins(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "plain").write_text("not executable")
    first, second = executable(tmp_path / "a" / "runsc"), executable(tmp_path / "b" / "runsc")
    paths = [str(tmp_path / "missing"), str(tmp_path / "directory"), str(tmp_path / "plain"), first, second]
    found = resolve(None, {"PATH": str(tmp_path / "b")}, trusted_paths=paths)
    assert (found.path, found.found_by) == (first, "trusted path")


def test_requested_path_comes_before_a_trusted_one(tmp_path: Path) -> None:
    chosen, trusted = executable(tmp_path / "a"), executable(tmp_path / "b")
    found = resolve(chosen, {}, trusted_paths=[trusted])
    assert (found.path, found.found_by) == (chosen, "option")
    assert found.facts() == {"path": chosen, "found_by": "option"}


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "runsc")
    monkeypatch.chdir(tmp_path)
    assert resolve("runsc", {}).path == str(tmp_path / "runsc")


@pytest.mark.parametrize(
    ("chosen", "fact"), [("/no/such/runsc", "'/no/such/runsc'"), ("", "'runsc'"), ("/tmp/\0", "NUL")]
)
def test_a_path_that_was_asked_for_and_does_not_exist_is_refused(
    chosen: str, fact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = executable(tmp_path / "runsc")
    if chosen == "":
        chosen = "runsc"
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
    with refuses(ResolveError, Reason.NOT_FOUND, fact):
        resolve(chosen, {}, trusted_paths=[trusted])


@pytest.mark.parametrize(
    ("mode", "runs"), [(0o500, True), (0o410, True), (0o401, True), (0o644, False), (0o666, False)]
)
def test_a_file_that_anybody_at_all_may_execute_is_found(tmp_path: Path, mode: int, runs: bool) -> None:
    first, second = executable(tmp_path / "first"), executable(tmp_path / "second")
    os.chmod(first, mode)
    assert resolve(None, {}, trusted_paths=[first, second]).path == (first if runs else second)


def test_root_does_not_search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "runsc")
    as_user(monkeypatch, 0)
    with refuses(ResolveError, Reason.PATH_SEARCHED_AS_ROOT, "/no/a, /no/b"):
        resolve(None, {"PATH": str(tmp_path)}, trusted_paths=["/no/a", "/no/b"])


def test_others_search_the_absolute_entries_of_path_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_user(monkeypatch, 1000)
    monkeypatch.chdir(tmp_path)
    executable(tmp_path / "relative" / "runsc")
    executable(tmp_path / "runsc")
    second = executable(tmp_path / "b" / "runsc")
    executable(tmp_path / "c" / "runsc")
    path = os.pathsep.join(["", "relative", str(tmp_path / "none"), str(tmp_path / "b"), str(tmp_path / "c")])
    found = resolve(None, {"PATH": path}, trusted_paths=[])
    assert (found.path, found.found_by) == (second, "PATH")


def test_nothing_found_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, 1000)
    with refuses(ResolveError, Reason.NOT_FOUND, "/no/a, /no/b"):
        resolve(None, {"PATH": str(tmp_path)}, trusted_paths=["/no/a", "/no/b"])
    with refuses(ResolveError, Reason.NOT_FOUND):
        resolve(None, {}, trusted_paths=[])


def test_the_search_follows_links_as_the_shell_does(tmp_path: Path) -> None:
    shutil.copy("/bin/true", tmp_path / "true")
    (tmp_path / "runsc").symlink_to("true")
    (tmp_path / "broken").symlink_to("gone")
    paths = [str(tmp_path / "broken"), str(tmp_path / "runsc")]
    assert resolve(None, {}, trusted_paths=paths).path == str(tmp_path / "runsc")
