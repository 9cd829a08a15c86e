"""The real machine, driven to where a run has recorded what is known, and asked for one trigger."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

from engine.lifecycle.machine import Lifecycle, NotPermittedError
from engine.traces.move import Facts, Move, Trigger
from tools.conformance.facts import NotYetError, Outcome, StepRefusesError, key_of

#: The header, and each move so far with what it recorded; facts as JSON, so that equal ones are.
Known = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the machine made of a trigger: it moved to `target`, or the step or a guard `refuses`, or `not_yet`."""

    target: str | None = None
    refuses: bool = False
    not_yet: bool = False
    why: str = "there is no such step here"


@dataclass(frozen=True, slots=True)
class _Established:
    recorded: Facts

    def facts(self) -> dict[str, Any]:
        return dict(self.recorded)


class UnreachedError(Exception):
    """The machine does not come to where the spec is: they parted before, and there it was said."""


class Machine:
    """The real machine, driven to where a run has recorded what is known, and asked for one trigger."""

    def __init__(self) -> None:
        self._answers: dict[tuple[Known, Trigger, str], Answer] = {}

    def ask(self, known: Known, trigger: Trigger, outcome: Outcome) -> Answer:
        """What it does when the step `trigger` records or raises `outcome`. Raises `UnreachedError`."""
        told = type(outcome).__name__ if isinstance(outcome, Exception) else key_of(outcome)
        question = known, trigger, told
        if question not in self._answers:
            self._answers[question] = _ask(known, trigger, outcome)
        return self._answers[question]


def _ask(known: Known, trigger: Trigger, outcome: Outcome) -> Answer:
    header, moves = known
    recorded: list[Move] = []
    lifecycle = Lifecycle(json.loads(header), recorded.append)
    try:
        for done, facts in moves:
            lifecycle.perform(Trigger(done), partial(_Established, json.loads(facts)))
    except NotPermittedError:
        raise UnreachedError from None
    acted = False

    def act() -> _Established:
        nonlocal acted
        acted = True
        if isinstance(outcome, Exception):
            raise outcome
        return _Established(outcome)

    try:
        lifecycle.perform(trigger, act)
    except NotPermittedError as refusal:
        return Answer(refuses=acted, why=refusal.what) if acted else Answer()
    except StepRefusesError:
        return Answer(refuses=True, why="its step refuses")
    except NotYetError:
        return Answer(not_yet=True, why="its step is not over")
    return Answer(target=str(recorded[-1].next))
