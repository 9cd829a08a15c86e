"""Parse JSON strictly: refuse whatever two parsers could read differently, with the member's path.

runsc is written in Go. Go uses the last of two equal names and replaces an unpaired surrogate by U+FFFD; a NUL ends a C
string. All of these are refused.

This is the standard library's `json` with hooks. msgspec would add 33 ms to every start, jsonschema more, and neither
detects duplicate names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

#: Longest whole number in characters; a uint64 needs 20.
MAX_NUMBER_LENGTH = 100


_SHOWN_LENGTH = 60
_SHOWN_PATH_LENGTH = 120


class MismatchError(Exception):
    """A member violates a rule. `path` is built while the error propagates: innermost name first."""

    def __init__(self, found: str, wanted: str, *, hint: str = "", path: Iterable[str | int] = ()) -> None:
        super().__init__(found, wanted)
        self.found = found
        self.wanted = wanted
        self.hint = hint
        self.section = ""
        self.path = list(path)

    @property
    def member(self) -> str:
        """The path of the member, such as `$.root.path`; a long one is shortened in the middle."""
        return _json_path(reversed(self.path))

    def __str__(self) -> str:
        return f"{self.member} {self.found}, wanted {self.wanted}"


class NotJsonError(Exception):
    """The text is not JSON; `what` says why, in one phrase, and `hint` what to do."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


def _json_path(path: Iterable[str | int]) -> str:
    shown = "$" + "".join(_json_path_step(step) for step in path)
    if len(shown) <= _SHOWN_PATH_LENGTH:
        return shown
    half = _SHOWN_PATH_LENGTH // 2
    return f"{shown[:half]}…{shown[-half:]}"


def _json_path_step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{_shortened(step)}" if step.isascii() and step.isidentifier() else f"[{shown(step)}]"


def shown(value: str | int) -> str:
    """A name or number for a message: short, printable, on one line. Never call it with a secret."""
    return _shortened(json.dumps(value))


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"


_KINDS = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "a whole number",
    float: "a number with a fraction, an exponent or a negative zero",
    type(None): "null",
}


def refuse_kind(value: object, wanted: str) -> NoReturn:
    hint = "leave the member out, or give it a value" if value is None else ""
    raise MismatchError(f"is {_KINDS[type(value)]}", wanted, hint=hint)


#: Stands for an unusable value until its path is known, as JSON has no tuples: what is found, what is wanted, the hint.
_Misfit = tuple[str, str, str]
_AGAIN = ("is present more than once", "it once", "remove the others")

_NO_NUMBER = ("is NaN or Infinity, which JSON does not have", "a number", "write a number")

_LONG_NUMBER = (
    f"is a number of more than {MAX_NUMBER_LENGTH} characters",
    "a shorter one",
    "write a smaller number",
)

#: What a string must not contain; and a pattern that matches nothing.
_UNUSABLE, _NO_TEXT = "[\0\ud800-\udfff]", "(?!)"
_UNUSABLE_TEXT = ("holds a NUL or half a surrogate pair", "text", "remove that character")

_UNUSABLE_NAME = ("has a name with a NUL or half a surrogate pair", "text", "rename that member")


def read(data: bytes, *, any_text: bool = False) -> Any:
    """Parse `data`; with `any_text`, strings may contain NULs and unpaired surrogates.

    Raises `NotJsonError`, and `MismatchError` for what two parsers may read differently.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        what = f"is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}"
        raise NotJsonError(what, "save it as UTF-8") from None
    if text.startswith("\ufeff"):
        raise NotJsonError("starts with a byte order mark", "save it as UTF-8 without one")
    misfits: list[_Misfit] = []

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        by_name = dict(pairs)
        if len(by_name) != len(pairs):
            misfits.append(_AGAIN)
            seen = set()
            for name, _ in pairs:
                if name in seen:
                    by_name[name] = _AGAIN
                seen.add(name)
        return by_name

    def whole_number(digits: str) -> object:
        if len(digits) > MAX_NUMBER_LENGTH:
            misfits.append(_LONG_NUMBER)
            return _LONG_NUMBER
        return int(digits) if digits != "-0" else -0.0  # Go refuses -0 for an unsigned number

    def constant(_name: str) -> object:
        misfits.append(_NO_NUMBER)
        return _NO_NUMBER

    try:
        document = json.loads(
            text, object_pairs_hook=members, parse_int=whole_number, parse_constant=constant
        )
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""
        what = f"is not JSON: {error.msg.removesuffix(' at')} at {line}column {error.colno}"
        raise NotJsonError(what, "correct it there") from None
    except RecursionError:
        raise NotJsonError("is nested too deeply", "remove what nests so deeply") from None
    # Raw control characters are invalid in JSON and surrogates in UTF-8: both can only come from an escape.
    if misfits or ("\\u" in text and not any_text):
        _refuse_misfits(document, _NO_TEXT if any_text else _UNUSABLE)
    return document


def _refuse_misfits(document: object, unusable_text: str) -> None:
    """Raise `MismatchError` for the first misfit, or string that matches `unusable_text`, in `document`.

    Iterative, since unknown members may nest as deep as `json` allows.
    """
    unusable = re.compile(unusable_text)
    path: list[str | int] = []
    walks: list[Iterator[tuple[str | int, object]]] = [iter([("$", document)])]
    while walks:
        for step, value in walks[-1]:
            misfit = None
            inside: Iterator[tuple[str | int, object]] | None = None
            if isinstance(value, dict):
                inside = iter(value.items())
                if any(unusable.search(name) for name in value):
                    misfit = _UNUSABLE_NAME
            elif isinstance(value, list):
                inside = iter(enumerate(value))
            elif isinstance(value, str) and unusable.search(value):
                misfit = _UNUSABLE_TEXT
            elif isinstance(value, tuple):
                misfit = value
            if misfit:
                found, wanted, hint = misfit
                raise MismatchError(found, wanted, hint=hint, path=reversed([*path, step][1:]))
            if inside:
                path.append(step)
                walks.append(inside)
                break
        else:
            walks.pop()
            if path:
                path.pop()
