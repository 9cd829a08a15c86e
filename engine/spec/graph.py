"""TLC's state graph, from a new run or a file that `check(graph=...)` saved, and its lifecycle edges.

The file is Graphviz text. Only TLC's own layout is accepted: one node or edge a line.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from engine.errors import Reason
from engine.spec.errors import CheckError
from engine.spec.models import Specs
from engine.spec.tlc import Tlc
from engine.spec.values import Value, parse_state

_NODE = re.compile(r'^(-?\d+) \[label="((?:[^"\\]|\\.)*)"(.*)\];?$')
_EDGE = re.compile(r'^(-?\d+) -> (-?\d+) \[label="([^"]*)"')
_ESCAPE = re.compile(r"\\(.)")
_BEFORE_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")

_REFUSE = "Refuse"
#: The variable that holds the machine's state of each run; in specs/Supervision.tla also the lines about its end.
_STATE, _ENDS = "state", "ends"
_ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Edge:
    """A step of the spec: `action` leads from state `source` to state `target` (TLC fingerprints)."""

    source: str
    target: str
    action: str


@dataclass(frozen=True, slots=True)
class Graph:
    """All reachable states of a model, the steps between them, and the initial states."""

    states: Mapping[str, Mapping[str, Value]]
    edges: tuple[Edge, ...]
    initial: frozenset[str]


@dataclass(frozen=True, slots=True, order=True)
class LifecycleEdge:
    """An edge of the lifecycle, with the machine's names."""

    state: str
    trigger: str
    next: str

    def __str__(self) -> str:
        return f"{self.state} --{self.trigger}--> {self.next}"


def explore(specs: Specs, tlc: Tlc, name: str, constants: Mapping[str, str] | None = None) -> Graph:
    """The state graph of the model `name`, with some `constants` changed. Raises `CheckError`.

    No property is checked.
    """
    model = specs.model(name)
    configuration = model.configuration.assign(constants or {}).only(()).text()
    with tempfile.TemporaryDirectory(prefix="engine-graph-") as directory:
        path = os.path.join(directory, "graph.dot")
        tlc.run(specs.files, model.module, configuration, name=name, quick=True, graph=path, deadlock=False)
        return read_graph(path)


def read_graph(path: str) -> Graph:
    """Read a saved state graph. Raises `CheckError` if the file is not one."""
    states: dict[str, Mapping[str, Value]] = {}
    edges: list[Edge] = []
    initial: set[str] = set()
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                if edge := _EDGE.match(line):
                    edges.append(Edge(edge[1], edge[2], edge[3]))
                elif node := _NODE.match(line.rstrip("\n")):
                    states[node[1]] = parse_state(_ESCAPE.sub(_unescape, node[2]))
                    if "filled" in node[3]:
                        initial.add(node[1])
    except (OSError, ValueError) as error:
        raise CheckError(
            f"{path!r} is not a state graph of TLC: {error}", reason=Reason.MALFORMED, hint=_SAVE
        ) from None
    if not initial or any(edge.source not in states or edge.target not in states for edge in edges):
        raise CheckError(f"{path!r} is not a whole state graph of TLC", reason=Reason.MALFORMED, hint=_SAVE)
    return Graph(states, tuple(edges), frozenset(initial))


_SAVE = "save it again with engine check --graph"


def lifecycle_edges(graph: Graph) -> frozenset[LifecycleEdge]:
    """The lifecycle edges in `graph`: all steps that change the state of a run."""
    return frozenset(edge for edge, _ in lifecycle_steps(graph))


def lifecycle_steps(graph: Graph) -> Iterator[tuple[LifecycleEdge, Edge]]:
    """Each spec step that changes the state of a run, with its lifecycle edge."""
    for step in graph.edges:
        before, after = places(graph.states[step.source]), places(graph.states[step.target])
        for run, place in before.items():
            if after[run] != place:
                yield LifecycleEdge(place, trigger_of(step.action), after[run]), step


def trigger_of(action: str) -> str:
    """The machine's trigger for a spec action: `SecureRoot` is `secure_root`, `RefuseStage` is `refuse`."""
    if action.startswith(_REFUSE):
        return _REFUSE.lower()
    return _BEFORE_CAPITAL.sub("_", action).lower()


def places(state: Mapping[str, Value]) -> dict[str, str]:
    """The lifecycle state of each run. Raises `CheckError` if the graph is of another spec."""
    by_run = state.get(_STATE)
    if not isinstance(by_run, Mapping):
        raise CheckError(
            "the graph is not of the lifecycle's spec: it has no variable with the state of each run",
            reason=Reason.MALFORMED,
            hint=_SAVE,
        )
    ends = state.get(_ENDS)
    has_ended = {run for run, lines in ends.items() if lines} if isinstance(ends, Mapping) else set()
    return {run: _ENDED if run in has_ended else str(place) for run, place in by_run.items()}


def _unescape(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]
