"""The fleet view: many runs on one page - what became of them over time, why they were refused, which steps are slow.

Everything is counted over every trace; where only some are shown, the page says how many of how many. Traces that do
not conform come first, and nothing that they say is counted as evidence.
"""

from __future__ import annotations

import math
import os
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from engine.audit import html
from engine.audit.evidence import Evidence, Outcome, ReportError, read
from engine.audit.extra import require
from engine.audit.signature import SUFFIX, Signers, Standing
from engine.errors import printable
from engine.formal.trace_check import Verdict
from engine.lifecycle.machine import Trigger
from engine.lifecycle.spec_graph import SpecGraph, spec_graph

#: How the engine names its traces.
_TRACE = ".jsonl"
#: How many rows a page of the list has, and how many reasons are listed.
PAGE_ROWS = 50
_REASONS = 15
#: How many bars a chart has at most, and the widths in seconds that one may stand for.
_BARS = 30
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_WIDTHS = (
    *(_MINUTE * n for n in (1, 5, 15)),
    *(_HOUR * n for n in (1, 3, 6, 12)),
    *(_DAY * n for n in (1, 2, 7, 14, 30, 91, 365)),
)


class Kind(StrEnum):
    """What became of a run, the gravest first."""

    DIFFERS = "does not conform"
    UNREADABLE = "unreadable"
    BAD_SIGNATURE = "signature does not verify"
    OTHER_SPEC = "of another spec"
    REFUSED = "refused"
    UNFINISHED = "unfinished"
    RAN = "handed off"


#: The classes in which the charts colour them.
CHARTED: tuple[tuple[str, str, tuple[Kind, ...]], ...] = (
    (
        "differs",
        "does not conform, or signed by nobody known",
        (Kind.DIFFERS, Kind.BAD_SIGNATURE, Kind.UNREADABLE),
    ),
    ("refused", "refused", (Kind.REFUSED,)),
    ("unfinished", "unfinished, or of another spec", (Kind.UNFINISHED, Kind.OTHER_SPEC)),
    ("ran", "handed off", (Kind.RAN,)),
)


@dataclass(frozen=True, slots=True)
class Run:
    """What the fleet view keeps of one trace. `steps` are the seconds that each step took."""

    path: str
    kind: Kind
    container: str
    started: datetime | None
    step: str
    reason: str
    seconds: float
    steps: tuple[tuple[str, float], ...]
    signature: Standing | None


