"""The format of a trace: its lines, their fields with types, and the meaning of each field.

Steps type their `facts()` by it, the reader decodes with it, and the tables in docs/trace.md are generated from it
(`python -m tools.trace_fields`). A run does not import it, because msgspec is slow to import; mypy and tests check the
writer against it.

To add a fact: add a field here, set it in the step's `facts()`, and raise `FORMAT` in `engine.traces.move`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar

import msgspec

from engine.traces.asked_schema import Asked, Says
from engine.traces.end_schema import EndFacts
from engine.traces.given_schema import GivenFacts
from engine.traces.header_schema import Bundle, Host, Options
from engine.traces.move import PolicyOutcome, Strength, Trigger
from engine.traces.refusal_schema import Error, Error1, RefuseFacts

FoundBy = Literal["option", "trusted path", "PATH"]
Ids = Literal["all", "subordinate", "single"]
#: RFC 3339 with an offset; the reader requires UTC.
Time = Annotated[datetime, msgspec.Meta(tz=True)]
#: Nanoseconds, as clock_gettime(2) has them.
Monotonic = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Identity(TypedDict):
    """A file and its version, fstat(2)."""

    device: Annotated[int, Says("The device's number.", "= `stage.pinned`; 0 or more")]
    inode: Annotated[int, Says("The inode's number.", "= `stage.pinned`; more than 0")]
    size: Annotated[int, Says("The size in bytes.", "= `stage.pinned`; 4 or more")]
    mtime_ns: Annotated[
        int, Says("When its content was last changed, in nanoseconds of Unix time.", "= `stage.pinned`")
    ]
    ctime_ns: Annotated[
        int, Says("When its inode was last changed, in nanoseconds of Unix time.", "= `stage.pinned`")
    ]


class ResolveFacts(TypedDict):
    """The runsc that was found."""

    path: Annotated[str, Says("The path at which runsc was found.", "`options.runsc`, else a trusted one")]
    found_by: Annotated[
        FoundBy,
        Says("How it was found.", "not `PATH` where `host.user` is 0"),
    ]


class PinnedSidecar(TypedDict):
    """A program beside runsc, validated and kept open."""

    name: Annotated[str, Says("Its name in `gvisor-bin/`.", "= `stage.sidecars`; a plain name, in order")]
    path: Annotated[str, Says("Its path without symbolic links.", "= by `name`, beside the others")]
    identity: Annotated[Identity, Says("The file that was validated.", "not empty")]
    owner: Annotated[
        int, Says("The uid that owns it.", "in `trusted_owners`, unless in a Nix store and not writable")
    ]
    mode: Annotated[
        str, Says("Its permissions, four octal digits.", "executable; not writable by group or others")
    ]


class Unenforced(TypedDict):
    """What the bundle asks for and this runsc does not do as asked."""

    name: Annotated[
        str,
        Says("The name of the row in docs/asked-and-enforced.md.", "= config.json; by `asked`, `options`"),
    ]
    becomes: Annotated[
        Literal["otherwise", "ignored", "refused"],
        Says("What becomes of it.", "= by `name`, `platforms`, `creation_flags`, `options`"),
    ]


class ValidateFacts(TypedDict):
    """The binary, validated and kept open."""

    path: Annotated[str, Says("Its path without symbolic links.", "absolute; no `..`")]
    wrapper: Annotated[
        str | None, Says("The path of the wrapper script, if there was one.", "absolute; no `..`")
    ]
    identity: Annotated[Identity, Says("The file that was validated.")]
    owner: Annotated[int, Says("The uid that owns it.", "in `trusted_owners`, unless `immutable_store`")]
    mode: Annotated[
        str, Says("Its permissions, four octal digits.", "executable; not writable by group or others")
    ]
    trusted_owners: Annotated[list[int], Says("The uids that may own it.", "0 and `host.user`")]
    immutable_store: Annotated[
        bool, Says("Whether it is in a Nix store that nobody can write.", "= by `path`, `mode`")
    ]
    platforms: Annotated[list[str], Says("The platforms compiled in; empty if unknown.", "their order")]
    platform: Annotated[str, Says("The platform that is used.", "= by `options.platform`, `platforms`")]
    creation_flags: NotRequired[
        Annotated[
            list[str],
            Says("The global flags that only a newer runsc has.", "= `exec.argv`; those of some runsc"),
        ]
    ]
    starts_sidecars: NotRequired[
        Annotated[bool, Says("Whether this runsc starts any file of `gvisor-bin/`.", "= by `sidecars`")]
    ]
    sidecars: NotRequired[
        Annotated[
            list[PinnedSidecar],
            Says(
                "The files of `gvisor-bin/`, if this runsc starts any.",
                "= `stage.sidecars`; with `gvisor_sentry`",
            ),
        ]
    ]
    release: NotRequired[
        Annotated[
            str | None,
            Says(
                "The release of runsc and its sidecars, if any; null if unknown.",
                "its form; `stage.version`, if any",
            ),
        ]
    ]
    unenforced: NotRequired[
        Annotated[
            list[Unenforced],
            Says("What the bundle asks for and runsc does not do as asked, by danger.", "= config.json"),
        ]
    ]


class Directory(TypedDict):
    """A directory of the engine's own."""

    path: Annotated[
        str, Says("Its absolute path.", "= by `container`, `sandbox.id`; of `programs`: `stage.path`")
    ]
    owner: Annotated[int, Says("The uid that owns it.", "= `user`")]
    mode: Annotated[str, Says("Its permissions, four octal digits.", "= `0700`")]
    created: Annotated[bool, Says("Whether this run created it.", "never a sandbox's")]


