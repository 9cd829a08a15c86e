"""The compiled graph: what it allows, and that one which is absent, damaged or stale is said to be so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import Reason
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
from tests.support.refusals import refuses


def test_a_state_that_no_step_leaves_is_terminal() -> None:
    graph = spec_graph()
    ends = [State.HANDED_OFF, State.ENDED, State.REFUSED]
    assert [state for state in State if graph.is_terminal(state)] == ends
    assert graph.allowed("refused") == "nothing: refused is terminal"
    assert graph.allowed("handed_off") == "end to ended"
    assert graph.allowed("start") == "resolve to resolved or refuse to refused"


def test_a_graph_that_is_absent_is_named_with_the_hint(tmp_path: Path) -> None:
    with refuses(SpecGraphError, Reason.FAILURE, f"'{tmp_path}/absent': No such file or directory"):
        load_spec_graph(str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("{", "JSONDecodeError"),
        ("{}", "KeyError"),
        ("[]", "TypeError"),
        ('{"spec": "0", "start": "a", "terminal": [], "edges": [["a", "b", "c"]]}', ""),
    ],
)
def test_a_damaged_graph_is_named_with_the_hint(tmp_path: Path, text: str, fact: str) -> None:
    path = tmp_path / "graph.json"
    path.write_text(text)
    with refuses(SpecGraphError, Reason.MALFORMED, f"'{path}'", fact):
        load_spec_graph(str(path))


def test_a_graph_of_another_spec_is_stale_and_both_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = spec_graph().spec
    compiled = json.loads(Path(module.SPEC_GRAPH).read_text()) | {"spec": "0123456789abcdef"}
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(compiled))
    monkeypatch.setattr(module, "SPEC_GRAPH", str(path))
    with refuses(SpecGraphError, Reason.STALE, f"'{path}'", "0123456789ab…", f"{own[:12]}…"):
        spec_graph()


HEADER = {"host": {"user": 0}, "options": {"runsc": "/usr/bin/runsc"}}


class Resolved:
    def facts(self) -> dict[str, object]:
        return {"path": "/usr/bin/runsc", "found_by": "option"}


@pytest.mark.parametrize(
    ("edges", "facts"),
    [
        (
            {"start": {"resolve": "refused"}, "refused": {}},
            ("start --resolve--> resolved",),
        ),
        ({"start": {"refuse": "refused"}, "refused": {}}, ("start --resolve-->",)),
    ],
)
def test_step_not_in_the_spec_is_named_and_not_recorded(
    edges: dict[str, dict[str, str]], facts: tuple[str, ...]
) -> None:
    moves: list[Move] = []
    lifecycle = SpecLifecycle(HEADER, moves.append, SpecGraph("0", "start", edges))
    with refuses(NotInSpecError, Reason.NOT_IN_SPEC, *facts) as refusal:
        lifecycle.perform(Trigger.RESOLVE, Resolved)
    assert refusal.value.step == "resolve"
    assert moves == []
