"""Why the model could not be checked at all. A property that does not hold is a result, not one of these."""

from __future__ import annotations

from typing import ClassVar

from engine.errors import EngineError


class CheckError(EngineError):
    """The checker could not run, or not to its end."""

    step = "check"
    exit_code: ClassVar[int] = 3


class JavaMissingError(CheckError):
    """No Java runtime was found, or it does not start."""


class JarError(CheckError):
    """No usable tla2tools.jar, or the packaged one is not the one that is known."""


class SpecError(CheckError):
    """SANY or TLC does not accept a spec or model file: `file`, and `line` and `column` (from 1) where known."""

    def __init__(
        self, what: str, *, reason: str, hint: str, file: str, line: int | None, column: int | None
    ) -> None:
        self.file = file
        self.line = line
        self.column = column
        where = ":".join(str(part) for part in (file, line, column) if part is not None)
        super().__init__(f"{where}: {what}", reason=reason, hint=hint)


class ManifestError(CheckError):
    """The manifest, a model or a mutant in the specs' directory is not what it should be."""


class RunError(CheckError):
    """One run of TLC gave no answer; another may."""


class MemoryLimitError(RunError):
    """TLC ran out of the memory it was given."""


class TimeLimitError(RunError):
    """TLC did not finish in the time it was given."""


class TlcFailedError(RunError):
    """TLC stopped for another reason, such as an expression that it cannot evaluate."""
