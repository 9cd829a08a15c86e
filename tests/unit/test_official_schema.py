"""config.json gets the verdict of the OCI's own JSON schema, but for the differences in a table, each with its reason.

Every member of configs/full.json is left out, and given values of other kinds, out of range and out of its list.

The schema is the one of Debian's package of the runtime specification: 1.2 where set-up has installed it, and 1.0 where
it was there before, from Debian 12. Members that the engine knows and the schema does not are of another version of the
specification: nothing is compared on them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft4Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.jsonschema import DRAFT4

from engine.bundle.linux import SECCOMP_ACTIONS, SECCOMP_ARCHITECTURES, SECCOMP_FLAGS, SECCOMP_OPERATORS
from engine.bundle.oci_config import parse
from engine.bundle.process import CAPABILITY_NAMES, RLIMIT_TYPES, SCHEDULER_FLAGS, SCHEDULER_POLICIES
from engine.errors import BundleError
from tests.support.full_config import FULL, MEMBERS, TABLE, Step, at, encoded, matches, members
from tools.system_parts import OCI_SCHEMA, TEST_PARTS

Steps = tuple[Step, ...]
#: In the place of a value: the member is not there.
MISSING: Any = type("Missing", (), {"__repr__": lambda _: "missing"})()


# --- The two verdicts -----------------------------------------------------------------------------------------


STRICTER, LOOSER = "stricter", "looser"


class Difference(NamedTuple):
    #: What the engine is beside the schema.
    engine: str
    steps: Steps
    value: Any
    document: Any


#: Sections of these are left out: the engine refuses those of two, and ignores the others' as unknown members.
_OTHER_SYSTEMS = {"windows", "solaris", "vm", "zos", "freebsd"}


def _pattern(_: object, pattern: str, value: object, __: object) -> Iterator[ValidationError]:
    """As ECMA 262 reads it: `$` is the end, where Python takes a newline before it as well."""
    if isinstance(value, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _inlined(node: Any, resolver: Any) -> Any:
    """`node` with what its references name in their places; nothing of this schema refers to itself."""
    if isinstance(node, list):
        return [_inlined(item, resolver) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):  # draft 4 ignores what stands beside it
        target = resolver.lookup(node["$ref"])
        return _inlined(target.contents, target.resolver)
    return {name: _inlined(member, resolver) for name, member in node.items()}


class Schema:
    """The installed schema: what it describes, and its verdict beside the engine's."""

    def __init__(self, file: Path) -> None:
        documents = {path.name: json.loads(path.read_text()) for path in file.parent.glob("*.json")}
        registry: Any = Registry().with_resources(
            (name, DRAFT4.create_resource(document)) for name, document in documents.items()
        )
        root = documents[file.name]
        del root["$schema"]  # it would choose the library's own class, without our `pattern`
        for system in _OTHER_SYSTEMS & set(root["properties"]):
            del root["properties"][system]
        self._root = _inlined(root, registry.resolver(file.name))
        self._validator = extend(Draft4Validator, {"pattern": _pattern})(self._root)
        source = (file.parent.parent / "specs-go" / "version.go").read_text()
        numbers = dict(re.findall(r"\bVersion(Major|Minor|Patch) = ([0-9]+)", source))
        self.version = tuple(int(numbers[part]) for part in ("Major", "Minor", "Patch"))

    def differences(self, document: object) -> list[Difference]:
        """Where only one of the two refuses `document`: the places that it names."""
        try:
            parse(encoded(document))
        except BundleError as refusal:
            if not self._validator.is_valid(document):
                return []
            steps = _steps(refusal.member or "$")
            return [Difference(STRICTER, steps, value_at(document, steps), document)]
        refused = {steps for error in self._validator.iter_errors(document) for steps in _places(error)}
        return [Difference(LOOSER, steps, value_at(document, steps), document) for steps in refused]

    @cached_property
    def members(self) -> dict[str, list[dict[str, Any]]]:
        """What it describes: patterns of paths, with `#` for an index and `*` for any name, to their schemas."""
        found: dict[str, list[dict[str, Any]]] = {}
        self._walk(self._root, (), found)
        return found

    def _walk(self, node: Any, steps: tuple[str, ...], found: dict[str, Any]) -> None:
        found.setdefault(".".join(steps), []).append(node)
        for part in (*node.get("allOf", ()), *node.get("anyOf", ()), *node.get("oneOf", ())):
            self._walk(part, steps, found)
        for name, member in node.get("properties", {}).items():
            self._walk(member, (*steps, name), found)
        for any_name in (node.get("additionalProperties"), *node.get("patternProperties", {}).values()):
            if isinstance(any_name, dict):
                self._walk(any_name, (*steps, "*"), found)
        if isinstance(node.get("items"), dict):
            self._walk(node["items"], (*steps, "#"), found)

    def describing(self, steps: Steps) -> list[dict[str, Any]]:
        """The schemas of the member at `steps`, empty where the schema does not have it."""
        return [node for path, nodes in self.members.items() if matches(steps, [path]) for node in nodes]

    def is_of_another_version(self, steps: Steps) -> bool:
        """Whether the engine knows this member, or what it is in, and the schema does not."""
        return any(
            not self.describing(steps[:end]) and any(matches(steps[:end], [_dotted(it)]) for it, _ in MEMBERS)
            for end in range(1, len(steps) + 1)
        )


