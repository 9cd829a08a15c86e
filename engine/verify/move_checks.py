"""What a move must be beside an edge whose guards hold: a refusal for a reason of its state, an end in its time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.lifecycle.machine import OUT_OF_PLACE, REASONS, STEPS
from engine.traces.move import State
from engine.traces.reader import BadLineError
from engine.traces.schema import Header, Record
from engine.verify.faults import FaultCode

_STEPS: Mapping[str, State] = {str(row.trigger): row.sources[0] for row in STEPS}


def check_refusal(state: State, error: Mapping[str, Any]) -> None:
    """Check that this step can refuse a run in `state` for this reason. Raises `BadLineError`.

    A step that does not belong to the state is allowed for internal errors only.
    """
    if (reason := error.get("reason")) is None:  # format 1
        return
    if reason not in REASONS[state]:
        raise BadLineError(
            FaultCode.REASON_OF_ANOTHER_STATE, f"in {state} no run is refused for the reason {reason}"
        )
    if reason not in OUT_OF_PLACE and _STEPS.get(error["step"], state) != state:
        raise BadLineError(
            FaultCode.STEP_OF_ANOTHER_STATE,
            f"the step {error['step']} does not refuse in {state} for the reason {reason}",
        )


def check_counter(end: Record[Any, Any], header: Header) -> None:
    """Only where the bundle has a memory limit a counter is read. Raises `BadLineError`."""
    asked = header.asked
    if end.facts["oom_counter"] is None or not isinstance(asked, dict) or "limits" in asked.get("cut", {}):
        return
    limit = asked.get("limits", {}).get("memory.limit")
    if not isinstance(limit, int) or limit <= 0:
        raise BadLineError(
            "end_can_be_so",
            "its facts do not allow end: a counter for memory, and the bundle has no limit of it",
        )


def check_duration(end: Record[Any, Any], exec_: Record[Any, Any]) -> None:
    """The container did not live longer than from its hand-off to its end. Raises `BadLineError`."""
    if end.facts["duration_ns"] > end.seconds_since(exec_) * 1e9 + 1000:  # the wall clock has microseconds
        raise BadLineError(
            FaultCode.TIME_GOES_BACK, "its duration is longer than the time since the line of the hand-off"
        )
