"""Runs of a fleet by what they have in common: runsc, host, network, policy and bundle; and the list as JSON or CSV.

Only what reliable lines say is counted by its value. Memory is bounded: a table has the values that come first, at
most `VALUES` of them, and one row for the others.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from sys import intern
from typing import Any

from engine.audit import html
from engine.audit.tally import COLUMNS, OTHERS, Kind, Run, Tally
from engine.errors import printable
from engine.traces.move import Trigger
from engine.verify.evidence import Evidence

#: For a run whose lines do not say it.
_NOT_RELIABLE = "not reliable"
_NOT_REACHED = "not reached"


def values_of(evidence: Evidence, kind: Kind) -> tuple[str, ...]:
    """The value of the run in each of `COLUMNS`. Equal ones are the same object, so that many cost no memory."""
    header = evidence.header
    if kind in {Kind.DIFFERS, Kind.UNREADABLE, Kind.BAD_SIGNATURE} or header is None:
        return (_NOT_RELIABLE,) * len(COLUMNS)
    facts = evidence.facts
    staged, policy = facts.get(Trigger.STAGE), facts.get(Trigger.APPLY_POLICY)
    runsc = _NOT_REACHED
    if staged is not None:
        runsc = f"{staged.get('version') or 'version unknown'}, SHA-256 {staged['sha256'][:12]}…"
    return tuple(
        intern(printable(str(value)))
        for value in (
            runsc,
            str(header.host.get("name", "not recorded")),
            header.options["network"],
            _NOT_REACHED if policy is None else policy["strength"] or policy["outcome"],
            f"{header.bundle['path']}, SHA-256 {header.bundle['sha256'][:12]}…",
        )
    )


#: The columns of the list of runs.
HEAD = ("outcome", "started", "container", "step", "reason", "what", "took", "trace")


def row_of(run: Run, common: str) -> list[str]:
    """The cells of a run in the list; its file as seen from the directory `common`."""
    return [
        printable(cell)
        for cell in (
            run.kind,
            run.started.strftime("%Y-%m-%d %H:%M:%S") if run.started is not None else "",
            run.container,
            run.step,
            run.reason,
            run.what if run.fault is None else f"line {run.fault}: {run.what}",
            html.duration(run.seconds) if run.steps or run.seconds else "",
            os.path.relpath(os.path.abspath(run.path), common) + ("" if run.line is None else f":{run.line}"),
        )
    ]


def tables(tally: Tally) -> list[dict[str, Any]]:
    """A table for each of `COLUMNS`: the values with most runs first, and how the runs of each came out."""
    kinds = [kind for kind in Kind if tally.kinds[kind]]
    made = []
    for index, name in enumerate(COLUMNS):
        counts: dict[str, dict[Kind, int]] = {}
        for (value, kind), number in tally.columns[index].items():
            counts.setdefault(value, {})[kind] = number
        ranked = sorted(counts.items(), key=lambda row: (row[0] == OTHERS, -sum(row[1].values()), row[0]))
        rows = [
            {"value": value, "runs": sum(of.values()), "kinds": [of.get(kind, 0) for kind in kinds]}
            for value, of in ranked
        ]
        made.append({"name": name, "kinds": kinds, "rows": rows})
    return made


def picked(runs: Sequence[Run]) -> dict[str, Any]:
    """For the page's script: the columns' values, each once, and for each listed run the numbers of its own."""
    values: list[dict[str, int]] = [{} for _ in COLUMNS]
    of = [
        [seen.setdefault(value, len(seen)) for seen, value in zip(values, run.of, strict=True)]
        for run in runs
    ]
    return {"columns": COLUMNS, "values": [list(seen) for seen in values], "of": of}


def as_json(tally: Tally, rows: Sequence[Sequence[str]]) -> bytes:
    """The figures of the page, and the listed runs."""
    said = {
        "total": tally.total,
        "directory": printable(tally.directory),
        "first": None if tally.first is None else tally.first.isoformat(),
        "last": None if tally.last is None else tally.last.isoformat(),
        "outcomes": {kind: tally.kinds[kind] for kind in Kind},
        "tables": {
            table["name"]: [
                {"value": row["value"], "runs": row["runs"]}
                | {"outcomes": dict(zip(table["kinds"], row["kinds"], strict=True))}
                for row in table["rows"]
            ]
            for table in tables(tally)
        },
        "refusals": [
            {"step": step, "reason": reason or None, "runs": group.count, "example": printable(group.example)}
            for step, reason, group in sorted(
                tally.refusals(), key=lambda found: (-found[2].count, found[:2])
            )
        ],
        "steps": {
            step: {"runs": found.counts.total(), "median": found.below(0.5), "p95": found.below(0.95)}
            | {"max": found.longest[0] / 1e6}
            for step, found in tally.steps.items()
        },
        "runs": [
            dict(zip((*HEAD, *COLUMNS), (*row, *run.of), strict=True))
            for run, row in zip(tally.listed, rows, strict=True)
        ],
    }
    return json.dumps(said, indent=1).encode() + b"\n"


def as_csv(tally: Tally, rows: Sequence[Sequence[str]]) -> bytes:
    """The listed runs, RFC 4180. A cell that a spreadsheet would compute begins with an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow((*HEAD, *COLUMNS))
    for run, row in zip(tally.listed, rows, strict=True):
        writer.writerow(f"'{cell}" if cell[:1] in tuple("=+-@") else cell for cell in (*row, *run.of))
    return text.getvalue().encode()
