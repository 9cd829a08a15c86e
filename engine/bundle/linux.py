"""`linux` of config.json: namespaces, devices, seccomp, cgroup limits and the rest. Source: config-linux.md."""

from __future__ import annotations

from engine.bundle.rules import (
    ABSOLUTE_PATH,
    BOOLEAN,
    CPU_LIST,
    INT64,
    NO_PARENT_PATH,
    SHORT_STRING,
    STRING,
    STRINGS,
    UINT16,
    UINT32,
    UINT64,
    array,
    has_one_of,
    integer,
    is_number_list,
    names_to,
    needs,
    one_of,
    prefixed,
    record,
    scalar,
)
from engine.bundle.strict_json import MismatchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _has_device_numbers(device: dict[str, Any]) -> None:
    if device["type"] != "p" and not ("major" in device and "minor" in device):
        raise MismatchError("lacks 'major' or 'minor'", "both, unless its type is p")


def _errno_fits(action: str, errno: str) -> Callable[[dict[str, Any]], None]:
    def check(value: dict[str, Any]) -> None:
        if errno in value and value[action] not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
            raise MismatchError(
                f"has {errno!r} with {value[action]}", "it only with SCMP_ACT_ERRNO or SCMP_ACT_TRACE"
            )

    return check


def _is_bandwidth_schema(schema: str) -> bool:
    return schema.startswith("MB:") and "\n" not in schema


def _is_page_size(size: str) -> bool:
    number = size[:-2]
    return size.endswith(("KB", "MB", "GB")) and number.isascii() and number.isdigit() and number[0] != "0"


def _is_device_name(name: str) -> bool:
    return (
        0 < len(name.encode("utf-8", "replace")) <= 15
        and name not in (".", "..")
        and not any(character in "/:" or character.isspace() for character in name)
    )


def _is_device_access(access: str) -> bool:
    return set(access) <= set("rwm")


ID_MAPPINGS = array(
    record(
        "config-linux.md, User namespace mappings",
        {"containerID": UINT32, "hostID": UINT32, "size": UINT32},
        {},
    )
)


NAMESPACES = array(
    record(
        "config-linux.md, Namespaces",
        {"type": one_of(["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"])},
        {"path": ABSOLUTE_PATH},
    ),
    distinct="type",
)


TIME_OFFSET = record("config-linux.md, Offset for Time Namespace", {}, {"secs": INT64, "nanosecs": UINT32})


DEVICE = record(
    "config-linux.md, Devices",
    {"type": one_of(["c", "b", "u", "p"]), "path": ABSOLUTE_PATH},
    {"major": INT64, "minor": INT64, "fileMode": UINT32, "uid": UINT32, "gid": UINT32},
    _has_device_numbers,
)


#: As the specification lists them, of libseccomp and seccomp(2).
SECCOMP_ACTIONS = prefixed("SCMP_ACT_", "KILL KILL_PROCESS KILL_THREAD TRAP ERRNO TRACE ALLOW LOG NOTIFY")


SECCOMP_ARCHITECTURES = prefixed(
    "SCMP_ARCH_",
    "X86 X86_64 X32 ARM AARCH64 LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 "
    "PPC64LE S390 S390X SH SHEB PARISC PARISC64 RISCV64",
)


SECCOMP_OPERATORS = prefixed("SCMP_CMP_", "NE LT LE EQ GE GT MASKED_EQ")


SECCOMP_FLAGS = prefixed("SECCOMP_FILTER_FLAG_", "TSYNC LOG SPEC_ALLOW WAIT_KILLABLE_RECV")


SECCOMP_ACTION = one_of(SECCOMP_ACTIONS, "an action such as SCMP_ACT_ERRNO")


SECCOMP_ARGUMENT = record(
    "config-linux.md, Seccomp",
    {
        "index": integer(0, 5),  # a system call has six arguments
        "value": UINT64,
        "op": one_of(SECCOMP_OPERATORS),
    },
    {"valueTwo": UINT64},
)


SECCOMP_SYSCALL = record(
    "config-linux.md, Seccomp",
    {"names": array(STRING, at_least=1), "action": SECCOMP_ACTION},
    {"errnoRet": UINT32, "args": array(SECCOMP_ARGUMENT)},
    _errno_fits("action", "errnoRet"),
)


SECCOMP = record(
    "config-linux.md, Seccomp",
    {"defaultAction": SECCOMP_ACTION},
    {
        "defaultErrnoRet": UINT32,
        "architectures": array(one_of(SECCOMP_ARCHITECTURES, "an architecture such as SCMP_ARCH_X86_64")),
        "flags": array(one_of(SECCOMP_FLAGS, "a flag of seccomp(2) such as SECCOMP_FILTER_FLAG_LOG")),
        "listenerPath": STRING,
        "listenerMetadata": STRING,
        "syscalls": array(SECCOMP_SYSCALL),
    },
    _errno_fits("defaultAction", "defaultErrnoRet"),
    needs("listenerMetadata", "listenerPath"),
)


INTEL_RDT = record(
    "config-linux.md, IntelRdt",
    {},
    {
        "closID": STRING,
        "l3CacheSchema": STRING,
        "memBwSchema": scalar(str, "one line that starts with MB:", _is_bandwidth_schema),
        "schemata": array(scalar(str, "one line", lambda line: "\n" not in line)),
        "enableMonitoring": BOOLEAN,
        # Until 1.2.
        "enableCMT": BOOLEAN,
        "enableMBM": BOOLEAN,
    },
)


