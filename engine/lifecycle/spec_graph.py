"""The lifecycle as TLC found it in the spec, compiled to data, and a machine that keeps to it.

`tools.compile_spec` writes `spec_graph.json` from TLC's state graph, without the machine's table. So a run that keeps
to both keeps to the spec even if the table is wrong.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping

from engine.errors import EngineError, Reason, StepError
from engine.lifecycle.machine import Lifecycle
from engine.lifecycle.spec_files import LIFECYCLE_SPEC, spec_digest
from engine.traces.move import Facts, Move, State, Trigger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from engine.lifecycle.machine import Established

SPEC_GRAPH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "spec_graph.json")

_REINSTALL = "install the engine again; in a checkout: ./just compile"


class SpecGraph:
    """The reachable edges of the lifecycle in the spec whose SHA-256 is `spec`.

    `edges`: for each state, its triggers and where they lead. Every run begins in `start`. A state is terminal if only
    the `end` that a supervisor saw can follow.
    """

    def __init__(self, spec: str, start: str, edges: Mapping[str, Mapping[str, str]]) -> None:
        self.spec: Final = spec
        self.start: Final = start
        self.edges: Final = edges

    def is_terminal(self, state: str) -> bool:
        """Whether no step leaves `state`."""
        return self.edges[state].keys() <= {Trigger.END}

    def allowed(self, state: str) -> str:
        """What the spec allows in `state`, in one phrase."""
        if not self.edges[state]:
            return f"nothing: {state} is terminal"
        return " or ".join(f"{trigger} to {target}" for trigger, target in self.edges[state].items())


class SpecGraphError(EngineError):
    """The compiled graph is missing, damaged or stale, so nothing can be checked against the spec."""

    step = "spec"


class NotInSpecError(StepError):
    """A run was about to take an edge that is not in the spec."""

    def __init__(self, step: str, what: str) -> None:
        self.step = str(step)
        super().__init__(
            f"not in the spec: {what}",
            reason=Reason.NOT_IN_SPEC,
            hint="this is a fault of the engine: please report it with the trace",
        )


def spec_graph() -> SpecGraph:
    """The compiled graph of this engine's spec. Raises `SpecGraphError`, also if it is of another spec."""
    graph = load_spec_graph(SPEC_GRAPH)
    if graph.spec != (digest := spec_digest()):
        raise SpecGraphError(
            f"{SPEC_GRAPH!r} was compiled from the spec {graph.spec:.12}…, and {LIFECYCLE_SPEC} is {digest:.12}…",
            reason=Reason.STALE,
            hint=_REINSTALL,
        )
    return graph


def load_spec_graph(path: str) -> SpecGraph:
    """Read a compiled graph. Raises `SpecGraphError`."""
    try:
        with open(path, encoding="utf-8") as file:
            compiled = json.load(file)
        edges: dict[str, dict[str, str]] = {state: {} for state in compiled["terminal"]}
        for state, trigger, target in compiled["edges"]:
            edges.setdefault(state, {})[trigger] = target
        graph = SpecGraph(str(compiled["spec"]), compiled["start"], edges)
        reached = {graph.start, *(target for onward in edges.values() for target in onward.values())}
    except OSError as error:
        raise SpecGraphError(f"{path!r}: {error.strerror}", reason=Reason.FAILURE, hint=_REINSTALL) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecGraphError(
            f"{path!r} is not a compiled graph ({type(error).__name__})",
            reason=Reason.MALFORMED,
            hint=_REINSTALL,
        ) from None
    if reached != edges.keys() or any(edges[state].keys() - {Trigger.END} for state in compiled["terminal"]):
        raise SpecGraphError(f"{path!r} is not a whole graph", reason=Reason.MALFORMED, hint=_REINSTALL)
    return graph


class SpecLifecycle(Lifecycle):
    """A lifecycle that checks the spec before its own table.

    Before a step acts, the spec must have its trigger in this state; before a move is recorded, the spec must have that
    edge. The state is tracked here, apart from the machine's.
    """

    def __init__(
        self,
        header: Facts,
        record: Callable[[Move], None],
        graph: SpecGraph,
        *,
        at: State = State.START,
    ) -> None:
        self._graph = graph
        self._place = graph.start if at is State.START else str(at)

        def held_to_spec(move: Move) -> None:
            if move.state != self._place or graph.edges[self._place].get(move.trigger) != move.next:
                raise self._not_in_spec(move.trigger, f"{move.state} --{move.trigger}--> {move.next}")
            record(move)

        super().__init__(header, held_to_spec, at=at)

    def perform(
        self,
        trigger: Trigger,
        act: Callable[[], Established],
        commit: Callable[[Established], None] | None = None,
    ) -> Established:
        """As `Lifecycle.perform`. Also raises `NotInSpecError`: before `act` if the spec has no such trigger here."""
        onward = self._graph.edges[self._place]
        if trigger not in onward:
            raise self._not_in_spec(trigger, f"{self._place} --{trigger}-->")
        established = super().perform(trigger, act, commit)
        self._place = onward[trigger]
        return established

    def _not_in_spec(self, trigger: Trigger, edge: str) -> NotInSpecError:
        return NotInSpecError(
            trigger, f"{edge}; from {self._place} it allows {self._graph.allowed(self._place)}"
        )
