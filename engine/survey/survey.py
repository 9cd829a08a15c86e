"""Run the cases with one runsc, bare, and say where the data and the world differ."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from engine.doctor.trial import kill_all_that_name
from engine.enforcement.known import Row, rows
from engine.errors import Reason
from engine.lifecycle.validate import Validated
from engine.linux.process import end_group
from engine.options import Platform
from engine.runsc.capabilities import SEEN
from engine.survey.cases import Case, cases
from engine.survey.world import CGROUPS, SurveyError, World, find_busybox

#: Seconds for one container, on a machine that has much else to do.
_TIMEOUT = 60.0
#: runsc could not start the container.
_NOT_STARTED = frozenset({1, 2, 125, 126, 127, 128})


@dataclass(frozen=True, slots=True)
class Found:
    """What one case showed: `seen` is `enforced`, `not as asked` or `refused`, `expected` a verdict of the data.

    `why`: why it could not be tried; then `seen` is empty.
    """

    row: str
    what: str
    expected: str
    seen: str
    why: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the data says what was seen."""
        expected = "not as asked" if self.expected in ("otherwise", "ignored") else self.expected
        return not self.seen or self.seen == expected


def survey(
    runsc: Validated,
    *,
    busybox: str | None = None,
    part: tuple[int, int] = (1, 1),
    names: Sequence[str] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Found]:
    """Try each case, or every nth from the mth with `part` (m, n), or those of the rows `names`.

    Raises `SurveyError` where a good bundle is not run as it is, or there is no busybox.
    """
    chosen = [case for case in cases() if not names or case.row in names][part[0] - 1 :: part[1]]
    by_name = {row.name: row for row in rows()}
    if unknown := set(names) - by_name.keys():
        raise SurveyError(
            f"no row is called {min(unknown)!r}", reason=Reason.NO_SUCH, hint="see docs/asked-and-enforced.md"
        )
    program = find_busybox(busybox)
    with tempfile.TemporaryDirectory(prefix="engine-survey-") as made:
        private = os.path.realpath(made)
        world = World(private, program)
        runner = _Runner(runsc, world)
        try:
            code, output = runner.run(Case("", "a good bundle", lambda *_: None))
            if (code, output) != (0, "yes"):
                raise SurveyError(
                    f"runsc {runsc.runsc.path!r} does not run a good bundle: exit code {code}",
                    reason=Reason.PROGRAM_FAILED,
                    hint="see what engine doctor says",
                )
            for case in chosen:
                progress(f"{case.row}: {case.what}")
                yield runner.found(case, by_name[case.row])
        finally:
            kill_all_that_name(private)
            world.clean()


class _Runner:
    def __init__(self, runsc: Validated, world: World) -> None:
        self._world = world
        self._column = SEEN.index(runsc.capabilities.generation)
        platform = Platform.SYSTRAP if Platform.SYSTRAP in runsc.capabilities.platforms else Platform.PTRACE
        self._command = [
            *(runsc.runsc.path, "--root", os.path.join(world.directory, "root")),
            *("--network", "none", "--platform", str(platform)),
            *runsc.capabilities.creation_flags(),
            *(() if world.is_root else ("--rootless",)),
            *("run", "--bundle", world.bundle),
        ]
        self._number = 0
        self._seen: bool | None = None

    def found(self, case: Case, row: Row) -> Found:
        without = row.without_cgroups if not self._world.is_root else ""
        expected = without or row.becomes[self._column]
        if why := self._obstacle(case):
            return Found(row.name, case.what, expected, "", why)
        code, output = self.run(case)
        if code is None:
            return Found(row.name, case.what, expected, f"no end in {_TIMEOUT:g} s")
        if case.sees is not None and (output or not case.during):
            done = self._seen if case.during else case.sees(self._world, code)
        else:
            done = {"yes": True, "no": False}.get(output)
        if done is None or (not output and code in _NOT_STARTED and not done):
            seen = "refused" if code in _NOT_STARTED else f"exit code {code} and no answer"
        else:
            seen = "enforced" if done else "not as asked"
        return Found(row.name, case.what, expected, seen)

    def _obstacle(self, case: Case) -> str:
        if case.needs in ("root", "v1") and not self._world.is_root:
            return "it takes root"
        if case.needs == "v1" and not os.path.isdir(os.path.join(CGROUPS, "memory")):
            return "it is looked up in cgroups of version 1"
        return ""

    def run(self, case: Case) -> tuple[int | None, str]:
        """The exit code of runsc, None after the time limit; and the last word that the container wrote."""
        world, config = self._world, self._world.config()
        world.clean()
        case.change(config, world)
        script = f"{case.script}; read line" if case.during else case.script
        config["process"]["args"] = ["/bin/sh", "-c", script]
        with open(os.path.join(world.bundle, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
        self._number += 1
        self._seen = None
        process = subprocess.Popen(  # noqa: S603 (a list, and no shell)
            [*self._command, f"survey-{os.getpid()}-{self._number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.defpath, "TMPDIR": world.directory, "XDG_RUNTIME_DIR": world.directory},
            cwd=world.directory,
            start_new_session=True,
            text=True,
        )
        try:
            first = ""
            if case.during and case.sees is not None and process.stdout is not None:
                first = process.stdout.readline()
                if first:
                    self._seen = case.sees(world, None)
            output, _ = process.communicate(timeout=_TIMEOUT)
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            end_group(process)
        return process.returncode, (first + output).strip().rpartition("\n")[2]
