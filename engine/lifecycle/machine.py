"""The lifecycle: one table of states, triggers and guards, and the `transitions` machine made from it.

Nothing here touches the system. The spec (specs/GVisorRuntime.tla) models `LIFECYCLE`, the diagrams draw it, and traces
are checked against it. A guard reads only recorded facts, so that it can be evaluated again on a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from transitions import EventData, Machine, MachineError

from engine.errors import Reason, StepError
from engine.options import ExecPolicy
from engine.records import TYPE_CHECKING, dataclass
from engine.state.container import EXEC_ALLOW
from engine.traces.move import Facts, Move, PolicyOutcome, State, Trigger

if TYPE_CHECKING:
    from typing import Any, Protocol, TypeVar

    class HasFacts(Protocol):
        """The result of a step; `facts` is the part of it that is recorded."""

        def facts(self) -> Facts: ...

    Established = TypeVar("Established", bound=HasFacts)

#: The facts recorded so far: the header's under `header`, each step's under its trigger.
Known = Mapping[str, Facts]


@dataclass(frozen=True, slots=True)
class Guard:
    """A condition on the recorded facts; the machine moves only if it holds."""

    name: str
    holds: Callable[[Known], bool]
    otherwise: str


@dataclass(frozen=True, slots=True)
class Transition:
    """A row of the lifecycle: from any of `sources`, `trigger` leads to `target` if every guard holds.

    `reasons`: why this step may refuse, besides the reasons of every step.
    """

    trigger: Trigger
    sources: tuple[State, ...]
    target: State
    establishes: str
    refuses: str
    reasons: frozenset[str]
    guards: tuple[Guard, ...] = ()


def _found_a_path(known: Known) -> bool:
    return str(known["resolve"]["path"]).startswith("/")


def _path_is_not_roots(known: Known) -> bool:
    return bool(known["resolve"]["found_by"] != "PATH" or known["header"]["host"]["user"] != 0)


def _binary_is_trusted(known: Known) -> bool:
    binary = known["validate"]
    mode = int(binary["mode"], 8)
    owner_is_trusted = binary["owner"] in binary["trusted_owners"] or binary["immutable_store"] is True
    return mode & 0o022 == 0 and mode & 0o111 != 0 and owner_is_trusted


def _root_is_private(known: Known) -> bool:
    root = known["secure_root"]
    directories = root["directories"]
    joined = root["sandbox"]["directories"] if "sandbox" in root else []
    apart = [root["programs"]] if "programs" in root else []
    return (
        len(directories) == 4
        and len(joined) == (2 if "sandbox" in root else 0)
        and all(
            directory["owner"] == root["user"] and directory["mode"] == "0700"
            for directory in (*directories, *joined, *apart)
        )
    )


def _copy_is_where_programs_lie(known: Known) -> bool:
    root, path = known["secure_root"], str(known["stage"]["path"])
    own = f"{root['directories'][2]['path']}/{EXEC_ALLOW}"
    place = root["programs"]["path"] if "programs" in root else own
    within = path[len(place) :]
    return path.startswith(f"{place}/stage-") and within.count("/") == 2 and within[-1] != "/"


def _copy_is_what_was_pinned(known: Known) -> bool:
    staged, binary, joined = known["stage"], known["validate"], known["secure_root"].get("sandbox")
    return bool(
        staged["pinned"] == staged["made_from"] == binary["identity"]
        and staged["size"] == binary["identity"]["size"]
        and staged["mode"] == "0500"
        and staged["compared"]
        is (staged["from_store"] and binary["owner"] != known["header"]["host"]["user"])
        and (joined is None or staged["sha256"] == joined["sha256"])
    )


def _policy_permits(known: Known) -> bool:
    options, outcome = known["header"]["options"], known["apply_policy"]["outcome"]
    if outcome == PolicyOutcome.ENFORCED:
        return options["rootless"] is True and options["exec_policy"] != ExecPolicy.OFF
    if options["require_exec_policy"]:
        return False
    return bool(
        outcome == (PolicyOutcome.UNAVAILABLE if options["rootless"] else PolicyOutcome.NOT_APPLICABLE)
    )


def _bundle_is_unchanged(known: Known) -> bool:
    return bool(known["exec"]["bundle"] == known["header"]["bundle"])


def _executes_the_staged_copy(known: Known) -> bool:
    argv, joined = known["exec"]["argv"], known["secure_root"].get("sandbox")
    return bool(
        argv[0] == known["stage"]["path"]
        and (joined is None or argv[1:3] == ["--root", joined["directories"][1]["path"]])
    )


#: The spec's `not_trusted`, by its kinds of files.
_NOT_TRUSTED = frozenset(
    {Reason.ABSENT, Reason.NOT_A_PROGRAM, Reason.LOOSE_MODE, Reason.FOREIGN_OWNER, Reason.LOOSE_CHAIN}
)
#: A fault of the engine: a step was tried in the wrong state.
OUT_OF_PLACE = frozenset({Reason.NOT_PERMITTED, Reason.NOT_IN_SPEC})
#: Reasons of every step. The spec has one name for them.
_ANYWHERE = OUT_OF_PLACE | {Reason.FAILURE, Reason.STOPPED, Reason.UNEXPECTED}

_STEPS: tuple[Transition, ...] = (
    Transition(
        Trigger.RESOLVE,
        (State.START,),
        State.RESOLVED,
        establishes="which runsc: the one asked for, else a trusted system path, else PATH when not root",
        refuses="nothing found; a PATH search as root",
        reasons=frozenset({Reason.NOT_FOUND, Reason.PATH_SEARCHED_AS_ROOT}),
        guards=(
            Guard("found_a_path", _found_a_path, "no absolute path to runsc was recorded"),
            Guard("path_is_not_roots", _path_is_not_roots, "root searched PATH"),
        ),
    ),
    Transition(
        Trigger.VALIDATE,
        (State.RESOLVED,),
        State.VALIDATED,
        establishes="a pinned descriptor of an executable ELF file that no untrusted user can write or replace",
        refuses="a loose mode, a foreign owner, no regular or executable file, a directory chain others can write",
        reasons=frozenset({*_NOT_TRUSTED, Reason.NO_PLATFORM}),
        guards=(
            Guard("binary_is_trusted", _binary_is_trusted, "owner or mode of the binary is not trusted"),
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
        guards=(Guard("root_is_private", _root_is_private, "a directory is not private"),),
    ),
    Transition(
        Trigger.STAGE,
        (State.ROOT_SECURED,),
        State.STAGED,
        establishes="a private 0500 copy of the pinned bytes, or a link to one, in a unique 0700 directory",
        refuses="a linked or foreign directory, a binary that changed, a short copy, no space",
        reasons=frozenset(
            {Reason.STAGE_NOT_OWN, Reason.NOT_WHAT_WAS_PINNED, Reason.NOEXEC, Reason.OTHER_RUNSC}
        ),
        guards=(
            Guard("copy_is_what_was_pinned", _copy_is_what_was_pinned, "the copy is not the bytes validated"),
            Guard(
                "copy_is_where_programs_lie",
                _copy_is_where_programs_lie,
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
        guards=(Guard("policy_permits", _policy_permits, "the execute policy is required and not enforced"),),
    ),
    Transition(
        Trigger.EXEC,
        (State.POLICY_SETTLED,),
        State.HANDED_OFF,
        establishes="hardened argv and environment; execve replaces the process",
        refuses="a bundle or a state directory that changed since it was checked; an execve the kernel refuses",
        reasons=frozenset(
            {Reason.BUNDLE_CHANGED, Reason.ROOT_CHANGED, Reason.COPY_CHANGED, Reason.EXECVE_REFUSED}
        ),
        guards=(
            Guard("bundle_is_unchanged", _bundle_is_unchanged, "the bundle is not the one validated"),
            Guard(
                "executes_the_staged_copy", _executes_the_staged_copy, "argv does not name the staged copy"
            ),
        ),
    ),
)

#: Every edge. `refuse` leaves each state that a step leaves, so only `handed_off` and `refused` are terminal.
LIFECYCLE: tuple[Transition, ...] = (
    *_STEPS,
    Transition(
        Trigger.REFUSE,
        tuple(source for step in _STEPS for source in step.sources),
        State.REFUSED,
        establishes="the reason, the step, what was cleaned up",
        refuses="",
        reasons=frozenset(),
    ),
)

#: The reasons for which a run may be refused, by its state.
REASONS: Mapping[State, frozenset[str]] = {
    state: row.reasons | _ANYWHERE for row in _STEPS for state in row.sources
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
        *(Reason.BUNDLE_CHANGED, Reason.ROOT_CHANGED),
    }
)


def reason_in_spec(reason: str) -> str:
    """The spec's name for `reason`."""
    if reason in _NOT_TRUSTED:
        return "not_trusted"
    return str(reason if reason in _IN_SPEC else Reason.FAILURE)


TERMINAL = frozenset(State) - {source for row in LIFECYCLE for source in row.sources}


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
    the state changes; if it raises, the state stays.
    """

    def __init__(self, header: Facts, record: Callable[[Move], None]) -> None:
        self._known: dict[str, Facts] = {"header": header}
        self._record = record
        self._busy = False
        self._walk = _Walk()
        Machine(
            self._walk,
            states=State,
            initial=State.START,
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
