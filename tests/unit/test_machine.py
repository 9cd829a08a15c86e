"""The machine: no edge but those of the table, and no way round a guard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from engine.errors import Reason
from engine.lifecycle.machine import LIFECYCLE, STEPS, TERMINAL, Lifecycle, NotPermittedError, reason_in_spec
from engine.lifecycle.spec_graph import spec_graph
from engine.runsc.arguments import build_environment
from engine.state.container import component
from engine.traces.move import Move, PolicyOutcome, State, Trigger
from tests.support.refusals import refuses

IDENTITY = {"device": 1, "inode": 2, "size": 4, "mtime_ns": 4, "ctime_ns": 5}
OPTIONS: dict[str, Any] = {
    "network": "none",
    "platform": "auto",
    "rootless": False,
    "ignore_cgroups": False,
    "exec_policy": "auto",
    "require_exec_policy": False,
    "runsc": None,
}
HEADER: dict[str, Any] = {
    "container": "c",
    "options": OPTIONS,
    "bundle": {"path": "/bundle", "sha256": "abc", "rootfs": "/bundle/rootfs"},
    "host": {"user": 0},
}
CONTAINER = f"/b/{component('c')}"
ROOT = f"{CONTAINER}/runsc-root"
COPY = f"{ROOT}/exec-allow/stage-1/runsc"


def directories(**changed: Any) -> list[dict[str, Any]]:
    """Those of the container, the last one changed so."""
    paths = ("/b", CONTAINER, ROOT, f"{ROOT}/runtime")
    made = [{"owner": 0, "mode": "0700", "path": path} for path in paths]
    return [*made[:-1], {**made[-1], **changed}]


def settled(outcome: str, **changed: Any) -> dict[str, Any]:
    """What apply_policy records with this outcome."""
    if outcome != PolicyOutcome.ENFORCED:
        nothing: dict[str, Any] = {
            "mechanism": None,
            "strength": None,
            "allowed": [],
            "open": [],
            "ids": None,
        }
        return {"outcome": outcome, **nothing, "reason": "it is so", **changed}
    return {
        "outcome": outcome,
        "mechanism": "locked-mounts",
        "strength": "sealed",
        "allowed": ["/bundle/rootfs"],
        "open": ["memfd"],
        "ids": "single",
        "reason": None,
        **changed,
    }


def argv(*, rootless: bool = False, root: str = ROOT, verb: str = "run") -> list[str]:
    """The arguments of a run with these options."""
    flags = [
        "--root",
        root,
        *(["--rootless"] if rootless else []),
        "--network",
        "none",
        "--platform",
        "systrap",
    ]
    return [COPY, *flags, verb, "--bundle", "/bundle", "c"]


GOOD: dict[Trigger, dict[str, Any]] = {
    Trigger.RESOLVE: {"path": "/usr/bin/runsc", "found_by": "trusted path"},
    Trigger.VALIDATE: {
        "path": "/opt/gv/runsc",
        "wrapper": None,
        "identity": {**IDENTITY, "inode": 1},
        "owner": 0,
        "mode": "0755",
        "trusted_owners": [0],
        "immutable_store": False,
        "platforms": ["systrap", "ptrace"],
        "platform": "systrap",
    },
    Trigger.SECURE_ROOT: {
        "user": 0,
        "directories": directories(),
        "lock": f"{CONTAINER}/lock",
        "cleaned": [],
    },
    Trigger.STAGE: {
        "path": COPY,
        "sha256": "ab" * 32,
        "size": 4,
        "mode": "0555",
        "pinned": {**IDENTITY, "inode": 1},
        "made_from": {**IDENTITY, "inode": 1},
        "from_store": True,
        "shared": True,
        "hashed": False,
        "compared": False,
    },
    Trigger.APPLY_POLICY: settled("not_applicable"),
    Trigger.EXEC: {
        "argv": argv(),
        "environment": build_environment(f"{ROOT}/runtime"),
        "bundle": HEADER["bundle"],
    },
    Trigger.END: {
        "exit_code": 3,
        "signal": None,
        "oom": "none",
        "oom_counter": "/sys/fs/cgroup/c/memory.events",
        "duration_ns": 1,
        "resources": {"user_us": 1, "system_us": 0, "max_rss_kib": 4},
    },
    Trigger.REFUSE: {"cleaned": []},
}
STEP_TRIGGERS = [row.trigger for row in STEPS]
ORDER = [*STEP_TRIGGERS, Trigger.END]
SUPERVISED = {**HEADER, "options": {**OPTIONS, "supervise": True}}


@dataclass
class Established:
    recorded: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        return self.recorded


@dataclass
class Walk:
    """A lifecycle, what it recorded, and the steps it let run."""

    header: dict[str, Any] = field(default_factory=lambda: SUPERVISED)
    moves: list[Move] = field(default_factory=list)
    acted: list[Trigger] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lifecycle = Lifecycle(self.header, self.moves.append)

    def perform(self, trigger: Trigger, **changed: Any) -> None:
        def act() -> Established:
            self.acted.append(trigger)
            return Established({**GOOD[trigger], **changed})

        self.lifecycle.perform(trigger, act)

    def up_to(self, state: State) -> Walk:
        for trigger in ORDER:
            if self.lifecycle.state is state:
                return self
            self.perform(trigger)
        if self.lifecycle.state is not state:
            self.perform(Trigger.REFUSE)
        assert self.lifecycle.state is state
        return self


def refused_walk() -> Walk:
    walk = Walk()
    walk.perform(Trigger.REFUSE)
    return walk


def in_state(state: State) -> Walk:
    return refused_walk() if state is State.REFUSED else Walk().up_to(state)


def test_steps_in_order_are_the_specs_path_to_handed_off() -> None:
    walk, graph = Walk().up_to(State.HANDED_OFF), spec_graph()
    here = graph.start
    for move in walk.moves:
        assert move.state == here
        here = graph.edges[here][move.trigger]
        assert move.next == here
    assert here == State.HANDED_OFF


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("trigger", Trigger)
def test_edge_not_in_the_table_is_not_taken_and_not_run(state: State, trigger: Trigger) -> None:
    walk = in_state(state)
    permitted = any(state in row.sources and row.trigger is trigger for row in LIFECYCLE)
    if permitted:
        walk.perform(trigger)
        assert walk.acted[-1] is trigger
        assert walk.lifecycle.state is next(row.target for row in LIFECYCLE if row.trigger is trigger)
        return
    before = list(walk.acted)
    with refuses(NotPermittedError, Reason.NOT_PERMITTED, trigger, state) as refusal:
        walk.perform(trigger)
    assert refusal.value.step == trigger
    assert walk.acted == before
    assert walk.lifecycle.state is state


def test_a_state_is_terminal_if_it_is_so_in_the_spec() -> None:
    graph = spec_graph()
    assert {state for state in graph.edges if graph.is_terminal(state)} == TERMINAL


def test_an_unsupervised_run_has_no_end() -> None:
    walk = Walk(HEADER).up_to(State.HANDED_OFF)
    with refuses(NotPermittedError, Reason.NOT_PERMITTED, "is_supervised"):
        walk.perform(Trigger.END)
    assert walk.lifecycle.state is State.HANDED_OFF


USED = GOOD[Trigger.END]["resources"]


@pytest.mark.parametrize(
    "changed",
    [
        {"signal": "SIGKILL"},
        {"exit_code": None},
        {"exit_code": 256},
        {"exit_code": -1},
        {"exit_code": None, "signal": "9"},
        {"exit_code": None, "signal": "sigkill"},
        {"exit_code": None, "signal": "SIG KILL"},
        {"exit_code": None, "signal": "SIGFOO"},
        {"exit_code": None, "signal": "SIGCHLD"},
        {"exit_code": None, "signal": "SIGRTMIN31"},
        {"oom": "unknown"},
        {"oom_counter": None},
        {"oom": "killed", "oom_counter": None},
        {"oom_counter": "/elsewhere/memory.events"},
        {"oom_counter": "/sys/fs/cgroup/c/../memory.events"},
        {"oom_counter": "/sys/fs/cgroup/c/cgroup.procs"},
        {"duration_ns": -1},
        {"resources": {**USED, "user_us": -1}},
        {"resources": {**USED, "system_us": -1}},
        {"resources": {**USED, "max_rss_kib": -1}},
    ],
)
def test_an_end_that_nobody_can_have_seen_is_not_recorded(changed: dict[str, Any]) -> None:
    walk = Walk().up_to(State.HANDED_OFF)
    with refuses(NotPermittedError, Reason.NOT_PERMITTED, "end_can_be_so"):
        walk.perform(Trigger.END, **changed)
    assert walk.lifecycle.state is State.HANDED_OFF


@pytest.mark.parametrize(
    "changed",
    [
        {"exit_code": 0},
        {"exit_code": 255},
        {"exit_code": None, "signal": "SIGRTMIN"},
        {"exit_code": None, "signal": "SIGRTMIN29"},
        {"oom": "unknown", "oom_counter": None},
        {"oom": "killed", "oom_counter": "/sys/fs/cgroup/memory/c/memory.oom_control"},
        {"duration_ns": 0, "resources": dict.fromkeys(USED, 0)},
    ],
)
def test_an_end_that_was_seen_is_recorded(changed: dict[str, Any]) -> None:
    walk = Walk().up_to(State.HANDED_OFF)
    walk.perform(Trigger.END, **changed)
    assert walk.lifecycle.state is State.ENDED


def test_without_cgroups_there_is_no_counter() -> None:
    options = {**SUPERVISED["options"], "ignore_cgroups": True}
    walk = Walk({**SUPERVISED, "options": options})
    for trigger in STEP_TRIGGERS:
        given = argv()
        changed = {"argv": [*given[:3], "--ignore-cgroups", *given[3:]]} if trigger is Trigger.EXEC else {}
        walk.perform(trigger, **changed)
    with refuses(NotPermittedError, Reason.NOT_PERMITTED, "end_can_be_so"):
        walk.perform(Trigger.END)
    walk.perform(Trigger.END, oom="unknown", oom_counter=None)
    assert walk.lifecycle.state is State.ENDED


def test_every_state_that_is_not_terminal_can_be_refused() -> None:
    for state in set(State) - TERMINAL:
        walk = Walk().up_to(state)
        walk.perform(Trigger.REFUSE)
        assert walk.lifecycle.state is State.REFUSED


@pytest.mark.parametrize(
    ("trigger", "changed", "guard"),
    [
        (Trigger.RESOLVE, {"path": "runsc"}, "found_a_path"),
        (Trigger.RESOLVE, {"found_by": "PATH"}, "path_is_not_roots"),
        (Trigger.VALIDATE, {"mode": "0775"}, "binary_is_trusted"),
        (Trigger.VALIDATE, {"mode": "0757"}, "binary_is_trusted"),
        (Trigger.VALIDATE, {"mode": "0644"}, "binary_is_trusted"),
        (Trigger.VALIDATE, {"owner": 1000}, "binary_is_trusted"),
        (Trigger.SECURE_ROOT, {"directories": []}, "root_is_private"),
        (Trigger.SECURE_ROOT, {"directories": directories()[:3]}, "root_is_private"),
        (Trigger.SECURE_ROOT, {"directories": directories(mode="0755")}, "root_is_private"),
        (Trigger.SECURE_ROOT, {"directories": directories(owner=7)}, "root_is_private"),
        (Trigger.STAGE, {"pinned": {**IDENTITY, "ctime_ns": 6}}, "copy_is_what_was_pinned"),
        (Trigger.STAGE, {"made_from": {**IDENTITY, "ctime_ns": 6}}, "copy_is_what_was_pinned"),
        (Trigger.STAGE, {"size": 2}, "copy_is_what_was_pinned"),
        (Trigger.STAGE, {"mode": "0700"}, "copy_is_what_was_pinned"),
        (Trigger.STAGE, {"path": f"{ROOT}/stage-1/runsc"}, "copy_is_where_programs_lie"),
        (Trigger.STAGE, {"path": f"{ROOT}/runtime/exec-allow/stage-1/runsc"}, "copy_is_where_programs_lie"),
        (Trigger.STAGE, {"path": f"{ROOT}/exec-allow/runsc"}, "copy_is_where_programs_lie"),
        (Trigger.STAGE, {"path": f"{ROOT}/exec-allow/other/runsc"}, "copy_is_where_programs_lie"),
        (Trigger.STAGE, {"path": f"{ROOT}/exec-allow/stage-1/"}, "copy_is_where_programs_lie"),
        (Trigger.APPLY_POLICY, settled("unavailable"), "policy_permits"),
        (Trigger.APPLY_POLICY, settled("enforced"), "policy_permits"),
        (Trigger.EXEC, {"bundle": {"sha256": "other"}}, "bundle_is_unchanged"),
        (Trigger.EXEC, {"argv": ["/usr/bin/runsc", "run"]}, "executes_the_staged_copy"),
    ],
)
def test_a_guard_that_does_not_hold_stops_the_run_where_it_is(
    trigger: Trigger, changed: dict[str, Any], guard: str
) -> None:
    row = next(row for row in LIFECYCLE if row.trigger is trigger)
    walk = Walk().up_to(row.sources[0])
    recorded = len(walk.moves)
    assert guard in {each.name for each in row.guards}
    with refuses(NotPermittedError, Reason.NOT_PERMITTED, guard) as refusal:
        walk.perform(trigger, **changed)
    assert refusal.value.step == trigger
    assert walk.lifecycle.state is row.sources[0]
    assert len(walk.moves) == recorded


APART = {"owner": 0, "mode": "0700", "path": "/var/programs"}


@pytest.mark.parametrize("changed", [{"owner": 7}, {"mode": "0755"}])
def test_a_place_apart_is_as_private_as_the_state(changed: dict[str, Any]) -> None:
    walk = Walk().up_to(State.VALIDATED)
    with refuses(NotPermittedError, Reason.NOT_PERMITTED, "root_is_private"):
        walk.perform(Trigger.SECURE_ROOT, programs={**APART, **changed})


def test_the_copy_lies_where_programs_lie_apart() -> None:
    walk = Walk().up_to(State.VALIDATED)
    walk.perform(Trigger.SECURE_ROOT, programs=APART)
    for path in (COPY, "/var/stage-1/runsc"):
        with refuses(NotPermittedError, Reason.NOT_PERMITTED, "copy_is_where_programs_lie"):
            walk.perform(Trigger.STAGE, path=path)
    walk.perform(Trigger.STAGE, path="/var/programs/stage-1/runsc")


POD = f"/b/{component('pod')}"
SANDBOX: dict[str, Any] = {
    "id": "pod",
    "directories": [
        {"owner": 0, "mode": "0700", "path": POD},
        {"owner": 0, "mode": "0700", "path": f"{POD}/runsc-root"},
    ],
    "sha256": "ab" * 32,
}


@pytest.mark.parametrize(
    "directories",
    [
        [],
        SANDBOX["directories"][:1],
        [SANDBOX["directories"][0], {"owner": 7, "mode": "0700", "path": f"{POD}/runsc-root"}],
        [SANDBOX["directories"][0], {"owner": 0, "mode": "0750", "path": f"{POD}/runsc-root"}],
    ],
)
def test_a_sandbox_that_is_joined_is_as_private_as_what_is_made(directories: list[dict[str, Any]]) -> None:
    walk = Walk().up_to(State.VALIDATED)
    with refuses(NotPermittedError, Reason.NOT_PERMITTED, "root_is_private"):
        walk.perform(Trigger.SECURE_ROOT, sandbox={**SANDBOX, "directories": directories})


def test_sandbox_is_joined_with_its_runsc_and_root() -> None:
    walk = Walk().up_to(State.VALIDATED)
    walk.perform(Trigger.SECURE_ROOT, sandbox=SANDBOX)
    with refuses(NotPermittedError, Reason.NOT_PERMITTED, "copy_is_what_was_pinned"):
        walk.perform(Trigger.STAGE, sha256="cd" * 32)
    walk.perform(Trigger.STAGE, sha256="ab" * 32)
    walk.perform(Trigger.APPLY_POLICY)
    for root in (ROOT, POD):
        with refuses(NotPermittedError, Reason.NOT_PERMITTED, "executes_the_staged_copy"):
            walk.perform(Trigger.EXEC, argv=argv(root=root, verb="create"))
    walk.perform(Trigger.EXEC, argv=argv(root=f"{POD}/runsc-root", verb="create"))
    assert walk.lifecycle.state is State.HANDED_OFF


@pytest.mark.parametrize("mode", ["0500", "0410", "0401", "0601"])
def test_a_binary_that_anybody_at_all_may_execute_is_executable(mode: str) -> None:
    walk = Walk().up_to(State.RESOLVED)
    walk.perform(Trigger.VALIDATE, mode=mode)
    assert walk.lifecycle.state is State.VALIDATED


@pytest.mark.parametrize("state", State)
def test_no_state_can_be_jumped_to(state: State) -> None:
    walk = Walk()
    with pytest.raises(AttributeError, match=f"to_{state.name}"):
        walk.lifecycle.perform(f"to_{state.name}", lambda: Established({}))  # type: ignore[arg-type]
    assert walk.lifecycle.state is State.START


def test_an_immutable_store_artefact_may_have_a_foreign_owner() -> None:
    walk = Walk().up_to(State.RESOLVED)
    walk.perform(Trigger.VALIDATE, path="/nix/store/a/runsc", owner=30001, mode="0555", immutable_store=True)
    assert walk.lifecycle.state is State.VALIDATED


@pytest.mark.parametrize("rootless", [False, True])
@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("outcome", PolicyOutcome)
def test_required_policy_is_enforced_before_exec(
    rootless: bool, required: bool, outcome: PolicyOutcome
) -> None:
    options = {**OPTIONS, "rootless": rootless, "require_exec_policy": required}
    walk = Walk({**HEADER, "options": options})
    walk.up_to(State.STAGED)
    permitted = {
        (True, True): {PolicyOutcome.ENFORCED},
        (True, False): {PolicyOutcome.ENFORCED, PolicyOutcome.UNAVAILABLE},
        (False, True): set(),
        (False, False): {PolicyOutcome.NOT_APPLICABLE},
    }
    if outcome in permitted[rootless, required]:
        walk.perform(Trigger.APPLY_POLICY, **settled(outcome))
        assert walk.lifecycle.state is State.POLICY_SETTLED
    else:
        with refuses(NotPermittedError, Reason.NOT_PERMITTED, "policy_permits"):
            walk.perform(Trigger.APPLY_POLICY, **settled(outcome))


def test_a_policy_that_was_turned_off_cannot_have_been_enforced() -> None:
    walk = Walk({**HEADER, "options": {**OPTIONS, "rootless": True, "exec_policy": "off"}})
    walk.up_to(State.STAGED)
    with refuses(NotPermittedError, Reason.NOT_PERMITTED, "policy_permits"):
        walk.perform(Trigger.APPLY_POLICY, **settled("enforced"))


def test_path_search_stops_root_only() -> None:
    for user, found_by in ((0, "option"), (0, "trusted path"), (1000, "PATH")):
        chosen = "/usr/bin/runsc" if found_by == "option" else None
        walk = Walk({**HEADER, "host": {"user": user}, "options": {**OPTIONS, "runsc": chosen}})
        walk.perform(Trigger.RESOLVE, found_by=found_by)
        assert walk.lifecycle.state is State.RESOLVED


def test_a_step_cannot_trigger_another_from_within() -> None:
    walk = Walk()

    def act() -> Established:
        walk.perform(Trigger.RESOLVE)
        return Established(GOOD[Trigger.RESOLVE])

    with refuses(NotPermittedError, Reason.NOT_PERMITTED) as refusal:
        walk.lifecycle.perform(Trigger.RESOLVE, act)
    assert refusal.value.step == Trigger.RESOLVE
    assert walk.lifecycle.state is State.START


def test_a_step_that_raises_leaves_the_state_as_it_was() -> None:
    walk = Walk()

    def act() -> Established:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        walk.lifecycle.perform(Trigger.RESOLVE, act)
    assert walk.lifecycle.state is State.START
    assert walk.moves == []
    walk.perform(Trigger.RESOLVE)
    assert walk.moves[0].next is State.RESOLVED


def test_move_is_recorded_before_its_commit_which_may_fail() -> None:
    walk = Walk().up_to(State.POLICY_SETTLED)
    settled = Established(GOOD[Trigger.EXEC])
    seen: list[tuple[Move, Established]] = []

    def commit(established: Established) -> None:
        seen.append((walk.moves[-1], established))
        raise OSError("execve")

    with pytest.raises(OSError, match="execve"):
        walk.lifecycle.perform(Trigger.EXEC, lambda: settled, commit)
    [(move, established)] = seen
    assert (move.trigger, move.facts) == (Trigger.EXEC, settled.facts())
    assert established is settled
    assert walk.lifecycle.state is State.POLICY_SETTLED
    walk.perform(Trigger.REFUSE)
    assert (walk.moves[-1].state, walk.moves[-1].next) == (State.POLICY_SETTLED, State.REFUSED)


def test_a_move_that_cannot_be_recorded_is_not_made() -> None:
    def record(_: Move) -> None:
        raise OSError("disk full")

    lifecycle = Lifecycle(HEADER, record)
    with pytest.raises(OSError, match="disk full"):
        lifecycle.perform(Trigger.RESOLVE, lambda: Established(GOOD[Trigger.RESOLVE]))
    assert lifecycle.state is State.START


def test_the_state_cannot_be_set_from_outside() -> None:
    with pytest.raises(AttributeError):
        Walk().lifecycle.state = State.HANDED_OFF  # type: ignore[misc]


@pytest.mark.parametrize(
    ("owner", "from_store", "compared", "holds"),
    [
        (0, True, False, True),
        (0, False, False, True),
        (1000, True, False, False),
        (1000, True, True, True),
        (1000, False, False, True),
        (1000, False, True, False),
        (0, True, True, False),
    ],
)
def test_stored_copy_of_anothers_binary_must_be_compared(
    owner: int, from_store: bool, compared: bool, holds: bool
) -> None:
    (row,) = (row for row in LIFECYCLE if row.trigger is Trigger.STAGE)
    (guard,) = (guard for guard in row.guards if guard.name == "copy_is_what_was_pinned")
    known = {
        "header": HEADER,
        Trigger.VALIDATE: {**GOOD[Trigger.VALIDATE], "owner": owner},
        Trigger.SECURE_ROOT: GOOD[Trigger.SECURE_ROOT],
        Trigger.STAGE: {
            **GOOD[Trigger.STAGE],
            "from_store": from_store,
            "compared": compared,
            "hashed": not from_store,
        },
    }
    assert guard.holds(known) is holds


def of_sentry(**changed: Any) -> dict[str, Any]:
    """What is recorded of a sidecar that was validated."""
    path = "/opt/gv/gvisor-bin/gvisor_sentry"
    return {
        "name": "gvisor_sentry",
        "path": path,
        "identity": IDENTITY,
        "owner": 0,
        "mode": "0755",
        **changed,
    }


def copy_of_sentry(**changed: Any) -> dict[str, Any]:
    """What is recorded of its copy."""
    path = f"{ROOT}/exec-allow/stage-1/gvisor-bin/gvisor_sentry"
    copied = {**GOOD[Trigger.STAGE], "pinned": IDENTITY, "made_from": IDENTITY}
    del copied["path"]
    return {"name": "gvisor_sentry", "path": path, **copied, **changed}


def test_a_set_is_handed_off() -> None:
    walk = Walk()
    of_set: dict[str, dict[str, Any]] = {
        Trigger.VALIDATE: {"sidecars": [of_sentry()], "release": None},
        Trigger.STAGE: {"sidecars": [copy_of_sentry()]},
    }
    for trigger in STEP_TRIGGERS:
        walk.perform(trigger, **of_set.get(trigger, {}))
    assert walk.lifecycle.state is State.HANDED_OFF


@pytest.mark.parametrize(
    "changed",
    [
        {"sidecars": [of_sentry(owner=7)], "release": None},
        {"sidecars": [of_sentry(mode="0775")], "release": None},
        {"sidecars": [of_sentry(mode="0644")], "release": None},
        {"sidecars": [of_sentry(), of_sentry(name="other")], "release": None},
        {"sidecars": [of_sentry(), of_sentry()], "release": None},
        {"sidecars": [of_sentry(name="other", path="/opt/gv/gvisor-bin/other")], "release": None},
        {"sidecars": [of_sentry(owner=7, mode="0755", path="/nix/store/a/gvisor_sentry")], "release": None},
        {"sidecars": [of_sentry(owner=7, mode="0555")], "release": None},
        {"sidecars": [], "release": None},
        {"sidecars": [of_sentry()]},
        {"release": "release-20260914.0"},
    ],
)
def test_a_set_of_which_one_is_not_trusted_is_not_validated(changed: dict[str, Any]) -> None:
    walk = Walk().up_to(State.RESOLVED)
    with refuses(NotPermittedError, Reason.NOT_PERMITTED, "sidecars_are_trusted"):
        walk.perform(Trigger.VALIDATE, **changed)


def test_a_sidecar_of_an_immutable_store_may_have_a_foreign_owner() -> None:
    sentry = of_sentry(owner=7, mode="0555", path="/nix/store/a/gvisor-bin/gvisor_sentry")
    Walk().up_to(State.RESOLVED).perform(Trigger.VALIDATE, sidecars=[sentry], release=None)


@pytest.mark.parametrize(
    "copies",
    [
        {},
        {"sidecars": []},
        {"sidecars": [copy_of_sentry(), copy_of_sentry()]},
        {"sidecars": [copy_of_sentry(name="other")]},
        {"sidecars": [copy_of_sentry(path=f"{ROOT}/exec-allow/stage-2/gvisor-bin/gvisor_sentry")]},
        {"sidecars": [copy_of_sentry(path=f"{ROOT}/exec-allow/stage-1/gvisor_sentry")]},
        {"sidecars": [copy_of_sentry(pinned={**IDENTITY, "inode": 7})]},
        {"sidecars": [copy_of_sentry(made_from={**IDENTITY, "inode": 7})]},
        {"sidecars": [copy_of_sentry(size=2)]},
        {"sidecars": [copy_of_sentry(mode="0700")]},
        {"sidecars": [copy_of_sentry(compared=True)]},
    ],
)
def test_a_set_that_is_not_what_was_pinned_is_not_staged(copies: dict[str, Any]) -> None:
    walk = Walk()
    for trigger in ORDER[:3]:
        changed = {"sidecars": [of_sentry()], "release": None} if trigger is Trigger.VALIDATE else {}
        walk.perform(trigger, **changed)
    with refuses(NotPermittedError, Reason.NOT_PERMITTED, "sidecars_are_what_was_pinned"):
        walk.perform(Trigger.STAGE, **copies)


SENTRY_COPY = copy_of_sentry()["path"]


@pytest.mark.parametrize(
    ("allowed", "holds"),
    [
        ([COPY, SENTRY_COPY], False),
        (["/bundle/rootfs", COPY, SENTRY_COPY], True),
        (["/bundle/rootfs", "/data", COPY, SENTRY_COPY], True),
        ([], False),
        ([COPY], False),
        ([SENTRY_COPY], False),
        ([COPY, SENTRY_COPY, f"{SENTRY_COPY}-other"], False),
        ([COPY, SENTRY_COPY, f"{ROOT}/exec-allow/stage-1"], False),
        ([COPY, SENTRY_COPY, f"{ROOT}/exec-allow"], False),
        (["/bundle/rootfs", f"{ROOT}/exec-allow-other", COPY, SENTRY_COPY], False),
        (["/bundle/rootfs", "/b-other", COPY, SENTRY_COPY], True),
        (["/bundle/rootfs", "/b", COPY, SENTRY_COPY], False),
        (["/bundle/rootfs", "/", COPY, SENTRY_COPY], False),
    ],
)
def test_a_policy_that_is_enforced_allows_exactly_the_set(allowed: list[str], holds: bool) -> None:
    options = {**OPTIONS, "rootless": True, "require_exec_policy": True}
    walk = Walk({**HEADER, "options": options})
    of_set: dict[str, dict[str, Any]] = {
        Trigger.VALIDATE: {"sidecars": [of_sentry()], "release": None},
        Trigger.STAGE: {"sidecars": [copy_of_sentry()]},
    }
    for trigger in ORDER[:4]:
        walk.perform(trigger, **of_set.get(trigger, {}))
    if holds:
        walk.perform(Trigger.APPLY_POLICY, **settled("enforced", allowed=allowed))
    else:
        with refuses(NotPermittedError, Reason.NOT_PERMITTED, "policy_permits"):
            walk.perform(Trigger.APPLY_POLICY, **settled("enforced", allowed=allowed))


def test_nothing_is_staged_beside_a_single_file() -> None:
    walk = Walk().up_to(State.ROOT_SECURED)
    with refuses(NotPermittedError, Reason.NOT_PERMITTED, "sidecars_are_what_was_pinned"):
        walk.perform(Trigger.STAGE, sidecars=[copy_of_sentry()])


@pytest.mark.parametrize(
    ("reason", "named"),
    [
        (Reason.LOOSE_MODE, "not_trusted"),
        (Reason.INCOMPLETE, "not_trusted"),
        (Reason.MIXED_RELEASES, "not_trusted"),
        (Reason.ALIVE, "alive"),
        (Reason.NOEXEC, "failure"),
        (Reason.FAILURE, "failure"),
    ],
)
def test_reason_has_the_specs_name(reason: str, named: str) -> None:
    assert reason_in_spec(reason) == named
