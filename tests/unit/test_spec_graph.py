"""The compiled graph: what it allows, and that one which is absent, damaged or stale is said to be so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import StepError
from engine.lifecycle import spec_graph as module
from engine.lifecycle.spec_graph import (
    NotInSpecError,
    SpecGraph,
    SpecGraphError,
    SpecLifecycle,
    load_spec_graph,
    spec_graph,
)
from engine.traces.move import Move, State, Trigger

REINSTALL = "install the engine again; in a checkout: ./just compile"
REPORT = "this is a fault of the engine: please report it with the trace"


def test_a_state_without_a_way_on_is_terminal() -> None:
    graph = spec_graph()
    assert [state for state in State if graph.is_terminal(state)] == [State.HANDED_OFF, State.REFUSED]
    assert graph.allowed("refused") == "nothing: refused is terminal"
    assert graph.allowed("start") == "resolve to resolved or refuse to refused"


def test_a_graph_that_is_absent_is_named_with_the_hint(tmp_path: Path) -> None:
    with pytest.raises(SpecGraphError) as refusal:
        load_spec_graph(str(tmp_path / "absent"))
    assert refusal.value.what == f"'{tmp_path}/absent': No such file or directory"
    assert refusal.value.hint == REINSTALL


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "is not a compiled graph (JSONDecodeError)"),
        ("{}", "is not a compiled graph (KeyError)"),
        ("[]", "is not a compiled graph (TypeError)"),
        ('{"spec": "0", "start": "a", "terminal": [], "edges": [["a", "b", "c"]]}', "is not a whole graph"),
    ],
)
def test_a_damaged_graph_is_named_with_the_hint(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "graph.json"
    path.write_text(text)
    with pytest.raises(SpecGraphError) as refusal:
        load_spec_graph(str(path))
    assert (refusal.value.what, refusal.value.hint) == (f"'{path}' {what}", REINSTALL)


def test_a_graph_of_another_spec_is_stale_and_both_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = spec_graph().spec
    compiled = json.loads(Path(module.SPEC_GRAPH).read_text()) | {"spec": "0123456789abcdef"}
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(compiled))
    monkeypatch.setattr(module, "SPEC_GRAPH", str(path))
    with pytest.raises(SpecGraphError) as refusal:
        spec_graph()
    assert refusal.value.what == (
        f"'{path}' was compiled from the spec 0123456789ab…, and GVisorRuntime.tla is {own[:12]}…"
    )
    assert refusal.value.hint == REINSTALL


class Resolved:
    def facts(self) -> dict[str, object]:
        return {"path": "/usr/bin/runsc", "found_by": "option"}


@pytest.mark.parametrize(
    ("edges", "what"),
    [
        (
            {"start": {"resolve": "refused"}, "refused": {}},
            "not in the spec: start --resolve--> resolved; from start it allows resolve to refused",
        ),
        (
            {"start": {"refuse": "refused"}, "refused": {}},
            "not in the spec: start --resolve-->; from start it allows refuse to refused",
        ),
    ],
)
def test_a_step_that_the_spec_does_not_have_is_named_and_not_recorded(
    edges: dict[str, dict[str, str]], what: str
) -> None:
    moves: list[Move] = []
    lifecycle = SpecLifecycle({"host": {"user": 0}}, moves.append, SpecGraph("0", "start", edges))
    with pytest.raises(NotInSpecError) as refusal:
        lifecycle.perform(Trigger.RESOLVE, Resolved)
    error: StepError = refusal.value
    assert (error.what, error.hint, error.step) == (what, REPORT, "resolve")
    assert moves == []
