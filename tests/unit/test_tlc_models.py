"""The manifest, the configurations and the mutants: read strictly, with the fault and the hint named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Reason
from engine.spec import models
from engine.spec.configuration import parse_configuration
from engine.spec.errors import ManifestError
from engine.spec.models import Specs, load
from tests.support.refusals import refuses

SPECS = load()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A specs' directory that a test may spoil."""
    return Path(shutil.copytree(SPECS.directory, tmp_path / "specs"))


def edit_manifest(directory: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = directory / models.MANIFEST
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def test_every_model_configuration_is_in_the_manifest() -> None:
    assert {f"{model.name}.cfg" for model in SPECS.models} == {
        path.name for path in Path(SPECS.directory).glob("*.cfg")
    }


def test_every_model_that_must_hold_has_its_figures_fixed() -> None:
    """An edit of the spec that changes its behaviour in any way then changes a number that is checked in."""
    for model in SPECS.models:
        assert not model.must_hold or None not in (model.total, model.depth), model.name


def test_symmetry_is_used_for_safety_only() -> None:
    for model in SPECS.models:
        assert not (model.configuration.symmetry and model.configuration.specification == "FairSpec"), (
            model.name
        )


def test_safety_model_explores_every_option_of_the_spec() -> None:
    constants = SPECS.model("GVisorRuntime").configuration.constants
    for option in ("Rootless", "Required", "Wanted", "Enforceable"):
        assert constants[option] == "{TRUE, FALSE}"
    assert constants["Pinning"] == "TRUE"
    assert '"kept"' not in constants["Moves"]  # else who owns the binary would make a difference
    assert SPECS.model("Store").configuration.constants["AsRoot"] == "{TRUE, FALSE}"


def test_every_property_has_a_mutant_that_breaks_it() -> None:
    broken = {mutant.breaks for mutant in SPECS.mutants}
    asked = {name for model in SPECS.models if model.must_hold for name in model.configuration.names}
    assert asked - broken == {"GVisorIntercepts"}  # of the two-state spec, which has no guards to drop


def test_at_least_twenty_mutants_fit_the_spec() -> None:
    assert len(SPECS.mutants) >= 20
    for mutant in SPECS.mutants:
        assert mutant.apply(SPECS.files) != SPECS.files, mutant.name
        assert mutant.breaks in SPECS.model(mutant.model).configuration.names, mutant.name


def test_a_mutant_that_no_longer_fits_is_an_error() -> None:
    mutant = SPECS.mutants[0]
    with refuses(ManifestError, Reason.MALFORMED, mutant.name, 0):
        mutant.apply({mutant.file: "---- MODULE Empty ----\n===="})


def test_a_mutant_that_fits_twice_is_an_error() -> None:
    mutant = SPECS.mutants[0]
    with refuses(ManifestError, Reason.MALFORMED, 2):
        mutant.apply({mutant.file: mutant.find + mutant.find})


def test_a_configuration_survives_being_written_and_read() -> None:
    for model in SPECS.models:
        assert parse_configuration(model.configuration.text(), "model.cfg") == model.configuration


def test_a_configuration_can_be_asked_for_some_of_its_properties() -> None:
    configuration = SPECS.model("Small").configuration
    asked = configuration.only(["StepOrder", "TypeOK"])
    assert asked.names == ("TypeOK", "StepOrder")
    assert asked.constants == configuration.constants


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "some.cfg"),
        ("INVARIANT I", "SPECIFICATION"),
        ("SPECIFICATION A B", "SPECIFICATION"),
        ("SPECIFICATION S\nCONSTANTS x <- y", "CONSTANTS"),
        ("SPECIFICATION S\nCHECK_DEADLOCK FALSE", "CHECK_DEADLOCK"),
        ("hello\nSPECIFICATION S", "some.cfg"),
        ("SPECIFICATION S\nINVARIANT", "INVARIANT"),
        ("SPECIFICATION S\nINVARIANTS \\* all of them\nPROPERTY P", "INVARIANTS"),
        ("SPECIFICATION S\nPROPERTY\nINVARIANT I", "PROPERTY"),
        ("SPECIFICATION S\nCONSTANTS\nINVARIANT I", "CONSTANTS"),
    ],
)
def test_a_configuration_that_is_not_understood_is_refused(text: str, fact: str) -> None:
    with refuses(ManifestError, Reason.MALFORMED, fact):
        parse_configuration(text, "some.cfg")


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda m: m.pop("modules"), "modules"),
        (lambda m: m["modules"][0].update(path="Nowhere.tla"), "Nowhere.tla"),
        (lambda m: m["modules"][1]["models"][0].update(path="Nowhere.cfg"), "Nowhere.cfg"),
        (lambda m: m["modules"][1]["models"][0].update(result="fine"), "'fine'"),
        (lambda m: m["modules"][1]["models"][0].update(violates="TypeOK"), "'TypeOK'"),
        (
            lambda m: m["modules"][1]["models"][0].update(result="safety failure", violates="Nothing"),
            "Nothing",
        ),
        (lambda m: m["modules"][1]["models"][0].update(runtime="soon"), "runtime"),
        (
            lambda m: m["modules"][1]["models"][0].update(distinctStates="many"),
            "distinctStates",
        ),
        (lambda m: m["modules"][1]["models"][0].pop("distinctStates"), "'distinctStates'"),
        (
            lambda m: m["modules"][2]["models"][7].pop("distinctStates"),
            "PinningOff.cfg: 'distinctStates'",
        ),
        (lambda m: m["modules"][1]["models"][0].pop("properties"), "'properties'"),
        (
            lambda m: m["modules"][1]["models"][0].update(properties=30),
            "30",
        ),
        (
            lambda m: m["modules"][1]["models"][0].update(narrow={"Files": '{"vendor", "foreign_owner"}'}),
            "narrow",
        ),
        (
            lambda m: m["modules"][1]["models"][0].update(narrow={"Filse": '{"vendor"}'}),
            "narrow",
        ),
        (
            lambda m: m["modules"][1]["models"][0].update(coverageWith={"Budget": "3"}),
            "coverageWith has Budget = 3",
        ),
    ],
)
def test_a_manifest_that_is_wrong_is_refused(
    copy: Path, edit: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    edit_manifest(copy, edit)
    with refuses(ManifestError, Reason.MALFORMED, complaint) as caught:
        load(str(copy))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("says = ", "Invalid value"),
        ('says = "x"', "breaks"),
        ('says = "x"\nbreaks = "y"\nfind = "a"\nput = "b"\nmodel = "Nowhere"', "'Nowhere'"),
        (
            'says = "x"\nbreaks = "y"\nfind = "a"\nput = "b"\n[constants]\nBudget = 2',
            "wrong.toml",
        ),
        ('says = "x"\nbreaks = "Closed"\nfind = "a"\nput = "b"', "'Closed'"),
        (
            'says = "x"\nbreaks = "TypeOK"\nfind = "a"\nput = "b"\n[constants]\nBugdet = "2"',
            "'Bugdet'",
        ),
        ('says = "x"\nbreaks = "TypeOK"\nfind = "a"\nput = "b"\nnarrow = "Budget"', "'narrow'"),
        (
            'says = "x"\nbreaks = "TypeOK"\nfind = "a"\nput = "b"\n[narrow]\nBudget = 1',
            "wrong.toml",
        ),
        (
            'says = "x"\nbreaks = "TypeOK"\nfind = "a"\nput = "b"\n[narrow]\nBudget = "2"',
            "narrow has Budget = 2",
        ),
        (
            'says = "x"\nbreaks = "TypeOK"\nfind = "a"\nput = "b"\n[constants]\nBudget = "2"\n[narrow]\nBudget = "1"',
            "narrow has Budget = 1",
        ),
    ],
)
def test_a_mutant_that_is_wrong_is_refused(copy: Path, text: str, complaint: str) -> None:
    (copy / models.MUTANTS / "wrong.toml").write_text(text)
    with refuses(ManifestError, Reason.MALFORMED, complaint):
        load(str(copy))


