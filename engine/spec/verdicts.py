"""Turn TLC's output into a verdict on each property, and compare the figures with the manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum

from engine.errors import Reason
from engine.spec.configuration import Configuration
from engine.spec.errors import TlcFailedError
from engine.spec.models import Model
from engine.spec.tool_output import Code, Output

#: The name under which a deadlock is reported.
DEADLOCK = "no deadlock"


class Verdict(StrEnum):
    """TLC's verdict on a property. TLC stops at the first violation; the rest stay undecided."""

    HOLDS = "holds"
    VIOLATED = "violated"
    UNDECIDED = "undecided"


def name_violation(
    configuration: Configuration, output: Output, run: Callable[[Configuration], Output]
) -> str | None:
    """The violated property of `configuration`, or None.

    TLC 2.15 does not name temporal properties, nor parts of another module; then `run` checks each alone.
    """
    if not output.violations:
        return None
    violation = output.violations[0]
    if violation.code == Code.DEADLOCK:
        return DEADLOCK
    for name in configuration.names:
        if name in violation.names:
            return name
    # In our models the properties that TLC does not name come last.
    for name in reversed(configuration.properties):
        if run(configuration.only([name])).violations:
            return name
    raise TlcFailedError(
        f"TLC found a violation of an unknown property: {violation.text}",
        reason=Reason.PROGRAM_FAILED,
        hint="correct the spec",
    )


def verdicts(configuration: Configuration, violated: str | None) -> dict[str, Verdict]:
    """The verdict on each property; `violated` is the one at which TLC stopped, if any."""
    names = (*configuration.names, DEADLOCK)
    if violated is None:
        return dict.fromkeys(names, Verdict.HOLDS)
    return {name: Verdict.VIOLATED if name == violated else Verdict.UNDECIDED for name in names}


def surprises(model: Model, output: Output, violated: str | None) -> Iterable[str]:
    """Differences between TLC's result and the manifest."""
    if violated != model.violates:
        if violated is None:
            yield f"{model.violates} holds, but should be violated"
        else:
            yield f"{violated} is violated"
        return
    yield from figures(model, output)


def figures(model: Model, output: Output) -> Iterable[str]:
    """Differences between the size of the search and the manifest's figures."""
    for what, expected, found in (
        ("distinct states", model.distinct, output.counts.distinct),
        ("states", model.total, output.counts.generated),
        ("depth", model.depth, output.depth),
    ):
        if expected is not None and expected != found:
            yield f"{found} {what}, the manifest says {expected}"
