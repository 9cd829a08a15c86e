"""A run that would leave the spec stops itself before it acts, whatever the machine's own table says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.bundle.bundle import open_bundle
from engine.errors import EngineError, Reason
from engine.lifecycle import machine, runner
from engine.lifecycle.machine import LIFECYCLE, Transition
from engine.lifecycle.spec_files import LIFECYCLE_SPEC
from engine.lifecycle.spec_graph import (
    NotInSpecError,
    SpecGraphError,
    SpecLifecycle,
    load_spec_graph,
    spec_graph,
)
from engine.options import RunOptions
from engine.traces.move import Move, State, Trigger
from tests.support.bundles import make_bundle
from tests.support.objects import changed
from tests.support.refusals import check, refuses
from tests.support.stories import STEPS, Established, KernelRefusesError, Story, read

ROOT = Path(__file__).parents[2]
GRAPH = "engine/lifecycle/spec_graph.json"


class Walk:
    """A lifecycle that is held to the spec, what it recorded and what it did."""

    def __init__(self) -> None:
        self.story = Story()
        self.moves: list[Move] = []
        self.acted: list[Trigger] = []
        self.lifecycle = SpecLifecycle(
            {**self.story.header(), "container": "web"}, self.moves.append, spec_graph()
        )

    def perform(self, trigger: Trigger, *, kernel_refuses: bool = False) -> None:
        def act() -> Established:
            self.acted.append(trigger)
            return Established(self.story.facts(trigger))

        def commit(_: Established) -> None:
            if kernel_refuses:
                raise KernelRefusesError

        self.lifecycle.perform(trigger, act, commit)


def sabotage(monkeypatch: pytest.MonkeyPatch, trigger: Trigger, **fields: Any) -> None:
    """Change a row of the machine's table."""
    table = tuple(changed(row, **fields) if row.trigger is trigger else row for row in LIFECYCLE)
    monkeypatch.setattr(machine, "LIFECYCLE", table)


def test_a_run_that_keeps_to_the_spec_is_not_hindered() -> None:
    walk = Walk()
    for trigger in STEPS:
        walk.perform(trigger)
    assert [move.trigger for move in walk.moves] == list(STEPS)
    assert walk.lifecycle.state is State.HANDED_OFF


def test_refusal_may_follow_an_execve_the_kernel_refused() -> None:
    walk = Walk()
    for trigger in STEPS[:-1]:
        walk.perform(trigger)
    with pytest.raises(KernelRefusesError):
        walk.perform(Trigger.EXEC, kernel_refuses=True)
    walk.perform(Trigger.REFUSE)
    assert (walk.moves[-1].state, walk.moves[-1].next) == (State.POLICY_SETTLED, State.REFUSED)


def test_a_transition_that_was_added_to_the_machine_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage(monkeypatch, Trigger.SECURE_ROOT, sources=(State.RESOLVED, State.VALIDATED))
    walk = Walk()
    walk.perform(Trigger.RESOLVE)
    with refuses(NotInSpecError, Reason.NOT_IN_SPEC, "resolved --secure_root-->"):
        walk.perform(Trigger.SECURE_ROOT)
    assert walk.acted == [Trigger.RESOLVE]
    walk.perform(Trigger.REFUSE)
    assert (walk.moves[-1].state, walk.lifecycle.state) == (State.RESOLVED, State.REFUSED)


def test_a_transition_that_leads_elsewhere_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage(monkeypatch, Trigger.VALIDATE, target=State.ROOT_SECURED)
    walk = Walk()
    walk.perform(Trigger.RESOLVE)
    with refuses(NotInSpecError, Reason.NOT_IN_SPEC, "resolved --validate--> root_secured"):
        walk.perform(Trigger.VALIDATE)
    assert [move.trigger for move in walk.moves] == [Trigger.RESOLVE]
    assert walk.lifecycle.state is State.RESOLVED


def test_an_end_that_the_machine_does_not_keep_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    again = Transition(
        Trigger.RESOLVE, (State.REFUSED,), State.RESOLVED, establishes="", refuses="", reasons=frozenset()
    )
    monkeypatch.setattr(machine, "LIFECYCLE", (*LIFECYCLE, again))
    monkeypatch.setattr(machine, "TERMINAL", frozenset({State.HANDED_OFF}))
    walk = Walk()
    walk.perform(Trigger.REFUSE)
    with refuses(NotInSpecError, Reason.NOT_IN_SPEC, "refused"):
        walk.perform(Trigger.RESOLVE)
    assert walk.acted == [Trigger.REFUSE]