class Sandbox(TypedDict):
    """The sandbox that a pod's container joins."""

    id: Annotated[str, Says("Its container id.", "= by its `directories`")]
    directories: Annotated[list[Directory], Says("Its directory, and runsc's root.", "= two")]
    sha256: Annotated[str, Says("SHA-256 of the runsc that it runs, in hexadecimal.", "= `stage.sha256`")]


class SecureRootFacts(TypedDict):
    """The container's directories and its lock."""

    user: Annotated[int, Says("The effective uid.", "= `host.user`")]
    directories: Annotated[
        list[Directory],
        Says(
            "Base, container, runsc's root and runtime directory.",
            "= four, each in the one before, by `container`",
        ),
    ]
    lock: Annotated[str, Says("The path of the lock that is held.", "= by `directories`")]
    cleaned: Annotated[
        list[str],
        Says("Leftovers of an earlier run of this container, removed.", "runsc's root, or staged programs"),
    ]
    sandbox: NotRequired[Annotated[Sandbox, Says("Only for a pod's container: the sandbox that it joins.")]]
    programs: NotRequired[Annotated[Directory, Says("The program's directory, if not the container's own.")]]


class Copy(TypedDict):
    """The copy of one file of the program; its `identity` is what `validate` recorded of that file."""

    path: Annotated[
        str,
        Says("Its path.", "= `exec.argv`; in `programs` or runsc's root; a sidecar's beside"),
    ]
    sha256: Annotated[
        str,
        Says("Its SHA-256, in hexadecimal; from an earlier run unless `hashed`.", free="bytes"),
    ]
    size: Annotated[int, Says("Its size in bytes.", "= that of its `identity`")]
    mode: Annotated[str, Says("Its permissions, four octal digits.", "= `0555`; `0500` in formats 1 and 2")]
    pinned: Annotated[Identity, Says("The source after copying: still unchanged.", "its `identity`")]
    from_store: Annotated[
        bool,
        Says("Whether it is a link to a copy that an earlier run made.", "`hashed`, `compared`, `shared`"),
    ]
    made_from: Annotated[Identity, Says("The file that the copy was made from.", "its `identity`")]
    shared: Annotated[
        bool, Says("Whether the store and other containers share the file.", "true if `from_store`")
    ]
    hashed: Annotated[
        bool,
        Says(
            "Whether this run computed `sha256`; otherwise an earlier run did, from the same version of the file.",
            "`from_store`, `compared`",
        ),
    ]
    compared: Annotated[
        bool,
        Says(
            "Whether this run compared the whole copy with the pinned file.",
            "= by `from_store`, and whether the file is another user's",
        ),
    ]


