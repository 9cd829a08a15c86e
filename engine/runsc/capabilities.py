"""What a build of runsc is and can do: asked of its bytes, or known by its version. Nothing else knows a version.

A build that is not recognised is given nothing new: what is unknown counts as absent.
"""

from __future__ import annotations

from engine.options import Platform
from engine.runsc.binary import find_texts, platform_package, texts_in, texts_within
from engine.runsc.installation import PACKAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

#: Go sorts the names of types and fields by length, so that a flag's tag lies behind the name of a platform's package:
#: 48 to 700 KB behind it in the build of 2026-08. Bytes.
_TAGS_SIZE = 1 << 20
#: A flag that takes NAME, as a tag of a field in runsc's `Config`; no command line of an older build has it.
_GOFER_NAMESPACE = b'flag:"gofer-network-namespace"'
_ENFORCE_RELEASE = b'flag:"sidecar-release-enforcement-policy"'
_GOFER_FLAGS = ("--gofer-network-namespace", "new")
_RELEASE_FLAGS = ("--sidecar-release-enforcement-policy", "ALWAYS")
#: What `Capabilities.creation_flags` can be, in the form that a trace has; a longer one first.
CREATION_FLAGS: tuple[list[str], ...] = ([*_GOFER_FLAGS, *_RELEASE_FLAGS], [*_GOFER_FLAGS], [])
#: The builds that were tried, oldest first: by year and month. What a build does is taken from the newest that is not
#: newer than it, as far as its bytes tell.
SEEN = ("2022-12", "2024-07", "2026-08")


class Capabilities:
    """What one build can do.

    `platforms`: those compiled in, empty if unknown. `gofer_namespace`: it leaves an empty network namespace mounted
    for its gofers unless told otherwise (since July 2026). `enforces_release`: it can refuse sidecars of another
    release. `has_sidecar_package`: the Go package that starts them is among its first constants.
    """

    def __init__(
        self,
        platforms: tuple[str, ...] = (),
        gofer_namespace: bool = False,
        enforces_release: bool = False,
        has_sidecar_package: bool = False,
    ) -> None:
        self.platforms: Final = platforms
        self.gofer_namespace: Final = gofer_namespace
        self.enforces_release: Final = enforces_release
        self.has_sidecar_package: Final = has_sidecar_package

    @property
    def hooks(self) -> tuple[str, ...]:
        """The hooks that it runs: createContainer since May 2026 (google/gvisor ae18a84df), startContainer never."""
        later = ("createContainer",) if self.gofer_namespace else ()
        return ("prestart", "createRuntime", *later, "poststart", "poststop")

    @property
    def generation(self) -> str:
        """Which of the builds that were `SEEN` it is taken for: systrap came in 2023, the flag in July 2026."""
        if self.gofer_namespace:
            return SEEN[2]
        return SEEN[1] if Platform.SYSTRAP in self.platforms else SEEN[0]

    def creation_flags(self) -> tuple[str, ...]:
        """The global flags of a verb that creates a container; other verbs start no gofer and no sidecar."""
        return (
            *(_GOFER_FLAGS if self.gofer_namespace else ()),
            *(_RELEASE_FLAGS if self.enforces_release else ()),
        )


#: What is known of a build that was not asked.
UNKNOWN = Capabilities()


def capabilities(binary: int) -> Capabilities:
    """What the runsc open on `binary` can do. Raises `OSError`.

    Every start pays for it, so a flag is looked for only near a platform's name, and the second only if the first is
    there: they came in one year.
    """
    packages = {platform_package(name): str(name) for name in Platform if name is not Platform.AUTO}
    found = find_texts(binary, packages, [PACKAGE])
    platforms = tuple(name for package, name in packages.items() if package in found)
    near = min((place for text, place in found.items() if text in packages), default=None)
    if near is None or not texts_within(binary, [_GOFER_NAMESPACE], near, _TAGS_SIZE):
        return Capabilities(platforms, has_sidecar_package=PACKAGE in found)
    enforces = bool(texts_within(binary, [_ENFORCE_RELEASE], near, _TAGS_SIZE))
    return Capabilities(
        platforms, gofer_namespace=True, enforces_release=enforces, has_sidecar_package=PACKAGE in found
    )


#: Until Linux 6.10 visible only in the host's network namespace; the older runsc tells the two apart by it.
OLD_NETWORK_SIGN = "/proc/sys/net/core/rmem_default"
NEW_NETWORK_SIGN = "/proc/sys/net/core/dev_weight"


def tells_network_namespaces_apart(binary: int) -> bool:
    """Whether this runsc knows a new network namespace from the host's on Linux 6.10 and later. Raises `OSError`.

    It contains the newer path, or lacks the older one (google/gvisor#10704).
    """
    newer, older = NEW_NETWORK_SIGN.encode(), OLD_NETWORK_SIGN.encode()
    return bool(texts_in(binary, [newer])) or not texts_in(binary, [older])


def has_verb(binary: int, verb: str) -> bool:
    """Whether this runsc has that verb, by the name of its Go type. Reads up to the whole file. Raises `OSError`."""
    return bool(texts_in(binary, [b"*cmd." + verb.capitalize().encode() + b"\0"]))


def creation_flags_of(arguments: list[str]) -> list[str]:
    """Those that some runsc has and the `arguments` begin with. `run` has none."""
    if arguments[:1] == ["run"]:
        return []
    return next(flags for flags in CREATION_FLAGS if arguments[: len(flags)] == flags)
