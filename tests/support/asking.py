"""For each word of `engine.enforcement`, a change of a config.json by which it is asked for."""

from __future__ import annotations

from typing import Any

from tests.support.bundles import base_config

NAMESPACES = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]
_RATES = [{"major": 8, "minor": 0, "rate": 1 << 20}]
_MAPPED = [{"containerID": 0, "hostID": 100000, "size": 10}]
_VALUES: dict[str, Any] = {
    "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
    "mountLabel": "a",
    "intelRdt": {"closID": "a"},
    "memoryPolicy": {"mode": "MPOL_BIND"},
    "netDevices": {"eth0": {}},
    "timeOffsets": {"monotonic": {"secs": 1}},
    "uidMappings": _MAPPED,
    "cgroupsPath": "/a",
    "maskedPaths": ["/a"],
    "readonlyPaths": ["/a"],
    "apparmorProfile": "a",
    "selinuxLabel": "a",
    "scheduler": {"policy": "SCHED_BATCH"},
    "ioPriority": {"class": "IOPRIO_CLASS_IDLE"},
    "execCPUAffinity": {"initial": "0"},
    "oomScoreAdj": 5,
    "cpus": "0",
    "mems": "0",
    "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
    "rdma": {"mlx5_1": {"hcaHandles": 3}},
    "unified": {"memory.high": "1"},
    "priorities": [{"name": "eth0", "priority": 1}],
}


def asking(word: str) -> tuple[dict[str, Any], dict[int, str | None], str]:
    """A config.json that asks for `word`, the kinds of its sources, and the network. Raises `KeyError`."""
    name, _, value = word.partition("=")
    linux: dict[str, Any] = {"namespaces": [*NAMESPACES]}
    config = base_config()
    process: dict[str, Any] = {}
    kinds: dict[int, str | None] = {}
    network = "none"
    value = {"*": "made-up"}.get(value, value)
    match name.split("."):
        case ["process", "rlimits"]:
            process["rlimits"] = [{"type": value, "soft": 1, "hard": 1}]
        case ["process", "capabilities"]:
            process["capabilities"] = {"bounding": [value or "CAP_KILL"]}
        case ["process", "capabilities", "effective"]:
            process["capabilities"] = {"permitted": ["CAP_KILL"], "bounding": ["CAP_KILL"]}
            process["user"] = {"uid": 0 if value == "root" else 7, "gid": 0}
        case ["process", "capabilities", kind]:
            process["capabilities"] = {kind: ["CAP_KILL"]}
        case ["process", "noNewPrivileges"]:
            process["noNewPrivileges"] = value == "true"
        case ["process", "consoleSize"]:
            process |= {"terminal": True, "consoleSize": {"height": 1, "width": 1}}
        case ["process", "user", "umask"]:
            process["user"] = {"uid": 0, "gid": 0, "umask": 0o77}
        case ["process", "user"]:
            pass
        case ["process", "env"]:
            process["env"] = ["A=1", "A=2"]
        case ["process", member]:
            process[member] = _VALUES[member]
        case ["linux", "namespaces", "path"]:
            linux["namespaces"] = [{"type": value, "path": "/proc/1/ns/a"}]
        case ["linux", "namespaces", "absent"]:
            linux["namespaces"] = [space for space in NAMESPACES if space["type"] != value]
        case ["linux", "namespaces"]:
            linux["namespaces"] = [{"type": value}]
        case ["linux", "devices"]:
            number = 3 if value == "own" else 11
            linux["devices"] = [{"path": "/dev/a", "type": "c", "major": 1, "minor": number}]
        case ["linux", "sysctl"]:
            linux["sysctl"] = {value: "1"}
            network = "sandbox" if value.startswith("net.ipv6") else "none"
        case ["linux", "seccomp", what]:
            action = {"action": "SCMP_ACT_LOG"}.get(what, "SCMP_ACT_ERRNO")
            linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
            linux["seccomp"]["syscalls"] = [{"names": ["mkdir"], "action": action, "errnoRet": 38}]
            if what != "errnoRet":
                del linux["seccomp"]["syscalls"][0]["errnoRet"]
        case ["linux", "personality"]:
            linux["personality"] = {"domain": value}
        case ["linux", "resources", "devices"]:
            linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
        case ["linux", "resources", "blockIO", rate] if rate.startswith("throttle"):
            linux["resources"] = {"blockIO": {rate: _RATES}}
        case ["linux", "resources", part, member]:
            given = _VALUES.get(member, int(value or 7))
            linux["resources"] = {
                part: {member: True if member in ("disableOOMKiller", "useHierarchy") else given}
            }
            if member == "checkBeforeUpdate":
                linux["resources"] = {part: {member: True}}
        case ["linux", "resources", member]:
            linux["resources"] = {member: _VALUES[member]}
        case ["linux", member]:
            linux[member] = _VALUES[member]
        case ["hooks"]:
            config["hooks"] = {value: [{"path": "/bin/true"}]}
        case ["hostname", _]:
            config["hostname"] = "a"
            linux["namespaces"] = [space for space in NAMESPACES if space["type"] != "uts"]
        case ["domainname"]:
            config["domainname"] = "a"
        case ["mount", "type"]:
            bound = value == "bind"
            config["mounts"] = [{"destination": "/m", **({"source": "/srv"} if bound else {}), "type": value}]
        case ["mount", "idmap"]:
            config["mounts"] = [
                {"destination": "/m", "type": "tmpfs", "uidMappings": _MAPPED, "gidMappings": _MAPPED}
            ]
        case ["mounts", "order"]:
            config["mounts"] = [{"destination": place, "type": "tmpfs"} for place in ("/m/n", "/m")]
        case ["bind", "writable"]:
            config["mounts"] = [{"destination": "/m", "type": "bind", "source": "/srv"}]
        case ["bind", "kind"]:
            config["mounts"] = [{"destination": "/m", "type": "bind", "source": "/run/a.sock"}]
            kinds[0] = value
        case [family, "option"]:
            option = f"{value}5%" if value == "size=%" else f"{value}1" if value.endswith("=") else value
            kind = {"other": "proc"}.get(family, family)
            config["mounts"] = [
                {
                    "destination": "/m",
                    "type": kind,
                    "source": "/srv",
                    "options": option.replace("%5", "5").split(","),
                }
            ]
        case ["network", network, "own_namespace"]:
            linux["namespaces"] = [{"type": "network"}]
        case ["network", network, "path"]:
            linux["namespaces"] = [{"type": "network", "path": "/proc/1/ns/net"}]
        case ["network", network, "absent"]:
            linux["namespaces"] = [space for space in NAMESPACES if space["type"] != "network"]
        case [platform]:
            config[platform] = {}
    config["process"] |= process
    config["linux"] = linux
    return config, kinds, network