def _steps(member: str) -> Steps:
    """The path that a refusal shows, `$.a[0]["b c"]`."""
    parts = re.findall(r'\.([^.\[]+)|\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]', member)
    return tuple(
        int(index) if index else json.loads(quoted) if quoted else name for name, index, quoted in parts
    )


def _places(error: ValidationError) -> Iterator[Steps]:
    """The members that the schema's `error` is about."""
    if error.context:
        for inner in error.context:
            yield from _places(inner)
    elif error.validator == "required":
        wanted: Any = error.validator_value
        instance: Any = error.instance
        yield from ((*error.absolute_path, name) for name in wanted if name not in instance)
    else:
        yield tuple(error.absolute_path)


def value_at(document: Any, steps: Steps) -> Any:
    for step in steps:
        inside = dict(enumerate(document)) if isinstance(document, list) else document
        document = inside.get(step, MISSING) if isinstance(inside, dict) else MISSING
    return document


def _dotted(steps: Steps) -> str:
    return ".".join("#" if isinstance(step, int) else step for step in steps)


# --- Configurations to compare on -----------------------------------------------------------------------------

#: In FULL, these values are in the table of differences.
_GOOD_FOR_BOTH = {
    "linux.rootfsPropagation": "slave",
    "linux.devices.0.fileMode": 0o600,
    "linux.namespaces.7": MISSING,
}
#: Kept beside the member that is changed, as the engine wants them.
_NEEDED = TABLE["members"]["required"] + TABLE["members"]["needed_by_another"]


def put(config: Any, steps: Steps, value: Any) -> Any:
    """`config` with `value` at the path."""
    if not steps:
        return value
    step = steps[0]
    if isinstance(config, list):
        assert isinstance(step, int)
        new = put(config[step] if step < len(config) else None, steps[1:], value)
        return [*config[:step], *([] if new is MISSING else [new]), *config[step + 1 :]]
    new = put(config.get(step), steps[1:], value)
    kept = {name: member for name, member in config.items() if name != step}
    return kept if new is MISSING else {**kept, step: new}


def around(steps: Steps, config: Any, above: Steps = ()) -> Any:
    """`config` with no more than must be there, beside the member at the path: it is quicker to validate."""
    if isinstance(config, list) and steps:
        return [
            around(steps[1:], item, (*above, "#")) if n == steps[0] else item for n, item in enumerate(config)
        ]
    if not isinstance(config, dict) or not steps:
        return config
    return {
        name: around(steps[1:], member, (*above, name)) if name == steps[0] else member
        for name, member in config.items()
        if name == steps[0] or matches((*above, name), _NEEDED)
    }


