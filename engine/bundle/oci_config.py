"""Parse config.json of an OCI bundle strictly and validate it by tables that follow the specification.

`null` is taken for absent, as Go reads it, where a member is optional: it is not in what `parse` returns. It is refused
for a required member, in an array, and for a name of the user's choice. Unknown members are ignored, as the
specification requires ("Extensibility"); these include the sections `vm` and `zos` and additions after version 1.3.
What the specification allows but runsc has never supported (`windows`, `solaris`, `freebsd`, SELinux, a shared root
mount, a relative mount destination) is refused with the reason.

An error has the member's path, what was found and what is wanted. It shows names, paths and versions, never an
environment entry, an argument or an annotation.

Source: OCI runtime specification 1.0 to 1.3, config.md and config-linux.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.bundle.linux import ID_MAPPINGS, LINUX
from engine.bundle.process import ENVIRONMENT, PROCESS
from engine.bundle.rules import (
    ABSOLUTE_PATH,
    BOOLEAN,
    STRING,
    STRINGS,
    array,
    integer,
    names_to,
    needs,
    record,
    refused,
    scalar,
)
from engine.bundle.strict_json import MismatchError, NotJsonError, read
from engine.errors import BundleError, Reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def parse(data: bytes) -> dict[str, Any]:
    """Parse and validate the bytes of a config.json.

    Raises `BundleError` with one line: the member's path, what was found, what is wanted, the hint.
    """
    if not data.strip(b" \t\r\n"):
        hint = "write one; `runsc spec` makes a template"
        raise BundleError("config.json is empty", reason=Reason.CONFIG_NOT_JSON, hint=hint)
    try:
        document: dict[str, Any] = read(data)
        CONFIG.check(document)
    except NotJsonError as error:
        what = f"config.json {error.what}"
        raise BundleError(what, reason=Reason.CONFIG_NOT_JSON, hint=error.hint) from None
    except MismatchError as mismatch:
        hint = f"correct it as the OCI runtime specification says ({mismatch.section or 'config.md'})"
        raise BundleError(
            f"config.json: {mismatch}",
            reason=Reason.CONFIG_INVALID,
            hint=mismatch.hint or hint,
            member=mismatch.member,
        ) from None
    return document


#: Usual versions, so that most starts compile no pattern.
_RELEASES = frozenset(f"1.{minor}.{patch}" for minor in range(4) for patch in range(3))


def _is_supported_version(version: str) -> bool:
    if version in _RELEASES:
        return True
    release = r"1\.[0-3]\.(0|[1-9][0-9]*)"
    identifiers = r"[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*"
    return re.fullmatch(rf"{release}(-{identifiers})?(\+{identifiers})?", version) is not None


ROOT = record(
    "config.md, Root",
    {"path": scalar(str, "a path that is not empty", lambda path: path != "")},
    {"readonly": BOOLEAN},
)


MOUNT = record(
    "config.md, Mounts",
    # The specification deprecates relative destinations; runsc refuses them.
    {"destination": ABSOLUTE_PATH},
    {
        "type": STRING,
        "source": STRING,
        "options": STRINGS,
        "uidMappings": ID_MAPPINGS,
        "gidMappings": ID_MAPPINGS,
    },
    needs("uidMappings", "gidMappings"),
    needs("gidMappings", "uidMappings"),
)


HOOKS = array(
    record(
        "config.md, POSIX-platform Hooks",
        {"path": ABSOLUTE_PATH},
        {"args": STRINGS, "env": ENVIRONMENT, "timeout": integer(1, 2**63 - 1)},
    )
)


#: What runsc reads, and only what: annotations of other names pass, as managers write many.
_FOR_RUNSC = "dev.gvisor."
#: A hint says how runsc may keep a mount that config.json has: in memory, shared within the pod, cached. It brings in
#: no file of the host, so these are allowed (`engine.bundle.grants` has what deserves a word). `lifecycle` is of 2023,
#: `directfs` of 2026.
_MOUNT_HINT = "dev.gvisor.spec.mount."
_MOUNT_FIELDS = frozenset({"source", "type", "share", "options", "lifecycle", "directfs"})
#: Characters, names included. A pod of 100 volumes has 30,000.
_MAX_HINTS = 1 << 16
#: gVisor's containerd shim reads it, runsc does not.
_SHIM_HINT = "dev.gvisor.empty-dir."


def hints(config: dict[str, Any]) -> dict[str, str]:
    """The annotations of a valid config.json that runsc reads, by name."""
    annotations: dict[str, str] = config.get("annotations", {})
    return {name: value for name, value in annotations.items() if name.startswith(_FOR_RUNSC)}


def _has_few_hints(config: dict[str, Any]) -> None:
    """Raise `MismatchError` if the annotations that runsc reads are too long for the header of a trace."""
    length = sum(len(name) + len(value) for name, value in hints(config).items())
    if length > _MAX_HINTS:
        raise MismatchError(
            f"has {length} characters of annotations for runsc, {_FOR_RUNSC}*", f"at most {_MAX_HINTS}"
        )


def hooks_on_host(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The hooks of a valid config.json that are executed on the host, each with its place in it."""
    hooks = config.get("hooks", {})
    for kind in HOOKS_ON_HOST:
        for index, hook in enumerate(hooks.get(kind, ())):
            yield f"$.hooks.{kind}[{index}]", hook


