"""Objects of the engine's plain classes: others like them, and what they hold."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

T = TypeVar("T")


def changed(thing: T, **values: object) -> T:
    """A shallow copy of `thing`, whose attributes have these values."""
    assert values.keys() <= vars(thing).keys(), values
    made = copy.copy(thing)
    vars(made).update(values)
    return made


def values(thing: Any) -> Any:
    """The attributes of `thing` and of what it holds, by name, to be compared."""
    if isinstance(thing, (list, tuple)):
        return type(thing)(map(values, thing))
    if type(thing).__module__.startswith("engine."):
        return type(thing), {name: values(value) for name, value in vars(thing).items()}
    return thing
