"""config.json is read strictly: each rule refuses with the path and what is wanted, and lets the good through."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.bundle.linux import SECCOMP_ACTIONS, SECCOMP_ARCHITECTURES, SECCOMP_FLAGS, SECCOMP_OPERATORS
from engine.bundle.oci_config import parse
from engine.bundle.process import CAPABILITY_NAMES, RLIMIT_TYPES
from engine.bundle.strict_json import MAX_NUMBER_LENGTH
from engine.errors import BundleError, Reason
from tests.support.refusals import refuses

Step = str | int

MINIMAL: dict[str, Any] = {
    "ociVersion": "1.0.0",
    "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
    "root": {"path": "rootfs"},
}

#: Every member of the table at least once.
FULL: dict[str, Any] = {
    "ociVersion": "1.2.1",
    "process": {
        "terminal": True,
        "consoleSize": {"height": 25, "width": 80},
        "cwd": "/srv/app",
        "env": ["PATH=/usr/bin:/bin", "EMPTY=", "TWO=a=b"],
        "args": ["/bin/app", "--flag", ""],
        "commandLine": "app",
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 2**64 - 1},
        ],
        "apparmorProfile": "containers-default",
        "capabilities": {
            "effective": ["CAP_KILL"],
            "bounding": ["CAP_KILL", "CAP_CHECKPOINT_RESTORE"],
            "inheritable": [],
            "permitted": ["CAP_KILL"],
            "ambient": ["CAP_KILL"],
        },
        "noNewPrivileges": True,
        "oomScoreAdj": -500,
        "scheduler": {
            "policy": "SCHED_DEADLINE",
            "nice": -5,
            "priority": 0,
            "flags": ["SCHED_FLAG_RESET_ON_FORK"],
            "runtime": 1000,
            "deadline": 2000,
            "period": 2000,
        },
        "selinuxLabel": "",
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "execCPUAffinity": {"initial": "7", "final": "0-3,7"},
        "user": {"uid": 1000, "gid": 1000, "umask": 63, "additionalGids": [5, 6], "username": "app"},
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "box",
    "domainname": "example.test",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/data",
            "type": "none",
            "source": "data",
            "options": ["rbind", "ro", "idmap", "made-up=1"],
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
            "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
        },
    ],
    "hooks": {
        "prestart": [{"path": "/usr/bin/hook", "args": ["hook", "a"], "env": ["A=b"], "timeout": 5}],
        "createRuntime": [{"path": "/usr/bin/hook"}],
        "createContainer": [{"path": "/usr/bin/hook"}],
        "startContainer": [{"path": "/usr/bin/hook"}],
        "poststart": [{"path": "/usr/bin/hook"}],
        "poststop": [{"path": "/usr/bin/hook"}],
    },
    "annotations": {"org.example.key": "value", "empty": ""},
    "linux": {
        "namespaces": [
            {"type": "pid"},
            {"type": "network", "path": "/run/netns/a"},
            {"type": "mount"},
            {"type": "ipc"},
            {"type": "uts"},
            {"type": "user"},
            {"type": "cgroup"},
            {"type": "time"},
        ],
        "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 2**32 - 1}],
        "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
        "timeOffsets": {"monotonic": {"secs": -5, "nanosecs": 10}, "boottime": {}},
        "devices": [
            {
                "path": "/dev/fuse",
                "type": "c",
                "major": 10,
                "minor": 229,
                "fileMode": 8630,
                "uid": 0,
                "gid": 0,
            },
            {"path": "/dev/pipe", "type": "p"},
        ],
        "cgroupsPath": "/a/b",
        "resources": {
            "devices": [{"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"}],
            "memory": {
                "limit": 536870912,
                "reservation": -1,
                "swap": 536870912,
                "kernel": -1,
                "kernelTCP": -1,
                "swappiness": 0,
                "disableOOMKiller": False,
                "useHierarchy": True,
                "checkBeforeUpdate": True,
            },
            "cpu": {
                "shares": 1024,
                "quota": -1,
                "burst": 0,
                "period": 100000,
                "realtimeRuntime": 950000,
                "realtimePeriod": 1000000,
                "cpus": "0-3",
                "mems": "0",
                "idle": 1,
            },
            "blockIO": {
                "weight": 10,
                "leafWeight": 10,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 500, "leafWeight": 300}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}],
                "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 600}],
                "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 600}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 600}],
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 9223372036854772000}],
            "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 500}]},
            "pids": {"limit": 32771},
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}},
            "unified": {"io.max": "259:0 rbps=2097152\n253:0 rbps=2097152"},
        },
        "intelRdt": {
            "closID": "group",
            "l3CacheSchema": "L3:0=7f0;1=1f",
            "memBwSchema": "MB:0=20;1=70",
            "enableCMT": True,
            "enableMBM": True,
        },
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "listenerPath": "/run/seccomp.sock",
            "listenerMetadata": "data",
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                {
                    "names": ["clone"],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": 38,
                    "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
                },
            ],
        },
        "rootfsPropagation": "rslave",
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "mountLabel": "system_u:object_r:svirt_sandbox_file_t:s0",
        "personality": {"domain": "LINUX", "flags": []},
    },
}


def written(steps: tuple[Step, ...]) -> str:
    """A JSON path as a refusal shows it."""
    return "$" + "".join(
        f"[{step}]"
        if isinstance(step, int)
        else f".{step}"
        if step.isidentifier()
        else f"[{json.dumps(step)}]"
        for step in steps
    )


def at(dotted: str) -> tuple[Step, ...]:
    return tuple(int(step) if step.isdigit() else step for step in dotted.split(".")) if dotted else ()


def changed(steps: tuple[Step, ...], value: object) -> dict[str, Any]:
    """FULL with `value` at the path."""
    config = copy.deepcopy(FULL)
    container: Any = config
    for step in steps[:-1]:
        container = container[step]
    if isinstance(container, list) and steps[-1] == len(container):
        container.append(value)
    else:
        container[steps[-1]] = value
    return config


def without(steps: tuple[Step, ...]) -> dict[str, Any]:
    config = copy.deepcopy(FULL)
    container: Any = config
    for step in steps[:-1]:
        container = container[step]
    del container[steps[-1]]
    return config


def encoded(config: object) -> bytes:
    return json.dumps(config).encode()


def refusal(data: bytes, reason: Reason = Reason.CONFIG_INVALID) -> BundleError:
    with refuses(BundleError, reason) as caught:
        parse(data)
    error = caught.value
    assert len(str(error)) < 400
    assert error.member is None or error.member in error.what
    return error


def members(value: object, steps: tuple[Step, ...] = ()) -> Iterator[tuple[tuple[Step, ...], Any]]:
    """Every member and element beneath `value`, with its path."""
    inside: Any = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for step, member in inside:
        yield (*steps, step), member
        yield from members(member, (*steps, step))


MEMBERS = list(members(FULL))


# --- What is accepted -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [MINIMAL, FULL], ids=["minimal", "full"])
def test_a_good_configuration_is_answered_as_it_is(config: dict[str, Any]) -> None:
    assert parse(encoded(config)) == config
    assert parse(json.dumps(config, indent="\t", ensure_ascii=False).encode() + b"\n\r\n") == config


def test_what_runtimes_write_first_is_accepted() -> None:
    """The shape that `runsc spec` and `runc spec` print."""
    capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    config = {
        "ociVersion": "1.0.2-dev",
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "runsc",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "ro"]},
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "maskedPaths": ["/proc/acpi", "/proc/kcore"],
            "readonlyPaths": ["/proc/bus", "/proc/sys"],
        },
    }
    assert parse(encoded(config)) == config


def test_what_a_container_engine_writes_is_accepted() -> None:
    """What podman, docker and containerd add to that: absolute root, systemd cgroup, hooks, Go's escapes."""
    config = copy.deepcopy(MINIMAL)
    config["ociVersion"] = "1.2.0+dev"
    config["root"] = {"path": "/var/lib/containers/storage/overlay/0123/merged"}
    config["process"] |= {
        "oomScoreAdj": 0,
        "apparmorProfile": "containers-default-0.57.4",
        "user": {"uid": 999, "gid": 999, "umask": 18, "additionalGids": [999]},
    }
    config["hooks"] = {
        "prestart": [
            {"path": "/proc/1234/exe", "args": ["libnetwork-setkey", "-exec-root=/run/docker", "id"]}
        ]
    }
    config["annotations"] = {
        "io.container.manager": "libpod",
        "run.oci.keep_original_groups": "1",
        "org.opencontainers.image.stopSignal": "15",
        "made by": "a tool & <another> \U0001f9ea",
    }
    config["linux"] = {
        "cgroupsPath": "machine.slice:libpod:0123",
        "rootfsPropagation": "rprivate",
        "sysctl": {"net.ipv4.ping_group_range": "0 0"},
        "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "resources": {
            "devices": [
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
                {"allow": True, "type": "c", "major": 5, "minor": 0, "access": "rwm"},
            ],
            "memory": {"disableOOMKiller": False},
            "cpu": {"shares": 0},
            "pids": {"limit": 2048},
            "blockIO": {},
            "unified": {"memory.high": "1073741824"},
        },
        "namespaces": [{"type": "network", "path": "/proc/1/ns/net"}, {"type": "cgroup"}],
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [
                {"names": ["bdflush"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": []},
                {
                    "names": ["personality"],
                    "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 0, "value": 4294967295, "op": "SCMP_CMP_EQ"}],
                },
            ],
        },
    }
    escaped = json.dumps(config).replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")
    assert parse(escaped.encode()) == config


