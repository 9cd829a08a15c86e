"""What can be wrong with a line of a trace: a code for programs, and words for people."""

from __future__ import annotations

from dataclasses import dataclass

from engine.traces.reader import LineFault


class FaultCode(LineFault):
    """Why a line is bad, as a code that never changes: text may be reworded, programs compare this.

    If the facts of a line do not allow its move, the code is the name of the guard that says so
    (`engine.lifecycle.machine`).
    """

    #: The file has no line.
    EMPTY = "empty"
    #: The line has more bytes than are read.
    TOO_LONG = "too_long"
    #: The line does not end with a newline: it was not written to its end, or the file was cut.
    CUT = "cut"
    #: The run was made against another spec than this engine's.
    OTHER_SPEC = "other_spec"
    #: `seq` is not the number of the line in its run, from 0.
    WRONG_SEQ = "wrong_seq"
    #: What the header says was asked is not what its other fields say.
    HEADER_CONTRADICTS = "header_contradicts"
    #: config.json of the bundle that was given is not the recorded one, or does not ask for what is recorded.
    CONFIG_DIFFERS = "config_differs"
    #: What the line says of its step is not what other lines say.
    FACTS_CONTRADICT = "facts_contradict"
    #: The line is of another container than the header.
    OTHER_CONTAINER = "other_container"
    #: `previous` is not the SHA-256 of the line above.
    BROKEN_CHAIN = "broken_chain"
    #: The time is before that of the line above.
    TIME_GOES_BACK = "time_goes_back"
    #: The spec does not have this edge, or not from the state that the run is in.
    NOT_AN_EDGE = "not_an_edge"
    #: A refusal has no error, or another move has one.
    MISPLACED_ERROR = "misplaced_error"
    #: No run is refused in this state for this reason.
    REASON_OF_ANOTHER_STATE = "reason_of_another_state"
    #: The step that refused is not the one that leaves this state.
    STEP_OF_ANOTHER_STATE = "step_of_another_state"


def all_codes() -> tuple[str, ...]:
    """Every code but the names of guards."""
    return tuple(
        value for kind in (LineFault, FaultCode) for name, value in vars(kind).items() if name.isupper()
    )


@dataclass(frozen=True, slots=True)
class Fault:
    """The first bad line: its number (from 1), why it is bad, as a `FaultCode` and in words.

    `allowed`: what the spec allows there, if known.
    """

    line: int
    code: str
    what: str
    allowed: str | None = None

    def __str__(self) -> str:
        allowed = f"; the spec allows {self.allowed}" if self.allowed is not None else ""
        return f"line {self.line}: {self.what}{allowed}"
