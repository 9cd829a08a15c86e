"""config.json of an OCI bundle: read strictly, then held against a table that reads like the specification.

The notable thing: it refuses whatever runsc, which is written in Go, could read differently than we do. Go
matches member names without regard to case and takes the last of two equal names; it turns an unpaired
surrogate into U+FFFD; a NUL ends a C string. Each such document would be one thing here and another there, so
each is refused, by the path of the member, before anything is believed of it.

Standard-library `json` with hooks, then plain functions. A library with typed structs was measured and left
out: msgspec adds 33 ms to every start, jsonschema more, and neither sees a duplicate name or Go's folding.

`null` is refused for every member named here: the specification's JSON schema does not have it, and leaving
the member out says the same. Members that are not named here are let through unread, as the specification
asks ("Extensibility"): so are the sections `vm`, `zos` and `freebsd` and what came after version 1.2. Where
runsc has never supported what the specification allows (`windows`, `solaris`, SELinux, a shared root mount,
a relative mount destination), that is refused too, with the reason.

A refusal names the path, what is there and what is wanted. It shows no string but names, paths and versions:
never an environment entry, an argument or an annotation.

Source: OCI runtime specification 1.0 to 1.2, config.md and config-linux.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from engine.errors import BundleError
from engine.records import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from typing import Any, NoReturn

#: Characters of the longest whole number that is read at all; an uint64 takes 20.
MAX_NUMBER_LENGTH = 100

_SHOWN_LENGTH = 60
_SHOWN_PATH_LENGTH = 120


def parse(data: bytes) -> dict[str, Any]:
    """The configuration in `data`, the bytes of a config.json.

    Raises `BundleError`, in one line: the path of the member, what is there, what is wanted, the remedy.
    """
    try:
        document: dict[str, Any] = _read(data)
        CONFIG.check(document)
    except _MismatchError as mismatch:
        raise mismatch.as_bundle_error() from None
    return document


# --- What is wrong, and where ---------------------------------------------------------------------------------


class _MismatchError(Exception):
    """A member is not what it must be. `path` grows on the way out to the document: innermost name first."""

    def __init__(self, found: str, wanted: str, *, remedy: str = "", path: Iterable[str | int] = ()) -> None:
        super().__init__(found, wanted)
        self.found = found
        self.wanted = wanted
        self.remedy = remedy
        self.section = ""
        self.path = list(path)

    def as_bundle_error(self) -> BundleError:
        section = self.section or "config.md"
        remedy = self.remedy or f"correct it as the OCI runtime specification says ({section})"
        return BundleError(
            f"config.json: {_json_path(reversed(self.path))} {self.found}, wanted {self.wanted}",
            remedy=remedy,
        )


def _json_path(path: Iterable[str | int]) -> str:
    shown = "$" + "".join(_json_path_step(step) for step in path)
    if len(shown) <= _SHOWN_PATH_LENGTH:
        return shown
    half = _SHOWN_PATH_LENGTH // 2
    return f"{shown[:half]}…{shown[-half:]}"


def _json_path_step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{_shortened(step)}" if step.isascii() and step.isidentifier() else f"[{_shown(step)}]"


def _shown(value: str | int) -> str:
    """A name or number for a message: short, on one line, whatever it holds. Never called with a secret."""
    return _shortened(json.dumps(value))


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"


_KINDS = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "a whole number",
    float: "a number with a fraction, an exponent or a negative zero",
    type(None): "null",
}


def _refuse_kind(value: object, wanted: str) -> NoReturn:
    remedy = "leave the member out, or give it a value" if value is None else ""
    raise _MismatchError(f"is {_KINDS[type(value)]}", wanted, remedy=remedy)


# --- Reading JSON ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Misfit:
    """Stands in a document, until its path is found, where something was that we do not read."""

    found: str
    wanted: str
    remedy: str


_AGAIN = _Misfit("is there more than once", "it once", "keep one of them")
_NO_NUMBER = _Misfit("is NaN or Infinity, which JSON does not have", "a number", "write a number")
_LONG_NUMBER = _Misfit(
    f"is a number of more than {MAX_NUMBER_LENGTH} characters", "a shorter one", "write a smaller number"
)
_UNUSABLE_TEXT = _Misfit("holds a NUL or half a surrogate pair", "text", "remove that character")
_UNUSABLE_NAME = _Misfit("has a name with a NUL or half a surrogate pair", "text", "rename that member")


def _read(data: bytes) -> Any:
    """The JSON value in `data`.

    Raises `BundleError` for what is not JSON, `_MismatchError` for what two readers may read differently.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BundleError(
            f"config.json is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}",
            remedy="save it as UTF-8",
        ) from None
    if text.startswith("\ufeff"):
        raise BundleError("config.json starts with a byte order mark", remedy="save it as UTF-8 without one")
    if not text.strip(" \t\r\n"):
        raise BundleError("config.json is empty", remedy="write one; `runsc spec` makes a first one")
    misfits: list[_Misfit] = []

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        by_name = dict(pairs)
        if len(by_name) != len(pairs):
            misfits.append(_AGAIN)
            seen = set()
            for name, _ in pairs:
                if name in seen:
                    by_name[name] = _AGAIN
                seen.add(name)
        return by_name

    def whole_number(digits: str) -> object:
        if len(digits) > MAX_NUMBER_LENGTH:
            misfits.append(_LONG_NUMBER)
            return _LONG_NUMBER
        return int(digits) if digits != "-0" else -0.0  # Go refuses -0 where it wants an unsigned number

    def constant(_name: str) -> object:
        misfits.append(_NO_NUMBER)
        return _NO_NUMBER

    try:
        document = json.loads(
            text, object_pairs_hook=members, parse_int=whole_number, parse_constant=constant
        )
    except json.JSONDecodeError as error:
        raise BundleError(
            f"config.json is not JSON: {error.msg.removesuffix(' at')} at line {error.lineno}, column {error.colno}",
            remedy="correct it there",
        ) from None
    except RecursionError:
        raise BundleError(
            "config.json is nested too deeply to be a configuration", remedy="remove what nests so deeply"
        ) from None
    # JSON has no raw control characters and UTF-8 no surrogates, so either can only have come by an escape.
    if misfits or "\\u" in text:
        _refuse_misfits(document)
    return document


