"""The whole check: every model of the manifest, the coverage of the spec, and the mutants.

Two runs of TLC go on at a time, each with one worker: its search is then the same every time, so the figures in
the manifest are exact.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

from engine.errors import Reason
from engine.spec.errors import TlcFailedError
from engine.spec.models import Configuration, Model, Mutant, Specs, load
from engine.spec.tlc import Jar, Limits, Progress, Tlc, find_jar, find_java
from engine.spec.tool_output import ActionCoverage, Code, Counterexample, Counts, Location, Output, Violation

#: The name under which a deadlock is reported.
DEADLOCK = "no deadlock"


class Verdict(StrEnum):
    """What TLC found out about a property; it stops at the first one that does not hold."""

    HOLDS = "holds"
    VIOLATED = "violated"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class ModelResult:
    """What TLC said of one model. `surprises` is what differs from the manifest: empty when all is as it should be.

    `counterexample` belongs to the violated property. `seconds` is wall-clock time.
    """

    model: Model
    verdicts: Mapping[str, Verdict]
    counts: Counts
    depth: int
    counterexample: Counterexample | None
    coverage: tuple[ActionCoverage, ...]
    surprises: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Gap:
    """A part of the spec that no model reaches: what follows `after` in an action, or (None) the whole action."""

    action: str
    location: Location
    after: Location | None


@dataclass(frozen=True, slots=True)
class MutantResult:
    """Whether the property that a mutant breaks was found broken, in how many `steps`.

    `also` names another property that notices, if one does.
    """

    mutant: Mutant
    killed: bool
    steps: int
    also: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The answer to `check`. `gaps` is None when not every model was run, as it then says nothing.

    `spec` is the SHA-256 of the lifecycle's spec, by which a trace says what it was run against.
    """

    spec: str | None
    jar: Jar
    java: str
    tlc: str
    models: tuple[ModelResult, ...]
    gaps: tuple[Gap, ...] | None
    mutants: tuple[MutantResult, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Every property holds that must, every fault was found that must be, and nothing was left untried."""
        return (
            not any(result.surprises for result in self.models)
            and not self.gaps
            and all(result.killed for result in self.mutants)
        )


def check(
    *,
    jar: str | None = None,
    directory: str | None = None,
    models: Collection[str] | None = None,
    mutants: bool = False,
    graph: str | None = None,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    jobs: int = 2,
    progress: Callable[[Progress], None] | None = None,
) -> CheckResult:
    """Check the specs in `directory` (default: those of this engine) with TLC.

    `jar`: a tla2tools.jar to use instead of TLA2TOOLS_JAR or the installed package's. `models`: names of those to
    check, all by default. `mutants`: check the mutants too. `graph`: a file to which the state graph of the model
    Lifecycle is written. `jobs`: how many runs of TLC go on at once. `progress` is called about twice a second for
    each of them, from other threads.

    Raises `CheckError` when the checker cannot run; a property that does not hold is in the result.
    """
    started = time.monotonic()
    specs = load(directory)
    tlc = Tlc(find_java(), find_jar(jar), limits)
    chosen = specs.models if models is None else tuple(specs.model(name) for name in models)
    if mutants:
        for mutant in specs.mutants:
            mutant.apply(specs.files)  # one that does not fit is known before minutes are spent
    run = _Check(specs, tlc, progress)
    with ThreadPoolExecutor(jobs) as pool:
        checking = {
            model.name: pool.submit(run.model, model, graph if model.name == GRAPH_MODEL else None)
            for model in sorted(chosen, key=lambda model: -model.runtime)
        }
        mutating = [pool.submit(run.mutant, mutant) for mutant in specs.mutants] if mutants else []
        try:
            results = tuple(checking[model.name].result() for model in chosen)
            killed = tuple(future.result() for future in mutating)
        except BaseException:
            run.cancelled.set()
            _drop([*checking.values(), *mutating])
            raise
    return CheckResult(
        spec=specs.digest,
        jar=tlc.jar,
        java=tlc.java,
        tlc=run.version,
        models=results,
        gaps=gaps(result.coverage for result in results) if models is None else None,
        mutants=killed,
        seconds=time.monotonic() - started,
    )


#: The model whose state graph the machine is compared with.
GRAPH_MODEL = "Lifecycle"


def _drop(futures: Iterable[Future[ModelResult] | Future[MutantResult]]) -> None:
    for future in futures:
        future.cancel()


class _Check:
    """One check under way."""

    def __init__(self, specs: Specs, tlc: Tlc, progress: Callable[[Progress], None] | None) -> None:
        self.version = ""
        self.cancelled = threading.Event()
        self._specs = specs
        self._tlc = tlc
        self._progress = progress

    def model(self, model: Model, graph: str | None) -> ModelResult:
        started = time.monotonic()
        output = self._run(model, model.configuration, name=model.name, coverage=model.coverage, graph=graph)
        self.version = output.version
        violated = self._name(model, model.configuration, self._specs.files, output)
        return ModelResult(
            model=model,
            verdicts=_verdicts(model.configuration, violated),
            counts=output.counts,
            depth=output.depth,
            counterexample=output.violations[0].counterexample if output.violations else None,
            coverage=output.coverage,
            surprises=tuple(_surprises(model, output, violated)),
            seconds=time.monotonic() - started,
        )

    def mutant(self, mutant: Mutant) -> MutantResult:
        """Ask the mutated spec first for the property that it should break, then for all others."""
        started = time.monotonic()
        files = mutant.apply(self._specs.files)
        model = self._specs.model(mutant.model)
        configuration = model.configuration.assign(mutant.constants)
        output = self._run(model, configuration.only([mutant.breaks]), name=mutant.name, files=files)
        rest = configuration.only(set(configuration.names) - {mutant.breaks})
        other = self._run(model, rest, name=mutant.name, files=files)
        return MutantResult(
            mutant=mutant,
            killed=bool(output.violations),
            steps=_length(output.violations),
            also=self._name(model, rest, files, other),
            seconds=time.monotonic() - started,
        )

    def _run(
        self,
        model: Model,
        configuration: Configuration,
        *,
        name: str,
        files: Mapping[str, str] | None = None,
        coverage: bool = False,
        graph: str | None = None,
    ) -> Output:
        return self._tlc.run(
            self._specs.files if files is None else files,
            model.module,
            configuration.text(),
            name=name,
            quick=model.is_quick,
            coverage=coverage,
            graph=graph,
            progress=self._progress,
            cancelled=self.cancelled,
        )

    def _name(
        self, model: Model, configuration: Configuration, files: Mapping[str, str], output: Output
    ) -> str | None:
        return name_violation(
            configuration, output, lambda asked: self._run(model, asked, name=model.name, files=files)
        )


def name_violation(
    configuration: Configuration, output: Output, run: Callable[[Configuration], Output]
) -> str | None:
    """The property of `configuration` that `output` says is violated, or None when none is.

    TLC 2.15 does not name temporal properties, nor parts of another module; then `run` asks for each alone.
    """
    if not output.violations:
        return None
    violation = output.violations[0]
    if violation.code == Code.DEADLOCK:
        return DEADLOCK
    for name in configuration.names:
        if name in violation.names:
            return name
    # In our models the ones that TLC does not name come last.
    for name in reversed(configuration.properties):
        if run(configuration.only([name])).violations:
            return name
    raise TlcFailedError(
        f"TLC found a fault that belongs to no property: {violation.text}",
        reason=Reason.PROGRAM_FAILED,
        hint="correct the spec",
    )


def _verdicts(configuration: Configuration, violated: str | None) -> dict[str, Verdict]:
    names = (*configuration.names, DEADLOCK)
    if violated is None:
        return dict.fromkeys(names, Verdict.HOLDS)
    return {name: Verdict.VIOLATED if name == violated else Verdict.UNDECIDED for name in names}


def _surprises(model: Model, output: Output, violated: str | None) -> Iterable[str]:
    if violated != model.violates:
        if violated is None:
            yield f"{model.violates} holds, and should not"
        else:
            yield f"{violated} is violated"
        return
    if model.must_hold:
        yield from figures(model, output)


def figures(model: Model, output: Output) -> Iterable[str]:
    """How the size of the search differs from what the manifest says it is."""
    for what, expected, found in (
        ("distinct states", model.distinct, output.counts.distinct),
        ("states", model.total, output.counts.generated),
        ("depth", model.depth, output.depth),
    ):
        if expected is not None and expected != found:
            yield f"{found} {what}, where the manifest has {expected}"


def _length(violations: list[Violation]) -> int:
    if not violations or violations[0].counterexample is None:
        return 0
    return len(violations[0].counterexample.steps)


def gaps(coverages: Iterable[tuple[ActionCoverage, ...]]) -> tuple[Gap, ...]:
    """What none of the runs reached: actions never taken and expressions of actions never evaluated.

    An operator that an action uses in several places is listed once for each, in order, so an expression is known
    by its place and by which of its occurrences in the action it is. Of a stretch that was not reached, only the
    start is named.
    """
    taken: dict[tuple[str, Location], int] = {}
    evaluated: dict[tuple[str, Location], dict[tuple[Location, int], int]] = {}
    for coverage in coverages:
        for action in coverage:
            key = (action.name, action.location)
            taken[key] = taken.get(key, 0) + action.taken
            counts = evaluated.setdefault(key, {})
            occurrences: dict[Location, int] = {}
            for expression in action.expressions:
                nth = occurrences[expression.location] = occurrences.get(expression.location, 0) + 1
                at = (expression.location, nth)
                counts[at] = counts.get(at, 0) + expression.count
    found: list[Gap] = []
    for (name, location), count in taken.items():
        if not count:
            found.append(Gap(name, location, None))
            continue
        reached: Location | None = location
        for (place, _), times in evaluated[name, location].items():
            if times:
                reached = place
            elif reached is not None:
                found.append(Gap(name, place, reached))
                reached = None
    return tuple(found)