ACCEPTED: list[tuple[str, object]] = [
    *(("ociVersion", version) for version in ("1.0.0", "1.0.2-dev", "1.0.2", "1.1.0-rc.2", "1.1.0+dev")),
    *(("ociVersion", version) for version in ("1.2.0", "1.2.13", "1.0.0-rc5-dev", "1.2.1-a.b-1+c.0.d")),
    ("root.path", "/absolute/rootfs"),
    ("root.path", "deep/er/rootfs"),
    ("root.path", "..rootfs.."),
    ("process.args", [""]),
    ("process.env", []),
    ("process.env.0", "lower case name with spaces=x"),
    ("process.user.uid", 2**32 - 1),
    ("process.user.additionalGids", []),
    ("process.oomScoreAdj", -1000),
    ("process.oomScoreAdj", 1000),
    ("process.scheduler.nice", -(2**31)),
    ("process.scheduler.runtime", 2**64 - 1),
    ("process.execCPUAffinity.final", ""),
    *(("process.ioPriority.class", f"IOPRIO_CLASS_{name}") for name in ("RT", "BE", "IDLE")),
    ("process.ioPriority.priority", 0),
    ("process.ioPriority.priority", 7),
    ("process.capabilities.bounding", list(CAPABILITY_NAMES)),
    ("process.rlimits", [{"type": kind, "soft": 0, "hard": 1} for kind in RLIMIT_TYPES]),
    ("mounts", []),
    ("mounts.0.destination", "/"),
    ("mounts.0.destination", "/a/../b"),
    ("mounts.0.source", ""),
    ("hooks", {}),
    ("hooks.poststop.0.timeout", 1),
    ("annotations", {}),
    ("annotations", {"Key": "a", "key": "b", "KEY": "c"}),
    ("linux", {}),
    ("linux.cgroupsPath", "relative/path"),
    ("linux.cgroupsPath", "system.slice:engine:web"),
    ("linux.devices.0.major", -(2**63)),
    ("linux.devices.0.fileMode", 2**32 - 1),
    *(("linux.devices.0.type", kind) for kind in ("b", "u")),
    *(("linux.resources.devices.0.type", kind) for kind in ("a", "b", "c")),
    ("linux.resources.devices.0.access", "m"),
    ("linux.resources.blockIO.weightDevice", [{"major": 8, "minor": 0, "leafWeight": 2**16 - 1}]),
    *(("linux.resources.hugepageLimits.0.pageSize", size) for size in ("64KB", "1GB")),
    ("linux.resources.rdma", {"a": {"hcaObjects": 1}, "A": {"hcaHandles": 2**32 - 1}}),
    ("linux.seccomp.architectures", list(SECCOMP_ARCHITECTURES)),
    ("linux.seccomp.flags", list(SECCOMP_FLAGS)),
    ("linux.seccomp.syscalls", [{"names": ["a"], "action": action} for action in SECCOMP_ACTIONS]),
    ("linux.seccomp.syscalls.1.action", "SCMP_ACT_TRACE"),
    *(("linux.seccomp.syscalls.1.args.0.op", operator) for operator in SECCOMP_OPERATORS),
    ("linux.seccomp.syscalls.1.args.0.index", 5),
    ("linux.seccomp.syscalls.1.args.0.value", 2**64 - 1),
    *(("linux.rootfsPropagation", how) for how in ("private", "rprivate", "slave", "rslave")),
    ("linux.personality.domain", "LINUX32"),
]


