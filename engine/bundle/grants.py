"""What of a bundle deserves a word before the run: a warning, and a code in the trace.

Nothing here is refused. A table row says what is looked for; codes never change, sentences may.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping

from engine.bundle.grant_codes import CODES
from engine.bundle.oci_config import hints, hooks_on_host, is_bind

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


def find(config: dict[str, Any], bundle: str, writable: Mapping[str, str]) -> tuple[Grant, ...]:
    """The grants of the valid `config` of the bundle at the path `bundle`, in the order of `CODES`.

    `writable`: the codes that were found of the bundle's files, and why.
    """
    found: dict[str, list[str]] = {code: [why] for code, why in writable.items()}
    for code, member in (*_of_hooks(config), *_of_mounts(config, bundle)):
        found.setdefault(code, []).append(member)
    return tuple(Grant(code, ", ".join(found[code])) for code in CODES if code in found)


def _of_hooks(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for member, hook in hooks_on_host(config):
        names = (entry.partition("=")[0] for entry in hook.get("env", ()))
        if any(name.startswith(_LOADER) or name in _VARIABLES for name in names):
            yield "hook_environment", f"{member}.env"


def _of_mounts(config: dict[str, Any], bundle: str) -> Iterator[tuple[str, str]]:
    in_memory = _kept_in_the_sandbox(hints(config))
    for index, mount in enumerate(config.get("mounts", ())):
        if not is_bind(mount):
            continue
        member = f"$.mounts[{index}]"
        if mount["source"] in in_memory:
            yield "filestore_on_host", member
        for code in _codes_of_source(os.path.join(bundle, mount["source"])):
            yield code, member
        covered = os.path.normpath(f"/{mount['destination'].lstrip('/')}")
        if covered in _LIBRARIES or f"{covered}/".startswith(_PROGRAMS):
            yield "over_programs", member


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


def _codes_of_source(source: str) -> Iterator[str]:
    """The codes of a host path, by its name and by where its links lead."""
    named = os.path.normpath(source)
    real, is_socket = _look_up(named)
    if real == "/":
        yield "binds_host"
        return
    for place, code in _SOURCES.items():
        if f"{real}/".startswith(place) or f"{named}/".startswith(place):
            yield code
    if is_socket or any(path.startswith(f"{real}/") and _look_up(path)[1] for path in _SOCKETS):
        yield "binds_socket"


def _look_up(path: str) -> tuple[str, bool]:
    """The path without links, and whether a socket is there; the `path` itself where nothing can be opened."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return path, False
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}"), stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