GOOD = FULL
for _place, _value in _GOOD_FOR_BOTH.items():
    GOOD = put(GOOD, at(_place), _value)

_NUMBERS = [sign * (2**bits) + more for bits in (31, 63) for sign in (1, -1) for more in (-1, 0)]
_NUMBERS += [
    *range(-1, 9),
    -1001,
    -1000,
    1000,
    1001,
    *(2**bits + more for bits in (16, 32, 64) for more in (-1, 0)),
]
_TEXTS = [
    "",
    "x",
    "X=y",
    "/",
    "/x",
    "a/b",
    "..",
    "../x",
    "/a/../b",
    "0-3,7",
    "rwm",
    "MB:0=1\nx",
    "\0",
    "\ud800",
    "é",
]
_KINDS: list[Any] = [MISSING, None, True, 5, 1.5, "x", [], {}, [None], {"x": None}, {"": "x"}]
#: The engine's lists, so that no name of them is one too many.
_NAMES: dict[str, Sequence[str]] = {
    "process.capabilities.*.#": CAPABILITY_NAMES,
    "process.rlimits.#.type": RLIMIT_TYPES,
    "process.scheduler.policy": SCHEDULER_POLICIES,
    "process.scheduler.flags.#": SCHEDULER_FLAGS,
    "linux.seccomp.defaultAction": SECCOMP_ACTIONS,
    "linux.seccomp.syscalls.#.action": SECCOMP_ACTIONS,
    "linux.seccomp.architectures.#": SECCOMP_ARCHITECTURES,
    "linux.seccomp.flags.#": SECCOMP_FLAGS,
    "linux.seccomp.syscalls.#.args.#.op": SECCOMP_OPERATORS,
}


def values(schema: Schema, steps: Steps, value: Any) -> Iterator[Any]:
    """What is put in the place of the good `value`."""
    yield from (value, *_KINDS)
    if isinstance(value, str):
        yield from (value + "\n", value + "x", value + "X", value.upper(), value.lower(), *_TEXTS)
    if type(value) is int:
        yield from _NUMBERS
    if isinstance(value, list):
        yield from (value * 2, [*value, 5], ["x"])
    if isinstance(value, dict):
        yield from ({**value, "unknown": None}, {**value, "": "x"}, {**value, "x": "x"}, {**value, "\0": "x"})
        yield from ({**value, name.swapcase(): member} for name, member in value.items())
    for place, names in _NAMES.items():
        if matches(steps, [place]):
            yield from names
    for node in schema.describing(steps):
        yield from node.get("enum", ())
        yield from (
            node[bound] + more for bound in ("minimum", "maximum") if bound in node for more in (-1, 0, 1)
        )
        if "pattern" in node:
            ends = range(len(value) + 1)
            yield from (
                value[:at] + other + value[at + n :]
                for at in ends
                for n in (0, 1)
                for other in ("", *"0T-\u0662")
            )


def configs(schema: Schema) -> Iterator[Any]:
    """Each has one change, so that it is the reason of what is refused."""
    for steps, value in members(GOOD):
        small = around(steps, GOOD)
        yield from (put(small, steps, other) for other in values(schema, steps, value))
    for section in ("accepted", "refused", "refused_together"):
        for dotted, row in TABLE[section].items():
            yield from (put(around(at(dotted), GOOD), at(dotted), value) for value in row)
    for dotted in _GOOD_FOR_BOTH:
        yield put(GOOD, at(dotted), value_at(FULL, at(dotted)))
    for system in _OTHER_SYSTEMS:
        yield from (put(GOOD, (system,), value) for value in (5, "x"))


# --- The differences that stay --------------------------------------------------------------------------------


class Row(NamedTuple):
    engine: str
    #: Patterns of paths, `#` for an index.
    places: list[str]
    holds: Callable[[Any, Difference], bool]
    why: str
    #: The first version whose schema agrees: the row is for those before it.
    until: tuple[int, int, int] | None = None

    def explains(self, difference: Difference) -> bool:
        return (
            self.engine == difference.engine
            and matches(difference.steps, self.places)
            and self.holds(difference.value, difference)
        )


