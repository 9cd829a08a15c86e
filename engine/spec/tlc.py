"""Run TLC as a subprocess in its own temporary directory, under limits.

TLC gets a copy of the specs, so it never writes beside them, and its own process group, so nothing of it outlives the
call.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from engine.errors import Reason
from engine.linux.process import end_group
from engine.linux.regular_files import write_output
from engine.spec.errors import (
    CheckError,
    JarError,
    JavaMissingError,
    MemoryLimitError,
    SpecError,
    TimeLimitError,
    TlcFailedError,
)
from engine.spec.java import INSTALL_JAR, INSTALL_JAVA, Jar
from engine.spec.tool_output import Counts, Output, OutputReader, messages

#: Small models finish before the JVM's optimizing compiler pays off. The locale is fixed, so that numbers and dates are
#: printed in one format.
_JVM_OPTIONS = (
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-Duser.language=en",
    "-Duser.country=US",
    "-Dfile.encoding=UTF-8",
)
_QUICK = ("-XX:TieredStopAtLevel=1",)
#: Less inlining halves the optimizing compiler's time, at the same speed of search.
_LONG = ("-XX:FreqInlineSize=120", "-XX:MaxInlineLevel=9")
#: Initial heap in MiB: small models finish before the first garbage collection.
_FIRST_HEAP = 256
#: Java 13 added archives of loaded classes (JEP 350); Java 11 must ignore the option.
_WITH_ARCHIVE = ("-XX:+IgnoreUnrecognizedVMOptions", "-Xlog:disable", "-Xlog:all=off:stderr")
#: HotSpot's exit status under ExitOnOutOfMemoryError.
_EXIT_OUT_OF_MEMORY = 3
#: Seconds between two progress reports.
_TICK = 0.5

_AT = re.compile(r"\bline (\d+), col(?:umn)? (\d+)(?: to line \d+, col \d+ of module (\w+))?")
_COMPLAINT = re.compile(r"^(?:\*\*\*Parse Error\*\*\*|\*\*\* (?:Errors|Abort messages): \d+)$", re.MULTILINE)
_FATAL_IN = re.compile(r"\bfile (\S+?)(?:\.tla)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one run of TLC: `memory` in MiB of Java heap, `seconds` of wall-clock time."""

    memory: int = 1024
    seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a run of TLC: `elapsed` in seconds; `done` of `total` models and mutants are finished."""

    name: str
    counts: Counts
    elapsed: float
    done: int = 0
    total: int = 1


@dataclass(frozen=True, slots=True)
class Tlc:
    """How to run TLC. `workers`: number of threads; with more than one the search order varies.

    `archive`: a file with TLC's loaded classes (AppCDS), which halves the start-up work. `Tlc.run` writes it with
    `keep_classes`. Java ignores a file that is missing or of another Java.
    """

    java: str
    jar: Jar
    limits: Limits = Limits()
    workers: int = 1
    archive: str | None = None

    def run(
        self,
        files: Mapping[str, str],
        module: str,
        config: str,
        *,
        name: str,
        quick: bool = False,
        coverage: bool = False,
        graph: str | None = None,
        deadlock: bool = True,
        go_on: bool = False,
        keep_classes: bool = False,
        progress: Callable[[Progress], None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> Output:
        """Check `module` of `files` (name to text) under the model configuration `config` (text).

        `name`: of the run, in errors and progress. `quick`: use JVM options for a search of a few seconds. `graph`:
        file for the state graph, in Graphviz's language with action names. `deadlock`: whether a deadlock is a
        violation. `go_on`: search on after a violation, and report each. Raises `CheckError`; a violated property is in
        the output, not an error.
        """
        with _temporary_directory() as directory:
            for file, text in files.items():
                _write(os.path.join(directory, file), text)
            _write(os.path.join(directory, "model.cfg"), config)
            command = [
                self.java,
                *_JVM_OPTIONS,
                *(_QUICK if quick else _LONG),
                *self._classes(keep_classes),
                f"-Xms{min(_FIRST_HEAP, self.limits.memory)}m",
                f"-Xmx{self.limits.memory}m",
                f"-Djava.io.tmpdir={directory}",
                "-cp",
                self.jar.path,
                "tlc2.TLC",
                "-tool",
                "-workers",
                str(self.workers),
                *(("-coverage", "1") if coverage else ()),
                *(("-dump", "dot,actionlabels", "graph") if graph else ()),
                *(() if deadlock else ("-deadlock",)),  # the option turns the check off
                *(("-continue",) if go_on else ()),
                "-metadir",
                os.path.join(directory, "states"),
                "-config",
                "model.cfg",
                module,
            ]
            with _Running(command, directory, self.limits, name, progress, cancelled) as running:
                output = running.read()
            _judge(output, running, name, self)
            if graph:
                with open(os.path.join(directory, "graph.dot"), "rb") as dumped:
                    write_output(graph, dumped.read())
        return output

    def _classes(self, keep: bool) -> tuple[str, ...]:
        if self.archive is None:
            return ()
        option = "ArchiveClassesAtExit" if keep else "SharedArchiveFile"
        return (*_WITH_ARCHIVE, f"-XX:{option}={self.archive}")

    def syntax_tree(self, files: Mapping[str, str], module: str) -> str:
        """The XML output of SANY's exporter for `module` and its EXTENDS. Raises `CheckError`."""
        with _temporary_directory() as directory:
            for file, text in files.items():
                _write(os.path.join(directory, file), text)
            command = [
                self.java,
                *_JVM_OPTIONS,
                *_QUICK,
                f"-Djava.io.tmpdir={directory}",
                "-cp",
                self.jar.path,
                "tla2sany.xml.XMLExporter",
                "-o",
                f"{module}.tla",
            ]
            try:
                ran = subprocess.run(  # noqa: S603
                    command,
                    cwd=directory,
                    capture_output=True,
                    text=True,
                    timeout=self.limits.seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise TimeLimitError(
                    f"{module}: SANY did not finish", reason=Reason.TIME_LIMIT, hint="give it more time"
                ) from None
            except OSError as error:
                raise JavaMissingError(
                    f"{self.java!r} does not start: {error.strerror}",
                    reason=Reason.FAILURE,
                    hint=INSTALL_JAVA,
                ) from None
        if ran.returncode != 0:
            raise TlcFailedError(
                f"SANY does not read {module}.tla: {_first_line(ran.stderr.splitlines())}",
                reason=Reason.PROGRAM_FAILED,
                hint="run engine check, which gives the location",
            )
        return ran.stdout


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


@contextlib.contextmanager
def _temporary_directory() -> Iterator[str]:
    try:
        directory = tempfile.TemporaryDirectory(prefix="engine-check-")
    except OSError as error:
        raise CheckError(
            f"no temporary directory: {error.strerror}", reason=Reason.FAILURE, hint="free space in TMPDIR"
        ) from None
    with directory as path:
        yield path


class _Running:
    """A TLC process and its process group; leaving the context kills what is left of it."""

    def __init__(
        self,
        command: list[str],
        directory: str,
        limits: Limits,
        name: str,
        progress: Callable[[Progress], None] | None,
        cancelled: threading.Event | None,
    ) -> None:
        self.name = name
        self.limits = limits
        self.timed_out = False
        self.was_cancelled = False
        self._progress = progress
        self._cancelled = cancelled or threading.Event()
        self._started = time.monotonic()
        self._reader = OutputReader()
        self._over = threading.Event()
        try:
            self._process = subprocess.Popen(  # noqa: S603
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise JavaMissingError(
                f"{command[0]!r} does not start: {error.strerror}", reason=Reason.FAILURE, hint=INSTALL_JAVA
            ) from None
        self._watcher = threading.Thread(target=self._watch, name=f"watch {name}", daemon=True)
        self._watcher.start()

    @property
    def returncode(self) -> int:
        return self._process.wait()

    def read(self) -> Output:
        """Read TLC's output to its end."""
        if self._process.stdout is not None:
            for message in messages(self._process.stdout):
                self._reader.take(message)
        self._process.wait()
        return self._reader.output

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        end_group(self._process)
        self._watcher.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _watch(self) -> None:
        while not self._over.wait(_TICK):
            elapsed = time.monotonic() - self._started
            if self._progress is not None:
                self._progress(Progress(self.name, self._reader.output.counts, elapsed))
            self.timed_out = elapsed > self.limits.seconds
            self.was_cancelled = self._cancelled.is_set()
            if self.timed_out or self.was_cancelled:
                end_group(self._process)
                return


def _judge(output: Output, running: _Running, name: str, tlc: Tlc) -> None:
    """Raise if TLC gave no result."""
    if running.was_cancelled:
        raise CheckError(f"{name}: stopped", reason=Reason.STOPPED, hint="run it again")
    if running.timed_out:
        raise TimeLimitError(
            f"{name}: TLC did not finish within {running.limits.seconds:g} s "
            f"({output.counts.distinct} states found, {output.counts.queue} to be explored)",
            reason=Reason.TIME_LIMIT,
            hint="give it more time, or make the model smaller",
        )
    if output.out_of_memory or running.returncode == _EXIT_OUT_OF_MEMORY:
        raise MemoryLimitError(
            f"{name}: TLC ran out of memory at {running.limits.memory} MiB of heap",
            reason=Reason.MEMORY_LIMIT,
            hint="give it more memory, or make the model smaller",
        )
    if output.parse_failed:
        raise _spec_error(output, name)
    if output.config_error is not None:
        raise SpecError(
            f"TLC does not accept the model: {_one_line(output.config_error)}",
            reason=Reason.SPEC_REJECTED,
            hint="correct the model's configuration",
            file=name,
            line=None,
            column=None,
        )
    if running.returncode < 0:
        raise TlcFailedError(
            f"{name}: java was ended by signal {-running.returncode}",
            reason=Reason.PROGRAM_FAILED,
            hint="see the system log for the cause; if the machine ran out of memory, lower --memory",
        )
    if not output.version:
        raise JarError(
            f"TLC does not start from {tlc.jar.path!r}: {_first_line(output.loose)}",
            reason=Reason.PROGRAM_FAILED,
            hint=f"{INSTALL_JAR}; and check that {tlc.java!r} is new enough for it",
        )
    if not output.succeeded and not output.violations:
        said = output.errors[0] if output.errors else _first_line(output.loose)
        raise TlcFailedError(
            f"{name}: TLC gave up (exit {running.returncode}): {_one_line(said)}",
            reason=Reason.PROGRAM_FAILED,
            hint="correct the spec; TLC could not evaluate it",
        )


def _spec_error(output: Output, name: str) -> SpecError:
    """Where SANY stopped: the first location it names, in the module it names or was parsing."""
    complaints = _COMPLAINT.split("\n".join(output.loose))[1:]
    complaint = next((text for text in complaints if _AT.search(text)), complaints[-1] if complaints else "")
    at = _AT.search(complaint)
    fatal = _FATAL_IN.search(complaint)
    module = (at[3] if at else None) or (fatal[1] if fatal else None)
    # Below its message SANY prints a stack trace or the next message.
    told = complaint.partition("\nResidual stack trace")[0]
    if at and at[3]:
        told = _AT.split(told)[_AT.groups + 1]
    return SpecError(
        _one_line(told.replace("Unknown location", "")) or "SANY does not accept the spec",
        reason=Reason.SPEC_REJECTED,
        hint="correct the spec",
        file=f"{module}.tla" if module else name,
        line=int(at[1]) if at else None,
        column=int(at[2]) if at else None,
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _first_line(said: Iterable[str]) -> str:
    return next((line.strip() for line in said if line.strip()), "no output")
