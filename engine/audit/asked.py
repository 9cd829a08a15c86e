"""What was asked and given, for the report: a few lines for its first screen, and all of it for below."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from engine.audit.controls import Shown
from engine.bundle.grant_codes import CODES
from engine.bundle.grants import codes_of_bind, covers_programs, is_of_any, strong_of
from engine.enforcement.asks import unasked
from engine.enforcement.recorded import config_of
from engine.enforcement.table import ROWS, UNASKED
from engine.runsc_flags import are_passed, opened_by
from engine.traces.schema import Header

#: How many mounts, and how many characters of a command, the first screen has.
_MOUNTS, _COMMAND = 6, 300
_NOT_RECORDED = "not recorded by this older engine: look into the config.json with the digest below"


def asked_of(header: Header) -> Mapping[str, Any] | None:
    """What the header says was asked; None in a trace of before that was recorded."""
    return header.asked if isinstance(header.asked, dict) else None


def first(header: Header, binary: Mapping[str, Any]) -> dict[str, Shown]:
    """What ran, as whom, what it was given, and what of it was not. `binary`: the facts of `validate`."""
    asked, host = asked_of(header), header.host
    by = f"uid {host['user']}{' (root)' if host['user'] == 0 else ''} on {host.get('name', 'a host of unknown name')}"
    if host.get("login_user", -1) not in (-1, host["user"]):
        by += f", who logged in as uid {host['login_user']}"
    if asked is None:
        return {"program": _NOT_RECORDED, "started by": by}
    mounts = [_bind(mount) for mount in asked["mounts"] if "source" in mount]
    if len(mounts) > _MOUNTS:
        mounts = [*mounts[:_MOUNTS], f"and {len(mounts) - _MOUNTS} more, below"]
    return {
        "program": _short(shlex.join(asked["argv"])) + _more("argv", asked),
        "as": f"{_user(asked['user'])}, in the container",
        "started by": by,
        "root file system": f"{header.bundle['rootfs']}, {_access(not asked['root']['readonly'])}",
        "from the host": (mounts or "no file or directory")
        if "mounts" not in asked.get("cut", {})
        else [*mounts, f"cut: {asked['cut']['mounts']['count']} mounts in all"],
        "network": header.options["network"],
        "capabilities": ", ".join(
            sorted({name for names in asked["capabilities"].values() for name in names})
        )
        or "none",
        "limits": _pairs(asked.get("limits", {})) or "none",
        "asked for, and not enforced": _unenforced(binary),
        "added by runsc, unasked": _added(asked, header) or "nothing",
    }


def _unenforced(binary: Mapping[str, Any]) -> Shown:
    """What runsc does not do as asked, by danger; of a row that this engine does not have, its name."""
    if (said := binary.get("unenforced")) is None:
        return "not recorded"
    says = {row[0]: row[1] for row in ROWS}
    grouped: dict[str, list[str]] = {}
    for each in said:
        grouped.setdefault(each["becomes"], []).append(says.get(each["name"], each["name"]))
    return [f"{becomes}: {', '.join(names)}" for becomes, names in grouped.items()] or "nothing"


def _added(asked: Mapping[str, Any], header: Header) -> list[str]:
    flags = header.options.get("runsc_flags", ())
    return [UNASKED[word] for word in unasked(config_of(asked), has_empty_tmp=False, runsc_flags=flags)]


def all_of(header: Header) -> dict[str, Shown]:
    """Everything that was asked, for the section below."""
    asked = asked_of(header)
    if asked is None:
        return {"asked": _NOT_RECORDED}
    sets = [(name, ", ".join(names) or "none") for name, names in asked["capabilities"].items()]
    mounts = [("at", "type", "from the host", "access", "what is there")]
    mounts += [
        (
            mount["destination"],
            mount.get("type", "not given"),
            _source(mount) if "source" in mount else "no",
            _access(mount["writable"]) + (", shared with the host" if mount.get("shared") else ""),
            mount.get("kind", "file or directory" if "source" in mount else "of the sandbox's own"),
        )
        for mount in asked["mounts"]
    ]
    return {
        "program and arguments": asked["argv"] or "cut",
        "current directory": asked["cwd"],
        "user": _user(asked["user"]),
        "variables (names only)": ", ".join(asked["environment"]) or "none",
        "terminal": _yes(asked["terminal"]),
        "no new privileges": _yes(asked["no_new_privileges"]),
        "capabilities": [("set", "capabilities"), *sets] if sets else "none",
        "limits of the process": [
            f"{name}: soft {limit['soft']}, hard {limit['hard']}"
            for name, limit in asked.get("rlimits", {}).items()
        ]
        or "none",
        "limits of the cgroup": _pairs(asked.get("limits", {})) or "none",
        "root file system": f"{asked['root']['path']}, {_access(not asked['root']['readonly'])}",
        "SHA-256 of the root file system": _digest(asked["root"]),
        "mounts": mounts if len(mounts) > 1 else "none",
        "hidden and read-only paths": f"{asked['masked_paths']} and {asked['readonly_paths']}",
        "namespaces": [
            f"{each['type']}: {'that of ' + each['path'] if 'path' in each else 'a new one'}"
            for each in asked["namespaces"]
        ]
        or "none",
        "ranges of mapped uids": str(asked.get("uid_mappings", "none")),
        "devices": [_device(device) for device in asked.get("devices", ())] or "none",
        "rules for devices": asked.get("device_rules") or "none",
        "seccomp": _seccomp(asked),
        "AppArmor profile": asked.get("apparmor", "none"),
        "SELinux label of mounts": asked.get("mount_label", "none"),
        "kernel parameters": _pairs(asked.get("sysctls", {})) or "none",
        "hooks": [f"{hook['kind']}: {hook['path']}" for hook in asked.get("hooks", ())] or "none",
        "cut, with the number and SHA-256 of all": [
            f"{name}: {cut['count']}, {cut['sha256']}" for name, cut in asked.get("cut", {}).items()
        ]
        or "nothing",
    }


def warnings(header: Header) -> list[tuple[str, str]]:
    """What was given that deserves a word: what it is, and where. In the order of `CODES`."""
    where = _places(header)
    said = header.bundle.get("grants", ())
    return [(CODES[code], "; ".join(where.get(code, ()))) for code in CODES if code in said or code in where]


def _places(header: Header) -> dict[str, list[str]]:
    """By grant, what gives it, as far as that is recorded."""
    found: dict[str, list[str]] = {}
    asked = asked_of(header)
    for code, place in () if asked is None else _given(asked):
        found.setdefault(code, []).append(place)
    if header.options["network"] == "host":
        found["host_network"] = ["--network host"]
    flags = header.options.get("runsc_flags", [])
    if are_passed(flags):
        for code, flag in opened_by(flags):
            found.setdefault(code, []).append(flag)
    return found


def _given(asked: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for mount in asked["mounts"]:
        if (source := mount.get("source")) is None:
            continue
        leads_to, kind, writable = mount.get("leads_to", source), mount.get("kind"), mount["writable"]
        for code in codes_of_bind(source, leads_to, kind, writable=writable):
            yield code, _bind(mount)
        if covers_programs(mount["destination"]):
            yield "over_programs", _bind(mount)
    if strong := strong_of(asked["capabilities"]):
        yield "capabilities", ", ".join(strong)
    for device in asked.get("devices", ()):
        if not is_of_any(device["type"], device.get("major"), device.get("minor")):
            yield "devices", _device(device)


def _bind(mount: Mapping[str, Any]) -> str:
    return f"{mount['destination']}, {_access(mount['writable'])}, from {_source(mount)}"


def _source(mount: Mapping[str, Any]) -> str:
    source: str = mount["source"]
    return f"{source} → {mount['leads_to']}" if "leads_to" in mount else source


def _access(writable: bool) -> str:
    return "writable" if writable else "read-only"


def _user(user: Mapping[str, Any]) -> str:
    also = ", ".join(map(str, user.get("additional_gids", ())))
    return f"uid {user['uid']}{' (root)' if user['uid'] == 0 else ''}, gid {user['gid']}" + (
        f", also {also}" if also else ""
    )


def _digest(root: Mapping[str, Any]) -> str:
    if "sha256" not in root:
        return "not asked for (--root-digest)"
    return root["sha256"] or "unknown: it could not be read, or changed meanwhile"


def _device(device: Mapping[str, Any]) -> str:
    numbers = f" {device['major']}:{device['minor']}" if {"major", "minor"} <= device.keys() else ""
    return f"{device['path']} ({device['type']}{numbers})"


def _seccomp(asked: Mapping[str, Any]) -> str:
    if (profile := asked.get("seccomp")) is None:
        return "none"
    return f"{profile['rules']} rules, otherwise {profile['default_action']}"


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {value}" for name, value in values.items()]


def _short(text: str) -> str:
    return text if len(text) <= _COMMAND else f"{text[:_COMMAND]}…"


def _more(name: str, asked: Mapping[str, Any]) -> str:
    cut = asked.get("cut", {}).get(name)
    return "" if cut is None else f" … ({cut['count']} arguments in all)"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
