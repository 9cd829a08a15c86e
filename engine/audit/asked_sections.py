"""What a run was asked for, held against the sections of the CIS Docker Benchmark on a container's settings.

Source of what runsc does with a setting: our own trials with its releases of 2022, 2024 and 2026.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.audit.asked import asked_of
from engine.audit.guidance import CIS, Coverage, Section
from engine.bundle.grants import STRONG, strong_of
from engine.traces.move import Trigger
from engine.verify.evidence import Evidence, Outcome

_SENSITIVE = (
    "binds_host",
    "binds_proc",
    "binds_sys",
    "binds_etc",
    "binds_root_home",
    "writable_system",
)
_SENTRY = "gVisor's Sentry has its own and never shares the host's; asked for: {}."
_WHOLE = "Nothing: this is the whole recommendation."
#: Which runsc applies seccomp profiles.
_SECCOMP_FLAG = "--oci-seccomp"


def asked_sections(evidence: Evidence) -> list[Section]:
    """The sections that what was asked answers; none of them for a trace of before that was recorded."""
    header = evidence.header
    if header is None or (asked := asked_of(header)) is None:
        return []
    ran = evidence.outcome is Outcome.HANDED_OFF
    grants = header.bundle.get("grants", [])
    has_cgroup = not (header.options["rootless"] or header.options["ignore_cgroups"])
    argv = evidence.facts.get(Trigger.EXEC, {}).get("argv", ())
    rows = (
        *_of_confinement(asked, argv),
        *_of_host(asked, grants),
        *_of_limits(asked, has_cgroup=has_cgroup),
        *_of_namespaces(asked, rootless=header.options["rootless"]),
    )
    return [
        Section(CIS, number, asks, coverage if ran else Coverage.NOT_SHOWN, shows, lacks)
        for number, asks, coverage, shows, lacks in rows
    ]


_Row = tuple[str, str, Coverage, str, str]


def _met(holds: bool) -> Coverage:
    return Coverage.MET if holds else Coverage.NOT_MET


def _of_confinement(asked: Mapping[str, Any], argv: Sequence[str]) -> Iterator[_Row]:
    profile = asked.get("apparmor")
    yield (
        "5.2",
        "An AppArmor profile is enabled",
        Coverage.NOT_MET,
        f"Asked for: {profile or 'none'}.",
        "runsc applies no AppArmor profile to the container.",
    )
    strong = strong_of(asked["capabilities"])
    given = sorted({name for names in asked["capabilities"].values() for name in names})
    yield (
        "5.4",
        "Capabilities are restricted to what is needed",
        _met(not strong),
        f"Given: {', '.join(given) or 'none'}.",
        "Which of them the program needs.",
    )
    yield (
        "5.5",
        "The container is not privileged",
        _met(set(strong) != STRONG),
        f"Capabilities of an administrator: {', '.join(strong) or 'none'}.",
        _WHOLE,
    )
    seccomp = asked.get("seccomp")
    applied = _SECCOMP_FLAG in argv
    yield (
        "5.22",
        "The default seccomp profile is not disabled",
        (Coverage.MET if applied else Coverage.PARTLY) if seccomp else Coverage.NOT_MET,
        f"A profile of {seccomp['rules']} rules was asked for." if seccomp else "No profile was asked for.",
        "Whether it is the default one."
        if applied
        else "runsc was not told to apply it; the Sentry, not the host, handles system calls.",
    )
    yield (
        "5.26",
        "The container cannot gain privileges",
        _met(asked["no_new_privileges"]),
        f"noNewPrivileges: {'yes' if asked['no_new_privileges'] else 'no'}.",
        _WHOLE,
    )


def _of_host(asked: Mapping[str, Any], grants: Sequence[str]) -> Iterator[_Row]:
    sources = sum("source" in mount for mount in asked["mounts"])
    sensitive = [code for code in _SENSITIVE if code in grants]
    yield (
        "5.6",
        "Sensitive directories of the host are not mounted",
        _met(not sensitive),
        f"{sources} mounts from the host; of them sensitive: {', '.join(sensitive) or 'none'}.",
        "Whether the others are sensitive here.",
    )
    yield (
        "5.13",
        "The root file system is read-only",
        _met(asked["root"]["readonly"]),
        f"readonly: {'yes' if asked['root']['readonly'] else 'no'}.",
        _WHOLE,
    )
    yield (
        "5.18",
        "Devices of the host are not exposed",
        _met("devices" not in grants),
        f"Of the host: {'some' if 'devices' in grants else 'none but those that any container has'}.",
        _WHOLE,
    )
    shared = [mount["destination"] for mount in asked["mounts"] if mount.get("shared")]
    yield (
        "5.20",
        "Mounts are not shared with the host",
        _met(not shared),
        f"Shared: {', '.join(shared) or 'none'}.",
        _WHOLE,
    )
    yield (
        "5.32",
        "The socket of Docker is not mounted",
        _met("binds_socket" not in grants),
        f"Sockets of the host: {'some' if 'binds_socket' in grants else 'none that is known'}.",
        "Sockets of daemons that the engine does not know, in directories that are mounted.",
    )


def _of_limits(asked: Mapping[str, Any], *, has_cgroup: bool) -> Iterator[_Row]:
    limits = asked.get("limits", {})
    kept = (
        "How close the container comes to it." if has_cgroup else "It makes no cgroup, so none is in force."
    )

    def row(number: str, asks: str, *names: str) -> _Row:
        found = {name: limits[name] for name in names if name in limits}
        is_set = any(value not in (0, -1, "") for value in found.values())
        told = ", ".join(f"{name} = {value}" for name, value in found.items())
        lacks = kept if is_set else _WHOLE
        return number, asks, _met(is_set and has_cgroup), f"Asked for: {told or 'none'}.", lacks

    yield row("5.11", "Memory is limited", "memory.limit", "unified.memory.max")
    yield row(
        "5.12", "The share of CPU is set", "cpu.shares", "cpu.quota", "unified.cpu.weight", "unified.cpu.max"
    )
    yield row("5.29", "The number of processes is limited", "pids.limit", "unified.pids.max")
    limits_of_process = asked.get("rlimits", {})
    yield (
        "5.19",
        "Limits of getrlimit(2) are set where needed",
        Coverage.MET if limits_of_process else Coverage.PARTLY,
        f"Asked for: {', '.join(limits_of_process) or 'none'}.",
        "Whether more are needed.",
    )


def _of_namespaces(asked: Mapping[str, Any], *, rootless: bool) -> Iterator[_Row]:
    found = {each["type"]: each.get("path") for each in asked["namespaces"]}

    def told(kind: str) -> str:
        return (found[kind] or "a new one") if kind in found else "none"

    for number, kind, asks in (
        ("5.16", "pid", "The host's process namespace is not shared"),
        ("5.17", "ipc", "The host's IPC namespace is not shared"),
        ("5.21", "uts", "The host's UTS namespace is not shared"),
    ):
        yield number, asks, Coverage.MET, _SENTRY.format(told(kind)), _WHOLE
    yield (
        "5.31",
        "The host's user namespace is not shared",
        _met(rootless or "user" in found),
        f"Asked for: {told('user')}; the sandbox is {'rootless' if rootless else 'not rootless'}.",
        _WHOLE,
    )
