"""The survey's cases ask for what their rows name, and what it finds is held against the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.bundle.oci_config import parse
from engine.cli.main import main
from engine.enforcement.asks import asks
from engine.enforcement.judge import ONLY_WITH
from engine.enforcement.known import rows
from engine.enforcement.table import BY_WORD, ROWS
from engine.errors import BundleError, Reason
from engine.survey import survey as surveying
from engine.survey.cases import Case, cases
from engine.survey.survey import Found
from engine.survey.world import SurveyError, World, find_busybox
from tests.support.refusals import refuses

#: Rows that no case tries, and why.
UNTRIED = {
    **dict.fromkeys(
        ["no-new-privileges", "new-privileges", "option-suid", "uid-mappings", "option-idmap"],
        "busybox gives up a set-user-ID file's rights by itself, and files of other users take a host's set-up",
    ),
    **dict.fromkeys(
        [
            "huge-pages",
            "network-class",
            "network-priorities",
            "block-rates",
            "cpu-realtime",
            "memory-kernel-tcp",
        ],
        "it takes a controller, a device or a kernel that a host may not have",
    ),
    **dict.fromkeys(
        ["network-host", "network-joined", "network-shared", "mount-socket", "domainname", "console-size"],
        "busybox cannot tell",
    ),
    **dict.fromkeys(
        [
            "namespace-own",
            "namespace-cgroup",
            "namespace-time",
            "hostname-of-host",
            "oom-score",
            "cgroups-path",
        ],
        "nothing of it is seen inside, or another row's case shows it",
    ),
    **dict.fromkeys(
        ["seccomp-exec", "seccomp-actions", "seccomp-errors", "mount-overlay"], "it takes a flag of runsc"
    ),
    **dict.fromkeys(
        [
            "capabilities-effective",
            "capabilities-effective-user",
            "option-ro-sysfs",
            "option-ro-rw",
            "sysctl-ipv6",
        ],
        "it was seen by hand",
    ),
    **dict.fromkeys(
        ["memory-swap", "memory-oom", "rlimit-sigpending", "option-symlinks-own"], "it was seen by hand"
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(str(tmp_path_factory.mktemp("survey")), find_busybox(None))


def rows_of(config: dict[str, Any]) -> set[str]:
    found = {
        BY_WORD.get(word, BY_WORD.get(f"{word.partition('=')[0]}=*"))
        for word, _ in asks(config, {}, "none")
        if word not in ONLY_WITH
    }
    return {ROWS[number][0] for number in found if number is not None}


@pytest.mark.parametrize("case", [*cases()], ids=lambda case: f"{case.row}: {case.what}")
def test_a_case_asks_for_its_row(case: Case, world: World) -> None:
    config = world.config()
    case.change(config, world)
    assert case.row in {"user", "capabilities"} or case.row in rows_of(config)
    assert config != world.config()


def test_a_good_bundle_asks_for_nothing_that_is_not_done(world: World) -> None:
    config = parse(json.dumps(world.config()).encode())
    by_name = {row.name: row for row in rows()}
    assert {verdict for name in rows_of(config) for verdict in by_name[name].becomes} == {"enforced"}


def test_every_row_is_tried_or_it_is_said_why_not() -> None:
    assert {row.name for row in rows()} == {case.row for case in cases()} | UNTRIED.keys()
    assert not {case.row for case in cases()} & UNTRIED.keys()


@pytest.mark.parametrize(
    ("expected", "seen", "agrees"),
    [
        ("enforced", "enforced", True),
        ("enforced", "not as asked", False),
        ("enforced", "refused", False),
        ("ignored", "not as asked", True),
        ("otherwise", "not as asked", True),
        ("ignored", "refused", False),
        ("ignored", "enforced", False),
        ("refused", "refused", True),
        ("refused", "enforced", False),
        ("ignored", "no end in 60 s", False),
        ("ignored", "", True),
    ],
)
def test_what_was_seen_is_held_against_the_data(expected: str, seen: str, agrees: bool) -> None:
    assert Found("a", "b", expected, seen).agrees is agrees


def test_a_busybox_that_is_not_static_is_refused(tmp_path: Path) -> None:
    (tmp_path / "busybox").write_bytes(b"#!/bin/sh\n")
    with refuses(SurveyError, Reason.UNAVAILABLE, str(tmp_path)):
        find_busybox(str(tmp_path / "busybox"))


def test_a_runsc_that_runs_nothing_is_refused(binary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["survey", "--runsc", str(binary), "--json"]) == 125
    refused = json.loads(capsys.readouterr().err)["refused"]
    assert (refused["step"], refused["reason"]) == ("survey", Reason.PROGRAM_FAILED)


def test_a_row_that_is_not_there_is_refused(binary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["survey", "--runsc", str(binary), "--json", "made-up"]) == 125
    assert json.loads(capsys.readouterr().err)["refused"]["reason"] == Reason.NO_SUCH


@pytest.mark.parametrize("part", ["0/3", "4/3", "x", "1/0"])
def test_a_part_that_is_none_is_wrong_usage(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["survey", "--part", part])
    assert ended.value.code == 2
    assert "--part" in capsys.readouterr().err


def answering(found: list[Found], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveying, "survey", lambda *_, **__: iter(found))


def test_a_difference_is_said_and_is_the_exit_code(
    binary: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Found("seccomp", "mkdir", "ignored", "not as asked")
    answering([good], monkeypatch)
    assert main(["survey", "--runsc", str(binary)]) == 0
    assert capsys.readouterr().out.startswith("1 cases, 0 other")
    answering([good, Found("sysctl", "a", "ignored", "enforced")], monkeypatch)
    assert main(["survey", "--runsc", str(binary)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("sysctl: a: enforced")
    assert out[1].startswith("2 cases, 1 other")
    answering([Found("sysctl", "a", "ignored", "enforced")], monkeypatch)
    assert main(["survey", "--runsc", str(binary), "--json"]) == 1
    assert [each["agrees"] for each in json.loads(capsys.readouterr().out)["cases"]] == [False]


def test_the_engine_itself_refuses_few_of_the_cases(world: World) -> None:
    """What the engine refuses, no run of it can show; the survey's runsc is bare."""
    refused = set()
    for case in cases():
        config = world.config()
        case.change(config, world)
        try:
            parse(json.dumps(config).encode())
        except BundleError:
            refused.add(case.row)
    assert refused <= {"selinux", "memory-policy"}
