"""Whether what a header says was asked goes together: with the bundle, the options and itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from engine.bundle.grants import codes_of_bind, covers_programs, is_of_any, strong_of
from engine.errors import UsageError
from engine.options import check_container_id
from engine.runsc_flags import OPENABLE, are_passed, opened_by
from engine.traces.asked import KEPT, encode, is_limit
from engine.traces.schema import Header

#: The grants that follow from what is recorded, and nothing else.
_FOLLOWING = frozenset(
    {
        "binds_host",
        "binds_proc",
        "binds_sys",
        "binds_etc",
        "binds_root_home",
        "writable_system",
        "devices",
        "capabilities",
        "over_programs",
        "host_network",
    }
)
#: What of the host is recorded since the header says what was asked.
_OF_HOST = frozenset({"name", "boot", "login_user"})
#: Some characters of a device rule's parts.
_RULE_TYPES, _RULE_ACCESS, _RULE_VERBS = frozenset("abc"), frozenset("rwm"), frozenset({"allow", "deny"})
_RULE_PARTS = (3, 4)
#: Three bytes of UTF-8 are six characters of ASCII, two are as many.
_ASCII_FACTOR = 3
#: Lists and tables that are recorded even if empty.
_MAY_BE_EMPTY = frozenset({"argv", "environment", "mounts", "namespaces"})
#: Options that are recorded only where they were given.
_GIVEN = ("require_strict_bundle", "supervise", "root_digest", "require_enforced")
_FIRST_FORMAT = 1
_REMEMBERED = 1024
_encode_quickly = msgspec.json.Encoder().encode


def contradiction(header: Header) -> str | None:
    """What in the header is not as any engine writes it, in one phrase; None if nothing, or nothing was recorded."""
    recorded = _OF_HOST.intersection(header.host)
    if not isinstance(header.asked, dict):
        if header.format != _FIRST_FORMAT:
            return "its format says what was asked, and it does not"
        return "its host is described and its bundle is not" if recorded else None
    if recorded != _OF_HOST:
        return "its bundle is described and its host is not"
    return next(_contradictions(header, header.asked), None)


def _contradictions(header: Header, asked: Mapping[str, Any]) -> Iterator[str]:
    bundle, cut = header.bundle, asked.get("cut", {})
    yield from _of_header(header, bundle)
    root = os.path.normpath(os.path.join(bundle["path"], asked["root"]["path"]))
    if root != bundle["rootfs"]:
        yield f"its root {asked['root']['path']!r:.80} is not the bundle's"
    if ("sha256" in asked["root"]) is not header.options.get("root_digest", False):
        yield "a digest of its root was asked for and is not there, or the other way about"
    yield from _of_lists(asked, cut)
    if _number("hooks", asked, cut) != bundle["hooks"]:
        yield "its hooks are not as many as the bundle's"
    if not asked["argv"] and "argv" not in cut:
        yield "it has no program"
    if any("=" in name or not name for name in asked["environment"]):
        yield "a name of its environment is none"
    kinds = [each["type"] for each in asked["namespaces"]]
    if len(kinds) != len(set(kinds)):
        yield "it has a namespace twice"
    if not all(map(_is_device_rule, asked.get("device_rules", ()))):
        yield "a rule for devices is none"
    if asked.get("uid_mappings") == 0:
        yield "it maps no uids, and says so"
    if not all(map(is_limit, asked.get("limits", ()))):
        yield "a limit has a name that no limit has"
    yield from _of_mounts(asked["mounts"])
    yield from _of_grants(header, asked, cut)


def _of_header(header: Header, bundle: Mapping[str, Any]) -> Iterator[str]:
    if header.format == _FIRST_FORMAT:
        yield "format 1 does not say what was asked"
    if not all(header.options.get(name, True) for name in _GIVEN):
        yield "an option that was not given is there"
    if not (bundle.get("hints", True) and bundle.get("grants", True)):
        yield "its bundle has no hints or grants, and says so"
    if not _is_id(header.container):
        yield f"its container's id {header.container!r:.80} is none"


@lru_cache(_REMEMBERED)
def _is_id(container: str) -> bool:
    try:
        check_container_id(container)
    except UsageError:
        return False
    return True


def _number(name: str, asked: Mapping[str, Any], cut: Mapping[str, Any]) -> int:
    """How many members the whole list has."""
    return int(cut[name]["count"]) if name in cut else len(asked.get(name, ()))


def _of_lists(asked: Mapping[str, Any], cut: Mapping[str, Any]) -> Iterator[str]:
    lists = {**asked, "additional_gids": asked["user"].get("additional_gids")}
    for name, size in KEPT.items():
        there = lists.get(name)
        if there is None:
            continue
        if not there:
            if name not in _MAY_BE_EMPTY and name not in cut:
                yield f"its {name} is empty, and it says so"
        elif _is_longer(there, size):
            yield f"its {name} has more than {size} bytes"
        if name in cut and cut[name]["count"] <= len(there):
            yield f"its {name} is said to be cut and is not"
    if any(name not in KEPT or lists.get(name) is None for name in cut):
        yield "what was cut is no list of it"
    if "cut" in asked and not cut:
        yield "nothing was cut, and it says so"


def _is_longer(there: Any, size: int) -> bool:
    """Whether it is longer than `size` as the engine writes it; msgspec is faster, and a third as long at least."""
    try:
        if _ASCII_FACTOR * len(_encode_quickly(there)) <= size:
            return False
    except ValueError:  # half of a surrogate pair
        pass
    return len(encode(there)) > size


def _is_device_rule(rule: str) -> bool:
    parts = rule.split(" ")
    if len(parts) not in _RULE_PARTS or parts[0] not in _RULE_VERBS or parts[1] not in _RULE_TYPES:
        return False
    numbers = parts[2].split(":")
    return (
        len(numbers) == len(("major", "minor"))
        and all(number == "*" or number.removeprefix("-").isdigit() for number in numbers)
        and _RULE_ACCESS.issuperset("".join(parts[3:]))
    )


def _of_mounts(mounts: list[dict[str, Any]]) -> Iterator[str]:
    for number, mount in enumerate(mounts):
        source = mount.get("source")
        if source is None:
            if "leads_to" in mount or "kind" in mount:
                yield f"mount {number} leads somewhere and comes from nowhere"
        elif os.path.normpath(source) != source or mount.get("leads_to") == source:
            yield f"mount {number} comes from {source!r:.80}, which is not as it is written"
        if mount.get("shared") is False:
            yield f"mount {number} is not shared, and says so"


def _of_grants(header: Header, asked: Mapping[str, Any], cut: Mapping[str, Any]) -> Iterator[str]:
    said = header.bundle.get("grants", [])
    follow = set(_grants(asked))
    if header.options["network"] == "host":
        follow.add("host_network")
    flags = header.options.get("runsc_flags", [])
    if not are_passed(flags) or ("runsc_flags" in header.options and not flags):
        yield "no engine passes on all of its flags of runsc"
        return
    follow.update(code for code, _ in opened_by(flags))
    if missing := follow.difference(said):
        yield f"what it asks for grants {min(missing)}, which the bundle does not say"
    some = {code for code in said if code in _FOLLOWING or code in OPENABLE} - follow
    if some and not (
        {"mounts", "devices"} & cut.keys() and some.isdisjoint({"capabilities", "host_network", *OPENABLE})
    ):
        yield f"nothing that it asks for grants {min(some)}"
    if (
        "binds_socket" in said
        and "mounts" not in cut
        and not any("source" in each for each in asked["mounts"])
    ):
        yield "nothing that it asks for grants binds_socket"
    if "hook_environment" in said and not header.bundle["hooks"]:
        yield "nothing that it asks for grants hook_environment"
    if "filestore_on_host" in said and "hints" not in header.bundle:
        yield "nothing that it asks for grants filestore_on_host"
    if said and header.options.get("require_strict_bundle"):
        yield "it has grants, and a strict bundle was required"
    if len(said) != len(set(said)):
        yield "it has a grant twice"


def _grants(asked: Mapping[str, Any]) -> Iterator[str]:
    """The grants that follow from what is recorded of the bundle."""
    for mount in asked["mounts"]:
        if (source := mount.get("source")) is not None:
            leads_to, kind = mount.get("leads_to", source), mount.get("kind")
            yield from codes_of_bind(source, leads_to, kind, writable=mount["writable"])
            if covers_programs(mount["destination"]):
                yield "over_programs"
    if strong_of(asked["capabilities"]):
        yield "capabilities"
    for device in asked.get("devices", ()):
        if not is_of_any(device["type"], device.get("major"), device.get("minor")):
            yield "devices"
