"""The fleet report: outcomes over time, refusals and slow steps of many runs, on one page.

Figures count every trace; a list that shows only some of them gives both numbers. Traces that do not conform come
first, and their content is not counted as evidence. Only counts are kept (`engine.audit.tally`), so neither the page
nor the memory use grows with the fleet.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import chain
from typing import Any, BinaryIO

from engine.audit import html
from engine.audit.extra import require
from engine.audit.fleet_tables import HEAD, as_csv, as_json, picked, row_of, tables, values_of
from engine.audit.tally import Buckets, Group, Kind, Run, Tally
from engine.errors import Reason, printable
from engine.lifecycle.spec_graph import SpecGraph, spec_graph
from engine.traces.move import Trigger
from engine.verify.chunks import Answer, Chunk, in_order, split
from engine.verify.evidence import MAX_SIZE, Evidence, Outcome, ReportError, judge, read
from engine.verify.signature import Signature, Signers, Standing
from engine.verify.trace_check import Verdict
from engine.verify.trace_file import HEADER, SUFFIX, lines_of
from engine.verify.workers import ThisProcess, Workers

#: The suffix of the engine's traces.
_TRACE = ".jsonl"
#: Rows on a page of the list.
PAGE_ROWS = 50

#: The classes of runs in the charts, each with its colour.
CHARTED: tuple[tuple[str, str, tuple[Kind, ...]], ...] = (
    (
        "differs",
        "does not conform, or bad signature",
        (Kind.DIFFERS, Kind.BAD_SIGNATURE, Kind.UNREADABLE),
    ),
    ("refused", "refused", (Kind.REFUSED,)),
    ("unfinished", "unfinished, or of another spec", (Kind.UNFINISHED, Kind.OTHER_SPEC)),
    ("ran", "handed off", (Kind.RAN,)),
)


def traces_in(directory: str) -> list[str]:
    """All traces below `directory`, links not followed. Raises `ReportError` if there are none."""

    def fail(error: OSError) -> None:
        raise ReportError(
            f"{error.filename!r}: {error.strerror}",
            reason=Reason.FAILURE,
            hint="give a directory that you can read",
        )

    found = [
        os.path.join(where, name)
        for where, _, names in os.walk(directory, onerror=fail)
        for name in names
        if name.endswith(_TRACE) and not os.path.islink(os.path.join(where, name))
    ]
    if not found:
        raise ReportError(
            f"no *{_TRACE} below {directory!r}",
            reason=Reason.NO_SUCH,
            hint="give a directory with traces",
        )
    return sorted(found)


class Form(StrEnum):
    """What a report of many runs is written as."""

    HTML = "html"
    JSON = "json"
    CSV = "csv"


def fleet_page(
    paths: Sequence[str],
    *,
    signers: Signers | None,
    runs: bool = False,
    workers: Workers | None = None,
    form: Form = Form.HTML,
) -> bytes:
    """The fleet report of the trace files `paths`; with `runs` a file may contain many runs.

    It does not depend on `workers`. Raises `ReportError`, `SpecGraphError` and `WorkersError`.
    """
    if runs and signers is not None:
        raise ReportError(
            "signatures cover one run's file, not a file of many runs",
            reason=Reason.USAGE,
            hint="leave out --runs, or --key and --signers",
        )
    tally = _tallied(paths, runs, signers, workers or ThisProcess())
    rows = [row_of(run, tally.directory) for run in tally.listed]
    if form is not Form.HTML:
        return (as_json if form is Form.JSON else as_csv)(tally, rows)
    buckets, counts = tally.buckets(), tally.kinds
    return html.page(
        "fleet.html.j2",
        {
            "title": f"{tally.total:,} runs - fleet report",
            "total": tally.total,
            "directory": tally.directory,
            "counts": [(kind, counts[kind]) for kind in Kind],
            "alarming": sum(counts[kind] for kind in (Kind.DIFFERS, Kind.UNREADABLE, Kind.BAD_SIGNATURE)),
            "refused": counts[Kind.REFUSED],
            "signatures": _signatures(tally, signers),
            "span": _span(tally),
            "undated": tally.undated,
            "chart": None if buckets is None else _stacked(tally, buckets),
            "buckets": buckets,
            "by_step": _by_step(tally, buckets),
            "reasons": _reasons(tally, buckets),
            "slow": _slow(tally),
            "tables": tables(tally),
            "head": HEAD,
            "rows": rows[:PAGE_ROWS],
            "listed": len(rows),
            "page_rows": PAGE_ROWS,
            "data": require("jinja2.utils", "make reports").htmlsafe_json_dumps(
                {"head": HEAD, "page": PAGE_ROWS, "rows": rows, "total": tally.total} | picked(tally.listed),
                separators=(",", ":"),
            ),
        },
        script="fleet.js",
    )


_Task = tuple[Chunk, bool, SpecGraph, Signers | None]


def _tallied(paths: Sequence[str], runs: bool, signers: Signers | None, workers: Workers) -> Tally:
    graph = spec_graph()
    tasks: Iterator[_Task] = ((chunk, runs, graph, signers) for chunk in split(paths, runs=runs))
    tally = Tally()
    answers = chain.from_iterable(workers.map(tally_stretch, tasks))
    for _, above, part in in_order(answers, is_broken=lambda part: part.is_broken):
        tally.merge(part, above)
    tally.forget_the_unlisted()
    return tally


def tally_stretch(task: _Task) -> list[Answer[Tally]]:
    """Run in a worker: count the runs of a chunk. A file of many runs has its own tally."""
    chunk, runs, graph, signers = task
    if not runs:
        tally = Tally()
        for path in chunk.paths:
            tally.add(_run(path, graph, signers))
        return [(chunk.paths[0], 0, tally, 0)]
    answers = []
    for path in chunk.paths:
        tally, lines = Tally(), 0
        try:
            with chunk.open(path) as file:
                for first, lines, content in _runs_of(file):  # noqa: B007
                    tally.add(_run_of_many(path, first, content, graph))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            tally.add(_unreadable(path, f"{path!r}: {why}"))
            tally.is_broken = True
        answers.append((path, chunk.begin, tally, lines))
    return answers


def _runs_of(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Each run with the numbers of its first and last line; of one too long, only the start. Raises `OSError`."""
    first, number, size = 1, 0, 0
    lines: list[bytes] = []
    for line in lines_of(file):
        if lines and line.startswith(HEADER):
            yield first, number, b"".join(lines)
            first, size, lines = number + 1, 0, []
        number += 1
        if size <= MAX_SIZE:
            lines.append(line)
            size += len(line)
    yield first, number, b"".join(lines)


