"""Mutants checked together have the verdicts that TLC gives on each alone, also where a JVM dies or hangs."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from engine.cli.main import main
from engine.spec import mutants as of_mutants
from engine.spec.checker import CheckResult, check
from engine.spec.combine import combine
from engine.spec.models import load
from engine.spec.tlc import Limits, Progress
from tests.support.refusals import one_line

SPECS = load()

LAMP = r"""---- MODULE Lamp ----
EXTENDS Naturals
CONSTANTS
    Levels, \* what Turn may choose
    Locked
VARIABLES level, on

vars == <<level, on>>

Init ==
    /\ level = 0
    /\ on = FALSE
Turn ==
    /\ ~Locked
    /\ level' \in Levels
    /\ UNCHANGED on
Flip == /\ level > 0 \/ on
        /\ on' = ~on
        /\ UNCHANGED level
Next == Turn \/ Flip
Spec == Init /\ [][Next]_vars
FairSpec == Spec /\ WF_vars(Turn)

TypeOK ==
    /\ level \in 0 .. 3
    /\ on \in BOOLEAN
OnlyLitWhenTurned == on => level # 0 \/ 0 \in Levels
NeverFour == level # 4
OneAtATime ==
    [][\/ UNCHANGED level
       \/ UNCHANGED on]_vars
Settles == <>(level # 0)
====
"""
MANIFEST = {
    "modules": [
        {
            "path": "Lamp.tla",
            "models": [
                {
                    "path": path,
                    "says": "a lamp",
                    "runtime": "00:00:01",
                    "result": "success",
                    "coverage": False,
                    "distinctStates": 7,
                    "properties": properties,
                    **more,
                }
                for path, properties, more in (
                    ("Lamp.cfg", 4, {"narrow": {"Levels": "{1}"}}),
                    ("Fair.cfg", 1, {}),
                )
            ],
        }
    ]
}
#: Each mutant's property, edit, constants and model, and whether that property notices.
MUTANTS: dict[str, tuple[str, str, str, dict[str, str], str, bool]] = {
    "at-first": ("TypeOK", "/\\ level = 0", "/\\ level = 9", {}, "Lamp", True),
    "beyond": ("NeverFour", "level' \\in Levels", "level' \\in Levels \\cup {4}", {}, "Lamp", True),
    "both": ("OneAtATime", "        /\\ UNCHANGED level\n", "        /\\ level' = 0\n", {}, "Lamp", True),
    "later": ("TypeOK", "level' \\in Levels", "level' = level + 1", {}, "Lamp", True),
    "wide": ("TypeOK", "/\\ ~Locked", "/\\ TRUE", {"Levels": "{1, 5}"}, "Lamp", True),
    "only-wide": ("NeverFour", "level' \\in Levels", "level' \\in {l + l \\div 3 : l \\in Levels}", {}, "Lamp", True),
    "the-same": ("TypeOK", "/\\ ~Locked", "/\\ ~Locked /\\ TRUE", {}, "Lamp", False),
    "locked": ("NeverFour", "level' \\in Levels", "level' = 4", {"Locked": "TRUE"}, "Lamp", False),
    "of-another": ("OnlyLitWhenTurned", "level' \\in Levels", "level' = 4", {}, "Lamp", False),
    "stands": ("Settles", "level' \\in Levels", "level' = 0", {}, "Fair", True),
}  # fmt: skip
#: TLC cannot evaluate it, and dies in the middle of whatever it is checked with.
BROKEN: tuple[str, str, str, dict[str, str], str, bool] = (
    "TypeOK",
    "/\\ on' = ~on",
    "/\\ on' = ~level",
    {},
    "Lamp",
    False,
)


@pytest.fixture
def lamp(tmp_path: Path) -> Path:
    directory = tmp_path / "lamp"
    (directory / "mutants").mkdir(parents=True)
    (directory / "Lamp.tla").write_text(LAMP)
    constants = "CONSTANTS\n    Levels = {1, 2, 3}\n    Locked = FALSE\n"
    (directory / "Lamp.cfg").write_text(
        f"SPECIFICATION Spec\n{constants}INVARIANTS TypeOK OnlyLitWhenTurned NeverFour\nPROPERTY OneAtATime\n"
    )
    (directory / "Fair.cfg").write_text(f"SPECIFICATION FairSpec\n{constants}PROPERTY Settles\n")
    (directory / "manifest.json").write_text(json.dumps(MANIFEST))
    for name, mutant in MUTANTS.items():
        add(directory, name, *mutant)
    return directory


def add(
    directory: Path,
    name: str,
    breaks: str,
    find: str,
    put: str,
    constants: dict[str, str],
    model: str,
    _: bool,
) -> None:
    lines = [f"says = 'x'\nbreaks = '{breaks}'\nfile = 'Lamp.tla'\nmodel = '{model}'"]
    lines += [f"find = '''\n{find}\n'''\nput = '''\n{put}\n'''\n[constants]"]
    lines += [f"{key} = '{value}'" for key, value in constants.items()]
    (directory / "mutants" / f"{name}.toml").write_text("\n".join(lines))


def verdicts(result: CheckResult) -> dict[str, tuple[bool, str | None, bool]]:
    return {m.mutant.name: (m.killed, m.also, m.error is not None) for m in result.mutants}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, lamp: Path) -> dict[str, tuple[bool, str | None, bool]]:
    """The verdicts where no mutant is combined with another."""
    with monkeypatch.context() as patch:
        patch.setattr(of_mutants, "combine", lambda *_: ())
        return verdicts(check(directory=str(lamp), mutants=True))


def java_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Has every run of TLC begin with `script`; `exec "$JAVA" "$@"` is what follows it."""
    java = shutil.which("java")
    assert java is not None
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "java").write_text(f'#!/bin/sh\nJAVA={java}\n{script}\nexec "$JAVA" "$@"\n')
    (home / "bin" / "java").chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(home))


