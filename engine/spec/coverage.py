"""The parts of the specs that no run of TLC reached."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.spec.tool_output import ActionCoverage, Location


@dataclass(frozen=True, slots=True)
class Gap:
    """A part of the spec that no model reaches: what follows `after` in an action; if None, the whole action."""

    action: str
    location: Location
    after: Location | None


def gaps(coverages: Iterable[tuple[ActionCoverage, ...]]) -> tuple[Gap, ...]:
    """The actions that no run took, and the expressions of actions that no run evaluated.

    TLC lists an operator once for each place where an action uses it, in order. So an expression is identified by its
    location and by the number of its occurrence in the action. Of adjacent unreached expressions only the first is
    listed. An expression of another module, which the action's module extends, counts as reached where that module's
    own actions reach it.
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
    at_home = {
        place
        for (_, location), counts in evaluated.items()
        for (place, _), times in counts.items()
        if times and place.module == location.module
    }
    found: list[Gap] = []
    for (name, location), count in taken.items():
        if not count:
            found.append(Gap(name, location, None))
            continue
        reached: Location | None = location
        for (place, _), times in evaluated[name, location].items():
            if times or (place.module != location.module and place in at_home):
                reached = place
            elif reached is not None:
                found.append(Gap(name, place, reached))
                reached = None
    return tuple(found)
