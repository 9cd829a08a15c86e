"""A move of the lifecycle as a trace records it: states, triggers and what a step established."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

#: The trace format. Format 1 had no reason codes, and the key of the hint was `remedy`. In formats 1 and 2 a staged
#: copy has mode 0500.
FORMAT = 3

Facts = Mapping[str, "Any"]


class State(StrEnum):
    """The state of a run."""

    START = "start"
    RESOLVED = "resolved"
    VALIDATED = "validated"
    ROOT_SECURED = "root_secured"
    STAGED = "staged"
    POLICY_SETTLED = "policy_settled"
    HANDED_OFF = "handed_off"
    ENDED = "ended"
    REFUSED = "refused"


class Trigger(StrEnum):
    """What changes the state: the six steps, the end that a supervisor saw, and `refuse`."""

    RESOLVE = "resolve"
    VALIDATE = "validate"
    SECURE_ROOT = "secure_root"
    STAGE = "stage"
    APPLY_POLICY = "apply_policy"
    EXEC = "exec"
    END = "end"
    REFUSE = "refuse"


class Oom(StrEnum):
    """Whether the kernel killed a process of the container for its memory limit, by the counter of its cgroup."""

    KILLED = "killed"
    NONE = "none"
    #: There was no counter, or nobody read it at the end.
    UNKNOWN = "unknown"


class PolicyOutcome(StrEnum):
    """The outcome of the execute policy for the supervisor."""

    ENFORCED = "enforced"
    UNAVAILABLE = "unavailable"
    NOT_APPLICABLE = "not_applicable"


class Strength(StrEnum):
    """How strong the policy is."""

    #: No program of the host can be executed from its place. New files can: see `Policy.bypasses`.
    HOST = "host"
    #: New files cannot be executed either, except through `Policy.bypasses`.
    SEALED = "sealed"


class Move:
    """An edge that is about to be taken."""

    def __init__(self, state: State, trigger: Trigger, next: State, facts: Facts) -> None:  # noqa: A002
        self.state: Final = state
        self.trigger: Final = trigger
        self.next: Final = next
        self.facts: Final = facts