def is_bind(mount: dict[str, Any]) -> bool:
    """Whether runsc's gofer makes this mount from a path of the host, as in its `IsGoferMount`."""
    return bool(mount.get("source")) and (
        mount.get("type") == "bind" or not {"bind", "rbind"}.isdisjoint(mount.get("options", ()))
    )


def may_grant(config: dict[str, Any]) -> bool:
    """Whether a valid config.json has anything in which `engine.bundle.grants` has to look."""
    return bool(
        config.get("hooks")
        or config["process"].get("capabilities")
        or config.get("linux", {}).get("devices")
        or any(map(is_bind, config.get("mounts", ())))
    )


def is_writable(mount: dict[str, Any]) -> bool:
    """Whether a mount is not read-only, mount(8): the last option that says so counts."""
    said = [option for option in mount.get("options", ()) if option in ("ro", "rw")]
    return said[-1:] != ["ro"]


def _is_hint(name: str) -> bool:
    if name.startswith(_SHIM_HINT):
        return True
    mount, _, field = name.removeprefix(_MOUNT_HINT).rpartition(".")
    return name.startswith(_MOUNT_HINT) and mount != "" and "." not in mount and field in _MOUNT_FIELDS


def _why_not_annotated(name: str) -> str | None:
    """Why an annotation of this name is refused: another root, other flags, devices, files, cgroups. Else None."""
    if not name.startswith(_FOR_RUNSC) or _is_hint(name):
        return None
    return "runsc would do something else than the rest of config.json says"


KINDS_OF_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
#: startContainer is executed in the container, config.md.
HOOKS_ON_HOST = tuple(kind for kind in KINDS_OF_HOOKS if kind != "startContainer")


CONFIG = record(
    "config.md",
    {
        "ociVersion": scalar(
            str, "a version from 1.0.0 to 1.3.x of the OCI runtime specification", _is_supported_version
        ),
        "process": PROCESS,
        "root": ROOT,
    },
    {
        # The kernel takes no longer one, sethostname(2).
        "hostname": scalar(
            str, "a name of at most 64 bytes", lambda name: len(name.encode("utf-8", "replace")) <= 64
        ),
        "domainname": STRING,
        "mounts": array(MOUNT),
        "hooks": record(
            "config.md, POSIX-platform Hooks",
            {},
            dict.fromkeys(KINDS_OF_HOOKS, HOOKS),
        ),
        "annotations": names_to(
            STRING,
            but_for=_why_not_annotated,
        ),
        "linux": LINUX,
        "windows": refused("runsc runs no Windows containers"),
        "solaris": refused("runsc runs no Solaris containers"),
        "freebsd": refused("runsc runs no FreeBSD containers"),
    },
    _has_few_hints,
)
