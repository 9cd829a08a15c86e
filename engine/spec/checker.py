"""Check every model of the manifest, the coverage of the spec, and the mutants.

Each run of TLC is its own JVM, so a crash or a hang costs only that run. Two runs go on at a time, each with one
worker: with one worker TLC's search is deterministic, so the figures in the manifest are exact.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from engine.spec.coverage import Gap, gaps
from engine.spec.errors import RunError
from engine.spec.java import Jar, find_jar, find_java
from engine.spec.models import Model, Mutant, Specs, load
from engine.spec.mutants import MutantResult, MutantRuns
from engine.spec.tlc import Limits, Progress, Tlc
from engine.spec.tool_output import ActionCoverage, Counterexample, Counts, Output
from engine.spec.verdicts import DEADLOCK, Verdict, name_violation, surprises, verdicts


@dataclass(frozen=True, slots=True)
class ModelResult:
    """TLC's result for one model. `surprises`: differences from the manifest, empty if there are none.

    `counterexample`: of the violated property. `seconds`: wall-clock time. `error`: why TLC gave no result; the other
    fields then mean nothing.
    """

    model: Model
    verdicts: Mapping[str, Verdict]
    counts: Counts
    depth: int
    counterexample: Counterexample | None
    coverage: tuple[ActionCoverage, ...]
    surprises: tuple[str, ...]
    seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of `check`. `gaps` is None unless every model was run.

    `spec` is the SHA-256 of the lifecycle's spec; a trace's header names the same digest.
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
    def errors(self) -> tuple[str, ...]:
        """The errors of all models and mutants."""
        given = [*(model.error for model in self.models), *(mutant.error for mutant in self.mutants)]
        return tuple(error for error in given if error is not None)

    @property
    def ok(self) -> bool:
        """Whether every model met the manifest, every mutant was killed, and no part was unreached."""
        return (
            not self.errors
            and not any(result.surprises for result in self.models)
            and not self.gaps
            and all(result.killed for result in self.mutants)
        )


#: The model whose state graph is compared with the machine.
GRAPH_MODEL = "Lifecycle"
#: Smallest number of TLC runs for which a class archive (AppCDS) saves time.
_MANY = 4


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

    `jar`: a tla2tools.jar to use instead of TLA2TOOLS_JAR or the installed package's. `models`: names of the models to
    check, default all. `mutants`: check the mutants too. `graph`: file to which the state graph of the model Lifecycle
    is written. `jobs`: number of TLC runs at a time. `progress` is called from other threads, about twice a second for
    each run.

    Raises `CheckError` when the checker cannot run. A violated property, a timeout and a crash of one run are part of
    the result.
    """
    started = time.monotonic()
    specs = load(directory)
    tlc = Tlc(find_java(), find_jar(jar), limits)
    chosen = specs.models if models is None else tuple(specs.model(name) for name in models)
    asked = specs.mutants if mutants else ()
    for mutant in asked:
        mutant.apply(specs.files)  # fail before minutes are spent
    with tempfile.TemporaryDirectory(prefix="engine-classes-") as directory_of_classes:
        archive = os.path.join(directory_of_classes, "tlc.jsa") if len(chosen) >= _MANY or asked else None
        run = _Check(specs, replace(tlc, archive=archive), progress, len(chosen) + len(asked), graph)
        results, killed = run.all(chosen, asked, jobs)
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


class _Check:
    """A check in progress. `total`: number of models and mutants."""

    def __init__(
        self,
        specs: Specs,
        tlc: Tlc,
        progress: Callable[[Progress], None] | None,
        total: int,
        graph: str | None,
    ) -> None:
        self.version = ""
        self._specs = specs
        self._tlc = tlc
        self._progress = progress
        self._total = total
        self._graph = graph
        self._done = 0
        self._lock = threading.Lock()
        self._cancelled = threading.Event()

    def all(
        self, models: Collection[Model], mutants: Collection[Mutant], jobs: int
    ) -> tuple[tuple[ModelResult, ...], tuple[MutantResult, ...]]:
        """The results in the order of the arguments."""
        first = min(models, key=lambda model: model.runtime)
        found = {first.name: self._model(first, keep_classes=self._tlc.archive is not None)}
        of_mutants = MutantRuns(self._specs, self._run, self._is_done)
        with ThreadPoolExecutor(jobs) as pool:
            checking: list[Future[ModelResult]] = [
                pool.submit(self._model, model)
                for model in sorted(models, key=lambda model: -model.runtime)
                if model is not first
            ]
            mutating = [pool.submit(job) for job in of_mutants.jobs(mutants)]
            try:
                found.update(
                    (result.model.name, result) for result in (future.result() for future in checking)
                )
                killed = {name: result for future in mutating for name, result in future.result().items()}
            except BaseException:
                self._cancelled.set()
                _drop([*checking, *mutating])
                raise
        return tuple(found[model.name] for model in models), tuple(killed[mutant.name] for mutant in mutants)

    def _model(self, model: Model, *, keep_classes: bool = False) -> ModelResult:
        started = time.monotonic()
        configuration = model.configuration
        try:
            output = self._run(
                self._specs.files,
                model.module,
                configuration.text(),
                name=model.name,
                quick=model.is_quick,
                coverage=model.coverage and not model.covered_with,
                graph=self._graph if model.name == GRAPH_MODEL else None,
                keep_classes=keep_classes,
            )
            violated = name_violation(
                configuration,
                output,
                lambda asked: self._run(
                    self._specs.files, model.module, asked.text(), name=model.name, quick=model.is_quick
                ),
            )
            coverage = output.coverage
            if model.coverage and model.covered_with:
                covered = configuration.assign(model.covered_with).only([])
                coverage = self._run(
                    self._specs.files,
                    model.module,
                    covered.text(),
                    name=model.name,
                    quick=True,
                    coverage=True,
                ).coverage
        except RunError as error:
            undecided = dict.fromkeys((*configuration.names, DEADLOCK), Verdict.UNDECIDED)
            spent = time.monotonic() - started
            result = ModelResult(
                model, undecided, Counts(), 0, None, (), ("TLC gave no result",), spent, error.what
            )
        else:
            self.version = output.version
            result = ModelResult(
                model=model,
                verdicts=verdicts(configuration, violated),
                counts=output.counts,
                depth=output.depth,
                counterexample=output.violations[0].counterexample if output.violations else None,
                coverage=coverage,
                surprises=tuple(surprises(model, output, violated)),
                seconds=time.monotonic() - started,
            )
        self._is_done(1)
        return result

    def _run(self, files: Mapping[str, str], module: str, config: str, **options: Any) -> Output:
        return self._tlc.run(
            files,
            module,
            config,
            progress=None if self._progress is None else self._tell,
            cancelled=self._cancelled,
            **options,
        )

    def _tell(self, now: Progress) -> None:
        if self._progress is not None:
            self._progress(replace(now, done=self._done, total=self._total))

    def _is_done(self, number: int) -> None:
        with self._lock:
            self._done += number


def _drop(futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.cancel()
