"""An edge of the spec that no run took turns the session red, wherever the runs were counted."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from tests.model_based import spec_coverage
from tests.model_based.spec_coverage import PROPERTY, SpecCoverage, Tally
from tests.model_based.spec_path import EDGES, Edge

MISSING = ("staged", "refuse", "refused")


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
    others = [edge for edge in EDGES if edge != MISSING]
    assert coverage(tally("one", MISSING), tally("other", *others)).faults() == []


def test_an_edge_that_no_run_took_is_named_and_fails_the_session() -> None:
    others = [edge for edge in EDGES if edge != MISSING]
    told = coverage(tally("one"), tally("other", *others))
    assert told.faults() == ["no run took the edge staged --refuse--> refused"]
    session = SimpleNamespace(exitstatus=pytest.ExitCode.OK)
    told.pytest_sessionfinish(session)  # type: ignore[arg-type]
    assert session.exitstatus == pytest.ExitCode.TESTS_FAILED


def test_a_part_of_the_machines_says_nothing_of_the_edges() -> None:
    assert coverage(tally("one")).faults() == []


def test_a_reason_why_an_edge_is_out_of_reach_is_no_excuse_once_it_was_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spec_coverage, "NOT_REACHABLE", {MISSING: "because"})
    assert coverage(tally("one"), tally("other", *(edge for edge in EDGES if edge != MISSING))).faults() == []
    [fault] = coverage(tally("one"), tally("other", *EDGES)).faults()
    assert "staged" in fault
    assert "because" in fault