def _refuse_misfits(document: object) -> None:
    """Raise `_MismatchError` for the first misfit, NUL or unpaired surrogate in `document`, if there is one.

    Without recursion, as members that are not looked at otherwise may nest as deep as `json` reads.
    """
    unusable = re.compile("[\0\ud800-\udfff]")
    path: list[str | int] = []
    walks: list[Iterator[tuple[str | int, object]]] = [iter([("$", document)])]
    while walks:
        for step, value in walks[-1]:
            misfit = None
            inside: Iterator[tuple[str | int, object]] | None = None
            if isinstance(value, dict):
                inside = iter(value.items())
                if any(unusable.search(name) for name in value):
                    misfit = _UNUSABLE_NAME
            elif isinstance(value, list):
                inside = iter(enumerate(value))
            elif isinstance(value, str) and unusable.search(value):
                misfit = _UNUSABLE_TEXT
            elif isinstance(value, _Misfit):
                misfit = value
            if misfit:
                steps = [*path, step][1:]
                raise _MismatchError(misfit.found, misfit.wanted, remedy=misfit.remedy, path=reversed(steps))
            if inside:
                path.append(step)
                walks.append(inside)
                break
        else:
            walks.pop()
            if path:
                path.pop()


# --- What a member must be ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """What a value must be: `wanted` in words; `check` raises `_MismatchError` unless it is."""

    wanted: str
    check: Callable[[Any], None]


def scalar(
    kind: type[Any], wanted: str, holds: Callable[[Any], bool] | None = None, *, secret: bool = False
) -> Rule:
    """Exactly of type `kind`, and `holds` true of it. The value of a `secret` one is never shown."""

    def check(value: Any) -> None:
        if type(value) is not kind:
            _refuse_kind(value, wanted)
        if holds is not None and not holds(value):
            found = f"a string of {len(value)} characters" if secret else _shown(value)
            raise _MismatchError(f"is {found}", wanted)

    return Rule(wanted, check)