# -- together ----------------------------------------------------------------------------------------------------------


def test_together_each_has_the_verdict_that_it_has_alone(
    lamp: Path, alone: dict[str, tuple[bool, str | None, bool]]
) -> None:
    told: list[Progress] = []
    result = check(directory=str(lamp), mutants=True, progress=told.append)
    assert {name: killed for name, (killed, _, _) in alone.items()} == {
        name: MUTANTS[name][-1] for name in MUTANTS
    }
    assert alone["of-another"] == (False, "TypeOK", False)
    assert verdicts(result) == alone
    assert [model.counts.distinct for model in result.models] == [7, 7]


def test_the_mutants_of_the_lamp_are_combined(lamp: Path) -> None:
    specs = load(str(lamp))
    [together] = combine(specs, specs.mutants)
    assert {mutant.name for mutant in together.mutants} == MUTANTS.keys() - {"stands"}


@pytest.mark.parametrize(("choices", "runs"), [("{3}", 1), ("{2}", 3)], ids=["enough", "too few"])
def test_the_choices_of_a_mutant_are_tried_first_and_change_no_verdict(
    lamp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choices: str, runs: int
) -> None:
    """Only level 3 shows that these are wrong. The model's own first choice is level 1."""
    shutil.rmtree(lamp / "mutants")
    (lamp / "mutants").mkdir()
    for name in ("only-wide", "only-wide-too"):
        add(lamp, name, *MUTANTS["only-wide"])
        with open(lamp / "mutants" / f"{name}.toml", "a") as file:
            file.write(f"\n[narrow]\nLevels = '{choices}'\n")
    ran = tmp_path / "ran"
    java_that(tmp_path, monkeypatch, f'case "$*" in *" Mutants") echo >> {ran};; esac')
    assert set(verdicts(check(directory=str(lamp), mutants=True)).values()) == {(True, None, False)}
    assert len(ran.read_text()) == runs


def test_mutant_tlc_cannot_evaluate_spoils_no_other_verdict(
    lamp: Path, alone: dict[str, tuple[bool, str | None, bool]]
) -> None:
    add(lamp, "broken", *BROKEN)
    result = check(directory=str(lamp), mutants=True)
    assert verdicts(result) == {**alone, "broken": (False, None, True)}
    assert len(result.errors) == 1
    assert "broken: TLC gave up" in result.errors[0]
    assert not result.ok


def test_of_the_real_mutants_only_these_are_checked_alone() -> None:
    """Each costs a JVM: of liveness, of a refinement, which is no plain property of steps, or alone in its model.

    Those of a module that extends another are not combined either: its parts lie in two files.
    """
    together = {mutant.name for group in combine(SPECS, SPECS.mutants) for mutant in group.mutants}
    of_each = Counter(mutant.model for mutant in SPECS.mutants)
    alone = {
        mutant.breaks for mutant in SPECS.mutants if mutant.name not in together and of_each[mutant.model] > 1
    }
    liveness = {
        name
        for model in SPECS.models
        if model.configuration.specification.endswith("FairSpec")
        for name in model.configuration.properties
    }
    of_extensions = {mutant.breaks for mutant in SPECS.mutants if mutant.model == "Supervision"}
    assert alone == liveness - {"TheEndIsRecorded"} | of_extensions | {"RefinesNucleus", "EachRefinesNucleus"}