def _run(path: str, graph: SpecGraph, signers: Signers | None) -> Run:
    try:
        evidence, content = read(path, graph)
    except ReportError as error:
        return _unreadable(path, error.what)
    signature = None if signers is None else signers.check(content, path + SUFFIX)
    bad = signature is not None and signature.standing is Standing.BAD
    return _known(evidence, _kind(evidence, bad), None, signature)


def _run_of_many(path: str, first: int, content: bytes, graph: SpecGraph) -> Run:
    if len(content) > MAX_SIZE:
        return _unreadable(path, f"the run has more than {MAX_SIZE >> 20} MiB", first)
    evidence = judge(path, content, graph)
    return _known(evidence, _kind(evidence, bad_signature=False), first)


def _unreadable(path: str, why: str, first: int | None = None) -> Run:
    return Run(path, first, Kind.UNREADABLE, "", None, "", None, "", why, 0.0, (), None)


def _known(evidence: Evidence, kind: Kind, first: int | None, signature: Signature | None = None) -> Run:
    fault, refusal = None, evidence.refusal
    reason = what = ""
    if kind in {Kind.DIFFERS, Kind.OTHER_SPEC} and evidence.result.fault is not None:
        fault, what = evidence.result.fault.line + (first or 1) - 1, evidence.result.fault.what
    elif kind is Kind.BAD_SIGNATURE and signature is not None:
        what = str(signature.why)
    elif refusal is not None:
        reason, what = refusal.reason or "", refusal.what
    return Run(
        path=evidence.path,
        line=first,
        kind=kind,
        container=evidence.header.container if evidence.header is not None else "",
        started=evidence.started,
        step="" if kind is Kind.DIFFERS else str(evidence.stopped_in or ""),
        fault=fault,
        reason=reason,
        what=what,
        seconds=evidence.seconds,
        of=values_of(evidence, kind),
        steps=tuple(
            (moment.record.trigger, round(moment.seconds * 1e6))
            for moment in evidence.moments
            if moment.record.trigger not in (Trigger.END, Trigger.REFUSE)
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


def _span(tally: Tally) -> str:
    if tally.first is None or tally.last is None:
        return "no trace has a reliable time"
    return f"{html.when(tally.first)} to {html.when(tally.last)}"


def _signatures(tally: Tally, signers: Signers | None) -> str:
    if signers is None:
        return "Signatures were not checked: give --key or --signers."
    return ", ".join(
        f"{tally.signatures[standing]:,} {standing}"
        for standing in (Standing.VERIFIED, Standing.BAD, Standing.UNSIGNED)
    )


# -- Charts: geometry only; the templates draw them. Lengths are in viewBox units. ------------------------------------

_WIDTH, _HEIGHT, _LEFT = 960, 240, 48


def _stacked(tally: Tally, buckets: Buckets) -> dict[str, Any]:
    """Stacked bars over time, one part a class, and the same figures as a table."""
    counts = [Counter[str]() for _ in range(buckets.count)]
    for name, _, kinds in CHARTED:
        groups = [group for (kind, _, _), group in tally.groups.items() if kind in kinds]
        for index, number in tally.over_time(groups, buckets).items():
            counts[index][name] += number
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
    """The next round number that is divisible by four."""
    scale = 1
    while True:
        for size in (4, 8, 12, 16, 20, 24, 32) if scale == 1 else (4, 6, 8, 10, 12, 16, 20, 24, 32):
            if size * scale >= number:
                return size * scale
        scale *= 10


def _sparkline(
    tally: Tally, groups: Sequence[Group], buckets: Buckets | None
) -> list[tuple[float, float, float]]:
    """(x, height, width) of a bar for each bucket, in a box of 120 by 20."""
    if buckets is None or not (counts := tally.over_time(groups, buckets)):
        return []
    top, width = max(counts.values()), 120 / buckets.count
    return [
        (round(index * width, 2), round(20 * n / top, 2), round(width * 0.85, 2))
        for index, n in sorted(counts.items())
    ]


def _by_step(tally: Tally, buckets: Buckets | None) -> list[dict[str, Any]]:
    of_step: dict[str, list[Group]] = {}
    for step, _, group in tally.refusals():
        of_step.setdefault(step, []).append(group)
    refused = tally.kinds[Kind.REFUSED]
    rows = []
    for step in filter(of_step.get, Trigger):
        count = sum(group.count for group in of_step[step])
        rows.append(
            {
                "step": step,
                "count": count,
                "share": f"{count / refused:.1%}",
                "line": _sparkline(tally, of_step[step], buckets),
            }
        )
    return rows


def _reasons(tally: Tally, buckets: Buckets | None) -> dict[str, Any]:
    ranked = sorted(tally.refusals(), key=lambda found: (-found[2].count, found[:2]))
    return {
        "rows": [
            {
                "step": step,
                "reason": reason or "not recorded",
                "example": printable(group.example),
                "count": group.count,
                "last": "" if group.last is None else html.when(group.last),
                "line": _sparkline(tally, [group], buckets),
            }
            for step, reason, group in ranked
        ],
        "refusals": tally.kinds[Kind.REFUSED],
    }


def _slow(tally: Tally) -> list[dict[str, Any]]:
    """The duration of each step, from runs with reliable lines only; the slowest step first."""
    rows = [(found.below(0.95), step, found) for step, found in tally.steps.items()]
    rows.sort(key=lambda row: row[:2], reverse=True)
    longest = rows[0][0] if rows else 1.0
    return [
        {
            "step": step,
            "runs": found.counts.total(),
            "median": html.duration(found.below(0.5)),
            "p95": html.duration(p95),
            "max": html.duration(found.longest[0] / 1e6),
            "who": found.longest[1],
            "share": round(120 * max(p95, 0) / longest, 1) if longest > 0 else 0,
        }
        for p95, step, found in rows
    ]
