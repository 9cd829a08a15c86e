"""After a supervised container's end: what is left of it is ended, its end recorded, and then all of it removed.

Imported only then: until its end the supervisor stays small. In specs/Supervision.tla: `EndTheRest`, `End`, `CleanUp`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

from engine.errors import EngineError, TraceError
from engine.lifecycle.spec_graph import SpecLifecycle, spec_graph
from engine.linux.files import PrivateDirectory, UntrustedPathError
from engine.options import RunOptions
from engine.state.base import open_existing_base
from engine.state.chain import HostChain, Start
from engine.state.cleanup import end_processes, remove_if_unused, remove_leftovers
from engine.traces.move import State, Trigger
from engine.traces.writer import Trace, options_facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from engine.traces.end_schema import EndFacts

    class HasFacts(Protocol):
        def facts(self) -> EndFacts: ...


#: The descriptors of base, container, lock, trace and runsc.
Given = Sequence[int]


def _directories(told: Mapping[str, Any], given: Given) -> tuple[PrivateDirectory, PrivateDirectory]:
    return PrivateDirectory(given[0], told["base"], False), PrivateDirectory(
        given[1], told["container"], False
    )


def end_the_rest(told: Mapping[str, Any], given: Given, warn: Callable[[str], None]) -> bool:
    """Kill what a killed runsc may have left alive; whether nothing lives."""
    _, container = _directories(told, given)
    try:
        left = end_processes(container)
    except OSError as error:
        warn(
            f"its end is not known: its processes cannot be looked at: {error.strerror}; engine gc removes it"
        )
        return False
    if left:
        warn(f"its end is not recorded: processes of it do not end: {', '.join(map(str, left))}")
    return not left


def record(
    options: RunOptions,
    told: Mapping[str, Any],
    given: Given,
    ending: HasFacts,
    warn: Callable[[str], None],
) -> bool:
    """Write the last line of the trace, by the machine, as every line; whether it is there."""
    try:
        trace = Trace.resume(options.container_id, told["seq"], told["previous"], told["trace"], given[3])
        known = {"container": options.container_id, "options": options_facts(options)}
        lifecycle = SpecLifecycle(known, trace.move, spec_graph(), at=State.HANDED_OFF)
        lifecycle.perform(Trigger.END, lambda: ending)
        if is_lost := trace.is_lost:
            warn("its end is not recorded: somebody removed the trace")
        if (chain := told.get("chain")) is not None:
            place, start = chain
            _end_in_chain(place, Start(**start), trace, warn)
        trace.close()
    except TraceError as lost:
        warn(f"its end is not recorded: {lost.what}; {lost.hint}")
    except EngineError as fault:
        warn(f"its end is not recorded: {fault}")
    else:
        return not is_lost
    return False


def _end_in_chain(place: str, start: Start, trace: Trace, warn: Callable[[str], None]) -> None:
    """Note the last line of the trace in the chain over the runs."""
    lines, last, _ = trace.position()
    try:
        if (opened := open_existing_base(place)) is None:
            raise UntrustedPathError(place, "is gone")
        with contextlib.closing(opened), contextlib.closing(HostChain(opened, make=False)) as chain:
            chain.end(start, lines, last or "")
    except (OSError, UntrustedPathError, TraceError) as error:
        warn(f"the chain over the runs has no end of this one: {error}")


def clean_up(told: Mapping[str, Any], given: Given, warn: Callable[[str], None]) -> None:
    """Remove what `engine gc` would. The lock is held."""
    base, container = _directories(told, given)
    try:
        remove_leftovers(base, container)
        remove_if_unused(base, container)
    except (OSError, UntrustedPathError) as error:
        why = f"{error.filename!r}: {error.strerror}" if isinstance(error, OSError) else str(error)
        warn(f"not all that it left is removed: {why}; engine gc does it")
