"""The fleet's tables, JSON and CSV count each run once, by what its reliable lines say, and stay small."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from engine.audit import tally
from engine.audit.fleet import Form, fleet_page, traces_in
from engine.audit.tally import COLUMNS, OTHERS, Kind
from engine.cli.main import main
from engine.verify.workers import Processes
from tests.support.report_traces import rewritten
from tests.support.stories import Line, Story


def on_host(name: str) -> Any:
    def change(lines: list[Line]) -> list[Line]:
        lines[0]["host"]["name"] = name
        return lines

    return change


@pytest.fixture
def traces(private: Path) -> Path:
    """Runs that differ in each column: two of one host, one refused early, one rootless, one changed by hand."""
    Story().write(private / "a.jsonl")
    rewritten(Story().write(private / "b.jsonl"), on_host("node8"))
    Story(steps=1, end="refused").write(private / "c.jsonl")
    Story(rootless=True, enforced=True, user=1000).write(private / "d.jsonl")
    edited = Story().write(private / "e.jsonl")
    edited.write_bytes(edited.read_bytes().replace(b"0755", b"0777"))
    return private


def said(directory: Path, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        fleet_page(traces_in(str(directory)), signers=None, form=Form.JSON, **options)
    )
    return found


def by(found: dict[str, Any], name: str) -> dict[str, int]:
    return {row["value"]: row["runs"] for row in found["tables"][name]}


def test_each_column_counts_every_run_once(traces: Path) -> None:
    found = said(traces)
    assert list(found["tables"]) == [*COLUMNS]
    for name in COLUMNS:
        assert sum(by(found, name).values()) == found["total"] == 5
        for row in found["tables"][name]:
            assert sum(row["outcomes"].values()) == row["runs"]
    assert by(found, "host") == {"node7": 3, "node8": 1, "not reliable": 1}
    assert by(found, "runsc") == {
        "release-20260914.0, SHA-256 cdcdcdcdcdcd…": 3,
        "not reached": 1,
        "not reliable": 1,
    }
    assert by(found, "policy") == {"not_applicable": 2, "host": 1, "not reached": 1, "not reliable": 1}
    assert by(found, "network") == {"none": 4, "not reliable": 1}
    assert found["outcomes"] == dict.fromkeys(Kind, 0) | {
        "handed off": 3,
        "refused": 1,
        "does not conform": 1,
    }
    assert [(row["step"], row["reason"], row["runs"]) for row in found["refusals"]] == [
        ("validate", "failure", 1)
    ]


def test_csv_has_a_row_for_each_run_with_its_columns(traces: Path) -> None:
    text = fleet_page(traces_in(str(traces)), signers=None, form=Form.CSV).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    runs = said(traces)["runs"]
    assert rows == runs
    assert {row["trace"]: row["host"] for row in rows} == {
        **{f"{name}.jsonl": "node7" for name in "acd"},
        "b.jsonl": "node8",
        "e.jsonl": "not reliable",
    }


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(1)", 'a"b,c\nd'])
def test_no_cell_of_a_csv_is_computed_or_becomes_two(private: Path, name: str) -> None:
    rewritten(Story().write(private / "a.jsonl"), on_host(name))
    text = fleet_page(traces_in(str(private)), signers=None, form=Form.CSV).decode()
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["host"] == (f"'{name}" if name[0] in "=+-@" else name.replace("\n", "\\n"))


def test_a_table_has_a_limit_and_says_how_many_are_left(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "VALUES", 3)
    archive = private / "archive.jsonl"
    trace = private / "one"
    content = b""
    for number in range(5):
        content += rewritten(Story().write(trace), on_host(f"node{number}")).read_bytes()
        trace.unlink()
    archive.write_bytes(content)
    found = json.loads(fleet_page([str(archive)], signers=None, runs=True, form=Form.JSON))
    assert by(found, "host") == {"node0": 1, "node1": 1, "node2": 1, OTHERS: 2}


@pytest.mark.parametrize("form", [Form.JSON, Form.CSV])
def test_it_does_not_matter_who_counts(private: Path, traces: Path, form: Form) -> None:
    for number in range(300):
        os.link(traces / f"{'abcde'[number % 5]}.jsonl", traces / f"more{number}.jsonl")
    paths = traces_in(str(traces))
    alone = fleet_page(paths, signers=None, form=form)
    assert fleet_page(paths, signers=None, form=form, workers=Processes(2)) == alone


def test_command_writes_each_form(
    traces: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(traces)
    for form in Form:
        assert main(["report", "--traces", ".", "--format", form]) == 0
        assert capsys.readouterr().out == f"written: report.{form}\n"
        assert (traces / f"report.{form}").stat().st_size > 0
    with pytest.raises(SystemExit) as ended:
        main(["report", "a.jsonl", "--format", "csv"])
    assert ended.value.code == 2
