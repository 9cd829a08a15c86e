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
from engine.errors import BundleError

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


def refusal(data: bytes) -> BundleError:
    with pytest.raises(BundleError) as caught:
        parse(data)
    error = caught.value
    assert str(error).isprintable()
    assert len(str(error)) < 400
    assert error.hint
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
    error = refusal(encoded(without(steps)))
    assert error.what.startswith(f"config.json: {written(steps)} is missing, wanted ")
    assert "OCI runtime specification" in error.hint


def test_the_full_configuration_has_every_required_member() -> None:
    assert {general(steps) for steps, _ in MEMBERS} >= REQUIRED | NEEDED_BY_ANOTHER


def test_every_other_member_may_be_left_out() -> None:
    for steps, _ in MEMBERS:
        if isinstance(steps[-1], str) and general(steps) not in REQUIRED | NEEDED_BY_ANOTHER:
            config = without(steps)
            assert parse(encoded(config)) == config


# --- What is refused ------------------------------------------------------------------------------------------

NO_VERSION = "a version from 1.0.0 to 1.2.x of the OCI runtime specification"
UINT32 = "a whole number from 0 to 4294967295"
UINT64 = "a whole number from 0 to 18446744073709551615"
INT64 = "a whole number from -9223372036854775808 to 9223372036854775807"
NO_PARENT = "a path that is not empty and has no '..' component"