class StagedSidecar(Copy):
    """The copy of a sidecar."""

    name: Annotated[str, Says("Its name in `gvisor-bin/`.", "= `validate.sidecars`")]


class StageFacts(Copy):
    """The copy of runsc, which is executed, and of its sidecars."""

    version: NotRequired[
        Annotated[
            str | None,
            Says(
                "The version that runsc would print, by its bytes; null if unknown, from an earlier run unless "
                "`hashed`.",
                "its form; `validate.release`, if any",
            ),
        ]
    ]
    sidecars: NotRequired[
        Annotated[list[StagedSidecar], Says("The copies of its sidecars, if any.", "= `validate.sidecars`")]
    ]


class ApplyPolicyFacts(TypedDict):
    """The outcome of the execute policy."""

    outcome: Annotated[PolicyOutcome, Says("Whether it is enforced.", "= by the other facts, `options`")]
    mechanism: Annotated[str | None, Says("What enforces it; null if nothing does.", "= by `outcome`")]
    strength: Annotated[
        Strength | None,
        Says(
            "`host`: no program of the host can be executed from its place; `sealed`: no new file either.",
            "= by `open`",
        ),
    ]
    allowed: Annotated[
        list[str],
        Says(
            "The paths below which files can still be executed, or of such files.",
            "the bundle's of `asked.mounts`, then the set's",
        ),
    ]
    open: Annotated[
        list[str],
        Says(
            "The bypasses found: `memfd`; `stdin`, `stdout`, `stderr`, `fd N`, what can be executed by a descriptor; "
            "`allowed`, files written there; `mount`, a new file system; `terminal`, input for the caller's.",
            "`strength`; their order",
        ),
    ]
    ids: Annotated[
        Ids | None,
        Says("The ids in the supervisor's user namespace.", "null if not enforced"),
    ]
    reason: Annotated[str | None, Says("Why it is not enforced, in words.", "null if enforced, else words")]


class ExecFacts(TypedDict):
    """The arguments of execve."""

    argv: Annotated[list[str], Says("The arguments.", "= those that the engine gives")]
    environment: Annotated[dict[str, str], Says("All variables.", "= the engine's")]
    bundle: Annotated[Bundle, Says("The bundle, checked again.", "= the header's")]
    config: NotRequired[
        Annotated[GivenFacts, Says("The config.json that runsc is given, in a private directory.")]
    ]


class Header(msgspec.Struct, forbid_unknown_fields=True, gc=False, kw_only=True):
    """The first line. The fields are in the order in which the engine writes them."""

    seq: Annotated[int, Says("The number of the line.", "= 0")]
    time: Annotated[Time, Says("When it was written: RFC 3339, UTC, microseconds.", free="clock")]
    monotonic_ns: Annotated[
        Monotonic | msgspec.UnsetType,
        Says(
            "The same by CLOCK_MONOTONIC, in nanoseconds; older engines wrote none.",
            "at most that of the next line",
        ),
    ] = msgspec.UNSET
    container: Annotated[str, Says("The container's id.", "= the moves'; a plain name")]
    previous: Annotated[None, Says("There is no line before it.", "= null")]
    format: Annotated[int, Says("The format's number.", "1 to 3; 1 only where `asked` is not there")]
    engine: Annotated[str, Says("The engine's version.", free="engine")]
    spec: Annotated[
        str, Says("SHA-256 of `specs/GVisorRuntime.tla`, in hexadecimal.", "= the verifier's own")
    ]
    options: Annotated[Options, Says("The options of the run.")]
    bundle: Annotated[Bundle, Says("The bundle to run.")]
    host: Annotated[Host, Says("The host, and the user of the run.")]
    asked: Annotated[
        Asked | msgspec.UnsetType,
        Says("What the bundle asks for; older engines wrote none.", "the other fields"),
    ] = msgspec.UNSET

    def known(self) -> Mapping[str, Any]:
        """The header's facts for the machine's guards."""
        return {
            "container": self.container,
            "format": self.format,
            "options": self.options,
            "bundle": self.bundle,
            "host": self.host,
        }