def is_missing(value: Any, _: object) -> bool:
    return value is MISSING


def is_any(_: object, __: object) -> bool:
    return True


def is_relative(value: Any, _: object) -> bool:
    return isinstance(value, str) and not value.startswith("/")


def leads_up_or_is_empty(value: Any, _: object) -> bool:
    return isinstance(value, str) and (value == "" or ".." in value.split("/"))


def has_empty_name(value: Any, _: object) -> bool:
    return isinstance(value, dict) and "" in value


def has_no_text(value: Any, _: object) -> bool:
    """A NUL or half a surrogate pair in a string, or in a name."""
    texts = value if isinstance(value, dict) else [value] if isinstance(value, str) else []
    return any(re.search("[\0\ud800-\udfff]", text) for text in texts)


def is_there_twice(value: Any, difference: Difference) -> bool:
    among = value_at(difference.document, difference.steps[:-2])
    return [item[difference.steps[-1]] for item in among].count(value) > 1


def is_out_of(low: int, high: int) -> Callable[[Any, object], bool]:
    return lambda value, _: type(value) is int and not low <= value <= high


def is_no(pattern: str) -> Callable[[Any, object], bool]:
    return lambda value, _: isinstance(value, str) and not re.fullmatch(pattern, value)


def is_none_of(*names: str) -> Callable[[Any, object], bool]:
    return lambda value, _: isinstance(value, str) and value not in names


def is_one_of(*names: str) -> Callable[[Any, object], bool]:
    return lambda value, _: value in names


def lacks(*names: str) -> Callable[[Any, object], bool]:
    return lambda value, _: isinstance(value, dict) and any(name not in value for name in names)


def has_useless_errno(rule: Any, _: object) -> bool:
    action = rule.get("action", rule.get("defaultAction"))
    return bool({"errnoRet", "defaultErrnoRet"} & set(rule)) and action not in (
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_TRACE",
    )


def is_of_no_known_clock(_: object, difference: Difference) -> bool:
    return difference.steps[2] not in ("monotonic", "boottime")


