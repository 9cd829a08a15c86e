"""What the fleet view counts: runs go in, one by one or as what somebody else has counted, and are forgotten.

What is kept does not grow with the number of runs. Times are kept to the precision that is shown, moments to the width
of the bars that they can still come to stand in, refusals by step and reason, and of the runs themselves those that
are listed. The same runs in the same order give the same tally, whoever has counted which of them.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from engine.verify.signature import Standing

#: How many runs are listed.
LISTED = 10_000
#: How many bars a chart has at most, and the widths in seconds that one may stand for; above, whole years.
_BARS = 30
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_YEAR = 365 * _DAY
_WIDTHS = (
    *(_MINUTE * n for n in (1, 5, 15)),
    *(_HOUR * n for n in (1, 3, 6, 12)),
    *(_DAY * n for n in (1, 2, 7, 14, 30, 91)),
    _YEAR,
)
#: So many cells are kept before they are made wider. Those of one group are never more than 29 years of days.
_CELLS = 1 << 15


class Kind(StrEnum):
    """What became of a run, the gravest first."""

    DIFFERS = "does not conform"
    UNREADABLE = "unreadable"
    BAD_SIGNATURE = "signature does not verify"
    OTHER_SPEC = "of another spec"
    REFUSED = "refused"
    UNFINISHED = "unfinished"
    RAN = "handed off"


_RANK = {kind: rank for rank, kind in enumerate(Kind)}
_NEWEST = datetime.max.replace(tzinfo=UTC)
#: Of these nothing is known of how long a step took.
_UNRELIABLE = frozenset({Kind.DIFFERS, Kind.BAD_SIGNATURE, Kind.UNREADABLE})


class Run(NamedTuple):
    """What is told of one run. `line` is its first of a file of many runs, `fault` the number of its first bad line.

    `reason` is the code of a refusal (a `Reason`; empty in a trace of format 1, which has none), `what` says in words
    why it is of its kind. `steps` are the microseconds that each step took, `seconds` the time of all.
    """

    path: str
    line: int | None
    kind: Kind
    container: str
    started: datetime | None
    step: str
    fault: int | None
    reason: str
    what: str
    seconds: float
    steps: tuple[tuple[str, int], ...]
    signature: Standing | None

    def moved_down(self, lines: int) -> Run:
        """The same, of a file that has `lines` more above."""
        line = None if self.line is None else self.line + lines
        return self._replace(line=line, fault=None if self.fault is None else self.fault + lines)


@dataclass(frozen=True, slots=True)
class Buckets:
    """Equal stretches of time, each `width` seconds long, the first from `start` on, in seconds of Unix time."""

    start: int
    width: int
    count: int

    @classmethod
    def over(cls, first: int, last: int) -> Buckets:
        """As many as fit between two moments, in seconds of Unix time."""
        width = next(
            (width for width in _WIDTHS if (last - first) / width < _BARS - 1),
            _YEAR * ((last - first) // (_YEAR * (_BARS - 1)) + 1),
        )
        start = first // width * width
        return cls(start, width, (last - start) // width + 1)

    def label(self, index: int) -> str:
        moment = datetime.min.replace(tzinfo=UTC)
        if (seconds := self.start + index * self.width) > moment.timestamp():
            moment = datetime.fromtimestamp(seconds, UTC)
        return moment.date().isoformat() if self.width >= _DAY else moment.strftime("%m-%d %H:%M")

    @property
    def unit(self) -> str:
        seconds, name = next(
            (unit for unit in ((_DAY, "day"), (_HOUR, "hour")) if self.width % unit[0] == 0),
            (_MINUTE, "minute"),
        )
        number = self.width // seconds
        return name if number == 1 else f"{number} {name}s"


@dataclass(slots=True)
class Group:
    """Runs of one kind and, if they were refused, of one step and reason. `cells` counts them over time.

    `example` is what the first of them says.
    """

    count: int = 0
    example: str = ""
    last: datetime | None = None
    cells: Counter[int] = field(default_factory=Counter)

    def add(self, other: Group, wider: int) -> None:
        """Take in another, whose cells are narrower by the factor `wider`."""
        self.example = self.example or other.example
        self.count += other.count
        self.last = max(filter(None, (self.last, other.last)), default=None)
        for cell, number in other.cells.items():
            self.cells[cell // wider] += number

    def over(self, buckets: Buckets, width: int) -> Counter[int]:
        """How many there are in each bucket, by its index."""
        found = Counter[int]()
        for cell, number in self.cells.items():
            found[(cell * width - buckets.start) // buckets.width] += number
        return found


@dataclass(slots=True)
class Durations:
    """How long a step took in each run, in microseconds to three digits; the longest as it is, and in which container.

    So many digits are shown, so there are 900 different ones at most from one power of ten to the next.
    """

    counts: Counter[int] = field(default_factory=Counter)
    longest: tuple[int, str] = (-(1 << 63), "")

    def add(self, microseconds: int, container: str) -> None:
        self.counts[_three_digits(microseconds)] += 1
        self.longest = max(self.longest, (microseconds, container))

    def merge(self, other: Durations) -> None:
        self.counts.update(other.counts)
        self.longest = max(self.longest, other.longest)

    def below(self, share: float) -> float:
        """The nearest rank in seconds: so large a share of the runs took no longer."""
        rank = math.ceil(self.counts.total() * share)
        for microseconds in sorted(self.counts):
            rank -= self.counts[microseconds]
            if rank <= 0:
                return microseconds / 1e6
        raise ValueError("there is no run")


def _three_digits(number: int) -> int:
    scale = 1
    while abs(number) >= 1000 * scale:
        scale *= 10
    return number if scale == 1 else round(number / scale) * scale


_GroupKey = tuple[Kind, str, str]


@dataclass(slots=True)
class Tally:
    """Runs, counted. `width` is that of the groups' cells, in seconds."""

    total: int = 0
    undated: int = 0
    first: datetime | None = None
    last: datetime | None = None
    directory: str = ""
    groups: dict[_GroupKey, Group] = field(default_factory=dict)
    width: int = _MINUTE
    steps: dict[str, Durations] = field(default_factory=dict)
    signatures: Counter[Standing | None] = field(default_factory=Counter)
    listed: list[Run] = field(default_factory=list)
    #: The file could not be read to its end.
    is_broken: bool = False

    def add(self, run: Run) -> None:
        """Count one run. Only what has no more than the runs of a chunk is counted so; else it is merged."""
        self.total += 1
        if not self.listed or self.listed[-1].path != run.path:
            self._has_directory(os.path.dirname(os.path.abspath(run.path)))
        refused = run.kind is Kind.REFUSED
        key = (run.kind, run.step, run.reason) if refused else (run.kind, "", "")
        group = self.groups.setdefault(key, Group())
        group.count += 1
        group.example = group.example or run.what
        if (moment := run.started) is None:
            self.undated += 1
        else:
            self._spans(moment, moment)
            group.last = moment if group.last is None else max(group.last, moment)
            group.cells[math.floor(moment.timestamp()) // self.width] += 1
        if run.kind not in _UNRELIABLE:
            for step, microseconds in run.steps:
                self.steps.setdefault(step, Durations()).add(microseconds, run.container)
        self.signatures[run.signature] += 1
        self.listed.append(run)

    def merge(self, part: Tally, above: int) -> None:
        """Take in what was counted of a chunk, above which its file has so many lines."""
        self.total += part.total
        self.undated += part.undated
        if part.total:
            self._has_directory(part.directory)
        if part.first is not None and part.last is not None:
            self._spans(part.first, part.last)
        for key, group in part.groups.items():
            self.groups.setdefault(key, Group()).add(group, self.width // part.width)
        if sum(len(group.cells) for group in self.groups.values()) > _CELLS:
            self._widen()
        for step, durations in part.steps.items():
            self.steps.setdefault(step, Durations()).merge(durations)
        self.signatures.update(part.signatures)
        self.listed += [run.moved_down(above) for run in part.listed] if above else part.listed
        if len(self.listed) > 2 * LISTED:
            self.forget_the_unlisted()

    def forget_the_unlisted(self) -> None:
        """Keep the gravest runs, the newest of each kind first, then as they came."""
        self.listed.sort(key=lambda run: (_RANK[run.kind], _NEWEST - (run.started or _NEWEST)))
        del self.listed[LISTED:]

    @property
    def kinds(self) -> Counter[Kind]:
        found = Counter[Kind]()
        for (kind, _, _), group in self.groups.items():
            found[kind] += group.count
        return found

    def refusals(self) -> Iterator[tuple[str, str, Group]]:
        """Each step and reason (its code) for which runs were refused."""
        for (kind, step, reason), group in self.groups.items():
            if kind is Kind.REFUSED:
                yield step, reason, group

    def over_time(self, groups: Iterable[Group], buckets: Buckets) -> Counter[int]:
        """How many runs of these are in each bucket."""
        found = Counter[int]()
        for group in groups:
            found.update(group.over(buckets, self.width))
        return found

    def buckets(self) -> Buckets | None:
        """The stretches of the chart; None where no run tells its time."""
        if self.first is None or self.last is None:
            return None
        return Buckets.over(math.floor(self.first.timestamp()), math.floor(self.last.timestamp()))

    def _has_directory(self, directory: str) -> None:
        if directory != self.directory:
            self.directory = os.path.commonpath([directory, self.directory or directory])

    def _spans(self, first: datetime, last: datetime) -> None:
        self.first = first if self.first is None else min(self.first, first)
        self.last = last if self.last is None else max(self.last, last)

    def _widen(self) -> None:
        """Make the cells as wide as all buckets allow that there can be yet: their span only grows."""
        buckets = self.buckets()
        if buckets is None:
            return
        width = math.gcd(_YEAR, *(width for width in _WIDTHS if width >= buckets.width))
        if width > self.width:
            for key, group in self.groups.items():
                self.groups[key] = Group()
                self.groups[key].add(group, width // self.width)
            self.width = width
