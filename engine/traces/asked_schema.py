"""What a bundle asks for and is given, as the header of a trace has it. Part of `engine.traces.schema`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, NotRequired, TypedDict

import msgspec

from engine.bundle.linux import SECCOMP_ACTIONS
from engine.bundle.process import CAPABILITY_NAMES, RLIMIT_TYPES

if TYPE_CHECKING:
    CapabilityName = str
    ResourceName = str
    SeccompAction = str
else:
    #: Those of capabilities(7), getrlimit(2) and seccomp that config.json can have.
    CapabilityName = Literal[CAPABILITY_NAMES]
    ResourceName = Literal[RLIMIT_TYPES]
    SeccompAction = Literal[SECCOMP_ACTIONS]

AbsolutePath = Annotated[str, msgspec.Meta(pattern=r"\A/")]
Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
UInt32 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
Int64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Count = Annotated[int, msgspec.Meta(ge=0)]


#: Why nothing in a trace, and not its bundle either, can say whether a field is true. At most 12 fields are free.
FREE = {
    "clock": "Anybody with the right may set the clock; `monotonic_ns` has the order.",
    "engine": "Engines of several versions have one spec.",
    "host": "The host alone knows it, and a trace of another host looks the same.",
    "bytes": "Whoever has the files computes it again; a trace has none of them.",
    "words": "It is text for people; programs read `reason`.",
    "kernel": "The kernel alone counted it.",
}


class Says(NamedTuple):
    """The meaning of a field, with its unit, and what it is bound by: parts, divided by `; `.

    A part with `=`: any other value is reported, once the line that it names is there; `config.json`: with
    `--bundle`. Any other part says which values there are: no engine writes others. `free`: why none is, of `FREE`.
    A field whose value has a table of its own is bound by that.
    """

    text: str
    bound: str = ""
    free: str = ""


class User(TypedDict):
    """The user of the container's program, as the container sees it."""

    uid: Annotated[UInt32, Says("The uid.", "= config.json")]
    gid: Annotated[UInt32, Says("The gid.", "= config.json")]
    additional_gids: NotRequired[
        Annotated[list[UInt32], Says("The further groups, if any.", "= config.json")]
    ]


class Root(TypedDict):
    """The root file system."""

    path: Annotated[str, Says("Its path as config.json has it.", "= config.json")]
    readonly: Annotated[bool, Says("Whether the container cannot write it.", "= config.json")]
    sha256: NotRequired[
        Annotated[
            Digest | None,
            Says("Its digest, on request; null if it could not be read, or changed.", free="bytes"),
        ]
    ]


class Mount(TypedDict):
    """A mount of the container."""

    destination: Annotated[AbsolutePath, Says("Where it is in the container.", "= config.json")]
    type: NotRequired[Annotated[str, Says("Its type, if config.json has one.", "= config.json")]]
    source: NotRequired[
        Annotated[AbsolutePath, Says("Only where it is a path of the host: that path.", "= config.json")]
    ]
    leads_to: NotRequired[
        Annotated[
            AbsolutePath,
            Says("Where that path leads without symbolic links, if elsewhere.", "`source`, `bundle.grants`"),
        ]
    ]
    kind: NotRequired[
        Annotated[
            Literal["socket", "device"],
            Says(
                "What is there: a socket, or a device other than `/dev/null` and its like.",
                "`source`, `bundle.grants`",
            ),
        ]
    ]
    writable: Annotated[bool, Says("Whether the container can write there.", "= config.json")]
    shared: NotRequired[Annotated[bool, Says("Whether mounts go through it to the host.", "= config.json")]]


class Namespace(TypedDict):
    """A namespace of the container; one of a type that is not listed is the caller's."""

    type: Annotated[
        Literal["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"],
        Says("Its type.", "= config.json"),
    ]
    path: NotRequired[
        Annotated[AbsolutePath, Says("The existing one that is joined; a new one if none.", "= config.json")]
    ]


class Device(TypedDict):
    """A device that is made in the container."""

    path: Annotated[AbsolutePath, Says("Where it is in the container.", "= config.json")]
    type: Annotated[Literal["c", "b", "u", "p"], Says("Its type, mknod(1).", "= config.json")]
    major: NotRequired[Annotated[Int64, Says("Its major number.", "= config.json")]]
    minor: NotRequired[Annotated[Int64, Says("Its minor number.", "= config.json")]]


