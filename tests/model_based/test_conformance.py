"""Spec, machine and traces are one: TLC's whole state graph against the machine, and TLC's verdict on traces."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import Reason
from engine.lifecycle import machine
from engine.lifecycle.guards import Known
from engine.lifecycle.machine import LIFECYCLE, Guard, Transition
from engine.lifecycle.spec_files import LIFECYCLE_SPEC
from engine.lifecycle.spec_graph import SPEC_GRAPH, SpecGraph, load_spec_graph
from engine.spec.errors import CheckError
from engine.spec.graph import Graph, LifecycleEdge, lifecycle_edges
from engine.spec.java import find_jar, find_java
from engine.spec.models import load
from engine.spec.tlc import Tlc
from engine.spec.values import parse_state
from engine.traces.move import PolicyOutcome, State, Trigger
from engine.verify.trace_check import Verdict, verify
from tests.support.objects import changed
from tests.support.refusals import refuses
from tests.support.stories import Story, as_they_are, mutate, save
from tools.compile import compile_graph, lifecycle_graph, stale, supervision_edges, write_spec_graph
from tools.conformance import comparison
from tools.conformance.comparison import Kind, adversary_graph, compare, several_files_graph
from tools.conformance.moment import moment_of
from tools.conformance.trace_module import judge

SPECS = load()
TLC = Tlc(find_java(), find_jar())


@pytest.fixture(scope="module")
def lifecycle() -> Graph:
    return lifecycle_graph(SPECS, TLC)


@pytest.fixture(scope="module")
def adversary() -> Graph:
    return adversary_graph(SPECS, TLC)


@pytest.fixture(scope="module")
def supervised() -> frozenset[LifecycleEdge]:
    return supervision_edges(SPECS, TLC)


def say(differences: tuple[object, ...]) -> str:
    return "\n".join(map(str, differences))


# -- spec = machine --------------------------------------------------------------------------------------------------


def test_machine_moves_as_the_spec_in_every_state(lifecycle: Graph) -> None:
    differences = compare(lifecycle)
    assert not differences, say(differences)


def test_machine_moves_as_the_spec_under_the_adversary(adversary: Graph) -> None:
    differences = compare(adversary)
    assert not differences, say(differences)


def test_machine_moves_as_the_spec_with_several_files() -> None:
    graph = several_files_graph(SPECS, TLC)
    differences = compare(graph)
    assert not differences, say(differences)
    met = {part.path for state in graph.states.values() for part in moment_of(state).sidecars}
    assert met == {"vendor", "other", "loose_mode"}


def test_the_adversary_adds_no_edge_to_the_lifecycle(lifecycle: Graph, adversary: Graph) -> None:
    assert lifecycle_edges(adversary) == lifecycle_edges(lifecycle)


def test_every_kind_of_file_is_met_when_the_binary_is_validated(adversary: Graph) -> None:
    moments = map(moment_of, adversary.states.values())
    met = {now.runsc.path for now in moments if now.place == "resolved"}
    assert met == {
        *("vendor", "other", "absent", "not_a_program", "loose_mode", "foreign_owner", "loose_chain")
    }


def test_supervision_adds_only_the_end_and_the_machine_has_it(
    lifecycle: Graph, supervised: frozenset[LifecycleEdge]
) -> None:
    ends = {
        LifecycleEdge(str(source), str(row.trigger), str(row.target))
        for row in LIFECYCLE
        for source in row.sources
        if row.trigger is Trigger.END
    }
    assert {edge for edge in supervised if edge.trigger == Trigger.END} == ends
    # TLC has one name there for all that is GVisorRuntime's.
    ways, before = (
        {(edge.state, edge.next) for edge in found} for found in (supervised, lifecycle_edges(lifecycle))
    )
    assert ways - before == {(edge.state, edge.next) for edge in ends}


def test_the_compiled_graph_is_that_of_the_spec(
    lifecycle: Graph, supervised: frozenset[LifecycleEdge]
) -> None:
    differences = stale(load_spec_graph(SPEC_GRAPH), compile_graph(SPECS, lifecycle, supervised))
    assert not differences, "run ./just compile:\n" + say(differences)


def test_a_written_graph_is_read_back_as_it_was(lifecycle: Graph, tmp_path: Path) -> None:
    graph = compile_graph(SPECS, lifecycle)
    write_spec_graph(graph, str(tmp_path / "graph.json"))
    assert vars(load_spec_graph(str(tmp_path / "graph.json"))) == vars(graph)


def test_a_stale_graph_names_what_is_not_as_in_the_spec(lifecycle: Graph) -> None:
    fresh = compile_graph(SPECS, lifecycle)
    old = SpecGraph("0" * 64, "resolved", {**fresh.edges, "staged": {"exec": "handed_off"}})
    assert stale(old, fresh) == (
        "staged --apply_policy--> policy_settled is in the spec and not in the compiled graph",
        "staged --refuse--> refused is in the spec and not in the compiled graph",
        "staged --exec--> handed_off is in the compiled graph and not in the spec",
        "runs start in start; in the compiled graph they start in resolved",
        f"the compiled graph is of the spec {'0' * 64}; the spec is {fresh.spec}",
    )


def test_a_model_of_two_runs_cannot_be_compared() -> None:
    state = parse_state('/\\ state = (r1 :> "start" @@ r2 :> "start")')
    with refuses(CheckError, Reason.MALFORMED):
        moment_of(state)


# -- it notices ------------------------------------------------------------------------------------------------------

Sabotage = Callable[[tuple[Transition, ...]], tuple[Transition, ...]]


def with_row(trigger: Trigger, **fields: object) -> Sabotage:
    def sabotage(table: tuple[Transition, ...]) -> tuple[Transition, ...]:
        return tuple(changed(row, **fields) if row.trigger is trigger else row for row in table)

    return sabotage


def without(guard: str) -> Sabotage:
    def sabotage(table: tuple[Transition, ...]) -> tuple[Transition, ...]:
        assert any(known.name == guard for row in table for known in row.guards)
        return tuple(
            changed(row, guards=tuple(known for known in row.guards if known.name != guard)) for row in table
        )

    return sabotage


def a_transition_added(table: tuple[Transition, ...]) -> tuple[Transition, ...]:
    extra = Transition(
        Trigger.STAGE, (State.VALIDATED,), State.STAGED, establishes="", refuses="", reasons=frozenset()
    )
    return (*table, extra)


def a_transition_removed(table: tuple[Transition, ...]) -> tuple[Transition, ...]:
    return tuple(row for row in table if row.trigger is not Trigger.APPLY_POLICY)


def validation_after_staging(table: tuple[Transition, ...]) -> tuple[Transition, ...]:
    table = with_row(Trigger.SECURE_ROOT, sources=(State.RESOLVED,))(table)
    table = with_row(Trigger.VALIDATE, sources=(State.STAGED,))(table)
    return with_row(Trigger.APPLY_POLICY, sources=(State.VALIDATED,))(table)


def a_stricter_policy(table: tuple[Transition, ...]) -> tuple[Transition, ...]:
    only = Guard("only", lambda known: known["apply_policy"]["outcome"] != PolicyOutcome.UNAVAILABLE, "never")
    return with_row(Trigger.APPLY_POLICY, guards=(only,))(without("policy_permits")(table))


@pytest.mark.parametrize(
    ("sabotage", "edge", "kind", "says"),
    [
        (a_transition_added, "validated --stage--> staged", Kind.ONLY_IN_MACHINE, ""),
        (
            a_transition_removed,
            "staged --apply_policy--> policy_settled",
            Kind.ONLY_IN_SPEC,
            "Resolve, Validate, OpenLock, SecureRoot, Copy, Stage",
        ),
        (
            validation_after_staging,
            "staged --validate--> validated",
            Kind.ONLY_IN_MACHINE,
            "",
        ),
        (
            validation_after_staging,
            "resolved --validate--> validated",
            Kind.ONLY_IN_SPEC,
            "",
        ),
        (
            with_row(Trigger.EXEC, target=State.REFUSED),
            "policy_settled --exec--> handed_off",
            Kind.ONLY_IN_SPEC,
            "",
        ),
        (without("found_a_path"), "start --resolve--> resolved", Kind.MACHINE_GOES_ON, "SwapBinary"),
        (
            without("path_is_not_roots"),
            "start --resolve--> resolved",
            Kind.MACHINE_GOES_ON,
            "",
        ),
        (
            without("binary_is_trusted"),
            "resolved --validate--> validated",
            Kind.MACHINE_GOES_ON,
            "Resolve, SwapBinary",
        ),
        (
            without("root_is_private"),
            "validated --secure_root--> root_secured",
            Kind.MACHINE_ACCEPTS,
            '"mode": "0755"',
        ),
        (
            without("copy_is_what_was_pinned"),
            "root_secured --stage--> staged",
            Kind.MACHINE_GOES_ON,
            "RewriteBinary",
        ),
        (without("policy_permits"), "staged --apply_policy--> policy_settled", Kind.MACHINE_GOES_ON, ""),
        (
            without("bundle_is_unchanged"),
            "policy_settled --exec--> handed_off",
            Kind.MACHINE_GOES_ON,
            "ChangeBundle",
        ),
        (
            a_stricter_policy,
            "staged --apply_policy--> policy_settled",
            Kind.SPEC_GOES_ON,
            "",
        ),
    ],
)
def test_a_machine_that_is_not_the_specs_is_named_by_its_edge(
    adversary: Graph, monkeypatch: pytest.MonkeyPatch, sabotage: Sabotage, edge: str, kind: Kind, says: str
) -> None:
    table = sabotage(LIFECYCLE)
    monkeypatch.setattr(machine, "LIFECYCLE", table)
    monkeypatch.setattr(comparison, "LIFECYCLE", table)
    found = compare(adversary)
    assert any(
        (str(difference.edge), difference.kind) == (edge, kind) and says in str(difference)
        for difference in found
    ), found


def test_a_guard_that_sees_less_than_the_options_is_named(
    lifecycle: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enforced though it was turned off: no step does that, and still the machine must not accept it."""

    def permits(known: Known) -> bool:
        options = {**known["header"]["options"], "exec_policy": "auto"}
        return policy.holds({**known, "header": {**known["header"], "options": options}})

    (policy,) = next(row.guards for row in LIFECYCLE if row.trigger is Trigger.APPLY_POLICY)
    table = with_row(Trigger.APPLY_POLICY, guards=(changed(policy, holds=permits),))(LIFECYCLE)
    monkeypatch.setattr(machine, "LIFECYCLE", table)
    monkeypatch.setattr(comparison, "LIFECYCLE", table)
    (difference,) = compare(lifecycle)
    edge = "staged --apply_policy--> policy_settled"
    assert (str(difference.edge), difference.kind) == (edge, Kind.MACHINE_ACCEPTS)
    assert '"enforced"' in difference.what
    assert '"exec_policy": "off"' in difference.what


