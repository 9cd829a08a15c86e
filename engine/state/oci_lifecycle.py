"""The OCI lifecycle as a table: the statuses in which each verb is permitted, and the status after it.

`OCI_LIFECYCLE` is what specs/OCIRuntime.tla models; a test compares the two in every state that TLC reaches. Each
command checks one row and ends. No `transitions` machine is made of it: the import would double the time of `state`.

Source: OCI runtime specification, runtime.md (State, Lifecycle, Operations).
"""

from __future__ import annotations

from enum import StrEnum

from engine.errors import EngineError, Reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final


class Status(StrEnum):
    """The status of a container. `paused` is from runc and runsc; `deleted` includes one that never existed."""

    CREATING = "creating"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    DELETED = "deleted"


class Verb(StrEnum):
    """A command of a manager."""

    CREATE = "create"
    START = "start"
    KILL = "kill"
    DELETE = "delete"
    FORCE_DELETE = "delete --force"
    PAUSE = "pause"
    RESUME = "resume"
    EXEC = "exec"
    PS = "ps"
    EVENTS = "events"
    CHECKPOINT = "checkpoint"
    UPDATE = "update"


class Row:
    """From any of `sources`, `verb` leads to `target`; None: the verb itself changes no status."""

    def __init__(self, verb: Verb, sources: frozenset[Status], target: Status | None, otherwise: str) -> None:
        self.verb: Final = verb
        self.sources: Final = sources
        self.target: Final = target
        self.otherwise: Final = otherwise


_S = Status

OCI_LIFECYCLE: tuple[Row, ...] = (
    Row(Verb.CREATE, frozenset({_S.DELETED}), _S.CREATED, "exists"),
    Row(Verb.START, frozenset({_S.CREATED}), _S.RUNNING, "cannot be started"),
    Row(Verb.KILL, frozenset({_S.CREATED, _S.RUNNING}), None, "not running"),
    Row(Verb.PAUSE, frozenset({_S.RUNNING}), _S.PAUSED, "not running"),
    Row(Verb.RESUME, frozenset({_S.PAUSED}), _S.RUNNING, "not paused"),
    Row(
        Verb.DELETE,
        frozenset({_S.CREATED, _S.STOPPED, _S.DELETED}),
        _S.DELETED,
        "cannot be deleted as it is not stopped",
    ),
    Row(Verb.FORCE_DELETE, frozenset(_S), _S.DELETED, ""),
    Row(Verb.EXEC, frozenset({_S.RUNNING}), None, "not running"),
    Row(Verb.PS, frozenset({_S.CREATED, _S.RUNNING, _S.PAUSED}), None, "not running"),
    Row(Verb.EVENTS, frozenset({_S.CREATED, _S.RUNNING, _S.PAUSED}), None, "not running"),
    Row(Verb.CHECKPOINT, frozenset({_S.RUNNING}), None, "not running"),
    Row(Verb.UPDATE, frozenset({_S.CREATED, _S.RUNNING}), None, "not running"),
)


class Event(StrEnum):
    """What changes a status besides runsc's verbs: parts of a creation, an end, a deletion."""

    CREATE = "create"
    COMPLETE = "complete"
    REFUSE = "refuse"
    CRASH = "crash"
    END = "end"
    DELETE = "delete"


#: Every edge: source, verb or event, target.
EDGES: frozenset[tuple[Status, Verb | Event, Status]] = frozenset(
    {
        (_S.DELETED, Event.CREATE, _S.CREATING),
        (_S.CREATING, Event.COMPLETE, _S.CREATED),
        (_S.CREATING, Event.REFUSE, _S.DELETED),
        (_S.CREATING, Event.CRASH, _S.DELETED),
        (_S.CREATING, Event.DELETE, _S.DELETED),
        (_S.CREATED, Event.REFUSE, _S.STOPPED),
        *((source, Event.END, _S.STOPPED) for source in (_S.CREATED, _S.RUNNING, _S.PAUSED)),
        (_S.STOPPED, Event.DELETE, _S.DELETED),
        *(
            (source, row.verb, row.target)
            for row in OCI_LIFECYCLE
            if row.verb in (Verb.START, Verb.PAUSE, Verb.RESUME) and row.target is not None
            for source in row.sources
        ),
    }
)


def status(*, known: str | None, lives: bool, is_being_created: bool) -> Status:
    """The status, from what survives a killed command; the spec's `Reported`.

    `known`: the status in runsc's file; None if there is no file. `lives`: with a file, whether the sandbox lives;
    without one, whether any process executes the staged copy of runsc.
    """
    if known is not None:
        return Status(known) if lives else Status.STOPPED
    return Status.CREATING if lives or is_being_created else Status.DELETED


_ROWS = {row.verb: row for row in OCI_LIFECYCLE}


class NotPermittedError(EngineError):
    """The verb is not permitted in this status. Managers look for these words."""

    exit_code = 1

    def __init__(self, verb: Verb, status: Status, container_id: str) -> None:
        self.step = str(verb)
        row = _ROWS[verb]
        wanted = " or ".join(sorted(row.sources - {Status.DELETED}))
        what = f"container {container_id!r} does not exist"
        if status is not Status.DELETED:
            what = f"container {row.otherwise}: {container_id!r} is {status}"
        super().__init__(
            what,
            reason=Reason.NO_SUCH if status is Status.DELETED else Reason.WRONG_STATE,
            hint=f"{verb} is for what is {wanted}" if wanted else "choose another id",
        )


def require(verb: Verb, status: Status, container_id: str) -> None:
    """Raises `NotPermittedError` if the table does not permit `verb` in `status`."""
    if status not in _ROWS[verb].sources:
        raise NotPermittedError(verb, status, container_id)