def integer(low: int, high: int) -> Rule:
    """A whole number from `low` to `high`. As in Go, 1.0 and 1e3 are not whole numbers, and true is not 1."""
    return scalar(int, f"a whole number from {low} to {high}", lambda number: low <= number <= high)


def one_of(names: Sequence[str], wanted: str = "") -> Rule:
    """One of the strings `names`; `wanted` describes them where they are too many to list."""
    return scalar(str, wanted or f"one of {', '.join(names)}", frozenset(names).__contains__)


def prefixed(prefix: str, names: str) -> tuple[str, ...]:
    """Each of the space-separated `names` with `prefix` before it."""
    return tuple(prefix + name for name in names.split())


def refused(reason: str) -> Rule:
    """A member that must not be there, because of `reason`."""

    def check(_value: Any) -> NoReturn:
        raise _MismatchError("is there", f"no such member: {reason}", remedy="remove it")

    return Rule("no such member", check)


def array(item: Rule, *, at_least: int = 0, distinct: str | None = None) -> Rule:
    """An array of `item`s; with `distinct`, no two of them have the same member of that name."""
    wanted = f"an array of at least {at_least}" if at_least else "an array"
    check_item = item.check

    def check(value: Any) -> None:
        if type(value) is not list:
            _refuse_kind(value, wanted)
        if len(value) < at_least:
            raise _MismatchError(f"is an array of {len(value)}", wanted)
        index = 0
        try:
            for index, element in enumerate(value):  # noqa: B007 - a mismatch needs to know where it was
                check_item(element)
        except _MismatchError as mismatch:
            mismatch.path.append(index)
            raise
        if distinct is None:
            return
        seen = set()
        for index, element in enumerate(value):
            name = element[distinct]
            if name in seen:
                raise _MismatchError(
                    f"is {_shown(name)} again", f"each {distinct} once", path=[distinct, index]
                )
            seen.add(name)

    return Rule(wanted, check)


def names_to(item: Rule, *, but_for: Mapping[str, str] | None = None) -> Rule:
    """An object with any names that are not empty, each with an `item`. Go does not fold the names of these.

    `but_for` are beginnings that no name may have, each with the reason.
    """
    wanted = "an object"
    check_item = item.check
    reasons = dict(but_for or {})
    beginnings = tuple(reasons)

    def check(value: Any) -> None:
        if type(value) is not dict:
            _refuse_kind(value, wanted)
        if "" in value:
            raise _MismatchError("has a member with an empty name", "a name", remedy="name it, or remove it")
        name = ""
        try:
            for name, member in value.items():
                if name.startswith(beginnings):
                    reason = next(why for start, why in reasons.items() if name.startswith(start))
                    raise _MismatchError("is there", f"no such member: {reason}", remedy="remove it")
                check_item(member)
        except _MismatchError as mismatch:
            mismatch.path.append(name)
            raise

    return Rule(wanted, check)


def record(
    section: str,
    required: dict[str, Rule],
    optional: dict[str, Rule],
    *also: Callable[[dict[str, Any]], None],
) -> Rule:
    """An object with the `required` members, perhaps the `optional` ones, and perhaps members not named here.

    A name that differs from one of these only in case is refused, as runsc would take it for that one.
    `also` holds the rules about several members; `section` is where the specification describes the object.
    """
    wanted = "an object"
    members = {**required, **optional}
    checks = {name: rule.check for name, rule in members.items()}
    folded = {name.casefold(): name for name in members}

    def check(value: Any) -> None:
        if type(value) is not dict:
            _refuse_kind(value, wanted)
        name = ""
        try:
            for name, member in value.items():
                if check_member := checks.get(name):
                    check_member(member)
                elif known := folded.get(name.casefold()):
                    raise _MismatchError(
                        f"is a name that runsc reads as {known!r}",
                        f"{known!r} as it is spelled",
                        remedy="correct the spelling, or choose another name",
                    )
            for name, rule in required.items():
                if name not in value:
                    raise _MismatchError("is missing", rule.wanted)
            name = ""
            for rule_on_several in also:
                rule_on_several(value)
        except _MismatchError as mismatch:
            if name:
                mismatch.path.append(name)
            mismatch.section = mismatch.section or section
            raise

    return Rule(wanted, check)