ROWS = [
    # Everywhere.
    Row(STRICTER, ["*"], has_no_text, "A NUL ends a C string, and Go reads half a surrogate pair as U+FFFD."),
    Row(
        STRICTER, ["annotations"], has_empty_name, "config.md, Annotations: keys MUST NOT be an empty string."
    ),
    Row(
        STRICTER,
        ["linux.sysctl", "linux.resources.unified", "linux.resources.rdma", "linux.timeOffsets"],
        has_empty_name,
        "The name is that of a file or a clock, and neither has an empty one.",
    ),
    Row(
        STRICTER,
        [_dotted((*steps[:-1], steps[-1].swapcase())) for steps, _ in MEMBERS if isinstance(steps[-1], str)],
        is_any,
        "runsc, in Go, takes a name in another case for the known one.",
    ),
    # What must be there.
    Row(
        STRICTER,
        ["process"],
        is_missing,
        "config.md, Process: REQUIRED when start is called, and run always starts.",
    ),
    Row(STRICTER, ["root"], is_missing, "config.md, Root: REQUIRED but on Windows."),
    Row(STRICTER, ["process.args"], is_missing, "config.md, Process: REQUIRED but on Windows."),
    Row(
        STRICTER,
        ["process.args"],
        lambda args, _: args == [],
        "config.md, Process: at least one entry is REQUIRED.",
    ),
    Row(
        STRICTER,
        ["process.user.uid", "process.user.gid"],
        is_missing,
        "config.md, User: REQUIRED on POSIX platforms.",
    ),
    Row(STRICTER, ["process.ioPriority.priority"], is_missing, "config.md, Linux Process: REQUIRED."),
    Row(STRICTER, ["linux.personality.domain"], is_missing, "config-linux.md, Personality: REQUIRED."),
    Row(
        STRICTER,
        ["linux.resources.blockIO.throttle*Device.#.rate"],
        is_missing,
        "config-linux.md, Block IO: REQUIRED.",
    ),
    Row(
        STRICTER,
        ["linux.devices.#"],
        lacks("major", "minor"),
        "config-linux.md, Devices: both are REQUIRED unless type is p.",
    ),
    Row(
        STRICTER,
        ["linux.resources.blockIO.weightDevice.#"],
        lacks("weight", "leafWeight"),
        "config-linux.md, Block IO: you MUST specify at least one of weight or leafWeight.",
    ),
    Row(
        STRICTER,
        ["linux.resources.rdma.*"],
        lacks("hcaHandles", "hcaObjects"),
        "config-linux.md, RDMA: you MUST specify at least one of hcaHandles or hcaObjects.",
    ),
    # What goes together.
    Row(
        STRICTER,
        ["mounts.#"],
        lacks("uidMappings", "gidMappings"),
        "config.md, Mounts: if specified, each MUST be specified along with the other.",
    ),
    Row(
        STRICTER,
        ["linux.seccomp"],
        lambda seccomp, _: "listenerMetadata" in seccomp and "listenerPath" not in seccomp,
        "config-linux.md, Seccomp: MUST NOT be set if listenerPath is not set.",
    ),
    Row(
        STRICTER,
        ["linux.seccomp", "linux.seccomp.syscalls.#"],
        has_useless_errno,
        "config-linux.md, Seccomp: where the action supports no errno, the runtime MUST fail.",
    ),
    Row(
        STRICTER,
        ["process.rlimits.#.type"],
        is_there_twice,
        "config.md, POSIX process: for duplicated entries the runtime MUST generate an error.",
    ),
    Row(
        STRICTER,
        ["linux.namespaces.#.type"],
        is_there_twice,
        "config-linux.md, Namespaces: for duplicated types the runtime MUST generate an error.",
    ),
    # Paths.
    Row(STRICTER, ["process.cwd"], is_relative, "config.md, Process: MUST be an absolute path."),
    Row(STRICTER, ["hooks.*.#.path"], is_relative, "config.md, Hooks: MUST be absolute."),
    Row(
        STRICTER,
        ["linux.namespaces.#.path"],
        is_relative,
        "config-linux.md, Namespaces: MUST be an absolute path.",
    ),
    Row(
        STRICTER,
        ["linux.devices.#.path"],
        is_relative,
        "config-linux.md, Devices: the full path in the container.",
    ),
    Row(
        STRICTER,
        ["linux.maskedPaths.#", "linux.readonlyPaths.#"],
        is_relative,
        "config-linux.md, Masked Paths and Readonly Paths: MUST be absolute paths.",
    ),
    Row(
        STRICTER,
        ["mounts.#.destination"],
        is_relative,
        "config.md, Mounts: MUST be an absolute path; the relative one of old tools is refused by runsc.",
    ),
    Row(
        STRICTER,
        ["root.path"],
        is_no("(?s:.)+"),
        "An empty path names no directory.",
    ),
    Row(
        STRICTER,
        ["linux.cgroupsPath"],
        leads_up_or_is_empty,
        "config-linux.md, Cgroups Path: a runtime MAY take values for invalid; these name no cgroup, or one above.",
    ),
    # Values.
    Row(
        STRICTER,
        ["ociVersion"],
        is_no(r"1\.[0-3]\.(0|[1-9][0-9]*)([-+][0-9A-Za-z.+-]*[0-9A-Za-z-])?"),
        "config.md: MUST be in SemVer format; and another version may mean other things by the same members.",
    ),
    Row(
        STRICTER,
        ["process.env.#", "hooks.*.#.env.#"],
        is_no("[^=]+=(?s:.)*"),
        "config.md: as IEEE Std 1003.1's environ, so of the form name=value.",
    ),
    Row(
        STRICTER,
        ["linux.intelRdt.schemata.#"],
        is_no("[^\n]*"),
        "config-linux.md, IntelRdt: it MUST NOT contain newlines.",
    ),
    Row(
        STRICTER,
        ["linux.netDevices.eth1.name"],
        is_no(r"(?!\.\.?\Z)[^/:\s]{0,15}"),
        "The kernel takes no such name for a device, dev_valid_name().",
    ),
    Row(
        STRICTER,
        ["linux.memoryPolicy.mode"],
        is_missing,
        "config-linux.md, Memory policy: REQUIRED.",
    ),
    Row(
        STRICTER,
        ["linux.memoryPolicy.nodes"],
        is_no("[0-9, -]*"),
        "config-linux.md, Memory policy: a list such as 0-3,7.",
    ),
    Row(
        STRICTER,
        ["hostname"],
        is_no("(?s:.){0,64}"),
        "sethostname(2): the kernel takes at most 64 bytes.",
    ),
    Row(
        STRICTER,
        ["process.capabilities.*.#"],
        is_none_of(*CAPABILITY_NAMES),
        "config.md, Linux Process: capabilities(7) has the valid values; runsc fails on any other.",
    ),
    Row(
        STRICTER,
        ["process.rlimits.#.type"],
        is_none_of(*RLIMIT_TYPES),
        "config.md, POSIX process: for what the kernel does not have the runtime MUST generate an error.",
    ),
    Row(
        STRICTER,
        ["process.oomScoreAdj"],
        is_out_of(-1000, 1000),
        "proc_pid_oom_score_adj(5) takes no other value.",
    ),
    Row(STRICTER, ["process.ioPriority.priority"], is_out_of(0, 7), "config.md, Linux Process: from 0 to 7."),
    Row(
        STRICTER,
        ["process.selinuxLabel"],
        is_no(""),
        "runsc has no SELinux, and would run it without the label.",
    ),
    Row(
        STRICTER,
        ["hooks.*.#.timeout"],
        is_out_of(1, 2**63 - 1),
        "An int of the specification's Go types has 64 bits.",
    ),
    Row(
        STRICTER,
        ["linux.resources.cpu.cpus", "linux.resources.cpu.mems"],
        is_no("[0-9, -]*"),
        "config-linux.md, CPU: a list such as 0-3,7 of cpuset(7).",
    ),
    Row(
        STRICTER,
        ["linux.resources.devices.#.type"],
        is_none_of("a", "c", "b"),
        "config-linux.md, Device list: a, c or b.",
    ),
    Row(
        STRICTER,
        ["linux.resources.devices.#.access"],
        is_no("[rwm]*"),
        "config-linux.md, Device list: a composition of r, w and m.",
    ),
    Row(
        STRICTER,
        ["linux.seccomp.syscalls.#.args.#.index"],
        is_out_of(0, 5),
        "A system call has six arguments, syscall(2).",
    ),
    Row(
        STRICTER,
        ["linux.timeOffsets.*"],
        is_of_no_known_clock,
        "config-linux.md: the values are objects of offsets, whatever the clock; the schema knows two clocks.",
    ),
    Row(
        STRICTER,
        ["linux.rootfsPropagation"],
        is_one_of("shared", "unbindable"),
        "runsc refuses them: nothing of a sandbox may propagate to the host.",
    ),
    Row(
        LOOSER,
        ["linux.rootfsPropagation"],
        is_one_of("rprivate", "rslave"),
        "runc, crun and runsc take the recursive forms of mount(8), and podman writes them.",
    ),
    Row(
        LOOSER,
        ["linux.devices.#.fileMode"],
        is_out_of(0, 511),
        "config-linux.md, Devices: a uint32; Docker writes the file's type in it as well.",
    ),
    Row(
        LOOSER,
        [_dotted(steps) for steps, _ in MEMBERS if isinstance(steps[-1], str)],
        lambda value, _: value is None,
        "Go reads null as absent, and writers of bundles give it for what they leave out.",
    ),
    Row(
        LOOSER,
        ["linux.resources.pids.limit"],
        is_missing,
        "config-linux.md, PIDs, 1.3: it is optional.",
        (1, 3, 0),
    ),
    # Other systems, and other versions.
    Row(
        STRICTER,
        ["windows", "solaris", "freebsd"],
        is_any,
        "It is for another system: runsc would run it without these.",
    ),
    Row(LOOSER, ["linux.namespaces.#.type"], is_one_of("time"), "Time namespaces came with 1.1.", (1, 1, 0)),
    Row(
        LOOSER,
        ["linux.seccomp.architectures.#"],
        is_one_of(*(f"SCMP_ARCH_{name}" for name in ("LOONGARCH64", "M68K", "SH", "SHEB"))),
        "They came with 1.2.1.",
        (1, 2, 1),
    ),
]


