"""The saved result of `engine check --mutants --json`, and whether it is of the trace's spec.

A saved result is not checked again; the report says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import msgspec

from engine.errors import Reason
from engine.verify.evidence import ReportError

_MAX_SIZE = 16 << 20


class ModelSaid(msgspec.Struct):
    """A model: its size, and the verdict on each property."""

    name: str
    says: str
    expected: str
    surprises: list[str]
    distinctStates: int  # noqa: N815 - as `check --json` names it
    totalStates: int  # noqa: N815
    stateDepth: int  # noqa: N815
    seconds: float
    properties: dict[str, str]
    actions: dict[str, int]

    @property
    def must_hold(self) -> bool:
        return self.expected == "success"


class MutantSaid(msgspec.Struct):
    """A mutant of the spec, and whether its property caught it."""

    name: str
    says: str
    breaks: str
    killed: bool
    steps: int
    also: str | None


class GapSaid(msgspec.Struct):
    """A part of the spec that no model reaches."""

    action: str
    at: str
    after: str | None


class _Jar(msgspec.Struct):
    sha256: str


class _Said(msgspec.Struct):
    spec: str | None
    ok: bool
    seconds: float
    tlc: str
    java: str
    jar: _Jar
    models: list[ModelSaid]
    gaps: list[GapSaid] | None
    mutants: list[MutantSaid]


@dataclass(frozen=True)
class ModelCheck:
    """The content of the file `path`, with the file's digest."""

    path: str
    sha256: str
    said: _Said

    @property
    def shortfalls(self) -> list[str]:
        """Why this is not a complete, successful check: one phrase each."""
        said = self.said
        found = [f"{model.name}: {surprise}" for model in said.models for surprise in model.surprises]
        found += [f"{name} {verdict}" for name, verdict in self.properties.items() if verdict != "holds"]
        found += [f"mutant {mutant.name} survived" for mutant in said.mutants if not mutant.killed]
        if said.gaps is None:
            found.append("only some models were checked, so coverage was not judged")
        elif said.gaps:
            found.append(f"{len(said.gaps)} parts of the spec were never reached")
        if not said.mutants:
            found.append("no mutants were tried (engine check --mutants)")
        if not self.properties:
            found.append("no property was checked")
        if not found and not said.ok:
            found.append("the check reports failure")
        return found

    @cached_property
    def properties(self) -> Mapping[str, str]:
        """Each property that must hold: `holds`, or the worst verdict of any model."""
        found: dict[str, str] = {}
        for model in self.said.models:
            for name, verdict in model.properties.items() if model.must_hold else ():
                if found.get(name, "holds") == "holds":
                    found[name] = verdict
        return found

    @property
    def actions(self) -> Mapping[str, int]:
        """How often each action of the specs was taken, over all models with coverage."""
        taken: dict[str, int] = {}
        for model in self.said.models:
            for name, times in model.actions.items():
                taken[name] = taken.get(name, 0) + times
        return taken

    @property
    def holding(self) -> int:
        return sum(verdict == "holds" for verdict in self.properties.values())

    @property
    def killed(self) -> int:
        return sum(mutant.killed for mutant in self.said.mutants)

    @property
    def distinct(self) -> int:
        return sum(model.distinctStates for model in self.said.models)


def load(path: str) -> ModelCheck:
    """Read a saved result. Raises `ReportError`."""
    hint = "save one: engine check --mutants --json > check.json"
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_SIZE)
        said = msgspec.json.decode(content, type=_Said)
    except OSError as error:
        raise ReportError(f"{path!r}: {error.strerror}", reason=Reason.FAILURE, hint=hint) from None
    except (ValueError, RecursionError) as error:
        raise ReportError(
            f"{path!r} is not a result of engine check: {error}", reason=Reason.MALFORMED, hint=hint
        ) from None
    return ModelCheck(path, hashlib.sha256(content).hexdigest(), said)
