"""The counts of the fleet report. Runs, or tallies of workers, are added one by one; the runs are not kept.

Memory use does not grow with the number of runs: durations have the precision that is shown, times the width of the
bars, refusals are grouped by step and reason, and only listed runs are kept. The result depends on the order of the
runs, not on who counted which of them.
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

#: Largest number of listed runs.
LISTED = 10_000
#: Largest number of bars in a chart, and the allowed widths of a bar in seconds; above these, whole years.
_BARS = 30
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_YEAR = 365 * _DAY
_WIDTHS = (
    *(_MINUTE * n for n in (1, 5, 15)),
    *(_HOUR * n for n in (1, 3, 6, 12)),
    *(_DAY * n for n in (1, 2, 7, 14, 30, 91)),
    _YEAR,
)
#: Largest number of cells; beyond it they are made wider. One group never has more than 29 years of days.
_CELLS = 1 << 15


#: What runs are also counted by.
COLUMNS = ("runsc", "host", "network", "policy", "bundle")
#: The most values that are told apart in each, and what the rest is called.
VALUES, OTHERS = 200, "others"


class Kind(StrEnum):
    """The outcome of a run, the worst first."""

    DIFFERS = "does not conform"
    UNREADABLE = "unreadable"
    BAD_SIGNATURE = "signature does not verify"
    OTHER_SPEC = "of another spec"
    REFUSED = "refused"
    UNFINISHED = "unfinished"
    RAN = "handed off"


_RANK = {kind: rank for rank, kind in enumerate(Kind)}
_NEWEST = datetime.max.replace(tzinfo=UTC)
#: Step durations of these are not reliable.
_UNRELIABLE = frozenset({Kind.DIFFERS, Kind.BAD_SIGNATURE, Kind.UNREADABLE})


class Run(NamedTuple):
    """One run. `line`: its first line in a file of many runs. `fault`: the number of its first bad line.

    `reason`: code of a refusal (a `Reason`; empty in a trace of format 1). `what`: explains its kind in words. `steps`:
    microseconds of each step. `seconds`: total time. `of`: its value in each of `COLUMNS`.
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
    of: tuple[str, ...] = ("not reliable",) * len(COLUMNS)

    def moved_down(self, lines: int) -> Run:
        """The same run in a file with `lines` more lines above it."""
        line = None if self.line is None else self.line + lines
        return self._replace(line=line, fault=None if self.fault is None else self.fault + lines)


@dataclass(frozen=True, slots=True)
class Buckets:
    """Equal time intervals of `width` seconds; the first begins at `start`, in seconds of Unix time."""

    start: int
    width: int
    count: int

    @classmethod
    def over(cls, first: int, last: int) -> Buckets:
        """The buckets that cover two times, in seconds of Unix time."""
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
    """Runs of one kind and, if refused, of one step and reason. `cells` counts them over time.

    `example`: the text of the first one.
    """

    count: int = 0
    example: str = ""
    last: datetime | None = None
    cells: Counter[int] = field(default_factory=Counter)

    def add(self, other: Group, wider: int) -> None:
        """Add another group, whose cells are narrower by the factor `wider`."""
        self.example = self.example or other.example
        self.count += other.count
        self.last = max(filter(None, (self.last, other.last)), default=None)
        for cell, number in other.cells.items():
            self.cells[cell // wider] += number

    def over(self, buckets: Buckets, width: int) -> Counter[int]:
        """The number of runs in each bucket, by its index."""
        found = Counter[int]()
        for cell, number in self.cells.items():
            found[(cell * width - buckets.start) // buckets.width] += number
        return found


@dataclass(slots=True)
class Durations:
    """The durations of a step in microseconds, rounded to three digits; the longest exactly, with its container.

    Three digits give at most 900 different values from one power of ten to the next.
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
        """The nearest-rank percentile in seconds: the given share of the runs took no longer."""
        rank = math.ceil(self.counts.total() * share)
        for microseconds in sorted(self.counts):
            rank -= self.counts[microseconds]
            if rank <= 0:
                return microseconds / 1e6
        raise ValueError("no runs")


def _three_digits(number: int) -> int:
    scale = 1
    while abs(number) >= 1000 * scale:
        scale *= 10
    return number if scale == 1 else round(number / scale) * scale


_GroupKey = tuple[Kind, str, str]


@dataclass(slots=True)
class Tally:
    """Counted runs. `width`: of the groups' cells, in seconds."""

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
    #: For each of `COLUMNS`: how many runs have a value and came out as a kind.
    columns: tuple[Counter[tuple[str, Kind]], ...] = field(
        default_factory=lambda: tuple(Counter() for _ in COLUMNS)
    )
    #: The file could not be read to its end.
    is_broken: bool = False

    def add(self, run: Run) -> None:
        """Count one run. Only for the runs of a chunk; larger tallies are merged."""
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
        for counts, value in zip(self.columns, run.of, strict=True):
            counts[value, run.kind] += 1
        self.listed.append(run)

    def merge(self, part: Tally, above: int) -> None:
        """Add the tally of a chunk, which has `above` lines before it in its file."""
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
        for counts, more in zip(self.columns, part.columns, strict=True):
            known = {value for value, _ in counts}
            for (value, kind), number in more.items():
                if value not in known and len(known) >= VALUES:
                    value = OTHERS  # noqa: PLW2901
                known.add(value)
                counts[value, kind] += number
        self.listed += [run.moved_down(above) for run in part.listed] if above else part.listed
        if len(self.listed) > 2 * LISTED:
            self.forget_the_unlisted()

    def forget_the_unlisted(self) -> None:
        """Keep only the runs to be listed: the worst kinds first, the newest of each, then in order of arrival."""
        self.listed.sort(key=lambda run: (_RANK[run.kind], _NEWEST - (run.started or _NEWEST)))
        del self.listed[LISTED:]

    @property
    def kinds(self) -> Counter[Kind]:
        found = Counter[Kind]()
        for (kind, _, _), group in self.groups.items():
            found[kind] += group.count
        return found

    def refusals(self) -> Iterator[tuple[str, str, Group]]:
        """Each step and reason code of refused runs."""
        for (kind, step, reason), group in self.groups.items():
            if kind is Kind.REFUSED:
                yield step, reason, group

    def over_time(self, groups: Iterable[Group], buckets: Buckets) -> Counter[int]:
        """The number of runs of these groups in each bucket."""
        found = Counter[int]()
        for group in groups:
            found.update(group.over(buckets, self.width))
        return found

    def buckets(self) -> Buckets | None:
        """The buckets of the chart; None if no run has a reliable time."""
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
        """Make the cells as wide as any later bucket can be: the time span only grows."""
        buckets = self.buckets()
        if buckets is None:
            return
        width = math.gcd(_YEAR, *(width for width in _WIDTHS if width >= buckets.width))
        if width > self.width:
            for key, group in self.groups.items():
                self.groups[key] = Group()
                self.groups[key].add(group, width // self.width)
            self.width = width
