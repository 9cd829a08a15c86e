"""What a bundle asks for, as recorded: what the program is, as whom it runs, and what it is given.

Nothing of it is a secret by its meaning, but for `argv`, which is recorded as it is: of environment variables there are
the names alone, and of mounts no options.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from engine.bundle.oci_config import KINDS_OF_HOOKS, is_writable
from engine.bundle.process import DEFAULT_USER
from engine.digest import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from engine.bundle.grants import Source
    from engine.traces.asked_schema import Asked

    class HasConfig(Protocol):
        """A bundle, or its config.json alone."""

        @property
        def config(self) -> dict[str, Any]: ...

        @property
        def sources(self) -> Mapping[int, Source]: ...


#: Bytes of JSON of each list or table that are kept: several times what a manager's container has. A longer one keeps
#: its first members, and `cut` has the number and the digest of all.
KEPT: Mapping[str, int] = {
    "argv": 2048,
    "environment": 2048,
    "mounts": 4096,
    "hooks": 1024,
    "namespaces": 1024,
    "devices": 1024,
    "device_rules": 1024,
    "rlimits": 1024,
    "limits": 1024,
    "sysctls": 1024,
    "additional_gids": 512,
}
#: The cgroup's limits that are a number, a text or a truth, by member of `resources`.
_LIMITS: Mapping[str, tuple[str, ...]] = {
    "memory": (
        *("limit", "reservation", "swap", "kernel", "kernelTCP", "swappiness"),
        *("disableOOMKiller", "useHierarchy", "checkBeforeUpdate"),
    ),
    "cpu": (
        *("shares", "quota", "burst", "period", "realtimeRuntime", "realtimePeriod", "cpus", "mems", "idle"),
    ),
    "pids": ("limit",),
    "blockIO": ("weight", "leafWeight"),
    "network": ("classID",),
}
_RATES = tuple(f"throttle{what}Device" for what in ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS"))
_LIMIT_NAMES = frozenset(f"{part}.{name}" for part, names in _LIMITS.items() for name in names)
_LIMIT_GROUPS = ("hugepages.", "unified.", *(f"blockIO.{name}." for name in _RATES))
_PROPAGATED = frozenset({"shared", "rshared"})

encode = json.JSONEncoder(separators=(",", ":")).encode


def asked_facts(bundle: HasConfig) -> Asked:
    """What the bundle's config.json asks for."""
    config, cut = bundle.config, {}
    process, linux = config["process"], config.get("linux", {})

    def kept(name: str, whole: Any) -> Any:
        """The first members of a list or table, as many as are kept."""
        text = encode(whole)
        if len(text) <= KEPT[name]:
            return whole
        cut[name] = {"count": len(whole), "sha256": sha256(text.encode())}
        return _first(whole, KEPT[name])

    user = process.get("user", DEFAULT_USER)
    facts: dict[str, Any] = {
        "argv": kept("argv", process["args"]),
        "cwd": process["cwd"],
        "terminal": process.get("terminal", False),
        "environment": kept("environment", [entry.partition("=")[0] for entry in process.get("env", ())]),
        "user": {"uid": user["uid"], "gid": user["gid"]},
        "no_new_privileges": process.get("noNewPrivileges", False),
        "capabilities": {
            name: list(dict.fromkeys(names))  # each once, however often config.json has it
            for name in ("bounding", "effective", "permitted", "inheritable", "ambient")
            if (names := process.get("capabilities", {}).get(name)) is not None
        },
    }
    if gids := user.get("additionalGids"):
        facts["user"]["additional_gids"] = kept("additional_gids", gids)
    if limits := process.get("rlimits"):
        facts["rlimits"] = kept(
            "rlimits", {limit["type"]: {"soft": limit["soft"], "hard": limit["hard"]} for limit in limits}
        )
    if profile := process.get("apparmorProfile"):
        facts["apparmor"] = profile
    if (seccomp := linux.get("seccomp")) is not None:
        facts["seccomp"] = {
            "default_action": seccomp["defaultAction"],
            "rules": len(seccomp.get("syscalls", ())),
        }
    if label := linux.get("mountLabel"):
        facts["mount_label"] = label
    facts["root"] = {"path": config["root"]["path"], "readonly": config["root"].get("readonly", False)}
    facts["mounts"] = kept("mounts", list(_mounts(bundle)))
    facts["masked_paths"] = len(linux.get("maskedPaths", ()))
    facts["readonly_paths"] = len(linux.get("readonlyPaths", ()))
    facts["namespaces"] = kept(
        "namespaces", [_members(each, "type", "path") for each in linux.get("namespaces", ())]
    )
    if mappings := linux.get("uidMappings"):
        facts["uid_mappings"] = len(mappings)
    resources = linux.get("resources", {})
    for name, whole in (
        ("devices", [_members(each, "type", "path", "major", "minor") for each in linux.get("devices", ())]),
        ("device_rules", [_device_rule(rule) for rule in resources.get("devices", ())]),
        ("limits", dict(_limits(resources))),
        ("sysctls", linux.get("sysctl")),
        (
            "hooks",
            [
                {"kind": kind, "path": hook["path"]}
                for kind in KINDS_OF_HOOKS
                for hook in config.get("hooks", {}).get(kind, ())
            ],
        ),
    ):
        if whole:
            facts[name] = kept(name, whole)
    if cut:
        facts["cut"] = cut
    return facts  # type: ignore[return-value]  # mypy cannot follow it; the reader's schema does


