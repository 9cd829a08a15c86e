"""The cases of the survey: one small change of a good bundle each, and how it is seen whether it was done as asked.

`script` is executed by the container's shell and prints `yes` or `no`; `sees` looks at the host, once the container
has ended or, with `during`, while it waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from engine.survey.world import World

Config = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """`row`: of the data. `word`: of `engine.enforcement.asks`. `needs`: `root`, `v1` (cgroups of version 1) or empty.

    `sees`: whether it was done as asked, by the world and runsc's exit code, while the container waits if `during`;
    None: the script says it.
    """

    row: str
    what: str
    change: Callable[[Config, World], None]
    script: str = "echo yes"
    sees: Callable[[World, int | None], bool] | None = None
    during: bool = False
    needs: str = ""


def _test(condition: str) -> str:
    return f"if {condition}; then echo yes; else echo no; fi"


def _not(condition: str) -> str:
    return f"if {condition}; then echo no; else echo yes; fi"


_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
_RUNS = "echo no"  #: That it runs at all is not as asked.


def _linux(**members: Any) -> Callable[[Config, World], None]:
    return lambda config, _: config["linux"].update(members)


def _process(**members: Any) -> Callable[[Config, World], None]:
    return lambda config, _: config["process"].update(members)


def _mount(kind: str, *options: str, **more: Any) -> Callable[[Config, World], None]:
    def change(config: Config, world: World) -> None:
        source = world.shared if kind == "bind" else kind
        mount = {"destination": "/mnt", "type": kind, "source": source, "options": list(options), **more}
        config["mounts"].append(mount)

    return change


def _limit(kind: str, soft: int, hard: int | None = None) -> Callable[[Config, World], None]:
    return _process(
        rlimits=[{"type": f"RLIMIT_{kind}", "soft": soft, "hard": soft if hard is None else hard}]
    )


def _capabilities(*names: str, **more: Any) -> Callable[[Config, World], None]:
    sets = {kind: list(names) for kind in _SETS[:-1]}
    return _process(capabilities=sets, **more)


def _hook(kind: str, program: str, *arguments: str) -> Callable[[Config, World], None]:
    def change(config: Config, world: World) -> None:
        args = [program, *(argument.replace("MARKER", world.marker) for argument in arguments)]
        config["hooks"] = {kind: [{"path": program, "args": args}]}

    return change


def _has_marker(world: World, _: int | None) -> bool:
    return os.path.exists(world.marker)


def _cgroup(part: str, name: str, value: Any, file: str, shown: str | None = None) -> Case:
    row = {"memory.limit": "memory-limit", "cpu.cpus": "cpu-set"}.get(f"{part}.{name}", f"{part}-{name}")
    row = {"cpu-quota": "cpu-quota", "memory-swappiness": "memory-swappiness" + ("" if value else "-0")}.get(
        row, row
    )
    return Case(
        row,
        f"{part}.{name} {value}: {file} on the host",
        _linux(resources={part: {name: value}}),
        sees=lambda world, _: world.of_cgroup(file) == (shown or str(value)),
        during=True,
        needs="v1",
    )


def cases() -> Iterator[Case]:
    """All of them, in the order of the data's files."""
    yield from _of_confinement()
    yield from _of_limits()
    yield from _of_mounts()
    yield from _of_options()
    yield from _of_the_rest()


def _of_confinement() -> Iterator[Case]:
    calls = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": calls}
    yield Case("seccomp", "mkdir forbidden", _linux(seccomp=profile), _not("mkdir /tmp/x 2>/dev/null"))
    yield Case("readonly-paths", "a bind mount", _linux(readonlyPaths=["/m"]), _not("touch /m/x 2>/dev/null"))
    yield Case("masked-paths", "a file", _linux(maskedPaths=["/secret"]), _not("grep -q secret /secret"))
    yield Case("apparmor", "a profile that is not there", _process(apparmorProfile="no-such-profile"), _RUNS)
    yield Case("selinux", "a label", _process(selinuxLabel="system_u:system_r:svirt_lxc_net_t:s0"), _RUNS)
    yield Case("mount-label", "a label", _linux(mountLabel="system_u:object_r:svirt_file_t:s0"), _RUNS)