# --- Rules about one value ------------------------------------------------------------------------------------


def _is_supported_version(version: str) -> bool:
    release = r"1\.[0-2]\.(0|[1-9][0-9]*)"
    identifiers = r"[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*"
    return re.fullmatch(rf"{release}(-{identifiers})?(\+{identifiers})?", version) is not None


def _is_environment_entry(entry: str) -> bool:
    return entry.find("=") > 0


def _never_leads_up(path: str) -> bool:
    return path != "" and ".." not in path.split("/")


def _is_page_size(size: str) -> bool:
    number = size[:-2]
    return size.endswith(("KB", "MB", "GB")) and number.isascii() and number.isdigit() and number[0] != "0"


def _is_number_list(numbers: str) -> bool:
    return set(numbers) <= set("0123456789, -")


def _is_device_access(access: str) -> bool:
    return set(access) <= set("rwm")


def _is_bandwidth_schema(schema: str) -> bool:
    return schema.startswith("MB:") and "\n" not in schema


# --- Rules about several members of one object ----------------------------------------------------------------


def _needs(name: str, other: str) -> Callable[[dict[str, Any]], None]:
    def check(value: dict[str, Any]) -> None:
        if name in value and other not in value:
            raise _MismatchError(f"has {name!r} without {other!r}", "both or neither")

    return check


def _has_one_of(name: str, other: str) -> Callable[[dict[str, Any]], None]:
    def check(value: dict[str, Any]) -> None:
        if name not in value and other not in value:
            raise _MismatchError(f"has neither {name!r} nor {other!r}", "at least one of them")

    return check


def _has_device_numbers(device: dict[str, Any]) -> None:
    if device["type"] != "p" and not ("major" in device and "minor" in device):
        raise _MismatchError("lacks 'major' or 'minor'", "both, unless its type is p")


def _errno_fits(action: str, errno: str) -> Callable[[dict[str, Any]], None]:
    def check(value: dict[str, Any]) -> None:
        if errno in value and value[action] not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
            raise _MismatchError(
                f"has {errno!r} with {value[action]}", "it only with SCMP_ACT_ERRNO or SCMP_ACT_TRACE"
            )

    return check


# --- The table: config.md, inner objects first ----------------------------------------------------------------

BOOLEAN = scalar(bool, "true or false")
STRING = scalar(str, "a string")
STRINGS = array(STRING)
UINT16 = integer(0, 2**16 - 1)
UINT32 = integer(0, 2**32 - 1)
UINT64 = integer(0, 2**64 - 1)
INT32 = integer(-(2**31), 2**31 - 1)
INT64 = integer(-(2**63), 2**63 - 1)
ABSOLUTE_PATH = scalar(str, "an absolute path", lambda path: path.startswith("/"))
NO_PARENT_PATH = scalar(str, "a path that is not empty and has no '..' component", _never_leads_up)
ENVIRONMENT = array(scalar(str, "an entry of the form NAME=value", _is_environment_entry, secret=True))

ROOT = record(
    "config.md, Root",
    # runsc cleans it as text, the kernel walks it: with '..' behind a link those two differ.
    {"path": NO_PARENT_PATH},
    {"readonly": BOOLEAN},
)

ID_MAPPINGS = array(
    record(
        "config-linux.md, User namespace mappings",
        {"containerID": UINT32, "hostID": UINT32, "size": UINT32},
        {},
    )
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
    _needs("uidMappings", "gidMappings"),
    _needs("gidMappings", "uidMappings"),
)

# uid and gid are REQUIRED on POSIX systems: leaving `user` out would leave both at 0, which is root.
USER = record(
    "config.md, POSIX-platform User",
    {"uid": UINT32, "gid": UINT32},
    {"umask": UINT32, "additionalGids": array(UINT32), "username": STRING},
)

