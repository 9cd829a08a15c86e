"""`engine survey`: try what runsc makes of a bundle, one change at a time, and say where the data differs."""

from __future__ import annotations

import json
import os
import sys

from engine.cli.command import add_command, say_over
from engine.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

#: Exit code where the data and the world differ.
DIFFERS = 1


def add(commands: Any) -> None:
    """Add the command to the parser."""
    text = "try what runsc does of what a bundle can ask for, and say where the engine's data differs"
    parser = add_command(commands, "survey", _survey, text)
    parser.add_argument("--runsc", metavar="PATH", help="the runsc to try (default: that of a run)")
    parser.add_argument("--busybox", metavar="PATH", help="a static busybox, to look around with")
    parser.add_argument(
        "--part", metavar="M/N", type=_part, default=(1, 1), help="every Nth case, from the Mth on"
    )
    parser.add_argument("rows", metavar="ROW", nargs="*", help="only the cases of these rows")


def _part(text: str) -> tuple[int, int]:
    """Raises `ValueError`."""
    first, _, every = text.partition("/")
    if not 0 < int(first) <= int(every):
        raise ValueError
    return int(first), int(every)


def _survey(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from engine.lifecycle.trusted_runsc import find_runsc
    from engine.survey.survey import survey

    show = sys.stderr is not None and sys.stderr.isatty()
    runsc = find_runsc(options.runsc, os.environ)
    found = []
    try:
        for each in survey(
            runsc,
            busybox=options.busybox,
            part=options.part,
            names=options.rows,
            progress=(lambda now: say_over(f"trying: {now}")) if show else lambda _: None,
        ):
            found.append(each)
            if not options.json and (not each.agrees or each.why):
                word = f"not tried: {each.why}" if each.why else f"{each.seen}; the data says {each.expected}"
                print(printable(f"{each.row}: {each.what}: {word}"))
    finally:
        runsc.close()
        if show:
            say_over("")
    differ = [each for each in found if not each.agrees]
    if options.json:
        facts = [{**asdict(each), "agrees": each.agrees} for each in found]
        told = {"runsc": runsc.runsc.path, "taken_for": runsc.capabilities.generation, "cases": facts}
        print(json.dumps(told, indent=2))
    else:
        tried = sum(not each.why for each in found)
        taken = runsc.capabilities.generation
        print(
            f"{tried} cases, {len(differ)} other than the data of {taken} says ({printable(runsc.runsc.path)})"
        )
    return DIFFERS if differ else 0
