"""TLC's `-tool` output, as TLC 2.15 and a 2026 build of 1.8 really wrote it for one small spec (tlc_output/)."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.spec.tool_output import Code, Counts, Location, Output, messages, read, read_counts
from engine.spec.values import ModelValue

RECORDED = Path(__file__).parent / "tlc_output"
VERSIONS = ("2.15", "1.8")


def output(version: str, case: str) -> Output:
    with (RECORDED / version / f"{case}.out").open() as lines:
        return read(lines)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_model_that_holds_gives_its_figures(version: str) -> None:
    found = output(version, "holds")
    assert found.succeeded
    assert found.counts == Counts(generated=13, distinct=11, queue=0)
    assert found.depth == 6
    assert not found.violations
    assert not found.errors


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("case", "code", "name"),
    [
        ("invariant", Code.INVARIANT_VIOLATED, "Tiny"),
        ("initial-state", Code.INVARIANT_VIOLATED_INITIAL, "NotOne"),
        ("action-property", Code.ACTION_PROPERTY_VIOLATED, "Grows"),
        ("deadlock", Code.DEADLOCK, None),
    ],
)
def test_a_violation_names_its_property(version: str, case: str, code: Code, name: str | None) -> None:
    found = output(version, case)
    assert not found.succeeded
    [violation] = found.violations
    assert violation.code == code
    assert name is None or name in violation.names


@pytest.mark.parametrize("version", VERSIONS)
def test_a_counterexample_has_each_step_with_what_it_changed(version: str) -> None:
    [violation] = output(version, "action-property").violations
    assert violation.counterexample is not None
    steps = violation.counterexample.steps
    assert [(step.number, step.action) for step in steps] == [(1, ""), (2, "Step"), (3, "Step"), (4, "Reset")]
    assert [dict(step.changed) for step in steps] == [
        {},
        {"x": 2, "seen": frozenset({"1"})},
        {"x": 3, "seen": frozenset({"1", "2"})},
        {"x": 0},
    ]
    assert steps[1].location == Location("Counter", 7, 5, 11, 28)
    assert violation.counterexample.back_to is None
    assert not violation.counterexample.stutters


@pytest.mark.parametrize("version", VERSIONS)
def test_a_behaviour_that_goes_round_says_where_it_goes_back_to(version: str) -> None:
    [violation] = output(version, "lasso").violations
    assert violation.code == Code.TEMPORAL_PROPERTY_VIOLATED
    assert violation.counterexample is not None
    assert violation.counterexample.back_to == 4
    assert len(violation.counterexample.steps) == 7


@pytest.mark.parametrize("version", VERSIONS)
def test_a_behaviour_that_stops_for_ever_says_so(version: str) -> None:
    [violation] = output(version, "stutters").violations
    assert violation.counterexample is not None
    assert violation.counterexample.stutters
    assert violation.counterexample.back_to is None


def test_only_the_newer_tlc_names_a_temporal_property() -> None:
    """Why `name_violation` has to ask again: with 2.15 the name is nowhere in the output."""
    assert "Settles" in output("1.8", "lasso").violations[0].names
    assert "Settles" not in output("2.15", "lasso").violations[0].names


@pytest.mark.parametrize("version", VERSIONS)
def test_wrong_initial_state_is_a_counterexample_of_one_step(version: str) -> None:
    [violation] = output(version, "initial-state").violations
    assert violation.counterexample is not None
    [step] = violation.counterexample.steps
    assert step.state == {"x": 1, "seen": frozenset()}


@pytest.mark.parametrize("version", VERSIONS)
def test_coverage_tells_the_disjunct_that_is_never_taken(version: str) -> None:
    coverage = {action.name: action for action in output(version, "holds").coverage}
    assert set(coverage) == {"Init", "Step", "Reset"}
    assert coverage["Step"].taken == 12
    assert coverage["Reset"].taken == 2
    never = {expression.location.line for expression in coverage["Step"].expressions if not expression.count}
    assert never == {10}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", ["semantic-error", "parse-error"])
def test_spec_refused_by_sany_differs_from_one_that_fails(version: str, case: str) -> None:
    found = output(version, case)
    assert found.parse_failed
    assert not found.violations


@pytest.mark.parametrize("version", VERSIONS)
def test_a_configuration_that_tlc_refuses_is_told_apart(version: str) -> None:
    found = output(version, "config-error")
    assert found.config_error is not None
    assert "Nope" in found.config_error
    assert not found.violations


@pytest.mark.parametrize("version", VERSIONS)
def test_expression_tlc_cannot_evaluate_is_an_error(version: str) -> None:
    found = output(version, "cannot-evaluate")
    assert "should be an integer" in found.errors[0]
    assert not found.violations
    assert not found.succeeded


@pytest.mark.parametrize(
    "text",
    [
        "Progress(11) at 2026-01-02 03:04:05: 1,012 states generated (99,140 s/min), 498 distinct (7 ds/min), 12 left",
        "1012 states generated, 498 distinct states found, 12 states left on queue.",
        "Fortschritt(11): 1012 Zustände, 498 verschiedene, 12 offen",
    ],
)
def test_figures_are_read_by_position_whatever_the_sentence(text: str) -> None:
    assert read_counts(text) == Counts(1012, 498, 12)


def test_a_nested_message_comes_out_before_the_one_it_stands_in() -> None:
    lines = [
        "@!@!@STARTMSG 1000:1 @!@!@",
        ": @!@!@STARTMSG 5001:0 @!@!@",
        "no such file",
        "@!@!@ENDMSG 5001 @!@!@",
        "@!@!@ENDMSG 1000 @!@!@",
        "and a line outside",
    ]
    found = [(message.code, message.severity, message.text) for message in messages(lines)]
    assert found == [(5001, 0, "no such file"), (1000, 1, "no such file"), (None, 0, "and a line outside")]


def test_output_that_breaks_off_is_not_a_success() -> None:
    text = (RECORDED / "2.15" / "holds.out").read_text()
    found = read(text[: text.index("STARTMSG 2193")].splitlines())
    assert not found.succeeded
    assert not found.finished


def message(code: int, text: str, severity: int = 0) -> str:
    return f"@!@!@STARTMSG {code}:{severity} @!@!@\n{text}\n@!@!@ENDMSG {code} @!@!@\n"


VIOLATED = message(Code.INVARIANT_VIOLATED, "Invariant Tiny is violated.", 1)
FIRST = message(Code.STATE, "1: <Initial predicate>\n/\\ x = 1", 4)
SECOND = message(Code.STATE, "2: <Step line 1, col 1 to line 1, col 2 of module M>\n/\\ x = 2", 4)


def test_a_state_that_breaks_off_is_no_state() -> None:
    """As when the JVM is killed while it prints one."""
    lines = (VIOLATED + FIRST + SECOND).splitlines(keepends=True)
    for end in range(len(lines)):
        found = read(lines[:end])
        assert not found.finished
        assert all(violation.counterexample is None for violation in found.violations)


def test_states_before_an_error_belong_to_no_violation() -> None:
    error = message(Code.GENERAL, "Attempted to apply ~ to 1.", 1)
    found = read(
        (VIOLATED + FIRST + error + FIRST + SECOND + message(Code.FINISHED, "Finished")).splitlines()
    )
    [violation] = found.violations
    assert violation.counterexample is not None
    assert len(violation.counterexample.steps) == 1
    assert len(found.errors) == 1


def test_the_action_of_a_step_is_named_without_its_arguments() -> None:
    lines = [
        "@!@!@STARTMSG 2110:1 @!@!@",
        "Invariant I is violated.",
        "@!@!@ENDMSG 2110 @!@!@",
        "@!@!@STARTMSG 2217:4 @!@!@",
        "1: <Initial predicate>",
        "/\\ state = (r1 :> a)",
        "@!@!@ENDMSG 2217 @!@!@",
        "@!@!@STARTMSG 2217:4 @!@!@",
        '2: <Move(r1, <<1, "x">>) line 7, col 5 to line 8, col 9 of module M>',
        "/\\ state = (r1 :> b)",
        "@!@!@ENDMSG 2217 @!@!@",
        "@!@!@STARTMSG 2186:0 @!@!@",
        "Finished in 1ms",
        "@!@!@ENDMSG 2186 @!@!@",
    ]
    counterexample = read(lines).violations[0].counterexample
    assert counterexample is not None
    assert counterexample.steps[1].action == "Move"
    assert counterexample.steps[1].changed == {"state[r1]": ModelValue("b")}
