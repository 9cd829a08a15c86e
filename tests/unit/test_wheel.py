"""The wheel: it has what a user runs and nothing else, and works where there is no checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from engine.runsc.binary import platform_package
from tests.support.bundles import make_bundle, put_program
from tests.support.stories import Story

ROOT = Path(__file__).parents[2]

#: As the installed script starts it, with what it depends on and no checkout to fall back on.
INSTALLED = """
import sys
sys.path[:0] = [{wheel!r}]
sys.path.append({libraries!r})
from engine.__main__ import main
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    directory = tmp_path_factory.mktemp("wheel")
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", directory, ROOT],
        check=True,
        timeout=120,
    )
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked as pip does it."""
    directory = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(directory)
    return directory


def engine(installed: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the installed engine. `-S` leaves out site-packages, where a checkout may be installed for development."""
    code = INSTALLED.format(wheel=str(installed), libraries=sysconfig.get_path("purelib"))
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_wheel_has_the_engine_and_its_data_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    info = {name for name in names if ".dist-info/" in name}
    specs = {f"engine/specs/{path.relative_to(ROOT / 'specs')}" for path in (ROOT / "specs").glob("**/*.*")}
    code = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "engine").glob("**/*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names - info == code | specs
    assert {"engine/lifecycle/spec_graph.json", "engine/spec/spec_fold.json", "engine/py.typed"} <= names
    assert "engine/specs/GVisorRuntime.tla" in names


def test_installed_engine_runs_dry(installed: Path, tmp_path: Path) -> None:
    runsc = put_program(tmp_path / "runsc", b"\x7fELF" + bytes(60) + platform_package("systrap"))
    done = engine(installed, "run", make_bundle(tmp_path / "bundle"), "--dry-run", "--json", "--runsc", runsc)
    assert done.returncode == 0, done.stderr
    assert "--bundle" in json.loads(done.stdout)["argv"]


def test_installed_engine_verifies_reports_and_draws(installed: Path, tmp_path: Path) -> None:
    trace = Story().write(tmp_path / "trace.jsonl")
    for arguments in (
        ("trace", "verify", trace),
        ("report", trace, "--output", tmp_path / "report.html"),
        ("diagram", "lifecycle", "--format", "mermaid"),
        ("diagram", "steps", "--format", "dot"),
    ):
        done = engine(installed, *arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments
        assert done.stdout


def test_installed_engine_knows_its_models(installed: Path) -> None:
    done = engine(installed, "check", "NoSuchModel")
    assert done.returncode != 0
    assert "Lifecycle" in done.stderr
    assert "Traceback" not in done.stderr
