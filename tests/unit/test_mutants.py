"""The page on the mutants of the code is what was found, of the code as it is, and explains every survivor."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest

from tests.mutation import report
from tests.mutation.report import IncompleteError, Mutant, Rate, Reason

MUTATED = """
def _mutmut_trampoline(): ...

def x_larger__mutmut_orig(a, b):
    return (
        a
        if a > b
        else b
    )

def x_larger__mutmut_1(a, b):
    return (
        a
        if a >= b
        else b
    )

class Door:
    def xǁDoorǁ_lock__mutmut_orig(self, key):
        self._turn(
            key,
            twice=True,
        )

    def xǁDoorǁ_lock__mutmut_1(self, key):
        self._turn(
            key,
            )

    def xǁDoorǁ_lock__mutmut_10(self, key):
        self._turn(
            None,
            twice=True,
        )
"""
LARGER = Mutant("engine.linux.doors.larger", "if a > b", "if a >= b")
ONCE = Mutant("engine.linux.doors.Door._lock", "twice=True,", "")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """What mutmut leaves of a run in which all but the last of three mutants live."""
    linux = tmp_path / "engine" / "linux"
    linux.mkdir(parents=True)
    (linux / "doors.py").write_text(MUTATED)
    (linux / "empty.py.meta").write_text('{"exit_code_by_key": {}}')
    codes = {
        "engine.linux.doors.x_larger__mutmut_1": 33,
        "engine.linux.doors.xǁDoorǁ_lock__mutmut_1": 0,
        "engine.linux.doors.xǁDoorǁ_lock__mutmut_10": 1,
    }
    (linux / "doors.py.meta").write_text(json.dumps({"exit_code_by_key": codes}))
    return tmp_path / "engine"


def test_survivor_is_named_by_function_and_changed_lines(results: Path) -> None:
    assert report.read_outcomes(results) == {"engine/linux/doors.py": (3, [LARGER, ONCE])}


@pytest.mark.parametrize("code", [None, 35])
def test_a_run_that_did_not_try_every_mutant_counts_for_nothing(results: Path, code: int | None) -> None:
    meta = results / "linux" / "doors.py.meta"
    codes = json.loads(meta.read_text())
    codes["exit_code_by_key"]["engine.linux.doors.x_larger__mutmut_1"] = code
    meta.write_text(json.dumps(codes))
    with pytest.raises(IncompleteError, match="larger__mutmut_1"):
        report.read_outcomes(results)


def test_no_run_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="no result"):
        report.read_outcomes(tmp_path)


def test_missing_and_needless_explanations_are_faults() -> None:
    assert report.unexplained([LARGER, ONCE], [Reason("so", (ONCE, LARGER))]) == []
    assert report.unexplained([LARGER, LARGER], [Reason("so", (LARGER, ONCE))]) == [
        f"lives, and nobody says why: {LARGER}",
        f"is dead or gone, and still explained: {ONCE}",
    ]


def test_a_file_below_the_required_rate_is_named() -> None:
    assert report.below({"good.py": Rate(10, 9), "bad.py": Rate(1000, 899)}) == [
        "bad.py: 89.9 % of the mutants are killed; 90 % must be"
    ]


def test_message_of_a_survivor_is_an_entry_to_paste(tmp_path: Path) -> None:
    quoted = Mutant("f", """say("it's", 'a\\n')""", "")
    toml = tmp_path / "survivors.toml"
    toml.write_text(f'[[reason]]\nwhy = "so"\nsurvivors = [\n  {quoted},\n  {LARGER},\n]\n')
    assert report.read_reasons(toml) == [Reason("so", (quoted, LARGER))]


def test_page_is_that_of_the_committed_rates_and_reasons() -> None:
    fresh = report.page(report.read_rates(report.RATES), report.read_reasons(report.REASONS))
    assert report.PAGE.read_text() == fresh, "run ./just mutants"


def test_every_survivor_of_a_file_is_explained() -> None:
    rates = report.read_rates(report.RATES)
    assert report.below(rates) == []
    mutated = tomllib.loads((report.CHECKOUT / "pyproject.toml").read_text())["tool"]["mutmut"]
    files = {
        str(path.relative_to(report.CHECKOUT))
        for pattern in mutated["only_mutate"]
        for path in report.CHECKOUT.glob(pattern)
        if path.suffix == ".py" and re.search(r"^ *def ", path.read_text(), re.MULTILINE)
    }
    assert files == rates.keys(), "run ./just mutants"
    survivors = [mutant for reason in report.read_reasons(report.REASONS) for mutant in reason.survivors]
    for file, rate in rates.items():
        module = file.removesuffix(".py").replace("/", ".") + "."
        explained = sum(mutant.function.startswith(module) for mutant in survivors)
        assert explained == rate.mutants - rate.killed, file


def test_lines_of_survivors_still_stand_in_their_functions() -> None:
    for reason in report.read_reasons(report.REASONS):
        for mutant in reason.survivors:
            assert mutant.removed in _source_of(mutant.function), f"stale, run ./just mutants: {mutant}"


def _source_of(function: str) -> str:
    """The lines of `engine.package.module.function` or `engine.package.module.Class.method`, stripped and joined."""
    engine, package, module, *names = function.split(".")
    text = (report.CHECKOUT / engine / package / f"{module}.py").read_text()
    node: ast.AST = ast.parse(text)
    for name in names:
        inside = {
            child.name: child
            for child in ast.iter_child_nodes(node)
            if isinstance(child, ast.FunctionDef | ast.ClassDef)
        }
        assert name in inside, f"{function} is gone; run ./just mutants"
        node = inside[name]
    assert isinstance(node, ast.FunctionDef)
    return " ".join(line.strip() for line in text.splitlines()[node.lineno - 1 : node.end_lineno])