def _of_limits() -> Iterator[Case]:
    yield _cgroup("memory", "limit", 1 << 28, "memory.limit_in_bytes")
    yield _cgroup("memory", "reservation", 1 << 27, "memory.soft_limit_in_bytes")
    yield _cgroup("memory", "swappiness", 7, "memory.swappiness")
    yield _cgroup("memory", "swappiness", 0, "memory.swappiness")
    yield _cgroup("memory", "kernel", 1 << 28, "memory.kmem.limit_in_bytes")
    yield _cgroup("cpu", "shares", 123, "cpu.shares")
    yield _cgroup("cpu", "quota", 50000, "cpu.cfs_quota_us")
    yield _cgroup("cpu", "burst", 20000, "cpu.cfs_burst_us")
    yield _cgroup("cpu", "idle", 1, "cpu.idle")
    yield _cgroup("cpu", "cpus", "0", "cpuset.cpus")
    yield _cgroup("pids", "limit", 4096, "pids.max")
    yield Case(
        "pids-limit-0",
        "0 on the host",
        _linux(resources={"pids": {"limit": 0}}),
        sees=lambda world, _: world.of_cgroup("pids.max") == "0",
        during=True,
        needs="v1",
    )
    yield Case("intel-rdt", "a class", _linux(intelRdt={"closID": "x"}), _RUNS)
    yield Case("memory-policy", "MPOL_BIND", _linux(memoryPolicy={"mode": "MPOL_BIND", "nodes": "0"}), _RUNS)
    yield Case(
        "rdma", "a limit", _linux(resources={"rdma": {"mlx5_1": {"hcaHandles": 3}}}), _RUNS, needs="v1"
    )
    yield Case("unified", "a name", _linux(resources={"unified": {"banana.max": "1"}}), _RUNS, needs="v1")
    yield Case("block-weight", "300", _linux(resources={"blockIO": {"weight": 300}}), _RUNS, needs="v1")
    for kind, limit, flag in (("NOFILE", 64, "-n"), ("STACK", 1 << 18, "-s")):
        shown = limit if kind == "NOFILE" else limit >> 10
        yield Case("rlimit-enforced", kind, _limit(kind, limit), _test(f'[ "$(ulimit {flag})" = {shown} ]'))
    yield Case(
        "rlimit-enforced",
        "FSIZE",
        _limit("FSIZE", 4096),
        _not("dd if=/dev/zero of=/tmp/f bs=8k count=1 2>/dev/null"),
    )
    yield Case("rlimit-enforced", "AS", _limit("AS", 1 << 26), _not(_ALLOCATE))
    yield Case("rlimit-data", "mmap(2)", _limit("DATA", 1 << 24), _not(_ALLOCATE))
    yield Case(
        "rlimit-cpu", "1 s", _limit("CPU", 1), f"timeout -s KILL 4 sh -c '{_SPIN}' 2>/dev/null; {_CPU}"
    )
    yield Case(
        "rlimit-shown", "CORE", _limit("CORE", 1 << 24), f"cd /tmp; {_CRASH}; {_test('ls core* 2>/dev/null')}"
    )


_ALLOCATE = "dd if=/dev/zero of=/dev/null bs=128M count=1 2>/dev/null"
_SPIN = "while :; do :; done"
#: The loop ended itself: the elapsed time is under that of timeout.
_CPU = "[ $(cut -d. -f1 /proc/uptime) -lt 4 ] && echo yes || echo no"
_CRASH = "(sh -c 'kill -SEGV $$') 2>/dev/null"


def _of_mounts() -> Iterator[Case]:
    def there(kind: str) -> str:
        return _test(f"grep -q ' /mnt {kind} ' /proc/mounts")

    for kind in ("proc", "sysfs", "tmpfs"):
        yield Case("mount-type", kind, _mount(kind), there(kind))
    yield Case("mount-type", "bind", _mount("bind", "rbind"), _test("grep -q shared /mnt/file"))
    for kind in ("mqueue", "cgroup2", "erofs"):
        yield Case(f"mount-type-{kind}", kind, _mount(kind), there(kind))
    for kind in ("overlay", "ramfs", "hugetlbfs", "nosuchfs", "debugfs", "fuse"):
        yield Case("mount-type-other", kind, _mount(kind), there(kind))

    def limited(config: Config, world: World) -> None:
        _mount("cgroup")(config, world)
        config["mounts"][-1]["destination"] = "/sys/fs/cgroup"
        config["linux"]["resources"] = {"memory": {"limit": 1 << 28}}

    limit = _test('[ "$(cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null)" = 268435456 ]')
    yield Case("mount-type-cgroup", "its own limit is seen", limited, limit, needs="v1")

    def covered(config: Config, world: World) -> None:
        for place, kind in (("/mnt/x", "bind"), ("/mnt", "tmpfs")):
            source = world.shared if kind == "bind" else kind
            config["mounts"].append({"destination": place, "type": kind, "source": source})

    yield Case("mount-order", "a tmpfs over an earlier bind", covered, _not("[ -e /mnt/x/file ]"))
    ids = [{"containerID": 0, "hostID": 2000, "size": 1}]
    mapped = _mount("bind", "bind", uidMappings=ids, gidMappings=ids)
    owner = _test('[ "$(stat -c %u /mnt/file)" != 0 ]')
    yield Case("mount-idmap", "an owner as seen inside", mapped, owner, needs="root")


