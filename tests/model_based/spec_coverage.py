"""Which edges of the spec real runs took, told in pytest's summary: one that none took is a failure.

Each stateful test hands over its counts with its report, so they add up wherever it ran, pytest-xdist's workers
included. Registered by tests/conftest.py.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field

import pytest
from tabulate import tabulate

from engine.traces.move import Trigger
from tests.model_based.spec_path import Edge, edges
from tests.model_based.two_steps import INNER_MOVES

#: Edges that no run can take here, each with the reason.
NOT_REACHABLE: dict[Edge, str] = {}
if os.geteuid() != 0:
    NOT_REACHABLE[Edge("start", "refuse", "refused", "path_searched_as_root")] = (
        "the tests do not run as root"
    )

#: How a test's counts are called among its report's properties.
PROPERTY = "stateful tally"

_PHASES = (
    "start",
    *(str(trigger) for trigger in Trigger if trigger not in (Trigger.END, Trigger.REFUSE)),
    "clean_up",
    "gc",
)


@dataclass
class Tally:
    """What one test drove: runs by edge; what befell them, by phase; what it had to leave out, with the reason.

    `examples` are Hypothesis's, each played to its end; a run is one engine process, and an example has several.

    It is one of the `of` tests without which nothing can be said of an edge that none took, or (0) it helps them.
    """

    name: str
    of: int = 0
    examples: int = 0
    runs: int = 0
    edges: Counter[Edge] = field(default_factory=Counter)
    befell: Counter[tuple[str, str]] = field(default_factory=Counter)
    left_out: str | None = None

    def to_json(self) -> str:
        counts = [*self.edges.items()], [*self.befell.items()]
        return json.dumps([self.name, self.of, self.examples, self.runs, *counts, self.left_out])

    @classmethod
    def from_json(cls, text: str) -> Tally:
        name, of, examples, runs, edges, befell, left_out = json.loads(text)
        return cls(
            name,
            of,
            examples,
            runs,
            Counter({Edge(*edge): number for edge, number in edges}),
            Counter({(what, phase): number for (what, phase), number in befell}),
            left_out,
        )


class SpecCoverage:
    """Adds the tallies up."""

    def __init__(self) -> None:
        self._tallies: list[Tally] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._tallies += [
                Tally.from_json(str(value)) for name, value in report.user_properties if name == PROPERTY
            ]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.faults():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._tallies:
            return
        taken, befell = self._sums()
        write = terminalreporter.write_line
        examples = sum(one.examples for one in self._tallies if one.of)
        runs = sum(one.runs for one in self._tallies)
        terminalreporter.section(
            f"edges of the spec taken by {runs:,} runs of the engine, in {examples:,} examples and one by one"
        )
        rows = [(edge, taken[edge] or NOT_REACHABLE.get(edge, 0)) for edge in edges()]
        write(tabulate(rows, tablefmt="plain"))
        phases = [phase for phase in _PHASES if any(befell[what, phase] for what, _ in befell)]
        whats = sorted({what for what, _ in befell})
        write("")
        write("what befell engines, by the step they were in")
        write(
            tabulate(
                [(what, *(befell[what, phase] or "" for phase in phases)) for what in whats],
                headers=["", *phases],
                tablefmt="plain",
            )
        )
        for why in sorted({one.left_out for one in self._tallies if one.left_out}):
            write(f"left out: {why}")
        for fault in self.faults():
            terminalreporter.write_line(fault, red=True)

    def faults(self) -> list[str]:
        """Edges that should have been taken, if all of the tests passed that could; and reasons that are none."""
        needed = [one for one in self._tallies if one.of]
        if not needed or len({one.name for one in needed}) < needed[0].of:
            return []
        taken, _ = self._sums()
        return [
            *(
                f"no run took the edge {edge}{self._untold(edge)}"
                for edge in edges()
                if not taken[edge] and edge not in NOT_REACHABLE
            ),
            *(
                f"{edge} is said to be out of reach ({why}), and a run took it, or the spec has no such edge"
                for edge, why in NOT_REACHABLE.items()
                if taken[edge] or edge not in edges()
            ),
            *(
                f"runs took the edge {edge}, which the spec does not have"
                for edge in taken.keys() - {*edges()}
            ),
        ]

    @staticmethod
    def _untold(edge: Edge) -> str:
        if edge.state == edge.next and edge.move not in INNER_MOVES:
            return ": nothing says yet what shows such a move, see INNER_MOVES in two_steps.py"
        return ""

    def _sums(self) -> tuple[Counter[Edge], Counter[tuple[str, str]]]:
        taken: Counter[Edge] = Counter()
        befell: Counter[tuple[str, str]] = Counter()
        for tally in self._tallies:
            taken += tally.edges
            befell += tally.befell
        return taken, befell
