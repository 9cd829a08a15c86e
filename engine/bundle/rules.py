"""The kinds of rules that the tables for config.json are made of.

Go matches member names without regard to case, so a name that differs from a known one only in case is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.bundle.strict_json import MismatchError, refuse_kind, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn


class Rule:
    """A rule for a value: `wanted` describes it; `check` raises `MismatchError` if it is violated."""

    def __init__(self, wanted: str, check: Callable[[Any], None]) -> None:
        self.wanted: Final = wanted
        self.check: Final = check


def scalar(
    kind: type[Any], wanted: str, holds: Callable[[Any], bool] | None = None, *, secret: bool = False
) -> Rule:
    """A value of exactly the type `kind` for which `holds` is true. A `secret` value is never shown."""

    def check(value: Any) -> None:
        if type(value) is not kind:
            refuse_kind(value, wanted)
        if holds is not None and not holds(value):
            found = f"a string of {len(value)} characters" if secret else shown(value)
            raise MismatchError(f"is {found}", wanted)

    return Rule(wanted, check)


def integer(low: int, high: int) -> Rule:
    """A whole number from `low` to `high`. As in Go, 1.0, 1e3 and true are not whole numbers."""
    return scalar(int, f"a whole number from {low} to {high}", lambda number: low <= number <= high)


def one_of(names: Sequence[str], wanted: str = "") -> Rule:
    """One of the strings `names`; `wanted` describes them if they are too many to list."""
    return scalar(str, wanted or f"one of {', '.join(names)}", frozenset(names).__contains__)


def prefixed(prefix: str, names: str) -> tuple[str, ...]:
    """Each of the space-separated `names` with `prefix` before it."""
    return tuple(prefix + name for name in names.split())


def refused(reason: str) -> Rule:
    """A member that must not be present, with the `reason`."""

    def check(_value: Any) -> NoReturn:
        raise MismatchError("is present", f"no such member: {reason}", hint="remove it")

    return Rule("no such member", check)


def array(item: Rule, *, at_least: int = 0, distinct: str | None = None) -> Rule:
    """An array of `item`s; with `distinct`, the member of that name must be unique."""
    wanted = f"an array of at least {at_least}" if at_least else "an array"
    check_item = item.check

    def check(value: Any) -> None:
        if type(value) is not list:
            refuse_kind(value, wanted)
        if len(value) < at_least:
            raise MismatchError(f"is an array of {len(value)}", wanted)
        index = 0
        try:
            for index, element in enumerate(value):  # noqa: B007 - a mismatch needs to know where it was
                check_item(element)
        except MismatchError as mismatch:
            mismatch.path.append(index)
            raise
        if distinct is None:
            return
        seen = set()
        for index, element in enumerate(value):
            name = element[distinct]
            if name in seen:
                raise MismatchError(
                    f"is {shown(name)} again", f"each {distinct} once", path=[distinct, index]
                )
            seen.add(name)

    return Rule(wanted, check)


def names_to(item: Rule, *, but_for: Callable[[str], str | None] | None = None) -> Rule:
    """An object with arbitrary non-empty names, each with an `item`. Go compares these names exactly.

    `but_for`: why this name must not be there; None if it may.
    """
    wanted = "an object"
    check_item = item.check

    def check(value: Any) -> None:
        if type(value) is not dict:
            refuse_kind(value, wanted)
        if "" in value:
            raise MismatchError("has a member with an empty name", "a name", hint="name it, or remove it")
        name = ""
        try:
            for name, member in value.items():
                if but_for is not None and (reason := but_for(name)):
                    raise MismatchError("is there", f"no such member: {reason}", hint="remove it")
                check_item(member)
        except MismatchError as mismatch:
            mismatch.path.append(name)
            raise

    return Rule(wanted, check)


def record(
    section: str,
    required: dict[str, Rule],
    optional: dict[str, Rule],
    *also: Callable[[dict[str, Any]], None],
) -> Rule:
    """An object with the `required` members, optionally the `optional` ones, and any unknown ones.

    A name that differs from a known one only in case is refused, as runsc would take it for the known one. An optional
    member that is null is taken out of the object, as Go reads it: absent. `also`: rules about several members.
    `section`: where the specification describes the object.
    """
    wanted = "an object"
    members = {**required, **optional}
    checks = {name: rule.check for name, rule in members.items()}
    folded = {name.casefold(): name for name in members}

    def check(value: Any) -> None:
        if type(value) is not dict:
            refuse_kind(value, wanted)
        name = ""
        nulls: list[str] = []
        try:
            for name, member in value.items():
                if check_member := checks.get(name):
                    if member is None and name in optional:
                        nulls.append(name)
                    else:
                        check_member(member)
                elif known := folded.get(name.casefold()):
                    raise MismatchError(
                        f"is a name that runsc reads as {known!r}",
                        f"{known!r} as it is spelled",
                        hint="correct the spelling, or choose another name",
                    )
            for name, rule in required.items():
                if name not in value:
                    raise MismatchError("is missing", rule.wanted)
            for name in nulls:
                del value[name]
            name = ""
            for rule_on_several in also:
                rule_on_several(value)
        except MismatchError as mismatch:
            if name:
                mismatch.path.append(name)
            mismatch.section = mismatch.section or section
            raise

    return Rule(wanted, check)


# --- Rules about several members of one object ----------------------------------------------------------------


def needs(name: str, other: str) -> Callable[[dict[str, Any]], None]:
    def check(value: dict[str, Any]) -> None:
        if name in value and other not in value:
            raise MismatchError(f"has {name!r} without {other!r}", "both or neither")

    return check


def has_one_of(name: str, other: str) -> Callable[[dict[str, Any]], None]:
    def check(value: dict[str, Any]) -> None:
        if name not in value and other not in value:
            raise MismatchError(f"has neither {name!r} nor {other!r}", "at least one of them")

    return check


# --- Rules about one value, used everywhere --------------------------------------------------------------------


def _never_leads_up(path: str) -> bool:
    return path != "" and ".." not in path.split("/")


def is_number_list(numbers: str) -> bool:
    return set(numbers) <= set("0123456789, -")


BOOLEAN = scalar(bool, "true or false")
STRING = scalar(str, "a string")
STRINGS = array(STRING)
UINT16 = integer(0, 2**16 - 1)
UINT32 = integer(0, 2**32 - 1)
UINT64 = integer(0, 2**64 - 1)
INT32 = integer(-(2**31), 2**31 - 1)
INT64 = integer(-(2**63), 2**63 - 1)
ABSOLUTE_PATH = scalar(str, "an absolute path", lambda path: path.startswith("/"))
#: The kernel takes no longer path, PATH_MAX, and no longer label for its security modules.
_MAX_LENGTH = 4095
SHORT_ABSOLUTE_PATH = scalar(
    str,
    f"an absolute path of at most {_MAX_LENGTH} characters",
    lambda path: path.startswith("/") and len(path) <= _MAX_LENGTH,
)
SHORT_STRING = scalar(
    str, f"a string of at most {_MAX_LENGTH} characters", lambda text: len(text) <= _MAX_LENGTH
)
NO_PARENT_PATH = scalar(str, "a path that is not empty and has no '..' component", _never_leads_up)
CPU_LIST = scalar(str, "a list of CPUs such as 0-3,7", is_number_list)
