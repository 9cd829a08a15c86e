"""A config.json with every known member, changes to it, and the table of verdicts on them."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

Step = str | int

_HERE = Path(__file__).parent.parent / "unit"
TABLE: dict[str, dict[str, list[Any]]] = tomllib.loads((_HERE / "oci_config.toml").read_text())
FULL: dict[str, Any] = json.loads((_HERE / "configs" / "full.json").read_text())


def written(steps: tuple[Step, ...]) -> str:
    """A JSON path as a refusal shows it."""
    return "$" + "".join(
        f"[{step}]"
        if isinstance(step, int)
        else f".{step}"
        if step.isidentifier()
        else f"[{json.dumps(step)}]"
        for step in steps
    )


def at(dotted: str) -> tuple[Step, ...]:
    return tuple(int(step) if step.isdigit() else step for step in dotted.split("."))


def changed(steps: tuple[Step, ...], value: object) -> dict[str, Any]:
    """FULL with `value` at the path."""
    config = copy.deepcopy(FULL)
    container: Any = config
    for step in steps[:-1]:
        container = container[step]
    if isinstance(container, list) and steps[-1] == len(container):
        container.append(value)
    else:
        container[steps[-1]] = value
    return config


def without(steps: tuple[Step, ...]) -> dict[str, Any]:
    config = copy.deepcopy(FULL)
    container: Any = config
    for step in steps[:-1]:
        container = container[step]
    del container[steps[-1]]
    return config


def encoded(config: object) -> bytes:
    return json.dumps(config).encode()


def members(value: object, steps: tuple[Step, ...] = ()) -> Iterator[tuple[tuple[Step, ...], Any]]:
    """Every member and element beneath `value`, with its path."""
    inside: Any = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for step, member in inside:
        yield (*steps, step), member
        yield from members(member, (*steps, step))


MEMBERS = list(members(FULL))
#: Members whose own members have names of the user's choice.
MAPS = (
    *("annotations", "linux.sysctl", "linux.resources.unified", "linux.resources.rdma"),
    *("linux.timeOffsets", "linux.netDevices"),
)


def matches(steps: tuple[Step, ...], patterns: list[str]) -> bool:
    """Whether one of the `patterns` of the table is the path."""
    path = ".".join("#" if isinstance(step, int) else step for step in steps)
    return any(fnmatchcase(path, pattern) for pattern in patterns)
