"""Nothing of the current directory is executed, whatever modules lie there: by no command, by no process it starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bundles import make_bundle
from tests.support.stories import Story

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

#: What Python itself imports for `-m` before the engine's first line: no program can prevent that.
BEFORE_US = {
    "engine",
    *subprocess.check_output(
        [sys.executable, "-Ic", "import sys, runpy; print(*(n.split('.')[0] for n in sys.modules))"],
        text=True,
    ).split(),
}

#: Each leaves its name where it is executed, and then fails.
MARK = "import os; open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'RAN-' + __name__), 'w'); 1 / 0\n"

COMMANDS = [
    *(
        "engine --version",
        "engine run bundle --dry-run",
        "engine run bundle --runsc none",
        "engine gc --json",
    ),
    *("engine trace verify t.jsonl", "engine trace verify --jobs 2 t.jsonl t.jsonl"),
    *("engine trace sign t.jsonl --key none", "engine trace verify --key key.pub t.jsonl"),
    *("engine report t.jsonl", "engine report --jobs 2 t.jsonl t.jsonl", "engine diagram --format dot"),
    *("engine diagram --trace t.jsonl --output t.svg", "engine check none", "engine check --json none"),
    *("engine-oci --version", "engine-oci features", "engine-oci --root base list"),
    *("engine-oci --root base create --bundle bundle --runsc x", "engine-oci --root base run -b bundle c"),
    *("engine-oci --root base delete --force c", "engine-oci --root base state c"),
]
#: Of each kind: one that prints, one that reads a bundle, one with helpers, one of a manager.
SOME = [COMMANDS[0], COMMANDS[1], COMMANDS[5], "engine-oci --root base run -b bundle c"]


@pytest.fixture
def hostile(private: Path) -> Path:
    """A directory with a module of every name that anything of ours could import."""
    Story().write(private / "t.jsonl")
    make_bundle(private / "bundle")
    (private / "key.pub").write_text("no key\n")
    installed = {path.stem.split("-")[0] for path in Path(os.path.dirname(pytest.__file__)).parent.iterdir()}
    names = {name for name in {*sys.stdlib_module_names, *installed} if name.isidentifier()}
    for name in {*names, "sitecustomize", "usercustomize", "engine", "tools", "tests"}:
        (private / f"{name}.py").write_text(MARK)
    return private


def _ran(hostile: Path, command: list[str], **environment: str) -> set[str]:
    """The modules of the directory that were executed; the command must have an answer of its own."""
    done = subprocess.run(
        command,
        cwd=hostile,
        env={"PATH": os.environ["PATH"], "HOME": str(hostile), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done
    assert "ZeroDivision" not in done.stderr, done
    assert done.stdout or done.stderr or {"delete", "--output"}.intersection(command), done
    return {path.name for path in hostile.glob("RAN-*")}


@pytest.mark.parametrize("command", COMMANDS)
def test_console_scripts_execute_nothing_of_the_current_directory(hostile: Path, command: str) -> None:
    program, *arguments = command.split()
    assert _ran(hostile, [str(BIN / program), *arguments]) == set()


@pytest.mark.parametrize("command", SOME)
def test_module_in_safe_path_executes_nothing_of_the_current_directory(hostile: Path, command: str) -> None:
    program, *arguments = command.split()
    module = program.replace("-", ".")
    assert _ran(hostile, [sys.executable, "-P", "-m", module, *arguments]) == set()


@pytest.mark.parametrize("command", SOME)
def test_module_executes_nothing_that_is_imported_after_it_begins(hostile: Path, command: str) -> None:
    for name in BEFORE_US:
        (hostile / f"{name}.py").unlink(missing_ok=True)
    program, *arguments = command.split()
    module = program.replace("-", ".")
    assert _ran(hostile, [sys.executable, "-m", module, *arguments]) == set()


@pytest.mark.parametrize("where", [".", "rootfs"])
def test_a_bundles_own_files_are_not_executed(hostile: Path, where: str) -> None:
    for name in BEFORE_US:
        (hostile / f"{name}.py").unlink(missing_ok=True)
    for path in hostile.glob("*.py"):
        shutil.move(path, hostile / "bundle" / where)
    here = hostile / "bundle" / where
    bundle = "." if where == "." else ".."
    command = [sys.executable, "-m", "engine", "run", bundle, "--dry-run"]
    assert _ran(here, command) == set()


def test_just_executes_nothing_of_the_current_directory_before_its_set_up(
    hostile: Path, tmp_path: Path
) -> None:
    """No network is needed: the set-up fails where pip would install, or where venv makes nothing."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("just", "Justfile", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    done = subprocess.run(
        [checkout / "just", "doctor"],
        cwd=hostile,
        env={"PATH": os.environ["PATH"], "HOME": str(hostile), "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "just: " in done.stderr
    assert {path.name for path in hostile.glob("RAN-*")} == set()


def test_every_python_of_just_leaves_out_the_current_directory() -> None:
    text = (ROOT / "Justfile").read_text() + (ROOT / "just").read_text()
    started = [
        line
        for line in text.splitlines()
        if any(call in line for call in ("{{ python }} ", 'python" ', "+ python +"))
    ]
    assert len(started) > 20
    unsafe = [line for line in started if not any(flag in line for flag in ("-P", "-I", '" -V'))]
    assert [line.strip() for line in unsafe if "mutmut run" not in line] == []
