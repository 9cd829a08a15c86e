"""The data as people write it, `known/*.toml`, read and checked; and its compiled form, which a run imports."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from engine.runsc.capabilities import SEEN

DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "known")
COMPILED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "table.py")
VERDICTS = ("enforced", "otherwise", "ignored", "refused")

_NO_CONCERN = frozenset({"about.toml", "unasked.toml", "surprises.toml"})
_NEEDED = frozenset({"asks", "field", "value", "says", "danger", "becomes", "specification"})
_ALLOWED = _NEEDED | {"how", "without_cgroups", "inside", "by_default", "recorded"}


class KnownError(ValueError):
    """A file of the data is not as `about.toml` says."""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that can be asked for; see `known/about.toml`. `becomes`, `how`: by runsc, as in `SEEN`."""

    name: str
    concern: str
    asks: tuple[str, ...]
    field: str
    value: str
    says: str
    danger: int
    becomes: tuple[str, ...]
    how: tuple[str, ...]
    without_cgroups: str
    specification: str
    inside: str
    by_default: bool
    recorded: bool


def about() -> Mapping[str, Any]:
    """The runscs that were seen, and the dangers."""
    return _read("about.toml")


@cache
def rows() -> tuple[Row, ...]:
    """All rows, in order of danger, then as they are written. Raises `KnownError` and `OSError`."""
    found = [
        _row(name, file.removesuffix(".toml"), given)
        for file in sorted(os.listdir(DIRECTORY))
        if file.endswith(".toml") and file not in _NO_CONCERN
        for name, given in _read(file).items()
    ]
    names = [row.name for row in found]
    words = [word for row in found for word in row.asks]
    for many in (names, words):
        if twice := {each for each in many if many.count(each) > 1}:
            raise KnownError(f"{min(twice)} is there twice")
    return tuple(sorted(found, key=lambda row: row.danger))


def sentences(file: str) -> Iterator[tuple[str, str]]:
    """The word and the sentence of each row of `unasked` or `surprises`."""
    for given in _read(f"{file}.toml").values():
        for word in given["asks"]:
            yield word, given["says"]


def compiled() -> str:
    """The text of `engine/enforcement/table.py`."""
    lines = [
        '"""Compiled from known/*.toml by ./just compile: do not edit."""',
        "",
        "# fmt: off",
        "#: Name, says, danger, becomes and how by runsc, without_cgroups, by_default; in order of danger.",
        "ROWS: tuple[tuple[str, str, int, tuple[str, ...], tuple[str, ...], str, bool], ...] = (",
    ]
    lines += [
        f"    {(row.name, row.says, row.danger, row.becomes, row.how, row.without_cgroups, row.by_default)!r},"
        for row in rows()
    ]
    lines += [")", "#: The number of the row, by word.", "BY_WORD = {"]
    lines += [
        f"    {' '.join(f'{word!r}: {number},' for word in row.asks)}" for number, row in enumerate(rows())
    ]
    lines += [
        "}",
        "#: The rows that the header of a trace says nothing of, by name.",
        "UNRECORDED = frozenset({",
    ]
    lines += [f"    {row.name!r}," for row in rows() if not row.recorded]
    lines.append("})")
    for name, file in (("UNASKED", "unasked"), ("SURPRISES", "surprises")):
        lines += [f"{name} = {{", *(f"    {word!r}: {says!r}," for word, says in sentences(file)), "}"]
    return "\n".join(lines) + "\n"


def _read(file: str) -> dict[str, Any]:
    with open(os.path.join(DIRECTORY, file), "rb") as opened:
        try:
            return tomllib.load(opened)
        except tomllib.TOMLDecodeError as error:
            raise KnownError(f"{file}: {error}") from None


def _row(name: str, concern: str, given: Mapping[str, Any]) -> Row:
    if missing := _NEEDED - given.keys():
        raise KnownError(f"{concern}.toml: {name} has no {min(missing)}")
    if unknown := given.keys() - _ALLOWED:
        raise KnownError(f"{concern}.toml: {name} has {min(unknown)}, which nothing reads")
    becomes = _by_runsc(given["becomes"])
    without = given.get("without_cgroups", "")
    if not {*becomes, *([without] if without else [])} <= set(VERDICTS):
        raise KnownError(f"{concern}.toml: {name} becomes none of {', '.join(VERDICTS)}")
    if str(given["danger"]) not in about()["danger"]:
        raise KnownError(f"{concern}.toml: {name} has a danger that about.toml does not explain")
    how = tuple(
        "" if verdict == "enforced" else told
        for verdict, told in zip(becomes, _by_runsc(given.get("how", "")), strict=True)
    )
    return Row(
        name=name,
        concern=concern,
        asks=tuple(given["asks"]),
        field=given["field"],
        value=given["value"],
        says=given["says"],
        danger=given["danger"],
        becomes=becomes,
        how=how,
        without_cgroups=without,
        specification=given["specification"],
        inside=given.get("inside", ""),
        by_default=given.get("by_default", False),
        recorded=given.get("recorded", True),
    )


def _by_runsc(given: str | Mapping[str, str]) -> tuple[str, ...]:
    """One text for each runsc."""
    if isinstance(given, str):
        return (given,) * len(SEEN)
    return tuple(given.get(runsc, "") for runsc in SEEN)
