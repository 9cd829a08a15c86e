"""`engine trace list`, `show` and `path`: runs of an id are told apart; what cannot be read stops no list."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli.main import main
from engine.errors import Reason
from engine.state.container import component
from engine.state.trace_files import TraceFilesError, choose, find
from tests.support.refusals import refuses
from tests.support.stories import Story

FIRST, SECOND = "20260101T000000Z-0123abcd", "20260201T000000Z-0123abce"


@pytest.fixture
def base(private: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = private / "base"
    (made / "traces").mkdir(mode=0o700, parents=True)
    made.chmod(0o700)
    monkeypatch.setenv("ENGINE_ARTIFACT_BASE", str(made))
    return made


def write(base: Path, run: str, container_id: str = "web", **story: object) -> Path:
    return Story(**story).write(base / "traces" / f"{container_id}-{run}.jsonl")  # type: ignore[arg-type]


def listed(base: Path) -> list[tuple[str, str, str]]:
    return [
        (one.container, one.run, one.end) for one in find({"ENGINE_ARTIFACT_BASE": str(base)}, pytest.fail)
    ]


def test_list_says_of_each_run_how_it_ended(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(base, FIRST)
    write(base, SECOND, steps=2, end="refused")
    write(base, FIRST, "web-2", steps=2, end="killed").with_suffix(".jsonl.sig").touch()
    assert main(["trace", "list", "--json"]) == 0
    rows = {
        row["container"] + row["run"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())
    }
    assert {key: row["end"].partition(":")[0] for key, row in rows.items()} == {
        f"web{FIRST}": "handed off, end unknown",
        f"web{SECOND}": "refused",
        f"web-2{FIRST}": "unfinished",
    }
    assert [row["signed"] for row in rows.values()].count(True) == 1
    assert main(["trace", "list", "web"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in shown[1:]] == [FIRST, SECOND]


def test_runs_of_one_id_are_told_apart(base: Path) -> None:
    environment = {"ENGINE_ARTIFACT_BASE": str(base)}
    first, second = write(base, FIRST), write(base, SECOND)
    other = write(base, FIRST, "web-2")
    with refuses(TraceFilesError, Reason.USAGE, "2 traces", "web"):
        choose(environment, "web", pytest.fail)
    assert choose(environment, "web", pytest.fail, last=True).path in {str(first), str(second)}
    assert choose(environment, SECOND, pytest.fail).path == str(second)
    assert choose(environment, "web-2", pytest.fail).path == str(other)
    with refuses(TraceFilesError, Reason.NO_SUCH, "db"):
        choose(environment, "db", pytest.fail)


def test_path_prints_the_path_alone(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(base, FIRST)
    assert main(["trace", "path", "web"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert main(["trace", "path", "db"]) == 125


def test_traces_of_older_engines_are_found(base: Path) -> None:
    container = base / component("old")
    container.mkdir(mode=0o700)
    Story().write(container / f"trace-{FIRST}.jsonl")
    found = find({"ENGINE_ARTIFACT_BASE": str(base)}, pytest.fail)
    header = json.loads((container / f"trace-{FIRST}.jsonl").read_text().splitlines()[0])
    assert [(one.container, one.run) for one in found] == [(header["container"], FIRST)]


def test_what_cannot_be_read_is_listed_and_stops_nothing(base: Path) -> None:
    write(base, SECOND)
    traces = base / "traces"
    (traces / f"empty-{FIRST}.jsonl").touch()
    (traces / f"noise-{FIRST}.jsonl").write_bytes(b"\xff\n[1]\n")
    (traces / f"deep-{FIRST}.jsonl").write_text("[" * 100_000 + "\n")
    (traces / f"link-{FIRST}.jsonl").symlink_to("/dev/zero")
    (traces / f"folder-{FIRST}.jsonl").mkdir()
    (traces / "notes").touch()
    assert {end for container, _, end in listed(base) if container != "web"} == {"unreadable"}
    assert len(listed(base)) == 6


def test_a_place_that_is_not_private_is_left_out_and_named(base: Path) -> None:
    write(base, FIRST)
    (base / "traces").chmod(0o755)
    said: list[str] = []
    assert find({"ENGINE_ARTIFACT_BASE": str(base)}, said.append) == []
    assert len(said) == 1
    assert str(base / "traces") in said[0]


@pytest.mark.parametrize("as_json", [False, True])
def test_show_says_what_ran_the_steps_and_the_verdict(
    base: Path, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(base, FIRST)
    assert main(["trace", "show", FIRST, *(["--json"] if as_json else [])]) == 0
    said = capsys.readouterr().out
    if as_json:
        shown = json.loads(said)
        assert (shown["path"], shown["verdict"], shown["signature"]["standing"]) == (
            str(path),
            "conforms",
            "not signed",
        )
        assert shown["lines"] == [json.loads(line) for line in path.read_text().splitlines()]
    else:
        keys = [line.split()[0] for line in said.splitlines()]
        assert [key for key in keys if key in ("resolve", "exec", "verdict", "signature")] == [
            "resolve",
            "exec",
            "verdict",
            "signature",
        ]


def test_show_of_an_edited_trace_says_so_and_fails(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(base, FIRST)
    path.write_bytes(path.read_bytes().replace(b'"resolve"', b'"stage"', 1))
    assert main(["trace", "show", "web", "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["verdict"], len(shown["lines"])) == ("differs", 1)


def test_verify_without_a_key_says_that_there_is_a_signature(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(base, FIRST)
    for is_signed in (False, True):
        assert main(["trace", "verify", str(path)]) == 0
        assert ("; signed, not checked" in capsys.readouterr().out) is is_signed
        assert main(["trace", "verify", "--json", str(path)]) == 0
        assert json.loads(capsys.readouterr().out)["signed"] is is_signed
        Path(f"{path}.sig").touch()
