"""Which parts of the specs no run of TLC reached, from the counts of all runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.spec.tool_output import ActionCoverage, Location


@dataclass(frozen=True, slots=True)
class Gap:
    """A part of the spec that no model reaches: what follows `after` in an action, or (None) the whole action."""

    action: str
    location: Location
    after: Location | None


def gaps(coverages: Iterable[tuple[ActionCoverage, ...]]) -> tuple[Gap, ...]:
    """What none of the runs reached: actions never taken and expressions of actions never evaluated.

    An operator that an action uses in several places is listed once for each, in order, so an expression is known
    by its place and by which of its occurrences in the action it is. Of a stretch that was not reached, only the
    start is named.
    """
    taken: dict[tuple[str, Location], int] = {}
    evaluated: dict[tuple[str, Location], dict[tuple[Location, int], int]] = {}
    for coverage in coverages:
        for action in coverage:
            key = (action.name, action.location)
            taken[key] = taken.get(key, 0) + action.taken
            counts = evaluated.setdefault(key, {})
            occurrences: dict[Location, int] = {}
            for expression in action.expressions:
                nth = occurrences[expression.location] = occurrences.get(expression.location, 0) + 1
                at = (expression.location, nth)
                counts[at] = counts.get(at, 0) + expression.count
    found: list[Gap] = []
    for (name, location), count in taken.items():
        if not count:
            found.append(Gap(name, location, None))
            continue
        reached: Location | None = location
        for (place, _), times in evaluated[name, location].items():
            if times:
                reached = place
            elif reached is not None:
                found.append(Gap(name, place, reached))
                reached = None
    return tuple(found)