@pytest.mark.parametrize(("dotted", "value"), ACCEPTED)
def test_a_value_within_the_rule_is_accepted(dotted: str, value: object) -> None:
    config = changed(at(dotted), value)
    assert parse(encoded(config)) == config


#: With `#` for any index.
REQUIRED = {
    *("ociVersion", "process", "root", "root.path"),
    *(f"process.{name}" for name in ("cwd", "args", "user", "user.uid", "user.gid")),
    *("process.consoleSize.height", "process.consoleSize.width"),
    *(f"process.rlimits.#.{name}" for name in ("type", "soft", "hard")),
    *("process.scheduler.policy", "process.ioPriority.class", "process.ioPriority.priority"),
    "mounts.#.destination",
    *(
        f"hooks.{kind}.#.path"
        for kind in (
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        )
    ),
    *(
        f"{where}.{whose}Mappings.#.{name}"
        for where in ("mounts.#", "linux")
        for whose in ("uid", "gid")
        for name in ("containerID", "hostID", "size")
    ),
    *("linux.namespaces.#.type", "linux.devices.#.path", "linux.devices.#.type"),
    "linux.resources.devices.#.allow",
    *(f"linux.resources.blockIO.weightDevice.#.{name}" for name in ("major", "minor")),
    *(
        f"linux.resources.blockIO.throttle{way}Device.#.{name}"
        for way in ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS")
        for name in ("major", "minor", "rate")
    ),
    *("linux.resources.hugepageLimits.#.pageSize", "linux.resources.hugepageLimits.#.limit"),
    *("linux.resources.network.priorities.#.name", "linux.resources.network.priorities.#.priority"),
    *("linux.resources.pids.limit", "linux.seccomp.defaultAction", "linux.personality.domain"),
    *("linux.seccomp.syscalls.#.names", "linux.seccomp.syscalls.#.action"),
    *(f"linux.seccomp.syscalls.#.args.#.{name}" for name in ("index", "value", "op")),
}
#: Optional, but another member of FULL needs them; RULES_ON_SEVERAL has those.
NEEDED_BY_ANOTHER = {
    *("mounts.#.uidMappings", "mounts.#.gidMappings", "linux.seccomp.listenerPath"),
    *("linux.devices.#.major", "linux.devices.#.minor"),
}


