"""Changes of single fields of a trace: each to another value of its form, by the type that the schema gives it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import EnumType
from typing import Annotated, Any, Literal, get_args, get_origin, is_typeddict

from engine.traces.asked_schema import Says
from engine.traces.refusal_schema import Error
from engine.traces.schema import FACTS, Header, Record
from tests.support.stories import Line
from tools.trace_fields import fields

#: The keys from a line to a value in it.
Place = tuple[str | int, ...]
_OCTAL, _HEXADECIMAL = set("01234567"), set("0123456789abcdef")


@dataclass(frozen=True)
class Leaf:
    """A value of a trace that has no table of its own: its line, its place there, its field and type."""

    line: int
    place: Place
    field: str
    says: Says
    kind: Any


def leaves(lines: list[Line]) -> Iterator[Leaf]:
    """Every field of every line, those within lists too."""
    for number, line in enumerate(lines):
        yield from _of_table(Header if number == 0 else Record, line, number, ())
        if number:
            yield from _of_table(FACTS[line["trigger"]], line["facts"], number, ("facts",))
            if line["error"] is not None:
                yield from _of_table(Error, line["error"], number, ("error",))


def table_of(kind: Any) -> type | None:
    """The table that `kind` is, or that it has members of; None if none."""
    if is_typeddict(kind):
        return kind  # type: ignore[no-any-return]
    return next((found for part in get_args(kind) if (found := table_of(part)) is not None), None)


def _of_table(table: type, given: Line, line: int, place: Place) -> Iterator[Leaf]:
    for name, kind, says in fields(table):
        if name not in given or (table is Record and name in ("facts", "error")):
            continue
        here, value, inner = (*place, name), given[name], table_of(kind)
        if inner is None or (isinstance(value, list | dict) and not is_typeddict(_bare(kind))):
            yield Leaf(line, here, f"{table.__name__}.{name}", says, kind)
        if inner is None:
            continue
        if is_typeddict(_bare(kind)):
            yield from _of_table(inner, value, line, here)
        else:
            for key, each in enumerate(value) if isinstance(value, list) else value.items():
                yield from _of_table(inner, each, line, (*here, key))


def _bare(kind: Any) -> Any:
    """The type without its marks, and without what it may have in its place."""
    return _bare(get_args(kind)[0]) if get_origin(kind) is Annotated or _is_union(kind) else kind


def _is_union(kind: Any) -> bool:
    return get_origin(kind) not in (None, list, dict, Literal, Annotated)


def at(lines: list[Line], leaf: Leaf) -> Any:
    value: Any = lines[leaf.line]
    for key in leaf.place:
        value = value[key]
    return value


def changed(lines: list[Line], leaf: Leaf, value: Any) -> list[Line]:
    """`lines` with `value` in that place; the hash chain is not recomputed."""
    found = copy.deepcopy(lines)
    place: Any = found[leaf.line]
    for key in leaf.place[:-1]:
        place = place[key]
    place[leaf.place[-1]] = value
    return found


def others(value: Any, kind: Any) -> list[Any]:
    """Other values of the same form."""
    kind = _bare(kind)
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, value + (1 << 20), -5]
    if isinstance(value, list):
        more = _another(value[0]) if value else "/elsewhere"
        return [value[:-1], value[1:], [*value, *value[-1:]], [*value, more], value[::-1], []]
    if isinstance(value, dict):
        less = [{name: value[name] for name in value if name != key} for key in value]
        swapped = [value | {key: _another(value[key])} for key in value]
        return [*less, *swapped, value | {"other": "x"}]
    words = get_args(kind) if get_origin(kind) is Literal else kind if isinstance(kind, EnumType) else ()
    if words:
        return [str(word) for word in words]
    return _texts(value) if isinstance(value, str) else []


def _another(value: Any) -> Any:
    return _texts(value)[0] if isinstance(value, str) else value


def _texts(value: str) -> list[str]:
    if len(value) >= 32 and _HEXADECIMAL.issuperset(value):
        return [
            value[::-1] if value[::-1] != value else "5a" * (len(value) // 2),
            value[:-1],
            "0" * len(value),
        ]
    if len(value) == 4 and _OCTAL.issuperset(value):
        return ["0755", "0500", "0555", "0700", "0777", "0644"]
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        pass
    else:
        return [(time + timedelta(seconds=by)).isoformat() for by in (-60, 60)]
    if value.startswith("/"):
        return ["/elsewhere/file", f"{value}x", f"{value}/x", value.rpartition("/")[0] or "/x", value[1:]]
    return [f"{value}x", "other", value[:-1]]


# -- what a field is bound by


def is_exact(leaf: Leaf, lines: list[Line]) -> bool:
    """Whether any other value is reported: the mark has a part with `=`, whose lines are there."""
    there = {line.get("trigger") for line in lines}
    return any(
        all(name not in FACTS or name in there for name in _NAMED.findall(part))
        for part in leaf.says.bound.split("; ")
        if part.startswith("= ")
    )


_NAMED = re.compile(r"`(\w+)\.")
_DIGESTS = ["", "ab", "AB" * 32]
_PATHS = ["", "relative", "/a/../b"]
_MODES = ["", "755", "0777", "0644"]
#: For a field that has several right values: some that no engine writes there.
OUTSIDE: dict[str, list[Any]] = {
    "Header.monotonic_ns": [-1, (1 << 63) - 1],
    "Header.format": [0, 1, 4],
    "Record.monotonic_ns": [-1, 0],
    "ResolveFacts.path": ["", "relative"],
    "ResolveFacts.found_by": ["guess", ""],
    "ValidateFacts.path": _PATHS,
    "ValidateFacts.wrapper": _PATHS,
    "ValidateFacts.owner": [-1, 4242],
    "ValidateFacts.mode": _MODES,
    "ValidateFacts.trusted_owners": [[], [4242], [0, 0]],
    "ValidateFacts.platforms": [["none"], ["ptrace", "systrap"], ["systrap", "systrap"]],
    "ValidateFacts.creation_flags": [["--debug"]],
    "ValidateFacts.release": ["", "20260914"],
    "Identity.device": [-1],
    "Identity.inode": [0, -1],
    "Identity.size": [0, 3],
    "PinnedSidecar.owner": [-1, 4242],
    "PinnedSidecar.mode": _MODES,
    "SecureRootFacts.cleaned": [["/etc"], ["relative"]],
    "Copy.from_store": [],
    "StageFacts.version": ["", "20260914"],
    "ApplyPolicyFacts.allowed": [["/"], ["/etc", "/usr"]],
    "ApplyPolicyFacts.open": [["other"], ["mount", "allowed"], ["memfd", "memfd"]],
    "ApplyPolicyFacts.reason": [""],
    "EndFacts.exit_code": [-1, 256],
    "EndFacts.signal": ["", "SIGNONE", "kill"],
    "EndFacts.oom": ["unknown", "perhaps"],
    "EndFacts.oom_counter": [None, "/etc/passwd", "memory.events"],
    "EndFacts.duration_ns": [-1, 1 << 60],
    "Resources.user_us": [-1, 1 << 60],
    "Resources.system_us": [-1, 1 << 60],
    "RefuseFacts.cleaned": [["/etc"], ["relative"]],
    "RefuseFacts.left": [["nothing"]],
    "Error.step": ["", "other"],
    "Error.reason": ["other", None, "usage"],
    "Options.platform": ["other", ""],
    "Options.exec_policy": ["other", ""],
    "Options.require_exec_policy": [1],
    "Options.runsc": [7],
    "Bundle.grants": [["other"], []],
    "Mount.leads_to": ["relative"],
    "Mount.kind": ["file"],
}
