"""The chain over a host's runs, whose writers are killed before each of their system calls in turn."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.state.gc import collect
from engine.verify.host import Finding, verify
from tests.unit.test_host_chain import APPEND

STEPPER = Path(__file__).with_name("stepper.py")
#: `gc` of all traces in the base argv[1].
GC = """
import os, sys
from engine.state.gc import collect
for name in os.listdir(sys.argv[1] + "/traces"):
    if name.endswith(".jsonl"):
        os.utime(sys.argv[1] + "/traces/" + name, (0, 0))
print("aged", flush=True)
collect({"ENGINE_ARTIFACT_BASE": sys.argv[1]}, traces_older_than=3600)
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    made = tmp_path / "private" / "base"
    (made / "traces").mkdir(parents=True)
    for path in (made.parent, made, made / "traces"):
        path.chmod(0o700)
    return made


def killed_at_each_step(base: Path, *program: str) -> Iterator[list[str]]:
    """Run the program again and again, killed one step later each time, until it comes to its end."""
    report = base.parent / "report"
    for at in range(1, 200):
        command = [sys.executable, str(STEPPER), str(report), str(at), sys.executable, "-P", "-c", *program]
        done = subprocess.run(command, capture_output=True, timeout=120, check=False)
        steps = report.read_text().splitlines()
        assert done.returncode in (0, 137), done
        yield steps
        if done.returncode == 0:
            return
    raise AssertionError("it comes to no end")


def append(base: Path) -> None:
    subprocess.run([sys.executable, "-c", APPEND, str(base / "traces"), "next", "1"], check=True, timeout=60)


def test_a_run_killed_before_any_call_breaks_no_chain(base: Path) -> None:
    seen: set[Finding] = set()
    killed = 0
    for steps in killed_at_each_step(base, APPEND, str(base / "traces"), "killed", "1"):
        if not (base / "traces" / "chain").exists():
            continue
        killed += 1
        result = verify(str(base / "traces"))
        assert result.is_good, (steps[-1], result)
        append(base)
        result = verify(str(base / "traces"))
        assert result.is_good, (steps[-1], result)
        seen |= {found.finding for found in result.found}
    assert seen == {Finding.LOST, Finding.NO_END}
    assert killed > 5
    numbers = [
        entry["runs"]
        for entry in map(json.loads, (base / "traces" / "chain").read_text().splitlines())
        if entry["event"] == "start"
    ]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_gc_killed_before_any_call_raises_no_alarm(base: Path) -> None:
    append(base)
    for steps in killed_at_each_step(base, GC, str(base)):
        result = verify(str(base / "traces"))
        assert result.is_good, (steps[-1], result)
        append(base)
    assert collect({"ENGINE_ARTIFACT_BASE": str(base)}, traces_older_than=3600).failed == ()