#: Where times of access are kept as by default, the second reading changes none.
_READ_TWICE = (
    "cat /mnt/file >/dev/null; before=$(stat -c %X /mnt/file); sleep 1.1; cat /mnt/file >/dev/null; "
    + _test('[ "$(stat -c %X /mnt/file)" != "$before" ]')
)


def _of_options() -> Iterator[Case]:
    def option(row: str, kind: str, option: str, script: str, needs: str = "") -> Case:
        options = ("rbind", option) if kind == "bind" else (option,)
        return Case(row, f"{option} of {kind}", _mount(kind, *options), script, needs=needs)

    shown = "grep ' /mnt ' /proc/mounts | grep -q "
    yield option("option-enforced", "bind", "ro", _not("touch /mnt/x 2>/dev/null"))
    yield option("option-enforced", "tmpfs", "ro", _not("touch /mnt/x 2>/dev/null"))
    yield option("option-enforced", "tmpfs", "noexec", _not("cat /bin/busybox >/mnt/true && /mnt/true"))
    yield option(
        "option-enforced", "tmpfs", "size=64k", _not("dd if=/dev/zero of=/mnt/f bs=1M count=1 2>/dev/null")
    )
    yield option("option-enforced", "tmpfs", "mode=0700", _test('[ "$(stat -c %a /mnt)" = 700 ]'))
    yield option("option-nodev", "bind", "nodev", _not("cat /mnt/null 2>/dev/null"), "root")
    yield option(
        "option-nodev-own", "tmpfs", "nodev", _not("mknod /mnt/n c 1 3 && cat /mnt/n 2>/dev/null"), "root"
    )
    yield option("option-recursive", "bind", "rro", _not("touch /mnt/x 2>/dev/null"))
    yield option("option-symlinks", "bind", "nosymfollow", _not("cat /mnt/link >/dev/null 2>&1"))
    yield option("option-hidepid", "proc", "subset=pid", _not("[ -e /mnt/version ]"))
    files = "for i in $(seq 30); do : >/mnt/$i || exit 1; done"
    yield option("option-limits", "tmpfs", "nr_inodes=10", _not(f"({files}) 2>/dev/null"))
    yield option("option-size-percent", "tmpfs", "size=10%", "echo yes")
    yield option("option-shared", "bind", "rshared", "echo yes", "root")
    yield option("option-atime", "bind", "strictatime", _READ_TWICE)
    yield option("option-relatime", "tmpfs", "relatime", _test(f"{shown}relatime"))
    yield option("option-other", "tmpfs", "sync", _test(f"{shown}sync"))
    yield option("option-other", "tmpfs", "made-up", _RUNS)
    yield option("option-unknown", "bind", "made-up", _RUNS)

    def copied(config: Config, _: World) -> None:
        config["mounts"].append({"destination": "/data", "type": "tmpfs", "options": ["tmpcopyup"]})

    yield Case("option-copyup", "tmpcopyup", copied, _test("[ -e /data/file ]"))


