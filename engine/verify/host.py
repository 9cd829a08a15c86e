"""`engine trace verify --host`: whether every run in the chain over a host's runs still has its trace, as it was.

How long the chain is and which traces there are is read first, under the chain's lock: so nobody is between an entry
and its trace. Where a trace is gone, what was appended meanwhile is read, too: gc may have removed it. In
specs/HostChain.tla: `SaysTaken`, `SaysUnknown`, `SaysCut`, `SaysAdded`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import sha256
from typing import Any, BinaryIO

from engine.errors import EngineError, Reason, hint_for, printable
from engine.linux.files import PrivateDirectory, UntrustedPathError
from engine.linux.locks import lock
from engine.linux.regular_files import open_named, open_own
from engine.state.base import open_existing_base
from engine.state.chain import CHAIN, END, LOST, MAX_ENTRY, REMOVED, START
from engine.state.retention import NAME_IN_PLACE
from engine.verify.trace_file import MAX_LINE

_TIMEOUT = 10.0
_HEX = re.compile(r"[0-9a-f]{64}")


class HostError(EngineError):
    """The chain cannot be read."""

    step = "trace"


class Finding(StrEnum):
    """What is wrong with a run, or is to be known of it."""

    TAKEN = "its trace was taken away"
    CUT = "its trace was cut"
    EMPTY = "its trace was cut to nothing"
    CHANGED = "its trace was changed"
    ADDED = "a trace that no run in the chain has"
    LOST = "it was killed before it had a trace, or its trace was gone before the next entry"
    REMOVED = "gc removed its trace"
    OPEN = "its trace goes on after what the chain has of it"
    NO_END = "the chain has no end of it: it goes on, or was killed"
    OLDER = "a trace older than the chain"

    @property
    def is_bad(self) -> bool:
        """Whether somebody must have done it."""
        return self in {Finding.TAKEN, Finding.CUT, Finding.EMPTY, Finding.CHANGED, Finding.ADDED}


#: Somebody took it, unless the chain says why it is not there.
_GONE = frozenset({Finding.TAKEN, Finding.EMPTY})


@dataclass(slots=True)
class _Run:
    number: int
    container: str
    trace: str
    header: str
    time: str
    #: Lines and the digest of the last one, by each `end`.
    ends: list[tuple[int, str]] = field(default_factory=list)
    told: Finding | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A `finding` about the `trace` of the `run` with this number, of the `container`; None where it is no run's."""

    finding: Finding
    trace: str
    run: int | None = None
    container: str | None = None

    def __str__(self) -> str:
        """One line, safe for a terminal."""
        of = f"run {self.run}, container {self.container}: " if self.run is not None else ""
        return printable(f"{of}{self.finding}: {self.trace}")


@dataclass(frozen=True, slots=True)
class HostResult:
    """The chain at `path` has `entries` about `runs`; `head` is the digest of the last one.

    `fault`: why what follows those is no chain.
    """

    path: str
    entries: int
    runs: int
    head: str | None
    found: tuple[Found, ...]
    fault: str | None = None

    @property
    def is_good(self) -> bool:
        """Whether the chain is whole and nobody took a trace away, cut, changed or added one."""
        return self.fault is None and not any(each.finding.is_bad for each in self.found)


def verify(place: str, files: Iterable[str] = (), head: tuple[int, str] | None = None) -> HostResult:
    """Hold the traces in the directory `place` against its chain.

    `files`: traces that were moved elsewhere; each counts for the run whose first line it has. `head`: the number of an
    entry and its digest, as they were once. Raises `HostError`.
    """
    path = os.path.join(place, CHAIN)
    try:
        directory = open_existing_base(place)
        if directory is None:
            raise HostError(
                f"{place!r} does not exist", reason=Reason.NO_SUCH, hint="no run has a trace there"
            )
        with contextlib.closing(directory):
            return _verify(directory, path, files, head)
    except UntrustedPathError as error:
        raise HostError(str(error), reason=Reason.ROOT_NOT_PRIVATE, hint="find out who changed it") from None
    except FileNotFoundError:
        raise HostError(
            f"there is no chain {path!r}",
            reason=Reason.NO_SUCH,
            hint="an older engine wrote none; if there was one, somebody took it away",
        ) from None
    except OSError as error:
        raise HostError(
            f"{path!r}: {error.strerror}", reason=Reason.FAILURE, hint=hint_for(error, "look there")
        ) from None