REFUSED: list[tuple[str, object, str, str]] = [
    *(
        ("ociVersion", version, f'is "{version}"', NO_VERSION)
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
    ("ociVersion", "1.0.0\n", 'is "1.0.0\\n"', NO_VERSION),
    ("ociVersion", "\u0661.0.0", 'is "\\u0661.0.0"', NO_VERSION),
    ("ociVersion", 1.0, "is a number with a fraction", NO_VERSION),
    # Paths.
    ("process.cwd", "work", 'is "work"', "an absolute path"),
    ("process.cwd", "", 'is ""', "an absolute path"),
    ("mounts.0.destination", "proc", 'is "proc"', "an absolute path"),
    ("hooks.poststart.0.path", "hook", 'is "hook"', "an absolute path"),
    ("linux.namespaces.1.path", "netns/a", 'is "netns/a"', "an absolute path"),
    ("linux.devices.0.path", "dev/fuse", 'is "dev/fuse"', "an absolute path"),
    ("linux.maskedPaths.0", "proc/kcore", 'is "proc/kcore"', "an absolute path"),
    ("linux.readonlyPaths.0", "proc/sys", 'is "proc/sys"', "an absolute path"),
    ("root.path", "", 'is ""', NO_PARENT),
    ("root.path", "../rootfs", 'is "../rootfs"', NO_PARENT),
    ("linux.cgroupsPath", "", 'is ""', NO_PARENT),
    ("linux.cgroupsPath", "/a/../../b", 'is "/a/../../b"', NO_PARENT),
    # The process.
    ("process.args", [], "is an array of 0", "an array of at least 1"),
    ("process.args", "sh", "is a string", "an array of at least 1"),
    ("process.args.1", 5, "is a whole number", "a string"),
    ("process.env.1", "SECRETVALUE", "is a string of 11 characters", "an entry of the form NAME=value"),
    ("process.env.1", "=SECRETVALUE", "is a string of 12 characters", "an entry of the form NAME=value"),
    ("process.env.1", "", "is a string of 0 characters", "an entry of the form NAME=value"),
    ("process.env", "A=b", "is a string", "an array"),
    ("process.env", {"A": "b"}, "is an object", "an array"),
    ("process.terminal", 1, "is a whole number", "true or false"),
    ("process.terminal", "true", "is a string", "true or false"),
    ("process.noNewPrivileges", 0, "is a whole number", "true or false"),
    ("process.user.uid", -1, "is -1", UINT32),
    ("process.user.uid", 2**32, "is 4294967296", UINT32),
    ("process.user.uid", True, "is a boolean", UINT32),
    ("process.user.uid", 0.0, "is a number with a fraction", UINT32),
    ("process.user.uid", -0.0, "is a number with a fraction", UINT32),
    ("process.user.uid", "0", "is a string", UINT32),
    ("process.user.umask", -1, "is -1", UINT32),
    ("process.user.additionalGids.1", -6, "is -6", UINT32),
    ("process.consoleSize.width", -1, "is -1", UINT64),
    ("process.capabilities.bounding.1", "CAP_CHOW", 'is "CAP_CHOW"', "a capability of capabilities(7)"),
    ("process.capabilities.bounding.1", "cap_chown", 'is "cap_chown"', "a capability of capabilities(7)"),
    ("process.capabilities.ambient.0", "CHOWN", 'is "CHOWN"', "a capability of capabilities(7)"),
    ("process.capabilities", ["CAP_CHOWN"], "is an array", "an object"),
    ("process.rlimits.0.type", "NOFILE", 'is "NOFILE"', "a limit of getrlimit(2)"),
    ("process.rlimits.1.type", "RLIMIT_NOFILE", 'is "RLIMIT_NOFILE" again', "each type once"),
    ("process.rlimits.0.soft", -1, "is -1", UINT64),
    ("process.rlimits.0.hard", 2**64, "is 18446744073709551616", UINT64),
    ("process.oomScoreAdj", -1001, "is -1001", "a whole number from -1000 to 1000"),
    ("process.oomScoreAdj", 1001, "is 1001", "a whole number from -1000 to 1000"),
    ("process.selinuxLabel", "system_u:x", 'is "system_u:x"', "an empty one, as runsc has no SELinux"),
    ("process.scheduler.policy", "FIFO", 'is "FIFO"', "one of SCHED_OTHER, SCHED_FIFO"),
    ("process.scheduler.flags.0", "RECLAIM", 'is "RECLAIM"', "a scheduling flag"),
    ("process.scheduler.nice", 2**31, "is 2147483648", "from -2147483648 to 2147483647"),
    ("process.ioPriority.class", "RT", 'is "RT"', "one of IOPRIO_CLASS_RT, IOPRIO_CLASS_BE"),
    ("process.ioPriority.priority", 8, "is 8", "a whole number from 0 to 7"),
    ("process.execCPUAffinity.initial", "a", 'is "a"', "a list of CPUs such as 0-3,7"),
    # Mounts, hooks, annotations.
    ("mounts", {}, "is an object", "an array"),
    ("mounts.1.options", "ro", "is a string", "an array"),
    ("mounts.1.options.0", 5, "is a whole number", "a string"),
    ("hooks.prestart", {"path": "/hook"}, "is an object", "an array"),
    ("hooks.prestart.0.timeout", 0, "is 0", "a whole number from 1 to"),
    ("hooks.prestart.0.timeout", -5, "is -5", "a whole number from 1 to"),
    (
        "hooks.prestart.0.env.0",
        "SECRETVALUE",
        "is a string of 11 characters",
        "an entry of the form NAME=value",
    ),
    ("hooks.prestart.0.args.0", None, "is null", "a string"),
    ("annotations", ["a"], "is an array", "an object"),
    ("annotations.empty", 5, "is a whole number", "a string"),
    ("annotations.empty", None, "is null", "a string"),
    ("annotations.empty", {"a": "SECRETVALUE"}, "is an object", "a string"),
    # Linux.
    ("linux.namespaces.0.type", "net", 'is "net"', "one of pid, network, mount"),
    ("linux.uidMappings.0.hostID", -1, "is -1", UINT32),
    ("linux.gidMappings.0.size", 2**32, "is 4294967296", UINT32),
    ("linux.timeOffsets.monotonic.nanosecs", -1, "is -1", UINT32),
    ("linux.timeOffsets.monotonic.secs", 2**63, "is 9223372036854775808", INT64),
    ("linux.devices.0.type", "char", 'is "char"', "one of c, b, u, p"),
    ("linux.devices.0.major", -(2**63) - 1, "is -9223372036854775809", INT64),
    ("linux.devices.0.fileMode", "0666", "is a string", UINT32),
    ("linux.resources.devices.0.type", "p", 'is "p"', "one of a, c, b"),
    ("linux.resources.devices.0.access", "rx", 'is "rx"', "a composition of r, w and m"),
    ("linux.resources.memory.limit", 2**63, "is 9223372036854775808", INT64),
    ("linux.resources.memory.limit", "1G", "is a string", INT64),
    ("linux.resources.memory.limit", 1.5e9, "is a number with a fraction", INT64),
    ("linux.resources.memory.swappiness", -1, "is -1", UINT64),
    ("linux.resources.cpu.shares", -1, "is -1", UINT64),
    ("linux.resources.cpu.cpus", "all", 'is "all"', "a list of CPUs such as 0-3,7"),
    ("linux.resources.cpu.mems", "x", 'is "x"', "a list of memory nodes such as 0-3,7"),
    ("linux.resources.blockIO.weight", 2**16, "is 65536", "a whole number from 0 to 65535"),
    ("linux.resources.hugepageLimits.0.pageSize", "2M", 'is "2M"', "a size such as 64KB, 2MB or 1GB"),
    ("linux.resources.hugepageLimits.0.pageSize", "\u0662MB", 'is "\\u0662MB"', "a size such as 64KB"),
    ("linux.resources.hugepageLimits.0.pageSize", "MB", 'is "MB"', "a size such as 64KB, 2MB or 1GB"),
    ("linux.resources.hugepageLimits.0.pageSize", "02MB", 'is "02MB"', "a size such as 64KB, 2MB or 1GB"),
    ("linux.resources.unified", ["a"], "is an array", "an object"),
    ("linux.sysctl.unknown", 1, "is a whole number", "a string"),
    ("linux.intelRdt.memBwSchema", "L3:0=1", 'is "L3:0=1"', "one line that starts with MB:"),
    ("linux.intelRdt.memBwSchema", "MB:0=1\nL3:", 'is "MB:0=1\\nL3:"', "one line that starts with MB:"),
    ("linux.seccomp.defaultAction", "ALLOW", 'is "ALLOW"', "an action such as SCMP_ACT_ERRNO"),
    ("linux.seccomp.architectures.0", "amd64", 'is "amd64"', "an architecture such as SCMP_ARCH_X86_64"),
    ("linux.seccomp.flags.0", "LOG", 'is "LOG"', "a flag of seccomp(2)"),
    ("linux.seccomp.syscalls.0.names", [], "is an array of 0", "an array of at least 1"),
    ("linux.seccomp.syscalls.0.action", "SCMP_ACT_DENY", 'is "SCMP_ACT_DENY"', "an action such as"),
    ("linux.seccomp.syscalls.1.args.0.op", "==", 'is "=="', "one of SCMP_CMP_NE, SCMP_CMP_LT"),
    ("linux.seccomp.syscalls.1.args.0.index", 6, "is 6", "a whole number from 0 to 5"),
    *(
        ("linux.rootfsPropagation", how, f'is "{how}"', "one of private, rprivate, slave, rslave")
        for how in ("shared", "rshared", "unbindable", "")
    ),
    ("linux.personality.domain", "BSD", 'is "BSD"', "one of LINUX, LINUX32"),
    # Other systems.
    ("windows", {}, "is there", "no such member: runsc runs no Windows containers"),
    ("solaris", {}, "is there", "no such member: runsc runs no Solaris containers"),
]


@pytest.mark.parametrize(("dotted", "value", "found", "wanted"), REFUSED)
def test_a_value_outside_the_rule_is_refused_with_path_finding_and_wish(
    dotted: str, value: object, found: str, wanted: str
) -> None:
    error = refusal(encoded(changed(at(dotted), value)))
    assert error.what.startswith(f"config.json: {written(at(dotted))} {found}")
    assert wanted in error.what.partition(", wanted ")[2]
    assert "SECRET" not in str(error)


RULES_ON_SEVERAL: list[tuple[str, object, str]] = [
    ("mounts.1", {"destination": "/a", "uidMappings": []}, "has 'uidMappings' without 'gidMappings'"),
    ("mounts.1", {"destination": "/a", "gidMappings": []}, "has 'gidMappings' without 'uidMappings'"),
    ("linux.devices.0", {"type": "c", "path": "/dev/a", "major": 1}, "lacks 'major' or 'minor'"),
    ("linux.devices.0", {"type": "u", "path": "/dev/a"}, "lacks 'major' or 'minor'"),
    (
        "linux.resources.blockIO.weightDevice.0",
        {"major": 1, "minor": 1},
        "has neither 'weight' nor 'leafWeight'",
    ),
    ("linux.resources.rdma.mlx5_1", {}, "has neither 'hcaHandles' nor 'hcaObjects'"),
    (
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1},
        "has 'defaultErrnoRet' with SCMP_ACT_KILL",
    ),
    (
        "linux.seccomp.syscalls.0",
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1},
        "has 'errnoRet' with SCMP_ACT_ALLOW",
    ),
    (
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_KILL", "listenerMetadata": "x"},
        "has 'listenerMetadata' without 'listenerPath'",
    ),
    ("annotations", {"": "x"}, "has a member with an empty name"),
    ("linux.sysctl", {"": "x"}, "has a member with an empty name"),
]