def _of_the_rest() -> Iterator[Case]:
    for kind in ("pid", "ipc", "uts", "mount", "cgroup"):

        def joined(config: Config, _: World, kind: str = kind) -> None:
            spaces = [space for space in config["linux"]["namespaces"] if space["type"] != kind]
            config["linux"]["namespaces"] = [*spaces, {"type": kind, "path": "/nonexistent"}]

        yield Case("namespace-path-ignored", f"{kind}, a path that is not there", joined, _RUNS)
    yield Case("namespace-path-user", "a path", _namespaces(user="/proc/1/ns/user"), _RUNS)
    yield Case(
        "namespace-shared",
        "the host's name",
        _without("uts"),
        _test(f'[ "$(hostname)" = {os.uname().nodename} ]'),
    )
    later = {"boottime": {"secs": 10_000_000, "nanosecs": 0}}
    yield Case(
        "time-offsets",
        "boottime",
        _namespaces(time=None, offsets=later),
        _test("grep -q ^1000.... /proc/uptime"),
    )
    yield Case("network-devices", "one that is not there", _linux(netDevices={"made-up0": {}}), _RUNS)
    for kind in ("prestart", "createRuntime", "poststop"):
        yield Case("hooks-run", kind, _hook(kind, "/bin/touch", "MARKER"), sees=_has_marker)
    yield Case(
        "hooks-poststart", "one that fails", _hook("poststart", "/bin/false"), sees=lambda _, code: code != 0
    )
    yield Case(
        "hooks-create-container",
        "is executed",
        _hook("createContainer", "/bin/touch", "MARKER"),
        sees=_has_marker,
    )
    yield Case(
        "hooks-start-container",
        "is executed",
        _hook("startContainer", "/bin/touch", "/m/marker"),
        sees=_has_marker,
    )
    deny = {"devices": [{"allow": False, "access": "rwm"}]}
    yield Case(
        "device-rules",
        "the host's cgroup",
        _linux(resources=deny),
        sees=lambda world, _: "a *:* rwm" not in (world.of_cgroup("devices.list") or ""),
        during=True,
        needs="v1",
    )
    for row, minor, script in (
        ("devices-own", 3, _test("[ -c /dev/made ]")),
        ("devices-host", 11, _test("head -c 1 /dev/made >/dev/null 2>&1")),
    ):
        device = {
            "path": "/dev/made",
            "type": "c",
            "major": 1,
            "minor": minor,
            "fileMode": 0o666,
            "uid": 0,
            "gid": 0,
        }
        yield Case(row, f"c 1:{minor}", _linux(devices=[device]), script, needs="root")
    yield Case(
        "sysctl",
        "net.core.somaxconn",
        _linux(sysctl={"net.core.somaxconn": "256"}),
        _reads("net/core/somaxconn", 256),
    )
    yield Case(
        "sysctl-nr-open", "fs.nr_open", _linux(sysctl={"fs.nr_open": "5000"}), _reads("fs/nr_open", 5000)
    )
    ids = {"uid": 1000, "gid": 1001, "additionalGids": [5]}
    seen = '[ "$(id -u) $(id -g) $(id -G)" = "1000 1001 1001 5" ]'
    yield Case("user", "uid, gid, groups", _process(user=ids), _test(seen), needs="root")
    yield Case(
        "umask", "0077", _process(user={"uid": 0, "gid": 0, "umask": 0o77}), _test('[ "$(umask)" = 0077 ]')
    )
    yield Case("capabilities", "CAP_KILL alone", _capabilities("CAP_KILL"), _has_set("CapEff", 0x20))
    yield Case("capability-net-raw", "in the sets", _capabilities("CAP_NET_RAW"), _has_set("CapEff", 0x2000))
    yield Case("capability-new", "CAP_BPF", _capabilities("CAP_BPF"), _has_set("CapBnd", 1 << 39))
    sets = {kind: ["CAP_KILL"] for kind in _SETS}
    user = {"uid": 1000, "gid": 1000}
    yield Case(
        "capabilities-ambient",
        "of a user",
        _process(capabilities=sets, user=user),
        _has_set("CapAmb", 0x20),
        needs="root",
    )
    yield Case(
        "scheduler",
        "SCHED_BATCH",
        _process(scheduler={"policy": "SCHED_BATCH"}),
        _test("chrt -p $$ | grep -q BATCH"),
    )
    yield Case(
        "personality", "LINUX32", _linux(personality={"domain": "LINUX32"}), _test("uname -m | grep -q i.86")
    )
    yield Case(
        "environment-twice",
        "both are there",
        _process(env=["PATH=/bin", "A=1", "A=2"]),
        _test('[ "$(env | grep -c ^A=)" = 2 ]'),
    )
    yield Case("other-platform", "vm", lambda config, _: config.update(vm={"kernel": {"path": "/k"}}), _RUNS)


def _namespaces(offsets: Any = None, **paths: str | None) -> Callable[[Config, World], None]:
    def change(config: Config, _: World) -> None:
        spaces = [space for space in config["linux"]["namespaces"] if space["type"] not in paths]
        for kind, path in paths.items():
            spaces.append({"type": kind, **({"path": path} if path else {})})
        config["linux"]["namespaces"] = spaces
        if offsets:
            config["linux"]["timeOffsets"] = offsets

    return change


def _without(kind: str) -> Callable[[Config, World], None]:
    def change(config: Config, _: World) -> None:
        spaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [space for space in spaces if space["type"] != kind]

    return change


def _reads(name: str, value: int) -> str:
    return _test(f'[ "$(cat /proc/sys/{name} 2>/dev/null)" = {value} ]')


def _has_set(name: str, value: int) -> str:
    return _test(f"grep -q '^{name}:.*{value:016x}$' /proc/self/status")
