"""Step `apply_policy`: what keeps a supervisor that was broken out of from executing the host's programs.

It concerns rootless runs, where runsc's own supervisor keeps the caller's identity. The notable thing: a
Landlock domain stops every runsc that mounts, and stock ones do; `auto` finds out and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.errors import PolicyError
from engine.lifecycle.machine import PolicyOutcome
from engine.linux import landlock
from engine.linux.landlock import Landlock
from engine.options import ExecPolicy, RunOptions
from engine.records import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from typing import Any

_REMEDY = "run without --require-exec-policy, or on a kernel and with a runsc that allow it"


@dataclass(frozen=True, slots=True)
class Policy:
    """What came of the policy; `mechanism` enforces it (None when nothing does), `reason` says why it does not."""

    outcome: PolicyOutcome
    mechanism: str | None
    allowed: tuple[str, ...]
    reason: str | None

    def facts(self) -> dict[str, Any]:
        return {
            "outcome": str(self.outcome),
            "mechanism": self.mechanism,
            "allowed": list(self.allowed),
            "reason": self.reason,
        }


def apply_policy(
    options: RunOptions,
    allowed: Sequence[str],
    *,
    probe: Callable[[], Landlock] = landlock.probe,
    restrict: Callable[[Sequence[str]], None] = landlock.restrict_execute,
) -> Policy:
    """Allow the supervisor to execute only what lies beneath the directories `allowed`.

    `landlock` is applied as it was asked for; `auto` applies it where a runsc that mounts survives it.
    Raises `PolicyError` when the policy is required and is not enforced.
    """
    policy = _settle(options, tuple(allowed), probe, restrict)
    if options.require_exec_policy and policy.outcome is not PolicyOutcome.ENFORCED:
        raise PolicyError(f"the required execute policy is not enforced: {policy.reason}", remedy=_REMEDY)
    return policy


def _settle(
    options: RunOptions,
    allowed: tuple[str, ...],
    probe: Callable[[], Landlock],
    restrict: Callable[[Sequence[str]], None],
) -> Policy:
    if not options.rootless:
        return Policy(PolicyOutcome.NOT_APPLICABLE, None, (), "it applies to --rootless runs")
    if options.exec_policy is ExecPolicy.OFF:
        return _unavailable("it was turned off with --exec-policy off")
    try:
        if options.exec_policy is ExecPolicy.AUTO and (found := probe()) is not Landlock.USABLE:
            return _unavailable(found.value)
        restrict(allowed)
    except OSError as error:
        return _unavailable(f"Landlock: {error.strerror}")
    return Policy(PolicyOutcome.ENFORCED, "landlock", allowed, None)


def _unavailable(reason: str) -> Policy:
    return Policy(PolicyOutcome.UNAVAILABLE, None, (), reason)
