"""The form of a trace, once: which lines there are, which fields a line has, their types and what each one says.

The steps' `facts()` are typed by it, the reader decodes by it and refuses everything else, and the tables in
docs/trace.md are written from it (`python -m tools.trace_fields`). A run does not import it: msgspec costs a start too
much, so the writer is held to it by mypy and by tests.

To add a fact: a field here, the value in the step's `facts()`, and a higher `FORMAT` in `engine.traces.move`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NotRequired,
    TypedDict,
    TypeVar,
)

import msgspec

from engine.errors import all_reasons
from engine.traces.move import PolicyOutcome, Strength, Trigger


class Says(NamedTuple):
    """What a field says, in one sentence, with the unit; `bound`: to what the verifier holds it, beside its type."""

    text: str
    bound: str = ""


FoundBy = Literal["option", "trusted path", "PATH"]
Ids = Literal["all", "subordinate", "single"]
#: RFC 3339, with an offset; the reader asks that it is UTC.
Time = Annotated[datetime, msgspec.Meta(tz=True)]

if TYPE_CHECKING:
    ReasonCode = str
else:
    #: One of `engine.errors.Reason`.
    ReasonCode = Literal[all_reasons()]


class Options(TypedDict):
    """What was asked for."""

    network: Annotated[str, Says("The value of `--network`.")]
    platform: Annotated[str, Says("The value of `--platform`.")]
    rootless: Annotated[bool, Says("Whether runsc is started rootless.")]
    ignore_cgroups: Annotated[bool, Says("Whether runsc makes no cgroups.")]
    exec_policy: Annotated[str, Says("The value of `--exec-policy`.")]
    require_exec_policy: Annotated[bool, Says("Whether a run without the execute policy is refused.")]
    runsc: Annotated[str | None, Says("The value of `--runsc`; null where none was given.")]


class Bundle(TypedDict):
    """The bundle."""

    path: Annotated[str, Says("Its absolute path.")]
    sha256: Annotated[str, Says("SHA-256 of `config.json`, in hexadecimal.")]
    rootfs: Annotated[str, Says("The absolute path of the root file system.")]
    hooks: Annotated[int, Says("The number of hooks, which run outside the sandbox.")]


class Host(TypedDict):
    """The machine."""

    kernel: Annotated[str, Says("The kernel's release.")]
    machine: Annotated[str, Says("The architecture, uname(2).")]
    user: Annotated[int, Says("The effective uid of the run.")]


class Identity(TypedDict):
    """Which file it is, and which version of it, fstat(2)."""

    device: Annotated[int, Says("The device's number.")]
    inode: Annotated[int, Says("The inode's number.")]
    size: Annotated[int, Says("The size in bytes.")]
    mtime_ns: Annotated[int, Says("When its content was last changed, in nanoseconds of Unix time.")]
    ctime_ns: Annotated[int, Says("When its inode was last changed, in nanoseconds of Unix time.")]


class ResolveFacts(TypedDict):
    """Which runsc."""

    path: Annotated[str, Says("The path at which runsc was found.", "absolute")]
    found_by: Annotated[
        FoundBy,
        Says("How it was found.", "not `PATH` where `host.user` is 0"),
    ]


class ValidateFacts(TypedDict):
    """The binary, judged and kept open."""

    path: Annotated[str, Says("Its path, free of links.")]
    wrapper: Annotated[str | None, Says("The path of the script that named the binary, if one did.")]
    identity: Annotated[Identity, Says("The file that was judged.")]
    owner: Annotated[int, Says("The uid that owns it.", "in `trusted_owners`, unless `immutable_store`")]
    mode: Annotated[
        str, Says("Its permissions, four octal digits.", "executable; not for group or others to write")
    ]
    trusted_owners: Annotated[list[int], Says("The uids that may own it.")]
    immutable_store: Annotated[bool, Says("Whether it is a file of a Nix store that nobody may write.")]
    platforms: Annotated[list[str], Says("The platforms compiled in; empty where it does not tell.")]
    platform: Annotated[str, Says("The platform that is used.")]


class Directory(TypedDict):
    """A directory of the engine's own."""

    path: Annotated[str, Says("Its absolute path.")]
    owner: Annotated[int, Says("The uid that owns it.", "`user`")]
    mode: Annotated[str, Says("Its permissions, four octal digits.", "`0700`")]
    created: Annotated[bool, Says("Whether this run made it.")]


class Sandbox(TypedDict):
    """The sandbox that a pod's container joins."""

    id: Annotated[str, Says("Its container id.")]
    directories: Annotated[
        list[Directory], Says("Its directory, and the root that runsc is given.", "two of them")
    ]
    sha256: Annotated[str, Says("SHA-256 of the runsc that it runs, in hexadecimal.")]


class SecureRootFacts(TypedDict):
    """The container's directories, its lock."""

    user: Annotated[int, Says("The effective uid.")]
    directories: Annotated[
        list[Directory], Says("Base, container, runsc's root and runtime directory.", "four of them")
    ]
    lock: Annotated[str, Says("The path of the lock that is held.")]
    cleaned: Annotated[list[str], Says("What an earlier run of this container had left.")]
    sandbox: NotRequired[Annotated[Sandbox, Says("Of a pod's container alone: what it joins.")]]
    programs: NotRequired[
        Annotated[Directory, Says("Where the program lies, if not in the container's own directory.")]
    ]


