"""Read a trace once, check it, and separate the reliable lines from the rest.

Lines from the first bad one on are not evidence; they are only shown.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from io import BufferedReader
from typing import Any

from engine.bundle.bundle import CONFIG_NAME
from engine.errors import EngineError, Reason, hint_for
from engine.lifecycle.machine import STEPS
from engine.lifecycle.spec_graph import SpecGraph
from engine.linux.regular_files import open_named, read_named
from engine.runsc.installation import RUNSC, SIDECARS
from engine.traces.end_schema import EndFacts
from engine.traces.move import State, Trigger
from engine.traces.reader import BadLineError, read_header, read_record
from engine.traces.schema import Header, Record, Refusal
from engine.verify import trace_check
from engine.verify.trace_check import TraceResult, Verdict

#: Largest trace in bytes. The engine writes a few thousand.
MAX_SIZE = 16 << 20

#: The step that runs in each state.
STEP_FROM: Mapping[str, Trigger] = {source: row.trigger for row in STEPS for source in row.sources}


class ReportError(EngineError):
    """The trace cannot be read, or the report cannot be written."""

    step = "report"


class Outcome(StrEnum):
    """What became of a run's start, according to its trace."""

    HANDED_OFF = "handed off"
    REFUSED = "refused"
    UNFINISHED = "unfinished"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Moment:
    """One move: its time, and the duration of its step in seconds."""

    record: Record[Any, Any]
    seconds: float


@dataclass(frozen=True)
class Evidence:
    """A trace: `header` and `moments` up to the first bad line, `rest` from there on."""

    path: str
    sha256: str
    size: int
    result: TraceResult
    header: Header | None
    moments: tuple[Moment, ...]
    rest: tuple[bytes, ...]

    @property
    def conforms(self) -> bool:
        return self.result.verdict is Verdict.CONFORMS

    @property
    def first_bad_line(self) -> int | None:
        """The number of the first line that no engine wrote there; None if there is none, or none was judged."""
        fault = self.result.fault
        return fault.line if fault is not None and self.result.verdict is Verdict.DIFFERS else None

    @property
    def judged(self) -> bool:
        """Whether the trace conforms."""
        return bool(self.result.verdict.is_good)

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """The recorded facts by trigger, with the header's under `header`: the input of the machine's guards."""
        known: dict[str, Any] = {} if self.header is None else {"header": self.header.known()}
        return known | {moment.record.trigger: moment.record.facts for moment in self.moments}

    @property
    def outcome(self) -> Outcome:
        if self.header is None:
            return Outcome.UNKNOWN
        last = self.moments[-1].record.next if self.moments else State.START
        return _OUTCOMES.get(State(last) if last in _STATES else State.START, Outcome.UNFINISHED)

    @property
    def ending(self) -> EndFacts | None:
        """How the container ended; None if its trace does not say so."""
        last = self.moments[-1].record if self.moments else None
        return last.facts if last is not None and last.trigger == Trigger.END else None

    @property
    def refusal(self) -> Refusal | None:
        """Why the run was refused, if it was."""
        record = self.moments[-1].record if self.moments else None
        return record.refusal if record is not None else None

    @property
    def stopped_in(self) -> Trigger | None:
        """The step in which the run stopped; None if it was handed off."""
        if self.header is None or self.outcome is Outcome.HANDED_OFF:
            return None
        if not self.moments:
            return Trigger.RESOLVE
        last = self.moments[-1].record
        return STEP_FROM.get(last.state if last.next == State.REFUSED else last.next)

    @property
    def started(self) -> datetime | None:
        return None if self.header is None else self.header.time

    @property
    def seconds(self) -> float:
        """From the header to the last reliable line before the container's end."""
        return sum(moment.seconds for moment in self.moments if moment.record.trigger != Trigger.END)


def programs(validated: Mapping[str, Any], staged: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """runsc and what it starts from beside itself: the name, the path that was validated, and the SHA-256.

    `validated`, `staged`: the facts of these steps. The path is the staged one where no other is recorded.
    """
    yield RUNSC, validated["path"], staged["sha256"]
    paths = {each["name"]: each["path"] for each in validated.get("sidecars", ())}
    for each in staged.get("sidecars", ()):
        yield f"{SIDECARS}/{each['name']}", paths.get(each["name"], each["path"]), each["sha256"]


def given_copy(bundle: Mapping[str, Any], handed_off: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """The path and the SHA-256 of the config.json that runsc was given; None if it is the caller's, or not recorded.

    `bundle`: of the header. `handed_off`: the facts of `exec`, if there are any.
    """
    given = None if handed_off is None else handed_off.get("config")
    if given is None or given["sha256"] == bundle["sha256"]:
        return None
    argv = handed_off["argv"] if handed_off is not None else []
    # Of another spec it may be anything.
    place = argv[argv.index("--bundle") + 1 :] if "--bundle" in argv else []
    return os.path.join(*place[:1], CONFIG_NAME), given["sha256"]


_STATES = frozenset(State)
_OUTCOMES = {
    State.HANDED_OFF: Outcome.HANDED_OFF,
    State.ENDED: Outcome.HANDED_OFF,
    State.REFUSED: Outcome.REFUSED,
}


def read(path: str, graph: SpecGraph) -> tuple[Evidence, bytes]:
    """Read the trace `path` and check it against `graph`; also returns its bytes.

    Raises `ReportError` if the file cannot be read.
    """
    try:
        content = read_named(path, MAX_SIZE)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ReportError(
                f"{path!r} has more than {MAX_SIZE >> 20} MiB",
                reason=Reason.TOO_LARGE,
                hint="give the trace of one run (engine trace verify reads files of many runs)",
            ) from None
        hint = hint_for(error, "give a trace that you can read")
        raise ReportError(f"{path!r}: {error.strerror}", reason=Reason.FAILURE, hint=hint) from None
    return judge(path, content, graph), content


def open_regular(path: str) -> BufferedReader:
    """Open a regular file for reading. Raises `OSError`."""
    return open(open_named(path), "rb")


def judge(path: str, content: bytes, graph: SpecGraph) -> Evidence:
    """Check the bytes of a trace."""
    lines = _lines(content)
    judged = trace_check.judge(path, lines, graph)
    header, moves = judged.header, judged.moves
    if judged.result.verdict is Verdict.OTHER_SPEC:
        header, moves = _as_they_are(lines)
    above = (*(() if header is None else (header,)), *moves)
    moments = tuple(
        Moment(move, move.seconds_since(before)) for before, move in zip(above, moves, strict=False)
    )
    return Evidence(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        result=judged.result,
        header=header,
        moments=moments,
        rest=tuple(line.removesuffix(b"\n") for line in lines[(header is not None) + len(moments) :]),
    )


def _lines(content: bytes) -> list[bytes]:
    """Each line with its newline."""
    *whole, cut = content.split(b"\n")
    return [line + b"\n" for line in whole] + ([cut] if cut else [])


def _as_they_are(lines: list[bytes]) -> tuple[Header | None, tuple[Record[Any, Any], ...]]:
    """Parse the lines up to the first malformed one, whatever the spec."""
    header: Header | None = None
    moves: list[Record[Any, Any]] = []
    try:
        for line in lines:
            if header is None:
                header = read_header(line.removesuffix(b"\n"))
            else:
                moves.append(read_record(line.removesuffix(b"\n"), header.format))
    except BadLineError:
        pass
    return header, tuple(moves)
