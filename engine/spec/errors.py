"""Errors of the check itself. A violated property is a result, not an error."""

from __future__ import annotations

from typing import ClassVar

from engine.errors import EngineError


class CheckError(EngineError):
    """The checker could not run, or did not finish."""

    step = "check"
    exit_code: ClassVar[int] = 3


class JavaMissingError(CheckError):
    """No Java runtime was found, or it does not start."""


class JarError(CheckError):
    """There is no usable tla2tools.jar, or the packaged one has an unexpected digest."""


class SpecError(CheckError):
    """SANY or TLC rejects a spec or model file: `file`, and `line` and `column` (from 1) where known."""

    def __init__(
        self, what: str, *, reason: str, hint: str, file: str, line: int | None, column: int | None
    ) -> None:
        self.file = file
        self.line = line
        self.column = column
        where = ":".join(str(part) for part in (file, line, column) if part is not None)
        super().__init__(f"{where}: {what}", reason=reason, hint=hint)


class ManifestError(CheckError):
    """The manifest, a model or a mutant in the specs' directory is invalid."""


class RunError(CheckError):
    """One run of TLC gave no result; other runs may."""


class MemoryLimitError(RunError):
    """TLC ran out of memory."""


class TimeLimitError(RunError):
    """TLC exceeded the time limit."""


class TlcFailedError(RunError):
    """TLC stopped for another reason, such as an expression that it cannot evaluate."""
