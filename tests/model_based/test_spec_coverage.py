"""An edge of the spec that no run took turns the session red, wherever the runs were counted."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from engine.lifecycle.spec_graph import spec_graph
from engine.spec.graph import trigger_of
from engine.traces.move import Trigger
from tests.model_based import spec_coverage
from tests.model_based.spec_coverage import PROPERTY, SpecCoverage, Tally
from tests.model_based.spec_path import FAILURE, Edge, edges, engine_actions, reason, taken
from tests.model_based.two_steps import INNER_MOVES

MISSING = Edge("staged", "refuse", "refused", FAILURE)


def coverage(*tallies: Tally) -> SpecCoverage:
    """What adds up the tallies after a pass that each of them was handed over with."""
    coverage = SpecCoverage()
    for tally in tallies:
        properties: list[tuple[str, object]] = [(PROPERTY, tally.to_json())]
        report = pytest.TestReport(
            "test", ("", 0, ""), {}, "passed", None, "call", user_properties=properties
        )
        coverage.pytest_runtest_logreport(report)
    return coverage


def tally(name: str, *edges: Edge) -> Tally:
    return Tally(name, of=2, runs=1, edges=Counter(edges), befell=Counter({("kill", "stage"): 1}))


def test_what_one_machine_did_not_drive_another_may() -> None:
    others = [edge for edge in edges() if edge != MISSING]
    assert coverage(tally("one", MISSING), tally("other", *others)).faults() == []


def test_an_edge_that_no_run_took_is_named_and_fails_the_session() -> None:
    others = [edge for edge in edges() if edge != MISSING]
    told = coverage(tally("one"), tally("other", *others))
    assert told.faults() == ["no run took the edge staged --refuse--> refused (failure)"]
    session = SimpleNamespace(exitstatus=pytest.ExitCode.OK)
    told.pytest_sessionfinish(session)  # type: ignore[arg-type]
    assert session.exitstatus == pytest.ExitCode.TESTS_FAILED


def test_a_part_of_the_machines_says_nothing_of_the_edges() -> None:
    assert coverage(tally("one")).faults() == []


def test_excuse_of_an_edge_that_was_taken_is_a_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spec_coverage, "NOT_REACHABLE", {MISSING: "because"})
    assert (
        coverage(tally("one"), tally("other", *(edge for edge in edges() if edge != MISSING))).faults() == []
    )
    [fault] = coverage(tally("one"), tally("other", *edges())).faults()
    assert "staged" in fault
    assert "because" in fault


def test_edges_are_the_compiled_graphs_and_the_engines_moves() -> None:
    within = {edge for edge in edges() if edge.state == edge.next}
    assert {(edge.state, edge.move, edge.next) for edge in {*edges()} - within} == {
        (state, trigger, target)
        for state, onward in spec_graph().edges.items()
        for trigger, target in onward.items()
        if trigger != Trigger.END  # of specs/Supervision.tla: its tests are test_supervised.py
    }
    assert {edge.move for edge in within} == {
        action for action in engine_actions() if trigger_of(action) not in {*Trigger}
    }


def test_move_that_no_test_shows_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = {name: shows for name, shows in INNER_MOVES.items() if name != "Copy"}
    monkeypatch.setattr(spec_coverage, "INNER_MOVES", shown)
    [fault] = coverage(
        tally("one"), tally("other", *(edge for edge in edges() if edge.move != "Copy"))
    ).faults()
    assert fault.startswith("no run took the edge root_secured --Copy--> root_secured: nothing says yet")


def test_an_edge_that_the_spec_does_not_have_is_a_fault() -> None:
    [fault] = coverage(tally("one", Edge("staged", "exec", "handed_off")), tally("other", *edges())).faults()
    assert fault == "runs took the edge staged --exec--> handed_off, which the spec does not have"


@pytest.mark.parametrize(
    ("state", "step", "code", "why"),
    [
        ("start", "resolve", "path_searched_as_root", "path_searched_as_root"),
        ("start", "resolve", "not_found", "not_found"),
        ("start", "trace", "not_found", FAILURE),
        ("resolved", "validate", "loose_mode", "not_trusted"),
        ("root_secured", "stage", "noexec", FAILURE),
        ("root_secured", "stage", "stage_not_own", "stage_not_own"),
    ],
)
def test_refusal_counts_under_the_reason_of_the_spec(state: str, step: str, code: str, why: str) -> None:
    line = {"state": state, "trigger": "refuse", "next": "refused", "error": {"step": step, "reason": code}}
    assert reason(line) == why
    assert [*taken(line)] == [Edge(state, "refuse", "refused", why)]