def general(steps: tuple[Step, ...]) -> str:
    return ".".join("#" if isinstance(step, int) else step for step in steps)


@pytest.mark.parametrize("steps", [steps for steps, _ in MEMBERS if general(steps) in REQUIRED], ids=written)
def test_a_required_member_that_is_missing_is_refused(steps: tuple[Step, ...]) -> None:
    assert refusal(encoded(without(steps))).member == written(steps)


def test_the_full_configuration_has_every_required_member() -> None:
    assert {general(steps) for steps, _ in MEMBERS} >= REQUIRED | NEEDED_BY_ANOTHER


def test_every_other_member_may_be_left_out() -> None:
    for steps, _ in MEMBERS:
        if isinstance(steps[-1], str) and general(steps) not in REQUIRED | NEEDED_BY_ANOTHER:
            config = without(steps)
            assert parse(encoded(config)) == config


# --- What is refused ------------------------------------------------------------------------------------------


REFUSED: list[tuple[str, object]] = [
    *(
        ("ociVersion", version)
        for version in (
            "1.3.0",
            "2.0.0",
            "0.9.0",
            "1.0",
            "1",
            "",
            "v1.0.0",
            "1.00.0",
            "1.0.01",
            "1.0.0-",
            "1.2.x",
        )
    ),
    ("ociVersion", "1.0.0\n"),
    ("ociVersion", "\u0661.0.0"),
    ("ociVersion", 1.0),
    # Paths.
    ("process.cwd", "work"),
    ("process.cwd", ""),
    ("mounts.0.destination", "proc"),
    ("hooks.poststart.0.path", "hook"),
    ("linux.namespaces.1.path", "netns/a"),
    ("linux.devices.0.path", "dev/fuse"),
    ("linux.maskedPaths.0", "proc/kcore"),
    ("linux.readonlyPaths.0", "proc/sys"),
    ("root.path", ""),
    ("root.path", "../rootfs"),
    ("linux.cgroupsPath", ""),
    ("linux.cgroupsPath", "/a/../../b"),
    # The process.
    ("process.args", []),
    ("process.args", "sh"),
    ("process.args.1", 5),
    ("process.env.1", "SECRETVALUE"),
    ("process.env.1", "=SECRETVALUE"),
    ("process.env.1", ""),
    ("process.env", "A=b"),
    ("process.env", {"A": "b"}),
    ("process.terminal", 1),
    ("process.terminal", "true"),
    ("process.noNewPrivileges", 0),
    ("process.user.uid", -1),
    ("process.user.uid", 2**32),
    ("process.user.uid", True),
    ("process.user.uid", 0.0),
    ("process.user.uid", -0.0),
    ("process.user.uid", "0"),
    ("process.user.umask", -1),
    ("process.user.additionalGids.1", -6),
    ("process.consoleSize.width", -1),
    ("process.capabilities.bounding.1", "CAP_CHOW"),
    ("process.capabilities.bounding.1", "cap_chown"),
    ("process.capabilities.ambient.0", "CHOWN"),
    ("process.capabilities", ["CAP_CHOWN"]),
    ("process.rlimits.0.type", "NOFILE"),
    ("process.rlimits.1.type", "RLIMIT_NOFILE"),
    ("process.rlimits.0.soft", -1),
    ("process.rlimits.0.hard", 2**64),
    ("process.oomScoreAdj", -1001),
    ("process.oomScoreAdj", 1001),
    ("process.selinuxLabel", "system_u:x"),
    ("process.scheduler.policy", "FIFO"),
    ("process.scheduler.flags.0", "RECLAIM"),
    ("process.scheduler.nice", 2**31),
    ("process.ioPriority.class", "RT"),
    ("process.ioPriority.priority", 8),
    ("process.execCPUAffinity.initial", "a"),
    # Mounts, hooks, annotations.
    ("mounts", {}),
    ("mounts.1.options", "ro"),
    ("mounts.1.options.0", 5),
    ("hooks.prestart", {"path": "/hook"}),
    ("hooks.prestart.0.timeout", 0),
    ("hooks.prestart.0.timeout", -5),
    (
        "hooks.prestart.0.env.0",
        "SECRETVALUE",
    ),
    ("hooks.prestart.0.args.0", None),
    ("annotations", ["a"]),
    ("annotations.empty", 5),
    ("annotations.empty", None),
    ("annotations.empty", {"a": "SECRETVALUE"}),
    # Linux.
    ("linux.namespaces.0.type", "net"),
    ("linux.uidMappings.0.hostID", -1),
    ("linux.gidMappings.0.size", 2**32),
    ("linux.timeOffsets.monotonic.nanosecs", -1),
    ("linux.timeOffsets.monotonic.secs", 2**63),
    ("linux.devices.0.type", "char"),
    ("linux.devices.0.major", -(2**63) - 1),
    ("linux.devices.0.fileMode", "0666"),
    ("linux.resources.devices.0.type", "p"),
    ("linux.resources.devices.0.access", "rx"),
    ("linux.resources.memory.limit", 2**63),
    ("linux.resources.memory.limit", "1G"),
    ("linux.resources.memory.limit", 1.5e9),
    ("linux.resources.memory.swappiness", -1),
    ("linux.resources.cpu.shares", -1),
    ("linux.resources.cpu.cpus", "all"),
    ("linux.resources.cpu.mems", "x"),
    ("linux.resources.blockIO.weight", 2**16),
    ("linux.resources.hugepageLimits.0.pageSize", "2M"),
    ("linux.resources.hugepageLimits.0.pageSize", "\u0662MB"),
    ("linux.resources.hugepageLimits.0.pageSize", "MB"),
    ("linux.resources.hugepageLimits.0.pageSize", "02MB"),
    ("linux.resources.unified", ["a"]),
    ("linux.sysctl.unknown", 1),
    ("linux.intelRdt.memBwSchema", "L3:0=1"),
    ("linux.intelRdt.memBwSchema", "MB:0=1\nL3:"),
    ("linux.seccomp.defaultAction", "ALLOW"),
    ("linux.seccomp.architectures.0", "amd64"),
    ("linux.seccomp.flags.0", "LOG"),
    ("linux.seccomp.syscalls.0.names", []),
    ("linux.seccomp.syscalls.0.action", "SCMP_ACT_DENY"),
    ("linux.seccomp.syscalls.1.args.0.op", "=="),
    ("linux.seccomp.syscalls.1.args.0.index", 6),
    *(("linux.rootfsPropagation", how) for how in ("shared", "rshared")),
    ("linux.personality.domain", "BSD"),
    # Other systems.
    ("windows", {}),
    ("solaris", {}),
]


