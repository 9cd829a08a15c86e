"""The kernel's part: cgroups, user namespaces, ids, locked mounts. What can be tried is tried."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from engine.doctor.part import Part, Status
from engine.doctor.trial import VERSION_TIMEOUT, run_limited
from engine.linux import locked_mounts
from engine.linux.namespaces import BANS, subordinate_ids, sysctl

#: What a limit of a bundle needs, by controller.
_LIMITS = {"memory": "memory", "cpu": "CPU time", "pids": "processes"}
#: Without one of these runsc refuses every bundle on cgroup v2, whatever limits that asks for.
_NEEDED_ON_V2 = (*_LIMITS, "cpuset", "io")


def try_cgroups(root: str = "/sys/fs/cgroup", proc: str = "/proc/self") -> Part:
    """Which controllers are mounted, and whether this user's limits hold: our own cgroup is writable, cgroups(7)."""
    enables = "limits on a container's memory, CPU time and processes"
    mounted = {}
    with open(f"{proc}/mounts") as file:
        for line in file:
            _, target, kind, options, *_ = line.split()
            if kind in ("cgroup", "cgroup2") and (target + "/").startswith(root + "/"):
                mounted[target] = (kind, options.split(","))
    kinds = {kind for kind, _ in mounted.values()}
    version = {
        frozenset(): "none",
        frozenset({"cgroup"}): "v1",
        frozenset({"cgroup2"}): "v2",
    }.get(frozenset(kinds), "hybrid")
    if not mounted:
        hint = f"mount cgroup2 at {root}, or run with --ignore-cgroups"
        return Part("cgroups", Status.MISSING, f"none mounted at {root}", enables, hint)
    own = _own_cgroups(f"{proc}/cgroup")
    read_only = [
        target
        for target, (kind, options) in mounted.items()
        if not os.access(
            target + own.get("" if kind == "cgroup2" else _controller(options, own), "/"), os.W_OK
        )
    ]
    if version == "v2":
        controllers = _controllers_of_v2(min(mounted))
    else:  # with both versions runsc uses version 1
        options_of_v1 = [options for kind, options in mounted.values() if kind == "cgroup"]
        controllers = {
            each for options in options_of_v1 for each in options if each in own and "=" not in each
        }
    needed = _NEEDED_ON_V2 if version == "v2" else tuple(_LIMITS)
    absent = [each for each in needed if each not in controllers]
    is_refused = read_only or (absent and version == "v2")
    held = [] if is_refused else [each for each in _LIMITS if each in controllers]
    detail = {
        "version": version,
        "mounted": sorted(mounted),
        "read_only": sorted(read_only),
        "controllers": sorted(controllers),
        "limits": held,
    }
    if present := [each for each in needed if each in controllers]:
        version += f" with {', '.join(present)}"
    holds = f"limits on {_listed([_LIMITS[each] for each in held])} hold" if held else "no limit holds"
    if read_only:
        found = f"{version}, {len(read_only)} of {len(mounted)} hierarchies not writable; {holds}"
        hint = "run with --ignore-cgroups, as root, or in a delegated group (systemd-run --user --scope)"
        return Part("cgroups", Status.DEGRADED, found, enables, hint, detail)
    if absent:
        found = f"{version}, without {', '.join(absent)}; {holds}"
        hint = "run with --ignore-cgroups; memory may need cgroup_enable=memory on the kernel's command line"
        return Part("cgroups", Status.DEGRADED, found, enables, hint, detail)
    return Part("cgroups", Status.OK, f"{version}, writable; {holds}", enables, detail=detail)


def _controllers_of_v2(target: str) -> set[str]:
    """Those of the hierarchy mounted at `target`, which runsc reads there; none if it cannot be read."""
    try:
        with open(f"{target}/cgroup.controllers") as file:
            return set(file.read().split())
    except OSError:
        return set()


def _listed(names: Sequence[str]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]


def _controller(options: Sequence[str], own: Mapping[str, str]) -> str:
    """A controller of the v1 hierarchy mounted with `options`, which include its name."""
    return next((option for option in options if option in own), "")


def _own_cgroups(path: str) -> dict[str, str]:
    """For each controller the path of our cgroup; the empty name is cgroup2's."""
    own = {}
    with open(path) as file:
        for line in file:
            _, controllers, where = line.rstrip("\n").split(":", 2)
            own.update(dict.fromkeys(controllers.split(","), where))
    return own


def try_user_namespaces() -> Part:
    """Make a user namespace, map ourselves to its root, and make a mount namespace in it.

    Where AppArmor restricts them the first succeeds without privileges: only the second fails.
    """
    name, enables = "user namespaces", "rootless containers (--rootless)"
    bans = [(key, hint) for key, value, hint in BANS if sysctl(key) == value]
    detail = {key: sysctl(key) for key, _, _ in BANS}
    tried = run_limited(["unshare", "--user", "--map-root-user", "--mount", "true"], VERSION_TIMEOUT)
    if tried.code == 0:
        others = f"; but {', '.join(key for key, _ in bans)} forbids them to others" if bans else ""
        return Part(name, Status.OK, f"made one{others}", enables, detail=detail)
    if bans:
        key, hint = bans[0]
        return Part(name, Status.MISSING, f"forbidden by {key} = {detail[key]}", enables, hint, detail)
    hint = "allow them where this system is confined (container runtime, seccomp), or run as root"
    return Part(name, Status.MISSING, tried.summary(), enables, hint, detail)


def try_subordinate_ids() -> Part:
    """newuidmap(1), newgidmap(1), and this user's ranges in subuid(5) and subgid(5)."""
    name, enables = "subordinate ids", "rootless containers with more than one user id"
    paths = {program: shutil.which(program) for program in ("newuidmap", "newgidmap")}
    if absent := [program for program, path in paths.items() if path is None]:
        found = f"no {' and no '.join(absent)} on PATH"
        return Part(name, Status.MISSING, found, enables, "install the package uidmap")
    powerless = [path for path in paths.values() if path is not None and not _may_set_ids(path)]
    if powerless:
        found = f"{' and '.join(powerless)} neither setuid root nor with file capabilities"
        return Part(name, Status.DEGRADED, found, enables, "reinstall the package uidmap")
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    counts = {
        kind: sum(count for _, count in subordinate_ids(f"/etc/{kind}", os.getuid()))
        for kind in ("subuid", "subgid")
    }
    detail: dict[str, Any] = {"user": user, **paths, **counts}
    if all(counts.values()):
        found = f"{counts['subuid']} uids and {counts['subgid']} gids for {user}"
        return Part(name, Status.OK, found, enables, detail=detail)
    if os.geteuid() == 0:
        return Part(name, Status.OK, "newuidmap and newgidmap; root needs no ranges", enables, detail=detail)
    hint = f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
    return Part(
        name, Status.DEGRADED, f"no range for {user} in /etc/subuid, /etc/subgid", enables, hint, detail
    )


def _may_set_ids(path: str) -> bool:
    status = os.stat(path)
    if status.st_uid == 0 and status.st_mode & stat.S_ISUID:
        return True
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def try_locked_mounts() -> Part:
    """Whether the kernel lets a supervisor lock its mounts."""
    name, enables = "locked mounts", "the rootless execute policy (--exec-policy locked-mounts)"
    try:
        with locked_mounts.probe([], sealed=False) as found:
            ids = found.ids.kind
    except locked_mounts.UnusableError as error:
        return Part(name, Status.MISSING, error.why, enables, error.hint)
    return Part(name, Status.OK, f"tried, with ids: {ids}", enables)