_Facts = TypeVar("_Facts")
_Error = TypeVar("_Error", Error, Error1)


class Record(msgspec.Struct, Generic[_Facts, _Error], forbid_unknown_fields=True, gc=False, kw_only=True):
    """A further line: a move, with the facts of its trigger."""

    seq: Annotated[int, Says("The number of the line.", "= one more than the line before")]
    time: Annotated[
        Time,
        Says("When it was written: RFC 3339, UTC, microseconds.", free="clock"),
    ]
    monotonic_ns: Annotated[
        Monotonic | msgspec.UnsetType,
        Says(
            "The same by CLOCK_MONOTONIC, which no step of the clock changes, in nanoseconds.",
            "not before the line before; there if the header has one",
        ),
    ] = msgspec.UNSET
    container: Annotated[str, Says("The container's id.", "= the header's")]
    previous: Annotated[
        str, Says("SHA-256 of the line before with its newline, in hexadecimal.", "= the line before")
    ]
    state: Annotated[str, Says("The state before.", "= the lifecycle")]
    trigger: Annotated[str, Says("The step, or `refuse`.", "= the lifecycle")]
    next: Annotated[str, Says("The state after.", "= the lifecycle")]
    facts: Annotated[
        _Facts, Says("What the step established; see below, by trigger.", "the machine's guards")
    ]
    error: Annotated[_Error | None, Says("Why it was refused; null for any other move.", "`trigger`")]

    def seconds_since(self, before: Header | Record[Any, Any]) -> float:
        """The time from the line `before` to this one, by the clock that nobody sets where both have it."""
        if isinstance(self.monotonic_ns, int) and isinstance(before.monotonic_ns, int):
            return (self.monotonic_ns - before.monotonic_ns) / 1e9
        return (self.time - before.time).total_seconds()

    @property
    def refusal(self) -> Refusal | None:
        """Why the run was refused; None for any other move."""
        return None if self.error is None else Refusal.of(self.error)


class Refusal(NamedTuple):
    """Why a run was refused: the step, the reason code (None in format 1), and the texts."""

    step: str
    reason: str | None
    what: str
    hint: str

    @classmethod
    def of(cls, error: Mapping[str, Any]) -> Refusal:
        """From the `error` of a trace in either format."""
        said = {"hint": error.get("remedy"), **error}
        step, what, hint = (str(said.get(key) or "not said") for key in ("step", "what", "hint"))
        reason = said.get("reason")
        return cls(step, None if reason is None else str(reason), what, hint)


#: The facts of each trigger.
FACTS: Mapping[str, type] = {
    Trigger.RESOLVE: ResolveFacts,
    Trigger.VALIDATE: ValidateFacts,
    Trigger.SECURE_ROOT: SecureRootFacts,
    Trigger.STAGE: StageFacts,
    Trigger.APPLY_POLICY: ApplyPolicyFacts,
    Trigger.EXEC: ExecFacts,
    Trigger.END: EndFacts,
    Trigger.REFUSE: RefuseFacts,
}
#: The error of a refusal, by format.
ERRORS: Mapping[int, type] = {1: Error1, 2: Error, 3: Error}
