"""Running a program that may hang: with a time limit, and nothing left behind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.doctor.part import Part, Status
from engine.linux.process import arguments, end_all, end_group

#: How long a program may take to tell its version, in seconds. Java on a busy machine is the slowest.
VERSION_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended: its exit code (negative for a signal), None when the limit ended it."""

    code: int | None
    output: str

    def summary(self) -> str:
        """Its last words, for people."""
        if self.code is None:
            return "no answer in time"
        lines = [line for line in self.output.splitlines() if line.strip()]
        return f"exit code {self.code}: {lines[-1].strip()}" if lines else f"exit code {self.code}"


def run_limited(argv: Sequence[str], limit: float, environment: Mapping[str, str] | None = None) -> Outcome:
    """Run `argv` in a session of its own; after `limit` seconds its whole process group is killed.

    Output goes through a file: a pipe would stay open for as long as any descendant holds it.
    """
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(  # noqa: S603 (a list, and no shell)
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(126, f"{argv[0]}: {error.strerror}")
        code: int | None = None
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            pass
        finally:
            end_group(process)
        output.seek(0)
        return Outcome(code, output.read().decode("utf-8", "replace"))


def try_program(name: str, argv: Sequence[str], pattern: str, enables: str, hint: str) -> Part:
    """A program that tells its version in something that `pattern` finds."""
    path = shutil.which(argv[0])
    if path is None:
        return Part(name, Status.MISSING, f"no {argv[0]} on PATH", enables, hint)
    told = run_limited([path, *argv[1:]], VERSION_LIMIT)
    version = re.search(pattern, told.output)
    if told.code != 0 or version is None:
        return Part(name, Status.DEGRADED, f"{path}: {told.summary()}", enables, hint, {"path": path})
    detail = {"path": path, "version": version[1]}
    return Part(name, Status.OK, f"{version[1]} at {path}", enables, detail=detail)


def kill_all_that_name(private: str) -> None:
    """Kill every process with the path `private`, which no other has, in its arguments, and see it gone.

    The sandbox and the gofer are sessions of their own, so killing runsc's process group misses them.
    """
    path = os.fsencode(private)
    end_all(lambda pid: any(path in given for given in arguments(pid)), seconds=5)