#: capabilities(7) up to Linux 5.9, the last that brought one.
CAPABILITY_NAMES = prefixed(
    "CAP_",
    "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE "
    "DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD "
    "NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN "
    "SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG WAKE_ALARM",
)
CAPABILITIES = array(one_of(CAPABILITY_NAMES, "a capability of capabilities(7), such as CAP_CHOWN"))

#: getrlimit(2).
RLIMIT_TYPES = prefixed(
    "RLIMIT_",
    "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK",
)

SCHEDULER_POLICIES = prefixed("SCHED_", "OTHER FIFO RR BATCH ISO IDLE DEADLINE")
SCHEDULER_FLAGS = prefixed(
    "SCHED_FLAG_",
    "RESET_ON_FORK RECLAIM DL_OVERRUN KEEP_POLICY KEEP_PARAMS UTIL_CLAMP_MIN UTIL_CLAMP_MAX",
)

CPU_LIST = scalar(str, "a list of CPUs such as 0-3,7", _is_number_list)

PROCESS = record(
    "config.md, Process",
    {"cwd": ABSOLUTE_PATH, "args": array(STRING, at_least=1), "user": USER},
    {
        "terminal": BOOLEAN,
        "consoleSize": record("config.md, Process", {"height": UINT64, "width": UINT64}, {}),
        "env": ENVIRONMENT,
        "commandLine": STRING,
        "rlimits": array(
            record(
                "config.md, POSIX process",
                {
                    "type": one_of(RLIMIT_TYPES, "a limit of getrlimit(2), such as RLIMIT_NOFILE"),
                    "soft": UINT64,
                    "hard": UINT64,
                },
                {},
            ),
            distinct="type",
        ),
        "apparmorProfile": STRING,
        "capabilities": record(
            "config.md, Linux Process",
            {},
            {
                "effective": CAPABILITIES,
                "bounding": CAPABILITIES,
                "inheritable": CAPABILITIES,
                "permitted": CAPABILITIES,
                "ambient": CAPABILITIES,
            },
        ),
        "noNewPrivileges": BOOLEAN,
        "oomScoreAdj": integer(-1000, 1000),  # proc_pid_oom_score_adj(5)
        "scheduler": record(
            "config.md, Linux Process",
            {"policy": one_of(SCHEDULER_POLICIES)},
            {
                "nice": INT32,
                "priority": INT32,
                "flags": array(one_of(SCHEDULER_FLAGS, "a scheduling flag such as SCHED_FLAG_RECLAIM")),
                "runtime": UINT64,
                "deadline": UINT64,
                "period": UINT64,
            },
        ),
        "selinuxLabel": scalar(str, "an empty one, as runsc has no SELinux", lambda label: label == ""),
        "ioPriority": record(
            "config.md, Linux Process",
            {
                "class": one_of(prefixed("IOPRIO_CLASS_", "RT BE IDLE")),
                "priority": integer(0, 7),
            },
            {},
        ),
        "execCPUAffinity": record("config.md, Linux Process", {}, {"initial": CPU_LIST, "final": CPU_LIST}),
    },
)

HOOKS = array(
    record(
        "config.md, POSIX-platform Hooks",
        {"path": ABSOLUTE_PATH},
        {"args": STRINGS, "env": ENVIRONMENT, "timeout": integer(1, 2**63 - 1)},
    )
)

# --- The table: config-linux.md -------------------------------------------------------------------------------

NAMESPACES = array(
    record(
        "config-linux.md, Namespaces",
        {"type": one_of(["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"])},
        {"path": ABSOLUTE_PATH},
    ),
    distinct="type",
)

TIME_OFFSET = record("config-linux.md, Offset for Time Namespace", {}, {"secs": INT64, "nanosecs": UINT32})

DEVICE = record(
    "config-linux.md, Devices",
    {"type": one_of(["c", "b", "u", "p"]), "path": ABSOLUTE_PATH},
    {"major": INT64, "minor": INT64, "fileMode": UINT32, "uid": UINT32, "gid": UINT32},
    _has_device_numbers,
)

