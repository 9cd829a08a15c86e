"""What a trace says is not done as asked, held against the rest of the trace, and against config.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from engine.enforcement.asks import Ask, asks
from engine.enforcement.judge import UNSEEN, judge
from engine.enforcement.table import ROWS, UNRECORDED
from engine.runsc.capabilities import SEEN, Capabilities

#: What a trace says of the run: the facts of a step, or the options.
_Facts = Mapping[str, Any]

_ROWS = {row[0]: number for number, row in enumerate(ROWS)}
#: The lists of what was asked that the words are taken from.
_LISTS = frozenset(
    {"environment", "mounts", "hooks", "devices", "device_rules", "rlimits", "limits", "sysctls"}
)


def contradicts(
    said: Sequence[_Facts],
    binary: _Facts,
    asked: Mapping[str, Any] | None,
    run: _Facts,
    joins_a_pod: bool | None = None,
) -> str | None:
    """Why no engine writes this list; None if one could.

    `binary`: the facts of `validate`. `asked`: what the header says was asked, if anything. `run`: the options, and
    `user`, the effective uid. `joins_a_pod`: whether the container runs in a pod's sandbox; None if that is not known.
    """
    numbers = [_ROWS.get(each["name"], -1) for each in said]
    if -1 in numbers:
        return "it names what no bundle asks for"
    if numbers != sorted(set(numbers)):
        return "what is not done as asked is not in order of danger, each once"
    faults = [
        _of_verdicts(said, binary, run, cgroups) or _of_asked(said, binary, asked, run, cgroups, joins)
        for cgroups in _may_have_cgroups(run)
        for joins in _either(joins_a_pod)
    ]
    return None if None in faults else faults[0]


def _of_verdicts(said: Sequence[_Facts], binary: _Facts, run: _Facts, cgroups: bool) -> str | None:
    column = SEEN.index(_able(binary).generation)
    for each in said:
        _, _, danger, becomes, _, without_cgroups, _ = ROWS[_ROWS[each["name"]]]
        if each["becomes"] != (without_cgroups if without_cgroups and not cgroups else becomes[column]):
            return f"with that runsc {each['name']} does not become {each['becomes']}"
        if danger < UNSEEN and run.get("require_enforced"):
            return f"it was required that all is done as asked, and {each['name']} is not"
    return None


def _of_asked(
    said: Sequence[_Facts],
    binary: _Facts,
    asked: Mapping[str, Any] | None,
    run: _Facts,
    cgroups: bool,
    joins_a_pod: bool,
) -> str | None:
    """What is missing, or too much, by what the header says was asked; of a list that is cut its first part only."""
    cut = {} if asked is None else asked.get("cut", {})
    if asked is None or "namespaces" in cut:
        return None
    words = _words(asked, run["network"], joins_a_pod)
    found = {each.name for each in _judged(words, binary, run, cgroups)} - UNRECORDED
    there = {each["name"] for each in said} - UNRECORDED
    if missing := found - there:
        return f"it does not say what becomes of {min(missing)}"
    if (more := there - found) and _LISTS.isdisjoint(cut):
        return f"nothing asks for {min(more)}"
    return None


def contradicts_config(
    said: Sequence[_Facts],
    binary: _Facts,
    config: Mapping[str, Any],
    asked: Mapping[str, Any],
    run: _Facts,
    joins_a_pod: bool | None,
) -> str | None:
    """What is missing, or too much, by the config.json itself; None if nothing. `joins_a_pod`: as in `contradicts`."""
    there = [each["name"] for each in said]
    faults = []
    for cgroups, joins in product(_may_have_cgroups(run), _either(joins_a_pod)):
        words = asks(config, _kinds(asked), run["network"], joins)
        found = [each.name for each in _judged(words, binary, run, cgroups)]
        other = set(found) ^ set(there)
        # What a source is, is recorded of the first mounts only.
        if found == there or ("mounts" in asked.get("cut", {}) and other <= {"mount-socket"}):
            return None
        faults.append(min(other, default="the order"))
    return faults[0]


def _judged(words: Iterator[Ask], binary: _Facts, run: _Facts, cgroups: bool) -> Sequence[Any]:
    flags = run.get("runsc_flags", ())
    return judge(words, _able(binary).generation, has_cgroups=cgroups, runsc_flags=flags)


def _may_have_cgroups(run: _Facts) -> tuple[bool, ...]:
    """Whether runsc made a cgroup; both, where a root that the trace does not tell from the host's was rootless."""
    if run["ignore_cgroups"]:
        return (False,)
    if not run["rootless"]:
        return (True,)
    return (True, False) if run["user"] == 0 else (False,)


def _either(known: bool | None) -> tuple[bool, ...]:
    return (False, True) if known is None else (known,)


def _able(binary: _Facts) -> Capabilities:
    return Capabilities(tuple(binary["platforms"]), gofer_namespace=bool(binary.get("creation_flags")))


def _words(asked: Mapping[str, Any], network: str, joins_a_pod: bool) -> Iterator[Ask]:
    """The words by which the recorded part of a bundle asks."""
    return asks(config_of(asked), _kinds(asked), network, joins_a_pod)


def _kinds(asked: Mapping[str, Any]) -> dict[int, str | None]:
    """What the sources of the recorded mounts are, by number."""
    return {number: mount.get("kind") for number, mount in enumerate(asked["mounts"])}


def config_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """As much of a config.json as the header of a trace has; a part that it counts only is as long, and empty."""
    process: dict[str, Any] = {
        "user": {"uid": asked["user"]["uid"]},
        "capabilities": asked["capabilities"],
        "env": [f"{name}=" for name in asked["environment"]],
        "rlimits": [{"type": kind} for kind in asked.get("rlimits", ())],
    }
    if asked["no_new_privileges"]:
        process["noNewPrivileges"] = True
    if "apparmor" in asked:
        process["apparmorProfile"] = asked["apparmor"]
    linux: dict[str, Any] = {
        "namespaces": asked["namespaces"],
        "maskedPaths": [""] * min(asked["masked_paths"], 1),
        "readonlyPaths": [""] * min(asked["readonly_paths"], 1),
        "devices": asked.get("devices", ()),
        "sysctl": asked.get("sysctls", {}),
        "uidMappings": [{}] if "uid_mappings" in asked else [],
        "mountLabel": asked.get("mount_label"),
        "seccomp": asked.get("seccomp"),
        "resources": _resources(asked),
    }
    hooks: dict[str, list[Any]] = {}
    for hook in asked.get("hooks", ()):
        hooks.setdefault(hook["kind"], []).append(hook)
    mounts = [
        {**mount, "options": ["bind", "rw" if mount["writable"] else "ro"] if "source" in mount else []}
        for mount in asked["mounts"]
    ]
    return {"process": process, "root": asked["root"], "mounts": mounts, "hooks": hooks, "linux": linux}


def _resources(asked: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "devices": [{"allow": rule.startswith("allow")} for rule in asked.get("device_rules", ())]
    }
    for name, value in asked.get("limits", {}).items():
        part, _, member = name.partition(".")
        if part == "hugepages":
            found["hugepageLimits"] = [{}]
        elif part == "unified":
            found.setdefault(part, {})[member] = value
        elif member.startswith("throttle"):
            found.setdefault(part, {})[member.partition(".")[0]] = [{}]
        else:
            found.setdefault(part, {})[member] = value
    return found