def test_the_machine_still_refuses_what_only_the_spec_permits(monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage(monkeypatch, Trigger.RESOLVE, sources=(State.STAGED,))
    with refuses(machine.NotPermittedError, Reason.NOT_PERMITTED, "resolve", "start"):
        Walk().perform(Trigger.RESOLVE)


# -- the whole engine ------------------------------------------------------------------------------------------------


class World:
    """A bundle, a binary and a base, and how often something was done in a step or executed."""

    def __init__(self, private: Path, binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.binary = binary
        self.base = private / "base"
        self.trace = private / "trace.jsonl"
        self.bundle = make_bundle(private / "bundle")
        self.done: list[str] = []
        for name in ("resolve", "validate", "secure_root", "stage", "apply_policy", "prepare"):
            self._watch(monkeypatch, name)

        def execve(*_: Any) -> None:
            self.done.append("execve")
            raise AssertionError

        monkeypatch.setattr("os.execve", execve)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        real = getattr(runner, name)

        def watched(*arguments: Any) -> Any:
            self.done.append(name)
            return real(*arguments)

        monkeypatch.setattr(runner, name, watched)

    def refused(self) -> tuple[EngineError, list[dict[str, Any]]]:
        options = RunOptions("web", runsc=str(self.binary))
        environment = {"ENGINE_ARTIFACT_BASE": str(self.base)}
        with open_bundle(str(self.bundle)) as bundle, pytest.raises(EngineError) as refusal:
            runner.run(bundle, options, environment, trace_path=str(self.trace))
        return refusal.value, read(self.trace)


@pytest.fixture
def world(private: Path, binary: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(private, binary, monkeypatch)


def test_a_step_that_is_skipped_stops_the_run_before_it_acts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Table and runner agree to go on without validating; only the spec is left to object."""
    monkeypatch.setattr(
        machine,
        "LIFECYCLE",
        tuple(
            changed(row, sources=(State.RESOLVED,)) if row.trigger is Trigger.SECURE_ROOT else row
            for row in LIFECYCLE
            if row.trigger is not Trigger.VALIDATE
        ),
    )
    real = SpecLifecycle.perform

    def skipping(self: SpecLifecycle, trigger: Trigger, act: Callable[[], Any], *rest: Any) -> Any:
        return act() if trigger is Trigger.VALIDATE else real(self, trigger, act, *rest)

    monkeypatch.setattr(SpecLifecycle, "perform", skipping)
    error, lines = world.refused()
    check(error, Reason.NOT_IN_SPEC, "resolved --secure_root-->")
    assert world.done == ["resolve", "validate"]
    assert [line["trigger"] for line in lines[1:]] == ["resolve", "refuse"]
    assert lines[-1]["error"] == {
        "step": "secure_root",
        "reason": "not_in_spec",
        "what": error.what,
        "hint": error.hint,
    }
    assert not world.base.exists()


def test_transition_added_to_the_machine_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage(monkeypatch, Trigger.STAGE, target=State.POLICY_SETTLED)
    error, lines = world.refused()
    check(error, Reason.NOT_IN_SPEC, "root_secured --stage--> policy_settled")
    assert world.done == ["resolve", "validate", "secure_root", "stage"]
    assert [line["next"] for line in lines[1:]] == ["resolved", "validated", "root_secured", "refused"]
    assert not [path for path in world.base.rglob("*") if path.name not in {"lock", "web", "traces", "chain"}]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the engine and its specs, to be spoilt."""
    shutil.copytree(ROOT / "engine", tmp_path / "checkout" / "engine")
    shutil.copytree(ROOT / "specs", tmp_path / "checkout" / "specs")
    return tmp_path / "checkout"


def another_spec(checkout: Path) -> None:
    with (checkout / "specs" / LIFECYCLE_SPEC).open("a") as spec:
        spec.write("\n\\* more\n")


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda checkout: (checkout / GRAPH).unlink(), "No such file or directory"),
        (lambda checkout: (checkout / GRAPH).write_text('{"spec": "0"'), "is not a compiled graph"),
        (another_spec, "was compiled from the spec "),
    ],
)
def test_run_without_its_spec_graph_is_refused(
    world: World, checkout: Path, spoil: Callable[[Path], None], what: str
) -> None:
    spoil(checkout)
    ran = subprocess.run(
        [sys.executable, "-m", "engine", "run", str(world.bundle), "--runsc", str(world.binary)],
        cwd=checkout,
        env={**os.environ, "ENGINE_ARTIFACT_BASE": str(world.base)},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ran.returncode, ran.stdout) == (125, "")
    assert re.fullmatch(
        rf"engine: spec: '{checkout}/{GRAPH}'.*{what}.*; install the engine again; .*\n", ran.stderr
    )
    assert not world.base.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"spec": "0", "start": "a", "terminal": [], "edges": [["a", "b"]]}',
        '{"spec": "0", "start": "a", "terminal": [], "edges": [["a", "b", "c"]]}',
        '{"spec": "0", "start": "a", "terminal": ["a", "c"], "edges": [["a", "b", "c"]]}',
        '{"spec": "0", "start": "z", "terminal": ["c"], "edges": [["a", "b", "c"]]}',
    ],
)
def test_a_damaged_graph_is_no_graph(tmp_path: Path, text: str) -> None:
    path = tmp_path / "graph.json"
    path.write_text(text)
    with refuses(SpecGraphError, Reason.MALFORMED):
        load_spec_graph(str(path))