@pytest.mark.parametrize(("dotted", "value"), REFUSED)
def test_a_value_outside_the_rule_is_refused_with_its_path(dotted: str, value: object) -> None:
    error = refusal(encoded(changed(at(dotted), value)))
    assert error.member == written(at(dotted))
    assert "SECRET" not in str(error)


RULES_ON_SEVERAL: list[tuple[str, object]] = [
    ("mounts.1", {"destination": "/a", "uidMappings": []}),
    ("mounts.1", {"destination": "/a", "gidMappings": []}),
    ("linux.devices.0", {"type": "c", "path": "/dev/a", "major": 1}),
    ("linux.devices.0", {"type": "u", "path": "/dev/a"}),
    (
        "linux.resources.blockIO.weightDevice.0",
        {"major": 1, "minor": 1},
    ),
    ("linux.resources.rdma.mlx5_1", {}),
    (
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1},
    ),
    (
        "linux.seccomp.syscalls.0",
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1},
    ),
    (
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_KILL", "listenerMetadata": "x"},
    ),
    ("annotations", {"": "x"}),
    ("linux.sysctl", {"": "x"}),
]


@pytest.mark.parametrize(("dotted", "value"), RULES_ON_SEVERAL)
def test_members_that_do_not_go_together_are_refused(dotted: str, value: object) -> None:
    assert refusal(encoded(changed(at(dotted), value))).member == written(at(dotted))


@pytest.mark.parametrize("name", ["dev.gvisor.flag.host-uds", "dev.gvisor.bundle.experimental"])
def test_an_annotation_that_would_change_runscs_flags_is_refused(name: str) -> None:
    """The trace says with which arguments runsc ran; runsc lets these override them."""
    config = copy.deepcopy(MINIMAL)
    config["annotations"] = {"dev.gvisor.spec.mount.tmp.share": "pod", name: "SECRETVALUE"}
    error = refusal(json.dumps(config).encode())
    assert error.member == f'$.annotations["{name}"]'
    assert "SECRETVALUE" not in str(error)


