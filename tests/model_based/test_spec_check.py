"""The spec under real TLC: small models only; `engine check --mutants` runs them all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import Reason
from engine.spec import render
from engine.spec.checker import CheckResult, check
from engine.spec.errors import ManifestError, SpecError
from engine.spec.graph import read_graph
from engine.spec.java import find_jar, find_java
from engine.spec.models import Specs, load
from engine.spec.tlc import Tlc
from engine.spec.verdicts import Verdict
from tests.support.refusals import refuses
from tools.guard_mutation import Conjunct, conjuncts, delete

ROOT = Path(__file__).parents[2]
SPECS = load()

TLC = Tlc(find_java(), find_jar())

Spoil = Callable[[str, str, str], Path]


@pytest.fixture
def spoil(tmp_path: Path) -> Spoil:
    """Copies the specs with one edit, with no mutants."""

    def edited(file: str, find: str, put: str) -> Path:
        directory = Path(shutil.copytree(SPECS.directory, tmp_path / "specs"))
        shutil.rmtree(directory / "mutants")
        (directory / "mutants").mkdir()
        text = (directory / file).read_text()
        assert text.count(find) == 1
        (directory / file).write_text(text.replace(find, put))
        return directory

    return edited


@pytest.fixture(scope="module")
def swap_attack() -> CheckResult:
    return check(models=["PinningOff"])


# -- the spec --------------------------------------------------------------------------------------------------------


def test_the_lifecycle_holds_and_its_graph_is_saved(tmp_path: Path) -> None:
    graph = tmp_path / "graph.dot"
    result = check(models=["Lifecycle"], graph=str(graph))
    assert result.ok
    [model] = result.models
    assert set(model.verdicts.values()) == {Verdict.HOLDS}
    assert len(read_graph(str(graph)).states) == model.counts.distinct


def test_the_two_state_spec_holds_by_itself() -> None:
    assert check(models=["NucleusGVisor"]).ok


def test_with_pinning_off_tlc_finds_the_swap(swap_attack: CheckResult) -> None:
    assert swap_attack.ok
    [model] = swap_attack.models
    assert model.verdicts["OnlyValidatedBytes"] is Verdict.VIOLATED
    assert model.counterexample is not None
    actions = [step.action for step in model.counterexample.steps]
    assert actions.index("Validate") < actions.index("SwapBinary") < actions.index("Copy")
    assert model.counterexample.steps[-1].changed["ran[r1].runsc"] == "evil"


def test_the_documented_attack_is_the_one_that_tlc_finds(swap_attack: CheckResult) -> None:
    found = swap_attack.models[0].counterexample
    assert found is not None
    page = (ROOT / "docs/swap-attack.md").read_text()
    assert re.findall(r"```text\n(.*?)\n```", page, re.DOTALL) == [render.counterexample(found)]


def test_the_gap_before_execve_is_found_and_not_denied() -> None:
    [model] = check(models=["GapBeforeExec"]).models
    assert model.surprises == ()
    assert model.counterexample is not None
    actions = [step.action for step in model.counterexample.steps]
    assert actions[-3:] == ["LastLook", "ChangeBundle", "Exec"]


def test_every_property_says_why_it_matters_and_what_upholds_it() -> None:
    text = SPECS.files["GVisorRuntime.tla"]
    asked = {
        name
        for model in SPECS.models
        for name in model.configuration.names
        if model.module in ("GVisorRuntime", "Search")
    }
    for name in asked - {"TypeOK", "RefinesNucleus", "EachRefinesNucleus"}:
        assert re.search(rf"(?:\\\*[^\n]*\n)+(?:\w+\(r\) ==.*?\n)?{name} ==", text, re.DOTALL), name


def test_every_file_the_spec_names_exists() -> None:
    named = set(re.findall(r"\b([a-z_]+\.py)\b", SPECS.files["GVisorRuntime.tla"]))
    there = {path.name for path in (ROOT / "engine").rglob("*.py")}
    assert named
    assert named <= there


# -- the check -------------------------------------------------------------------------------------------------------


def test_failed_property_is_reported_with_a_counterexample(spoil: Spoil) -> None:
    directory = spoil("GVisorRuntime.tla", "    /\\ PathIsNotRoots(r)\n", "")
    result = check(directory=str(directory), models=["Small"])
    assert not result.ok
    assert result.models[0].surprises == ("NoPathSearchAsRoot is violated",)
    assert re.search(r"^NoPathSearchAsRoot +violated +Small$", render.report(result), re.MULTILINE)


def test_a_fault_that_tlc_does_not_name_is_named(spoil: Spoil) -> None:
    directory = spoil("GVisorRuntime.tla", "SentryCalls == 53", "SentryCalls == 100")
    result = check(directory=str(directory), models=["Lifecycle"])
    assert result.models[0].surprises == ("RefinesNucleus is violated",)


def test_edit_that_breaks_no_property_changes_the_figures(spoil: Spoil) -> None:
    directory = spoil("Lifecycle.cfg", 'Moves = {"fail", "gc"}', 'Moves = {"fail"}')
    result = check(directory=str(directory), models=["Lifecycle"])
    assert not result.ok
    assert "distinct states, the manifest says" in result.models[0].surprises[0]


def test_an_action_that_is_never_enabled_fails_the_check(tmp_path: Path) -> None:
    directory = tmp_path / "specs"
    (directory / "mutants").mkdir(parents=True)
    (directory / "Door.tla").write_text(
        "---- MODULE Door ----\nEXTENDS Naturals\nVARIABLE open\nInit == open = 0\n"
        "Toggle == open' = 1 - open\nBreak == open = 7 /\\ open' = 8\nNext == Toggle \\/ Break\n"
        "Spec == Init /\\ [][Next]_open\nTypeOK == open \\in 0 .. 1\n====\n"
    )
    (directory / "Door.cfg").write_text("SPECIFICATION Spec\nINVARIANT TypeOK\n")
    (directory / "manifest.json").write_text(
        '{"modules": [{"path": "Door.tla", "models": [{"path": "Door.cfg", "says": "a door", "coverage": true,'
        ' "runtime": "00:00:01", "result": "success", "distinctStates": 2, "properties": 1}]}]}'
    )
    result = check(directory=str(directory))
    assert not result.models[0].surprises
    assert not result.ok
    assert [(gap.action, gap.after) for gap in result.gaps or ()] == [("Break", None)]


def test_a_syntax_error_is_placed(spoil: Spoil) -> None:
    directory = spoil("NucleusGVisor.tla", "Next == Enter", "Next = = Enter")
    with refuses(SpecError, Reason.SPEC_REJECTED, "NucleusGVisor.tla:") as caught:
        check(directory=str(directory), models=["NucleusGVisor"])
    assert caught.value.line is not None


def test_an_unknown_model_is_refused_before_tlc_is_started() -> None:
    with refuses(ManifestError, Reason.NO_SUCH, "'Big'"):
        check(models=["Big"])


# -- mutants and conjuncts ---------------------------------------------------------------------------------------------

MUTANT = """
says = "x"
breaks = "{breaks}"
model = "SmallTwo"
find = "SentryCalls == 53"
put = "SentryCalls == {calls}"
"""


@pytest.mark.parametrize(("calls", "killed"), [(100, True), (99, False)])
def test_a_mutant_is_killed_by_its_property_or_survives(tmp_path: Path, calls: int, killed: bool) -> None:
    directory = Path(shutil.copytree(SPECS.directory, tmp_path / "specs"))
    shutil.rmtree(directory / "mutants")
    (directory / "mutants").mkdir()
    (directory / "mutants" / "calls.toml").write_text(MUTANT.format(breaks="EachRefinesNucleus", calls=calls))
    result = check(directory=str(directory), models=["NucleusGVisor"], mutants=True)
    [mutant] = result.mutants
    assert mutant.killed is killed
    assert mutant.also is None
    assert result.ok is killed


def test_mutant_caught_by_another_property_survived_its_own(tmp_path: Path) -> None:
    directory = Path(shutil.copytree(SPECS.directory, tmp_path / "specs"))
    shutil.rmtree(directory / "mutants")
    (directory / "mutants").mkdir()
    (directory / "mutants" / "calls.toml").write_text(MUTANT.format(breaks="TypeOK", calls=100))
    [mutant] = check(directory=str(directory), models=["NucleusGVisor"], mutants=True).mutants
    assert not mutant.killed
    assert mutant.also == "EachRefinesNucleus"


@pytest.fixture(scope="module")
def found() -> tuple[Conjunct, ...]:
    return conjuncts(SPECS, TLC)


def test_the_conjuncts_are_those_of_the_guards(found: tuple[Conjunct, ...]) -> None:
    by_operator = {(conjunct.operator, conjunct.text) for conjunct in found}
    assert {
        ("Validate", "ProgramIsTrusted"),
        ("PartIsTrusted", "ChainIsTrusted(path[p])"),
        ("Exec", "seen[r] # Unseen"),
        ("RefuseResolve", "~ABinaryIsFound"),
        ("GcTakes", "lock[i] = Nobody"),
        ("Spends", "moves < Budget"),
    } <= by_operator
    assert not any("'" in conjunct.text or "UNCHANGED" in conjunct.text for conjunct in found)
    assert len(found) > 90


def test_deleting_a_conjunct_leaves_one_conjunct_less(found: tuple[Conjunct, ...]) -> None:
    sample = found[:: len(found) // 6]
    for conjunct in sample:
        without = Specs(SPECS.directory, delete(SPECS.files, conjunct.location), SPECS.models, ())
        left = conjuncts(without, TLC)
        assert (conjunct.operator, "TRUE") in {(other.operator, other.text) for other in left}
        assert len(left) <= len(found)