@pytest.mark.parametrize(
    ("find", "put", "fact"),
    [
        ("Budget = 1", "Budget = 1\n    Bugdet = 2", "'Bugdet'"),
        ("    TypeOK", "    TypesOK", "'TypesOK'"),
        ("    StepOrder", "    StepsOrder", "'StepsOrder'"),
        ("SPECIFICATION Spec", "SPECIFICATION Specc", "'Specc'"),
        ("INVARIANTS", "SYMMETRY Mirror\nINVARIANTS", "'Mirror'"),
        ("    StepOrder\n", "", "31"),
    ],
)
def test_a_name_that_the_module_lacks_is_refused(copy: Path, find: str, put: str, fact: str) -> None:
    """TLC itself says nothing of a constant that no module has, nor of a property that is not asked for."""
    path = copy / "Small.cfg"
    path.write_text(path.read_text().replace(find, put, 1))
    with refuses(ManifestError, Reason.MALFORMED, "Small.cfg", fact) as caught:
        load(str(copy))
    assert caught.value.exit_code == 3


def test_a_manifest_that_is_no_json_is_named_with_its_line(copy: Path) -> None:
    (copy / models.MANIFEST).write_text('{\n"modules": [\n')
    with refuses(ManifestError, Reason.MALFORMED, "manifest.json':3"):
        load(str(copy))


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with refuses(ManifestError, Reason.FAILURE, "No such file"):
        load(str(tmp_path / "nowhere"))


def test_a_model_that_does_not_exist_is_named_with_those_that_do() -> None:
    with refuses(ManifestError, Reason.NO_SUCH, "'Big'"):
        Specs("", {}, SPECS.models, ()).model("Big")
