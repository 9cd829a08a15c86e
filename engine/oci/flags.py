"""Flags as managers write them for runc: Go's way and GNU's, `-x`, `--x`, `--x VALUE` and `--x=VALUE`.

argparse knows neither one dash before a long name nor a boolean with a value, and takes as long to import as
`state` takes to answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from types import MappingProxyType

from engine.errors import Reason, UsageError
from engine.records import dataclass

_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
_FALSE = frozenset({"0", "f", "F", "false", "False", "FALSE"})
_CHOICES = frozenset({"true", "false", "auto"})


class Kind(Enum):
    """What a flag takes."""

    SWITCH = auto()  # nothing, or `=true` or `=false`
    VALUE = auto()
    VALUES = auto()  # a value, and it may be given again
    #: A value, or nothing for `true`: runc's `--rootless auto` and runsc's `--rootless`.
    CHOICE = auto()
    #: Taken and not acted on: what it asks for is not something that runsc does.
    IGNORED_SWITCH = auto()
    IGNORED_VALUE = auto()


Table = Mapping[str, Kind]

_SWITCHES = frozenset({Kind.SWITCH, Kind.IGNORED_SWITCH})


@dataclass(frozen=True, slots=True)
class Flags:
    """What was given, by the flag's long name."""

    switches: frozenset[str] = frozenset()
    values: Mapping[str, str] = MappingProxyType({})
    lists: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def has(self, name: str) -> bool:
        """Whether the switch `name` is on."""
        return name in self.switches

    def value(self, name: str) -> str | None:
        """The value of `name`, the last if it was given more than once; None when it was not given."""
        return self.values.get(name)

    def number(self, name: str, default: int = 0) -> int:
        """The whole number given as `name`, 0 or more. Raises `UsageError`."""
        text = self.values.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit()):
            raise UsageError(
                f"--{name} is {text!r}, not a number", reason=Reason.USAGE, hint="give 0 or more"
            )
        return int(text)


def parse(
    arguments: Sequence[str],
    table: Table,
    short: Mapping[str, str],
    *,
    among_arguments: bool,
) -> tuple[Flags, list[str]]:
    """Split `arguments` into flags and what is left.

    `short` gives the long names of short flags. With `among_arguments` flags may also stand after arguments;
    without it the first argument ends them. `--` ends them, too. Raises `UsageError`.
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
        kind = table.get(name)
        if kind is None:
            raise UsageError(f"unknown flag {given!r}", reason=Reason.USAGE, hint="see engine-oci --help")
        if kind in _SWITCHES:
            if equals and text not in _TRUE | _FALSE:
                raise UsageError(f"--{name} is {text!r}", reason=Reason.USAGE, hint="give true or false")
            switches.discard(name) if text in _FALSE else switches.add(name)
            continue
        if kind is Kind.CHOICE and not equals:
            equals, text = "=", waiting.pop() if waiting and waiting[-1] in _CHOICES else "true"
        if not equals:
            if not waiting:
                raise UsageError(f"--{name} is given no value", reason=Reason.USAGE, hint="give one")
            text = waiting.pop()
        if kind is Kind.VALUES:
            lists[name] = (*lists.get(name, ()), text)
        else:
            values[name] = text
    return Flags(frozenset(switches), values, lists), rest
