"""The seam between the stateful tests and the spec: the engine's edges in TLC's graph, and which of them a run took.

The edges are generated: from the compiled graph, from TLC's graph folded along the lifecycle (which tells refusals
apart by their reasons), and from the spec's own list of what the engine does. All of it is read when it is asked
for, so that a stale file is a failed test and not a session that cannot begin.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple
from unittest.mock import patch

from engine.lifecycle import guards
from engine.lifecycle.machine import reason_in_spec
from engine.lifecycle.spec_files import LIFECYCLE_SPEC
from engine.lifecycle.spec_graph import spec_graph
from engine.spec.fold import load_fold
from engine.spec.models import load
from engine.traces.move import State, Trigger
from engine.verify.trace_check import TraceResult, Verdict, verify
from tests.model_based.two_steps import INNER_MOVES, EveryPath

Line = Mapping[str, Any]

#: The reason for which the spec refuses when a system call failed or a signal came: whatever has no reason of its own.
FAILURE = "failure"

_ADVANCE = re.compile(r"^Advance\(r\) ==\n(.*?)\n\n", re.MULTILINE | re.DOTALL)
_ACTION = re.compile(r"(\w+)\(r(?:, p)?\)")


class Edge(NamedTuple):
    """What the engine does in a state: a `move`, one of its triggers (or of its inner moves), and of a refusal why."""

    state: str
    move: str
    next: str
    reason: str | None = None

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.state} --{self.move}--> {self.next}{reason}"


@cache
def edges() -> tuple[Edge, ...]:
    """Every edge of the engine that TLC reached: of the lifecycle, and of its moves within a state."""
    fold = load_fold()
    engines = engine_actions()
    found = [
        *(Edge(taken.state, taken.trigger, taken.next, taken.reason) for taken in fold.taken),
        *(
            Edge(beside.state, beside.action, beside.state)
            for beside in fold.beside
            if beside.action in engines
        ),
    ]
    order = [str(state) for state in State]
    return tuple(sorted(found, key=lambda edge: (order.index(edge.state), edge.move, edge.reason or "")))


def engine_actions() -> frozenset[str]:
    """The names that the spec gives to what the engine does on its way, in the definition `Advance`."""
    advance = _ADVANCE.search(load().files[LIFECYCLE_SPEC])
    assert advance, "the spec no longer defines Advance(r)"
    return frozenset(_ACTION.findall(advance[1]))


def edge(line: Line) -> str:
    """The edge that a line of a trace records, as it is told."""
    return f"{line['state']} --{line['trigger']}--> {line['next']}"


def edge_of(trigger: str) -> str:
    """The edge of the lifecycle that a step is, as it is told."""
    return next(
        f"{state} --{trigger}--> {onward[trigger]}"
        for state, onward in spec_graph().edges.items()
        if trigger in onward
    )


def step_of(state: str) -> str:
    """The step that leaves `state`."""
    return next(trigger for trigger in spec_graph().edges[state] if trigger != Trigger.REFUSE)


def reason(line: Line, *, failed: bool = False) -> str:
    """For which of the spec's reasons a line records a refusal, in a step of which a call `failed` or none did."""
    error = line["error"]
    if error["step"] == step_of(line["state"]) and not failed:
        return reason_in_spec(error["reason"])
    return FAILURE


def taken(line: Line, *, failed: bool = False, wanted: bool = True) -> Iterator[Edge]:
    """The edges that a line of a trace shows to have been taken: its own, and the moves within the state it left.

    `wanted`: the run's options ask for an execute policy.
    """
    why = reason(line, failed=failed) if line["trigger"] == Trigger.REFUSE else None
    yield Edge(line["state"], line["trigger"], line["next"], why)
    for name, is_shown in INNER_MOVES.items():
        if is_shown(line, why, wanted):
            yield Edge(line["state"], name, line["state"])


def why_no_path(trace: bytes, *, ended: bool) -> TraceResult | None:
    """What keeps `trace` from being that of a run that `ended`, or that goes on or was killed; None if nothing."""
    copy = os.memfd_create("trace")
    try:
        os.write(copy, trace)
        with patch.object(guards, "TRUSTED_PATHS", EveryPath()):
            [result] = verify([f"/proc/self/fd/{copy}"], graph=spec_graph())
    finally:
        os.close(copy)
    good = {Verdict.CONFORMS} if ended else {Verdict.CONFORMS, Verdict.INCOMPLETE}
    return None if result.verdict in good else result