# --- The comparison -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema() -> Schema:
    file = Path(OCI_SCHEMA)
    if not file.exists():
        package = next(package for package, *_ in TEST_PARTS if "specs" in package)
        pytest.skip(
            f"needs the official schema, of Debian's {package}: `./just unit` installs it, as root or by sudo"
        )
    return Schema(file)


def explained(schema: Schema, difference: Difference) -> bool:
    return schema.is_of_another_version(difference.steps) or any(row.explains(difference) for row in ROWS)


def test_both_accept_the_good_config(schema: Schema) -> None:
    assert schema.differences(GOOD) == []
    assert parse(encoded(GOOD)) == GOOD


#: Members that a version brought, and that it took away.
_OF_1_3 = (
    "linux.netDevices*",
    "linux.memoryPolicy*",
    "linux.intelRdt.schemata*",
    "linux.intelRdt.enableMonitoring",
)
_UNTIL_1_2 = ("linux.intelRdt.enableCMT", "linux.intelRdt.enableMBM")


def test_full_config_has_every_member_of_the_schema(schema: Schema) -> None:
    lacking = [
        path for path in schema.members if path and not any(matches(steps, [path]) for steps, _ in MEMBERS)
    ]
    assert lacking == []
    if schema.version >= (1, 2, 0):
        others = [*(_UNTIL_1_2 if schema.version >= (1, 3, 0) else _OF_1_3)]
        assert [
            steps for steps, _ in MEMBERS if schema.is_of_another_version(steps) is not matches(steps, others)
        ] == []


