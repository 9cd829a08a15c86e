"""`engine doctor`: show what this machine can do, and how to get what is missing."""

from __future__ import annotations

import json
import sys

from engine.cli.command import add_command, columns, say_over
from engine.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from typing import Any

    from engine.doctor.part import Part

#: Exit code where no container can run on this machine.
CANNOT_RUN = 1


def add(commands: Any) -> None:
    """Add the command to the parser."""
    add_command(commands, "doctor", _doctor, "show what this machine can do, and how to get what is missing")


def _doctor(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from engine.doctor.doctor import can_run, examine

    show = sys.stderr is not None and sys.stderr.isatty()
    parts = examine(progress=(lambda now: say_over(f"trying: {now}")) if show else lambda _: None)
    if show:
        say_over("")
    if options.json:
        print(json.dumps([asdict(part) for part in parts], indent=2))
    else:
        print("\n".join(_table(parts, columns())))
    return 0 if can_run(parts) else CANNOT_RUN


def _table(parts: Sequence[Part], width: int) -> Iterator[str]:
    """The parts in lines of at most `width`, where words and paths allow it."""
    from textwrap import wrap

    from engine.doctor.part import Status

    names, statuses = max(len(part.name) for part in parts), max(map(len, Status))
    margin = names + statuses + 4
    for part in parts:
        begin = f"{part.name:<{names}}  {part.status:<{statuses}}  "
        for text in (part.found, f"for {part.enables}", f"hint: {part.hint}" if part.hint else ""):
            for line in wrap(
                printable(text), max(width - margin, 30), break_long_words=False, break_on_hyphens=False
            ):
                yield f"{begin}{line}"
                begin = " " * margin
