"""The machine held against the spec, exhaustively.

TLC lists every state that the spec can reach. In each of them the real machine is asked for each of its triggers,
with the facts that a step would record there, and must answer as the spec does. What the adversary does changes
the facts but is itself no edge: his own variables are hidden. `_Moment` and `_STEPS` are the one mapping from the
spec's variables to recorded facts; no state and no edge is listed here.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from engine.errors import Reason
from engine.lifecycle.machine import (
    LIFECYCLE,
    TERMINAL,
    Facts,
    Lifecycle,
    Move,
    NotPermittedError,
    PolicyOutcome,
    Trigger,
)
from engine.lifecycle.spec_files import LIFECYCLE_SPEC
from engine.options import ExecPolicy
from engine.spec.errors import CheckError, SpecError
from engine.spec.graph import Edge, Graph, LifecycleEdge, explore, lifecycle_edges, trigger_of
from engine.spec.models import Specs
from engine.spec.tlc import Tlc
from engine.spec.values import Value, flatten

#: The adversary's model in which the guards are compared; he is given every kind of file there is.
ADVERSARY_MODEL = "Small"
_KINDS = re.compile(r"^Kinds == (\{[^}]*\})", re.MULTILINE)

_PROGRAM = "/usr/bin/runsc"
_OWN = "/base/container/runsc-root"
_APART = "/programs"
_COPIES = {"base": f"{_OWN}/exec-allow/stage-1/runsc", "apart": f"{_APART}/stage-1/runsc"}
_ROOT, _CALLER, _STRANGER = 0, 1000, 12345


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


# -- From the spec's variables to facts ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Moment:
    """The variables of the spec that decide what the engine does next, of its only run."""

    place: str
    failed: bool
    rootless: bool
    required: bool
    wanted: bool
    as_root: bool
    found_by: str
    path: str
    rewritten: bool
    pinned: str
    handle: str
    lock: str
    base: str
    programs: str
    lies: str
    root: str
    nest: str
    copied: str
    shared: bool
    seen: str
    bundle: str
    probed: str
    in_force: str


def _moment(state: Mapping[str, Value]) -> _Moment:
    """Read a state of the spec. Raises `CheckError` when it is not one with a single run."""
    flat = {
        name: str(value) if not isinstance(value, bool) else value for name, value in flatten(state).items()
    }
    runs = [name for name in flat if name.startswith("state[")]
    if len(runs) != 1:
        raise CheckError(
            f"a state with {len(runs)} runs", reason=Reason.MALFORMED, hint="compare models of one run"
        )
    run = runs[0].removeprefix("state")
    container = f"[{_name(state['id'], run)}]"
    by_field: dict[str, Any] = {
        "place": flat[f"state{run}"],
        "lies": flat[f"place{run}"],
        "rootless": flat[f"option{run}.rootless"],
        "required": flat[f"option{run}.required"],
        "wanted": flat[f"option{run}.wanted"],
        "as_root": flat[f"option{run}.asRoot"],
        "found_by": flat[f"option{run}.foundBy"],
        "seen": flat[f"seen{run}.bundle"],
        "in_force": flat[f"inForce{run}"],
        "lock": _name(state["lock"], container),
    }
    for name in ("failed", "pinned", "handle", "copied", "shared", "probed", "bundle"):
        by_field[name] = flat[f"{name}{run}"]
    for name in ("root", "nest"):
        by_field[name] = flat[f"{name}{container}"]
    for name in ("path", "rewritten", "base", "programs"):
        by_field[name] = flat[name]
    return _Moment(**by_field)


def _name(function: Value, argument: str) -> str:
    if not isinstance(function, Mapping):
        raise CheckError(
            "the graph is not one of the lifecycle",
            reason=Reason.MALFORMED,
            hint="compare a model of GVisorRuntime",
        )
    return str(getattr(function[argument[1:-1]], "name", function[argument[1:-1]]))


class _StepRefusesError(Exception):
    """The step itself raises: what is wrong is nothing that it records, so no guard can see it."""


class _NotYetError(Exception):
    """The step is not over: another move of it, which leaves the run where it is, comes first."""


def _header(now: _Moment) -> Facts:
    return {
        "options": {
            "rootless": now.rootless,
            "require_exec_policy": now.required,
            "exec_policy": str(ExecPolicy.AUTO if now.wanted else ExecPolicy.OFF),
        },
        "bundle": {"sha256": "as_validated"},
        "host": {"user": _ROOT if now.as_root else _CALLER},
    }


def _resolve(now: _Moment, _: _Moment | None) -> Facts:
    return {"path": "" if now.path == "absent" else _PROGRAM, "found_by": now.found_by}


def _identity(file: str, now: _Moment) -> Facts:
    """Only the vendor's file is ever written anew; each other one is a file of its own."""
    return {"inode": file, "size": 1, "ctime_ns": int(now.rewritten and file == "vendor")}


