"""All errors of the engine. Each has the step that refused, a `Reason`, what is wrong and where, and a hint.

The text is one line, safe to print on a terminal: control characters in names are escaped. It never shows the content
of a file or of the environment.
"""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


def printable(text: str) -> str:
    """`text` on one line, with control characters and unpaired surrogates escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


def shell_word(word: str) -> str:
    """`word` for a shell. What cannot be printed becomes an escape in $'...', for a terminal and a page to be safe."""
    import shlex

    if word.isprintable():
        return shlex.quote(word)
    plain = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(c if c.isprintable() else _octal(c) for c in plain) + "'"


def _octal(character: str) -> str:
    # os.fsencode knows only the surrogates that stand for bytes; a trace may have any.
    is_byte = "\udc80" <= character <= "\udcff"
    data = character.encode("utf-8", "surrogateescape" if is_byte else "surrogatepass")
    return "".join(f"\\{byte:03o}" for byte in data)


_HINTS = {
    errno.ENOSPC: "free space there (engine gc removes what finished containers left)",
    errno.EDQUOT: "free space there (engine gc removes what finished containers left)",
    errno.EMFILE: "allow this process more open files (ulimit -n)",
    errno.ENFILE: "let the system open more files (sysctl fs.file-max)",
    errno.EROFS: "choose a place that is not mounted read-only",
    errno.ENOMEM: "free memory",
    errno.ENODEV: "mount what is missing: mount -t proc proc /proc",
}


def hint_for(error: OSError, otherwise: str) -> str:
    """The hint for an error of the system, errno(3); else `otherwise`."""
    return _HINTS.get(error.errno or 0, otherwise)


class Reason:
    """Why something was refused, as a code that never changes: text may be reworded, programs compare this.

    The first two groups are the reasons of specs/GVisorRuntime.tla; `engine.lifecycle.machine` has their steps. Plain
    strings: an enumeration of fifty members would cost every start 4 million instructions.
    """

    # The spec's `Reasons`.
    #: A system call that the engine needs failed.
    FAILURE = "failure"
    #: There is no runsc.
    NOT_FOUND = "not_found"
    #: Only a search of PATH could find runsc, and root does not search PATH.
    PATH_SEARCHED_AS_ROOT = "path_searched_as_root"
    #: A directory of the engine's own, or one above it, is a link or can be changed by others.
    ROOT_NOT_PRIVATE = "root_not_private"
    #: A container of this id runs.
    ALIVE = "alive"
    #: The directory for the staged program is not the engine's own.
    STAGE_NOT_OWN = "stage_not_own"
    #: The bytes staged are not the bytes that were validated.
    NOT_WHAT_WAS_PINNED = "not_what_was_pinned"
    #: The execute policy is required and is not enforced.
    POLICY_NOT_ENFORCED = "policy_not_enforced"
    #: The execute policy was applied in part only.
    POLICY_IN_PART = "policy_in_part"
    #: The bundle changed after it was validated.
    BUNDLE_CHANGED = "bundle_changed"
    #: A state directory changed after it was secured.
    ROOT_CHANGED = "root_changed"

    # The spec's `not_trusted`, told apart by its `Kinds` of files.
    #: The file was there when it was looked for, and is not any more.
    ABSENT = "absent"
    #: It is not an executable ELF file, or no runsc.
    NOT_A_PROGRAM = "not_a_program"
    #: Users other than its owner may read or write a file that only its owner may.
    LOOSE_MODE = "loose_mode"
    #: It is owned by a user who is not trusted.
    FOREIGN_OWNER = "foreign_owner"
    #: On the way to the file there is a directory or link that others can change.
    LOOSE_CHAIN = "loose_chain"
    #: A file that this runsc starts is not beside it.
    INCOMPLETE = "incomplete"
    #: Files of one installation are of different releases.
    MIXED_RELEASES = "mixed_releases"

    # The spec's `failure`, where more can be said.
    #: This build of runsc does not have the platform.
    NO_PLATFORM = "no_platform"
    #: This runsc will not do all that the bundle asks for, and --require-enforced was given.
    NOT_ENFORCED = "not_enforced"
    #: Programs cannot be executed from the file system of the state directory.
    NOEXEC = "noexec"
    #: Somebody may have written to the staged copy.
    COPY_CHANGED = "copy_changed"
    #: The kernel refused execve(2).
    EXECVE_REFUSED = "execve_refused"
    #: A manager still keeps a container of this id.
    KEPT = "kept"
    #: The pod's sandbox is not there or does not live.
    NO_SANDBOX = "no_sandbox"
    #: It is another runsc than the one that the container or its sandbox was created with.
    OTHER_RUNSC = "other_runsc"
    #: A signal, or the user, asked for an end.
    STOPPED = "stopped"
    #: A fault of the engine: the machine does not have this edge, or a guard does not hold.
    NOT_PERMITTED = "not_permitted"
    #: A fault of the engine: the spec does not have this edge.
    NOT_IN_SPEC = "not_in_spec"
    #: A fault of the engine: an exception that nothing foresaw.
    UNEXPECTED = "unexpected"

    # Before a run: the bundle.
    #: There is no bundle that can be opened.
    BUNDLE_ABSENT = "bundle_absent"
    #: config.json or the root file system is a link, leaves the bundle, or is of another kind than it must be.
    BUNDLE_UNSAFE = "bundle_unsafe"
    #: A user other than root and the caller could change a program that a hook executes on the host.
    HOOK_UNSAFE = "hook_unsafe"
    #: Users other than root and the caller can change the bundle, and --require-strict-bundle was given.
    BUNDLE_WRITABLE = "bundle_writable"
    #: The container is given what deserves a word, and --require-strict-bundle was given.
    GRANTED = "granted"
    #: There is no root file system where config.json says.
    ROOTFS_ABSENT = "rootfs_absent"
    #: The source of a bind mount does not exist.
    SOURCE_ABSENT = "source_absent"
    #: The program, its interpreter or its dynamic loader is not in the root file system.
    PROGRAM_ABSENT = "program_absent"
    #: The program may not be executed, or is not one for this machine.
    PROGRAM_NOT_EXECUTABLE = "program_not_executable"
    #: config.json is not JSON.
    CONFIG_NOT_JSON = "config_not_json"
    #: config.json is not what the OCI runtime specification wants.
    CONFIG_INVALID = "config_invalid"

    # Before a run: the user.
    #: The user may not start containers without `--rootless`.
    NO_PRIVILEGE = "no_privilege"

    # A manager's container.
    #: Another command is at work on it.
    BUSY = "busy"
    #: What was asked for is not possible in its status.
    WRONG_STATE = "wrong_state"
    #: It was created, and runsc was never started.
    NOT_HANDED_OFF = "not_handed_off"
    #: The record in its directory is another container's.
    OTHER_RECORD = "other_record"
    #: Processes of it do not end.
    PROCESSES_REMAIN = "processes_remain"
    #: It shares the host's network, which nobody allowed.
    HOST_NETWORK = "host_network"
    #: Its annotations do not say to which pod it belongs.
    POD_ANNOTATION = "pod_annotation"

    # Any command.
    #: The command line is wrong.
    USAGE = "usage"
    #: What was to be made exists.
    EXISTS = "exists"
    #: Nothing has that name.
    NO_SUCH = "no_such"
    #: It is larger than what is read.
    TOO_LARGE = "too_large"
    #: The content of a file is not what it must be.
    MALFORMED = "malformed"
    #: It belongs to another version than this engine's.
    STALE = "stale"
    #: A program, package, service or kernel function that is needed is not here.
    UNAVAILABLE = "unavailable"
    #: The engine or runsc does not do this.
    UNSUPPORTED = "unsupported"
    #: Another program failed.
    PROGRAM_FAILED = "program_failed"
    #: SANY or TLC does not accept the spec.
    SPEC_REJECTED = "spec_rejected"
    #: Another program took too long.
    TIME_LIMIT = "time_limit"
    #: Another program needs more memory than it was given.
    MEMORY_LIMIT = "memory_limit"


def all_reasons() -> tuple[str, ...]:
    """Every reason, in the order of `Reason`."""
    return tuple(value for name, value in vars(Reason).items() if name.isupper())


class EngineError(Exception):
    """A refusal by the engine.

    `step`: the part that refused; `reason`: the code; `what`: what is wrong and where; `hint`: what to do about it;
    `exit_code`: the exit code of the process. `trace`: the path of the refused run's trace, of the `container`.
    """

    step: str = "engine"
    exit_code: ClassVar[int] = 125
    trace: str | None = None
    container: str | None = None

    def __init__(self, what: str, *, reason: str, hint: str) -> None:
        self.reason = reason
        self.what = printable(what)
        self.hint = printable(hint)
        super().__init__(f"{self.step}: {self.what}; {self.hint}")


def as_refusal(error: Exception) -> EngineError:
    """The refusal for an unexpected error: one line, with `error` as its cause for `--debug`."""
    if isinstance(error, EngineError):
        return error
    if isinstance(error, OSError):
        refusal = EngineError(
            f"cannot go on: {error}", reason=Reason.FAILURE, hint=hint_for(error, "check that path")
        )
    else:
        refusal = EngineError(
            f"unexpected {type(error).__name__}",
            reason=Reason.UNEXPECTED,
            hint="run with --debug and report what it shows",
        )
    refusal.__cause__ = error
    return refusal


def stdout_refusal(error: OSError) -> EngineError:
    """The refusal of a command whose output is not all written."""
    return EngineError(
        f"stdout: {error.strerror}",
        reason=Reason.FAILURE,
        hint="what was printed is not whole: let stdout lead to where there is space",
    )


class UsageError(EngineError):
    """The command line is wrong; nothing was done."""

    step = "usage"
    exit_code = 2


class BundleError(EngineError):
    """The bundle may not be run; no lifecycle was started.

    `member`: the path of the wrong member of config.json, such as `$.root.path`.
    """

    step = "bundle"

    def __init__(self, what: str, *, reason: str, hint: str, member: str | None = None) -> None:
        self.member = member
        super().__init__(what, reason=reason, hint=hint)


class ProgramAbsentError(BundleError):
    """The container's program is not there; the exit code is that of a shell."""

    exit_code = 127


