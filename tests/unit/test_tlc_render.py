"""The results of a check as people and programs read them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.spec import render
from engine.spec.checker import CheckResult, ModelResult
from engine.spec.configuration import Configuration
from engine.spec.coverage import Gap
from engine.spec.java import Jar
from engine.spec.models import Model, Mutant
from engine.spec.mutants import MutantResult
from engine.spec.tlc import Progress
from engine.spec.tool_output import Counterexample, Counts, Location, read
from engine.spec.verdicts import Verdict
from tools import guard_mutation
from tools.guard_mutation import Caught, Conjunct, Result

RECORDED = Path(__file__).parent / "tlc_output" / "2.15"

MODEL = Model(
    name="Counter",
    module="Counter",
    says="it counts",
    configuration=Configuration("Spec", {}, ("Small", "Tiny"), ()),
    result="success",
    violates=None,
    runtime=1,
    distinct=11,
    total=13,
    depth=6,
    coverage=True,
    narrow={},
    covered_with={},
)
HOLDS = ModelResult(
    model=MODEL,
    verdicts={"Small": Verdict.HOLDS, "Tiny": Verdict.HOLDS},
    counts=Counts(13, 11, 0),
    depth=6,
    counterexample=None,
    coverage=(),
    surprises=(),
    seconds=1.25,
)
GOOD = CheckResult(
    spec="ab" * 32,
    jar=Jar("/jars/tla2tools.jar", "--jar", "abc"),
    java="/usr/bin/java",
    tlc="TLC2 Version 9",
    models=(HOLDS,),
    gaps=(),
    mutants=(),
    seconds=2.0,
)
MUTANT = Mutant("door-stays-open", "nobody closes the door", "Closed", "M.tla", "a", "b", "Counter", {}, {})


def counterexample(case: str) -> Counterexample:
    with (RECORDED / f"{case}.out").open() as lines:
        found = read(lines).violations[0].counterexample
    assert found is not None
    return found


@pytest.fixture
def failed() -> CheckResult:
    model = replace(
        HOLDS,
        verdicts={"Small": Verdict.UNDECIDED, "Tiny": Verdict.VIOLATED},
        counterexample=counterexample("invariant"),
        surprises=("Tiny is violated",),
    )
    return replace(GOOD, models=(model,))


def test_a_counterexample_is_a_numbered_list_of_what_changed() -> None:
    assert render.counterexample(counterexample("action-property")) == (
        "  1. the initial state\n"
        "  2. Step\n"
        "       seen: {} -> {1}\n"
        "       x: 1 -> 2\n"
        "  3. Step\n"
        "       seen: {1} -> {1, 2}\n"
        "       x: 2 -> 3\n"
        "  4. Reset\n"
        "       x: 3 -> 0"
    )


def test_a_counterexample_says_how_it_goes_on_for_ever() -> None:
    assert render.counterexample(counterexample("lasso")).endswith("and again from step 4, for ever")
    assert render.counterexample(counterexample("stutters")).endswith("and nothing happens any more")


def test_a_good_result_ends_with_a_line_that_says_so() -> None:
    assert GOOD.ok
    report = render.report(GOOD)
    assert "Tiny        holds      Counter" in report
    assert report.splitlines()[-1] == (
        "check: all 1 models are as expected: 11 distinct states, every action and disjunct taken (TLC2 Version 9, 2 s)"
    )


def test_a_failed_property_is_shown_with_its_counterexample(failed: CheckResult) -> None:
    assert not failed.ok
    report = render.report(failed)
    assert "Tiny        violated   Counter" in report
    assert "Small       undecided  Counter" in report
    assert "Counter: Tiny is violated\n  1. the initial state\n" in report
    assert report.splitlines()[-1].startswith("check: not as expected: Counter (")


def test_part_never_reached_fails_the_check_with_its_place() -> None:
    gap = Gap("Step", Location("Counter", 10, 14, 10, 19), Location("Counter", 9, 14, 9, 18))
    result = replace(GOOD, gaps=(gap, Gap("Reset", Location("Counter", 12, 1, 12, 5), None)))
    assert not result.ok
    report = render.report(result)
    assert "  Step: what follows Counter.tla:9:14, at Counter.tla:10:14" in report
    assert "  Reset: the whole action, Counter.tla:12:1" in report
    assert "2 parts never reached" in report.splitlines()[-1]


def test_every_action_is_listed_with_how_often_it_was_taken() -> None:
    with (RECORDED / "holds.out").open() as lines:
        coverage = read(lines).coverage
    never = replace(coverage[0], name="Break", taken=0)
    table = render.actions_table(replace(GOOD, models=(replace(HOLDS, coverage=(*coverage, never)),)))
    assert "Step      Counter.tla:6:1   12" in table
    assert "Break     Counter.tla:5:1   NEVER" in table


def test_a_check_of_some_models_says_nothing_of_coverage() -> None:
    assert "taken" not in render.summary(replace(GOOD, gaps=None))


def test_a_mutant_that_survives_fails_the_check() -> None:
    killed = MutantResult(MUTANT, killed=True, steps=4, also="Locked", seconds=1.0)
    assert replace(GOOD, mutants=(killed,)).ok
    assert "1 mutants killed" in render.summary(replace(GOOD, mutants=(killed,)))
    result = replace(GOOD, mutants=(killed, replace(killed, killed=False, steps=0, also=None)))
    assert not result.ok
    report = render.report(result)
    assert "door-stays-open  killed    Closed" in report
    assert "door-stays-open  SURVIVED  Closed" in report
    assert report.splitlines()[-1].startswith("check: survived: door-stays-open (")


def test_a_deleted_conjunct_that_nobody_missed_stands_out() -> None:
    conjunct = Conjunct("Open", "x = 1", Location("M", 1, 1, 1, 5))
    table = guard_mutation.table(
        [Result(conjunct, Caught.PROPERTY, "Closed", "Counter"), Result(conjunct, Caught.NOTHING, "", "")]
    )
    assert "x = 1       Closed       Counter" in table
    assert "x = 1       SURVIVED" in table


def test_progress_is_one_line() -> None:
    line = render.progress_line(Progress("Counter", Counts(13, 11, 2), 3.4, done=2, total=107))
    assert line == "2 of 107; Counter: 11 distinct states, 2 in the queue, 3 s"


def test_every_result_can_be_said_in_json(failed: CheckResult) -> None:
    gap = Gap("Step", Location("Counter", 10, 14, 10, 19), None)
    mutant = MutantResult(MUTANT, killed=True, steps=4, also=None, seconds=1.0)
    data = json.loads(json.dumps(render.as_data(replace(failed, gaps=(gap,), mutants=(mutant,)))))
    assert data["ok"] is False
    [model] = data["models"]
    assert model["properties"] == {"Small": "undecided", "Tiny": "violated"}
    assert model["counterexample"]["steps"][1] == {
        "number": 2,
        "action": "Step",
        "at": "Counter.tla:7:5",
        "changed": {"seen": "{1}", "x": "2"},
    }
    assert data["gaps"] == [{"action": "Step", "at": "Counter.tla:10:14", "after": None}]
    assert data["mutants"][0]["killed"] is True
