"""The results of a check as text for a terminal and as data for `--json`. Nothing here prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tabulate import tabulate

from engine.spec.checker import CheckResult, ModelResult
from engine.spec.coverage import Gap
from engine.spec.models import Model
from engine.spec.mutants import MutantResult
from engine.spec.tlc import Progress
from engine.spec.tool_output import ActionCoverage, Counterexample, Location, Step
from engine.spec.values import Value, flatten, format_value
from engine.spec.verdicts import Verdict

_TABLE = "simple"


def report(result: CheckResult) -> str:
    """The whole result: models, properties, surprises, mutants, and a summary line."""
    parts = [models_table(result), properties_table(result)]
    if result.gaps is not None:
        parts.append(actions_table(result))
    parts += [surprise(model) for model in result.models if model.surprises]
    if result.gaps:
        parts.append(gaps(result.gaps))
    if result.mutants:
        parts.append(mutants_table(result.mutants))
    parts.append(summary(result))
    return "\n\n".join(parts)


def models_table(result: CheckResult) -> str:
    """One line a model: the size of the search, and whether the result is as expected."""
    return tabulate(
        [
            (
                model.model.name,
                model.counts.distinct,
                model.counts.generated,
                model.depth or "",
                f"{model.seconds:.1f}",
                "; ".join(model.surprises) or _as_expected(model.model),
            )
            for model in result.models
        ],
        headers=("model", "distinct", "states", "depth", "s", "result"),
        tablefmt=_TABLE,
    )


def properties_table(result: CheckResult) -> str:
    """One line a property that must hold: the verdict over all models that check it."""
    asked: dict[str, list[tuple[str, Verdict]]] = {}
    for model in result.models:
        if model.model.must_hold:
            for name, verdict in model.verdicts.items():
                asked.setdefault(name, []).append((model.model.name, verdict))
    return tabulate(
        [(name, _worst(verdict for _, verdict in found), _where(found)) for name, found in asked.items()],
        headers=("property", "verdict", "in"),
        tablefmt=_TABLE,
    )


def actions_table(result: CheckResult) -> str:
    """One line an action: how often it was taken, over all models with coverage."""
    taken: dict[tuple[str, str], int] = {}
    for model in result.models:
        for action in model.coverage:
            key = (action.name, place(action.location))
            taken[key] = taken.get(key, 0) + action.taken
    return tabulate(
        [(name, where, times or "NEVER") for (name, where), times in taken.items()],
        headers=("action", "at", "taken"),
        tablefmt=_TABLE,
    )


def _worst(verdicts: Iterable[Verdict]) -> Verdict:
    found = set(verdicts)
    return next(
        (verdict for verdict in (Verdict.VIOLATED, Verdict.UNDECIDED) if verdict in found), Verdict.HOLDS
    )


def _where(found: list[tuple[str, Verdict]]) -> str:
    worst = _worst(verdict for _, verdict in found)
    return ", ".join(name for name, verdict in found if verdict is worst)


def _as_expected(model: Model) -> str:
    return "holds" if model.must_hold else f"{model.violates} fails, as it must"


def surprise(result: ModelResult) -> str:
    """A model's unexpected result, with its counterexample."""
    head = f"{result.model.name}: {'; '.join(result.surprises)}"
    if result.counterexample is None:
        return head
    return f"{head}\n{counterexample(result.counterexample)}"


def counterexample(found: Counterexample) -> str:
    """The behaviour as a numbered list; each step shows only what it changed."""
    lines = []
    for step, before in _steps(found):
        if before is None:
            lines.append(f"{step.number:3}. the initial state")
            continue
        lines.append(f"{step.number:3}. {step.action or 'a step'}")
        lines += [
            f"       {name}: {format_value(before[name]) if name in before else 'nothing'} -> {format_value(value)}"
            for name, value in sorted(step.changed.items())
        ]
    if found.back_to is not None:
        lines.append(f"     and again from step {found.back_to}, for ever")
    if found.stutters:
        lines.append("     and nothing happens any more")
    return "\n".join(lines)


def _steps(found: Counterexample) -> Iterator[tuple[Step, dict[str, Value] | None]]:
    before: dict[str, Value] | None = None
    for step in found.steps:
        yield step, before
        before = flatten(step.state)


def gaps(found: Iterable[Gap]) -> str:
    """The parts of the spec that no model reached."""
    return "\n".join(
        [
            "Never reached, so not checked:",
            *(
                f"  {gap.action}: "
                + (
                    f"the whole action, {place(gap.location)}"
                    if gap.after is None
                    else f"what follows {place(gap.after)}, at {place(gap.location)}"
                )
                for gap in found
            ),
        ]
    )


