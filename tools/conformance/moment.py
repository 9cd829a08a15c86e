"""A state of the spec with one run: the variables that decide what the engine does next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import Reason
from engine.spec.errors import CheckError
from engine.spec.values import Value, flatten, format_value

#: The part of the spec's program that runsc is; each other is one that it executes.
_RUNSC = "runsc"


@dataclass(frozen=True, slots=True)
class PartMoment:
    """The variables of the spec about one file of the program."""

    name: str
    path: str
    rewritten: bool
    pinned: str
    validated: str
    copied: str
    on_disk: str
    shared: bool

    @property
    def was_rewritten(self) -> bool:
        """Whether the pinned file is no longer what was validated."""
        return self.validated == "vendor" and self.rewritten


@dataclass(frozen=True, slots=True)
class Moment:
    """The variables of the spec that decide what the engine does next, of its only run."""

    place: str
    failed: bool
    rootless: bool
    required: bool
    wanted: bool
    as_root: bool
    found_by: str
    runsc: PartMoment
    sidecars: tuple[PartMoment, ...]
    handle: str
    lock: str
    base: str
    programs: str
    lies: str
    root: str
    nest: str
    seen: str
    bundle: str
    config: str
    probed: str
    in_force: str

    @property
    def parts(self) -> tuple[PartMoment, ...]:
        return self.runsc, *self.sidecars

    @property
    def waits_for_gc(self) -> bool:
        """Whether the run would take the lock that gc has for a moment."""
        return self.place == "validated" and self.handle == "current" and self.lock == "Gc"


def moment_of(state: Mapping[str, Value]) -> Moment:
    """Read a state of the spec. Raises `CheckError` when it is not one with a single run."""
    flat = {
        name: value if isinstance(value, bool | frozenset) else str(value)
        for name, value in flatten(state).items()
    }
    runs = [name for name in flat if name.startswith("state[")]
    if len(runs) != 1:
        raise CheckError(
            f"a state with {len(runs)} runs", reason=Reason.MALFORMED, hint="compare models of one run"
        )
    run = runs[0].removeprefix("state")
    container = f"[{_name(state['id'], run)}]"
    by_field: dict[str, Any] = {
        "place": flat[f"state{run}"],
        "lies": flat[f"place{run}"],
        "rootless": flat[f"option{run}.rootless"],
        "required": flat[f"option{run}.required"],
        "wanted": flat[f"option{run}.wanted"],
        "as_root": flat[f"option{run}.asRoot"],
        "found_by": flat[f"option{run}.foundBy"],
        "seen": flat[f"seen{run}.bundle"],
        "in_force": flat[f"inForce{run}"],
        "lock": _name(state["lock"], container),
    }
    for name in ("failed", "handle", "probed", "bundle", "config"):
        by_field[name] = flat[f"{name}{run}"]
    for name in ("root", "nest"):
        by_field[name] = flat[f"{name}{container}"]
    for name in ("base", "programs"):
        by_field[name] = flat[name]
    names = sorted(name.removeprefix("path.") for name in flat if name.startswith("path."))
    parts = {name: _part(flat, run, name) for name in names}
    return Moment(runsc=parts.pop(_RUNSC), sidecars=tuple(parts.values()), **by_field)


def _part(flat: Mapping[str, Any], run: str, name: str) -> PartMoment:
    return PartMoment(
        name,
        flat[f"path.{name}"],
        _has(flat["rewritten"], name),
        flat[f"pinned{run}.{name}"],
        flat[f"validated{run}.{name}"],
        flat[f"copied{run}.{name}"],
        flat[f"onDisk{run}.{name}"],
        _has(flat[f"shared{run}"], name),
    )


def _has(names: Value, name: str) -> bool:
    return isinstance(names, frozenset) and format_value(name) in names


def _name(function: Value, argument: str) -> str:
    if not isinstance(function, Mapping):
        raise CheckError(
            "the graph is not one of the lifecycle",
            reason=Reason.MALFORMED,
            hint="compare a model of GVisorRuntime",
        )
    return str(getattr(function[argument[1:-1]], "name", function[argument[1:-1]]))
