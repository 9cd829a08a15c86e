"""kill -9 of the engine, and of the runsc that it becomes, before each step of each verb: what is true afterwards.

`create` and `delete` are in test_oci_faults.py. ENGINE_TEST_EVERY_STEP=1 kills before every step (ten minutes);
otherwise before those by which a verb takes hold. The table of docs/oci-runtime.md must have all that comes of it.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.oci_runtime import Oci
from tests.integration.oci_subject import VERBS, Subject, Trial
from tests.support.harness import Engine

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "oci-runtime.md"
STEPPER = Path(__file__).with_name("stepper.py")
EVERY = bool(os.environ.get("ENGINE_TEST_EVERY_STEP"))
KILLED = 128 + signal.SIGKILL


@dataclass
class Outcome:
    """What came of being killed before so many steps."""

    steps: int = 0
    statuses: set[str] = field(default_factory=set)
    codes: set[int] = field(default_factory=set)

    def cells(self) -> tuple[str, str]:
        return ", ".join(sorted(self.statuses)), ", ".join(map(str, sorted(self.codes)))


@dataclass
class Killed(Trial):
    """A verb that is killed before one step."""

    def do(self, subject: Subject, at: int) -> tuple[int, list[str]]:
        """The exit code, and the steps that were come to."""
        report = self.oci.engine.directory / "steps"
        command = [sys.executable, str(STEPPER), str(report), str(at)]
        process = self.oci.engine.start(
            [*command, *self.oci.command(*self.arguments(subject))],
            stdout=-3,
            stderr=-3,
            environment={"PYTHONPATH": str(ROOT)},
        )
        return process.wait(timeout=60), report.read_text().splitlines()

    def steps(self) -> list[int]:
        """Before which steps to kill: all, or those by which it takes hold."""
        subject = self.subject()
        code, steps = self.do(subject, 0)
        assert code == 0
        self.oci.is_gone_after_delete(subject.id)
        assert any(step.startswith("engine ") for step in steps)
        if EVERY:
            return [*range(1, len(steps) + 1)]
        found = {index for index, step in enumerate(steps, 1) if "rename" in step or "execve" in step}
        found |= {index for index, step in enumerate(steps, 1) if step.endswith(".state") and "write" in step}
        sent = [index for index, step in enumerate(steps, 1) if step.endswith((" sendmsg", " connect"))]
        found |= {sent[-1], sent[-1] + 1} if sent else {len(steps) // 2}
        return sorted({*found, len(steps)} - {1})


@pytest.mark.parametrize("verb", VERBS)
def test_verb_killed_in_any_step_leaves_a_usable_container(
    root_engine: Engine, verb: str, of_each_layout: tuple[str, ...]
) -> None:
    trial = Killed(Oci(root_engine, of_each_layout), verb)
    came: dict[str, Outcome] = defaultdict(Outcome)
    subject = None
    for number, at in enumerate(trial.steps()):
        subject = subject or trial.subject()
        subject.bring(VERBS[verb][1])
        code, steps = trial.do(subject, at)
        if code == 0:
            continue  # it took fewer steps this time
        assert code == KILLED, (code, steps[-1])
        outcome = came[steps[-1].split()[0]]
        outcome.steps += 1
        outcome.statuses.add(subject.settled())
        if number % 2 == 0 or not steps[-1].endswith(".state"):
            again = trial.oci(*trial.arguments(subject))
            outcome.codes.add(again.code)
            assert (again.code == 0) or again.stderr, again
            subject.settled()
        if EVERY or verb == "start" or steps[-1].endswith(".state"):
            trial.oci.is_gone_after_delete(subject.id)
            subject = None
    if subject is not None:
        trial.oci.is_gone_after_delete(subject.id)
    assert came["engine"].steps
    rows = documented()
    found = "\n".join(
        f"| `{verb}` | {who} | {outcome.steps} | {' | '.join(outcome.cells())} |"
        for who, outcome in sorted(came.items())
    )
    for who, outcome in came.items():
        statuses, codes = rows.get((verb, who), (set(), set()))
        fits = outcome.statuses <= statuses and {str(code) for code in outcome.codes} <= codes
        assert fits, f"the page is to say:\n\n{found}"
    if EVERY:
        print(found)


def documented() -> dict[tuple[str, str], tuple[set[str], set[str]]]:
    """By verb and who was killed: the states and the exit codes that the page has."""
    table = re.search(r"<!-- from .*? -->\n\n(.*?)\n\n<!-- end -->", PAGE.read_text(), re.DOTALL)
    assert table is not None
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table[1].splitlines()[2:]]
    return {(row[0], row[1]): ({*row[3].split(", ")}, {*row[4].split(", ")}) for row in rows}
