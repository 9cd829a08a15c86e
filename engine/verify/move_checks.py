"""What a move must be beside an edge whose guards hold: a refusal for a reason of its state, an end in its time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from engine import __version__
from engine.bundle.pods import CGROUP_PARENT, MEMBER
from engine.enforcement.recorded import contradicts
from engine.lifecycle.guards import Known
from engine.lifecycle.machine import OUT_OF_PLACE, REASONS, STEPS
from engine.traces.move import Facts, State, Trigger
from engine.traces.reader import BadLineError
from engine.traces.schema import Header, Record
from engine.verify.faults import FaultCode

#: What else can refuse a run: other parts of the engine, by the `step` of their errors, and verbs of engine-oci.
_OTHERS = frozenset(
    {
        *("usage", "bundle", "user", "trace", "runsc", "spec", "network", "pod", "engine"),
        *("create", "restore", "run", "start"),
    }
)
#: Linux has no more, CONFIG_NR_CPUS.
_MAX_CPUS = 8192
_STEPS: Mapping[str, State] = {str(row.trigger): row.sources[0] for row in STEPS}
#: Everything that can refuse a run.
PARTS = _OTHERS | _STEPS.keys()


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
    if error["step"] not in PARTS:
        raise BadLineError(
            FaultCode.STEP_OF_ANOTHER_STATE, f"nothing that is called {error['step']!r:.80} refuses a run"
        )
    if reason not in OUT_OF_PLACE and _STEPS.get(error["step"], state) != state:
        raise BadLineError(
            FaultCode.STEP_OF_ANOTHER_STATE,
            f"the step {error['step']} does not refuse in {state} for the reason {reason}",
        )


def check_facts(move: Record[Any, Any], header: Header, known: Known) -> None:
    """Check what the guards do not: they are asked in every run, and this only of a trace. Raises `BadLineError`."""
    if (check := _CHECKS.get(move.trigger)) is not None and (what := check(move.facts, header, known)):
        raise BadLineError(FaultCode.FACTS_CONTRADICT, what)


def _of_root(root: Facts, header: Header, known: Known) -> str | None:
    """Only a sandbox that is there can be joined; and who joins none has not the namespaces of one."""
    joins = "sandbox" in root
    if joins and any(each["created"] for each in root["sandbox"]["directories"]):
        return "it created the directories of a sandbox that was there"
    asked = header.asked
    if isinstance(asked, dict) and any("path" in each for each in asked["namespaces"]):
        return _unenforced(known["validate"], header, joins)
    return None


def _of_policy(policy: Facts, header: Header, known: Known) -> str | None:
    """Of the bundle only its root and what it mounts from the host can be executed."""
    asked, allowed = header.asked, policy["allowed"]
    if len(allowed) < 2 or not isinstance(asked, dict) or "mounts" in asked.get("cut", {}):
        return None
    if policy["mechanism"] != "locked-mounts":
        return None
    own = 1 + len(known["stage"]["sidecars"]) if "sidecars" in known["stage"] else 0
    mounted = {mount.get("source") for mount in asked["mounts"]}
    if other := set(allowed[1 : len(allowed) - own]) - mounted:
        return f"it allows {min(other)!r:.80}, which the bundle does not mount"
    return None


def _of_exec(given: Facts, header: Header, known: Known) -> str | None:
    """What runsc is given has the root's absolute path, and says so where the caller's has another."""
    if not isinstance(header.asked, dict):  # format 1
        return None
    if "config" not in given:
        return "it does not say which config.json runsc was given"
    changes = given["config"].get("changes", {})
    if (added := changes.get("annotations")) is not None:
        joins, has_cgroups = "sandbox" in known["secure_root"], not header.options["ignore_cgroups"]
        if not (added == MEMBER if joins else has_cgroups and _is_of_a_pod(added)):
            return "it added annotations that are none of its container's"
    is_absolute = header.asked["root"]["path"].startswith("/")
    if ("root_path" in changes) is is_absolute:
        return "the path of the root is relative and was not changed, or the other way about"
    return None


def _is_of_a_pod(added: Mapping[str, str]) -> bool:
    """Whether it is only the cgroup of a pod, as `of_sandbox` finds it."""
    path = added.get(CGROUP_PARENT, "")
    return (
        len(added) == 1
        and ":" not in path
        and os.path.normpath(path) == path
        and os.path.basename(path).startswith("pod")
    )


def _of_refusal(refused: Facts, _: Header, known: Known) -> str | None:
    """Before it has directories a run makes nothing; later it makes nothing outside of them."""
    cleaned, left = refused["cleaned"], refused["left"]
    if not (cleaned or left):
        return None
    if "validate" not in known:
        return "it removed something, and had made nothing"
    for path in cleaned:
        if os.path.normpath(path) != path or not _is_in_own_places(path, known):
            return f"it removed {path!r:.80}, which is not the engine's"
    if not all(": " in each for each in left):
        return "it does not say why something is left"
    return None


def _is_in_own_places(path: str, known: Known) -> bool:
    """Whether the engine could have made `path`; where it had not secured its directories yet, any absolute one."""
    if (root := known.get("secure_root")) is None:
        return path.startswith("/")
    places = [root["directories"][0]["path"]]
    if "programs" in root:
        places.append(root["programs"]["path"])
    return any(path.startswith(f"{place}/") for place in places)


def _of_validate(binary: Facts, header: Header, _: Known) -> str | None:
    """What runsc does not do as asked follows from what was asked, as far as the header says that."""
    return _unenforced(binary, header, None)


def _unenforced(binary: Facts, header: Header, joins_a_pod: bool | None) -> str | None:
    if (said := binary.get("unenforced")) is None:
        said_nothing = "it does not say what of the bundle is not done as asked"
        return said_nothing if isinstance(header.asked, dict) else None
    if header.engine != __version__:  # another engine knows other things of runsc
        return None
    run = {**header.options, "user": header.host["user"]}
    asked = header.asked if isinstance(header.asked, dict) else None
    return contradicts(said, binary, asked, run, joins_a_pod)


_CHECKS: Mapping[str, Callable[[Facts, Header, Known], str | None]] = {
    Trigger.VALIDATE: _of_validate,
    Trigger.SECURE_ROOT: _of_root,
    Trigger.APPLY_POLICY: _of_policy,
    Trigger.EXEC: _of_exec,
    Trigger.REFUSE: _of_refusal,
}


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


def check_resources(end: Record[Any, Any], header: Header) -> None:
    """No more time on CPUs was used than all of them have since the header. Raises `BadLineError`."""
    used = end.facts["resources"]
    if used["user_us"] + used["system_us"] > (end.seconds_since(header) + 1) * 1e6 * _MAX_CPUS:
        raise BadLineError(FaultCode.FACTS_CONTRADICT, "it used more time on CPUs than there was")
