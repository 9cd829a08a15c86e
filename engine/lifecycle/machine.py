"""The lifecycle: one table of states, triggers and guards, and the `transitions` machine made from it.

Nothing here touches the system. The spec (specs/GVisorRuntime.tla) models `LIFECYCLE`, the diagrams draw it, and traces
are checked against it. A guard reads only recorded facts, so that it can be evaluated again on a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from transitions import EventData, Machine, MachineError

from engine.errors import Reason, StepError
from engine.lifecycle.guards import (
    Known,
    arguments_are_the_engines,
    binary_is_trusted,
    bundle_is_unchanged,
    config_is_as_judged,
    copy_is_what_was_pinned,
    copy_is_where_programs_lie,
    executes_the_staged_copy,
    found_a_path,
    path_is_not_roots,
    policy_permits,
    root_is_private,
    sidecars_are_trusted,
    sidecars_are_what_was_pinned,
)
from engine.traces.move import Facts, Move, State, Trigger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, Protocol, TypeVar

    class HasFacts(Protocol):
        """The result of a step; `facts` is the part of it that is recorded."""

        def facts(self) -> Facts: ...

    Established = TypeVar("Established", bound=HasFacts)


class Guard:
    """A condition on the recorded facts; the machine moves only if it holds."""

    def __init__(self, name: str, holds: Callable[[Known], bool], otherwise: str) -> None:
        self.name: Final = name
        self.holds: Final = holds
        self.otherwise: Final = otherwise


class Transition:
    """A row of the lifecycle: from any of `sources`, `trigger` leads to `target` if every guard holds.

    `reasons`: why this step may refuse, besides the reasons of every step.
    """

    def __init__(
        self,
        trigger: Trigger,
        sources: tuple[State, ...],
        target: State,
        establishes: str,
        refuses: str,
        reasons: frozenset[str],
        guards: tuple[Guard, ...] = (),
    ) -> None:
        self.trigger: Final = trigger
        self.sources: Final = sources
        self.target: Final = target
        self.establishes: Final = establishes
        self.refuses: Final = refuses
        self.reasons: Final = reasons
        self.guards: Final = guards


#: The spec's `not_trusted`, by its kinds of files.
_NOT_TRUSTED = frozenset(
    {
        *(Reason.ABSENT, Reason.NOT_A_PROGRAM, Reason.LOOSE_MODE, Reason.FOREIGN_OWNER, Reason.LOOSE_CHAIN),
        *(Reason.INCOMPLETE, Reason.MIXED_RELEASES),
    }
)
#: A fault of the engine: a step was tried in the wrong state.
OUT_OF_PLACE = frozenset({Reason.NOT_PERMITTED, Reason.NOT_IN_SPEC})
#: Reasons of every step. The spec has one name for them.
_ANYWHERE = OUT_OF_PLACE | {Reason.FAILURE, Reason.STOPPED, Reason.UNEXPECTED}

STEPS: tuple[Transition, ...] = (
    Transition(
        Trigger.RESOLVE,
        (State.START,),
        State.RESOLVED,
        establishes="which runsc: the one asked for, else a trusted system path, else PATH when not root",
        refuses="nothing found; a PATH search as root",
        reasons=frozenset({Reason.NOT_FOUND, Reason.PATH_SEARCHED_AS_ROOT}),
        guards=(
            Guard("found_a_path", found_a_path, "no absolute path to runsc was recorded"),
            Guard("path_is_not_roots", path_is_not_roots, "root searched PATH"),
        ),
    ),
    Transition(
        Trigger.VALIDATE,
        (State.RESOLVED,),
        State.VALIDATED,
        establishes="pinned descriptors of executable ELF files, runsc's and its sidecars', that no untrusted user can "
        "write or replace",
        refuses="a loose mode, a foreign owner, no regular or executable file, a directory chain others can write; a "
        "sidecar that is missing or of another release",
        reasons=frozenset({*_NOT_TRUSTED, Reason.NO_PLATFORM, Reason.NOT_ENFORCED, Reason.UNSUPPORTED}),
        guards=(
            Guard("binary_is_trusted", binary_is_trusted, "owner or mode of the binary is not trusted"),
            Guard(
                "sidecars_are_trusted",
                sidecars_are_trusted,
                "the owner or mode of a sidecar is not trusted, or the one that becomes the sandbox is missing",
            ),
        ),
    ),
    Transition(
        Trigger.SECURE_ROOT,
        (State.VALIDATED,),
        State.ROOT_SECURED,
        establishes="this container's own directories and the place of its program: the effective user's, 0700, "
        "no link on the way; its lock",
        refuses="a link, a foreign owner, not a directory, '..' in the base, an untrusted parent, a live namesake",
        reasons=frozenset(
            {Reason.ROOT_NOT_PRIVATE, Reason.ALIVE, Reason.KEPT, Reason.NO_SANDBOX, Reason.EXISTS}
        ),
        guards=(Guard("root_is_private", root_is_private, "a directory is not private"),),
    ),
    Transition(
        Trigger.STAGE,
        (State.ROOT_SECURED,),
        State.STAGED,
        establishes="a 0555 copy of each pinned file, or a link to one, in a unique 0700 directory",
        refuses="a linked or foreign directory, a binary that changed, a short copy, no space",
        reasons=frozenset(
            {Reason.STAGE_NOT_OWN, Reason.NOT_WHAT_WAS_PINNED, Reason.NOEXEC, Reason.OTHER_RUNSC}
        ),
        guards=(
            Guard("copy_is_what_was_pinned", copy_is_what_was_pinned, "the copy is not the bytes validated"),
            Guard(
                "sidecars_are_what_was_pinned",
                sidecars_are_what_was_pinned,
                "the copies of the sidecars are not the files validated, or do not lie beside that of runsc",
            ),
            Guard(
                "copy_is_where_programs_lie",
                copy_is_where_programs_lie,
                "the copy is not in a directory that was secured",
            ),
        ),
    ),
    Transition(
        Trigger.APPLY_POLICY,
        (State.STAGED,),
        State.POLICY_SETTLED,
        establishes="rootless: the execute policy is enforced, or unavailable and not required",
        refuses="a policy that is required and not enforced, or that was applied in part",
        reasons=frozenset({Reason.POLICY_NOT_ENFORCED, Reason.POLICY_IN_PART}),
        guards=(
            Guard(
                "policy_permits",
                policy_permits,
                "the execute policy is required and not enforced, or allows other files than the staged ones",
            ),
        ),
    ),
    Transition(
        Trigger.EXEC,
        (State.POLICY_SETTLED,),
        State.HANDED_OFF,
        establishes="hardened argv and environment; execve replaces the process",
        refuses="a root file system, a state directory or a copy that changed since it was checked; an execve the "
        "kernel refuses",
        reasons=frozenset(
            {Reason.BUNDLE_CHANGED, Reason.ROOT_CHANGED, Reason.COPY_CHANGED, Reason.EXECVE_REFUSED}
        ),
        guards=(
            Guard("bundle_is_unchanged", bundle_is_unchanged, "the bundle is not the one validated"),
            Guard("config_is_as_judged", config_is_as_judged, "runsc is given another config.json"),
            Guard("executes_the_staged_copy", executes_the_staged_copy, "argv does not name the staged copy"),
            Guard(
                "arguments_are_the_engines",
                arguments_are_the_engines,
                "an argument or variable is not one that the engine gives",
            ),
        ),
    ),
)


def is_supervised(known: Known) -> bool:
    return known["header"]["options"].get("supervise") is True


def end_can_be_so(known: Known) -> bool:
    from engine.lifecycle import end_guard  # no other run needs it

    return end_guard.end_can_be_so(known)


#: Every edge. `refuse` leaves each state that a step leaves. `end` is what a supervisor records, if the run has one
#: (specs/Supervision.tla).
LIFECYCLE: tuple[Transition, ...] = (
    *STEPS,
    Transition(
        Trigger.END,
        (State.HANDED_OFF,),
        State.ENDED,
        establishes="how the container ended: its exit code or a signal, memory, duration, resources",
        refuses="",
        reasons=frozenset(),
        guards=(
            Guard("is_supervised", is_supervised, "nobody supervised this run"),
            Guard("end_can_be_so", end_can_be_so, "no supervisor can have seen this end"),
        ),
    ),
    Transition(
        Trigger.REFUSE,
        tuple(source for step in STEPS for source in step.sources),
        State.REFUSED,
        establishes="the reason, the step, what was cleaned up",
        refuses="",
        reasons=frozenset(),
    ),
)

#: The reasons for which a run may be refused, by its state.
REASONS: Mapping[State, frozenset[str]] = {
    state: row.reasons | _ANYWHERE for row in STEPS for state in row.sources
}
#: The reasons that have the same name in the spec.
_IN_SPEC = frozenset(
    {
        *(Reason.NOT_FOUND, Reason.PATH_SEARCHED_AS_ROOT, Reason.ROOT_NOT_PRIVATE, Reason.ALIVE),
        *(
            Reason.STAGE_NOT_OWN,
            Reason.NOT_WHAT_WAS_PINNED,
            Reason.POLICY_NOT_ENFORCED,
            Reason.POLICY_IN_PART,
        ),
        *(Reason.BUNDLE_CHANGED, Reason.ROOT_CHANGED, Reason.COPY_CHANGED),
    }
)


def reason_in_spec(reason: str) -> str:
    """The spec's name for `reason`."""
    if reason in _NOT_TRUSTED:
        return "not_trusted"
    return str(reason if reason in _IN_SPEC else Reason.FAILURE)


