"""Parse the values that TLC prints in counterexamples and in the labels of a state graph.

Only TLC's output format is parsed (Specifying Systems, section 14.2.3), not TLA+ expressions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelValue:
    """An uninterpreted constant of a model, such as `r1`; equal only to itself."""

    name: str


#: A set is a frozenset of its elements' text; functions and records are mappings.
Value = int | bool | str | ModelValue | tuple["Value", ...] | frozenset[str] | Mapping[str, "Value"]

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<number>-?\d+)
    | (?P<name>[A-Za-z_]\w*)
    | (?P<sign><<|>>|\|->|:>|@@|\.\.|[\[\](){},])
    )""",
    re.VERBOSE,
)
_CONJUNCT = re.compile(r"^(?:/\\ )?(\w+) = ", re.MULTILINE)


def parse_state(text: str) -> dict[str, Value]:
    r"""Parse the variables of a state, printed as `/\ x = 1` a line (a value may span several).

    Raises `ValueError` if `text` is not a state.
    """
    found = list(_CONJUNCT.finditer(text))
    if not found or text[: found[0].start()].strip():
        raise ValueError(f"not a state: {text[:80]!r}")
    ends = [match.start() for match in found[1:]] + [len(text)]
    return {match[1]: parse_value(text[match.end() : end]) for match, end in zip(found, ends, strict=True)}


def parse_value(text: str) -> Value:
    """Parse one value. Raises `ValueError`."""
    reader = _Reader(text)
    value = reader.value()
    if not reader.at_end():
        raise ValueError(f"more than one value: {text!r}")
    return value


def format_value(value: Value) -> str:
    """`value` in TLA+, on one line."""
    match value:
        case bool():
            text = str(value).upper()
        case str():
            text = f'"{value}"'
        case ModelValue():
            text = value.name
        case tuple():
            text = f"<<{', '.join(format_value(element) for element in value)}>>"
        case frozenset():
            text = f"{{{', '.join(sorted(value))}}}"
        case Function():
            text = f"({' @@ '.join(f'{key} :> {format_value(element)}' for key, element in value.items())})"
        case Mapping():
            text = f"[{', '.join(f'{key} |-> {format_value(element)}' for key, element in value.items())}]"
        case _:
            text = str(value)
    return text


def flatten(state: Mapping[str, Value]) -> dict[str, Value]:
    """The scalar parts of `state` by path: `state[r1]`, `option[r1].rootless`, `path`."""
    flat: dict[str, Value] = {}
    for name, value in state.items():
        _flatten_into(flat, name, value)
    return flat


def _flatten_into(flat: dict[str, Value], name: str, value: Value) -> None:
    if not isinstance(value, Mapping):
        flat[name] = value
        return
    for key, element in value.items():
        _flatten_into(flat, f"{name}[{key}]" if isinstance(value, Function) else f"{name}.{key}", element)


class Function(dict[str, "Value"]):
    """A function, printed by its points (`r1 :> 1 @@ r2 :> 2`); a record is printed `[a |-> 1]`."""


class _Reader:
    """Recursive descent over the tokens of one value."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    def at_end(self) -> bool:
        return not self._text[self._position :].strip()

    def value(self) -> Value:
        first = self._plain()
        if not self._skip(".."):
            return first
        last = self._plain()
        if not isinstance(first, int) or not isinstance(last, int):
            raise self._unexpected("..")
        return frozenset(str(number) for number in range(first, last + 1))

    def _plain(self) -> Value:
        kind, token = self._next()
        match kind, token:
            case "string", _:
                value: Value = re.sub(r"\\(.)", r"\1", token[1:-1])
            case "number", _:
                value = int(token)
            case "name", _:
                value = {"TRUE": True, "FALSE": False}.get(token, ModelValue(token))
            case _, "<<":
                value = tuple(self._until(">>"))
            case _, "{":
                value = frozenset(format_value(element) for element in self._until("}"))
            case _, "[":
                value = self._record()
            case _, "(":
                value = self._function()
            case _:
                raise self._unexpected(token)
        return value

    def _record(self) -> Mapping[str, Value]:
        fields: dict[str, Value] = {}
        while not self._skip("]"):
            if fields:
                self._expect(",")
            kind, name = self._next()
            if kind != "name":
                raise self._unexpected(name)
            self._expect("|->")
            fields[name] = self.value()
        return fields

    def _function(self) -> Mapping[str, Value]:
        points = Function()
        while not self._skip(")"):
            if points:
                self._expect("@@")
            argument = self.value()
            self._expect(":>")
            points[argument if isinstance(argument, str) else format_value(argument)] = self.value()
        return points

    def _until(self, closing: str) -> list[Value]:
        elements: list[Value] = []
        while not self._skip(closing):
            if elements:
                self._expect(",")
            elements.append(self.value())
        return elements

    def _skip(self, token: str) -> bool:
        match = _TOKEN.match(self._text, self._position)
        if match is None or match["sign"] != token:
            return False
        self._position = match.end()
        return True

    def _expect(self, token: str) -> None:
        _, found = self._next()
        if found != token:
            raise self._unexpected(found)

    def _next(self) -> tuple[str, str]:
        match = _TOKEN.match(self._text, self._position)
        if match is None or match.lastgroup is None:
            raise ValueError(f"not a value of TLC: {self._text[self._position :][:40]!r}")
        self._position = match.end()
        return match.lastgroup, match[match.lastgroup]

    def _unexpected(self, token: str) -> ValueError:
        return ValueError(f"unexpected {token!r} in the value {self._text!r}")
