"""Runs a program that may hang: with a time limit, and nothing left behind."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.doctor.part import Part, Status
from engine.linux.process import arguments, end_all, end_group

#: Seconds for a program to print its version; Java on a busy machine is the slowest.
VERSION_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended: its exit code (negative for a signal), None after the time limit."""

    code: int | None
    output: str

    def summary(self) -> str:
        """The exit code and the last line of output, for people."""
        if self.code is None:
            return "no answer in time"
        lines = [line for line in self.output.splitlines() if line.strip()]
        return f"exit code {self.code}: {lines[-1].strip()}" if lines else f"exit code {self.code}"


def run_limited(argv: Sequence[str], limit: float, environment: Mapping[str, str] | None = None) -> Outcome:
    """Run `argv` in its own session; after `limit` seconds kill its process group.

    Output goes to a file: a pipe would stay open while any descendant has it.
    """
    with tempfile.TemporaryFile() as output:
        fcntl.fcntl(output, fcntl.F_SETFL, os.O_APPEND)  # runsc writes at the start of any other file
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
    """A program whose version output matches `pattern`."""
    path = shutil.which(argv[0])
    if path is None:
        return Part(name, Status.MISSING, f"no {argv[0]} on PATH", enables, hint)
    told = run_limited([path, *argv[1:]], VERSION_TIMEOUT)
    version = re.search(pattern, told.output)
    if told.code != 0 or version is None:
        return Part(name, Status.DEGRADED, f"{path}: {told.summary()}", enables, hint, {"path": path})
    detail = {"path": path, "version": version[1]}
    return Part(name, Status.OK, f"{version[1]} at {path}", enables, detail=detail)


def kill_all_that_name(private: str) -> None:
    """Kill every process with the unique path `private` in its arguments, and wait for its end.

    The sandbox and the gofer have their own sessions, so killing runsc's process group misses them.
    """
    path = os.fsencode(private)
    end_all(lambda pid: any(path in given for given in arguments(pid)), seconds=5)
