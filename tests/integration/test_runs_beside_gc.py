"""No run is refused beside gc: not a fresh one, and not the next of an id whose leftovers gc is removing.

ENGINE_TEST_CHURN says how many runs there are.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.harness import Engine, cgroups_of, processes_about, wait_for

RUNS = int(os.environ.get("ENGINE_TEST_CHURN", "24"))
AT_ONCE = 4
#: Of so many runs one ends before the hand-off: it makes its directories and removes them itself.
DRY = 4


@contextlib.contextmanager
def gc_loop(engine: Engine) -> Iterator[Counter[object]]:
    """gc after gc: what they ended with, and said on stderr."""
    ended: Counter[object] = Counter()
    done = threading.Event()

    def collect() -> None:
        while not done.is_set():
            collected = subprocess.run(
                engine.command("gc"),
                check=False,
                capture_output=True,
                text=True,
                env=engine.environment(),
                cwd=engine.directory,
                **engine.caller.identity,
            )
            ended[collected.returncode, collected.stderr] += 1

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield ended
    finally:
        done.set()
        thread.join()


def test_no_run_is_refused_beside_gc(engine: Engine) -> None:
    bundle = engine.shell("exit 42")
    ids = [engine.new_id() for _ in range(AT_ONCE)]

    def work(worker: int) -> Counter[object]:
        """Every other run has a fresh id; those between have this worker's, again and again."""
        ended: Counter[object] = Counter()
        for number in range(worker, RUNS, AT_ONCE):
            turn = number // AT_ONCE
            options = ["--id", engine.new_id() if turn % 2 else ids[worker]]
            options += ["--dry-run"] if turn % DRY == DRY - 1 else []
            ended[run(engine, bundle, options)] += 1
        return ended

    with gc_loop(engine) as collected, ThreadPoolExecutor(AT_ONCE) as pool:
        ended = sum(pool.map(work, range(AT_ONCE)), Counter())
    print(f"{RUNS} runs, {collected.total()} collections: {ended}")
    dry = sum(number // AT_ONCE % DRY == DRY - 1 for number in range(RUNS))
    assert ended == {42: RUNS - dry, 0: dry}
    assert collected.keys() == {(0, "")}
    wait_for("the end of every process", lambda: not processes_about(engine.directory))
    assert engine.call("gc").code == 0
    assert engine.leftovers() == []
    assert [cgroup for each in engine.ids for cgroup in cgroups_of(each)] == []


def run(engine: Engine, bundle: Path, options: list[str]) -> object:
    """The exit code of one run; with what it said, if it was refused."""
    done = subprocess.run(
        engine.run_command(bundle, *options),
        check=False,
        capture_output=True,
        text=True,
        env=engine.environment(),
        cwd=engine.directory,
        **engine.caller.identity,
    )
    return done.returncode if done.returncode in (0, 42) else (done.returncode, done.stderr)