def _verify(
    place: PrivateDirectory, path: str, files: Iterable[str], head: tuple[int, str] | None
) -> HostResult:
    with open(open_own(place, CHAIN), "rb") as file:
        chain = _Chain(file, head)
        with _locked(file, path) as size:
            names = set(os.listdir(place.descriptor))
        chain.go(size)
        chain.end()
        moved = dict(_headers(files))
        found = [*_of_runs(place, chain, moved), *_of_no_run(place, names, chain)]
        result = HostResult(path, chain.entries, len(chain.runs), chain.previous, tuple(found), chain.fault)
        if chain.fault is None and any(each.finding in _GONE for each in found):
            with _locked(file, path) as size:
                pass
            chain.go(size)
            gone = {os.path.join(place.path, trace) for trace in chain.removed}
            result = replace(result, found=tuple(_since(each, gone) for each in found))
    return result


@contextlib.contextmanager
def _locked(file: BinaryIO, path: str) -> Iterator[int]:
    """Hold the lock of the chain in `file`: how many bytes it has. Raises `HostError` and `OSError`."""
    if not lock(file.fileno(), time.monotonic() + _TIMEOUT, fcntl.LOCK_SH):
        raise HostError(
            f"{path!r}: another process has had its lock for {_TIMEOUT:.0f} s",
            reason=Reason.TIME_LIMIT,
            hint="find out which one: lslocks",
        )
    try:
        yield os.fstat(file.fileno()).st_size
    finally:
        fcntl.flock(file.fileno(), fcntl.LOCK_UN)


class _Chain:
    """The entries up to the first that is none, and what is wrong with that."""

    def __init__(self, file: BinaryIO, head: tuple[int, str] | None) -> None:
        self._file = file
        self._at = 0
        self._head = head
        self.entries = 0
        self.previous: str | None = None
        self.runs: list[_Run] = []
        self.removed: set[str] = set()
        self.fault: str | None = None
        self.ends_with_start = False

    def go(self, size: int) -> None:
        """Read on, up to the first `size` bytes of the file. Raises `OSError`."""
        self._file.seek(self._at)
        while self._at < size:
            line = self._file.readline(min(MAX_ENTRY, size - self._at))
            if not line.endswith(b"\n"):
                if self._at + len(line) < size or not line:
                    self.fault = f"entry {self.entries}: it is too long, or the chain was cut meanwhile"
                return  # a killed process wrote it in part: it is no entry
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                self.fault = f"entry {self.entries}: {error}"
                return
            self._at += len(line)
            self.previous = sha256(line).hexdigest()
            self.entries += 1
            if self._head is not None and self._head[0] == self.entries - 1:
                if self._head[1] != self.previous:
                    self.fault = f"entry {self._head[0]} is not the one whose digest was given"
                    return
                self._head = None

    def end(self) -> None:
        """All was read: an entry that is not there is a fault."""
        if self._head is not None and self.fault is None:
            self.fault = f"there is no entry {self._head[0]}: the chain was cut, or begun anew"

    def _take(self, entry: Mapping[str, Any]) -> None:
        """Raises `ValueError`, `KeyError` and `TypeError` where it does not follow from those before."""
        if entry["seq"] != self.entries or entry["previous"] != self.previous:
            raise ValueError("the entry before is not the one that it names")
        event = entry["event"]
        self.ends_with_start = event == START
        runs = len(self.runs) + self.ends_with_start
        if entry["runs"] != runs:
            raise ValueError(f"it is run {entry['runs']}, and {runs} is next")
        if event == START:
            texts = [entry[key] for key in ("container", "trace", "header", "time")]
            if not all(isinstance(text, str) for text in texts) or not _HEX.fullmatch(entry["header"]):
                raise ValueError("it is none of an engine's")
            container, trace, header, when = texts
            self.runs.append(_Run(runs, container, trace, header, when))
        elif event == REMOVED:
            self.removed.add(entry["trace"])
        elif event in (END, LOST):
            number = entry["run"]
            if not 1 <= number <= runs:
                raise ValueError(f"there is no run {number}")
            if event == LOST:
                self.runs[number - 1].told = Finding.LOST
            else:
                self.runs[number - 1].ends.append((int(entry["lines"]), str(entry["digest"])))
        else:
            raise ValueError(f"there is no {event!r}")


