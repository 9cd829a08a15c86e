"""What a bundle asks for, in the words by which `engine/enforcement/known/*.toml` names it.

A word is a place in config.json, with what is there after a `=` where that matters: `linux.seccomp`,
`bind.option=nodev`, `linux.namespaces=time`. Only a word with its place in the bundle is looked at later.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from errno import EPERM

from engine.bundle.oci_config import is_bind, is_writable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: A word, and where the bundle has it, for people.
Ask = tuple[str, str]

#: Members of which it is enough that they are there, and not empty.
_OF_PROCESS = ("apparmorProfile", "selinuxLabel", "scheduler", "ioPriority", "execCPUAffinity")
_OF_LINUX = (
    *("seccomp", "mountLabel", "intelRdt", "memoryPolicy", "netDevices", "timeOffsets", "uidMappings"),
    "cgroupsPath",
)
_OTHER_PLATFORMS = ("vm", "zos", "freebsd")
_NAMESPACES = ("pid", "ipc", "uts", "mount")
#: The limits that count only above 0; 0 and -1 mean that there is none, but where the table has a row for 0.
_LIMITS: Mapping[str, Collection[str]] = {
    "memory": ("limit", "reservation", "swap", "kernel", "kernelTCP", "swappiness"),
    "cpu": ("quota", "period", "shares", "realtimeRuntime", "realtimePeriod", "burst", "idle"),
    "pids": ("limit",),
    "blockIO": ("weight", "leafWeight"),
    "network": ("classID",),
}
_ZEROS = frozenset({"linux.resources.memory.swappiness", "linux.resources.pids.limit"})
_SWITCHES = ("disableOOMKiller", "useHierarchy", "checkBeforeUpdate")
_RATES = tuple(f"throttle{what}Device" for what in ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS"))
#: Device numbers that gVisor's own /dev has: null(4), random(4), tty(4), pts(4), fuse(4).
_OWN_DEVICES = frozenset(
    {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (10, 229), (10, 200)}
)
#: The actions of seccomp that runsc does not know, and the error that it answers with.
_UNKNOWN_ACTIONS = frozenset({"SCMP_ACT_KILL_PROCESS", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY"})
#: It is set in a network of the Sentry's own, and nowhere else.
_OF_THE_SENTRY = "net.ipv6.conf.all.disable_ipv6"
#: Under this many, runsc's own threads leave little of a pids limit.
_SMALL_PIDS_LIMIT = 64


def asks(
    config: Mapping[str, Any],
    kinds: Mapping[int, str | None],
    network: str,
    joins_a_pod: bool | None = None,
) -> Iterator[Ask]:
    """What the valid `config` asks for, each with its place.

    `kinds`: of the bind mounts' sources, by number, `socket` or `device`. `network`: the option's value. `joins_a_pod`:
    whether the container runs in a pod's sandbox, whose namespaces it then has; None if only annotations tell.
    """
    joins_a_pod = _is_member(config) if joins_a_pod is None else joins_a_pod
    linux, process = config.get("linux", {}), config["process"]
    yield from _of_process(process)
    yield from _of_mounts(config.get("mounts", ()), kinds)
    yield from _of_namespaces(config, linux.get("namespaces", ()), network, joins_a_pod)
    yield from _of_numbers(linux.get("resources", {}))
    yield from _of_resources(linux.get("resources", {}))
    for kind, hooks in config.get("hooks", {}).items():
        if hooks:
            yield f"hooks={kind}", f"$.hooks.{kind}"
    for name in _OF_LINUX:
        if linux.get(name):
            yield f"linux.{name}", f"$.linux.{name}"
    if profile := linux.get("seccomp"):
        yield from _of_seccomp(profile)
    for name in ("maskedPaths", "readonlyPaths"):
        if linux.get(name):
            yield f"linux.{name}", f"$.linux.{name}"
    yield from _of_devices(linux.get("devices", ()))
    for name in linux.get("sysctl", ()):
        is_set = name != _OF_THE_SENTRY or network == "sandbox"
        yield f"linux.sysctl={name if is_set else '*'}", name
    if (domain := linux.get("personality", {}).get("domain")) == "LINUX32":
        yield f"linux.personality={domain}", "$.linux.personality"
    if config.get("domainname"):
        yield "domainname", "$.domainname"
    for name in _OTHER_PLATFORMS:
        if name in config:
            yield name, f"$.{name}"


def _is_member(config: Mapping[str, Any]) -> bool:
    from engine.bundle.pods import CONTAINER, TYPES, first  # a run says whether it is one

    annotations = config.get("annotations", {})
    key = first(TYPES, annotations)
    return key is not None and annotations[key] == CONTAINER


def _of_devices(devices: Collection[Any]) -> Iterator[Ask]:
    for device in devices:
        numbers = (device.get("major"), device.get("minor"))
        is_own = device["type"] == "p" or (device["type"] in "cu" and numbers in _OWN_DEVICES)
        yield f"linux.devices={'own' if is_own else 'host'}", device["path"]


def _of_seccomp(profile: Mapping[str, Any]) -> Iterator[Ask]:
    """What of a profile is done otherwise where runsc applies it at all."""
    yield "linux.seccomp.exec", "$.linux.seccomp"
    rules = profile.get("syscalls", ())
    actions = {profile.get("defaultAction"), *(rule["action"] for rule in rules)}
    if not _UNKNOWN_ACTIONS.isdisjoint(actions):
        yield "linux.seccomp.action", "$.linux.seccomp"
    errors = {profile.get("defaultErrnoRet", EPERM), *(rule.get("errnoRet", EPERM) for rule in rules)}
    if errors != {EPERM}:
        yield "linux.seccomp.errnoRet", "$.linux.seccomp"


def _of_process(process: Mapping[str, Any]) -> Iterator[Ask]:
    for name in _OF_PROCESS:
        if process.get(name):
            yield f"process.{name}", f"$.process.{name}"
    if process.get("oomScoreAdj"):
        yield "process.oomScoreAdj", "$.process.oomScoreAdj"
    if process.get("terminal") and process.get("consoleSize"):
        yield "process.consoleSize", "$.process.consoleSize"
    if "umask" in process.get("user", {}):
        yield "process.user.umask", "$.process.user.umask"
    if (value := process.get("noNewPrivileges")) is not None:
        yield f"process.noNewPrivileges={'true' if value else 'false'}", "$.process.noNewPrivileges"
    for limit in process.get("rlimits", ()):
        yield f"process.rlimits={limit['type']}", limit["type"]
    sets = process.get("capabilities", {})
    if sets.get("ambient"):
        yield "process.capabilities.ambient", ", ".join(sets["ambient"])
    if less := set(sets.get("permitted") or ()).difference(sets.get("effective") or ()):
        who = "root" if process.get("user", {}).get("uid") == 0 else "user"
        yield f"process.capabilities.effective={who}", ", ".join(sorted(less))
    for name in dict.fromkeys(name for names in sets.values() for name in names or ()):
        yield f"process.capabilities={name}", name
    names = [entry.partition("=")[0] for entry in process.get("env", ())]
    if len(names) != len(set(names)):
        yield "process.env=twice", "$.process.env"


def _of_mounts(mounts: Collection[Any], kinds: Mapping[int, str | None]) -> Iterator[Ask]:
    above: list[str] = []
    for index, mount in enumerate(mounts):
        where, kind = mount["destination"], mount.get("type", "")
        bound = is_bind(mount)
        yield f"mount.type={'bind' if bound else kind}", f"{where} ({kind or 'no type'})"
        family = "bind" if bound else kind if kind == "tmpfs" else "other"
        options = mount.get("options", ())
        if bound and is_writable(mount):
            yield "bind.writable", where
            if "ro" in options:
                yield "bind.option=ro,rw", where
        for option in options:
            name, equals, value = option.partition("=")
            if equals and name == "size" and value.endswith("%"):
                name, equals = "size=%", ""
            of = "sysfs" if name == "ro" and kind == "sysfs" and not bound else family
            yield f"{of}.option={name}{equals}", f"{where} ({name}{equals})"
        if mount.get("uidMappings") or mount.get("gidMappings"):
            yield "mount.idmap", where
        if kinds.get(index) == "socket":
            yield "bind.kind=socket", where
        place = os.path.normpath(where).rstrip("/") + "/"
        if any(other.startswith(place) and other != place for other in above):
            yield "mounts.order", where
        above.append(place)


def _of_namespaces(
    config: Mapping[str, Any], given: Collection[Any], network: str, joins_a_pod: bool
) -> Iterator[Ask]:
    paths = {each["type"]: each.get("path") for each in given}
    for kind, path in paths.items():
        if kind == "network":
            if network == "host" and not path:
                yield "network.host.own_namespace", "--network host"
            elif network == "none" and path and not joins_a_pod:
                yield "network.none.path", path
        if not path:
            yield f"linux.namespaces={kind}", kind
        elif not joins_a_pod:  # else its sandbox's are these
            yield f"linux.namespaces.path={kind}", f"{kind}: {path}"
    for kind in _NAMESPACES:
        if kind not in paths:
            yield f"linux.namespaces.absent={kind}", kind
    if "network" not in paths and network == "none":
        yield "network.none.absent", "network"
    if "uts" not in paths and config.get("hostname"):
        yield "hostname.without_uts", "$.hostname"


def _of_numbers(resources: Mapping[str, Any]) -> Iterator[Ask]:
    for part, names in _LIMITS.items():
        given = resources.get(part, {})
        for name in names:
            if (value := given.get(name)) is None:
                continue
            word = f"linux.resources.{part}.{name}"
            if value > 0:
                yield word, f"{value}"
            elif value == 0 and word in _ZEROS:
                yield f"{word}=0", "0"


def _of_resources(resources: Mapping[str, Any]) -> Iterator[Ask]:
    for name in _SWITCHES:
        if resources.get("memory", {}).get(name):
            yield f"linux.resources.memory.{name}", name
    for name in ("cpus", "mems"):
        if value := resources.get("cpu", {}).get(name):
            yield f"linux.resources.cpu.{name}", value
    for name in _RATES:
        if resources.get("blockIO", {}).get(name):
            yield f"linux.resources.blockIO.{name}", name
    if resources.get("network", {}).get("priorities"):
        yield "linux.resources.network.priorities", "$.linux.resources.network.priorities"
    for name in ("hugepageLimits", "rdma", "unified"):
        if given := resources.get(name):
            where = ", ".join(given) if name == "unified" else f"$.linux.resources.{name}"
            yield f"linux.resources.{name}", where
    if any(not rule.get("allow") for rule in resources.get("devices", ())):
        yield "linux.resources.devices=deny", "$.linux.resources.devices"


def surprises(config: Mapping[str, Any], *, has_empty_tmp: bool, has_cgroups: bool) -> Iterator[str]:
    """What is enforced and surprises all the same. `has_empty_tmp`: the root file system has no file in /tmp."""
    resources = config.get("linux", {}).get("resources", {})
    if not has_cgroups:
        return
    if resources.get("memory", {}).get("limit", 0) > 0:
        mounts = config.get("mounts", ())
        grows = any(
            mount.get("type") == "tmpfs"
            and not any(option.startswith("size=") for option in mount.get("options", ()))
            for mount in mounts
        )
        if grows or (has_empty_tmp and not any(mount["destination"] == "/tmp" for mount in mounts)):  # noqa: S108
            yield "surprise=memory_and_tmpfs"
    if 0 < resources.get("pids", {}).get("limit", 0) < _SMALL_PIDS_LIMIT:
        yield "surprise=small_pids_limit"


def unasked(
    config: Mapping[str, Any], *, has_empty_tmp: bool, runsc_flags: Collection[str] = ()
) -> Iterator[str]:
    """What a runsc with these flags adds, by what the bundle leaves out."""
    there = {os.path.normpath(mount["destination"]) for mount in config.get("mounts", ())}
    for place in ("/proc", "/sys", "/dev", "/dev/shm"):  # noqa: S108
        if place not in there:
            yield f"absent={place}"
    if has_empty_tmp and "/tmp" not in there:  # noqa: S108
        yield "absent=/tmp"
    if not config["root"].get("readonly") and "--overlay2=none" not in runsc_flags:
        yield "absent=readonly"
    if not any(entry.startswith("HOME=") for entry in config["process"].get("env", ())):
        yield "absent=HOME"
