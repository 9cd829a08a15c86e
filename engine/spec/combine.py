"""Combine many mutants of one model into one spec; the variable `mutant` selects one of them.

`Init` chooses its value and no step changes it. Each definition that a mutant changes becomes a CASE on it. TLC then
starts, parses and warms up once for all of them. Each mutant is checked only for the property that it must break, and
not explored beyond the first violation.

Only a violation found here counts. A mutant that is not caught must be checked alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from engine.spec.models import Model, Mutant, Specs
from engine.spec.module_text import Part, declared_constants, parts
from engine.spec.tool_output import Code, Output

VARIABLE = "mutant"
MODULE = "Mutants"

_SPEC = re.compile(r"\s*(\w+)\s*/\\\s*\[\]\[(\w+)\]_(\w+)\s*\Z")
_STEPS = re.compile(r"\s*\[\]\[(?P<action>.*)\]_(?P<vars>\w+)\s*\Z", re.DOTALL)
_TEXTS = re.compile(r'"[^"]*"|\b(?:TRUE|FALSE|\d+)\b')
_FOUND = frozenset({Code.INVARIANT_VIOLATED, Code.INVARIANT_VIOLATED_INITIAL, Code.ACTION_PROPERTY_VIOLATED})


@dataclass(frozen=True, slots=True)
class Combination:
    """Several mutants of `model` as one spec: check `module` of `files` under `config`."""

    model: Model
    mutants: tuple[Mutant, ...]
    files: Mapping[str, str]
    module: str
    config: str

    def caught(self, output: Output) -> dict[str, int]:
        """The names of the mutants whose property is violated, with the length of each counterexample."""
        found: dict[str, int] = {}
        for violation in output.violations:
            if violation.code not in _FOUND or violation.counterexample is None:
                continue
            steps = violation.counterexample.steps
            number = steps[-1].state.get(VARIABLE)
            if isinstance(number, int) and 1 <= number <= len(self.mutants):
                found.setdefault(self.mutants[number - 1].name, len(steps))
        return found


def combine(specs: Specs, mutants: Iterable[Mutant]) -> tuple[Combination, ...]:
    """Group the mutants that can be checked together, by model. Any other must be checked alone."""
    by_model: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        if _fits(specs, mutant):
            by_model.setdefault(mutant.model, []).append(mutant)
    return tuple(
        _combination(specs, specs.model(name), tuple(fitting))
        for name, fitting in by_model.items()
        if fitting[1:]
    )


def _fits(specs: Specs, mutant: Mutant) -> bool:
    """Whether it changes only bodies and plain constants, and breaks an invariant or a step property."""
    model = specs.model(mutant.model)
    text = specs.files.get(f"{model.module}.tla", "")
    if mutant.file != f"{model.module}.tla" or re.search(rf"\b{VARIABLE}\b", text):
        return False
    originals = {part.name: part for part in parts(text)}
    specification = originals.get(model.configuration.specification)
    changed = _changes(specs, mutant)
    return (
        specification is not None
        and _SPEC.match(specification.body) is not None
        and changed is not None
        and mutant.breaks not in changed
        and not any("(" in part.parameters[1:] for part in changed.values())
        and (
            mutant.breaks in model.configuration.invariants
            or _action(originals.get(mutant.breaks)) is not None
        )
        and mutant.constants.keys() <= set(declared_constants(text))
        and all(_is_plain(value) for value in mutant.constants.values())
        and all(_is_plain(model.configuration.constants.get(name, "?")) for name in mutant.constants)
    )


def _changes(specs: Specs, mutant: Mutant) -> dict[str, Part] | None:
    """The definitions that the mutant changes, or None if it changes anything else."""
    before, after = parts(specs.files[mutant.file]), parts(mutant.apply(specs.files)[mutant.file])
    if [part.name for part in before] != [part.name for part in after]:
        return None
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    return {part.name: part for part in changed} if all(part.name for part in changed) else None


def _action(part: Part | None) -> tuple[str, str] | None:
    """The action A and the variables v of a property [][A]_v; A keeps its column."""
    found = _STEPS.match(part.body) if part is not None and not part.parameters else None
    if found is None or "]_" in found["action"] or "[][" in found["action"]:
        return None
    return " " * found.start("action") + found["action"], found["vars"]


def _is_plain(value: str) -> bool:
    """Whether a constant's value contains only strings, numbers and booleans, and no model value."""
    return not re.search(r"\w", _TEXTS.sub("", value))


