"""The one seam between the stateful tests and the spec: its edges, and whether a run's trace is a path of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from engine.formal.trace_check import Verdict, verify
from engine.lifecycle.spec_graph import spec_graph

Edge = tuple[str, str, str]

_GRAPH = spec_graph()

#: Every edge of the lifecycle that TLC reached.
EDGES: tuple[Edge, ...] = tuple(
    (state, trigger, target) for state, onward in _GRAPH.edges.items() for trigger, target in onward.items()
)


def edge(line: Mapping[str, Any]) -> str:
    """The edge that a line of a trace records, as it is told."""
    return f"{line['state']} --{line['trigger']}--> {line['next']}"


def why_no_path(trace: bytes, *, ended: bool) -> str | None:
    """What keeps `trace` from being that of a run that `ended`, or that goes on or was killed; None if nothing."""
    copy = os.memfd_create("trace")
    try:
        os.write(copy, trace)
        [result] = verify([f"/proc/self/fd/{copy}"], graph=_GRAPH)
    finally:
        os.close(copy)
    good = {Verdict.CONFORMS} if ended else {Verdict.CONFORMS, Verdict.INCOMPLETE}
    return None if result.verdict in good else str(result)
