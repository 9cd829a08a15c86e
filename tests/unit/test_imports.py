"""Imports go one way: the contracts in pyproject.toml hold, and a planted circle breaks them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.stories import Story

ROOT = Path(__file__).parents[2]


def lint_imports(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Hold the packages in `checkout` against its contracts."""
    program = Path(sysconfig.get_path("scripts")) / "lint-imports"
    return subprocess.run(
        [program, "--no-cache", "--no-logo"],
        cwd=checkout,
        env={"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the contracts are about, to plant imports in."""
    for name in ("engine", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_holds() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "text", "contract"),
    [
        ("state/base.py", "def late() -> None:\n    from engine.oci import pod\n", "layers"),
        ("linux/files.py", "def late() -> None:\n    import engine.audit.html\n", "layers"),
        ("doctor/kernel.py", "from engine.audit import html\n", "layers"),
        ("verify/trace_file.py", "if TYPE_CHECKING:\n    from engine.verify import chunks\n", "circles"),
        ("bundle/rules.py", "def late() -> None:\n    from engine.bundle.linux import LINUX\n", "circles"),
        ("oci/kill.py", "from engine.oci import cli\n", "verbs"),
        ("spec/render.py", "def late() -> None:\n    from tools import guard_mutation\n", "tools"),
        ("new/part.py", "", "layers"),
    ],
)
def test_a_planted_import_breaks_its_contract(checkout: Path, file: str, text: str, contract: str) -> None:
    planted = checkout / "engine" / file
    if not planted.exists():
        planted.parent.mkdir()
        (planted.parent / "__init__.py").touch()
    with planted.open("a") as module:
        module.write(text)
    done = lint_imports(checkout)
    assert done.returncode == 1, done.stdout + done.stderr
    broken = {line.removesuffix(" BROKEN") for line in done.stdout.splitlines() if line.endswith(" BROKEN")}
    assert NAMES[contract] in broken or (contract == "layers" and "not listed" in done.stdout), done.stdout


NAMES = {
    "layers": "Each part imports only parts below it",
    "circles": "No circle of files or folders",
    "verbs": "No verb of engine-oci imports its command line, which imports each verb by name",
    "tools": "What developers run is no part of the engine",
}


def imported_by(*arguments: str) -> set[str]:
    """Which modules of ours, or parts of it, a command has imported when it ends."""
    code = (
        "import json, sys; from engine.__main__ import main; sys.stdout, out = sys.stderr, sys.stdout\n"
        f"code = main({list(arguments)!r}); print(json.dumps([code, *sys.modules]), file=out)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    code_of, *names = json.loads(done.stdout)
    assert code_of == 0, done.stderr
    return {name for name in names if name.split(".")[0] in {"engine", "tools"}}


def test_trace_verify_imports_no_model_checker_and_no_report(tmp_path: Path) -> None:
    trace = Story().write(tmp_path / "trace.jsonl")
    names = imported_by("trace", "verify", str(trace))
    assert "engine.verify.trace_check" in names
    for part in ("spec", "audit", "doctor", "oci"):
        assert not {name for name in names if name.startswith(f"engine.{part}")}


def test_no_package_has_code_in_its_face() -> None:
    """What every import of a part would pay for, and the contracts do not see: a package and its own modules."""
    for face in (*ROOT.glob("engine/*/__init__.py"), *ROOT.glob("tools/conformance/__init__.py")):
        assert "import" not in face.read_text().partition('"""\n')[2], face
    assert len((ROOT / "engine/__init__.py").read_text().splitlines()) <= 10


def test_no_file_of_the_engine_is_over_400_lines() -> None:
    sizes = {
        path: len(path.read_text().splitlines())
        for path in (*ROOT.glob("engine/**/*.py"), *ROOT.glob("tools/**/*.py"))
    }
    over = {str(path.relative_to(ROOT)): size for path, size in sizes.items() if size > 400}
    assert over.keys() <= {"engine/verify/signature.py"}, over  # being replaced by ssh-keygen


def test_engine_has_at_most_8_entries_beside_its_folders() -> None:
    entries = [path.name for path in (ROOT / "engine").iterdir() if path.is_file()]
    assert len(entries) <= 8, sorted(entries)
