"""What of a bundle deserves a word before the run: a warning, and a code in the trace.

Only `--require-strict-bundle` refuses it. A table row says what is looked for; codes never change, sentences may.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping

from engine.bundle.grant_codes import CODES
from engine.bundle.oci_config import hints, hooks_on_host, is_bind, is_writable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

_SOURCES = {"/proc/": "binds_proc", "/sys/": "binds_sys", "/etc/": "binds_etc", "/root/": "binds_root_home"}
#: Where the daemons of a host listen that can start programs on it.
_SOCKETS = (
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/podman/podman.sock",
    "/run/buildkit/buildkitd.sock",
    "/run/libvirt/libvirt-sock",
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
)
#: Where programs lie; and where libraries do, with other things below.
_PROGRAMS = ("/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/", "/usr/local/bin/", "/usr/local/sbin/")
_LIBRARIES = frozenset({"/", "/usr", "/usr/local", "/lib", "/lib64", "/usr/lib", "/usr/lib64"})
#: Where the host's own programs, libraries and settings lie; and directories that are as good as all that is in them.
_SYSTEM = (
    "/bin/",
    "/boot/",
    "/etc/",
    "/lib/",
    "/lib32/",
    "/lib64/",
    "/libx32/",
    "/proc/",
    "/sbin/",
    "/sys/",
    "/usr/",
)
_WHOLE = frozenset({"/", "/dev", "/home", "/opt", "/root", "/run", "/srv", "/var", "/var/lib", "/var/run"})
#: What any container has of /dev, by name and by device number: null(4), random(4), tty(4), pts(4), mknod(1).
_OF_ANY = frozenset(
    {"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "shm", "mqueue", "hugepages"}
)
_NUMBERS_OF_ANY = frozenset({(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)})
#: capabilities(7) by which a program governs the machine, and not only its own files and processes. No manager gives
#: them unless it is asked to.
STRONG = frozenset(
    f"CAP_{name}"
    for name in [
        "AUDIT_CONTROL",
        "BPF",
        "CHECKPOINT_RESTORE",
        "DAC_READ_SEARCH",
        "LINUX_IMMUTABLE",
        "MAC_ADMIN",
        "MAC_OVERRIDE",
        "NET_ADMIN",
        "PERFMON",
        "SYSLOG",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_MODULE",
        "SYS_PTRACE",
        "SYS_RAWIO",
        "SYS_TIME",
    ]
)
#: Variables by which the loader, a shell or an interpreter is given code: ld.so(8), bash(1) and their likes.
_LOADER = "LD_"
_VARIABLES = frozenset(
    {
        *(
            "BASH_ENV",
            "ENV",
            "GCONV_PATH",
            "GLIBC_TUNABLES",
            "JAVA_TOOL_OPTIONS",
            "NODE_OPTIONS",
            "NODE_PATH",
        ),
        *(
            "PERL5DB",
            "PERL5LIB",
            "PERL5OPT",
            "PYTHONHOME",
            "PYTHONPATH",
            "PYTHONSTARTUP",
            "RUBYLIB",
            "RUBYOPT",
        ),
    }
)


class Grant:
    """One code, and where in the bundle it is found, in words."""

    def __init__(self, code: str, where: str) -> None:
        self.code: Final = code
        self.where: Final = where

    def __str__(self) -> str:
        return f"{CODES[self.code]} ({self.where})"


class Source:
    """Where a bind mount comes from: the absolute `path`, and where that `leads_to` without links (or itself).

    `kind`: `socket`, or `device` for one that not any container has; None for anything else, or nothing.
    """

    def __init__(self, path: str, leads_to: str, kind: str | None) -> None:
        self.path: Final = path
        self.leads_to: Final = leads_to
        self.kind: Final = kind


def sources_of(config: dict[str, Any], bundle: str) -> dict[int, Source]:
    """What the bind mounts of the valid `config` come from, by their number in it. `bundle`: its absolute path."""
    return {
        index: _look_up(os.path.normpath(os.path.join(bundle, mount["source"])))
        for index, mount in enumerate(config.get("mounts", ()))
        if is_bind(mount)
    }


def find(
    config: dict[str, Any], sources: Mapping[int, Source], writable: Mapping[str, str]
) -> tuple[Grant, ...]:
    """The grants of the valid `config`, in the order of `CODES`.

    `sources`: of its bind mounts. `writable`: the codes that were found of the bundle's files, and why.
    """
    found: dict[str, list[str]] = {code: [why] for code, why in writable.items()}
    for code, member in (
        *_of_hooks(config),
        *_of_mounts(config, sources),
        *_of_devices(config),
        *_of_capabilities(config),
    ):
        found.setdefault(code, []).append(member)
    return tuple(Grant(code, ", ".join(found[code])) for code in CODES if code in found)


def _of_hooks(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for member, hook in hooks_on_host(config):
        names = (entry.partition("=")[0] for entry in hook.get("env", ()))
        if any(name.startswith(_LOADER) or name in _VARIABLES for name in names):
            yield "hook_environment", f"{member}.env"


def _of_mounts(config: dict[str, Any], sources: Mapping[int, Source]) -> Iterator[tuple[str, str]]:
    in_memory = _kept_in_the_sandbox(hints(config))
    for index, source in sources.items():
        mount, member = config["mounts"][index], f"$.mounts[{index}]"
        if mount["source"] in in_memory:
            yield "filestore_on_host", member
        for code in codes_of_bind(source.path, source.leads_to, source.kind, writable=is_writable(mount)):
            yield code, member
        if source.kind != "socket" and source.leads_to != "/" and _has_known_socket(source.leads_to):
            yield "binds_socket", member
        if covers_programs(mount["destination"]):
            yield "over_programs", member


def _of_devices(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for index, device in enumerate(config.get("linux", {}).get("devices", ())):
        if not is_of_any(device["type"], device.get("major"), device.get("minor")):
            yield "devices", f"$.linux.devices[{index}]"


def _of_capabilities(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    strong = strong_of(config["process"].get("capabilities", {}))
    if strong:
        yield "capabilities", f"$.process.capabilities: {', '.join(strong)}"


def strong_of(sets: Mapping[str, Any]) -> list[str]:
    """The capabilities in any of the `sets` that an administrator has, in alphabetical order."""
    lists = (names for names in sets.values() if isinstance(names, list))
    return sorted(STRONG.intersection(name for names in lists for name in names))


def is_of_any(kind: str, major: int | None, minor: int | None) -> bool:
    """Whether a device is one that any container has, such as null(4); a FIFO is no device."""
    return kind == "p" or (kind in ("c", "u") and (major, minor) in _NUMBERS_OF_ANY)


def covers_programs(destination: str) -> bool:
    """Whether a mount there lies over the container's programs or libraries."""
    covered = os.path.normpath(f"/{destination.lstrip('/')}")
    return covered in _LIBRARIES or f"{covered}/".startswith(_PROGRAMS)