@pytest.mark.parametrize(
    ("find", "put", "edge", "kind", "path"),
    [
        pytest.param(
            "    /\\ ModeIsTight(path[p])\n",
            "",
            "resolved --validate--> validated",
            Kind.SPEC_GOES_ON,
            ("Resolve", "SwapBinary"),
            id="a guard loosened",
        ),
        pytest.param(
            '       \\/ IsSettled(r) /\\ ~PolicyPermits(r) /\\ Refused(r, "policy_not_enforced")\n',
            "",
            "staged --refuse--> refused",
            Kind.ENGINE_REFUSES,
            ("Resolve", "Validate", "OpenLock", "SecureRoot", "Copy", "Stage"),
            id="a refusal removed",
        ),
    ],
)
def test_a_spec_that_is_not_the_machines_is_named_by_its_edge(
    find: str, put: str, edge: str, kind: Kind, path: tuple[str, ...]
) -> None:
    text = SPECS.files[LIFECYCLE_SPEC]
    assert text.count(find) == 1
    specs = replace(SPECS, files={**SPECS.files, LIFECYCLE_SPEC: text.replace(find, put)})
    difference, *_ = compare(adversary_graph(specs, TLC))
    assert (str(difference.edge), difference.kind, difference.path) == (edge, kind, path)
    for shown in (edge, difference.what, *path):
        assert shown in str(difference)


