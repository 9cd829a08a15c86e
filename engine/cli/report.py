"""`engine report`: write an HTML report of one run or of many."""

from __future__ import annotations

import json

from engine.cli.command import add_command, wrong_usage
from engine.cli.trace_options import add_signers, add_workers, signers_of, workers_of
from engine.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "report", _report, "write an HTML report of one run or of many")
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="a trace; several give one report of many runs"
    )
    parser.add_argument("--traces", metavar="DIR", help="report on every *.jsonl below DIR")
    parser.add_argument(
        "--check",
        metavar="FILE",
        help="saved output of engine check --mutants --json, for the report of one run",
    )
    parser.add_argument(
        "--format",
        choices=("html", "json", "csv"),
        default="html",
        metavar="html|json|csv",
        help="the form of a report of many runs; csv: the list of runs (default: html)",
    )
    parser.add_argument("--output", metavar="FILE", help="the file to write (default: report.FORMAT)")
    parser.add_argument(
        "--runs",
        action="store_true",
        help="a FILE holds the traces of many runs, one after another",
    )
    add_signers(parser)
    add_workers(parser)


def _report(options: argparse.Namespace) -> int:
    from engine.audit import html
    from engine.audit.fleet import Form, fleet_page, traces_in
    from engine.audit.model_check import load
    from engine.audit.report import run_page

    one = len(options.files) == 1 and not options.runs
    if bool(options.files) == (options.traces is not None):
        wrong_usage("report takes either traces or --traces DIR")
    if options.check is not None and not one:
        wrong_usage("--check belongs to the report of one run")
    if options.format != "html" and one:
        wrong_usage(f"--format {options.format} belongs to the report of many runs")
    if options.runs and (options.key or options.signers):
        wrong_usage("a signature belongs to the file of one run: leave out --runs")
    signers = signers_of(options)
    if one:
        check = None if options.check is None else load(options.check)
        page = run_page(options.files[0], check=check, signers=signers)
    else:
        paths = options.files or traces_in(options.traces)
        workers = workers_of(options, paths)
        page = fleet_page(
            paths, signers=signers, runs=options.runs, workers=workers, form=Form(options.format)
        )
    output = options.output or f"report.{options.format}"
    html.write(output, page)
    print(json.dumps({"report": output}) if options.json else f"written: {printable(output)}")
    return 0