def _headers(files: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The digest of the first line of each file, and its path. Raises `OSError`."""
    for path in files:
        with open(open_named(path), "rb") as file:
            yield sha256(file.readline(MAX_LINE)).hexdigest(), path


def _of_runs(place: PrivateDirectory, chain: _Chain, moved: Mapping[str, str]) -> Iterator[Found]:
    for run in chain.runs:
        finding = _judge(place, run, moved.get(run.header))
        if finding in _GONE:
            if run.trace in chain.removed:
                finding = Finding.REMOVED
            elif _may_be_unmade(run, chain):
                finding = Finding.LOST
        if finding is not None:
            yield Found(finding, os.path.join(place.path, run.trace), run.number, run.container)


def _may_be_unmade(run: _Run, chain: _Chain) -> bool:
    """Whether the run may have been killed before it had a trace: not one with an end, or with a trace elsewhere."""
    if run.ends or run.trace.startswith("/"):
        return False
    return run.told is not None or (chain.ends_with_start and run.number == len(chain.runs))


def _since(found: Found, gone: Collection[str]) -> Found:
    """What is `found`, unless its trace is of those that gc has removed by now, and that are `gone`."""
    if found.finding in _GONE and found.trace in gone:
        return replace(found, finding=Finding.REMOVED)
    return found


def _judge(place: PrivateDirectory, run: _Run, moved: str | None) -> Finding | None:
    """What is to be said of the run's trace, at its place or where it was `moved` to."""
    try:
        if moved is not None:
            descriptor = open_named(moved)
        elif run.trace.startswith("/"):
            descriptor = open_named(run.trace)
        else:
            descriptor = open_own(place, run.trace)
    except (OSError, UntrustedPathError, ValueError):
        return Finding.TAKEN
    with open(descriptor, "rb") as file:
        return _judge_lines(file, run)


def _judge_lines(file: BinaryIO, run: _Run) -> Finding | None:
    """As `_judge`, of the open trace; no more of it is read than the chain says something of."""
    lines, last = 0, max((count for count, _ in run.ends), default=0)
    left = dict(run.ends)
    for line in iter(lambda: file.readline(MAX_LINE), b""):
        if not line.endswith(b"\n"):
            if len(line) == MAX_LINE:
                return Finding.CHANGED  # no engine writes such a line
            break
        lines += 1
        if lines == 1 and sha256(line).hexdigest() != run.header:
            return Finding.CHANGED
        if lines in left and sha256(line).hexdigest() != left.pop(lines):
            return Finding.CHANGED
        if lines > last and not left:
            return Finding.OPEN if run.ends else Finding.NO_END
    return Finding.CUT if lines and left else None if lines else Finding.EMPTY


def _of_no_run(place: PrivateDirectory, names: Iterable[str], chain: _Chain) -> Iterator[Found]:
    """Traces in the directory that are no run's; those from before the chain began are only named."""
    known = {run.trace for run in chain.runs}
    begun = re.sub(r"[-:]", "", chain.runs[0].time) if chain.runs else ""
    for name in sorted(names):
        if name not in known and (match := NAME_IN_PLACE.fullmatch(name)):
            is_older = match[2][: len("20260101T000000Z")] <= begun
            yield Found(Finding.OLDER if is_older else Finding.ADDED, os.path.join(place.path, name))