def test_a_second_namespace_of_a_type_is_refused() -> None:
    error = refusal(encoded(changed(at("linux.namespaces.8"), {"type": "network"})))
    assert error.member == "$.linux.namespaces[8].type"


def test_a_member_of_a_map_is_named_by_its_key() -> None:
    error = refusal(encoded(changed(at("annotations"), {"org.example/key": 5})))
    assert error.member == '$.annotations["org.example/key"]'


@pytest.mark.parametrize("steps", [steps for steps, _ in MEMBERS], ids=written)
def test_null_is_refused_in_every_place(steps: tuple[Step, ...]) -> None:
    assert refusal(encoded(changed(steps, None))).member == written(steps)


# --- What Go would read differently ---------------------------------------------------------------------------

MAPS = ("annotations", "sysctl", "unified", "rdma", "timeOffsets")
NAMED = [
    steps for steps, _ in MEMBERS if isinstance(steps[-1], str) and not (len(steps) > 1 and steps[-2] in MAPS)
]


@pytest.mark.parametrize("steps", NAMED, ids=written)
def test_a_known_name_in_another_case_is_refused_wherever_runsc_would_read_it(
    steps: tuple[Step, ...],
) -> None:
    name = str(steps[-1])
    other = name.upper() if name != name.upper() else name.lower()
    twin = (*steps[:-1], other)
    error = refusal(encoded(changed(twin, 5)))
    assert error.member == written(twin)
    assert repr(name) in error.what


@pytest.mark.parametrize(
    ("name", "known", "shown"),
    [("hoo\u212as", "hooks", r"hoo\u212as"), ("proce\u017f\u017f", "process", r"proce\u017f\u017f")],
)
def test_letters_that_go_folds_to_ascii_are_refused(name: str, known: str, shown: str) -> None:
    error = refusal(json.dumps({**FULL, name: 5}, ensure_ascii=False).encode())
    assert error.member == f'$["{shown}"]'
    assert repr(known) in error.what


@pytest.mark.parametrize("dotted", MAPS)
def test_names_in_a_map_are_told_apart_by_case(dotted: str) -> None:
    section = {
        "annotations": "annotations",
        "unified": "linux.resources.unified",
        "rdma": "linux.resources.rdma",
    }
    path = at(section.get(dotted, f"linux.{dotted}"))
    value = {"rdma": {"hcaObjects": 1}, "timeOffsets": {}}.get(dotted, "x")
    parse(encoded(changed(path, {"name": value, "NAME": value})))


@pytest.mark.parametrize("steps", [steps for steps, _ in MEMBERS if isinstance(steps[-1], str)], ids=written)
def test_a_name_given_twice_is_refused_with_its_path(steps: tuple[Step, ...]) -> None:
    # Another name of the same length, which is in no other place, is turned into the same one in the text.
    name, stand_in = str(steps[-1]), "\x7f" * len(str(steps[-1]))
    text = json.dumps(changed((*steps[:-1], stand_in), 5), ensure_ascii=False).replace(stand_in, name)
    assert refusal(text.encode()).member == written(steps)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"a":1,"a":1}', "$.a"),
        ('{"a":1,"\\u0061":1}', "$.a"),
        ('{"x":[0,{"y":{"a":1,"b":2,"a":3}}]}', "$.x[1].y.a"),
        ('{"a":{"b":1,"b":2},"a":5}', "$.a"),
        ('{"x":NaN,"x":5}', "$.x"),
        ('[[],[{"a b":1,"a b":1}]]', '$[1][0]["a b"]'),
    ],
)
def test_a_name_given_twice_where_nothing_is_known_is_refused_with_its_path(text: str, path: str) -> None:
    assert refusal(text.encode()).member == path


@pytest.mark.parametrize("text", [r"\u0000", r"a\u0000b", r"\ud800", r"\udfffa", r"\uDC00\uD800", r"\ud83dx"])
@pytest.mark.parametrize(
    "dotted", ["hostname", "process.args.1", "annotations.empty", "unknown", "root.path"]
)
def test_a_nul_or_half_a_surrogate_pair_in_a_string_is_refused(dotted: str, text: str) -> None:
    data = encoded(changed(at(dotted), "STANDIN")).replace(b"STANDIN", text.encode())
    assert refusal(data).member == written(at(dotted))


@pytest.mark.parametrize("text", [r"\u0000", r"\ud800"])
@pytest.mark.parametrize("dotted", ["annotations", "process", "linux.resources.rdma"])
def test_a_nul_or_half_a_surrogate_pair_in_a_name_is_refused(dotted: str, text: str) -> None:
    data = encoded(changed(at(f"{dotted}.STANDIN"), "x")).replace(b"STANDIN", text.encode())
    assert refusal(data).member == written(at(dotted))


