"""The lifecycle as TLC found it in the spec, compiled to data, and a run's walk along it.

`spec_graph.json` is written by `engine.formal.conformance` from TLC's state graph. It knows nothing of the
machine's table, so a run that keeps to both keeps to the spec even where the table is wrong.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from engine.errors import EngineError, StepError
from engine.lifecycle.machine import Move

SPEC_GRAPH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "spec_graph.json")

_REINSTALL = "install the engine again; in a checkout, compile the spec's graph anew"


@dataclass(frozen=True, slots=True)
class SpecGraph:
    """The edges of the lifecycle that are reachable in the spec whose SHA-256 is `spec`.

    `edges` leads from a state to what may be triggered there and where that leads; a state without any is
    terminal. `start` is where every run begins.
    """

    spec: str
    start: str
    edges: Mapping[str, Mapping[str, str]]

    def is_terminal(self, state: str) -> bool:
        """Whether the spec has no way on from `state`."""
        return not self.edges[state]

    def allowed(self, state: str) -> str:
        """What the spec allows in `state`, in one phrase."""
        if not self.edges[state]:
            return f"nothing: {state} is terminal"
        return " or ".join(f"{trigger} to {target}" for trigger, target in self.edges[state].items())


class SpecGraphError(EngineError):
    """The compiled graph is missing or damaged, so no run can be held against the spec."""

    step = "spec"


class NotInSpecError(StepError):
    """A run was about to take an edge that the spec does not have."""

    def __init__(self, step: str, what: str) -> None:
        self.step = str(step)
        super().__init__(
            f"not in the spec: {what}",
            remedy="this is a fault of the engine: please report it with the trace",
        )


def load_spec_graph(path: str = SPEC_GRAPH) -> SpecGraph:
    """Read the compiled graph, by default the one that belongs to this engine. Raises `SpecGraphError`."""
    try:
        with open(path, encoding="utf-8") as file:
            compiled = json.load(file)
        edges: dict[str, dict[str, str]] = {state: {} for state in compiled["terminal"]}
        for state, trigger, target in compiled["edges"]:
            edges.setdefault(state, {})[trigger] = target
        graph = SpecGraph(compiled["spec"], compiled["start"], edges)
        reached = {graph.start, *(target for onward in edges.values() for target in onward.values())}
    except OSError as error:
        raise SpecGraphError(f"{path!r}: {error.strerror}", remedy=_REINSTALL) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecGraphError(
            f"{path!r} is not a compiled graph ({type(error).__name__})", remedy=_REINSTALL
        ) from None
    if reached != edges.keys() or any(edges[state] for state in compiled["terminal"]):
        raise SpecGraphError(f"{path!r} is not a whole graph", remedy=_REINSTALL)
    return graph


class SpecWalk:
    """Where a run is according to the spec. It is asked before a step acts and again before its move is recorded."""

    def __init__(self, graph: SpecGraph) -> None:
        self._graph = graph
        self._state = graph.start

    def before(self, trigger: str) -> None:
        """Raise `NotInSpecError` unless the spec has `trigger` where the run is."""
        if trigger not in self._graph.edges[self._state]:
            raise NotInSpecError(
                trigger, f"{self._state} --{trigger}-->; it allows {self._graph.allowed(self._state)}"
            )

    def check(self, move: Move) -> None:
        """Raise `NotInSpecError` unless `move` is the spec's edge from where the run is."""
        if move.state != self._state or self._graph.edges[self._state].get(move.trigger) != move.next:
            raise NotInSpecError(
                move.trigger,
                f"{move.state} --{move.trigger}--> {move.next}; from {self._state} it allows "
                f"{self._graph.allowed(self._state)}",
            )

    def after(self, trigger: str) -> None:
        """The move was made: the run is now where `trigger` leads."""
        self._state = self._graph.edges[self._state][trigger]
