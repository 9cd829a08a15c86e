"""Refusals: every reason is one that is given, has its sentences in the snapshot, and steps have those of the spec."""

from __future__ import annotations

import pytest

from engine.errors import EngineError, Reason, all_reasons
from engine.lifecycle.machine import LIFECYCLE, REASONS, reason_in_spec
from engine.spec.fold import load_fold
from engine.traces.move import Trigger
from tests.support.refusals import SNAPSHOT, check, refuses, sentences, snapshot


def test_every_sentence_is_as_in_the_snapshot() -> None:
    assert SNAPSHOT.read_text() == snapshot(), "python -m tests.support.refusals writes it anew"


def test_every_reason_is_given_somewhere() -> None:
    assert sentences().keys() == set(all_reasons())


def test_every_step_refuses_for_the_reasons_that_tlc_found_there() -> None:
    found: dict[str, set[str]] = {}
    for taken in load_fold().taken:
        if taken.trigger == Trigger.REFUSE:
            found.setdefault(taken.state, set()).add(str(taken.reason))
    assert found == {
        state: {reason_in_spec(reason) for reason in reasons} for state, reasons in REASONS.items()
    }


def test_a_reason_of_one_step_is_no_other_steps() -> None:
    own = [reason for row in LIFECYCLE for reason in row.reasons]
    assert len(own) == len(set(own))


def test_a_refusal_is_held_to_its_reason_and_facts() -> None:
    error = EngineError("'/a' is 5", reason=Reason.EXISTS, hint="choose another")
    check(error, Reason.EXISTS, "/a", 5)
    for reason, fact in ((Reason.NO_SUCH, "/a"), (Reason.EXISTS, "/b")):
        with pytest.raises(AssertionError), refuses(EngineError, reason, fact):
            raise error