def test_a_whole_surrogate_pair_and_an_escaped_backslash_are_text() -> None:
    data = encoded({**MINIMAL, "hostname": "STANDIN"}).replace(b"STANDIN", rb"\ud83e\uddea \\u0000 \\ud800")
    assert parse(data)["hostname"] == "\U0001f9ea \\u0000 \\ud800"


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("dotted", ["process.oomScoreAdj", "unknown", "linux.resources.memory.limit"])
def test_a_number_that_json_does_not_have_is_refused_even_where_nothing_is_known(
    dotted: str, literal: str
) -> None:
    data = encoded(changed(at(dotted), "STANDIN")).replace(b'"STANDIN"', literal.encode())
    assert refusal(data).member == written(at(dotted))


@pytest.mark.parametrize("digits", [MAX_NUMBER_LENGTH + 1, 5000, 1_000_000])
@pytest.mark.parametrize("dotted", ["process.oomScoreAdj", "unknown"])
def test_a_number_of_absurd_length_is_refused_without_being_computed(dotted: str, digits: int) -> None:
    data = encoded(changed(at(dotted), "STANDIN")).replace(b'"STANDIN"', b"9" * digits)
    begun = time.process_time()
    assert refusal(data).member == written(at(dotted))
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize("literal", ["1.0", "1e3", "1E3", "10e-1", "-0", "0.0", "1e999"])
def test_what_go_does_not_take_for_a_whole_number_is_refused(literal: str) -> None:
    data = encoded(changed(at("process.user.uid"), "STANDIN")).replace(b'"STANDIN"', literal.encode())
    assert refusal(data).member == "$.process.user.uid"


# --- What is not JSON -----------------------------------------------------------------------------------------

GOOD = encoded(MINIMAL)


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"", ""),
        (b" \n\t\r\n", ""),
        (b"\xef\xbb\xbf" + GOOD, ""),
        (GOOD.decode().encode("utf-16"), "0xff at offset 0"),
        (b'{"hostname":"\xff"}', "0xff at offset 13"),
        (b'{"hostname":"\xed\xa0\x80"}', "0xed at offset 13"),
        (b'{"hostname":"\xc0\x80"}', "0xc0 at offset 13"),
        (GOOD + b"x", "Extra data"),
        (GOOD + b"{}", "Extra data"),
        (GOOD + b"\0", "Extra data"),
        (GOOD[:-1], "Expecting ',' delimiter"),
        (b"{\n'a': 1}", "Expecting property name"),
        (b'{"a":\n\n 01}', "Expecting ',' delimiter at line 3, column 3"),
        (b'{"a":"\0"}', "column 7"),
        (b'{"a":"\n"}', "Invalid control character at line 1, column 7"),
        (b'{"a":"\\x"}', "Invalid \\escape"),
        (b'{"a":1,}', ""),
        (b"nul", "column 1"),
        (b"// a comment\n" + GOOD, "Expecting value at line 1, column 1"),
    ],
)
def test_what_is_not_json_is_refused_where_it_is_not(data: bytes, where: str) -> None:
    assert where in refusal(data, Reason.CONFIG_NOT_JSON).what


@pytest.mark.parametrize("data", [b"[]", b'"a"', b"null", b"5", b"5.5", b"true"])
def test_a_top_level_that_is_no_object_is_refused(data: bytes) -> None:
    assert refusal(data).member == "$"


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ("[[0],", "]")])
@pytest.mark.parametrize("depth", [200_000, 1_000_000])
def test_deep_nesting_is_refused(opening: str, closing: str, depth: int) -> None:
    begun = time.process_time()
    refusal((opening * depth + "0" + closing * depth).encode(), Reason.CONFIG_NOT_JSON)
    assert time.process_time() - begun < 1


def test_misfits_in_what_just_may_nest_so_deep_are_found() -> None:
    deep = '{"a":' * 300 + "NaN" + "}" * 300
    error = refusal(json.dumps({**MINIMAL, "unknown": "STANDIN"}).replace('"STANDIN"', deep).encode())
    assert str(error.member).startswith("$.unknown.a.a.a")
    assert "…" in str(error.member)


# --- What is not looked at ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, True, 5, 1.5, 1e300, -0.0, "x", [], {}, [None, {"a": [1.5]}]])
@pytest.mark.parametrize(
    "dotted", ["unknown", "vm", "zos", "freebsd", "process.unknown", "linux.netDevices", "hooks.unknown"]
)
def test_a_member_unknown_to_us_is_let_through_whatever_it_holds(dotted: str, value: object) -> None:
    config = changed(at(dotted), value)
    assert parse(encoded(config)) == config


