"""`engine gc`: remove what finished containers left behind."""

from __future__ import annotations

import argparse
import json
import os

from engine.cli.command import REFUSED, add_command, say
from engine.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "gc",
        _gc,
        "remove what finished containers left, but no trace; never what a living one needs",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be removed; remove and change nothing"
    )
    traces = parser.add_mutually_exclusive_group()
    traces.add_argument("--keep-traces", action="store_true", help="keep all traces, as without an option")
    traces.add_argument(
        "--traces-older-than",
        type=_age,
        metavar="AGE",
        help="remove older traces, too: 90m, 12h, 30d, 8w",
    )


def _age(text: str) -> int:
    """An age in seconds. Raises `ArgumentTypeError`."""
    seconds = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
    number, unit = text[:-1], text[-1:]
    if unit not in seconds or not (number.isascii() and number.isdecimal() and 0 < int(number) < 1_000_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not an age: give a number and m, h, d or w, as in 30d")
    return int(number) * seconds[unit]


def _gc(options: argparse.Namespace) -> int:
    from engine.state.gc import collect

    found = collect(os.environ, traces_older_than=options.traces_older_than, dry_run=options.dry_run)
    if options.json:
        print(
            json.dumps(
                {
                    "base": found.base,
                    "dry_run": options.dry_run,
                    "removed": found.removed,
                    "alive": found.alive,
                    "foreign": found.foreign,
                    "failed": [{"path": path, "why": why} for path, why in found.failed],
                },
                indent=2,
            )
        )
    else:
        for verb, paths in (
            ("would remove" if options.dry_run else "removed", found.removed),
            ("alive, left", found.alive),
        ):
            for path in paths:
                print(f"{verb}: {printable(path)}")
        for path in found.foreign:
            print(f"not the engine's, left: {printable(path)}")
    for path, why in found.failed:
        say(f"engine: gc: {printable(path)!r}: {why}; remove it by hand")
    return REFUSED if found.failed else 0
