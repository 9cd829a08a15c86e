"""Guard mutation: each conjunct of each guard in the spec is deleted in turn, and the check must notice.

The mutants in `specs/mutants/` are chosen by hand; this is the other half: nothing is chosen. SANY's own syntax
tree says what the conjuncts are: every state-level conjunct of every action that `Next` reaches, and of every
operator that stands as one.
"""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum

from tabulate import tabulate

from engine.errors import Reason
from engine.spec.configuration import Configuration
from engine.spec.errors import ManifestError, MemoryLimitError, TimeLimitError, TlcFailedError
from engine.spec.java import find_jar, find_java
from engine.spec.models import Model, Specs, load
from engine.spec.tlc import Limits, Tlc
from engine.spec.tool_output import Location, Output
from engine.spec.verdicts import DEADLOCK, figures, name_violation

_NEXT = "Next"
_MODULE = "GVisorRuntime"
#: The same spec, with a view of its states.
_SEARCH = "Search"
#: A level of 1 is a state predicate, one of 2 has primes in it.
_STATE_LEVEL = 1
#: How many times longer than it should a search may take: without a bound, the adversary's has no end.
_TIMES_LONGER = 8
_LISTS = {"$ConjList": "and", "\\land": "and", "$DisjList": "or", "\\lor": "or"} | {
    "$BoundedExists": "or",
    "$BoundedForall": "all",
}


class Caught(StrEnum):
    """What noticed that a conjunct is missing."""

    PROPERTY = "property"
    FIGURES = "figures"
    TLC = "TLC"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Conjunct:
    """A conjunct of `operator`, with its text on one line."""

    operator: str
    text: str
    location: Location


@dataclass(frozen=True, slots=True)
class Result:
    """What came of deleting a conjunct: `by` names the property, or says which figure differs, in `model`."""

    conjunct: Conjunct
    caught: Caught
    by: str
    model: str


def conjuncts(specs: Specs, tlc: Tlc) -> tuple[Conjunct, ...]:
    """Every conjunct of every guard that `Next` reaches, in the order of the text. Raises `CheckError`."""
    tree = _Tree(ET.fromstring(tlc.syntax_tree(specs.files, _MODULE)))  # noqa: S314 - SANY wrote it for us
    found = {location: operator for operator, location in tree.guards(_NEXT)}
    lines = specs.files[f"{_MODULE}.tla"].splitlines()
    return tuple(
        Conjunct(operator, " ".join(_text(lines, location).split()), location)
        for location, operator in sorted(found.items(), key=lambda item: (item[0].line, item[0].column))
    )


def delete(files: Mapping[str, str], location: Location) -> dict[str, str]:
    """`files` with TRUE in the place of what stands at `location`; every other token stays where it is."""
    name = f"{location.module}.tla"
    lines = files[name].splitlines()
    first = lines[location.line - 1]
    last = lines[location.end_line - 1]
    rest = last[location.end_column :]
    lines[location.line - 1] = (
        first[: location.column - 1] + "TRUE" + (rest if location.end_line == location.line else "")
    )
    if location.end_line != location.line:
        lines[location.line : location.end_line] = [""] * (location.end_line - location.line - 1) + [
            " " * location.end_column + rest
        ]
    return {**files, name: "\n".join(lines) + "\n"}


def mutate_guards(
    *,
    jar: str | None = None,
    directory: str | None = None,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    jobs: int = 2,
    done: Callable[[Result], None] | None = None,
) -> tuple[Result, ...]:
    """Delete each conjunct in turn and ask every model, the smallest first, until one notices.

    `done` is called for each, from other threads. Takes minutes. Raises `CheckError` when the checker cannot run.
    """
    specs = load(directory)
    tlc = Tlc(find_java(), find_jar(jar), limits)
    models = sorted(
        (model for model in specs.models if model.module in (_MODULE, _SEARCH) and model.must_hold),
        key=lambda model: model.runtime,
    )
    cancelled = threading.Event()

    def one(conjunct: Conjunct) -> Result:
        result = _mutate(conjunct, specs, models, tlc, cancelled)
        if done is not None:
            done(result)
        return result

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(one, conjunct) for conjunct in conjuncts(specs, tlc)]
        try:
            return tuple(future.result() for future in futures)
        except BaseException:
            cancelled.set()
            for future in futures:
                future.cancel()
            raise


def table(results: Iterable[Result]) -> str:
    """A line for each conjunct that was deleted: what noticed."""
    return tabulate(
        [
            (
                result.conjunct.operator,
                result.conjunct.text,
                "SURVIVED" if result.caught is Caught.NOTHING else result.by,
                result.model,
            )
            for result in results
        ],
        headers=("guard of", "conjunct", "caught by", "in"),
        tablefmt="simple",
    )