# --- Secrets, length, speed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dotted", ["process.env", "process.args", "annotations", "hooks.prestart.0.env"])
@pytest.mark.parametrize(
    "value", ["SECRET", ["SECRET", 5], [["SECRET"]], [{"k": "SECRET"}], {"k": ["SECRET"]}, 5]
)
def test_no_refusal_shows_what_may_be_a_secret(dotted: str, value: object) -> None:
    assert "SECRET" not in str(refusal(encoded(changed(at(dotted), value))))


@pytest.mark.parametrize(
    ("dotted", "value"),
    [
        ("process.cwd", "x" * 1_000_000),
        ("process.cwd", "\x1b[31m\u202e" * 1000),
        ("process.capabilities.bounding.0", "\n" * 5000),
        ("annotations", {"k" * 100_000: 5}),
        ("annotations", {"\x1b\n\u2028" * 1000: 5}),
        ("process.user.uid", 10**99),
        ("linux.timeOffsets", {"k" * 1000: {"secs": "x"}}),
    ],
)
def test_a_refusal_of_something_huge_or_hostile_stays_one_short_line(dotted: str, value: object) -> None:
    refusal(encoded(changed(at(dotted), value)))
    refusal(json.dumps(changed(at(dotted), value), ensure_ascii=False).encode())


def test_ten_thousand_mounts_in_5_mb_are_checked_in_time() -> None:
    config = copy.deepcopy(FULL)
    config["mounts"] = [
        {
            "destination": f"/mnt/{number}/" + "d" * 300,
            "type": "bind",
            "source": f"/srv/{number}/é",
            "options": ["rbind", "rw", "nosuid", "nodev"],
        }
        for number in range(10_000)
    ]
    data = encoded(config) + b" " * 500_000
    assert len(data) > 4_500_000
    best = min(timed(data) for _ in range(5))
    assert best < 0.3


def timed(data: bytes) -> float:
    begun = time.process_time()
    parse(data)
    return time.process_time() - begun


# --- Properties -----------------------------------------------------------------------------------------------

#: A busy machine is no reason to fail.
unhurried = settings(deadline=None)

fragments = st.sampled_from(
    [
        *(
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b'"',
            b"\\",
            b"\\u0000",
            b"\\ud800",
            b"null",
            b"NaN",
            b"-0",
            b"1e9",
        ),
        *(b'"process":', b'"root":', b'"ociVersion":"1.0.0"', b'"hoo\xe2\x84\xaas":', b"\0", b"\xff", b"\n"),
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text() | st.sampled_from(list(FULL)), inside),
    max_leaves=20,
)


def outcome(data: bytes) -> dict[str, Any] | str:
    try:
        return parse(data)
    except BundleError as error:
        return str(error)


def answers_or_refuses_in_one_line(data: bytes) -> None:
    answer = outcome(data)
    assert isinstance(answer, dict) or (answer.isprintable() and len(answer) < 400)


@unhurried
@given(st.binary() | st.lists(fragments).map(b"".join))
def test_any_bytes_are_answered_or_refused_in_one_line(data: bytes) -> None:
    answers_or_refuses_in_one_line(data)


@unhurried
@given(json_values)
def test_any_json_is_answered_or_refused_in_one_line(value: object) -> None:
    answers_or_refuses_in_one_line(json.dumps(value).encode())


@unhurried
@given(st.sampled_from(MEMBERS), json_values)
def test_any_value_in_any_member_is_answered_or_refused_in_one_line(
    member: tuple[tuple[Step, ...], Any], value: object
) -> None:
    answers_or_refuses_in_one_line(encoded(changed(member[0], value)))


@unhurried
@given(st.integers(0, len(encoded(FULL))), st.integers(0, 20), st.binary(max_size=4) | fragments)
def test_a_damaged_configuration_is_answered_or_refused_in_one_line(
    start: int, length: int, put: bytes
) -> None:
    data = encoded(FULL)
    answers_or_refuses_in_one_line(data[:start] + put + data[start + length :])


WRONG_KINDS: list[tuple[type, object]] = [
    (dict, {"a": 1}),
    (list, [[]]),
    (str, "SECRETVALUE"),
    (bool, True),
    (int, 5),
    (float, 1.5),
]


@settings(unhurried, max_examples=300)
@given(st.sampled_from(MEMBERS), st.sampled_from(WRONG_KINDS))
def test_a_value_of_the_wrong_kind_is_refused_naming_its_path(
    member: tuple[tuple[Step, ...], Any], wrong: tuple[type, object]
) -> None:
    steps, value = member
    kind, other = wrong
    if kind is type(value):
        return
    error = refusal(encoded(changed(steps, other)))
    assert error.member == written(steps)
    assert "SECRETVALUE" not in str(error)
