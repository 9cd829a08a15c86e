"""A detached run: what systemd is asked for, and who is told what where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.cli import detach as service
from engine.cli.detach import ServiceError, command, start, unit_name
from engine.cli.main import main
from engine.errors import Reason
from tests.support.bundles import make_bundle
from tests.support.refusals import refuses

UNIT = Path(__file__).parents[2] / "examples" / "systemd" / "engine@.service"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """A systemd that takes every service: what it was asked."""
    calls: list[list[str]] = []

    def run(arguments: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        calls.append(arguments)
        return subprocess.CompletedProcess(arguments, 0, b"", b"")

    monkeypatch.setattr(service, "BOOTED", str(tmp_path))
    monkeypatch.setattr(service, "SYSTEMD_RUN", sys.executable)
    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_service_runs_the_same_command_in_a_small_environment() -> None:
    environment = {"ENGINE_ARTIFACT_BASE": "/run/base", "SECRET": "s", "PATH": ""}
    line = command("engine-a.service", ["/b", "--id", "a"], environment, user=0, directory="/here")
    assert line[-8:] == [sys.executable, "-P", "-m", "engine", "run", "/b", "--id", "a"]
    assert "--setenv=ENGINE_ARTIFACT_BASE=/run/base" in line
    assert not any("SECRET" in part or "PATH=" in part.replace("ARTIFACT", "") for part in line)
    assert "--user" not in line
    assert f'--property=ExecStopPost=:-"{sys.executable}" "-P" "-m" "engine" "gc"' in line
    assert "--user" in command("engine-a.service", ["/b"], {}, user=1000, directory="/here")


def test_systemd_finds_no_variable_in_what_a_service_is_given() -> None:
    assert (
        command("engine-a.service", ["/a $PATH", "--id", "a"], {}, user=0, directory="/")[-3] == "/a $$PATH"
    )


@pytest.mark.parametrize(
    ("container_id", "unit"), [("a_1.b", "engine-a_1.b.service"), ("a+b-c", "engine-a\\x2bb\\x2dc.service")]
)
def test_a_units_name_is_one_that_systemd_accepts(container_id: str, unit: str) -> None:
    assert unit_name(container_id) == unit


def test_every_option_reaches_the_service(
    bundle: Path, asked: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--network", "host", "--rootless", "--require-exec-policy", "--runsc", "/opt/runsc"]
    assert main(["run", str(bundle), "--detach", "--id", "web", *options]) == 0
    ((*_, last),) = asked
    run = asked[0][asked[0].index("run") + 1 :]
    assert run[:3] == [str(bundle), "--id", "web"]
    assert run[3:] == [
        *("--network", "host", "--platform", "auto", "--rootless", "--exec-policy", "auto"),
        *("--require-exec-policy", "--runsc", "/opt/runsc", "--supervise"),
    ]
    assert last == "--supervise"
    said = capsys.readouterr()
    assert said.out == "web\n"
    assert "-t engine-web" in said.err


def test_detach_without_systemd_is_refused_with_a_hint(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(service, "BOOTED", str(bundle / "nowhere"))
    assert main(["run", str(bundle), "--detach", "--json"]) == 125
    said = json.loads(capsys.readouterr().err)["refused"]
    assert (said["step"], said["reason"]) == ("detach", "unavailable")


def test_what_systemd_says_is_passed_on(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arguments: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(arguments, 1, b"", b"Unit exists.\n")

    monkeypatch.setattr(service, "BOOTED", str(bundle))
    monkeypatch.setattr(service, "SYSTEMD_RUN", sys.executable)
    monkeypatch.setattr(subprocess, "run", run)
    with refuses(ServiceError, Reason.PROGRAM_FAILED, "Unit exists"):
        start("a", ["/b"], {})


def test_a_bad_bundle_is_told_at_once(
    tmp_path: Path, asked: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(tmp_path), "--detach", "--json"]) == 125
    said = json.loads(capsys.readouterr().err)["refused"]
    assert (said["step"], said["reason"]) == ("bundle", "bundle_absent")
    assert asked == []


def test_systemd_finds_no_fault_with_the_example_unit(tmp_path: Path) -> None:
    engine = Path(sys.executable).with_name("engine")
    unit = tmp_path / "engine@.service"
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/engine", str(engine)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "engine@web.service", unit],
        check=False,
        capture_output=True,
        text=True,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin"},
    )
    assert [line for line in done.stderr.splitlines() if "engine" in line] == []
    assert done.returncode == 0, done.stderr
