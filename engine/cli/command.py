"""The common part of all commands: parser, exit codes, messages."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from engine.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

EXIT_CODES = (
    "exit codes: 125 the engine refused; 2 wrong usage; 130 interrupted; 141 nobody reads the output; run: the "
    "container's own after the hand-off, 127 its program cannot be found, 126 not be executed, 128 runsc could not "
    "start it; check: 1 a property fails, 3 TLC could not run; doctor: 1 no container can run; survey: 1 runsc does "
    "other than the data says; trace verify: 1 a trace differs or its signature or attestation does not verify, 3 none "
    "does but one could not be read"
)
REFUSED = 125
UNREADABLE = 3


class Formatter(argparse.HelpFormatter):
    """As argparse's, without its import of `shutil` for the terminal's width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=columns() - 2)


def columns() -> int:
    """The width of the terminal, environ(7); 80 if there is none."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size().columns or 80
    except OSError:
        return 80


class Parser(argparse.ArgumentParser):
    """As argparse's, with one line for an error."""

    def error(self, message: str) -> NoReturn:
        _, unknown, words = message.partition("unrecognized arguments: ")
        if unknown and (options := [word for word in words.split() if word.startswith("-")]):
            message = f"unknown option {options[0]}"  # what follows may be its value, or an argument
        self.exit(2, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")


def add_command(
    commands: Any, name: str, run: Callable[[Any], int], text: str, *, becomes_runsc: bool = False
) -> argparse.ArgumentParser:
    """Add the command `name` to `commands`: `run` does it, `text` describes it."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=EXIT_CODES,
        allow_abbrev=False,
        formatter_class=Formatter,
    )
    parser.add_argument("--json", action="store_true", help="output JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(command=run, becomes_runsc=becomes_runsc)
    return parser


def add_choice(
    parser: argparse.ArgumentParser,
    flag: str,
    kind: Any,
    default: Any,
    text: str,
    check: Callable[[str], str] = str,
) -> None:
    """Add an option `flag` whose value is a member of the enum `kind`; `check` gets the text first."""
    names = [str(member) for member in kind]
    parser.add_argument(
        flag,
        type=check,
        choices=names,
        default=str(default),
        metavar="|".join(names),
        help=f"{text} (default: {default})",
    )


def positive(text: str) -> int:
    """A whole number above 0. Raises `ValueError`."""
    number = int(text)
    if number <= 0:
        raise ValueError
    return number


def wrong_usage(message: str) -> NoReturn:
    """Print in one line what is wrong with the arguments, and exit with 2."""
    Parser(prog="engine", add_help=False).error(message)


def say(line: str) -> None:
    """Print `line` on stderr. Errors are ignored: if stderr is closed, broken or full, nobody can be told."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def say_over(line: str) -> None:
    """Print `line` on the terminal over the last one."""
    with contextlib.suppress(OSError):
        print(f"\r\x1b[K{line[:100]}", end="", file=sys.stderr, flush=True)