def _kept_in_the_sandbox(hinted: dict[str, str]) -> set[str]:
    """The sources that hints make a tmpfs of the sandbox; its pages are in a file of a bind mount's source."""
    volumes: dict[str, dict[str, str]] = {}
    for name, value in hinted.items():
        volume, _, field = name.rpartition(".")
        volumes.setdefault(volume, {})[field] = value
    return {
        volume.get("source", "")
        for volume in volumes.values()
        if volume.get("type") == "tmpfs" and volume.get("share") in ("container", "pod")
    }


def codes_of_bind(named: str, real: str, kind: str | None, *, writable: bool) -> list[str]:
    """The codes of a host path that is mounted, by its name and by where its links lead."""
    found = []
    if real == "/":
        found.append("binds_host")
    else:
        found += [
            code for place, code in _SOURCES.items() if any(_is_in(path, place) for path in (real, named))
        ]
    if kind == "socket":
        found.append("binds_socket")
    if writable and (real in _WHOLE or f"{real}/".startswith(_SYSTEM)):
        found.append("writable_system")
    if kind == "device" or (
        _is_in(real, "/dev/") and real.removeprefix("/dev/").partition("/")[0] not in _OF_ANY
    ):
        found.append("devices")
    return found


def _is_in(path: str, place: str) -> bool:
    return f"{path}/".startswith(place)


def _has_known_socket(directory: str) -> bool:
    return any(path.startswith(f"{directory}/") and _look_up(path).kind == "socket" for path in _SOCKETS)


def _look_up(path: str) -> Source:
    """Where the path leads, and what is there; to itself where nothing can be opened."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return Source(path, path, None)
    try:
        real = os.readlink(f"/proc/self/fd/{descriptor}")
        return Source(path, real, _kind(os.fstat(descriptor)))
    except OSError:
        return Source(path, path, None)
    finally:
        os.close(descriptor)


def _kind(status: os.stat_result) -> str | None:
    if stat.S_ISSOCK(status.st_mode):
        return "socket"
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        return None
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b"
    return None if is_of_any(kind, os.major(status.st_rdev), os.minor(status.st_rdev)) else "device"