# -- a JVM that dies or hangs ------------------------------------------------------------------------------------------


def test_a_jvm_that_dies_with_many_mutants_loses_no_verdict(
    lamp: Path,
    alone: dict[str, tuple[bool, str | None, bool]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is killed when it has told of some."""
    died = tmp_path / "died"
    java_that(
        tmp_path,
        monkeypatch,
        'case "$*" in *" Mutants") "$JAVA" "$@" | head -n 60; ' + f"echo >> {died}; kill -9 $$;; esac",
    )
    assert verdicts(check(directory=str(lamp), mutants=True)) == alone
    assert len(died.read_text()) == 2


def test_jvm_that_dies_or_hangs_spoils_no_other_verdict(
    lamp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java_that(
        tmp_path, monkeypatch, "case $(cat model.cfg) in *Settles*) kill -9 $$;; *NeverFour*) sleep 60;; esac"
    )
    shutil.rmtree(lamp / "mutants")
    (lamp / "mutants").mkdir()
    (lamp / "Third.cfg").write_text(
        "SPECIFICATION Spec\nCONSTANTS\n  Levels = {1}\n  Locked = FALSE\nINVARIANT TypeOK\n"
    )
    manifest = json.loads((lamp / "manifest.json").read_text())
    model = manifest["modules"][0]["models"][1]
    manifest["modules"][0]["models"].append({**model, "path": "Third.cfg", "distinctStates": 3})
    (lamp / "manifest.json").write_text(json.dumps(manifest))
    started = time.monotonic()
    result = check(directory=str(lamp), limits=Limits(seconds=15))
    assert time.monotonic() - started < 45
    hangs, dies, third = result.models
    assert third.error is None
    assert set(third.verdicts.values()) == {"holds"}
    for model in (hangs, dies):
        assert set(model.verdicts.values()) == {"undecided"}
    assert "did not finish within 15 s" in (hangs.error or "")
    assert "ended by signal 9" in (dies.error or "")
    assert not result.ok


def test_what_has_no_answer_ends_in_3_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    java_that(tmp_path, monkeypatch, "kill -9 $$")
    assert main(["check", "--json", "NucleusGVisor"]) == 3
    said = capsys.readouterr()
    data = json.loads(said.out)
    assert data["ok"] is False
    assert set(data["models"][0]["properties"].values()) == {"undecided"}
    assert "NucleusGVisor: java was ended by signal 9" in one_line(said.err)


def test_progress_counts_models_and_mutants(
    lamp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java_that(tmp_path, monkeypatch, "sleep 0.6")
    told: list[Progress] = []
    check(directory=str(lamp), mutants=True, progress=told.append)
    assert {now.total for now in told} == {2 + len(MUTANTS)}
    done = [now.done for now in told]
    assert done[0] == 0
    assert max(done) > 2
    assert all(number <= 2 + len(MUTANTS) for number in done)


# -- starting faster ---------------------------------------------------------------------------------------------------


def test_the_classes_are_kept_for_one_check_and_not_longer(
    lamp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    said = tmp_path / "said"
    java_that(
        tmp_path, monkeypatch, f'echo "$@" >> {said}; ls -d {temporary}/engine-classes-*/* >> {said} 2>&1'
    )
    assert check(directory=str(lamp), mutants=True).models[0].error is None
    text = said.read_text()
    assert "-XX:ArchiveClassesAtExit=" in text
    assert "-XX:SharedArchiveFile=" in text
    assert text.index("ArchiveClassesAtExit") < text.index("SharedArchiveFile")
    assert os.listdir(temporary) == []


def test_a_java_without_such_archives_checks_all_the_same(
    lamp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java_that(
        tmp_path,
        monkeypatch,
        "for a; do shift; case $a in *ArchiveClasses*|*SharedArchive*) a=-XX:+NoSuchOptionOfThisJava;; esac; "
        'set -- "$@" "$a"; done',
    )
    shutil.rmtree(lamp / "mutants")
    (lamp / "mutants").mkdir()
    add(lamp, "beyond", *MUTANTS["beyond"])
    result = check(directory=str(lamp), mutants=True)
    assert result.ok


def test_coverage_has_fewer_choices_but_the_verdict_all(lamp: Path) -> None:
    manifest = json.loads((lamp / "manifest.json").read_text())
    for model in manifest["modules"][0]["models"]:
        model.update(coverage=True, coverageWith={"Levels": "{1}"})
    (lamp / "manifest.json").write_text(json.dumps(manifest))
    result = check(directory=str(lamp))
    assert result.ok
    for model in result.models:
        assert model.counts.distinct == 7
        assert {action.name: action.distinct for action in model.coverage}["Turn"] == 1
