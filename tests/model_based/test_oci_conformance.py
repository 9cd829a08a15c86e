"""The OCI lifecycle's table against TLC's graph of specs/OCIRuntime.tla: in every state the spec reaches, both ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from engine.spec.graph import Graph, explore, lifecycle_edges
from engine.spec.java import find_jar, find_java
from engine.spec.models import load
from engine.spec.tlc import Tlc
from engine.spec.values import flatten
from engine.state import oci_lifecycle as machine
from engine.state.oci_lifecycle import EDGES, OCI_LIFECYCLE, Status, Verb

TRIED = (Verb.START, Verb.PAUSE, Verb.RESUME)
#: By what is noted before runsc does it: where the container was, and where it is then.
MOVES = {str(row.verb): (row.sources, row.target) for row in OCI_LIFECYCLE if row.verb in TRIED}
#: The spec's action for each verb that is one. A signal is sent once in the spec; a free lock is waited for.
ACTIONS = {
    Verb.START: "TryStart",
    Verb.PAUSE: "TryPause",
    Verb.RESUME: "TryResume",
    Verb.KILL: "Kill",
    Verb.CREATE: "Create",
    Verb.DELETE: "TakeToDelete",
    Verb.FORCE_DELETE: "TakeByForce",
}


@pytest.fixture(scope="module")
def graph() -> Graph:
    return explore(load(), Tlc(find_java(), find_jar()), "OCIRuntime")


def moments(graph: Graph) -> Iterator[tuple[Mapping[str, Any], frozenset[str]]]:
    """Each state of the spec, its variables by name, with the actions it has."""
    actions: dict[str, set[str]] = {name: set() for name in graph.states}
    for edge in graph.edges:
        actions[edge.source].add(edge.action)
    for name, state in graph.states.items():
        flat = {key: v if isinstance(v, bool) else str(v) for key, v in flatten(state).items()}
        yield flat, frozenset(actions[name])


def doings(now: Mapping[str, Any]) -> list[str]:
    return [str(value) for key, value in now.items() if key.startswith("doing")]


def is_being_tried(now: Mapping[str, Any]) -> bool:
    return not {"try", "tell", "write"}.isdisjoint(doings(now))


def known(now: Mapping[str, Any]) -> str | None:
    """What runsc's file says, or an attempt that it does not tell of (`record.look`, `attempt.found_out`)."""
    file, attempt = now["file"], now["attempt"]
    if file == "cut":
        return str(MOVES[attempt][1])
    if attempt != "none" and not is_being_tried(now) and file in MOVES[attempt][0]:
        return str(now["inside"])
    return None if file == "none" else str(file)


def found_out(now: Mapping[str, Any]) -> Status:
    """What the engine makes out of that state."""
    if not now["record"]:
        return Status.DELETED
    return machine.status(
        known=known(now),
        lives=now["alive"],
        is_being_created="create" in doings(now),
    )


def place(now: Mapping[str, Any]) -> str:
    (where,) = (value for key, value in now.items() if key.startswith("state"))
    return str(where)


def test_status_is_true_in_every_state(graph: Graph) -> None:
    wrong = []
    for now, _ in moments(graph):
        true = {place(now)}
        if is_being_tried(now) and now["alive"] and place(now) == MOVES[now["attempt"]][1]:
            true |= MOVES[now["attempt"]][0]  # while it is being done, what was before it is as true
        if found_out(now) not in true:
            wrong.append(now)
    assert not wrong, wrong[0]


def could_go_on(verb: Verb, now: Mapping[str, Any]) -> bool:
    """Whether only the table is in the way of `verb`: the rest that it waits for is there."""
    is_free, idle = "Nobody" in now["lock"], "nothing" in doings(now)
    if verb is Verb.CREATE:
        run = next(value for key, value in now.items() if key.startswith("run"))
        return is_free and run == "validated" and "begin" in doings(now)
    if verb in (Verb.DELETE, Verb.FORCE_DELETE):
        return is_free and idle and bool(now["record"])
    if verb in TRIED:
        return idle and not is_being_tried(now)
    return verb is not Verb.KILL or not now["killed"]


@pytest.mark.parametrize("verb", ACTIONS, ids=lambda verb: verb.name.lower())
def test_table_permits_a_verb_exactly_where_the_spec_does(graph: Graph, verb: Verb) -> None:
    (row,) = (row for row in OCI_LIFECYCLE if row.verb is verb)
    asked = 0
    for now, actions in moments(graph):
        if could_go_on(verb, now):
            asked += 1
            assert (found_out(now) in row.sources) == (ACTIONS[verb] in actions), (verb, now, sorted(actions))
    assert asked > 5


def test_the_edges_are_those_of_the_spec(graph: Graph) -> None:
    spec = {(edge.state, edge.trigger.removesuffix("_created"), edge.next) for edge in lifecycle_edges(graph)}
    assert {(str(a), str(by), str(b)) for a, by, b in EDGES} == spec


def test_every_verb_has_one_row_and_every_status_is_met(graph: Graph) -> None:
    assert sorted(row.verb for row in OCI_LIFECYCLE) == sorted(Verb)
    assert {place(now) for now, _ in moments(graph)} == set(Status)