class StageFacts(TypedDict):
    """The copy that is executed."""

    path: Annotated[str, Says("Its path.", "in `secure_root.programs`, if any, else in runsc's root")]
    sha256: Annotated[
        str, Says("Its SHA-256, in hexadecimal; another's word unless `hashed`.", "`sandbox.sha256`, if any")
    ]
    size: Annotated[int, Says("Its size in bytes.", "`validate.identity.size`")]
    mode: Annotated[str, Says("Its permissions, four octal digits.", "`0500`")]
    pinned: Annotated[
        Identity, Says("The source when the copy was there: still unchanged.", "`validate.identity`")
    ]
    from_store: Annotated[bool, Says("Whether it is linked from a copy that an earlier run made.")]
    made_from: Annotated[Identity, Says("The file that copy was made from.", "`validate.identity`")]
    shared: Annotated[bool, Says("Whether the store and other containers have the same file.")]
    hashed: Annotated[
        bool,
        Says(
            "Whether this run computed `sha256`; else an earlier run did, from the same version of the file."
        ),
    ]
    compared: Annotated[
        bool,
        Says(
            "Whether this run compared all of it with the pinned file.",
            "`from_store`, and the binary is another user's",
        ),
    ]


class ApplyPolicyFacts(TypedDict):
    """What became of the execute policy."""

    outcome: Annotated[PolicyOutcome, Says("Whether it is enforced.", "the header's `options`")]
    mechanism: Annotated[str | None, Says("What enforces it; null when nothing does.")]
    strength: Annotated[
        Strength | None,
        Says("`host`: no program of the host can be executed where it lies; `sealed`: nor any new file."),
    ]
    allowed: Annotated[list[str], Says("The paths beneath which files can still be executed.")]
    open: Annotated[
        list[str],
        Says(
            "The ways to execute something else that were seen to be left: `memfd`; `stdin`, `stdout`, `stderr`; "
            "`allowed`, what is written there; `mount`, a new file system."
        ),
    ]
    ids: Annotated[
        Ids | None,
        Says("Which ids the supervisor's own user namespace has."),
    ]
    reason: Annotated[str | None, Says("Why it is not enforced, in words.")]


class ExecFacts(TypedDict):
    """What execve is given."""

    argv: Annotated[list[str], Says("The arguments.", "the first is `stage.path`")]
    environment: Annotated[dict[str, str], Says("All variables.")]
    bundle: Annotated[Bundle, Says("The bundle, looked at again.", "the header's")]


class RefuseFacts(TypedDict):
    """What was taken back."""

    cleaned: Annotated[list[str], Says("What this run had made and took back.")]
    left: Annotated[list[str], Says("What it could not take back, and why.")]


class Error(TypedDict):
    """Why the run was refused."""

    step: Annotated[str, Says("What refused: a step, or another part of the engine.", "`state`")]
    reason: Annotated[ReasonCode, Says("The reason, as a code that never changes.", "`state`")]
    what: Annotated[str, Says("What is wrong, in words.")]
    hint: Annotated[str, Says("What to do about it, in words.")]


class Error1(TypedDict):
    """Why the run was refused, in format 1."""

    step: Annotated[str, Says("What refused.")]
    what: Annotated[str, Says("What is wrong, in words.")]
    remedy: Annotated[str, Says("What to do about it, in words.")]


class Header(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The first line. The fields are in the order in which the engine writes them."""

    seq: Annotated[int, Says("The number of the line.", "0")]
    time: Annotated[Time, Says("When it was written: RFC 3339, UTC, microseconds.", "UTC")]
    container: Annotated[str, Says("The container's id.")]
    previous: Annotated[None, Says("There is no line before it.")]
    format: Annotated[int, Says("The format's number.", "1 or 2")]
    engine: Annotated[str, Says("The engine's version.")]
    spec: Annotated[str, Says("SHA-256 of `specs/GVisorRuntime.tla`, in hexadecimal.", "the verifier's own")]
    options: Annotated[Options, Says("What was asked for.")]
    bundle: Annotated[Bundle, Says("What is to be run.")]
    host: Annotated[Host, Says("Where it was run, and as whom.")]

    def known(self) -> Mapping[str, Any]:
        """What the machine's guards know of it."""
        return {"options": self.options, "bundle": self.bundle, "host": self.host}


_Facts = TypeVar("_Facts")
_Error = TypeVar("_Error", Error, Error1)


class Record(msgspec.Struct, Generic[_Facts, _Error], forbid_unknown_fields=True, gc=False):
    """A move, which is every further line. `facts` are those of its trigger."""

    seq: Annotated[int, Says("The number of the line.", "one more than the line before")]
    time: Annotated[
        Time, Says("When it was written: RFC 3339, UTC, microseconds.", "not before the line before")
    ]
    container: Annotated[str, Says("The container's id.", "the header's")]
    previous: Annotated[
        str, Says("SHA-256 of the line before with its newline, in hexadecimal.", "the line before")
    ]
    state: Annotated[str, Says("Where the run was.", "the lifecycle")]
    trigger: Annotated[str, Says("The step that was done, or `refuse`.", "the lifecycle")]
    next: Annotated[str, Says("Where that leads.", "the lifecycle")]
    facts: Annotated[_Facts, Says("What the step established: below, by trigger.", "the machine's guards")]
    error: Annotated[_Error | None, Says("Why it was refused; null of any other move.", "`trigger`")]

    @property
    def refusal(self) -> Refusal | None:
        """Why the run was refused; None of any other move."""
        return None if self.error is None else Refusal.of(self.error)


class Refusal(NamedTuple):
    """Why a run was refused: the step that did, the code (None in format 1, which had none), and the text."""

    step: str
    reason: str | None
    what: str
    hint: str

    @classmethod
    def of(cls, error: Mapping[str, Any]) -> Refusal:
        """From the `error` of a trace of either format."""
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
    Trigger.REFUSE: RefuseFacts,
}
#: The error of a refusal, by format.
ERRORS: Mapping[int, type] = {1: Error1, 2: Error}
