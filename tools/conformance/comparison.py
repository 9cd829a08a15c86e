"""The machine held against the spec, exhaustively.

TLC lists every state that the spec can reach. In each of them the real machine is asked for each of its triggers,
with the facts that a step would record there, and must answer as the spec does. What the adversary does changes
the facts but is itself no edge: his own variables are hidden. No state and no edge is listed here.
"""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from engine.errors import Reason
from engine.lifecycle.machine import LIFECYCLE, TERMINAL
from engine.lifecycle.spec_files import LIFECYCLE_SPEC
from engine.spec.errors import SpecError
from engine.spec.graph import Edge, Graph, LifecycleEdge, explore, lifecycle_edges, trigger_of
from engine.spec.models import Specs
from engine.spec.tlc import Tlc
from engine.traces.move import Facts, Trigger
from tools.conformance.facts import (
    STEPS,
    NotYetError,
    StepRefusesError,
    attempt,
    could_report,
    header_of,
    key_of,
    outcome_of,
)
from tools.conformance.machine import Answer, Known, Machine, UnreachedError
from tools.conformance.moment import Moment, moment_of

#: The adversary's model in which the guards are compared; he is given every kind of file there is.
ADVERSARY_MODEL = "Small"
SEVERAL_FILES_MODEL = "SeveralFiles"

_KINDS = re.compile(r"^Kinds == (\{[^}]*\})", re.MULTILINE)


def adversary_graph(specs: Specs, tlc: Tlc) -> Graph:
    """Every state of one run while the adversary makes one move, of every kind there is. Raises `CheckError`."""
    kinds = _KINDS.search(specs.files[LIFECYCLE_SPEC])
    if kinds is None:
        raise SpecError(
            "there is no set Kinds",
            reason=Reason.SPEC_REJECTED,
            hint="name the kinds of files there",
            file=LIFECYCLE_SPEC,
            line=None,
            column=None,
        )
    return explore(specs, tlc, ADVERSARY_MODEL, {"Files": " ".join(kinds[1].split())})


def several_files_graph(specs: Specs, tlc: Tlc) -> Graph:
    """Every state of an ordinary user's run of a runsc with a sidecar, with one move of the adversary or a failure.

    Raises `CheckError`.
    """
    choices = {
        "Rootless": "{TRUE}",
        "AsRoot": "{FALSE}",
        "Places": '{"apart", "base"}',
        "Enforceable": "{TRUE, FALSE}",
        "Budget": "1",
        "Moves": '{"fail", "binary", "rewrite", "programs", "nest", "copy", "kept"}',
    }
    return explore(specs, tlc, SEVERAL_FILES_MODEL, choices)


class Kind(Enum):
    """How spec and machine differ on an edge, and which of them does what the other does not."""

    ONLY_IN_SPEC = auto()
    ONLY_IN_MACHINE = auto()
    TERMINAL_ON_ONE_SIDE = auto()
    SPEC_GOES_ON = auto()
    MACHINE_GOES_ON = auto()
    OTHER_TARGET = auto()
    SPEC_REFUSES = auto()
    ENGINE_REFUSES = auto()
    WAITS_ON_ONE_SIDE = auto()
    MACHINE_ACCEPTS = auto()


@dataclass(frozen=True, slots=True)
class Difference:
    """An edge on which spec and machine are not agreed: `kind` and `what` say how, `path` is the shortest way there.

    The path is made of the spec's actions, the world's among them.
    """

    edge: LifecycleEdge
    kind: Kind
    what: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.edge}: {self.what}; the shortest way there: {', '.join(self.path) or 'the start'}"


def compare(graph: Graph) -> tuple[Difference, ...]:
    """Where the machine is not what `graph`, of a model of one run, says it is; empty when they are the same.

    First the edges by themselves, both ways. If they agree, every reachable state of the spec: the machine is
    driven there and asked for every trigger; it must move if and only if the spec does, to the same state, and
    the engine must refuse if and only if the spec does. Last, what a step might report wrongly: the machine must
    not accept what the spec does in no state in which the engine knows the same. Each edge is named once for each
    kind of difference, with the shortest path. Raises `CheckError`.
    """
    comparison = _Comparison(graph)
    return tuple(comparison.edges()) or tuple(comparison.steps()) or tuple(comparison.reports())