#: How the facts of a file that must be refused differ from those of one that may be trusted.
_FAULTS: Mapping[str, Facts] = {
    "not_a_program": {"mode": "0644"},
    "loose_mode": {"mode": "0777"},
    "foreign_owner": {"owner": _STRANGER},
}


def _validate(now: _Moment, _: _Moment | None) -> Facts:
    if now.path in {"absent", "loose_chain"}:  # the walk to the file is judged and not recorded
        raise _StepRefusesError
    return {
        "identity": _identity(now.path, now),
        "owner": _ROOT,
        "mode": "0755",
        "trusted_owners": [_ROOT],
        "immutable_store": False,
        **_FAULTS.get(now.path, {}),
    }


_MODES = {"private": "0700", "loose": "0755"}


def _secure_root(now: _Moment, after: _Moment | None) -> Facts:
    if now.base != "trusted" or now.root == "swapped":  # the walk to the directories, judged and not recorded
        raise _StepRefusesError
    if now.handle != "current":
        raise _NotYetError
    if now.lock != "Nobody":
        raise _StepRefusesError
    return _directories(_MODES[after.root if after else "private"], after)


def _directories(mode: str, at: _Moment | None) -> Facts:
    facts = {"user": _ROOT, "directories": [{"owner": _ROOT, "mode": mode, "path": _OWN}] * 4}
    if at is None or at.lies != "apart":
        return facts
    apart = "0700" if at.programs == "trusted" else "0755"
    return {**facts, "programs": {"owner": _ROOT, "mode": apart, "path": _APART}}


def _stage(now: _Moment, _: _Moment | None) -> Facts:
    if now.copied == "nothing":
        if now.nest != "own":
            raise _StepRefusesError
        raise _NotYetError
    return _copy(now)


def _copy_path(now: _Moment) -> str:
    return _COPIES.get(now.lies, _COPIES["base"])


def _copy(now: _Moment) -> Facts:
    pinned = _identity(now.pinned, now)
    return {
        "path": _copy_path(now),
        "size": 1,
        "mode": "0500",
        "pinned": pinned,
        "made_from": pinned,
        "from_store": now.shared,
        "compared": now.shared and not now.as_root,
    }


def _apply_policy(now: _Moment, _: _Moment | None) -> Facts:
    """As policy.py settles it, whatever is required: whether that will do is the guard's to say."""
    if now.rootless and now.wanted:
        if now.in_force == "in_part":
            raise _StepRefusesError
        if now.probed == "untried" or (now.probed == "usable" and now.in_force == "nothing"):
            raise _NotYetError
    return _policy(now)


def _policy(now: _Moment) -> Facts:
    if not now.rootless:
        return {"outcome": PolicyOutcome.NOT_APPLICABLE}
    return {"outcome": PolicyOutcome.ENFORCED if now.in_force == "whole" else PolicyOutcome.UNAVAILABLE}


def _exec(now: _Moment, _: _Moment | None) -> Facts:
    """Once the last look was taken, what it saw counts; before it, what it would see."""
    if now.seen != "unseen":
        return _hand_off(now, now.seen)
    if now.base != "trusted" or now.root != "private":  # looked at, and not recorded
        raise _StepRefusesError
    if now.lies == "apart" and now.programs != "trusted":
        raise _StepRefusesError
    if now.bundle != "as_validated":
        return _hand_off(now, now.bundle)
    raise _NotYetError


def _hand_off(now: _Moment, bundle: str) -> Facts:
    return {"argv": [_copy_path(now)], "bundle": {"sha256": bundle}}


#: What each step records, from the spec's state before it and (where the spec takes the step) after it.
_STEPS: Mapping[Trigger, Callable[[_Moment, _Moment | None], Facts]] = {
    Trigger.RESOLVE: _resolve,
    Trigger.VALIDATE: _validate,
    Trigger.SECURE_ROOT: _secure_root,
    Trigger.STAGE: _stage,
    Trigger.APPLY_POLICY: _apply_policy,
    Trigger.EXEC: _exec,
}


def _attempt(trigger: Trigger, now: _Moment, after: _Moment | None = None) -> Facts:
    """What the step records. Raises `_StepRefusesError` or `_NotYetError`."""
    if now.failed:
        raise _StepRefusesError
    return _STEPS[trigger](now, after)


