"""One family of errors. Each names the step that refused, what is wrong and where, and the remedy.

The text is one line, safe to print on a terminal: control characters in names that came from outside are
escaped. It never carries the content of a file or of the environment.
"""

from __future__ import annotations

import errno

from engine.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import ClassVar


def printable(text: str) -> str:
    """`text` on one line, with everything a terminal might act on (and unpaired surrogates) escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


_REMEDIES = {
    errno.ENOSPC: "free space there (engine gc removes what finished containers left)",
    errno.EDQUOT: "free space there (engine gc removes what finished containers left)",
    errno.EMFILE: "allow this process more open files (ulimit -n)",
    errno.ENFILE: "let the system open more files (sysctl fs.file-max)",
    errno.EROFS: "choose a place that is not mounted read-only",
    errno.ENOMEM: "free memory",
}


def remedy_for(error: OSError, otherwise: str) -> str:
    """What helps against what the system said, errno(3); `otherwise` where it depends on what was done."""
    return _REMEDIES.get(error.errno or 0, otherwise)


class EngineError(Exception):
    """Something the engine refuses. `step` is the part that refused; `exit_code` is what the process returns."""

    step: str = "engine"
    exit_code: ClassVar[int] = 125

    def __init__(self, what: str, *, remedy: str) -> None:
        self.what = printable(what)
        self.remedy = printable(remedy)
        super().__init__(f"{self.step}: {self.what}; {self.remedy}")


def as_refusal(error: Exception) -> EngineError:
    """What a user is told of an error that nothing foresaw: one line, with `error` as its cause for `--debug`."""
    if isinstance(error, EngineError):
        return error
    if isinstance(error, OSError):
        refusal = EngineError(f"cannot go on: {error}", remedy=remedy_for(error, "look at what it names"))
    else:
        refusal = EngineError(
            f"unexpected {type(error).__name__}", remedy="run with --debug and report what it shows"
        )
    refusal.__cause__ = error
    return refusal


class UsageError(EngineError):
    """The command line is wrong; nothing was looked at."""

    step = "usage"
    exit_code = 2


class BundleError(EngineError):
    """The bundle is not one that may be run; no lifecycle was started."""

    step = "bundle"


class TraceError(EngineError):
    """The record of the run cannot be kept, so the run may not go on."""

    step = "trace"


class StepError(EngineError):
    """A lifecycle step refuses."""


class ResolveError(StepError):
    step = "resolve"


class ValidateError(StepError):
    step = "validate"


class SecureRootError(StepError):
    step = "secure_root"


class StageError(StepError):
    step = "stage"


class PolicyError(StepError):
    step = "apply_policy"


class ExecError(StepError):
    step = "exec"


class FailedError(StepError):
    """The system failed a step in something that no step expects to fail; `step` is the one it was in."""

    def __init__(self, step: str, error: OSError) -> None:
        self.step = str(step)
        where = f"{error.filename!r}: " if error.filename is not None else ""
        super().__init__(f"{where}{error.strerror or error}", remedy=remedy_for(error, "run it again"))


class StoppedError(StepError):
    """A signal asked the engine to stop before it handed over; `step` is the one that was not begun."""

    def __init__(self, step: str, signal_name: str) -> None:
        self.step = step
        super().__init__(f"stopped by {signal_name}", remedy="run it again")
