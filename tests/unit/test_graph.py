"""A saved state graph, and the lifecycle that is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import Reason
from engine.spec.errors import CheckError
from engine.spec.graph import Edge, LifecycleEdge, lifecycle_edges, read_graph, trigger_of
from tests.support.refusals import refuses

GRAPH = r"""strict digraph DiskGraph {
nodesep=0.35;
subgraph cluster_graph {
color="white";
-11 [label="/\\ state = (r1 :> \"start\")\n/\\ path = \"vendor\"",style = filled]
-11 -> 22 [label="Resolve",color="black",fontcolor="black"];
22 [label="/\\ state = (r1 :> \"resolved\")\n/\\ path = \"vendor\""];
22 -> 33 [label="SwapBinary",color="black",fontcolor="black"];
33 [label="/\\ state = (r1 :> \"resolved\")\n/\\ path = \"other\""];
33 -> 44 [label="RefuseValidate",color="black",fontcolor="black"];
44 [label="/\\ state = (r1 :> \"refused\")\n/\\ path = \"other\""];
{rank = same; 22;33;}
}
}"""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "graph.dot"
    path.write_text(GRAPH)
    return path


def test_a_graph_has_its_states_edges_and_beginnings(saved: Path) -> None:
    graph = read_graph(str(saved))
    assert graph.initial == {"-11"}
    assert graph.states["22"] == {"state": {"r1": "resolved"}, "path": "vendor"}
    assert Edge("33", "44", "RefuseValidate") in graph.edges
    assert len(graph.edges) == 3


def test_only_steps_that_move_a_run_are_edges_of_the_lifecycle(saved: Path) -> None:
    assert lifecycle_edges(read_graph(str(saved))) == {
        LifecycleEdge("start", "resolve", "resolved"),
        LifecycleEdge("resolved", "refuse", "refused"),
    }


@pytest.mark.parametrize(
    ("action", "trigger"),
    [
        ("Resolve", "resolve"),
        ("SecureRoot", "secure_root"),
        ("RefuseApplyPolicy", "refuse"),
        ("Exec", "exec"),
    ],
)
def test_an_action_has_the_name_of_its_trigger(action: str, trigger: str) -> None:
    assert trigger_of(action) == trigger


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("\n44 [label", "\n45 [label"),
        lambda text: text.replace(",style = filled", ""),
        lambda text: text.replace("state = (r1", "state = (("),
        lambda text: "",
    ],
    ids=["a state is missing", "no beginning", "a state that cannot be read", "empty"],
)
def test_a_graph_that_is_cut_or_edited_is_refused(saved: Path, edit: object) -> None:
    assert callable(edit)
    saved.write_text(edit(GRAPH))
    with refuses(CheckError, Reason.MALFORMED):
        read_graph(str(saved))


def test_a_graph_of_another_spec_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "graph.dot"
    path.write_text('1 [label="x = 0",style = filled]\n1 -> 1 [label="Next",color="black"];\n')
    with refuses(CheckError, Reason.MALFORMED):
        lifecycle_edges(read_graph(str(path)))