@pytest.mark.parametrize(("dotted", "value", "found"), RULES_ON_SEVERAL)
def test_members_that_do_not_go_together_are_refused(dotted: str, value: object, found: str) -> None:
    error = refusal(encoded(changed(at(dotted), value)))
    assert error.what.startswith(f"config.json: {written(at(dotted))} {found}, wanted ")


@pytest.mark.parametrize("name", ["dev.gvisor.flag.host-uds", "dev.gvisor.bundle.experimental"])
def test_an_annotation_that_would_change_runscs_flags_is_refused(name: str) -> None:
    """The trace says with which arguments runsc ran; runsc lets these override them."""
    config = copy.deepcopy(MINIMAL)
    config["annotations"] = {"dev.gvisor.spec.mount.tmp.share": "pod", name: "SECRETVALUE"}
    with pytest.raises(BundleError, match="no such member: it would change runsc's flags") as refusal:
        parse(json.dumps(config).encode())
    assert f'$.annotations["{name}"]' in str(refusal.value)
    assert "SECRETVALUE" not in str(refusal.value)


def test_a_second_namespace_of_a_type_is_refused() -> None:
    error = refusal(encoded(changed(at("linux.namespaces.8"), {"type": "network"})))
    assert error.what == 'config.json: $.linux.namespaces[8].type is "network" again, wanted each type once'


