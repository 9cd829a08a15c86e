"""Compiles the lifecycle that TLC finds in the spec into `engine/lifecycle/spec_graph.json`, which every run carries.

usage: python tools/compile_spec.py
"""

from __future__ import annotations

import sys

from engine.errors import EngineError
from engine.lifecycle.spec_graph import SPEC_GRAPH, SpecGraphError, load_spec_graph
from engine.spec.java import find_jar, find_java
from engine.spec.models import load
from engine.spec.tlc import Tlc
from tools.compile import compile_graph, lifecycle_graph, stale, supervision_edges, write_spec_graph


def main() -> int:
    """Compile, and say what is not as it was."""
    try:
        specs = load()
        tlc = Tlc(find_java(), find_jar())
        fresh = compile_graph(specs, lifecycle_graph(specs, tlc), supervision_edges(specs, tlc))
        try:
            differences = stale(load_spec_graph(SPEC_GRAPH), fresh)
        except SpecGraphError as unreadable:
            differences = (unreadable.what,)
        write_spec_graph(fresh)
    except (EngineError, OSError) as error:
        print(f"compile: {error}", file=sys.stderr)
        return 1
    for difference in differences:
        print(difference)
    print(f"{SPEC_GRAPH}: {'written' if differences else 'as it was'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