def _mutate(
    conjunct: Conjunct, specs: Specs, models: list[Model], tlc: Tlc, cancelled: threading.Event
) -> Result:
    """A property that fails is the best answer, a figure that differs the next; so all models may be asked."""
    files = delete(specs.files, conjunct.location)
    second_best: Result | None = None
    for model in models:

        def run(asked: Configuration, model: Model = model) -> Output:
            limits = replace(
                tlc.limits, seconds=min(tlc.limits.seconds, _TIMES_LONGER * max(model.runtime, 5))
            )
            return replace(tlc, limits=limits).run(
                files, model.module, asked.text(), name=model.name, quick=model.is_quick, cancelled=cancelled
            )

        try:
            output = run(model.configuration)
        except (TlcFailedError, TimeLimitError, MemoryLimitError) as error:
            return second_best or Result(conjunct, Caught.TLC, error.what, model.name)
        if output.violations:
            violated = name_violation(model.configuration, output, run)
            return Result(conjunct, Caught.PROPERTY, violated or DEADLOCK, model.name)
        if second_best is None and (differences := "; ".join(figures(model, output))):
            second_best = Result(conjunct, Caught.FIGURES, differences, model.name)
    return second_best or Result(conjunct, Caught.NOTHING, "", "")


def _text(lines: list[str], location: Location) -> str:
    if location.line == location.end_line:
        return lines[location.line - 1][location.column - 1 : location.end_column]
    middle = lines[location.line : location.end_line - 1]
    return "\n".join(
        (
            lines[location.line - 1][location.column - 1 :],
            *middle,
            lines[location.end_line - 1][: location.end_column],
        )
    )


class _Tree:
    """SANY's syntax tree, as its XML exporter writes it."""

    def __init__(self, root: ET.Element) -> None:
        self._nodes: dict[str, ET.Element] = {}
        self._by_name: dict[str, ET.Element] = {}
        for entry in root.iterfind("context/entry"):
            uid, node = entry.findtext("UID", ""), entry[1]
            self._nodes[uid] = node
            if node.tag == "UserDefinedOpKind" and node.findtext("location/filename") == _MODULE:
                self._by_name[node.findtext("uniquename", "")] = node

    def guards(self, operator: str) -> Iterator[tuple[str, Location]]:
        """The conjuncts of the guards of every action that `operator` leads to; each perhaps more than once."""
        if operator not in self._by_name:
            raise ManifestError(
                f"{_MODULE}.tla does not define {operator}", reason=Reason.MALFORMED, hint="define it"
            )
        yield from self._definition(self._by_name[operator], set())

    def _definition(self, node: ET.Element, seen: set[str]) -> Iterator[tuple[str, Location]]:
        name = node.findtext("uniquename", "")
        if name in seen or self._by_name.get(name) is not node:
            return
        seen.add(name)
        body = node.find("body")
        if body is not None:
            yield from self._walk(name, body[0], seen)

    def _walk(self, name: str, node: ET.Element, seen: set[str]) -> Iterator[tuple[str, Location]]:
        operator = self._operator(node)
        kind = self._kind(node)
        if kind is None:
            if operator is not None:
                yield from self._definition(operator, seen)
            return
        for operand in node.iterfind("operands/*"):
            # In a chain of three the first two are not a conjunct, each of them is.
            if kind == "and" and _level(operand) <= _STATE_LEVEL and self._kind(operand) != "and":
                yield name, _place(operand)
            # A disjunct without primes is part of one guard, not a guard.
            if kind in {"and", "all"} or _level(operand) > _STATE_LEVEL:
                yield from self._walk(name, operand, seen)

    def _kind(self, node: ET.Element) -> str | None:
        operator = self._operator(node)
        return None if operator is None else _LISTS.get(operator.findtext("uniquename", ""))

    def _operator(self, node: ET.Element) -> ET.Element | None:
        reference = node.find("operator/*/UID")
        return None if reference is None else self._nodes.get(reference.text or "")


def _level(node: ET.Element) -> int:
    return int(node.findtext("level", "0"))


def _place(node: ET.Element) -> Location:
    def number(path: str) -> int:
        return int(node.findtext(f"location/{path}", "0"))

    return Location(
        module=node.findtext("location/filename", ""),
        line=number("line/begin"),
        column=number("column/begin"),
        end_line=number("line/end"),
        end_column=number("column/end"),
    )
