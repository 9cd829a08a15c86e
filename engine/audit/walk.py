"""One run as a picture shows it: the edges it took, how long each step was, where it stopped and why.

Only what the table has can be drawn, so a line that is no move of the lifecycle ends the reading there. Whether
a trace is to be believed is asked of `engine.verify.trace_check`; `doubt` is what it has against it.
"""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from engine.errors import EngineError, Reason, hint_for
from engine.lifecycle.machine import LIFECYCLE, TERMINAL
from engine.linux.regular_files import read_named
from engine.traces.move import State, Trigger
from engine.traces.schema import Refusal
from engine.verify.trace_check import verify

#: The longest trace that is read, in bytes. The engine's own are some thousands.
MAX_SIZE = 16 << 20

NOT_CHECKED = "it was not held against the spec"

_EDGES = {(str(source), str(row.trigger)): row.target for row in LIFECYCLE for source in row.sources}


class DiagramError(EngineError):
    """The picture cannot be drawn or written."""

    step = "diagram"


@dataclass(frozen=True, slots=True)
class Leg:
    """A move of a run, and the `seconds` from the line before to this one: the time of the step."""

    state: State
    trigger: Trigger
    next: State
    seconds: float


@dataclass(frozen=True, slots=True)
class Walk:
    """A run: `legs` in order, the `refusal` of one that was refused. `spec` is what it says it ran against.

    `doubt` says in one phrase why the trace is not to be relied on; None when it was verified.
    """

    container: str
    engine: str
    spec: str
    legs: tuple[Leg, ...]
    refusal: Refusal | None = None
    doubt: str | None = NOT_CHECKED

    @property
    def state(self) -> State:
        """Where the run was at its last line."""
        return self.legs[-1].next if self.legs else State.START

    @property
    def stopped_in(self) -> State | None:
        """The state that a run did not leave by a step; None when it was handed off."""
        if self.state is State.HANDED_OFF:
            return None
        return self.legs[-1].state if self.state is State.REFUSED else self.state

    @property
    def is_over(self) -> bool:
        """Whether the run came to an end; the engine of one that did not was killed, or is still at work."""
        return self.state in TERMINAL

    @property
    def seconds(self) -> float:
        """From the header to the last line."""
        return sum(leg.seconds for leg in self.legs)


def read_walk(path: str) -> Walk:
    """Read the trace in the file `path`, as far as it goes. Raises `DiagramError` when it has no header."""
    lines = _lines(path)
    if not lines:
        raise DiagramError(f"{path!r} is empty", reason=Reason.MALFORMED, hint="name the trace of a run")
    try:
        header = _object(lines[0])
        container, engine, spec = (_text(header, key) for key in ("container", "engine", "spec"))
        at = datetime.fromisoformat(_text(header, "time"))
    except (ValueError, RecursionError) as error:
        raise DiagramError(
            f"{path!r} is not a trace: line 1: {error}",
            reason=Reason.MALFORMED,
            hint="name the trace of a run",
        ) from None
    legs: list[Leg] = []
    refusal: Refusal | None = None
    cut: str | None = None
    for number, line in enumerate(lines[1:], start=2):
        try:
            move = _object(line)
            leg, at = _leg(move, number - 1, at, legs)
            refusal = Refusal.of(_error(move)) if leg.trigger is Trigger.REFUSE else None
            legs.append(leg)
        except (ValueError, RecursionError) as error:
            cut = f"line {number}: {error}; what follows is not drawn"
            break
    return Walk(container, engine, spec, tuple(legs), refusal, doubt_of(path) or cut)


def doubt_of(path: str) -> str | None:
    """What speaks against the trace in the file `path` when it is held against the spec; None: nothing does."""
    (result,) = verify([path])
    if result.verdict.is_good:
        return None
    return f"{result.verdict}: {result.fault or result.why}"


def _lines(path: str) -> list[bytes]:
    try:
        content = read_named(path, MAX_SIZE)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise DiagramError(
                f"{path!r} has more than {MAX_SIZE >> 20} MiB",
                reason=Reason.TOO_LARGE,
                hint="name the trace of one run",
            ) from None
        hint = hint_for(error, "name a trace that you can read")
        raise DiagramError(f"{path!r}: {error.strerror}", reason=Reason.FAILURE, hint=hint) from None
    return content.splitlines()


def _object(line: bytes) -> dict[str, Any]:
    try:
        given = json.loads(line)
    except ValueError:
        raise ValueError("not JSON") from None
    if not isinstance(given, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - the file's fault, not a caller's
    return given


def _text(given: dict[str, Any], key: str) -> str:
    value = given.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a text")  # noqa: TRY004
    return value


def _leg(move: dict[str, Any], seq: int, before: datetime, legs: list[Leg]) -> tuple[Leg, datetime]:
    state, trigger, target = (_text(move, key) for key in ("state", "trigger", "next"))
    if move.get("seq") != seq:
        raise ValueError(f"seq is not {seq}")
    if _EDGES.get((state, trigger)) != target or state not in _may_leave(legs):
        raise ValueError("not a move that the lifecycle has there")
    try:
        at = datetime.fromisoformat(_text(move, "time"))
        seconds = (at - before).total_seconds()
    except TypeError:
        raise ValueError("its time has no zone") from None
    if seconds < 0:
        raise ValueError("its time is before that of the line above")
    return Leg(State(state), Trigger(trigger), State(target), seconds), at


def _may_leave(legs: list[Leg]) -> tuple[str, ...]:
    """Where the next move may start; an exec is recorded before the kernel does it, and may yet be refused."""
    if not legs:
        return (State.START,)
    last = legs[-1]
    return (last.next, last.state) if last.trigger is Trigger.EXEC else (last.next,)


def _error(move: dict[str, Any]) -> dict[str, Any]:
    error = move.get("error")
    return error if isinstance(error, dict) else {}