def _outcome(trigger: Trigger, now: _Moment, after: _Moment | None) -> _Outcome:
    try:
        return _attempt(trigger, now, after)
    except (_StepRefusesError, _NotYetError) as stopped:
        return stopped


def _could_report(trigger: Trigger, now: _Moment) -> Facts | None:
    """What the step would record if it reported the variables as they are in `now`, at whatever time that is."""
    match trigger:
        case Trigger.SECURE_ROOT:
            return _directories(_MODES[now.root], now) if now.root in _MODES else None
        case Trigger.STAGE:
            return None if now.pinned == "nothing" else _copy(now)
        case Trigger.APPLY_POLICY:
            return _policy(now)
        case Trigger.EXEC:
            return _hand_off(now, now.bundle)
        case _:
            try:
                return _STEPS[trigger](now, None)
            except _StepRefusesError:
                return None


# -- Spec = machine --------------------------------------------------------------------------------------------------


#: What a step records, or raises.
_Outcome = Facts | _StepRefusesError | _NotYetError
#: The header, and each move so far with what it recorded; facts as JSON, so that equal ones are.
_Known = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Difference:
    """An edge on which spec and machine are not agreed: `what` says how, `path` is the shortest way there.

    The path is made of the spec's actions, the world's among them.
    """

    edge: LifecycleEdge
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

    `steps` are the edges of the lifecycle from here, by trigger, with what is so after them; `inner` are the
    engine's actions that leave the run where it is.
    """

    now: _Moment
    path: tuple[str, ...]
    known: _Known
    steps: Mapping[str, _Moment]
    inner: tuple[str, ...]


class _Comparison:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._machine = _Machine()
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
            for source in row.sources
        }
        for edge in sorted(spec ^ machine):
            has, lacks = ("spec", "machine") if edge in spec else ("machine", "spec")
            never = "" if edge.state in self._nearest else f", which never reaches {edge.state}"
            yield Difference(
                edge, f"the {has} has it and the {lacks} does not{never}", self._nearest.get(edge.state, ())
            )
        goes_on = {edge.state for edge in spec}
        for edge in sorted(spec & machine):
            if (edge.next in TERMINAL) == (edge.next in goes_on):
                yield Difference(edge, f"{edge.next} is terminal on one side only", self._nearest[edge.state])

    def steps(self) -> Iterator[Difference]:
        """The machine's answers against the spec's, in every state."""
        said = set()
        for visit in self._visits:
            with contextlib.suppress(_UnreachedError):
                for difference in self._in(visit):
                    if (difference.edge, difference.what) not in said:
                        said.add((difference.edge, difference.what))
                        yield difference

    def _in(self, visit: _Visit) -> Iterator[Difference]:
        now = visit.now
        refuses = not_yet = False
        for trigger in _STEPS:
            after = visit.steps.get(trigger)
            answer = self._machine.ask(visit.known, trigger, _outcome(trigger, now, after))
            refuses |= answer.refuses
            not_yet |= answer.not_yet
            if answer.target != (after.place if after else None):
                edge = LifecycleEdge(now.place, str(trigger), after.place if after else str(answer.target))
                yield Difference(edge, _unlike(after, answer), visit.path)
                return
        refused = visit.steps.get(Trigger.REFUSE)
        answer = self._machine.ask(visit.known, Trigger.REFUSE, {})
        edge = LifecycleEdge(now.place, str(Trigger.REFUSE), refused.place if refused else str(answer.target))
        if refuses != (refused is not None):
            one, other = ("engine", "spec") if refuses else ("spec", "engine")
            yield Difference(edge, f"the {one} refuses and the {other} does not", visit.path)
        elif refused is not None and answer.target != refused.place:
            yield Difference(edge, _unlike(refused, answer), visit.path)
        elif not refuses and not_yet != bool(visit.inner):
            doing = (
                f"the spec is still at {' or '.join(visit.inner)}"
                if visit.inner
                else "the spec waits for nothing"
            )
            yield Difference(edge, f"neither goes on nor refuses on one side: {doing}", visit.path)

    def reports(self) -> Iterator[Difference]:
        """What the machine accepts of all that a step might report, against what the spec has it report."""
        offers: dict[Trigger, dict[str, Facts]] = {trigger: {} for trigger in _STEPS}
        taken = set()
        nearest: dict[_Known, _Visit] = {}
        for visit in self._visits:
            nearest.setdefault(visit.known, visit)
            for trigger in _STEPS:
                if (facts := _could_report(trigger, visit.now)) is not None:
                    offers[trigger].setdefault(_key(facts), facts)
                if (after := visit.steps.get(trigger)) is not None:
                    taken.add((visit.known, trigger, _key(_attempt(trigger, visit.now, after))))
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
                        yield Difference(edge, what, visit.path)


def _breadth_first(graph: Graph) -> Iterator[_Visit]:
    """Every reachable state, the nearest first. What lies behind a step that records nothing is left out."""
    moments = {name: _moment(state) for name, state in graph.states.items()}
    onward: dict[str, list[Edge]] = {name: [] for name in moments}
    for edge in graph.edges:
        onward[edge.source].append(edge)
    seen = set(graph.initial)
    waiting: deque[tuple[str, tuple[str, ...], _Known]] = deque(
        (name, (), (_key(_header(moments[name])), ())) for name in sorted(graph.initial)
    )
    while waiting:
        name, path, known = waiting.popleft()
        now = moments[name]
        steps: dict[str, _Moment] = {}
        inner = set()
        for edge in onward[name]:
            after = moments[edge.target]
            recorded: _Known | None = known
            if after.place != now.place:
                trigger = trigger_of(edge.action)
                steps[trigger] = after
                recorded = _recorded(known, trigger, now, after)
            elif _acts(now, after):
                inner.add(edge.action)
            if edge.target not in seen and recorded is not None:
                seen.add(edge.target)
                waiting.append((edge.target, (*path, edge.action), recorded))
        yield _Visit(now, path, known, steps, tuple(sorted(inner)))


def _acts(now: _Moment, after: _Moment) -> bool:
    """Whether the engine acted and stayed where it is: `Acts` in the spec, but for the state."""
    return (
        (now.handle != "current" and after.handle == "current")
        or now.copied != after.copied
        or now.probed != after.probed
        or now.in_force != after.in_force
        or now.seen != after.seen
    )


def _recorded(known: _Known, trigger: str, now: _Moment, after: _Moment) -> _Known | None:
    header, moves = known
    if trigger == Trigger.REFUSE:
        return header, (*moves, (trigger, _key({})))
    try:
        return header, (*moves, (trigger, _key(_attempt(Trigger(trigger), now, after))))
    except (_StepRefusesError, _NotYetError, ValueError):  # spec and machine part here, as `steps` will say
        return None


def _key(facts: Facts) -> str:
    return json.dumps(facts, sort_keys=True)


def _unlike(after: _Moment | None, answer: _Answer) -> str:
    if after is None:
        return "the machine goes on and the spec does not"
    if answer.target is None:
        return f"the spec goes on and the machine does not ({answer.why})"
    return f"the spec goes to {after.place} and the machine to {answer.target}"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the machine made of a trigger: it moved to `target`, or the step or a guard `refuses`, or `not_yet`."""

    target: str | None = None
    refuses: bool = False
    not_yet: bool = False
    why: str = "there is no such step here"


