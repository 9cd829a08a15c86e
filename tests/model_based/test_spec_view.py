"""`View` of specs/Search.tla leaves out only what nothing reads: the states of one view go on alike.

TLC explores a model without the view, with its value beside each state. Each state of a view must then lead to the
same views as the others. Only the moves spent may differ in what is wasted: a move that changes nothing that is read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

from engine.spec.graph import Graph, read_graph
from engine.spec.java import find_jar, find_java
from engine.spec.models import load
from engine.spec.tlc import Tlc

SPECS = load()

VIEWED = """---- MODULE Viewed ----
EXTENDS Search
VARIABLES seen_, view_
ViewedInit == Init /\\ seen_ = Seen /\\ view_ = View
ViewedNext == Next /\\ seen_' = Seen' /\\ view_' = View'
ViewedSpec == ViewedInit /\\ [][ViewedNext]_<<vars, seen_, view_>>
====
"""

FEW = {"AsRoot": "{FALSE}", "Places": '{"apart"}'}
#: Few files and moves each, so that all states of a graph are compared in seconds.
CHOICES: dict[str, Mapping[str, str]] = {
    "who spends two moves": {
        **FEW,
        "Budget": "2",
        "Files": '{"vendor", "loose_mode"}',
        "Moves": '{"binary", "rewrite", "programs", "bundle"}',
    },
    "who never tires": {
        **FEW,
        "Tireless": "TRUE",
        "Files": '{"vendor", "loose_mode"}',
        "Moves": '{"gc", "binary", "nest", "copy"}',
    },
}


def explore(choices: Mapping[str, str], directory: Path, search: str) -> Graph:
    small = SPECS.model("Small")
    configuration = small.configuration.assign({**small.narrow, **choices}).only(())
    path = directory / "graph.dot"
    Tlc(find_java(), find_jar()).run(
        {**SPECS.files, "Search.tla": search, "Viewed.tla": VIEWED},
        "Viewed",
        configuration.text().replace("SPECIFICATION Spec\n", "SPECIFICATION ViewedSpec\n"),
        name="Viewed",
        quick=True,
        graph=str(path),
        deadlock=False,
    )
    return read_graph(str(path))


def unlike(graph: Graph) -> set[str]:
    """The views whose states lead to different views."""
    seen = {key: repr(state["seen_"]) for key, state in graph.states.items()}
    view = {key: repr(state["view_"]) for key, state in graph.states.items()}
    leads: dict[str, set[tuple[str, int]]] = {key: set() for key in graph.states}
    for edge in graph.edges:
        if seen[edge.source] != seen[edge.target]:
            before, after = graph.states[edge.source]["moves"], graph.states[edge.target]["moves"]
            assert isinstance(before, int)
            assert isinstance(after, int)
            leads[edge.source].add((seen[edge.target], after - before))
    ways: dict[str, set[frozenset[tuple[str, int]]]] = defaultdict(set)
    for key, where in leads.items():
        ways[view[key]].add(frozenset(where))
    assert len(ways) < len(graph.states)  # else the view leaves nothing out
    return {name for name, found in ways.items() if len(found) > 1}


@pytest.mark.parametrize("name", CHOICES)
def test_states_of_one_view_go_on_alike(name: str, tmp_path: Path) -> None:
    assert unlike(explore(CHOICES[name], tmp_path, SPECS.files["Search.tla"])) == set()


@pytest.mark.parametrize(
    ("name", "read", "left_out"),
    [
        (
            "who spends two moves",
            "<<enforceable, base, programs, bundle>>",
            "<<enforceable, base, bundle>>",
        ),
        (
            "who spends two moves",
            '{"start", "resolved", "validated", "root_secured"}',
            '{"start", "resolved", "validated"}',
        ),
        ("who never tires", '{"start", "resolved"}', '{"start"}'),
    ],
)
def test_a_view_that_leaves_out_what_is_read_is_found(
    name: str, read: str, left_out: str, tmp_path: Path
) -> None:
    search = SPECS.files["Search.tla"]
    assert search.count(read) == 1
    assert unlike(explore(CHOICES[name], tmp_path, search.replace(read, left_out)))


def test_only_safety_is_checked_with_a_view() -> None:
    viewed = [model for model in SPECS.models if model.configuration.view]
    assert viewed
    for model in viewed:
        assert model.configuration.specification == "Spec", model.name