def test_a_member_of_a_map_is_named_by_its_key() -> None:
    error = refusal(encoded(changed(at("annotations"), {"org.example/key": 5})))
    assert error.what.startswith('config.json: $.annotations["org.example/key"] is a whole number')


@pytest.mark.parametrize("steps", [steps for steps, _ in MEMBERS], ids=written)
def test_null_is_refused_in_every_place(steps: tuple[Step, ...]) -> None:
    error = refusal(encoded(changed(steps, None)))
    assert error.what.startswith(f"config.json: {written(steps)} is null, wanted ")
    assert error.hint == "leave the member out, or give it a value"


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
    assert error.what.startswith(f"config.json: {written(twin)} is a name that runsc reads as {name!r}")
    assert error.hint == "correct the spelling, or choose another name"


@pytest.mark.parametrize(
    ("name", "known", "shown"),
    [("hoo\u212as", "hooks", r"hoo\u212as"), ("proce\u017f\u017f", "process", r"proce\u017f\u017f")],
)
def test_letters_that_go_folds_to_ascii_are_refused(name: str, known: str, shown: str) -> None:
    error = refusal(json.dumps({**FULL, name: 5}, ensure_ascii=False).encode())
    assert error.what.startswith(f'config.json: $["{shown}"] is a name that runsc reads as {known!r}')


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
    error = refusal(text.encode())
    assert error.what == f"config.json: {written(steps)} is there more than once, wanted it once"


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
    assert refusal(text.encode()).what == f"config.json: {path} is there more than once, wanted it once"


@pytest.mark.parametrize("text", [r"\u0000", r"a\u0000b", r"\ud800", r"\udfffa", r"\uDC00\uD800", r"\ud83dx"])
@pytest.mark.parametrize(
    "dotted", ["hostname", "process.args.1", "annotations.empty", "unknown", "root.path"]
)
def test_a_nul_or_half_a_surrogate_pair_in_a_string_is_refused(dotted: str, text: str) -> None:
    data = encoded(changed(at(dotted), "STANDIN")).replace(b"STANDIN", text.encode())
    error = refusal(data)
    path = written(at(dotted))
    assert error.what == f"config.json: {path} holds a NUL or half a surrogate pair, wanted text"


@pytest.mark.parametrize("text", [r"\u0000", r"\ud800"])
@pytest.mark.parametrize("dotted", ["annotations", "process", "linux.resources.rdma"])
def test_a_nul_or_half_a_surrogate_pair_in_a_name_is_refused(dotted: str, text: str) -> None:
    data = encoded(changed(at(f"{dotted}.STANDIN"), "x")).replace(b"STANDIN", text.encode())
    assert refusal(data).what.startswith(f"config.json: {written(at(dotted))} has a name with a NUL")


def test_a_whole_surrogate_pair_and_an_escaped_backslash_are_text() -> None:
    data = encoded({**MINIMAL, "hostname": "STANDIN"}).replace(b"STANDIN", rb"\ud83e\uddea \\u0000 \\ud800")
    assert parse(data)["hostname"] == "\U0001f9ea \\u0000 \\ud800"


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("dotted", ["process.oomScoreAdj", "unknown", "linux.resources.memory.limit"])
def test_a_number_that_json_does_not_have_is_refused_even_where_nothing_is_known(
    dotted: str, literal: str
) -> None:
    data = encoded(changed(at(dotted), "STANDIN")).replace(b'"STANDIN"', literal.encode())
    assert refusal(data).what.startswith(f"config.json: {written(at(dotted))} is NaN or Infinity")