class ProgramNotExecutableError(BundleError):
    """The container's program cannot be executed; the exit code is that of a shell."""

    exit_code = 126


class PrivilegeError(EngineError):
    """The user may not do this; nothing was done."""

    step = "user"


class TraceError(EngineError):
    """The trace cannot be written, so the run stops."""

    step = "trace"


class StepError(EngineError):
    """A lifecycle step refuses."""


class ResolveError(StepError):
    step = "resolve"


class ValidateError(StepError):
    step = "validate"


class SecureRootError(StepError):
    step = "secure_root"


class StageError(StepError):
    step = "stage"


class PolicyError(StepError):
    step = "apply_policy"


class ExecError(StepError):
    step = "exec"


class FailedError(StepError):
    """An unexpected system error in a step; `step` is that step."""

    def __init__(self, step: str, error: OSError) -> None:
        self.step = str(step)
        where = f"{error.filename!r}: " if error.filename is not None else ""
        super().__init__(
            f"{where}{error.strerror or error}", reason=Reason.FAILURE, hint=hint_for(error, "run it again")
        )


class StoppedError(StepError):
    """A signal stopped the engine before the hand-off; `step` is the one that had not begun."""

    def __init__(self, step: str, signal_name: str) -> None:
        self.step = step
        super().__init__(f"stopped by {signal_name}", reason=Reason.STOPPED, hint="run it again")
