"""The tables of docs/trace.md, written from `engine.traces.schema`: `python -m tools.trace_fields`."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from datetime import datetime
from enum import EnumType
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from engine.errors import Reason
from engine.lifecycle.machine import LIFECYCLE, REASONS
from engine.traces.schema import FACTS, Error, Header, Record, Says, Time

PAGE = Path(__file__).parents[1] / "docs" / "trace.md"
ERRORS = Path(__file__).parents[1] / "engine" / "errors.py"
BEGIN = "<!-- Written by python -m tools.trace_fields from engine/traces/schema.py: do not edit by hand. -->"
END = "<!-- End of what is written by python -m tools.trace_fields. -->"
_NAMES: dict[Any, str] = {
    str: "text",
    int: "number",
    bool: "true or false",
    type(None): "null",
    Time: "time",
    datetime: "time",
    Reason: "a reason",
}


def page(text: str) -> str:
    """The page with its tables as they must be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{after}"


def tables() -> str:
    """A table for each line, for the facts of each trigger and for each object in one, and one of the reasons."""
    parts = [
        ("## The header, line 0", Header),
        ("## A move, lines 1 and on", Record),
        *((f"### The facts of `{trigger}`", facts) for trigger, facts in FACTS.items()),
        ("### The error of a `refuse`", Error),
    ]
    lines: list[str] = []
    within: list[type] = []
    seen: list[type] = []
    while parts or within:
        if not parts:
            parts = [(f"### {within[0].__name__}", within[0])]
            del within[0]
        title, kind = parts.pop(0)
        lines += [title, "", "| key | type | what it says | held to |", "|---|---|---|---|"]
        for name, inner, says in fields(kind):
            lines.append(f"| `{name}` | {_type(inner)} | {says.text} | {says.bound} |")
            for part in (inner, *get_args(inner)):
                if is_typeddict(part) and part not in (*seen, Error):
                    seen.append(part)
                    within.append(part)
        lines.append("")
    lines += ["## The reasons", "", "| reason | refused in | why |", "|---|---|---|", *_reasons(), ""]
    return "\n".join(lines)


def fields(kind: type) -> Iterator[tuple[str, Any, Says]]:
    """Each field of a line or of an object in one: its name, its type and what it says."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        inner = get_args(hint)[0] if get_origin(hint) is NotRequired else hint
        if get_origin(inner) is not Annotated:
            raise ValueError(f"{kind.__name__}.{name} does not say what it is")
        says = next(note for note in inner.__metadata__ if isinstance(note, Says))
        yield name, inner.__origin__, says


def _type(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _NAMES:
        return _NAMES[kind]
    if is_typeddict(kind):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in arguments)
    words = arguments if origin is Literal else kind if isinstance(kind, EnumType) else ()
    return ", ".join(f"`{word}`" for word in words) or "object"


def reasons() -> Iterator[tuple[Reason, str]]:
    """Each reason, and what it says: the comment above it in engine/errors.py."""
    for text, name in re.findall(r"    #: (.*)\n    (\w+) = ", ERRORS.read_text()):
        yield Reason[name], text


def _reasons() -> Iterator[str]:
    steps = {state: str(row.trigger) for row in LIFECYCLE for state in row.sources if row.reasons}
    for reason, text in reasons():
        where = [steps[state] for state, allowed in REASONS.items() if reason in allowed]
        at = (
            "any step"
            if len(where) == len(steps)
            else "".join(f"`{step}`" for step in where) or "before a run, or in no run"
        )
        yield f"| `{reason}` | {at} | {text} |"


def main() -> None:
    """Write the page anew."""
    PAGE.write_text(page(PAGE.read_text()))


if __name__ == "__main__":
    main()