def _first(whole: Any, size: int) -> Any:
    """As many first members of the list or table, which is longer, as fit into `size` bytes of JSON."""
    if isinstance(whole, list):
        parts = [encode(each) for each in whole]
    else:
        parts = [f"{encode(name)}:{encode(each)}" for name, each in whole.items()]
    used, number = 1 + len(parts[0]) + 1, 0
    while used <= size:
        number += 1
        used += len(parts[number]) + 1
    return whole[:number] if isinstance(whole, list) else dict(list(whole.items())[:number])


def _members(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: given[name] for name in names if name in given}


def _mounts(bundle: HasConfig) -> Iterator[dict[str, Any]]:
    for index, mount in enumerate(bundle.config.get("mounts", ())):
        facts = {"destination": mount["destination"]}
        if "type" in mount:
            facts["type"] = mount["type"]
        source = bundle.sources.get(index)
        if source is not None:
            facts["source"] = source.path
            if source.leads_to != source.path:
                facts["leads_to"] = source.leads_to
            if source.kind is not None:
                facts["kind"] = source.kind
        facts["writable"] = is_writable(mount)
        if not _PROPAGATED.isdisjoint(mount.get("options", ())):
            facts["shared"] = True
        yield facts


def _device_rule(rule: Mapping[str, Any]) -> str:
    """As `allow c 1:3 rw`; `*` stands for any number."""
    given = (rule.get(name, -1) for name in ("major", "minor"))
    numbers = ":".join("*" if number == -1 else str(number) for number in given)
    verb = "allow" if rule.get("allow") else "deny"
    return f"{verb} {rule.get('type', 'a')} {numbers} {rule.get('access', '')}".rstrip()


def is_limit(name: str) -> bool:
    """Whether a limit of the cgroup is recorded by this name."""
    return name in _LIMIT_NAMES or name.startswith(_LIMIT_GROUPS)


def _limits(resources: Mapping[str, Any]) -> Iterator[tuple[str, int | str | bool]]:
    for part, names in _LIMITS.items():
        given = resources.get(part, {})
        for name in names:
            if name in given:
                yield f"{part}.{name}", given[name]
    for limit in resources.get("hugepageLimits", ()):
        yield f"hugepages.{limit['pageSize']}", limit["limit"]
    for name in _RATES:
        for rate in resources.get("blockIO", {}).get(name, ()):
            yield f"blockIO.{name}.{rate['major']}:{rate['minor']}", rate["rate"]
    for name, value in resources.get("unified", {}).items():
        yield f"unified.{name}", value