@pytest.mark.parametrize("digits", [MAX_NUMBER_LENGTH + 1, 5000, 1_000_000])
@pytest.mark.parametrize("dotted", ["process.oomScoreAdj", "unknown"])
def test_a_number_of_absurd_length_is_refused_without_being_computed(dotted: str, digits: int) -> None:
    data = encoded(changed(at(dotted), "STANDIN")).replace(b'"STANDIN"', b"9" * digits)
    begun = time.process_time()
    assert refusal(data).what.startswith(f"config.json: {written(at(dotted))} is a number of more than 100")
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize("literal", ["1.0", "1e3", "1E3", "10e-1", "-0", "0.0", "1e999"])
def test_what_go_does_not_take_for_a_whole_number_is_refused(literal: str) -> None:
    data = encoded(changed(at("process.user.uid"), "STANDIN")).replace(b'"STANDIN"', literal.encode())
    assert refusal(data).what == (
        "config.json: $.process.user.uid is a number with a fraction, an exponent or a negative zero, "
        f"wanted {UINT32}"
    )


# --- What is not JSON -----------------------------------------------------------------------------------------

GOOD = encoded(MINIMAL)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "config.json is empty"),
        (b" \n\t\r\n", "config.json is empty"),
        (b"\xef\xbb\xbf" + GOOD, "config.json starts with a byte order mark"),
        (GOOD.decode().encode("utf-16"), "config.json is not UTF-8: byte 0xff at offset 0"),
        (b'{"hostname":"\xff"}', "config.json is not UTF-8: byte 0xff at offset 13"),
        (b'{"hostname":"\xed\xa0\x80"}', "config.json is not UTF-8: byte 0xed at offset 13"),
        (b'{"hostname":"\xc0\x80"}', "config.json is not UTF-8: byte 0xc0 at offset 13"),
        (GOOD + b"x", "config.json is not JSON: Extra data at column"),
        (GOOD + b"{}", "config.json is not JSON: Extra data at column"),
        (GOOD + b"\0", "config.json is not JSON: Extra data at column"),
        (GOOD[:-1], "config.json is not JSON: Expecting ',' delimiter at column"),
        (b"{\n'a': 1}", "config.json is not JSON: Expecting property name"),
        (b'{"a":\n\n 01}', "config.json is not JSON: Expecting ',' delimiter at line 3, column 3"),
        (b'{"a":"\0"}', "config.json is not JSON: Invalid control character at column 7"),
        (b'{"a":"\n"}', "config.json is not JSON: Invalid control character at line 1, column 7"),
        (b'{"a":"\\x"}', "config.json is not JSON: Invalid \\escape"),
        (b'{"a":1,}', "config.json is not JSON: "),
        (b"nul", "config.json is not JSON: Expecting value at column 1"),
        (b"// a comment\n" + GOOD, "config.json is not JSON: Expecting value at line 1, column 1"),
    ],
)
def test_what_is_not_json_is_refused(data: bytes, what: str) -> None:
    assert refusal(data).what.startswith(what)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"[]", "an array"),
        (b'"a"', "a string"),
        (b"null", "null"),
        (b"5", "a whole number"),
        (b"5.5", "a number with a fraction, an exponent or a negative zero"),
        (b"true", "a boolean"),
    ],
)
def test_a_top_level_that_is_no_object_is_refused(data: bytes, kind: str) -> None:
    assert refusal(data).what == f"config.json: $ is {kind}, wanted an object"


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ("[[0],", "]")])
@pytest.mark.parametrize("depth", [200_000, 1_000_000])
def test_deep_nesting_is_refused(opening: str, closing: str, depth: int) -> None:
    begun = time.process_time()
    error = refusal((opening * depth + "0" + closing * depth).encode())
    assert error.what == "config.json is nested too deeply"
    assert time.process_time() - begun < 1


def test_misfits_in_what_just_may_nest_so_deep_are_found() -> None:
    deep = '{"a":' * 300 + "NaN" + "}" * 300
    error = refusal(json.dumps({**MINIMAL, "unknown": "STANDIN"}).replace('"STANDIN"', deep).encode())
    assert error.what.startswith("config.json: $.unknown.a.a.a")
    assert "…" in error.what


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
    assert error.what.startswith(f"config.json: {written(steps)} is a")
    assert "SECRETVALUE" not in str(error)
