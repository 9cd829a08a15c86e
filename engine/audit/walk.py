"""One run for a picture: its edges, the time of each step, where it stopped and why.

Reading stops at the first line that is not an edge of the table. `engine.verify.trace_check` decides whether the trace
conforms; its objection is in `doubt`.
"""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from typing import Any

from engine.errors import EngineError, Reason, hint_for
from engine.lifecycle.machine import LIFECYCLE, TERMINAL
from engine.lifecycle.spec_graph import spec_graph
from engine.linux.regular_files import read_named
from engine.traces.move import State, Trigger
from engine.traces.schema import Refusal
from engine.verify.trace_check import Verdict, judge
from engine.verify.trace_file import lines_of

#: Largest trace in bytes. The engine writes a few thousand.
MAX_SIZE = 16 << 20

NOT_CHECKED = "it was not checked against the spec"

_EDGES = {(str(source), str(row.trigger)): row.target for row in LIFECYCLE for source in row.sources}


class DiagramError(EngineError):
    """The picture cannot be drawn or written."""

    step = "diagram"


@dataclass(frozen=True, slots=True)
class Leg:
    """A move of a run; `seconds` since the previous line, which is the time of the step."""

    state: State
    trigger: Trigger
    next: State
    seconds: float


@dataclass(frozen=True, slots=True)
class Walk:
    """A run: its `legs` in order, and its `refusal`, if any. `spec`: SHA-256 from the header.

    `doubt`: one phrase, why the trace is not reliable; None if it was verified. `bad_line`: the number of the first
    line that no engine wrote there, if any; the legs end before it, and the file goes on.
    """

    container: str
    engine: str
    spec: str
    legs: tuple[Leg, ...]
    refusal: Refusal | None = None
    doubt: str | None = NOT_CHECKED
    bad_line: int | None = None

    @property
    def state(self) -> State:
        """The state after the last line."""
        return self.legs[-1].next if self.legs else State.START

    @property
    def stopped_in(self) -> State | None:
        """The state in which the run stopped; None if it was handed off."""
        if self.state in (State.HANDED_OFF, State.ENDED):
            return None
        return self.legs[-1].state if self.state is State.REFUSED else self.state

    @property
    def is_over(self) -> bool:
        """Whether the run ended. Otherwise its engine was killed, or is still running."""
        return self.state in TERMINAL

    @property
    def seconds(self) -> float:
        """From the header to the last line before the container's end."""
        return sum(leg.seconds for leg in self.legs if leg.trigger is not Trigger.END)


def read_walk(path: str) -> Walk:
    """Read the trace `path` up to the first bad line. Raises `DiagramError` if there is no valid header."""
    lines = list(lines_of(BytesIO(_content(path))))
    if not lines:
        raise DiagramError(f"{path!r} is empty", reason=Reason.MALFORMED, hint="give the trace of a run")
    try:
        header = _object(lines[0])
        container, engine, spec = (_text(header, key) for key in ("container", "engine", "spec"))
        at = datetime.fromisoformat(_text(header, "time")), header.get("monotonic_ns")
    except (ValueError, RecursionError) as error:
        raise DiagramError(
            f"{path!r} is not a trace: line 1: {error}",
            reason=Reason.MALFORMED,
            hint="give the trace of a run",
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
            cut = f"line {number}: {error}; the rest is not drawn"
            break
    result = judge(path, lines, spec_graph()).result
    doubt = None if result.verdict.is_good else f"{result.verdict}: {result.fault or result.why}"
    if result.verdict is not Verdict.DIFFERS or result.fault is None:
        return Walk(container, engine, spec, tuple(legs), refusal, doubt or cut)
    bad = result.fault.line
    del legs[max(bad - 2, 0) :]
    refusal = refusal if legs and legs[-1].trigger is Trigger.REFUSE else None
    return Walk(container, engine, spec, tuple(legs), refusal, doubt, bad)


def _content(path: str) -> bytes:
    try:
        return read_named(path, MAX_SIZE)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise DiagramError(
                f"{path!r} has more than {MAX_SIZE >> 20} MiB",
                reason=Reason.TOO_LARGE,
                hint="give the trace of one run",
            ) from None
        hint = hint_for(error, "give a trace that you can read")
        raise DiagramError(f"{path!r}: {error.strerror}", reason=Reason.FAILURE, hint=hint) from None


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
        raise ValueError(f"{key} is not a string")  # noqa: TRY004
    return value


#: The time of a line, and what it has of the monotonic clock.
_Time = tuple[datetime, Any]


def _leg(move: dict[str, Any], seq: int, before: _Time, legs: list[Leg]) -> tuple[Leg, _Time]:
    state, trigger, target = (_text(move, key) for key in ("state", "trigger", "next"))
    if move.get("seq") != seq:
        raise ValueError(f"seq is not {seq}")
    if _EDGES.get((state, trigger)) != target or state not in _may_leave(legs):
        raise ValueError("not a move of the lifecycle from there")
    at = datetime.fromisoformat(_text(move, "time")), move.get("monotonic_ns")
    try:
        seconds = (at[0] - before[0]).total_seconds()
    except TypeError:
        raise ValueError("its time has no UTC offset") from None
    if all(isinstance(given, int) and 0 <= given < 1 << 63 for given in (at[1], before[1])):
        seconds = (at[1] - before[1]) / 1e9
    if seconds < 0:
        raise ValueError("its time is earlier than the previous line's")
    return Leg(State(state), Trigger(trigger), State(target), seconds), at


def _may_leave(legs: list[Leg]) -> tuple[str, ...]:
    """The states from which the next move may start. `exec` is recorded before execve, which may still fail."""
    if not legs:
        return (State.START,)
    last = legs[-1]
    return (last.next, last.state) if last.trigger is Trigger.EXEC else (last.next,)


def _error(move: dict[str, Any]) -> dict[str, Any]:
    error = move.get("error")
    return error if isinstance(error, dict) else {}
