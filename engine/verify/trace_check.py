"""Check traces against the compiled graph of the spec and the machine's guards.

Each file is read once, in pieces, so its size does not matter. Workers (`engine.verify.workers`) can share the work
without changing results or order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from engine.errors import printable
from engine.lifecycle.guards import Known
from engine.lifecycle.machine import LIFECYCLE
from engine.lifecycle.spec_graph import SpecGraph, spec_graph
from engine.traces.move import State, Trigger
from engine.traces.reader import BadLineError, read_header, read_record
from engine.traces.schema import Header, Record
from engine.verify.asked import contradiction
from engine.verify.faults import Fault, FaultCode
from engine.verify.move_checks import (
    check_counter,
    check_duration,
    check_facts,
    check_refusal,
    check_resources,
)
from engine.verify.trace_file import HEADER, MAX_LINE, STDIN, lines_of, open_trace

if TYPE_CHECKING:
    from engine.verify.chunks import Answer, Chunk
    from engine.verify.workers import Workers


class Verdict(StrEnum):
    """The result of checking a trace."""

    CONFORMS = "conforms"
    INCOMPLETE = "incomplete, consistent so far"
    DIFFERS = "differs"
    OTHER_SPEC = "of another spec"
    UNREADABLE = "unreadable"

    @property
    def is_good(self) -> bool:
        """Whether the trace conforms as far as it goes. A killed run leaves an incomplete trace."""
        return self in {Verdict.CONFORMS, Verdict.INCOMPLETE}


@dataclass(frozen=True, slots=True)
class TraceResult:
    """The result for one run: `records` lines of the file `path`, from `first_line` on, conform.

    `state`: of the run after those lines, None before the header. `fault`: set if the verdict is not good; for
    `UNREADABLE`, `why` is set instead.
    """

    path: str
    verdict: Verdict
    first_line: int
    records: int
    state: str | None
    fault: Fault | None = None
    why: str | None = None

    def __str__(self) -> str:
        """One line, safe for a terminal."""
        where = "" if self.first_line == 1 else f":{self.first_line}"
        state = f"{self.state}, end unknown" if self.state == State.HANDED_OFF else self.state
        told = self.fault or self.why or f"{self.records} lines, {state}"
        return printable(f"{self.path}{where}: {self.verdict}: {told}")


def verify(
    paths: Sequence[str],
    *,
    runs: bool = False,
    graph: SpecGraph | None = None,
    workers: Workers | None = None,
) -> Iterator[TraceResult]:
    """Check the trace files `paths`, in order, against `graph` (default: this engine's spec).

    A file contains one run's trace. With `runs` it contains any number, concatenated, and there is a result for each.
    `-` is standard input; any other path must lead to a regular file. `workers` share the work, except for standard
    input. Raises `SpecGraphError` and `WorkersError`.
    """
    graph = graph or spec_graph()
    if workers is None:
        for path in paths:
            yield from _verify_file(path, None, runs, graph)
        return
    for is_stdin, some in groupby(paths, STDIN.__eq__):
        if is_stdin:
            yield from verify(list(some), runs=runs, graph=graph)
        else:
            yield from _shared(list(some), runs, graph, workers)


def _shared(paths: Sequence[str], runs: bool, graph: SpecGraph, workers: Workers) -> Iterator[TraceResult]:
    from engine.verify.chunks import in_order, split

    tasks = ((chunk, runs, graph) for chunk in split(paths, runs=runs))
    answers = chain.from_iterable(workers.map(verify_chunk, tasks))
    for path, above, results in in_order(answers, is_broken=_ended_unreadable):
        for told in results:
            yield _untold(path, told, above)


#: The fields of a `TraceResult` without its path and with the fault's fields: cheap to pickle.
_Told = tuple[str, int, int, str | None, tuple[int, str, str, str | None] | None, str | None]


def verify_chunk(task: tuple[Chunk, bool, SpecGraph]) -> list[Answer[list[_Told]]]:
    """Run in a worker: the results for each file of a chunk; lines count from the chunk's first."""
    chunk, runs, graph = task
    answers = []
    for path in chunk.paths:
        results: list[_Told] = []
        found = _verify_file(path, chunk, runs, graph)
        try:
            while True:
                results.append(_told(next(found)))
        except StopIteration as over:
            answers.append((path, chunk.begin, results, int(over.value)))
    return answers


def _told(result: TraceResult) -> _Told:
    fault = result.fault
    return (
        result.verdict.value,
        result.first_line,
        result.records,
        result.state,
        None if fault is None else (fault.line, fault.code, fault.what, fault.allowed),
        result.why,
    )


def _untold(path: str, told: _Told, above: int) -> TraceResult:
    """The result for a run in the file `path`, with `above` lines added to its line numbers."""
    verdict, first, records, state, fault, why = told
    if why is not None:
        above = 0  # it concerns the whole file
    return TraceResult(
        path,
        Verdict(verdict),
        first + above,
        records,
        state,
        None if fault is None else Fault(fault[0] + above, *fault[1:]),
        why,
    )


def _ended_unreadable(results: Sequence[_Told]) -> bool:
    return bool(results) and results[-1][0] == Verdict.UNREADABLE


def _verify_file(
    path: str, chunk: Chunk | None, runs: bool, graph: SpecGraph
) -> Generator[TraceResult, None, int]:
    """The results for the runs in a file, or in its part `chunk`; returns the number of lines read."""
    try:
        with open_trace(path) if chunk is None else chunk.open(path) as file:
            return (yield from _results(path, file, runs, graph))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        yield TraceResult(path, Verdict.UNREADABLE, 1, 0, None, why=f"{why}; give files that you can read")
        return 0


def _results(path: str, file: BinaryIO, runs: bool, graph: SpecGraph) -> Generator[TraceResult, None, int]:
    """The results for the runs in the file (one run unless `runs`); returns the number of lines read."""
    walk = _Walk(graph, 1)
    number = 0
    for number, line in enumerate(lines_of(file), 1):
        if runs and line.startswith(HEADER) and number > 1:
            yield walk.result(path)
            walk = _Walk(graph, number)
        walk.take(line)
        if not runs and walk.fault is not None:
            break
    yield walk.result(path)
    return number


@dataclass(frozen=True, slots=True)
class Judged:
    """The result for a run, and its conforming lines as parsed."""

    result: TraceResult
    header: Header | None
    moves: tuple[Record[Any, Any], ...]


def judge(path: str, lines: Iterable[bytes], graph: SpecGraph) -> Judged:
    """Check one run's `lines`, each with its newline, against `graph`, up to the first bad one."""
    walk = _Walk(graph, 1)
    for line in lines:
        walk.take(line)
        if walk.fault is not None:
            break
    return Judged(walk.result(path), walk.header, tuple(walk.moves))


_NEWLINE = ord("\n")


def _check_size(line: bytes) -> None:
    if len(line.removesuffix(b"\n")) > MAX_LINE:
        raise BadLineError(FaultCode.TOO_LONG, f"it has more than {MAX_LINE} bytes")
    if not line.endswith(b"\n"):
        raise BadLineError(FaultCode.CUT, "it is truncated: it does not end with a newline")


_EXEC, _END, _REFUSE = str(Trigger.EXEC), str(Trigger.END), str(Trigger.REFUSE)
#: The conditions of the guards of each trigger, in their order.
_GUARDS: Mapping[str, tuple[Callable[[Known], bool], ...]] = {
    str(row.trigger): tuple(guard.holds for guard in row.guards) for row in LIFECYCLE
}


def _refuse(trigger: str, number: int) -> NoReturn:
    """Raise `BadLineError` for the guard of `trigger` with this number."""
    guard = next(row.guards[number] for row in LIFECYCLE if row.trigger == trigger)
    raise BadLineError(
        guard.name, f"its facts do not allow {trigger}: {guard.otherwise} (guard {guard.name})"
    )


class _Walk:
    """One run, followed along the graph line by line, from line `first` of a file."""

    __slots__ = (
        *("_above", "_container", "_first", "_format", "_graph", "_known", "_monotonic", "_records"),
        *("_seq", "_time", "_undoes", "_verdict", "fault", "header", "moves", "state"),
    )

    def __init__(self, graph: SpecGraph, first: int) -> None:
        self._graph = graph
        self._first = first
        self._records = 0
        self._verdict = Verdict.DIFFERS
        self.state: str | None = None
        self.fault: Fault | None = None
        #: What was read of the good lines. The graph has no cycle, so they are few.
        self.header: Header | None = None
        self.moves: list[Record[Any, Any]] = []

    def take(self, line: bytes) -> None:
        """Go on by one line; once one was bad, the walk is over."""
        if self.fault is not None:
            return
        try:
            if line[-1] != _NEWLINE or len(line) > MAX_LINE:
                _check_size(line)
            if self.state is None:
                self._begin(line[:-1])
            elif line.startswith(HEADER):
                raise BadLineError(FaultCode.WRONG_SEQ, "seq is 0: another run begins; give --runs")
            else:
                self._go_on(line[:-1])
        except BadLineError as bad:
            if bad.code == FaultCode.OTHER_SPEC:
                self._verdict = Verdict.OTHER_SPEC
            self.fault = Fault(self._first + self._records, bad.code, bad.what, self._allowed())
        else:
            self._above = line
            self._records += 1

    def result(self, path: str) -> TraceResult:
        """What is to be said of it, now that there are no more lines."""
        if self._records == 0 and self.fault is None:
            self.fault = Fault(self._first, FaultCode.EMPTY, "the file is empty", self._allowed())
        if self.fault is not None:
            verdict = self._verdict
        elif self.state is not None and self._graph.is_terminal(self.state):
            verdict = Verdict.CONFORMS
        else:
            verdict = Verdict.INCOMPLETE
        return TraceResult(path, verdict, self._first, self._records, self.state, self.fault)

    def _begin(self, text: bytes) -> None:
        header = read_header(text)
        if header.seq != 0:
            raise BadLineError(FaultCode.WRONG_SEQ, f"seq is {header.seq}, and a header has 0")
        if header.spec != self._graph.spec:
            raise BadLineError(
                FaultCode.OTHER_SPEC,
                f"it was run against the spec {header.spec!r:.80}, and this engine's is {self._graph.spec}",
            )
        if (what := contradiction(header)) is not None:
            raise BadLineError(FaultCode.HEADER_CONTRADICTS, what)
        self._seq, self._time, self._container = 0, header.time, header.container
        self._monotonic = header.monotonic_ns
        self._format = header.format
        self._known: dict[str, Any] = {"header": header.known()}
        self.state, self.header = self._graph.start, header
        #: Where an execve that the kernel refuses leaves the run: its move is recorded before it is made.
        self._undoes: str | None = None

    def _go_on(self, text: bytes) -> None:
        move = read_record(text, self._format)
        if move.seq != self._seq + 1:
            raise BadLineError(FaultCode.WRONG_SEQ, f"seq is {move.seq}, and it should be {self._seq + 1}")
        if move.container != self._container:
            raise BadLineError(
                FaultCode.OTHER_CONTAINER,
                f"it is of the container {move.container!r}, and the trace of {self._container!r}",
            )
        if move.previous != sha256(self._above).hexdigest():
            raise BadLineError(
                FaultCode.BROKEN_CHAIN,
                "previous is not the SHA-256 of the line above: a line was edited or removed",
            )
        self._check_time(move)
        trigger, state = move.trigger, move.state
        here = self.state
        if self._undoes is not None and trigger == _REFUSE and state == self._undoes:
            here = state
        if state != here or self._graph.edges[state].get(trigger) != move.next:
            raise BadLineError(
                FaultCode.NOT_AN_EDGE,
                f"{state} --{trigger}--> {move.next} is not an edge from {self.state}",
            )
        if (move.error is None) == (trigger == _REFUSE):
            raise BadLineError(FaultCode.MISPLACED_ERROR, "only a refusal has an error, and it must have one")
        if move.error is not None:
            check_refusal(State(state), move.error)
        self._known[trigger] = move.facts
        self._ask_guards(trigger)
        if self.header is not None:
            check_facts(move, self.header, self._known)
        if trigger == _END:
            check_duration(move, self.moves[-1])
            if self.header is not None:
                check_counter(move, self.header)
                check_resources(move, self.header)
        self._undoes = state if trigger == _EXEC else None
        self._seq, self._time, self.state = move.seq, move.time, move.next
        self._monotonic = move.monotonic_ns
        self.moves.append(move)

    def _ask_guards(self, trigger: str) -> None:
        """Ask each guard of the step about all facts so far. Raises `BadLineError`."""
        number, asked = 0, _GUARDS[trigger]
        try:
            for number, guard in enumerate(asked):  # noqa: B007
                if not guard(self._known):
                    break
            else:
                return
        except (LookupError, ValueError, TypeError):
            pass  # it cannot even be asked
        _refuse(trigger, number)

    def _check_time(self, move: Record[Any, Any]) -> None:
        """The wall clock may be set back within a run, the monotonic clock not. Raises `BadLineError`."""
        now, before = move.monotonic_ns, self._monotonic
        if isinstance(now, int) and isinstance(before, int):
            if now < before:
                raise BadLineError(
                    FaultCode.TIME_GOES_BACK, "its monotonic_ns is less than the previous line's"
                )
        elif now is not before:
            raise BadLineError(FaultCode.TIME_GOES_BACK, "either each line has monotonic_ns or none has")
        elif move.time < self._time:
            raise BadLineError(FaultCode.TIME_GOES_BACK, "its time is earlier than the previous line's")

    def _allowed(self) -> str:
        """What the spec allows in place of the bad line."""
        if self.state is None:
            return "a header"
        if self._undoes is not None:
            refused = self._graph.edges[self._undoes][_REFUSE]
            is_supervised = self.header is not None and self.header.options.get("supervise")
            first = self._graph.allowed(self.state) if is_supervised else "nothing"
            return f"{first}, or from {self._undoes} {_REFUSE} to {refused} (execve failed)"
        return self._graph.allowed(self.state)
