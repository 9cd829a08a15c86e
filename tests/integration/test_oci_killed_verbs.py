"""kill -9 of the engine, and of the runsc that it becomes, before each step of each verb: what is true afterwards.

`create` and `delete` are in test_oci_faults.py. ENGINE_TEST_EVERY_STEP=1 kills before every step (ten minutes);
otherwise before those by which a verb takes hold. The table of docs/oci-runtime.md must have all that comes of it.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.harness import Engine, wait_for
from tests.integration.oci_runtime import Oci

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "oci-runtime.md"
STEPPER = Path(__file__).with_name("stepper.py")
EVERY = bool(os.environ.get("ENGINE_TEST_EVERY_STEP"))
KILLED = 128 + signal.SIGKILL
SCRIPT = "trap : USR1; while :; do echo tick; sleep 0.05; done"
#: Seconds in which something that goes on has said so.
A_WHILE = 0.3

#: By verb: what is given besides the id, and where the container is before.
VERBS = {
    "start": ((), "created"),
    "pause": ((), "running"),
    "resume": ((), "paused"),
    "kill": (("USR1",), "running"),
    "exec": (("/bin/true",), "running"),
    "ps": ((), "running"),
    "events": (("--stats",), "running"),
    "checkpoint": (("--leave-running", "--image-path=image"), "running"),
    "state": ((), "running"),
    "list": ((), "running"),
}


@dataclass
class Subject:
    """A container that says all the time that it goes on."""

    oci: Oci
    id: str
    said: Path

    def goes_on(self) -> bool:
        before = self.said.stat().st_size
        end = time.monotonic() + A_WHILE
        while time.monotonic() < end:
            if self.said.stat().st_size > before:
                return True
            time.sleep(0.01)
        return False

    def settled(self) -> str:
        """What `state` says, once the container does just that: a message may be on its way when its sender dies."""

        def agreed() -> str | None:
            status = self.oci.status(self.id)
            return status if status and self.goes_on() == (status == "running") else None

        return wait_for(f"{self.id} does what its state says", agreed)

    def bring(self, wanted: str) -> None:
        status = self.oci.status(self.id)
        moves = {("created", "running"): ("start",), ("created", "paused"): ("start", "pause")}
        moves |= {("running", "paused"): ("pause",), ("paused", "running"): ("resume",)}
        for verb in moves.get((status or "", wanted), ()):
            self.oci.ok(verb, self.id)


@dataclass
class Outcome:
    """What came of being killed before so many steps."""

    steps: int = 0
    statuses: set[str] = field(default_factory=set)
    codes: set[int] = field(default_factory=set)

    def cells(self) -> tuple[str, str]:
        return ", ".join(sorted(self.statuses)), ", ".join(map(str, sorted(self.codes)))


@dataclass
class Trial:
    """One verb, done again and again on a container, and killed before one step."""

    oci: Oci
    verb: str
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(10_000)))

    def subject(self) -> Subject:
        container_id = self.oci.engine.new_id()
        said = self.oci.engine.directory / f"said-{container_id}"
        bundle = self.oci.engine.directory / "ticking"
        if not bundle.exists():
            self.oci.engine.shell(SCRIPT, name="ticking")
        with said.open("wb") as out:
            create = self.oci.start("create", "--bundle", bundle, container_id, stdout=out, stderr=out)
            assert create.wait(timeout=60) == 0, said.read_text()
        subject = Subject(self.oci, container_id, said)
        subject.bring(VERBS[self.verb][1])
        return subject

    def arguments(self, subject: Subject) -> list[str]:
        more = list(VERBS[self.verb][0])
        if self.verb == "list":
            return ["list"]
        flags = [word for word in more if word.startswith("--")]
        if self.verb == "checkpoint":
            flags[-1] = f"--image-path={self.oci.engine.directory / f'image-{next(self.numbers)}'}"
        return [self.verb, *flags, subject.id, *(word for word in more if not word.startswith("--"))]

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
def test_a_verb_killed_before_any_of_its_steps_leaves_a_true_state_and_a_container_that_can_be_used_and_deleted(
    root_engine: Engine, verb: str
) -> None:
    trial = Trial(Oci(root_engine), verb)
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