@dataclass(frozen=True, slots=True)
class Buckets:
    """Equal stretches of time from `start` on, each `width` seconds long."""

    start: datetime
    width: int
    count: int

    @classmethod
    def over(cls, moments: Sequence[datetime]) -> Buckets | None:
        """As many as fit between the first and the last of `moments`; None where there are none."""
        if not moments:
            return None
        first, last = min(moments).timestamp(), max(moments).timestamp()
        width = next((width for width in _WIDTHS if (last - first) / width < _BARS - 1), None)
        if width is None:
            width = int((last - first) / (_BARS - 1)) + 1
        start = max(int(first // width) * width, int(datetime.min.replace(tzinfo=UTC).timestamp()))
        return cls(datetime.fromtimestamp(start, UTC), width, int((last - start) // width) + 1)

    def index(self, moment: datetime) -> int:
        return int((moment - self.start).total_seconds() // self.width)

    def label(self, index: int) -> str:
        moment = self.start + timedelta(seconds=index * self.width)
        return moment.strftime("%Y-%m-%d" if self.width >= _DAY else "%m-%d %H:%M")

    @property
    def unit(self) -> str:
        for seconds, name in ((_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute")):
            if self.width >= seconds and self.width % seconds == 0:
                number = self.width // seconds
                return name if number == 1 else f"{number} {name}s"
        return f"{self.width} seconds"


def traces_in(directory: str) -> list[str]:
    """Every trace beneath `directory`, links not followed. Raises `ReportError` when there is none."""

    def fail(error: OSError) -> None:
        raise ReportError(
            f"{error.filename!r}: {error.strerror}", remedy="name a directory that you can read"
        )

    found = [
        os.path.join(where, name)
        for where, _, names in os.walk(directory, onerror=fail)
        for name in names
        if name.endswith(_TRACE) and not os.path.islink(os.path.join(where, name))
    ]
    if not found:
        raise ReportError(f"no *{_TRACE} beneath {directory!r}", remedy="name a directory that holds traces")
    return sorted(found)


def fleet_page(paths: Sequence[str], *, signers: Signers | None) -> bytes:
    """The fleet view of the runs whose traces are the files `paths`. Raises `SpecGraphError`."""
    graph = spec_graph()
    runs = [_run(path, graph, signers) for path in paths]
    order = {kind: rank for rank, kind in enumerate(Kind)}
    newest = datetime.max.replace(tzinfo=UTC)
    runs.sort(key=lambda run: (order[run.kind], newest - (run.started or newest)))
    buckets = Buckets.over([run.started for run in runs if run.started is not None])
    counts = Counter(run.kind for run in runs)
    common = os.path.commonpath([os.path.dirname(os.path.abspath(run.path)) for run in runs])
    rows = [_row(run, common) for run in runs]
    return html.page(
        "fleet.html.j2",
        {
            "title": f"{len(runs):,} runs - fleet report",
            "total": len(runs),
            "directory": common,
            "counts": [(kind, counts[kind]) for kind in Kind],
            "alarming": sum(counts[kind] for kind in (Kind.DIFFERS, Kind.UNREADABLE, Kind.BAD_SIGNATURE)),
            "refused": counts[Kind.REFUSED],
            "signatures": _signatures(runs, signers),
            "span": _span(runs),
            "undated": sum(run.started is None for run in runs),
            "chart": None if buckets is None else _stacked(runs, buckets),
            "buckets": buckets,
            "by_step": _by_step(runs, buckets),
            "reasons": _reasons(runs, buckets),
            "slow": _slow(runs),
            "head": _HEAD,
            "rows": rows[:PAGE_ROWS],
            "page_rows": PAGE_ROWS,
            "data": require("jinja2.utils", "make reports").htmlsafe_json_dumps(
                {"head": _HEAD, "page": PAGE_ROWS, "rows": rows}, separators=(",", ":")
            ),
        },
        script="fleet.js",
    )


def _run(path: str, graph: SpecGraph, signers: Signers | None) -> Run:
    try:
        evidence, content = read(path, graph)
    except ReportError as error:
        return Run(path, Kind.UNREADABLE, "", None, "", error.what, 0.0, (), None)
    signature = None if signers is None else signers.check(content, path + SUFFIX)
    bad = signature is not None and signature.standing is Standing.BAD
    kind = _kind(evidence, bad)
    refusal = evidence.refusal
    reason = ""
    if kind in {Kind.DIFFERS, Kind.OTHER_SPEC} and evidence.result.fault is not None:
        reason = f"line {evidence.result.fault.line}: {evidence.result.fault.what}"
    elif bad and signature is not None:
        reason = f"{signature.why}"
    elif refusal is not None:
        reason = refusal["what"]
    return Run(
        path=path,
        kind=kind,
        container=evidence.header.container if evidence.header is not None else "",
        started=evidence.started,
        step="" if kind is Kind.DIFFERS else str(evidence.stopped_in or ""),
        reason=reason,
        seconds=evidence.seconds,
        steps=tuple(
            (moment.record.trigger, moment.seconds)
            for moment in evidence.moments
            if moment.record.trigger != Trigger.REFUSE
        ),
        signature=signature.standing if signature is not None else None,
    )


def _kind(evidence: Evidence, bad_signature: bool) -> Kind:
    if evidence.result.verdict is Verdict.DIFFERS:
        return Kind.DIFFERS
    if bad_signature:
        return Kind.BAD_SIGNATURE
    if evidence.result.verdict is Verdict.OTHER_SPEC:
        return Kind.OTHER_SPEC
    return {Outcome.REFUSED: Kind.REFUSED, Outcome.HANDED_OFF: Kind.RAN}.get(
        evidence.outcome, Kind.UNFINISHED
    )


_HEAD = ("what became of it", "started", "container", "step", "reason", "took", "trace")


def _row(run: Run, common: str) -> list[str]:
    return [
        printable(cell)
        for cell in (
            run.kind,
            run.started.strftime("%Y-%m-%d %H:%M:%S") if run.started is not None else "",
            run.container,
            run.step,
            run.reason,
            html.duration(run.seconds) if run.steps or run.seconds else "",
            os.path.relpath(os.path.abspath(run.path), common),
        )
    ]


def _span(runs: Sequence[Run]) -> str:
    moments = [run.started for run in runs if run.started is not None]
    return f"{html.when(min(moments))} to {html.when(max(moments))}" if moments else "no trace has a time"


def _signatures(runs: Sequence[Run], signers: Signers | None) -> str:
    if signers is None:
        return "Signatures were not checked: give --key or --signers."
    counts = Counter(run.signature for run in runs)
    return ", ".join(
        f"{counts[standing]:,} {standing}"
        for standing in (Standing.VERIFIED, Standing.BAD, Standing.UNSIGNED)
    )


# -- Charts: geometry only; the templates draw them. Lengths are in the units of their own viewBox. -------------------

_WIDTH, _HEIGHT, _LEFT = 960, 240, 48


def _stacked(runs: Sequence[Run], buckets: Buckets) -> dict[str, Any]:
    """Bars over time, one part for each class; the same figures as a table."""
    of_class = {kind: name for name, _, kinds in CHARTED for kind in kinds}
    counts = [Counter[str]() for _ in range(buckets.count)]
    for run in runs:
        if run.started is not None:
            counts[buckets.index(run.started)][of_class[run.kind]] += 1
    top = _round_up(max(sum(count.values()) for count in counts))
    step = (_WIDTH - _LEFT) / buckets.count
    bars = []
    for index, count in enumerate(counts):
        y = float(_HEIGHT)
        for name, _, _ in CHARTED:
            if number := count[name]:
                height = number / top * _HEIGHT
                y -= height
                bars.append(
                    {
                        "name": name,
                        "x": round(_LEFT + index * step + step * 0.1, 1),
                        "y": round(y, 1),
                        "width": round(min(step * 0.8, 64), 1),
                        "height": round(height, 1),
                    }
                )
    every = max(1, -(-buckets.count // 8))
    return {
        "bars": bars,
        "ticks": [(round(_HEIGHT - part * _HEIGHT / 4, 1), f"{top * part / 4:g}") for part in range(5)],
        "labels": [
            (round(_LEFT + (index + 0.1) * step, 1), buckets.label(index))
            for index in range(0, buckets.count, every)
        ],
        "legend": [
            (name, label, sum(count[name] for count in counts)) for name, label, _ in reversed(CHARTED)
        ],
        "head": ["from", *(label for _, label, _ in reversed(CHARTED))],
        "table": [
            [buckets.label(index), *(count[name] for name, _, _ in reversed(CHARTED))]
            for index, count in enumerate(counts)
            if count
        ],
    }


def _round_up(number: int) -> int:
    """The next number that is easy to read and has whole quarters."""
    scale = 1
    while True:
        for size in (4, 8, 12, 16, 20, 24, 32) if scale == 1 else (4, 6, 8, 10, 12, 16, 20, 24, 32):
            if size * scale >= number:
                return size * scale
        scale *= 10


def _sparkline(moments: Sequence[datetime], buckets: Buckets | None) -> list[tuple[float, float, float]]:
    """(x, height, width) of a bar for each stretch, in a box of 120 by 20."""
    if buckets is None or not moments:
        return []
    counts = Counter(buckets.index(moment) for moment in moments)
    top, width = max(counts.values()), 120 / buckets.count
    return [
        (round(index * width, 2), round(20 * n / top, 2), round(width * 0.85, 2))
        for index, n in sorted(counts.items())
    ]


def _by_step(runs: Sequence[Run], buckets: Buckets | None) -> list[dict[str, Any]]:
    refused = [run for run in runs if run.kind is Kind.REFUSED]
    counts = Counter(run.step for run in refused)
    return [
        {
            "step": step,
            "count": counts[step],
            "share": f"{counts[step] / len(refused):.1%}",
            "line": _sparkline([run.started for run in refused if run.step == step and run.started], buckets),
        }
        for step in Trigger
        if counts[step]
    ]


_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_NUMBER = re.compile(r"\b\d+\b")


def alike(reason: str) -> str:
    """`reason` without what differs from run to run: quoted names and decimal numbers but modes."""
    return _NUMBER.sub(
        lambda found: found[0] if found[0].startswith("0") else "N", _QUOTED.sub("'…'", reason)
    )


def _reasons(runs: Sequence[Run], buckets: Buckets | None) -> dict[str, Any]:
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.kind is Kind.REFUSED:
            groups.setdefault((run.step, alike(run.reason)), []).append(run)
    ranked = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    shown = ranked[:_REASONS]
    return {
        "rows": [
            {
                "step": step,
                "reason": reason,
                "count": len(found),
                "last": html.when(max(run.started for run in found if run.started is not None)),
                "line": _sparkline([run.started for run in found if run.started], buckets),
            }
            for (step, reason), found in shown
        ],
        "all": len(ranked),
        "covered": sum(len(found) for _, found in shown),
        "refusals": sum(len(found) for found in groups.values()),
    }


def _slow(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """How long each step took, of the runs whose lines can be relied on; the slowest step first."""
    taken: dict[str, list[tuple[float, str]]] = {}
    for run in runs:
        if run.kind not in {Kind.DIFFERS, Kind.BAD_SIGNATURE, Kind.UNREADABLE}:
            for step, seconds in run.steps:
                taken.setdefault(step, []).append((seconds, run.container))
    rows = []
    for step, found in taken.items():
        times = sorted(each for each, _ in found)
        rows.append((times[math.ceil(len(times) * 0.95) - 1], step, times, max(found)))
    rows.sort(reverse=True)
    longest = rows[0][0] if rows else 1.0
    return [
        {
            "step": step,
            "runs": len(times),
            "median": html.duration(statistics.median(times)),
            "p95": html.duration(p95),
            "max": html.duration(slowest[0]),
            "who": slowest[1],
            "share": round(120 * max(p95, 0) / longest, 1) if longest > 0 else 0,
        }
        for p95, step, times, slowest in rows
    ]