class Hook(TypedDict):
    """A program that is executed beside the container's."""

    kind: Annotated[
        Literal["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        Says("When; all but `startContainer` are executed on the host.", "= config.json"),
    ]
    path: Annotated[AbsolutePath, Says("Its path.", "= config.json")]


class ResourceLimit(TypedDict):
    """A limit of getrlimit(2)."""

    soft: Annotated[Count, Says("The soft limit, in the limit's unit.", "= config.json")]
    hard: Annotated[Count, Says("The hard limit, in the limit's unit.", "= config.json")]


class Seccomp(TypedDict):
    """The seccomp profile."""

    default_action: Annotated[
        SeccompAction, Says("What happens to a system call that no rule names.", "= config.json")
    ]
    rules: Annotated[Count, Says("The number of its rules.", "= config.json")]


class Capabilities(TypedDict):
    """The sets of capabilities(7)."""

    bounding: NotRequired[Annotated[list[CapabilityName], Says("The bounding set.", "= config.json")]]
    effective: NotRequired[Annotated[list[CapabilityName], Says("The effective set.", "= config.json")]]
    permitted: NotRequired[Annotated[list[CapabilityName], Says("The permitted set.", "= config.json")]]
    inheritable: NotRequired[Annotated[list[CapabilityName], Says("The inheritable set.", "= config.json")]]
    ambient: NotRequired[Annotated[list[CapabilityName], Says("The ambient set.", "= config.json")]]


class Cut(TypedDict):
    """What was cut."""

    count: Annotated[Count, Says("How many members there are.", "= config.json")]
    sha256: Annotated[
        Digest, Says("SHA-256 of all of them as JSON without spaces, in hexadecimal.", "= config.json")
    ]


class Asked(TypedDict):
    """What config.json asks for. Values of environment variables and annotations are never in it."""

    argv: Annotated[list[str], Says("The container's program and its arguments.", "= config.json")]
    cwd: Annotated[AbsolutePath, Says("The program's current directory.", "= config.json")]
    terminal: Annotated[bool, Says("Whether the program has a terminal.", "= config.json")]
    environment: Annotated[list[str], Says("The names of the program's variables.", "= config.json")]
    user: Annotated[User, Says("The program's user.")]
    no_new_privileges: Annotated[
        bool, Says("Whether the program cannot gain privileges, prctl(2).", "= config.json")
    ]
    capabilities: Annotated[Capabilities, Says("Its capabilities.")]
    rlimits: NotRequired[
        Annotated[
            dict[ResourceName, ResourceLimit], Says("Its limits of getrlimit(2), if any.", "= config.json")
        ]
    ]
    apparmor: NotRequired[Annotated[str, Says("The name of its AppArmor profile, if any.", "= config.json")]]
    seccomp: NotRequired[Annotated[Seccomp, Says("Its seccomp profile, if any.")]]
    mount_label: NotRequired[Annotated[str, Says("The SELinux label of mounts, if any.", "= config.json")]]
    root: Annotated[Root, Says("The root file system.")]
    mounts: Annotated[list[Mount], Says("The mounts, in their order.", "= config.json")]
    masked_paths: Annotated[Count, Says("How many paths are hidden from it.", "= config.json")]
    readonly_paths: Annotated[Count, Says("How many paths it cannot write.", "= config.json")]
    namespaces: Annotated[list[Namespace], Says("The namespaces.", "= config.json")]
    uid_mappings: NotRequired[
        Annotated[Count, Says("How many ranges of uids are mapped, if any.", "= config.json")]
    ]
    devices: NotRequired[Annotated[list[Device], Says("The devices, if any.", "= config.json")]]
    device_rules: NotRequired[
        Annotated[
            list[str],
            Says("The cgroup's rules for devices, if any, as in `allow c 1:3 rw`.", "= config.json"),
        ]
    ]
    limits: NotRequired[
        Annotated[
            dict[str, int | str | bool],
            Says(
                "The cgroup's limits, if any, by their names in config.json, such as `memory.limit`.",
                "= config.json",
            ),
        ]
    ]
    sysctls: NotRequired[
        Annotated[dict[str, str], Says("The kernel's parameters, sysctl(8), if any.", "= config.json")]
    ]
    hooks: NotRequired[Annotated[list[Hook], Says("The hooks, if any.", "= config.json")]]
    cut: NotRequired[
        Annotated[
            dict[str, Cut],
            Says("The lists above that are longer than what is kept, if any.", "= config.json"),
        ]
    ]
