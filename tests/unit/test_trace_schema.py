"""The schema: every field says what it is, docs/trace.md is written from it, and what is written has its form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, is_typeddict

import msgspec
import pytest

from engine.errors import all_reasons
from engine.lifecycle.machine import REASONS
from engine.lifecycle.spec_graph import spec_graph
from engine.traces import reader
from engine.traces.move import FORMAT, Trigger
from engine.traces.refusal_schema import Error
from engine.traces.schema import ERRORS, FACTS, Header, Record
from engine.verify.evidence import Outcome, judge
from engine.verify.trace_check import Verdict, verify
from tests.support.objects import changed
from tests.support.stories import Story, save, written
from tools.trace_fields import PAGE, fields, page, reasons

OLD = Path(__file__).parent / "traces_of_format_1"


def kinds() -> Iterator[type]:
    """Every line, and every object in one."""
    found: list[type] = [Header, Record, *FACTS.values(), *ERRORS.values()]
    for kind in found:
        yield kind
        for _, inner, _ in fields(kind):
            found += [part for part in (inner, *get_args(inner)) if is_typeddict(part) and part not in found]


def test_the_page_is_what_the_schema_says() -> None:
    assert PAGE.read_text() == page(PAGE.read_text()), "python -m tools.trace_fields writes it anew"


def test_every_field_says_what_it_is_in_one_sentence() -> None:
    for kind in kinds():
        for name, _, says in fields(kind):
            assert says.text.endswith("."), f"{kind.__name__}.{name}"
            assert ". " not in says.text, f"{kind.__name__}.{name}"


def test_every_reason_says_what_it_is() -> None:
    assert [reason for reason, _ in reasons()] == list(all_reasons())


def test_schema_has_facts_and_errors_of_each_kind() -> None:
    assert set(FACTS) == set(Trigger)
    assert set(ERRORS) == set(range(1, FORMAT + 1))


def test_written_lines_have_the_schemas_fields_in_order(tmp_path: Path) -> None:
    for story in (Story(), Story(steps=3, end="refused")):
        header, *moves = story.write(tmp_path / story.end).read_bytes().splitlines()
        assert msgspec.json.encode(reader.read_header(header)) == header
        for move in moves:
            assert msgspec.json.encode(reader.read_record(move)) == move


# -- format 2: the reason of a refusal


@pytest.mark.parametrize("steps", range(6))
def test_refusal_has_a_reason_of_its_step(tmp_path: Path, steps: int) -> None:
    lines = Story(steps=steps, end="refused", rootless=True).lines(tmp_path / "trace")
    allowed = REASONS[lines[-1]["state"]]
    for reason in all_reasons():
        lines[-1]["error"]["reason"] = reason
        [result] = verify([str(save(tmp_path / "changed", written(lines)))])
        assert result.verdict is (Verdict.CONFORMS if reason in allowed else Verdict.DIFFERS), reason


def test_a_refusal_blames_the_step_of_its_state(tmp_path: Path) -> None:
    lines = Story(steps=2, end="refused").lines(tmp_path / "trace")
    for step, reason, verdict in (
        ("secure_root", "failure", Verdict.CONFORMS),
        ("trace", "failure", Verdict.CONFORMS),
        ("stage", "failure", Verdict.DIFFERS),
        ("stage", "not_permitted", Verdict.CONFORMS),
    ):
        lines[-1]["error"] |= {"step": step, "reason": reason}
        [result] = verify([str(save(tmp_path / "changed", written(lines)))])
        assert result.verdict is verdict, (step, reason)


@pytest.mark.parametrize("reason", ["a reason that there is not", None, 5])
def test_a_reason_that_there_is_not_is_not_read(tmp_path: Path, reason: object) -> None:
    lines = Story(steps=2, end="refused").lines(tmp_path / "trace")
    lines[-1]["error"]["reason"] = reason
    [result] = verify([str(save(tmp_path / "changed", written(lines)))])
    assert result.verdict is Verdict.DIFFERS


@pytest.mark.parametrize("line", [0, 2])
def test_half_a_surrogate_pair_is_no_word_of_a_list(tmp_path: Path, line: int) -> None:
    """msgspec raises something else for it than for any other text."""
    lines = Story().lines(tmp_path / "trace")
    if line == 0:
        lines[0]["options"]["network"] = "\ud800"
    else:
        lines[2]["facts"]["unenforced"][0]["becomes"] = "\ud800"
    [result] = verify([str(save(tmp_path / "changed", written(lines)))])
    assert result.fault is not None
    assert (result.fault.line, result.fault.code) == (line + 1, "not_of_schema")


# -- format 1


@pytest.mark.parametrize("name", ["run-handed-off", "run-refused", "run-killed"])
def test_a_trace_of_format_1_is_read_as_before(name: str) -> None:
    path = OLD / f"{name}.jsonl"
    header = json.loads(path.read_bytes().splitlines()[0])
    assert header["format"] == 1
    graph = changed(spec_graph(), spec=header["spec"])
    [result] = verify([str(path)], graph=graph)
    assert result.verdict is (Verdict.INCOMPLETE if name == "run-killed" else Verdict.CONFORMS)
    evidence = judge(str(path), path.read_bytes(), graph)
    if evidence.outcome is Outcome.REFUSED:
        refusal = evidence.refusal
        assert refusal is not None
        assert (refusal.step, refusal.reason) == ("validate", None)
        assert refusal.hint.startswith("chmod")


def test_each_format_has_its_own_error(tmp_path: Path) -> None:
    old = json.loads((OLD / "run-refused.jsonl").read_bytes().splitlines()[-1])
    new = Story(steps=1, end="refused").lines(tmp_path / "trace")[-1]
    for line, form in ((old, 1), (new, FORMAT)):
        text = json.dumps(line).encode()
        assert reader.read_record(text, form).refusal is not None
        with pytest.raises(reader.BadLineError):
            reader.read_record(text, FORMAT + 1 - form)
    assert msgspec.convert(new["error"], Error) == new["error"]


# -- formats 1 and 2: the mode of a staged copy


@pytest.mark.parametrize(
    ("form", "mode", "verdict"),
    [
        (2, "0500", Verdict.CONFORMS),
        (2, "0555", Verdict.DIFFERS),
        (3, "0500", Verdict.DIFFERS),
        (3, "0555", Verdict.CONFORMS),
    ],
)
def test_each_format_has_its_own_mode_of_a_copy(
    tmp_path: Path, form: int, mode: str, verdict: Verdict
) -> None:
    lines = Story().lines(tmp_path / "trace")
    lines[0]["format"] = form
    [staged] = [line["facts"] for line in lines if line.get("trigger") == "stage"]
    staged["mode"] = mode
    [result] = verify([str(save(tmp_path / "changed", written(lines)))])
    assert result.verdict is verdict