def _combination(specs: Specs, model: Model, mutants: tuple[Mutant, ...]) -> Combination:
    originals = parts(specs.files[f"{model.module}.tla"])
    by_name = {part.name: part for part in originals}
    changes = {number: _changes(specs, mutant) or {} for number, mutant in enumerate(mutants, 1)}
    varied = sorted({name for mutant in mutants for name in mutant.constants})
    values = "".join(
        _choice(
            Part(name, ""),
            model.configuration.constants[name],
            {
                number: mutant.constants[name]
                for number, mutant in enumerate(mutants, 1)
                if name in mutant.constants
            },
        )
        for name in varied
    )
    text: list[str] = []
    place = max(at for at, part in enumerate(originals) if at == 0 or part.text.startswith("EXTENDS"))
    for at, part in enumerate(originals):
        bodies = {
            number: changed[part.name].body for number, changed in changes.items() if part.name in changed
        }
        if part.text.startswith("CONSTANT"):
            left = [name for name in declared_constants(part.text) if name not in varied]
            text.append(f"CONSTANTS {', '.join(left)}\n" if left else "")
        else:
            text.append(_choice(part, part.body, bodies) if bodies else part.text)
        if at == place:
            text.append(f"VARIABLE {VARIABLE}\n{values}")
    configuration = replace(
        model.configuration,
        specification="MutantSpec",
        constants={
            name: value for name, value in model.configuration.constants.items() if name not in varied
        },
        invariants=("MutantHolds",),
        properties=("MutantSteps",),
        view=None,
    )
    return Combination(
        model=model,
        mutants=mutants,
        files={
            **specs.files,
            f"{model.module}.tla": "".join(text),
            f"{MODULE}.tla": _wrapper(model, mutants, by_name),
        },
        module=MODULE,
        config=f"{configuration.text()}CONSTRAINT MutantGoesOn\n",
    )


def _choice(part: Part, body: str, others: Mapping[int, str]) -> str:
    """A definition that depends on `mutant`: one of `others`, else `body`."""
    name, parameters = part.name, part.parameters
    bodies = {0: body, **others}
    cases = [f"{VARIABLE} = {number} -> {name}Mutant{number}{parameters}" for number in others]
    return (
        "".join(f"{name}Mutant{number}{parameters} ==\n{text.rstrip()}\n" for number, text in bodies.items())
        + f"{name}{parameters} ==\n  CASE "
        + "\n    [] ".join([*cases, f"OTHER -> {name}Mutant0{parameters}"])
        + "\n\n"
    )


def _wrapper(model: Model, mutants: Sequence[Mutant], by_name: Mapping[str, Part]) -> str:
    """The module that chooses a mutant, checks its property, and stops exploring it after the violation.

    It uses TLC's registers: register `mutant` is TRUE once the violation was found; register `mutant` plus the number
    of mutants is TRUE from the next state on and stops the exploration. The delay lets TLC rebuild the counterexample.
    """
    specification = _SPEC.match(by_name[model.configuration.specification].body)
    if specification is None:
        raise ValueError(model.configuration.specification)
    init, step, variables = specification.groups()
    count = len(mutants)
    states: list[str] = []
    steps: list[str] = []
    actions: dict[str, str] = {}
    for number, mutant in enumerate(mutants, 1):
        found = _action(by_name.get(mutant.breaks))
        if mutant.breaks in model.configuration.invariants or found is None:
            states.append(f"{VARIABLE} = {number} -> {mutant.breaks}")
        else:
            action, of = found
            actions[mutant.breaks] = (
                f"{mutant.breaks}Step ==\n{action}\n{mutant.breaks}Stays == UNCHANGED {of}\n"
            )
            steps.append(f"{VARIABLE} = {number} -> {mutant.breaks}Step \\/ {mutant.breaks}Stays")
    watch = "\\/ TLCGet({v})\n    \\/ CASE {cases}\n    \\/ TLCSet({v}, TRUE) /\\ FALSE"

    def watched(cases: list[str]) -> str:
        if not cases:
            return "TRUE"
        return watch.format(v=VARIABLE, cases="\n         [] ".join([*cases, "OTHER -> TRUE"]))

    return f"""---- MODULE {MODULE} ----
EXTENDS {model.module}, Naturals, TLC
ASSUME \\A n \\in 1 .. {2 * count} : TLCSet(n, FALSE)
MutantInit == {VARIABLE} \\in 1 .. {count} /\\ {init}
MutantNext == ~TLCGet({VARIABLE} + {count}) /\\ {VARIABLE}' = {VARIABLE} /\\ {step}
MutantSpec == MutantInit /\\ [][MutantNext]_<<{VARIABLE}, {variables}>>
MutantGoesOn == TLCGet({VARIABLE}) => TLCSet({VARIABLE} + {count}, TRUE) /\\ FALSE
{"".join(actions.values())}MutantHolds ==
    {watched(states)}
MutantSteps == [][
    {watched(steps)}
    ]_<<{VARIABLE}, {variables}>>
====
"""