#: Where the engine has nothing more to do. Of a run that nobody supervises the trace stays at `handed_off`.
TERMINAL = frozenset(State) - {source for row in STEPS for source in row.sources}


class NotPermittedError(StepError):
    """The machine does not have this edge, or one of its guards does not hold."""

    def __init__(self, trigger: str, what: str) -> None:
        self.step = str(trigger)
        super().__init__(
            what,
            reason=Reason.NOT_PERMITTED,
            hint="this is a fault of the engine: please report it with the trace",
        )


class Lifecycle:
    """One run through the table; only `perform` moves it.

    `header`: what is known before the first step. `record` is called with each move, after its guards held and before
    the state changes; if it raises, the state stays. `at`: where it begins; nothing but the header is known there.
    """

    def __init__(self, header: Facts, record: Callable[[Move], None], *, at: State = State.START) -> None:
        self._known: dict[str, Facts] = {"header": header}
        self._record = record
        self._busy = False
        self._walk = _Walk()
        Machine(
            self._walk,
            states=State,
            initial=at,
            transitions=[self._edge(row, source) for row in LIFECYCLE for source in row.sources],
            auto_transitions=False,
            send_event=True,
        )

    @property
    def state(self) -> State:
        """The state of this run."""
        return self._walk.state

    def perform(
        self,
        trigger: Trigger,
        act: Callable[[], Established],
        commit: Callable[[Established], None] | None = None,
    ) -> Established:
        """Run the step `act` if the table has `trigger` in this state, and move if the guards then hold.

        `commit` runs after the move was recorded and before the state changes: the hand-off, which does not return if
        it succeeds. Raises `NotPermittedError` (before `act` if there is no such edge) and whatever `act` and `commit`
        raise; then the state is unchanged.
        """
        if self._busy:
            raise NotPermittedError(trigger, f"{trigger} was triggered from within another step")
        self._busy = True
        established: list[Established] = []
        try:
            self._walk.trigger(trigger, act=act, commit=commit, established=established)
        except MachineError:
            raise NotPermittedError(trigger, f"{trigger} is not a step of state {self.state}") from None
        finally:
            self._busy = False
        return established[0]

    def _edge(self, row: Transition, source: State) -> dict[str, Any]:
        return {
            "trigger": row.trigger,
            "source": source,
            "dest": row.target,
            "prepare": partial(self._act, row.trigger),
            "conditions": [partial(self._require, row.trigger, guard) for guard in row.guards],
            "before": partial(self._leave, row.trigger, source, row.target),
        }

    def _act(self, trigger: Trigger, event: EventData) -> None:
        established = event.kwargs["act"]()
        event.kwargs["established"].append(established)
        self._known[trigger] = established.facts()

    def _require(self, trigger: Trigger, guard: Guard, _event: EventData) -> bool:
        if not guard.holds(self._known):
            raise NotPermittedError(trigger, f"guard {guard.name} does not hold: {guard.otherwise}")
        return True

    def _leave(self, trigger: Trigger, source: State, target: State, event: EventData) -> None:
        self._record(Move(source, trigger, target, self._known[trigger]))
        if commit := event.kwargs["commit"]:
            commit(event.kwargs["established"][0])


class _Walk:
    """The model that `transitions` moves: it adds `trigger` and sets `state`."""

    state: State
    trigger: Callable[..., bool]
