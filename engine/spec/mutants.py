"""Check that each mutant breaks its property: first many mutants of a model in one spec, then one by one.

Most are caught with few choices (`Mutant.narrow`, `Model.narrow`): those behaviours are a subset, so a violation found
there is a violation of the full model. The rest are checked with all choices, and then each alone. So a mutant survives
only if TLC says so of that mutant alone, and a crashed JVM costs time but changes no verdict.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from engine.spec.combine import Combination, combine
from engine.spec.configuration import Configuration
from engine.spec.errors import RunError, SpecError
from engine.spec.models import Mutant, Specs
from engine.spec.tool_output import Code, Output, Violation
from engine.spec.verdicts import name_violation


@dataclass(frozen=True, slots=True)
class MutantResult:
    """Whether the mutant's property is violated, and after how many `steps`.

    `also`: properties that catch a mutant which its own property misses. `error`: why TLC gave no result. `seconds`:
    wall-clock time of the run with the result; that run may have checked other mutants too.
    """

    mutant: Mutant
    killed: bool
    steps: int
    also: str | None
    seconds: float
    error: str | None = None


class Run(Protocol):
    """The signature of `Tlc.run`."""

    def __call__(
        self,
        files: Mapping[str, str],
        module: str,
        config: str,
        *,
        name: str,
        quick: bool,
        deadlock: bool = True,
        go_on: bool = False,
    ) -> Output: ...


class MutantRuns:
    """The mutants of one check. `run` runs TLC; `done` is called with the number of mutants finished."""

    def __init__(self, specs: Specs, run: Run, done: Callable[[int], None]) -> None:
        self._specs = specs
        self._run = run
        self._done = done

    def jobs(self, mutants: Collection[Mutant]) -> Iterable[Callable[[], dict[str, MutantResult]]]:
        """Independent jobs, each returning results by mutant name."""
        together = combine(self._specs, mutants)
        combined = {mutant.name for combination in together for mutant in combination.mutants}
        for combination in together:
            yield partial(self._group, combination)
        for mutant in mutants:
            if mutant.name not in combined:
                yield partial(self._each, [mutant], first=mutant.narrow)

    def _group(self, combination: Combination) -> dict[str, MutantResult]:
        left = list(combination.mutants)
        found: dict[str, MutantResult] = {}
        narrow = combination.model.narrow
        before: list[Mutant] = []
        for choices in (
            {mutant.name: {**narrow, **mutant.narrow} for mutant in left},
            dict.fromkeys((mutant.name for mutant in left), narrow),
            {},
        ):
            chosen = [
                replace(mutant, constants={**choices.get(mutant.name, {}), **mutant.constants})
                for mutant in left
            ]
            if chosen == before:
                continue
            for fitting in combine(self._specs, chosen):
                found.update(self._together(fitting))
            left = [mutant for mutant in left if mutant.name not in found]
            before = [mutant for mutant in chosen if mutant.name not in found]
        return {**found, **self._each(left)}

    def _together(self, combination: Combination) -> dict[str, MutantResult]:
        """The mutants of `combination` that are caught. The others remain undecided."""
        started = time.monotonic()
        try:
            output = self._run(
                combination.files,
                combination.module,
                combination.config,
                name=f"{combination.model.name}, {len(combination.mutants)} mutants",
                quick=combination.model.is_quick,
                deadlock=False,
                go_on=True,
            )
        except (RunError, SpecError):  # the faulty one is reported when it is checked alone
            return {}
        seconds = time.monotonic() - started
        caught = combination.caught(output)
        self._done(len(caught))
        by_name = {mutant.name: self._as_asked(mutant) for mutant in combination.mutants}
        return {
            name: MutantResult(by_name[name], True, steps, None, seconds) for name, steps in caught.items()
        }

    def _as_asked(self, mutant: Mutant) -> Mutant:
        """The mutant with its original constants."""
        return next(original for original in self._specs.mutants if original.name == mutant.name)

    def _each(
        self, mutants: Iterable[Mutant], *, first: Mapping[str, str] | None = None
    ) -> dict[str, MutantResult]:
        found: dict[str, MutantResult] = {}
        for mutant in mutants:
            found[mutant.name] = self._alone(mutant, first or {})
            self._done(1)
        return found

    def _alone(self, mutant: Mutant, first: Mapping[str, str]) -> MutantResult:
        """Check the property that it should break, with the choices `first` if any; if it holds, check all others."""
        started = time.monotonic()
        model = self._specs.model(mutant.model)
        files = mutant.apply(self._specs.files)
        # A mutant may read what a view leaves out.
        configuration = replace(model.configuration.assign(mutant.constants), view=None)

        def ask(asked: Configuration) -> Output:
            return self._run(files, model.module, asked.text(), name=mutant.name, quick=model.is_quick)

        steps, also = 0, None
        try:
            narrow = configuration.assign({**first, **mutant.constants})
            for tried in (narrow, configuration) if first else (configuration,):
                violations = ask(tried.only([mutant.breaks])).violations
                killed = bool(violations) and violations[0].code != Code.DEADLOCK
                if killed:
                    break
            if killed:
                steps = _length(violations)
            else:
                rest = configuration.only(set(configuration.names) - {mutant.breaks})
                also = name_violation(rest, ask(rest), ask)
        except RunError as error:
            return MutantResult(mutant, False, 0, None, time.monotonic() - started, error.what)
        return MutantResult(mutant, killed, steps, also, time.monotonic() - started)


def _length(violations: list[Violation]) -> int:
    if not violations or violations[0].counterexample is None:
        return 0
    return len(violations[0].counterexample.steps)
