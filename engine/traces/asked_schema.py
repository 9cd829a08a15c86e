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


class Says(NamedTuple):
    """The meaning of a field, with its unit; `bound`: what the verifier checks beyond its type."""

    text: str
    bound: str = ""


class User(TypedDict):
    """The user of the container's program, as the container sees it."""

    uid: Annotated[UInt32, Says("The uid.", "32 bits")]
    gid: Annotated[UInt32, Says("The gid.", "32 bits")]
    additional_gids: NotRequired[Annotated[list[UInt32], Says("The further groups, if any.", "32 bits")]]


class Root(TypedDict):
    """The root file system."""

    path: Annotated[str, Says("Its path as config.json has it.", "`bundle.rootfs`")]
    readonly: Annotated[bool, Says("Whether the container cannot write it.")]
    sha256: NotRequired[
        Annotated[
            Digest | None,
            Says(
                "Its digest, on request; null if it could not be read, or changed.", "`options.root_digest`"
            ),
        ]
    ]


class Mount(TypedDict):
    """A mount of the container."""

    destination: Annotated[AbsolutePath, Says("Where it is in the container.", "absolute")]
    type: NotRequired[Annotated[str, Says("Its type, if config.json has one.")]]
    source: NotRequired[
        Annotated[
            AbsolutePath, Says("Only where it is a path of the host: that path.", "absolute, normalised")
        ]
    ]
    leads_to: NotRequired[
        Annotated[
            AbsolutePath,
            Says("Where that path leads without symbolic links, if elsewhere.", "`bundle.grants`"),
        ]
    ]
    kind: NotRequired[
        Annotated[
            Literal["socket", "device"],
            Says(
                "What is there: a socket, or a device other than `/dev/null` and its like.", "`bundle.grants`"
            ),
        ]
    ]
    writable: Annotated[bool, Says("Whether the container can write there.", "`bundle.grants`")]
    shared: NotRequired[Annotated[bool, Says("Whether mounts go through it to the host.")]]


class Namespace(TypedDict):
    """A namespace of the container; one of a type that is not listed is the caller's."""

    type: Annotated[
        Literal["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"],
        Says("Its type.", "each once"),
    ]
    path: NotRequired[
        Annotated[AbsolutePath, Says("The existing one that is joined; a new one if none.", "absolute")]
    ]


class Device(TypedDict):
    """A device that is made in the container."""

    path: Annotated[AbsolutePath, Says("Where it is in the container.", "absolute")]
    type: Annotated[Literal["c", "b", "u", "p"], Says("Its type, mknod(1).")]
    major: NotRequired[Annotated[Int64, Says("Its major number.", "`bundle.grants`")]]
    minor: NotRequired[Annotated[Int64, Says("Its minor number.", "`bundle.grants`")]]


class Hook(TypedDict):
    """A program that is executed beside the container's."""

    kind: Annotated[
        Literal["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        Says("When; all but `startContainer` are executed on the host."),
    ]
    path: Annotated[AbsolutePath, Says("Its path.", "absolute")]


class ResourceLimit(TypedDict):
    """A limit of getrlimit(2)."""

    soft: Annotated[Count, Says("The soft limit, in the limit's unit.", "64 bits")]
    hard: Annotated[Count, Says("The hard limit, in the limit's unit.", "64 bits")]


class Seccomp(TypedDict):
    """The seccomp profile."""

    default_action: Annotated[SeccompAction, Says("What happens to a system call that no rule names.")]
    rules: Annotated[Count, Says("The number of its rules.", "not negative")]


class Capabilities(TypedDict):
    """The sets of capabilities(7)."""

    bounding: NotRequired[Annotated[list[CapabilityName], Says("The bounding set.", "`bundle.grants`")]]
    effective: NotRequired[Annotated[list[CapabilityName], Says("The effective set.", "`bundle.grants`")]]
    permitted: NotRequired[Annotated[list[CapabilityName], Says("The permitted set.", "`bundle.grants`")]]
    inheritable: NotRequired[Annotated[list[CapabilityName], Says("The inheritable set.", "`bundle.grants`")]]
    ambient: NotRequired[Annotated[list[CapabilityName], Says("The ambient set.", "`bundle.grants`")]]


class Cut(TypedDict):
    """What was cut."""

    count: Annotated[Count, Says("How many members there are.", "more than are kept")]
    sha256: Annotated[
        Digest, Says("SHA-256 of all of them as JSON without spaces, in hexadecimal.", "its form")
    ]


class Asked(TypedDict):
    """What config.json asks for. Values of environment variables and annotations are never in it."""

    argv: Annotated[list[str], Says("The container's program and its arguments.", "not empty")]
    cwd: Annotated[AbsolutePath, Says("The program's current directory.", "absolute")]
    terminal: Annotated[bool, Says("Whether the program has a terminal.")]
    environment: Annotated[list[str], Says("The names of the program's variables.", "no `=`")]
    user: Annotated[User, Says("The program's user.")]
    no_new_privileges: Annotated[bool, Says("Whether the program cannot gain privileges, prctl(2).")]
    capabilities: Annotated[Capabilities, Says("Its capabilities.", "`bundle.grants`")]
    rlimits: NotRequired[
        Annotated[
            dict[ResourceName, ResourceLimit], Says("Its limits of getrlimit(2), if any.", "known names")
        ]
    ]
    apparmor: NotRequired[Annotated[str, Says("The name of its AppArmor profile, if any.")]]
    seccomp: NotRequired[Annotated[Seccomp, Says("Its seccomp profile, if any.")]]
    mount_label: NotRequired[Annotated[str, Says("The SELinux label of mounts, if any.")]]
    root: Annotated[Root, Says("The root file system.", "`bundle.rootfs`")]
    mounts: Annotated[list[Mount], Says("The mounts, in their order.", "`bundle.grants`")]
    masked_paths: Annotated[Count, Says("How many paths are hidden from it.", "not negative")]
    readonly_paths: Annotated[Count, Says("How many paths it cannot write.", "not negative")]
    namespaces: Annotated[list[Namespace], Says("The namespaces.", "each type once")]
    uid_mappings: NotRequired[
        Annotated[Count, Says("How many ranges of uids are mapped, if any.", "positive")]
    ]
    devices: NotRequired[Annotated[list[Device], Says("The devices, if any.", "`bundle.grants`")]]
    device_rules: NotRequired[
        Annotated[
            list[str], Says("The cgroup's rules for devices, if any, as in `allow c 1:3 rw`.", "their form")
        ]
    ]
    limits: NotRequired[
        Annotated[
            dict[str, int | str | bool],
            Says("The cgroup's limits, if any, by their names in config.json, such as `memory.limit`."),
        ]
    ]
    sysctls: NotRequired[Annotated[dict[str, str], Says("The kernel's parameters, sysctl(8), if any.")]]
    hooks: NotRequired[Annotated[list[Hook], Says("The hooks, if any.", "`bundle.hooks`")]]
    cut: NotRequired[
        Annotated[
            dict[str, Cut], Says("The lists above that are longer than what is kept, if any.", "their size")
        ]
    ]