DEVICE_RULE = record(
    "config-linux.md, Allowed Device list",
    {"allow": BOOLEAN},
    {
        "type": one_of(["a", "c", "b"]),
        "major": INT64,
        "minor": INT64,
        "access": scalar(str, "a composition of r, w and m", _is_device_access),
    },
)

MEMORY = record(
    "config-linux.md, Memory",
    {},
    {
        "limit": INT64,
        "reservation": INT64,
        "swap": INT64,
        "kernel": INT64,
        "kernelTCP": INT64,
        "swappiness": UINT64,
        "disableOOMKiller": BOOLEAN,
        "useHierarchy": BOOLEAN,
        "checkBeforeUpdate": BOOLEAN,
    },
)

CPU = record(
    "config-linux.md, CPU",
    {},
    {
        "shares": UINT64,
        "quota": INT64,
        "burst": UINT64,
        "period": UINT64,
        "realtimeRuntime": INT64,
        "realtimePeriod": UINT64,
        "cpus": CPU_LIST,
        "mems": scalar(str, "a list of memory nodes such as 0-3,7", _is_number_list),
        "idle": INT64,
    },
)

WEIGHTS = array(
    record(
        "config-linux.md, Block IO",
        {"major": INT64, "minor": INT64},
        {"weight": UINT16, "leafWeight": UINT16},
        _has_one_of("weight", "leafWeight"),
    )
)
RATES = array(record("config-linux.md, Block IO", {"major": INT64, "minor": INT64, "rate": UINT64}, {}))
BLOCK_IO = record(
    "config-linux.md, Block IO",
    {},
    {
        "weight": UINT16,
        "leafWeight": UINT16,
        "weightDevice": WEIGHTS,
        "throttleReadBpsDevice": RATES,
        "throttleWriteBpsDevice": RATES,
        "throttleReadIOPSDevice": RATES,
        "throttleWriteIOPSDevice": RATES,
    },
)

HUGE_PAGE_LIMIT = record(
    "config-linux.md, Huge page limits",
    {"pageSize": scalar(str, "a size such as 64KB, 2MB or 1GB", _is_page_size), "limit": UINT64},
    {},
)

NETWORK_PRIORITY = record("config-linux.md, Network", {"name": STRING, "priority": UINT32}, {})
NETWORK = record("config-linux.md, Network", {}, {"classID": UINT32, "priorities": array(NETWORK_PRIORITY)})

RDMA = record(
    "config-linux.md, RDMA",
    {},
    {"hcaHandles": UINT32, "hcaObjects": UINT32},
    _has_one_of("hcaHandles", "hcaObjects"),
)

RESOURCES = record(
    "config-linux.md, Control groups",
    {},
    {
        "devices": array(DEVICE_RULE),
        "memory": MEMORY,
        "cpu": CPU,
        "blockIO": BLOCK_IO,
        "hugepageLimits": array(HUGE_PAGE_LIMIT),
        "network": NETWORK,
        "pids": record("config-linux.md, PIDs", {"limit": INT64}, {}),
        "rdma": names_to(RDMA),
        "unified": names_to(STRING),
    },
)

#: As the specification lists them, of libseccomp and seccomp(2).
SECCOMP_ACTIONS = prefixed("SCMP_ACT_", "KILL KILL_PROCESS KILL_THREAD TRAP ERRNO TRACE ALLOW LOG NOTIFY")
SECCOMP_ARCHITECTURES = prefixed(
    "SCMP_ARCH_",
    "X86 X86_64 X32 ARM AARCH64 LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 "
    "PPC64LE S390 S390X SH SHEB PARISC PARISC64 RISCV64",
)
SECCOMP_OPERATORS = prefixed("SCMP_CMP_", "NE LT LE EQ GE GT MASKED_EQ")
SECCOMP_FLAGS = prefixed("SECCOMP_FILTER_FLAG_", "TSYNC LOG SPEC_ALLOW WAIT_KILLABLE_RECV")