#: Names as the kernel takes them, `dev_valid_name`; `%d` of a template counts as it is written.
NET_DEVICES = names_to(
    record(
        "config-linux.md, Network Devices",
        {},
        {
            # Go takes an empty one for none.
            "name": scalar(
                str,
                "a name of a network device, of at most 15 bytes",
                lambda name: name == "" or _is_device_name(name),
            )
        },
    ),
    but_for=lambda name: None if _is_device_name(name) else "no network device can have that name",
)


MEMORY_POLICY = record(
    "config-linux.md, Memory policy",
    {
        "mode": one_of(
            prefixed("MPOL_", "DEFAULT BIND INTERLEAVE WEIGHTED_INTERLEAVE PREFERRED PREFERRED_MANY LOCAL")
        )
    },
    {
        "nodes": scalar(str, "a list of memory nodes such as 0-3,7", is_number_list),
        "flags": array(one_of(prefixed("MPOL_F_", "NUMA_BALANCING RELATIVE_NODES STATIC_NODES"))),
    },
)


DEVICE_RULE = record(
    "config-linux.md, Allowed Device list",
    {"allow": BOOLEAN},
    {
        "type": one_of(["a", "c", "b"]),
        "major": INT64,
        "minor": INT64,
        "access": scalar(str, "a composition of r, w and m", _is_device_access),
    },
)


MEMORY = record(
    "config-linux.md, Memory",
    {},
    {
        "limit": INT64,
        "reservation": INT64,
        "swap": INT64,
        "kernel": INT64,
        "kernelTCP": INT64,
        "swappiness": UINT64,
        "disableOOMKiller": BOOLEAN,
        "useHierarchy": BOOLEAN,
        "checkBeforeUpdate": BOOLEAN,
    },
)


CPU = record(
    "config-linux.md, CPU",
    {},
    {
        "shares": UINT64,
        "quota": INT64,
        "burst": UINT64,
        "period": UINT64,
        "realtimeRuntime": INT64,
        "realtimePeriod": UINT64,
        "cpus": CPU_LIST,
        "mems": scalar(str, "a list of memory nodes such as 0-3,7", is_number_list),
        "idle": INT64,
    },
)


WEIGHTS = array(
    record(
        "config-linux.md, Block IO",
        {"major": INT64, "minor": INT64},
        {"weight": UINT16, "leafWeight": UINT16},
        has_one_of("weight", "leafWeight"),
    )
)


RATES = array(record("config-linux.md, Block IO", {"major": INT64, "minor": INT64, "rate": UINT64}, {}))


BLOCK_IO = record(
    "config-linux.md, Block IO",
    {},
    {
        "weight": UINT16,
        "leafWeight": UINT16,
        "weightDevice": WEIGHTS,
        "throttleReadBpsDevice": RATES,
        "throttleWriteBpsDevice": RATES,
        "throttleReadIOPSDevice": RATES,
        "throttleWriteIOPSDevice": RATES,
    },
)


HUGE_PAGE_LIMIT = record(
    "config-linux.md, Huge page limits",
    {"pageSize": scalar(str, "a size such as 64KB, 2MB or 1GB", _is_page_size), "limit": UINT64},
    {},
)


NETWORK_PRIORITY = record("config-linux.md, Network", {"name": STRING, "priority": UINT32}, {})


NETWORK = record("config-linux.md, Network", {}, {"classID": UINT32, "priorities": array(NETWORK_PRIORITY)})


RDMA = record(
    "config-linux.md, RDMA",
    {},
    {"hcaHandles": UINT32, "hcaObjects": UINT32},
    has_one_of("hcaHandles", "hcaObjects"),
)


RESOURCES = record(
    "config-linux.md, Control groups",
    {},
    {
        "devices": array(DEVICE_RULE),
        "memory": MEMORY,
        "cpu": CPU,
        "blockIO": BLOCK_IO,
        "hugepageLimits": array(HUGE_PAGE_LIMIT),
        "network": NETWORK,
        "pids": record("config-linux.md, PIDs", {}, {"limit": INT64}),
        "rdma": names_to(RDMA),
        "unified": names_to(STRING),
    },
)


LINUX = record(
    "config-linux.md",
    {},
    {
        "namespaces": NAMESPACES,
        "uidMappings": ID_MAPPINGS,
        "gidMappings": ID_MAPPINGS,
        "timeOffsets": names_to(TIME_OFFSET),
        "devices": array(DEVICE),
        # Absolute, relative, or systemd's slice:prefix:name; '..' would lead out of the cgroup hierarchy.
        "cgroupsPath": NO_PARENT_PATH,
        "resources": RESOURCES,
        "intelRdt": INTEL_RDT,
        "netDevices": NET_DEVICES,
        "memoryPolicy": MEMORY_POLICY,
        "sysctl": names_to(STRING),
        "seccomp": SECCOMP,
        # The r-forms are runsc's own. The specification also has shared and unbindable; runsc refuses both.
        "rootfsPropagation": one_of(["private", "rprivate", "slave", "rslave"]),
        "maskedPaths": array(ABSOLUTE_PATH),
        "readonlyPaths": array(ABSOLUTE_PATH),
        "mountLabel": SHORT_STRING,
        "personality": record(
            "config-linux.md, Personality", {"domain": one_of(["LINUX", "LINUX32"])}, {"flags": STRINGS}
        ),
    },
)
