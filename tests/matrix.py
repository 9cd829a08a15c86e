"""Runs the tests with each kind of runsc: `python -m tests.matrix`, as root, or with `--part` what `./just test` adds.

Debian 13's runsc, of 2024, is the installed one, and `./just test` runs everything with it. Debian 12's, of 2022, runs
containers of root only with `--rootless` (docs/usage.md): it gets the integration tests of an ordinary user. The layout
of 2026 is the stand-in's (`tests.support.standin`). Without `--part` each but the stand-in is
surveyed whole, too (`engine survey`), and what `--also` names.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.standin import PACKAGED, build
from tools.system_parts import OLD_RUNSC

_ROOT = Path(__file__).parents[1]
_INTEGRATION = "tests/integration"
_OLD_PART = [f"{_INTEGRATION}/test_{name}.py" for name in ("hand_off", "traces_of_runs")]
_NEW_PART = [
    *(
        f"{_INTEGRATION}/test_{name}.py"
        for name in ("hand_off", "traces_of_runs", "exec_policy", "oci_verbs")
    ),
    *(f"tests/managers/test_{name}.py" for name in ("podman", "containerd")),
]
_ORDINARY_USER = ["-k", "unprivileged"]


@contextmanager
def _several_files() -> Iterator[Path]:
    """The stand-in, where everybody may execute it."""
    with tempfile.TemporaryDirectory(prefix="ge-standin-") as directory:
        os.chmod(directory, 0o755)
        yield build(Path(directory) / "installation").runsc


def _test(runsc: Path, tests: Sequence[str]) -> bool:
    """Run `tests` with the runsc at that path; whether they passed."""
    print(f"\n== {runsc} ==", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", *tests]
    environment = {**os.environ, "ENGINE_TEST_RUNSC": str(runsc)}
    return subprocess.run(command, cwd=_ROOT, env=environment, check=False).returncode == 0


def _survey(runsc: Path) -> bool:
    """Whether the data on what that runsc does as asked holds, for all cases."""
    print(f"\n== survey of {runsc} ==", flush=True)
    command = [sys.executable, "-P", "-m", "engine", "survey", "--runsc", str(runsc)]
    return subprocess.run(command, cwd=_ROOT, check=False).returncode == 0


def main() -> int:
    """Run them; 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("--part", action="store_true", help="a fixed part of them")
    parser.add_argument("--also", metavar="RUNSC", type=Path, action="append", help="survey this runsc, too")
    options = parser.parse_args()
    part, also = options.part, options.also or []
    if os.geteuid() != 0:
        print("matrix: root only: each runsc is mounted in the place of the installed one", file=sys.stderr)
        return 0 if part else 1
    passed = []
    if os.path.exists(OLD_RUNSC):
        passed.append(_test(Path(OLD_RUNSC), [*(_OLD_PART if part else [_INTEGRATION]), *_ORDINARY_USER]))
        passed.append(part or _survey(Path(OLD_RUNSC)))
    else:
        print(f"matrix: no {OLD_RUNSC}, which ./just setup brings on a Debian 12", file=sys.stderr)
        passed.append(part)
    with _several_files() as runsc:
        passed.append(_test(runsc, _NEW_PART if part else [_INTEGRATION, "tests/managers", "-n", "2"]))
    if not part:
        passed += [_survey(runsc) for runsc in (PACKAGED, *also)]
        everything = [sys.executable, "-m", "pytest", "-n", "2"]
        passed.append(subprocess.run(everything, cwd=_ROOT, check=False).returncode == 0)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
