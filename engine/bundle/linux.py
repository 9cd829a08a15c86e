"""`linux` of config.json: namespaces, devices, seccomp and the rest. Source: config-linux.md."""

from __future__ import annotations

from engine.bundle.resources import RESOURCES
from engine.bundle.rules import (
    ABSOLUTE_PATH,
    BOOLEAN,
    INT64,
    NO_PARENT_PATH,
    STRING,
    STRINGS,
    UINT32,
    UINT64,
    array,
    integer,
    names_to,
    needs,
    one_of,
    prefixed,
    record,
    scalar,
)
from engine.bundle.strict_json import MismatchError
from engine.records import TYPE_CHECKING

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
        "enableCMT": BOOLEAN,
        "enableMBM": BOOLEAN,
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
        "sysctl": names_to(STRING),
        "seccomp": SECCOMP,
        # The r-forms are runsc's own. The specification also has shared and unbindable; runsc refuses both.
        "rootfsPropagation": one_of(["private", "rprivate", "slave", "rslave"]),
        "maskedPaths": array(ABSOLUTE_PATH),
        "readonlyPaths": array(ABSOLUTE_PATH),
        "mountLabel": STRING,
        "personality": record(
            "config-linux.md, Personality", {"domain": one_of(["LINUX", "LINUX32"])}, {"flags": STRINGS}
        ),
    },
)
