"""The command line as a process: exit codes, one line for each error, and stdout for the container alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import Reason
from engine.runsc.binary import platform_package
from engine.state.container import GIVEN_BUNDLE, RUNSC_ROOT, component
from tests.support.bundles import make_bundle
from tests.support.refusals import one_line, refusal_of


def engine(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "engine", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def bundle(private: Path) -> Path:
    return make_bundle(private / "bundle")


@pytest.fixture
def broken(private: Path) -> Path:
    """An ELF file by its first bytes only: the kernel will not execute it."""
    path = private / "runsc"
    path.write_bytes(b"\x7fELF" + bytes(60) + platform_package("systrap"))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["run"],
        ["run", "b", "--network", "bridge"],
        ["run", "b", "--platform", "kqemu"],
        ["run", "b", "--exec-policy", "apparmor"],
        ["run", "b", "--id"],
        ["run", "b", "--id", "../x"],
        ["run", "b", "--id="],
        ["run", "b", "--id=-x"],
        ["run", "b", "--id", "a\nb"],
        ["run", "b", "extra"],
        ["run", "b", "--root"],
        ["run", "b", "--dry-run", "--trace", "t"],
        ["gc", "--all"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str]) -> None:
    done = engine(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    one_line(done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--memory", "512m", "b"],
        ["run", "b", "--memory", "512m"],
        ["gc", "--memory", "512m"],
        ["trace", "verify", "t", "--memory"],
    ],
)
def test_unknown_option_is_named_alone(arguments: list[str]) -> None:
    line = one_line(engine(*arguments).stderr)
    assert "--memory;" in line
    assert "512m" not in line
    assert "BUNDLE" not in line


def test_landlock_policy_is_wrong_usage_with_another_named() -> None:
    done = engine("run", "b", "--exec-policy", "landlock")
    assert (done.returncode, done.stdout) == (2, "")
    line = one_line(done.stderr)
    assert "landlock" in line
    assert "locked-mounts" in line


def test_help_names_every_option_and_the_exit_codes() -> None:
    done = engine("run", "--help")
    assert done.returncode == 0
    for word in ("--network", "--rootless", "--trace", "--dry-run", "125 the engine refused"):
        assert word in done.stdout


def test_a_bad_bundle_starts_no_lifecycle_and_leaves_no_trace(private: Path) -> None:
    done = engine(
        *("run", str(private / "none"), "--trace", str(private / "t")),
        ENGINE_ARTIFACT_BASE=str(private / "base"),
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert one_line(done.stderr).startswith("engine: bundle: ")
    assert list(private.iterdir()) == []


def test_execve_refused_by_the_kernel_is_a_recorded_refusal(
    private: Path, bundle: Path, broken: Path
) -> None:
    done = engine(
        *("run", str(bundle), "--runsc", str(broken), "--trace", str(private / "t"), "--id", "web"),
        ENGINE_ARTIFACT_BASE=str(private / "base"),
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert "engine: exec: the kernel refused to execute" in done.stderr
    assert "Traceback" not in done.stderr
    lines = [json.loads(line) for line in (private / "t").read_text().splitlines()]
    moves = [(line["state"], line["trigger"], line["next"]) for line in lines[-2:]]
    # The record of the hand-off is written ahead of it; what the kernel did not do is taken back.
    assert moves == [("policy_settled", "exec", "handed_off"), ("policy_settled", "refuse", "refused")]
    assert lines[-1]["error"]["step"] == "exec"
    assert [kept.name for kept in (private / "base").iterdir()] == ["traces"]


def test_debug_shows_the_traceback_and_keeps_the_exit_code(private: Path) -> None:
    done = engine("run", str(private / "none"), "--debug")
    assert done.returncode == 125
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("engine: bundle: ")


def test_a_refusal_can_be_had_as_json(private: Path) -> None:
    done = engine("run", str(private / "none"), "--json")
    refusal_of(done.stderr, Reason.BUNDLE_ABSENT, private / "none")


def test_names_that_would_act_on_a_terminal_are_escaped(private: Path) -> None:
    done = engine("run", str(private / "evil\x1b[2J\nname"))
    assert done.returncode == 125
    one_line(done.stderr)


def given_bundle(base: str) -> str:
    """The directory that runsc is given for the container `web`."""
    return os.path.join(base, component("web"), RUNSC_ROOT, GIVEN_BUNDLE)


def test_dry_run_prints_argv_and_touches_nothing(private: Path, bundle: Path, broken: Path) -> None:
    before = sorted(private.rglob("*"))
    base = str(private / "base")
    done = engine(
        *("run", str(bundle), "--runsc", str(broken), "--id", "web", "--dry-run", "--json"),
        ENGINE_ARTIFACT_BASE=base,
    )
    planned = json.loads(done.stdout)
    assert planned["argv"][-4:] == ["run", "--bundle", given_bundle(base), "web"]
    assert planned["environment"]["TMPDIR"].startswith(base)
    text = engine(
        *("run", str(bundle), "--runsc", str(broken), "--id", "web", "--dry-run"), ENGINE_ARTIFACT_BASE=base
    ).stdout.splitlines()
    assert len(text) == 7
    assert text[0] == "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert text[-1].endswith(f"run --bundle {given_bundle(base)} web")
    assert sorted(private.rglob("*")) == before


def test_gc_says_what_it_removed(private: Path) -> None:
    (private / "base").mkdir(mode=0o700)
    (private / "base" / component("web")).mkdir()
    (private / "base" / "notes").mkdir()
    done = engine("gc", ENGINE_ARTIFACT_BASE=str(private / "base"))
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"removed: {private}/base/{component('web')}",
        f"not the engine's, left: {private}/base/notes",
    ]
    again = json.loads(engine("gc", "--json", ENGINE_ARTIFACT_BASE=str(private / "base")).stdout)
    assert (again["removed"], again["foreign"]) == ([], [f"{private}/base/notes"])


def test_a_reader_that_leaves_early_is_no_error(private: Path) -> None:
    (private / "base").mkdir(mode=0o700)
    for number in range(3000):
        (private / "base" / f"n{number}").mkdir()
    done = subprocess.run(
        f"{sys.executable} -m engine gc | head -1",
        shell=True,
        env={**os.environ, "ENGINE_ARTIFACT_BASE": str(private / "base")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("asked", "reason"), [("--require-enforced", "not_enforced"), ("--runsc-flag=nvproxy", "unsupported")]
)
def test_dry_run_refuses_what_the_run_would(
    private: Path, bundle: Path, broken: Path, asked: str, reason: str
) -> None:
    config = json.loads((bundle / "config.json").read_text())
    config["linux"] = {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}
    (bundle / "config.json").write_text(json.dumps(config))
    run = engine(*("run", str(bundle), "--runsc", str(broken), "--dry-run", "--json", asked))
    assert (run.returncode, run.stdout) == (125, "")
    assert json.loads(run.stderr)["refused"]["reason"] == reason


@pytest.mark.parametrize(
    "name", ["with\x1b[2Jescape", "two\nlines", "it's\\n\t", "bytes\udcff", "plain name"]
)
def test_dry_run_prints_any_path_safely_for_a_shell(
    private: Path, bundle: Path, broken: Path, name: str
) -> None:
    base = str(private / name)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "engine", "run", str(bundle)),
            "--runsc",
            str(broken),
            "--id",
            "web",
            "--dry-run",
        ],
        env={**os.environ, "ENGINE_ARTIFACT_BASE": base},
        capture_output=True,
        timeout=60,
        check=True,
    )
    command = done.stdout.splitlines()[-1]
    assert command.decode().isprintable()
    words = subprocess.check_output(["bash", "-c", b"printf '%s\\0' " + command]).split(b"\0")
    assert os.fsencode(given_bundle(base)) in words
