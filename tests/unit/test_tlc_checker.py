"""What is made of TLC's answers: the coverage over several runs, the name of what failed, the deleted conjunct."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import Reason
from engine.spec.configuration import Configuration
from engine.spec.coverage import Gap, gaps
from engine.spec.errors import TlcFailedError
from engine.spec.tool_output import ActionCoverage, Expression, Location, Output, read
from engine.spec.verdicts import DEADLOCK, Verdict, name_violation
from tests.support.refusals import refuses
from tools.guard_mutation import delete

RECORDED = Path(__file__).parent / "tlc_output"
CONFIGURATION = Configuration("Spec", {}, ("Small", "Tiny"), ("Grows", "Settles", "BoundSpec"))


def recorded(case: str, version: str = "2.15") -> Output:
    with (RECORDED / version / f"{case}.out").open() as lines:
        return read(lines)


def never_asked(_: Configuration) -> Output:
    raise AssertionError("TLC said which property it is")


def at(line: int) -> Location:
    return Location("M", line, 1, line, 9)


def action(name: str, taken: int, *counts: tuple[int, int]) -> ActionCoverage:
    return ActionCoverage(
        name, at(1), taken, taken, tuple(Expression(at(line), 0, count) for line, count in counts)
    )


# -- coverage --------------------------------------------------------------------------------------------------------


def test_the_disjunct_that_was_not_taken_is_a_gap() -> None:
    [gap] = gaps([recorded("holds").coverage])
    assert gap.action == "Step"
    assert gap.location.line == 10
    assert gap.after is not None
    assert gap.after.line == 9


def test_an_action_that_no_run_took_is_a_gap() -> None:
    assert gaps([(action("A", 0, (2, 5)),)]) == (Gap("A", at(1), None),)


def test_what_one_run_reached_is_no_gap_of_another() -> None:
    assert gaps([(action("A", 1, (2, 0), (3, 1)),), (action("A", 1, (2, 1), (3, 0)),)]) == ()


def test_an_operator_used_twice_must_be_reached_twice() -> None:
    """As `Refused` is: reached in one disjunct, it says nothing of the other."""
    found = gaps([(action("A", 1, (2, 4), (9, 4), (3, 4), (9, 0), (10, 0)),)])
    assert found == (Gap("A", at(9), at(3)),)


def test_what_another_module_defines_is_reached_by_that_modules_actions_or_a_gap() -> None:
    def extending(*counts: tuple[int, int]) -> ActionCoverage:
        """An action of N, which extends M."""
        expressions = tuple(Expression(at(line), 0, count) for line, count in counts)
        return ActionCoverage("B", Location("N", 1, 1, 1, 9), 1, 1, expressions)

    home = action("A", 1, (2, 1), (3, 0))
    assert gaps([(extending((2, 0)),), (home,)]) == (Gap("A", at(3), at(2)),)
    assert Gap("B", at(3), at(2)) in gaps([(extending((2, 1), (3, 0)),), (home,)])
    assert gaps([(extending((2, 0)),)]) == (Gap("B", at(2), Location("N", 1, 1, 1, 9)),)


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "name"),
    [("invariant", "Tiny"), ("action-property", "Grows"), ("deadlock", DEADLOCK), ("holds", None)],
)
def test_the_name_that_tlc_gives_is_taken(case: str, name: str | None) -> None:
    assert name_violation(CONFIGURATION, recorded(case), never_asked) == name


@pytest.mark.parametrize(("case", "name"), [("lasso", "Settles"), ("another-module", "BoundSpec")])
def test_a_property_that_tlc_does_not_name_is_asked_for_alone(case: str, name: str) -> None:
    def run(asked: Configuration) -> Output:
        return recorded(case if asked.names == (name,) else "holds")

    assert name_violation(CONFIGURATION, recorded(case), run) == name


def test_a_fault_that_is_no_propertys_is_an_error() -> None:
    with refuses(TlcFailedError, Reason.PROGRAM_FAILED):
        name_violation(CONFIGURATION, recorded("lasso"), lambda _: recorded("holds"))


def test_verdicts_are_words() -> None:
    assert [str(verdict) for verdict in Verdict] == ["holds", "violated", "undecided"]


# -- deleting a conjunct -----------------------------------------------------------------------------------------------

GUARD = """---- MODULE M ----
A(r) ==
    /\\ state[r] = "start"  \\* kept
    /\\ \\/ x
       \\/ y
    /\\ z
====
"""


def test_a_conjunct_is_replaced_where_it_stands() -> None:
    files = delete({"M.tla": GUARD, "N.tla": "n"}, Location("M", 3, 8, 3, 25))
    assert files["N.tla"] == "n"
    assert files["M.tla"] == GUARD.replace('state[r] = "start"', "TRUE")


def test_removed_conjunct_leaves_others_in_their_columns() -> None:
    lines = delete({"M.tla": GUARD}, Location("M", 4, 8, 5, 11))["M.tla"].splitlines()
    assert lines[3:6] == ["    /\\ TRUE", " " * 11, "    /\\ z"]
    assert len(lines) == len(GUARD.splitlines())
