"""The spec's lifecycle, compiled from TLC's state graph into what every run and every trace is held against.

All that is not the lifecycle is hidden. Nothing of the machine is looked at, so the two can be compared.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping

from engine.errors import Reason
from engine.lifecycle.spec_files import LIFECYCLE_SPEC
from engine.lifecycle.spec_graph import SPEC_GRAPH, SpecGraph
from engine.spec.checker import GRAPH_MODEL
from engine.spec.errors import CheckError
from engine.spec.graph import Graph, LifecycleEdge, explore, lifecycle_edges, places
from engine.spec.models import Specs
from engine.spec.tlc import Tlc
from engine.traces.move import Trigger

#: The model from which the end of a run is compiled.
SUPERVISION_MODEL = "Supervision"


def lifecycle_graph(specs: Specs, tlc: Tlc) -> Graph:
    """Every state of one run with every option and no adversary. Raises `CheckError`."""
    return explore(specs, tlc, GRAPH_MODEL)


def supervision_edges(specs: Specs, tlc: Tlc) -> frozenset[LifecycleEdge]:
    """The edges of runs that may be supervised. Raises `CheckError`."""
    return lifecycle_edges(explore(specs, tlc, SUPERVISION_MODEL, {"Runs": "{r1}"}))


def compile_graph(
    specs: Specs, graph: Graph, supervised: frozenset[LifecycleEdge] = frozenset()
) -> SpecGraph:
    """What `graph` says of the lifecycle, hiding everything else; and of `supervised` edges, what follows the hand-off.

    Raises `CheckError` when that is ambiguous.
    """
    (start,) = {place for name in graph.initial for place in places(graph.states[name]).values()}
    onward: dict[str, dict[str, str]] = {}
    ends = {edge for edge in supervised if edge.trigger == Trigger.END}
    for edge in sorted(lifecycle_edges(graph) | ends):
        if onward.setdefault(edge.state, {}).setdefault(edge.trigger, edge.next) != edge.next:
            raise CheckError(
                f"{edge.state} --{edge.trigger}--> leads to {edge.next} and {onward[edge.state][edge.trigger]}",
                reason=Reason.MALFORMED,
                hint="give each action of the spec one outcome",
            )
        onward.setdefault(edge.next, {})
    digest = hashlib.sha256(specs.files[LIFECYCLE_SPEC].encode()).hexdigest()
    return SpecGraph(digest, start, dict(_outwards(start, onward)))


def _outwards(start: str, onward: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Each state once, in the order in which a run gets there; a way that ends is the last to be told."""
    seen, waiting = {start}, deque([start])
    while waiting:
        state = waiting.popleft()
        ways = sorted(onward[state].items(), key=lambda way: not onward[way[1]])
        yield state, dict(ways)
        for _, target in ways:
            if target not in seen:
                seen.add(target)
                waiting.append(target)


def write_spec_graph(graph: SpecGraph, path: str = SPEC_GRAPH) -> None:
    """Write the compiled graph, by default to where the engine finds it; one edge a line. Raises `OSError`."""
    edges = ",\n".join(
        f"    {json.dumps([state, trigger, target])}"
        for state, ways in graph.edges.items()
        for trigger, target in ways.items()
    )
    terminal = json.dumps([state for state in graph.edges if graph.is_terminal(state)])
    text = (
        f'{{\n  "spec": "{graph.spec}",\n  "start": {json.dumps(graph.start)},\n  "terminal": {terminal},\n'
        f'  "edges": [\n{edges}\n  ]\n}}\n'
    )
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def stale(compiled: SpecGraph, fresh: SpecGraph) -> tuple[str, ...]:
    """How the `compiled` graph differs from the one just made from the spec, a line each; empty when it does not."""
    there, now = _edges_of(compiled), _edges_of(fresh)
    found = [f"{edge} is in the spec and not in the compiled graph" for edge in sorted(now - there)]
    found += [f"{edge} is in the compiled graph and not in the spec" for edge in sorted(there - now)]
    if compiled.start != fresh.start:
        found.append(f"runs start in {fresh.start}; in the compiled graph they start in {compiled.start}")
    if compiled.spec != fresh.spec:
        found.append(f"the compiled graph is of the spec {compiled.spec}; the spec is {fresh.spec}")
    return tuple(found)


def _edges_of(graph: SpecGraph) -> set[LifecycleEdge]:
    return {
        LifecycleEdge(state, trigger, target)
        for state, ways in graph.edges.items()
        for trigger, target in ways.items()
    }
