"""Fold TLC's state graph of one run along the lifecycle: thousands of states become eight.

The result is saved in `engine/spec/spec_fold.json` with the digests of its inputs, so drawing it needs no Java and a
stale file is detected.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

from engine.errors import Reason
from engine.lifecycle.spec_files import spec_digest
from engine.spec.errors import CheckError
from engine.spec.graph import Graph, LifecycleEdge, explore, lifecycle_steps
from engine.spec.java import find_jar, find_java
from engine.spec.models import load
from engine.spec.tlc import Tlc
from engine.spec.values import Value

#: One run with all refusals, failures, gc and an adversary. Small: it folds in seconds.
FOLDED_MODEL = "Small"
SPEC_FOLD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "spec_fold.json")
MAKE = "make it again with ./just diagrams"


class Actor(StrEnum):
    """Who takes a step that leaves the run in its state."""

    ENGINE = "engine"
    WORLD = "world"
    ADVERSARY = "adversary"


@dataclass(frozen=True, slots=True)
class Taken:
    """An edge of the lifecycle: `count` steps of the spec take it. `reason` is set for a refusal."""

    state: str
    trigger: str
    next: str
    reason: str | None
    count: int


@dataclass(frozen=True, slots=True)
class Beside:
    """An action of the spec that leaves the run in `state`: its actor, and the number of steps that take it."""

    state: str
    actor: str
    action: str
    count: int


@dataclass(frozen=True, slots=True)
class Fold:
    """A folded graph. `spec` and `model`: SHA-256 of the inputs. `states`: number of spec states by lifecycle state."""

    name: str
    spec: str
    model: str
    states: Mapping[str, int]
    taken: tuple[Taken, ...]
    beside: tuple[Beside, ...]

    @property
    def steps(self) -> int:
        """The number of spec steps."""
        return sum(taken.count for taken in self.taken) + sum(beside.count for beside in self.beside)


def fold(graph: Graph, *, name: str, spec: str, model: str) -> Fold:
    """Fold the `graph` of a model with one run, without stuttering steps. Raises `CheckError`."""
    places = {key: _only(state, "state") for key, state in graph.states.items()}
    moved = {edge: place for place, edge in lifecycle_steps(graph)}
    taken: Counter[tuple[LifecycleEdge, str | None]] = Counter()
    beside: Counter[tuple[str, str, str]] = Counter()
    for edge in graph.edges:
        before, after = graph.states[edge.source], graph.states[edge.target]
        if (place := moved.get(edge)) is not None:
            reason = _only(after, "why")
            taken[place, None if reason == "none" else reason] += 1
        elif edge.source != edge.target:
            beside[places[edge.source], _actor(before, after), edge.action] += 1
    return Fold(
        name,
        spec,
        model,
        dict(sorted(Counter(places.values()).items())),
        tuple(
            Taken(place.state, place.trigger, place.next, reason, count)
            for (place, reason), count in sorted(
                taken.items(), key=lambda item: (item[0][0], item[0][1] or "")
            )
        ),
        tuple(
            Beside(state, actor, action, count) for (state, actor, action), count in sorted(beside.items())
        ),
    )


#: Variables that only the engine's own moves change: the copy, keeping it, the policy's trial, the last check.
_ENGINES_OWN = ("copied", "shared", "probed", "inForce", "seen")


def _actor(before: Mapping[str, Value], after: Mapping[str, Value]) -> Actor:
    """Who took the step: the adversary's moves are counted in a variable, the engine's are the spec's `Acts`."""
    if before["moves"] != after["moves"]:
        return Actor.ADVERSARY
    if _only(after, "handle") == "current" != _only(before, "handle"):
        return Actor.ENGINE
    moved = any(before[name] != after[name] for name in _ENGINES_OWN)
    return Actor.ENGINE if moved else Actor.WORLD


def _only(state: Mapping[str, Value], name: str) -> str:
    """The value of the variable `name` of the only run."""
    by_run = state.get(name)
    if not isinstance(by_run, Mapping) or len(by_run) != 1:
        raise CheckError(
            f"the graph does not have exactly one run with the variable {name}",
            reason=Reason.MALFORMED,
            hint="fold a model of GVisorRuntime with one run",
        )
    return str(next(iter(by_run.values())))


def make_fold() -> Fold:
    """Run TLC on the model and fold its graph. Needs Java. Raises `CheckError`."""
    specs = load()
    model = specs.model(FOLDED_MODEL)
    graph = explore(specs, Tlc(find_java(), find_jar()), model.name)
    return fold(graph, name=model.name, spec=spec_digest(), model=_digest(model.configuration.text()))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def is_current(folded: Fold) -> bool:
    """Whether the digests of spec and model still match."""
    model = load().model(FOLDED_MODEL)
    return (folded.name, folded.spec, folded.model) == (
        FOLDED_MODEL,
        spec_digest(),
        _digest(model.configuration.text()),
    )


def write_fold(folded: Fold, path: str = SPEC_FOLD) -> None:
    """Write it, by default where the engine loads it. Raises `OSError`."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(asdict(folded), file, indent=1)
        file.write("\n")


def load_fold(path: str = SPEC_FOLD) -> Fold:
    """Load this engine's folded graph. Raises `CheckError` if it is missing, damaged or stale."""
    try:
        with open(path, encoding="utf-8") as file:
            given = json.load(file)
        folded = Fold(
            given["name"],
            given["spec"],
            given["model"],
            given["states"],
            tuple(Taken(**taken) for taken in given["taken"]),
            tuple(Beside(**beside) for beside in given["beside"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else f"not a folded graph ({type(error).__name__})"
        raise CheckError(
            f"{path!r}: {why}",
            reason=Reason.FAILURE if isinstance(error, OSError) else Reason.MALFORMED,
            hint=MAKE,
        ) from None
    if folded.spec != spec_digest():
        raise CheckError(f"{path!r} is of another spec ({folded.spec!r:.80})", reason=Reason.STALE, hint=MAKE)
    return folded