SECCOMP_ACTION = one_of(SECCOMP_ACTIONS, "an action such as SCMP_ACT_ERRNO")
SECCOMP_ARGUMENT = record(
    "config-linux.md, Seccomp",
    {
        "index": integer(0, 5),  # a system call has six arguments
        "value": UINT64,
        "op": one_of(SECCOMP_OPERATORS),
    },
    {"valueTwo": UINT64},
)
SECCOMP_SYSCALL = record(
    "config-linux.md, Seccomp",
    {"names": array(STRING, at_least=1), "action": SECCOMP_ACTION},
    {"errnoRet": UINT32, "args": array(SECCOMP_ARGUMENT)},
    _errno_fits("action", "errnoRet"),
)
SECCOMP = record(
    "config-linux.md, Seccomp",
    {"defaultAction": SECCOMP_ACTION},
    {
        "defaultErrnoRet": UINT32,
        "architectures": array(one_of(SECCOMP_ARCHITECTURES, "an architecture such as SCMP_ARCH_X86_64")),
        "flags": array(one_of(SECCOMP_FLAGS, "a flag of seccomp(2) such as SECCOMP_FILTER_FLAG_LOG")),
        "listenerPath": STRING,
        "listenerMetadata": STRING,
        "syscalls": array(SECCOMP_SYSCALL),
    },
    _errno_fits("defaultAction", "defaultErrnoRet"),
    _needs("listenerMetadata", "listenerPath"),
)

INTEL_RDT = record(
    "config-linux.md, IntelRdt",
    {},
    {
        "closID": STRING,
        "l3CacheSchema": STRING,
        "memBwSchema": scalar(str, "one line that starts with MB:", _is_bandwidth_schema),
        "enableCMT": BOOLEAN,
        "enableMBM": BOOLEAN,
    },
)

LINUX = record(
    "config-linux.md",
    {},
    {
        "namespaces": NAMESPACES,
        "uidMappings": ID_MAPPINGS,
        "gidMappings": ID_MAPPINGS,
        "timeOffsets": names_to(TIME_OFFSET),
        "devices": array(DEVICE),
        # Absolute, relative, or systemd's slice:prefix:name; '..' would lead out of the cgroup hierarchy.
        "cgroupsPath": NO_PARENT_PATH,
        "resources": RESOURCES,
        "intelRdt": INTEL_RDT,
        "sysctl": names_to(STRING),
        "seccomp": SECCOMP,
        # The r-forms are runsc's own. The specification also has shared and unbindable; runsc refuses both.
        "rootfsPropagation": one_of(["private", "rprivate", "slave", "rslave"]),
        "maskedPaths": array(ABSOLUTE_PATH),
        "readonlyPaths": array(ABSOLUTE_PATH),
        "mountLabel": STRING,
        "personality": record(
            "config-linux.md, Personality", {"domain": one_of(["LINUX", "LINUX32"])}, {"flags": STRINGS}
        ),
    },
)

CONFIG = record(
    "config.md",
    {
        "ociVersion": scalar(
            str, "a version from 1.0.0 to 1.2.x of the OCI runtime specification", _is_supported_version
        ),
        "process": PROCESS,
        "root": ROOT,
    },
    {
        "hostname": STRING,
        "domainname": STRING,
        "mounts": array(MOUNT),
        "hooks": record(
            "config.md, POSIX-platform Hooks",
            {},
            {
                "prestart": HOOKS,
                "createRuntime": HOOKS,
                "createContainer": HOOKS,
                "startContainer": HOOKS,
                "poststart": HOOKS,
                "poststop": HOOKS,
            },
        ),
        "annotations": names_to(
            STRING,
            but_for={
                "dev.gvisor.flag.": "it would change runsc's flags behind the engine's back",
                "dev.gvisor.bundle.": "it would change runsc's flags behind the engine's back",
            },
        ),
        "linux": LINUX,
        "windows": refused("runsc runs no Windows containers"),
        "solaris": refused("runsc runs no Solaris containers"),
    },
)