@dataclass(frozen=True, slots=True)
class _Visit:
    """A reachable state of the spec: `known` is what a run has recorded that came by the shortest path.

    `steps` are the edges of the lifecycle from here, by trigger, with all that can be so after them; `inner` are the
    actions that leave the run where it is: the engine's, and gc's that release the lock for which the run waits.
    """

    now: Moment
    path: tuple[str, ...]
    known: Known
    steps: Mapping[str, list[Moment]]
    inner: tuple[str, ...]


class _Comparison:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._machine = Machine()
        self._visits = tuple(_breadth_first(graph))
        self._nearest: dict[str, tuple[str, ...]] = {}
        for visit in self._visits:
            self._nearest.setdefault(visit.now.place, visit.path)

    def edges(self) -> Iterator[Difference]:
        """The table against the edges of the spec."""
        spec = lifecycle_edges(self._graph)
        machine = {
            LifecycleEdge(str(source), str(row.trigger), str(row.target))
            for row in LIFECYCLE
            if row.trigger is not Trigger.END  # of specs/Supervision.tla
            for source in row.sources
        }
        for edge in sorted(spec ^ machine):
            has, lacks = ("spec", "machine") if edge in spec else ("machine", "spec")
            kind = Kind.ONLY_IN_SPEC if edge in spec else Kind.ONLY_IN_MACHINE
            never = "" if edge.state in self._nearest else f", which never reaches {edge.state}"
            what = f"the {has} has it and the {lacks} does not{never}"
            yield Difference(edge, kind, what, self._nearest.get(edge.state, ()))
        goes_on = {edge.state for edge in spec}
        for edge in sorted(spec & machine):
            if (edge.next in TERMINAL) == (edge.next in goes_on):
                what = f"{edge.next} is terminal on one side only"
                yield Difference(edge, Kind.TERMINAL_ON_ONE_SIDE, what, self._nearest[edge.state])

    def steps(self) -> Iterator[Difference]:
        """The machine's answers against the spec's, in every state."""
        said = set()
        for visit in self._visits:
            with contextlib.suppress(UnreachedError):
                for difference in self._in(visit):
                    if (difference.edge, difference.what) not in said:
                        said.add((difference.edge, difference.what))
                        yield difference

    def _in(self, visit: _Visit) -> Iterator[Difference]:
        now = visit.now
        refuses = not_yet = False
        for trigger in STEPS:
            outcomes: Sequence[Moment | None] = visit.steps.get(trigger) or [None]
            for after in outcomes:
                answer = self._machine.ask(visit.known, trigger, outcome_of(trigger, now, after))
                refuses |= answer.refuses
                not_yet |= answer.not_yet
                if answer.target != (after.place if after else None):
                    edge = LifecycleEdge(
                        now.place, str(trigger), after.place if after else str(answer.target)
                    )
                    yield Difference(edge, *_unlike(after, answer), visit.path)
                    return
        refused = next(iter(visit.steps.get(Trigger.REFUSE, [])), None)
        answer = self._machine.ask(visit.known, Trigger.REFUSE, {})
        edge = LifecycleEdge(now.place, str(Trigger.REFUSE), refused.place if refused else str(answer.target))
        if refuses != (refused is not None):
            one, other = ("engine", "spec") if refuses else ("spec", "engine")
            kind = Kind.ENGINE_REFUSES if refuses else Kind.SPEC_REFUSES
            yield Difference(edge, kind, f"the {one} refuses and the {other} does not", visit.path)
        elif refused is not None and answer.target != refused.place:
            yield Difference(edge, *_unlike(refused, answer), visit.path)
        elif not refuses and not_yet != bool(visit.inner):
            doing = (
                f"the spec is still at {' or '.join(visit.inner)}"
                if visit.inner
                else "the spec waits for nothing"
            )
            what = f"neither goes on nor refuses on one side: {doing}"
            yield Difference(edge, Kind.WAITS_ON_ONE_SIDE, what, visit.path)

    def reports(self) -> Iterator[Difference]:
        """What the machine accepts of all that a step might report, against what the spec has it report."""
        offers: dict[Trigger, dict[str, Facts]] = {trigger: {} for trigger in STEPS}
        taken = set()
        nearest: dict[Known, _Visit] = {}
        for visit in self._visits:
            nearest.setdefault(visit.known, visit)
            for trigger in STEPS:
                if (facts := could_report(trigger, visit.now)) is not None:
                    offers[trigger].setdefault(key_of(facts), facts)
                for after in visit.steps.get(trigger, []):
                    taken.add((visit.known, trigger, key_of(attempt(trigger, visit.now, after))))
        said = set()
        for known, visit in nearest.items():
            for trigger, offered in offers.items():
                for key, facts in offered.items():
                    answer = self._machine.ask(known, trigger, facts)
                    if answer.target is None or (known, trigger, key) in taken:
                        continue
                    edge = LifecycleEdge(visit.now.place, str(trigger), answer.target)
                    if (edge, key) not in said:
                        said.add((edge, key))
                        what = f"the machine accepts {key} with {known[0]}, and the spec never has that"
                        yield Difference(edge, Kind.MACHINE_ACCEPTS, what, visit.path)


