"""Writes docs/oci-conformance.md: the tests of others, against bare runsc and ours at the same time.

usage: python -m tests.others [SUITE [PREFIX]]     (as root; with the beginning of tests' names, these are only printed)
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.managers.arena import open_arena
from tests.others.sources import ROOT, Suites, prepare
from tests.others.suites import Outcome, remove_cgroups, run_crun, run_podman, run_runtime_tools
from tools import SetupError, say

_DOCUMENT = ROOT / "docs" / "oci-conformance.md"
_SUITES = {"runtime-tools": run_runtime_tools, "crun": run_crun, "podman": run_podman}

_INTRODUCTION = """# Test suites of other projects

`./just oci-suites` fetches the suites from Debian, builds them, runs each test by itself with a bare runsc and with
`engine-oci`, in namespaces, and writes this page. With a suite's name it runs that one alone. A cell counts the
results that passed; `shared` means that a bare runsc fails as well. `engine-oci` runs with `--network sandbox`, a
bare runsc's default ([the OCI runtime](oci-runtime.md)). `tests/others/crun_dialect.sh` removes crun's own options
from crun's tests, for both.

podman's suite is its system tests, with Debian's podman and an image made of a static busybox. A test that needs
another image, a registry, CRIU, buildah, the journal, or a program that busybox lacks fails with both, and so does
what gVisor cannot do ([podman and containerd](managers.md)).
"""

#: What fails with ours alone because the engine means it to, and why.
BY_DECISION = {
    "test_hooks/test-hook-env-inherit": "by decision: nothing of the caller's environment reaches runsc, or a hook",
}

#: Outcomes of one suite by test, then by runtime.
Table = dict[str, dict[str, Outcome]]


def runtimes() -> dict[str, str]:
    """The runtimes that are compared, by the heading of their column."""
    ours = Path(__file__).with_name("ours.sh")
    found = {"runsc": shutil.which("runsc"), "ours": str(ours)}
    if missing := [name for name, path in found.items() if path is None]:
        raise SetupError(f"no {', '.join(missing)}; ./just oci-suites installs it")
    return {name: path for name, path in found.items() if path}


def measure(suites: Suites, names: Sequence[str], prefix: str) -> dict[str, Table]:
    """Run every test of the suites of these names that begins with `prefix`, against each runtime at the same time."""
    began = time.time()
    with ThreadPoolExecutor() as pool:
        measured = {
            (suite, name): pool.submit(_measure_one, suites, prefix, suite, name, path)
            for suite in names
            for name, path in runtimes().items()
        }
        outcomes = {key: future.result() for key, future in measured.items()}
    remove_cgroups(began)
    columns = list(runtimes())
    return {
        suite: {
            test: {name: outcomes[suite, name][test] for name in columns}
            for test in outcomes[suite, columns[0]]
        }
        for suite in names
    }


def _measure_one(suites: Suites, prefix: str, suite: str, name: str, runtime: str) -> dict[str, Outcome]:
    """The outcomes of one suite with one runtime, by test."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="ge-others-") as directory:
        arena = open_arena(Path(directory))
        try:
            for test, outcome in _SUITES[suite](arena, suites, runtime, prefix):
                found[test] = outcome
                print(f"{suite} {name} {test}: {outcome}", flush=True)
        finally:
            arena.close()
    return found


def ours_alone(outcomes: dict[str, Outcome]) -> set[str]:
    """What fails with ours and not with a bare runsc."""
    return outcomes["ours"].failures() - outcomes["runsc"].failures()


def unexplained(tables: dict[str, Table]) -> list[str]:
    """The tests that fail with ours alone, and not by decision."""
    return [
        test
        for table in tables.values()
        for test, outcomes in table.items()
        if ours_alone(outcomes) and test not in BY_DECISION
    ]


def document(tables: dict[str, Table], suites: Suites, before: str) -> str:
    """The Markdown of the tables; those that are not among them are as in the document `before`."""
    kept = {section.partition(" ")[0]: section for section in before.split("\n## ")[1:]}
    sections = {**kept, **{suite: _section(suite, table, suites) for suite, table in tables.items()}}
    return "\n## ".join([_INTRODUCTION, *(sections[suite] for suite in _SUITES if suite in sections)])


def _section(suite: str, table: Table, suites: Suites) -> str:
    lines = [f"{suite} {suites.versions[suite]}", "", f"Measured on {_versions()}.", ""]
    for name in runtimes():
        passed = sum(outcomes[name].passed for outcomes in table.values())
        lines.append(f"- {name}: {passed} of {len(table)} passed or skipped whole")
    alone = unexplained({suite: table})
    decided = [test for test in table if test in BY_DECISION]
    lines.append(
        f"- failures of ours alone: {', '.join(alone) or 'none'}; by decision: {', '.join(decided) or 'none'}"
    )
    lines += ["", "| test | runsc | ours | |", "|---|---|---|---|"]
    for test, outcomes in table.items():
        mark = "shared" if not outcomes["ours"].passed else ""
        if ours_alone(outcomes):
            mark = BY_DECISION.get(test, "**ours alone**")
        cells = [str(outcomes[name]) for name in runtimes()]
        lines.append(f"| {' | '.join([test, *cells, mark])} |")
    return "\n".join(lines) + "\n"


def _versions() -> str:
    runsc = subprocess.check_output(["runsc", "--version"], text=True).splitlines()[0]
    return f"{runsc}, Linux {Path('/proc/sys/kernel/osrelease').read_text().split('-')[0].strip()}"


def main(only: str | None, prefix: str) -> int:
    if only is not None and only not in _SUITES:
        say(f"no suite {only!r}; there are {', '.join(_SUITES)}")
        return 2
    try:
        suites = prepare()
        tables = measure(suites, [only] if only else list(_SUITES), prefix)
    except (SetupError, RuntimeError) as error:
        say(str(error))
        return 1
    if not prefix:
        _DOCUMENT.write_text(document(tables, suites, _DOCUMENT.read_text()))
    alone = unexplained(tables)
    say(f"failures of ours alone: {', '.join(alone) or 'none'}")
    for table in tables.values():
        for test, outcomes in table.items():
            for name in sorted(ours_alone(outcomes)):
                say(f"  {test}: {name}")
    return 1 if alone else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None, "".join(sys.argv[2:3])))
