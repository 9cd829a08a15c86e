"""A move of the lifecycle as a trace records it: its states and triggers by name, and what a step found out."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from engine.records import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from typing import Any

#: 1 had no reasons, and called the hint remedy.
FORMAT = 2

Facts = Mapping[str, "Any"]


class State(StrEnum):
    """Where a run is."""

    START = "start"
    RESOLVED = "resolved"
    VALIDATED = "validated"
    ROOT_SECURED = "root_secured"
    STAGED = "staged"
    POLICY_SETTLED = "policy_settled"
    HANDED_OFF = "handed_off"
    REFUSED = "refused"


class Trigger(StrEnum):
    """What moves a run on: the six steps, and `refuse`."""

    RESOLVE = "resolve"
    VALIDATE = "validate"
    SECURE_ROOT = "secure_root"
    STAGE = "stage"
    APPLY_POLICY = "apply_policy"
    EXEC = "exec"
    REFUSE = "refuse"


class PolicyOutcome(StrEnum):
    """What became of the execute policy for the supervisor."""

    ENFORCED = "enforced"
    UNAVAILABLE = "unavailable"
    NOT_APPLICABLE = "not_applicable"


class Strength(StrEnum):
    """How much of it is closed."""

    #: No program of the host can be executed where it lies. New files can: see `Policy.open`.
    HOST = "host"
    #: Nor any new file, but through what `Policy.open` names.
    SEALED = "sealed"


@dataclass(frozen=True, slots=True)
class Move:
    """One edge about to be taken, as it is recorded."""

    state: State
    trigger: Trigger
    next: State
    facts: Facts