def _breadth_first(graph: Graph) -> Iterator[_Visit]:
    """Every reachable state, the nearest first. What lies behind a step that records nothing is left out."""
    moments = {name: moment_of(state) for name, state in graph.states.items()}
    onward: dict[str, list[Edge]] = {name: [] for name in moments}
    for edge in graph.edges:
        onward[edge.source].append(edge)
    seen = set(graph.initial)
    waiting: deque[tuple[str, tuple[str, ...], Known]] = deque(
        (name, (), (key_of(header_of(moments[name])), ())) for name in sorted(graph.initial)
    )
    while waiting:
        name, path, known = waiting.popleft()
        now = moments[name]
        steps: dict[str, list[Moment]] = {}
        inner = set()
        for edge in onward[name]:
            after = moments[edge.target]
            recorded: Known | None = known
            if after.place != now.place:
                trigger = trigger_of(edge.action)
                steps.setdefault(trigger, []).append(after)
                recorded = _recorded(known, trigger, now, after)
            elif _acts(now, after) or (now.waits_for_gc and not after.waits_for_gc):
                inner.add(edge.action)
            if edge.target not in seen and recorded is not None:
                seen.add(edge.target)
                waiting.append((edge.target, (*path, edge.action), recorded))
        yield _Visit(now, path, known, steps, tuple(sorted(inner)))


def _acts(now: Moment, after: Moment) -> bool:
    """Whether the engine acted and stayed where it is: `Acts` in the spec, but for the state."""
    return (
        (now.handle != "current" and after.handle == "current")
        or any(
            part.copied == "nothing" != then.copied for part, then in zip(now.parts, after.parts, strict=True)
        )
        or now.probed != after.probed
        or now.in_force != after.in_force
        or now.config == "nothing" != after.config
        or now.seen != after.seen
    )


def _recorded(known: Known, trigger: str, now: Moment, after: Moment) -> Known | None:
    header, moves = known
    if trigger == Trigger.REFUSE:
        return header, (*moves, (trigger, key_of({})))
    try:
        return header, (*moves, (trigger, key_of(attempt(Trigger(trigger), now, after))))
    except (StepRefusesError, NotYetError, ValueError):  # spec and machine part here, as `steps` will say
        return None


def _unlike(after: Moment | None, answer: Answer) -> tuple[Kind, str]:
    if after is None:
        return Kind.MACHINE_GOES_ON, "the machine goes on and the spec does not"
    if answer.target is None:
        return Kind.SPEC_GOES_ON, f"the spec goes on and the machine does not ({answer.why})"
    return Kind.OTHER_TARGET, f"the spec goes to {after.place} and the machine to {answer.target}"
