"""The benchmarks measure what they say, in turn, and their pages are made of the figures beside them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import pages, starts
from benchmarks.fleet import archive
from benchmarks.fleet_engine import resident
from benchmarks.sampling import Contender, at_once, in_turn, machine, peaks, ratios
from engine.verify.trace_check import Verdict, verify


@pytest.mark.parametrize(
    ("page", "made_by", "figures"),
    [
        (pages.PERFORMANCE, pages.performance_page, pages.STARTS),
        (pages.FLEET_PAGE, pages.fleet_page, pages.FLEET),
    ],
    ids=["performance", "fleet"],
)
def test_a_page_is_what_is_made_of_its_figures(
    page: Path, made_by: Callable[[Any], str], figures: Path
) -> None:
    assert page.read_text() == made_by(json.loads(figures.read_text())), "python -m benchmarks.pages"


def test_the_figures_are_of_enough_pairs() -> None:
    found = json.loads(pages.STARTS.read_text())
    for samples in (found["starts"]["samples"], found["alone"]["samples"], found["crowded"]["samples"]):
        assert {len(each) for each in samples.values()} in ({30}, {40})
    assert found["crowded"]["containers"] == 1000
    assert list(found["throughput"]) == ["1", "2", "4", "8", "16", "32"]


def test_the_page_says_what_did_not_run() -> None:
    found = json.loads(pages.STARTS.read_text())
    for key in ("podman", "bindings"):
        found["starts"]["labels"].pop(key, None)
        found["starts"]["samples"].pop(key, None)
    found["starts"]["cannot"] = {"podman": "it is not there"}
    assert "podman: did not run here: it is not there" in pages.performance_page(found)


def contender(key: str, *command: str) -> Contender:
    return Contender(key, key, lambda name: [*command, name], {"PATH": os.environ["PATH"]})


def test_contenders_take_turns_and_each_begins_as_often(tmp_path: Path) -> None:
    order = tmp_path / "order"
    script = f'printf %s "$0" >> {order}'
    found = in_turn([contender(key, "sh", "-c", script, key) for key in "abc"], 4)
    assert order.read_text() == "cab" + "abc" + "bca" + "cab" + "abc"
    assert {key: len(times) for key, times in found.items()} == {"a": 4, "b": 4, "c": 4}


def test_what_fails_is_no_figure() -> None:
    failing = contender("x", "sh", "-c", "echo why >&2; exit 3")
    for measure in (failing.once, lambda: in_turn([failing], 2), lambda: at_once(failing, 2, 2)):
        with pytest.raises(RuntimeError, match="x: exit code 3: why"):
            measure()
    with pytest.raises(RuntimeError):
        peaks(Contender("x", "x", lambda _: ["/bin/false"], {}), 1)


def test_a_peak_is_that_of_the_program_and_not_of_who_started_it() -> None:
    taken = bytearray(64 << 20)
    taken[:: 1 << 12] = b"x" * (1 << 14)
    small = Contender("small", "small", lambda _: ["/bin/true"], {})
    large = Contender(
        "large", "large", lambda _: [sys.executable, "-I", "-S", "-c", "bytearray(99 << 20)"], {}
    )
    assert max(peaks(small, 3)) < 16 << 10
    assert min(peaks(large, 1)) > 99 << 10


def test_a_ratio_is_the_median_of_the_pairs() -> None:
    assert ratios([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == 3.0


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    alone = starts._used(tmp_path)
    os.link(tmp_path / "a", tmp_path / "b")
    assert starts._used(tmp_path) == alone >= 100_000


def test_the_processes_of_a_session_are_seen() -> None:
    with subprocess.Popen(
        ["sh", "-c", "sleep 60 & wait"], start_new_session=True, stdout=subprocess.PIPE
    ) as session:
        found: Sequence[int] = []
        while len(found) < 2:
            found = starts._descendants(session.pid)
        assert resident(session.pid) > 0
        programs = [each["program"] for each in map(starts._process, found) if each is not None]
        assert len(programs) == 2
        os.killpg(session.pid, 9)


def test_an_archive_has_so_many_records_of_each_kind(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    runs = archive(path, 10_000)
    assert 10_000 <= path.read_bytes().count(b"\n") < 20_000
    verdicts = [result.verdict for result in verify([str(path)], runs=True)]
    assert len(verdicts) == runs
    assert (verdicts.count(Verdict.DIFFERS), verdicts.count(Verdict.INCOMPLETE)) == (
        runs // 1000,
        5 * runs // 1000,
    )


def test_the_machine_is_described(binary: Path) -> None:
    runsc = binary.parent / "says"
    runsc.write_text("#!/bin/sh\necho runsc version 1.2.3\n")
    runsc.chmod(0o755)
    described = machine(str(runsc))
    assert described["runsc"] == "1.2.3"
    assert described["cores"] == str(os.cpu_count())
    assert all(described.values())