def place(location: Location) -> str:
    """The location in the form that editors accept."""
    return f"{location.module}.tla:{location.line}:{location.column}"


def mutants_table(results: Iterable[MutantResult]) -> str:
    """One line a mutant: the property that caught it, and the length of the counterexample."""
    return tabulate(
        [
            (
                result.mutant.name,
                "no answer" if result.error else "killed" if result.killed else "SURVIVED",
                result.mutant.breaks,
                result.steps or "",
                result.also or "",
                result.mutant.says,
            )
            for result in results
        ],
        headers=("mutant", "", "by", "steps", "also", "what is wrong"),
        tablefmt=_TABLE,
    )


def summary(result: CheckResult) -> str:
    """One line: whether all is as expected, TLC's version and the time."""
    alive = [mutant.mutant.name for mutant in result.mutants if not mutant.killed and not mutant.error]
    faults = [model.model.name for model in result.models if model.surprises]
    what = "; ".join(
        text
        for text in (
            f"not as expected: {', '.join(faults)}" if faults else "",
            f"{len(result.gaps)} parts never reached" if result.gaps else "",
            f"survived: {', '.join(alive)}" if alive else "",
            f"{len(result.errors)} without a result" if result.errors else "",
        )
        if text
    )
    states = sum(model.counts.distinct for model in result.models)
    coverage = "" if result.gaps is None or result.gaps else ", every action and disjunct taken"
    mutants = f", {len(result.mutants)} mutants killed" if result.mutants else ""
    good = f"all {len(result.models)} models are as expected: {states} distinct states{coverage}{mutants}"
    return f"check: {what or good} ({result.tlc}, {result.seconds:.0f} s)"


def progress_line(progress: Progress) -> str:
    """One line for a run in progress."""
    counts = progress.counts
    return (
        f"{progress.done} of {progress.total}; {progress.name}: {counts.distinct} distinct states, "
        f"{counts.queue} in the queue, {progress.elapsed:.0f} s"
    )


def as_data(result: CheckResult) -> dict[str, Any]:
    """The whole result as JSON-compatible data."""
    return {
        "ok": result.ok,
        "spec": result.spec,
        "seconds": round(result.seconds, 3),
        "tlc": result.tlc,
        "java": result.java,
        "jar": {"path": result.jar.path, "source": result.jar.source, "sha256": result.jar.sha256},
        "errors": list(result.errors),
        "models": [_model_data(model) for model in result.models],
        "gaps": None if result.gaps is None else [_gap_data(gap) for gap in result.gaps],
        "mutants": [
            {
                "name": mutant.mutant.name,
                "says": mutant.mutant.says,
                "breaks": mutant.mutant.breaks,
                "killed": mutant.killed,
                "steps": mutant.steps,
                "also": mutant.also,
            }
            for mutant in result.mutants
        ],
    }


def _model_data(result: ModelResult) -> dict[str, Any]:
    return {
        "name": result.model.name,
        "module": result.model.module,
        "says": result.model.says,
        "expected": result.model.result,
        "surprises": list(result.surprises),
        "distinctStates": result.counts.distinct,
        "totalStates": result.counts.generated,
        "stateDepth": result.depth,
        "seconds": round(result.seconds, 3),
        "properties": {name: str(verdict) for name, verdict in result.verdicts.items()},
        "actions": _taken(result.coverage),
        "counterexample": None
        if result.counterexample is None
        else _counterexample_data(result.counterexample),
    }


def _taken(coverage: Iterable[ActionCoverage]) -> dict[str, int]:
    """How often each action was taken, summed over the disjuncts that TLC lists apart."""
    taken: dict[str, int] = {}
    for action in coverage:
        taken[action.name] = taken.get(action.name, 0) + action.taken
    return taken


def _counterexample_data(found: Counterexample) -> dict[str, Any]:
    return {
        "steps": [
            {
                "number": step.number,
                "action": step.action or None,
                "at": None if step.location is None else place(step.location),
                "changed": {name: format_value(value) for name, value in sorted(step.changed.items())},
            }
            for step in found.steps
        ],
        "backTo": found.back_to,
        "stutters": found.stutters,
    }


def _gap_data(gap: Gap) -> dict[str, Any]:
    return {
        "action": gap.action,
        "at": place(gap.location),
        "after": None if gap.after is None else place(gap.after),
    }