# -- TLC and our own checker agree on traces -------------------------------------------------------------------------


def test_tlc_and_verify_find_the_same_first_bad_line(tmp_path: Path) -> None:
    rng = random.Random(20260)
    good = [Story.draw(rng).write(tmp_path / f"good-{number}") for number in range(200)]
    mutated: list[Path] = []
    while len(mutated) < 200:
        story = Story.draw(rng)
        path = tmp_path / f"mutated-{len(mutated)}"
        lines = story.lines(path)
        changed_lines = mutate(lines, rng, story) if len(lines) > 1 else as_they_are(lines)
        if changed_lines == as_they_are(lines):
            path.unlink()
        else:
            mutated.append(save(path, changed_lines))
    paths = [*good, *mutated]
    ours = list(verify([str(path) for path in paths]))
    theirs = judge([path.read_bytes().split(b"\n")[:-1] for path in paths], SPECS, TLC)
    assert [str(path) for path in paths] == [result.path for result in ours]
    disagreed = [
        f"TLC follows {lines} lines; {result}\n{path.read_text()}"
        for path, result, lines in zip(paths, ours, theirs, strict=True)
        if result.records != lines
    ]
    assert not disagreed, "\n".join(disagreed)
    assert all(result.verdict.is_good for result in ours[:200])
    bad = sum(result.verdict is Verdict.DIFFERS for result in ours[200:])
    assert bad > 120, f"only {bad} of 200 mutated traces were wrong"
