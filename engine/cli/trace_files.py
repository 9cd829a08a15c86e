"""`engine trace list`, `show` and `path`: find the trace of a run, and say what is in it."""

from __future__ import annotations

import json
import os
import sys

from engine.cli.command import add_command, say
from engine.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any

    from engine.state.trace_files import TraceFile
    from engine.verify.evidence import Evidence


def add(of_traces: Any) -> None:
    """Add the commands to the parser."""
    listed = add_command(of_traces, "list", _list, "list the traces that are kept here, the oldest first")
    listed.add_argument("container", nargs="?", metavar="ID", help="only those of this container")
    for name, run, text in (
        ("show", _show, "show a trace: what ran, each step, the end, and whether it conforms"),
        ("path", _path, "print the path of a trace"),
    ):
        parser = add_command(of_traces, name, run, text)
        parser.add_argument("name", metavar="ID|RUN", help="the id of a container, or a run, as listed")
        parser.add_argument("--last", action="store_true", help="the latest of several runs of the container")


def _doubt(line: str) -> None:
    say(f"engine: warning: {printable(line)}")


def _facts(trace: TraceFile) -> dict[str, object]:
    return {
        "container": trace.container,
        "run": trace.run,
        "started": trace.started,
        "state": trace.state,
        "end": trace.end,
        "signed": trace.is_signed,
        "path": trace.path,
    }


def _list(options: argparse.Namespace) -> int:
    from engine.state.trace_files import find

    found = [trace for trace in find(os.environ, _doubt) if options.container in (None, trace.container)]
    if options.json:
        for trace in found:
            print(json.dumps(_facts(trace)))
        return 0
    rows = [("STARTED", "RUN", "CONTAINER", "SIGNED", "END")]
    rows += [
        (
            (trace.started or "?")[:19],
            trace.run,
            trace.container or "?",
            "yes" if trace.is_signed else "no",
            trace.end,
        )
        for trace in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows if found else ():
        print(printable("  ".join(map(str.ljust, row, widths)).rstrip()))
    return 0


def _path(options: argparse.Namespace) -> int:
    from engine.state.trace_files import choose

    found = choose(os.environ, options.name, _doubt, last=options.last)
    print(json.dumps(_facts(found)) if options.json else printable(found.path))
    return 0


def _show(options: argparse.Namespace) -> int:
    from engine.lifecycle.spec_graph import spec_graph
    from engine.state.trace_files import choose
    from engine.verify.evidence import read
    from engine.verify.signature import look
    from engine.verify.trace_file import SUFFIX

    found = choose(os.environ, options.name, _doubt, last=options.last)
    evidence, content = read(found.path, spec_graph())
    signature = look(content, found.path + SUFFIX)
    said = signature.why or signature.key
    if options.json:
        lines = [json.loads(line) for line in content.splitlines()[: evidence.result.records]]
        told = {
            "verdict": str(evidence.result.verdict),
            "why": evidence.result.why or (evidence.result.fault and str(evidence.result.fault)),
            "sha256": evidence.sha256,
            "signature": {"standing": str(signature.standing), "told": said},
            "lines": lines,
        }
        print(json.dumps(_facts(found) | told))
    else:
        rows = [
            ("container", found.container),
            ("run", found.run),
            ("trace", found.path),
            ("sha256", evidence.sha256),
            *_rows(evidence),
            ("end", found.end),
            ("verdict", str(evidence.result).removeprefix(f"{printable(found.path)}: ")),
            ("signature", f"{signature.standing}: {said}" if said else str(signature.standing)),
        ]
        for key, value in rows:
            sys.stdout.write(f"{key:<14}{printable(value)}\n")
    return 0 if evidence.judged else 1


def _rows(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """What the lines say up to the first that does not conform."""
    import shlex

    from msgspec import UnsetType

    header = evidence.header
    if header is None:
        return
    host = header.host
    yield "started", header.time.isoformat()
    yield (
        "engine",
        f"{header.engine}, as uid {host['user']} on {host.get('name', '?')}, Linux {host['kernel']}",
    )
    yield "bundle", f"{header.bundle['path']}, config.json sha256 {header.bundle['sha256']}"
    if not isinstance(header.asked, UnsetType):
        user = header.asked["user"]
        yield "program", f"{shlex.join(header.asked['argv'])}, as uid {user['uid']} gid {user['gid']}"
    for moment in evidence.moments:
        record = moment.record
        refusal = record.refusal
        told = f"{record.next}, {moment.seconds * 1000:.1f} ms"
        yield record.trigger, f"{told}: {refusal.what}" if refusal is not None else told
