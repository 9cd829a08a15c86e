"""The options of one run, and their defaults (those of the reference: nothing is shared)."""

from __future__ import annotations

from enum import StrEnum

from engine.errors import BundleError, Reason, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

#: containerd's limit; a longer one does not fit the name of runsc's control socket, unix(7).
MAX_CONTAINER_ID = 76

#: Sets: a pattern would be compiled at every start.
_FIRST = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_LATER = _FIRST | frozenset(".+-")


class Network(StrEnum):
    """How the container reaches the network (runsc `--network`)."""

    NONE = "none"
    SANDBOX = "sandbox"
    HOST = "host"


class Platform(StrEnum):
    """How the Sentry intercepts system calls (runsc `--platform`); `auto` picks systrap where it exists."""

    AUTO = "auto"
    SYSTRAP = "systrap"
    KVM = "kvm"
    PTRACE = "ptrace"


class ExecPolicy(StrEnum):
    """What keeps the supervisor from executing the host's programs (rootless runs only)."""

    AUTO = "auto"
    LOCKED_MOUNTS = "locked-mounts"
    OFF = "off"


def runsc_flags(given: Sequence[str]) -> tuple[str, ...]:
    """As `engine.runsc_flags.parse`, which is imported only where there are any. Raises `UsageError`."""
    if not given:
        return ()
    from engine.runsc_flags import parse

    return parse(given)


class RunOptions:
    """The options of one run. Immutable: the trace's header has the same.

    `runsc_flags`: as `engine.runsc_flags.parse` returns them. Raises `UsageError`, and `BundleError` where a strict
    bundle would share the host's network, or a flag of runsc opens something.
    """

    def __init__(
        self,
        container_id: str,
        network: Network = Network.NONE,
        platform: Platform = Platform.AUTO,
        rootless: bool = False,
        ignore_cgroups: bool = False,
        exec_policy: ExecPolicy = ExecPolicy.AUTO,
        require_exec_policy: bool = False,
        runsc: str | None = None,
        require_strict_bundle: bool = False,
        supervise: bool = False,
        root_digest: bool = False,
        require_enforced: bool = False,
        runsc_flags: tuple[str, ...] = (),
    ) -> None:
        self.container_id: Final = container_id
        self.network: Final = network
        self.platform: Final = platform
        self.rootless: Final = rootless
        self.ignore_cgroups: Final = ignore_cgroups
        self.exec_policy: Final = exec_policy
        self.require_exec_policy: Final = require_exec_policy
        self.runsc: Final = runsc
        self.require_strict_bundle: Final = require_strict_bundle
        self.supervise: Final = supervise
        self.root_digest: Final = root_digest
        self.require_enforced: Final = require_enforced
        self.runsc_flags: Final = runsc_flags
        check_container_id(container_id)
        if require_strict_bundle and network is Network.HOST:
            raise BundleError(
                "the container shares the host's network (--network host)",
                reason=Reason.GRANTED,
                hint="use --network none or sandbox, or leave out --require-strict-bundle",
            )
        if require_strict_bundle and (opened := self.opened_by_flags()):
            raise BundleError(
                f"a flag of runsc opens more to the container: {', '.join(flag for _, flag in opened)}",
                reason=Reason.GRANTED,
                hint="leave it out, or leave out --require-strict-bundle",
            )

    def opened_by_flags(self) -> list[tuple[str, str]]:
        """What the flags of runsc open: the code of `engine.bundle.grant_codes`, and the flag."""
        if not self.runsc_flags:
            return []
        from engine.runsc_flags import opened_by

        return list(opened_by(self.runsc_flags))

    def given(
        self,
        *,
        network: Network | None = None,
        runsc: str | None = None,
        platform: Platform | None = None,
    ) -> RunOptions:
        """These options, but for the network, the runsc and the platform that are given."""
        changes = {
            "network": network or self.network,
            "runsc": runsc or self.runsc,
            "platform": platform or self.platform,
        }
        return RunOptions(**{**vars(self), **changes})


def exec_policy_name(name: str) -> str:
    """Returns `name` unchanged.

    Raises `UsageError` for the Landlock policy of earlier versions, and says what to use instead.
    """
    if name == "landlock":
        raise UsageError(
            "--exec-policy landlock is gone: a Landlock domain forbids mount(2), so no stock runsc starts in it",
            reason=Reason.UNSUPPORTED,
            hint=f"use {ExecPolicy.LOCKED_MOUNTS}, or leave it at {ExecPolicy.AUTO}",
        )
    return name


def check_container_id(container_id: str) -> None:
    """Refuse an id that runsc would refuse, or that could be anything but one directory entry.

    Raises `UsageError`. runsc accepts `[\\w+-.]+`, which includes `..`; the engine does not.
    """
    if len(container_id) > MAX_CONTAINER_ID:
        raise UsageError(
            f"container id of {len(container_id)} characters",
            reason=Reason.USAGE,
            hint=f"use at most {MAX_CONTAINER_ID}",
        )
    if not (_FIRST.issuperset(container_id[:1]) and container_id and _LATER.issuperset(container_id)):
        raise UsageError(
            f"container id {container_id!r} is not a plain name",
            reason=Reason.USAGE,
            hint="start with a letter, digit or _ and use only letters, digits and _ . + - after it",
        )
