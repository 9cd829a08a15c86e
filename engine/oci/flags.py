"""Parse flags as managers write them for runc, in Go's and GNU's styles: `-x`, `--x`, `--x VALUE`, `--x=VALUE`.

argparse supports neither a single dash before a long name nor a boolean with a value, and importing it takes as long as
the whole `state` command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from types import MappingProxyType

from engine.errors import Reason, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
_FALSE = frozenset({"0", "f", "F", "false", "False", "FALSE"})
_CHOICES = frozenset({"true", "false", "auto"})


class Kind(Enum):
    """The kinds of flags."""

    SWITCH = auto()  # no value, or `=true` or `=false`
    VALUE = auto()
    VALUES = auto()  # a value; may be repeated
    #: An optional value, default `true`: runc's `--rootless auto` and runsc's `--rootless`.
    CHOICE = auto()
    #: Accepted and ignored: runsc has no such feature.
    IGNORED_SWITCH = auto()
    IGNORED_VALUE = auto()


class Refused:
    """A flag that is known and cannot be done: `what` says why, and `hint` what to do."""

    def __init__(self, what: str, hint: str) -> None:
        self.what: Final = what
        self.hint: Final = hint


Table = Mapping[str, Kind | Refused]

_SWITCHES = frozenset({Kind.SWITCH, Kind.IGNORED_SWITCH})


class Flags:
    """The given flags, by long name."""

    def __init__(
        self,
        switches: frozenset[str] = frozenset(),
        values: Mapping[str, str] = MappingProxyType({}),
        lists: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    ) -> None:
        self.switches: Final = switches
        self.values: Final = values
        self.lists: Final = lists

    def has(self, name: str) -> bool:
        """Whether the switch `name` is set."""
        return name in self.switches

    def value(self, name: str) -> str | None:
        """The last value of `name`; None if it was not given."""
        return self.values.get(name)

    def number(self, name: str, default: int = 0) -> int:
        """The value of `name` as a whole number, at least 0. Raises `UsageError`."""
        text = self.values.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit()):
            raise UsageError(
                f"--{name} is {text!r}, not a number", reason=Reason.USAGE, hint="give 0 or more"
            )
        return int(text)


def _kind(table: Table, name: str, given: str) -> Kind:
    kind = table.get(name)
    if kind is None:
        raise UsageError(f"unknown flag {given!r}", reason=Reason.USAGE, hint="see engine-oci --help")
    if isinstance(kind, Refused):
        raise UsageError(f"--{name}: {kind.what}", reason=Reason.UNSUPPORTED, hint=kind.hint)
    return kind


def parse(
    arguments: Sequence[str],
    table: Table,
    short: Mapping[str, str],
    *,
    among_arguments: bool,
) -> tuple[Flags, list[str]]:
    """Split `arguments` into flags and the rest.

    `short`: the long names of short flags. With `among_arguments` flags may follow arguments; otherwise the first
    argument ends them. `--` always ends them. Raises `UsageError`.
    """
    switches: set[str] = set()
    values: dict[str, str] = {}
    lists: dict[str, tuple[str, ...]] = {}
    rest: list[str] = []
    waiting = list(reversed(arguments))
    while waiting:
        given = waiting.pop()
        if given == "--":
            rest += reversed(waiting)
            break
        if not given.startswith("-") or given == "-":
            rest.append(given)
            if among_arguments:
                continue
            rest += reversed(waiting)
            break
        name, equals, text = given.lstrip("-").partition("=")
        name = short.get(name, name)
        kind = _kind(table, name, given)
        if kind in _SWITCHES:
            if equals and text not in _TRUE | _FALSE:
                raise UsageError(f"--{name} is {text!r}", reason=Reason.USAGE, hint="give true or false")
            switches.discard(name) if text in _FALSE else switches.add(name)
            continue
        if kind is Kind.CHOICE and not equals:
            equals, text = "=", waiting.pop() if waiting and waiting[-1] in _CHOICES else "true"
        if not equals:
            if not waiting:
                raise UsageError(f"--{name} has no value", reason=Reason.USAGE, hint="give one")
            text = waiting.pop()
        if kind is Kind.VALUES:
            lists[name] = (*lists.get(name, ()), text)
        else:
            values[name] = text
    return Flags(frozenset(switches), values, lists), rest
