"""Runs the tests of others against one runtime, each by itself, and says how each of their results came out."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.managers.arena import Arena, eventually
from tests.others import podman_suite
from tests.others.sources import Suites

#: Seconds for one program: runtime-tools has some that start fifty containers, and podman fifty tests in a file.
_TIMEOUT = 300
_PODMAN_TIMEOUT = 1200
_RESULT = re.compile(r"^(not )?ok \d+\s*(?:- )?(.*)$")
#: What differs from run to run: identities and addresses in a description.
_RANDOM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{32,}\b|\b\d{3,}\b|/\S+")
_FREEZER = threading.Lock()
#: Containers' ids in crun's and runtime-tools', the two paths that these put in `linux.cgroupsPath`, and podman's own.
_SUITES_CGROUP = re.compile(
    r"test-tmp\w{8}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|testdir|cgrouptest|frozen|libpod_parent"
)


@dataclass(frozen=True)
class Outcome:
    """What one program of a suite found: its results by description, True where it passed.

    `trouble` is what kept it from the end, if anything: a time limit, or an end without any result.
    """

    results: Mapping[str, bool]
    skipped: int
    trouble: str | None

    @property
    def passed(self) -> bool:
        return self.trouble is None and all(self.results.values())

    def failures(self) -> set[str]:
        failed = {name for name, passed in self.results.items() if not passed}
        return failed | ({self.trouble} if self.trouble else set())

    def __str__(self) -> str:
        if self.passed:
            return "skipped" if self.skipped and not self.results else "passed"
        passed = sum(self.results.values())
        return f"{passed} of {len(self.results)}" + (f", {self.trouble}" if self.trouble else "")


def crun_tests(suites: Suites) -> list[tuple[str, str]]:
    """Each test of crun's: its file and its name in there."""
    found = []
    for file in sorted(suites.crun.glob("tests/test_*.py")):
        listed = file.read_text().partition("all_tests = {")[2]
        found += [(file.stem, name) for name in re.findall(r'"([\w-]+)" *: *test_', listed)]
    return found


def run_crun(arena: Arena, suites: Suites, runtime: str, prefix: str) -> Iterator[tuple[str, Outcome]]:
    """crun's tests, which call the runtime through `crun_dialect.sh`."""
    environment = {
        "OCI_RUNTIME": str(Path(__file__).with_name("crun_dialect.sh")),
        "RUNTIME": runtime,
        "INIT": str(suites.crun / "tests" / "init"),
    }
    for file, name in crun_tests(suites):
        if not f"{file}/{name}".startswith(prefix):
            continue
        # It freezes a cgroup that is the whole machine's.
        alone = _FREEZER if name == "test_simple_delete" else contextlib.nullcontext()
        command = ["python3", str(suites.crun / "tests" / f"{file}.py")]
        with alone:
            outcome = _outcome(arena, command, arena.directory, environment | {"RUN_TESTS": name})
        yield f"{file}/{name}", outcome


def run_runtime_tools(
    arena: Arena, suites: Suites, runtime: str, prefix: str
) -> Iterator[tuple[str, Outcome]]:
    """The validation programs of opencontainers/runtime-tools."""
    for program in sorted(suites.runtime_tools.glob(f"{prefix}*.t")):
        yield program.stem, _outcome(arena, [str(program)], suites.runtime_tools, {"RUNTIME": runtime})


def run_podman(arena: Arena, suites: Suites, runtime: str, prefix: str) -> Iterator[tuple[str, Outcome]]:
    """Those files of podman's system tests that use the runtime and need no image but one."""
    podman_suite.make_ready(arena, runtime)
    where = suites.podman / "test" / "system"
    for name in podman_suite.FILES:
        if name.startswith(prefix):
            podman_suite.bring_image(arena)
            command = ["bats", "--tap", f"{name}.bats"]
            yield name, _outcome(arena, command, where, podman_suite.ENVIRONMENT, _PODMAN_TIMEOUT)


def _outcome(
    arena: Arena, command: list[str], where: Path, environment: dict[str, str], limit: int = _TIMEOUT
) -> Outcome:
    variables = [f"{name}={value}" for name, value in environment.items()]
    inside = ["timeout", "--kill-after=5", str(limit), *command]
    log = arena.directory / "log"
    with log.open("w") as output:
        done = subprocess.run(
            arena.inside("env", f"--chdir={where}", *variables, *inside),
            env=dict(arena.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    _end_what_is_left(arena)
    text = log.read_text(errors="replace")
    results: dict[str, bool] = {}
    skipped = 0
    for line in text.splitlines():
        if found := _RESULT.match(line):
            failed, description = bool(found[1]), _RANDOM.sub("…", found[2]).strip()
            if re.search(r"#\s*(SKIP|TODO)", description, re.I):
                skipped += 1
            else:
                name = next(n for i in range(1000) if (n := f"{description} ({i})") not in results)
                results[name] = not failed
    trouble = None
    if done.returncode in {124, 137}:
        trouble = f"no end within {limit} s"
    elif not results and not skipped:
        last = [line for line in text.splitlines() if line.strip() and not line.startswith(("TAP", "1.."))]
        trouble = "ended early" if done.returncode == 0 or not last else "failed"
    return Outcome(results, skipped, trouble)


def _end_what_is_left(arena: Arena) -> None:
    """End every process here: a suite that fails leaves its containers."""

    def ended() -> bool:
        left = [str(number) for number in arena.processes()]
        if left:
            _thaw(arena, left)
            subprocess.run(arena.inside("kill", "-9", *left), check=False, capture_output=True)
        return not left

    eventually("the end of what a suite left running", ended)


def _thaw(arena: Arena, processes: list[str]) -> None:
    """Let frozen processes go on, as they cannot end otherwise: crun's suite freezes one."""
    for process in processes:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{arena.init}/root/proc/{process}/cgroup").read_text().splitlines():
                _, controllers, path = line.split(":", 2)
                if controllers == "freezer":
                    Path(f"/sys/fs/cgroup/freezer{path}/freezer.state").write_text("THAWED")
                elif not controllers:
                    with contextlib.suppress(
                        OSError
                    ):  # where the hierarchy has no cgroup of it, or is elsewhere
                        Path(f"/sys/fs/cgroup{path}/cgroup.freeze").write_text("0")


def remove_cgroups(since: float) -> None:
    """Remove the empty cgroups that have the names which these suites give theirs and were made since then, time(2)."""
    root = Path("/sys/fs/cgroup")
    for hierarchy in (root, *(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())):
        for top in hierarchy.iterdir():
            with contextlib.suppress(OSError):  # it is another's by now, or still in use
                if top.is_dir() and _SUITES_CGROUP.fullmatch(top.name) and top.stat().st_ctime >= since:
                    for path, _, _ in os.walk(top, topdown=False):
                        os.rmdir(path)