def test_each_difference_is_in_the_table_and_the_table_has_no_other(schema: Schema) -> None:
    differences = [difference for config in configs(schema) for difference in schema.differences(config)]
    assert [difference[:3] for difference in differences if not explained(schema, difference)] == []
    needed = {next((n for n, row in enumerate(ROWS) if row.explains(each)), None) for each in differences}
    assert [row for n, row in enumerate(ROWS) if n not in needed and applies(row, schema)] == []


def applies(row: Row, schema: Schema) -> bool:
    """Whether the schema is old enough for `row`, and has any of its members."""
    known = [steps for steps, _ in MEMBERS if matches(steps, row.places)]
    is_described = not known or any(schema.describing(steps) for steps in known)
    return is_described and (row.until is None or schema.version < row.until)


_MEMBERS = list(members(GOOD))
_names = st.sampled_from(sorted({str(steps[-1]) for steps, _ in MEMBERS})) | st.text(
    st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=5
)  # the schema's `.{1,}` is for no name of newlines alone
_json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(_names, inside, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.data())
def test_several_changes_make_no_other_difference(schema: Schema, data: st.DataObject) -> None:
    config = GOOD
    for steps, value in data.draw(st.lists(st.sampled_from(_MEMBERS), min_size=1, max_size=3)):
        if value_at(config, steps) is not MISSING:
            put_there = data.draw(st.sampled_from(list(values(schema, steps, value))) | _json_values)
            config = put(config, steps, put_there)
    assert [
        difference[:3] for difference in schema.differences(config) if not explained(schema, difference)
    ] == []
