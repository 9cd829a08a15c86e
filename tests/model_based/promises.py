"""A promise that the engine broke, with codes and facts, so that a test can tell which one and where."""

from __future__ import annotations

from collections.abc import Mapping


class Promise:
    """What is promised, by name. A test compares these: what is told of a broken promise may be reworded."""

    #: Where nobody did anything, what the options allow is done.
    GOOD_RUN_STARTS = "good_run_starts"
    #: The trace is a path of the spec's graph.
    TRACE_IS_A_PATH = "trace_is_a_path"
    #: When `validate` was taken, there was a program to be trusted.
    TRUSTED_PROGRAM = "trusted_program"
    #: The copy that was staged is what was validated.
    COPY_IS_WHAT_WAS_VALIDATED = "copy_is_what_was_validated"
    #: So is what would be executed at any moment from then on.
    WHAT_WOULD_BE_EXECUTED = "what_would_be_executed"
    #: And what was executed.
    WHAT_WAS_EXECUTED = "what_was_executed"
    #: Nothing is executed but at the end of a trace that says so.
    EXECUTED_BY_EXEC_ONLY = "executed_by_exec_only"
    #: No run is handed off after a call failed that it cannot do without.
    NO_FAILURE_IS_FORGOTTEN = "no_failure_is_forgotten"
    #: Once `secure_root` was taken, the lock is held.
    LOCK_IS_HELD = "lock_is_held"
    #: A refused run leaves nothing.
    NOTHING_IS_LEFT = "nothing_is_left"
    #: A refusal blames the step that refused.
    STEP_IS_BLAMED = "step_is_blamed"


class BrokenError(AssertionError):
    """A broken promise: `facts` has its name under `promise`, and where and how it was broken, as codes and names."""

    def __init__(self, promise: str, told: str, facts: Mapping[str, object]) -> None:
        super().__init__(f"{promise} {facts}: {told}")
        self.facts: Mapping[str, object] = {"promise": promise, **facts}

    def is_told_by(self, sign: Mapping[str, object]) -> bool:
        """Whether it is the broken promise that `sign` describes, all of whose facts it must have."""
        return sign.items() <= self.facts.items()


def hold(promise: str, is_kept: object, told: str, **facts: object) -> None:
    """Raise `BrokenError` unless the promise `is_kept`; `told` says to people what is wrong."""
    if not is_kept:
        raise BrokenError(promise, told, facts)


def broken(promise: str, **facts: object) -> Mapping[str, object]:
    """The sign of a broken promise, see `BrokenError.is_told_by`."""
    return {"promise": promise, **facts}