@dataclass(frozen=True, slots=True)
class _Established:
    recorded: Facts

    def facts(self) -> dict[str, Any]:
        return dict(self.recorded)


class _UnreachedError(Exception):
    """The machine does not come to where the spec is: they parted before, and there it was said."""


class _Machine:
    """The real machine, driven to where a run has recorded what is known, and asked for one trigger."""

    def __init__(self) -> None:
        self._answers: dict[tuple[_Known, Trigger, str], _Answer] = {}

    def ask(self, known: _Known, trigger: Trigger, outcome: _Outcome) -> _Answer:
        """What it does when the step `trigger` records or raises `outcome`. Raises `_UnreachedError`."""
        told = type(outcome).__name__ if isinstance(outcome, Exception) else _key(outcome)
        question = known, trigger, told
        if question not in self._answers:
            self._answers[question] = _ask(known, trigger, outcome)
        return self._answers[question]


def _ask(known: _Known, trigger: Trigger, outcome: _Outcome) -> _Answer:
    header, moves = known
    recorded: list[Move] = []
    lifecycle = Lifecycle(json.loads(header), recorded.append)
    try:
        for done, facts in moves:
            lifecycle.perform(Trigger(done), partial(_Established, json.loads(facts)))
    except NotPermittedError:
        raise _UnreachedError from None
    acted = False

    def act() -> _Established:
        nonlocal acted
        acted = True
        if isinstance(outcome, Exception):
            raise outcome
        return _Established(outcome)

    try:
        lifecycle.perform(trigger, act)
    except NotPermittedError as refusal:
        return _Answer(refuses=acted, why=refusal.what) if acted else _Answer()
    except _StepRefusesError:
        return _Answer(refuses=True, why="its step refuses")
    except _NotYetError:
        return _Answer(not_yet=True, why="its step is not over")
    return _Answer(target=str(recorded[-1].next))
