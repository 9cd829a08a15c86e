"""`engine doctor`: show what this machine can do, and how to get what is missing."""

from __future__ import annotations

import json

from engine.cli.command import add_command
from engine.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser."""
    add_command(commands, "doctor", _doctor, "show what this machine can do, and how to get what is missing")


def _doctor(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from engine.doctor.doctor import examine

    parts = examine()
    if options.json:
        print(json.dumps([asdict(part) for part in parts], indent=2))
        return 0
    from tabulate import tabulate

    rows = [
        tuple(printable(text) for text in (part.name, part.status, part.found, part.enables, part.hint))
        for part in parts
    ]
    print(tabulate(rows, headers=("part", "status", "found", "enables", "hint"), tablefmt="simple"))
    return 0
