"""What a trace says is not done as asked, held against the rest of the trace, and against config.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.enforcement.asks import POD_TYPES, Ask, asks
from engine.enforcement.judge import UNSEEN, has_cgroups, judge
from engine.enforcement.table import ROWS, UNRECORDED
from engine.runsc.capabilities import Capabilities

#: What a trace says of the run: the facts of a step, or the options.
_Facts = Mapping[str, Any]

_ROWS = {row[0]: number for number, row in enumerate(ROWS)}
#: The lists of what was asked that the words are taken from.
_LISTS = frozenset(
    {"mounts", "namespaces", "hooks", "devices", "device_rules", "rlimits", "limits", "sysctls"}
)


def contradicts(said: Sequence[_Facts], binary: _Facts, options: _Facts) -> str | None:
    """Why no engine writes this list, whatever was asked; None if one could."""
    numbers = [_ROWS.get(each["name"], -1) for each in said]
    if -1 in numbers:
        return "it names what no bundle asks for"
    if numbers != sorted(set(numbers)):
        return "what is not done as asked is not in order of danger, each once"
    column, cgroups = _column(binary), _cgroups(options)
    for number, each in zip(numbers, said, strict=True):
        _, _, danger, becomes, _, without_cgroups, _ = ROWS[number]
        if each["becomes"] != (without_cgroups if without_cgroups and not cgroups else becomes[column]):
            return f"with that runsc {each['name']} does not become {each['becomes']}"
        if danger < UNSEEN and options.get("require_enforced"):
            return f"it was required that all is done as asked, and {each['name']} is not"
    return None


def contradicts_asked(
    said: Sequence[_Facts], binary: _Facts, asked: Mapping[str, Any], options: _Facts
) -> str | None:
    """What is missing, or too much, by what the header says was asked; None if nothing."""
    alone = _differs(said, binary, asked, options, {})
    if alone is None:
        return None
    # The trace does not say whether the container joins a pod's sandbox, whose namespaces it then has.
    member = _differs(said, binary, asked, options, {POD_TYPES[0]: "container"})
    return None if member is None else alone


def _differs(
    said: Sequence[_Facts],
    binary: _Facts,
    asked: Mapping[str, Any],
    options: _Facts,
    annotations: Mapping[str, str],
) -> str | None:
    """As `contradicts_asked`, for a bundle with these annotations."""
    words = _words(asked, options["network"], annotations)
    found = {each.name for each in _judged(words, binary, options)} - UNRECORDED
    there = {each["name"] for each in said} - UNRECORDED
    if missing := found - there:
        return f"it does not say what becomes of {min(missing)}"
    if (more := there - found) and _LISTS.isdisjoint(asked.get("cut", {})):
        return f"nothing asks for {min(more)}"
    return None


def contradicts_config(
    said: Sequence[_Facts],
    binary: _Facts,
    config: Mapping[str, Any],
    asked: Mapping[str, Any],
    options: _Facts,
) -> str | None:
    """What is missing, or too much, by the config.json itself; None if nothing."""
    kinds = {number: mount.get("kind") for number, mount in enumerate(asked["mounts"])}
    found = [each.name for each in _judged(asks(config, kinds, options["network"]), binary, options)]
    there = [each["name"] for each in said]
    if found == there:
        return None
    if "mounts" in asked.get("cut", {}) and set(found) ^ set(there) <= {"mount-socket"}:
        return None  # what a source is, is recorded of the first mounts only
    return min(set(found) ^ set(there), default="the order")


def _judged(words: Iterator[Ask], binary: _Facts, options: _Facts) -> Sequence[Any]:
    return judge(
        words,
        _able(binary).generation,
        has_cgroups=_cgroups(options),
        runsc_flags=options.get("runsc_flags", ()),
    )


def _able(binary: _Facts) -> Capabilities:
    return Capabilities(tuple(binary["platforms"]), gofer_namespace=bool(binary.get("creation_flags")))


def _column(binary: _Facts) -> int:
    from engine.runsc.capabilities import SEEN

    return SEEN.index(_able(binary).generation)


def _cgroups(options: _Facts) -> bool:
    return has_cgroups(rootless=options["rootless"], ignore_cgroups=options["ignore_cgroups"])


def _words(asked: Mapping[str, Any], network: str, annotations: Mapping[str, str]) -> Iterator[Ask]:
    """The words by which the recorded part of a bundle with these annotations asks."""
    kinds = {number: mount.get("kind") for number, mount in enumerate(asked["mounts"])}
    return asks({**config_of(asked), "annotations": annotations}, kinds, network)


def config_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """As much of a config.json as the header of a trace has; a part that it counts only is as long, and empty."""
    process: dict[str, Any] = {
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
    mounts = [{**mount, "options": ["bind"] if "source" in mount else []} for mount in asked["mounts"]]
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
