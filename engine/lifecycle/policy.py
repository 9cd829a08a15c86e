"""Step `apply_policy`: keeps a compromised supervisor from executing the host's programs.

Only for rootless runs, where runsc's supervisor keeps the caller's identity. Two backends: `locked_mounts`, which
`auto` takes, and `off`. docs/exec-policy.md says what is stopped.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence

from engine.bundle.bundle import Bundle
from engine.errors import PolicyError, Reason
from engine.lifecycle.outside import Outside
from engine.lifecycle.stage import Staged
from engine.linux.namespaces import sysctl
from engine.options import ExecPolicy, RunOptions
from engine.runsc.arguments import RUN, RunscArguments
from engine.traces.move import PolicyOutcome, Strength

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from engine.linux.locked_mounts import Tree
    from engine.traces.schema import ApplyPolicyFacts, Ids


class Policy:
    """The policy's outcome. `mechanism`: what enforces it; None if nothing does, and `reason` says why.

    `allowed`: paths beneath which files can still be executed, or of such files. `bypasses`: other ways to execute
    something that were found. `ids`: which ids the supervisor's own user namespace has, if it got one. `program`: the
    staged runsc, opened again in the new mount namespace; None if it was not.
    """

    def __init__(
        self,
        outcome: PolicyOutcome,
        mechanism: str | None = None,
        strength: Strength | None = None,
        allowed: tuple[str, ...] = (),
        bypasses: tuple[str, ...] = (),
        ids: Ids | None = None,
        reason: str | None = None,
        hint: str = "run without --require-exec-policy",
        program: int | None = None,
    ) -> None:
        self.outcome: Final = outcome
        self.mechanism: Final = mechanism
        self.strength: Final = strength
        self.allowed: Final = allowed
        self.bypasses: Final = bypasses
        self.ids: Final = ids
        self.reason: Final = reason
        self.hint: Final = hint
        self.program: Final = program

    def facts(self) -> ApplyPolicyFacts:
        return {
            "outcome": self.outcome,
            "mechanism": self.mechanism,
            "strength": self.strength,
            "allowed": list(self.allowed),
            "open": list(self.bypasses),
            "ids": self.ids,
            "reason": self.reason,
        }

    def discard(self) -> list[str]:
        """What was applied stays, and nothing was made."""
        return []

    def close(self) -> None:
        """Close the program, where it was opened."""
        if self.program is not None:
            os.close(self.program)


#: Applies a policy to this process for a bundle, the staged program and what runsc is told.
Backend = Callable[[Bundle, Staged, RunscArguments, Outside], Policy]


def apply_policy(
    options: RunOptions,
    bundle: Bundle,
    staged: Staged,
    runsc_arguments: RunscArguments = RUN,
    outside: Outside | None = None,
    *,
    backends: Mapping[ExecPolicy, Backend] | None = None,
) -> Policy:
    """Keep this process, which becomes the supervisor, from executing the host's programs, as `options` say.

    `outside` then has a process that is not confined.

    Raises `PolicyError` if the policy is required and not enforced, or was applied only in part.
    """
    if options.rootless:
        policy = (backends or BACKENDS)[options.exec_policy](
            bundle, staged, runsc_arguments, outside or Outside(lambda: ([], []))
        )
    else:
        reason = "it applies to --rootless runs"
        policy = Policy(
            PolicyOutcome.NOT_APPLICABLE, reason=reason, hint="add --rootless, or do not require it"
        )
    if options.require_exec_policy and policy.outcome is not PolicyOutcome.ENFORCED:
        raise PolicyError(
            f"the required execute policy is not enforced: {policy.reason}",
            reason=Reason.POLICY_NOT_ENFORCED,
            hint=policy.hint,
        )
    return policy


def _locked_mounts(
    bundle: Bundle, staged: Staged, runsc_arguments: RunscArguments, outside: Outside
) -> Policy:
    """Every mount noexec except those of the bundle's files and the staged ones, and sealed if these are read-only."""
    # Only for rootless runs.
    from engine.bundle.executable import bound_without_inner_mounts, executable_trees
    from engine.lifecycle.written_trees import (
        may_hold_programs_of,
        of_runsc,
        of_the_container,
        reach_the_engines_own,
    )
    from engine.linux import locked_mounts, seccomp
    from engine.linux.locked_mounts import UnusableError

    try:
        trees = executable_trees(bundle)
        if any(os.path.samestat(os.stat("/"), os.stat(tree.path)) for tree in trees):
            return _unavailable(
                "the bundle uses the host's / as files of the container, so all of it must stay executable",
                "bind-mount less of the host",
            )
        filters = seccomp.is_known_machine()
        state, given = of_runsc(staged), of_the_container(bundle, runsc_arguments)
        sealed = (
            filters
            and all(tree.read_only for tree in trees)
            and not may_hold_programs_of(trees, given)
            and not reach_the_engines_own(given, staged)
            and not bound_without_inner_mounts(bundle, [*state, *given])
        )
        own = [*_program_trees(staged), *state] if staged.sidecars else []
        if path := _within_our_own(trees, own):
            return _unavailable(
                f"the bundle uses {path!r}, which is the engine's own", "keep the container's files elsewhere"
            )
        if source := bound_without_inner_mounts(bundle, own):
            return _unavailable(
                f"the bundle binds {source!r} without what is mounted there, and runsc's files are beneath it",
                "bind it with the option rbind, or bind less of the host",
            )
        own_paths = {tree.path for tree in own}
        written = [tree for tree in (*state, *given) if sealed and tree.path not in own_paths]
        taken = [*trees, *own, *written]
        found = locked_mounts.probe(taken, sealed=sealed, outside=outside.serve)
        outside.helper = found.outside
    except UnusableError as error:
        return _unavailable(error.why, error.hint)
    except OSError as error:
        return _unavailable(f"{error.filename}: {error.strerror}", "check that path")
    left = (
        *_open_everywhere(),
        *_open_files(runsc_arguments.preserved),
        *(() if sealed else ("allowed", "mount")),
        *(() if filters else ("terminal",)),
    )
    try:
        locked_mounts.confine(found, sealed=sealed)
        program = _open_again(staged) if staged.sidecars else None
    except OSError as error:
        refusal = locked_mounts.explain(error)
        raise PolicyError(
            f"applied in part only: {refusal.why}", reason=Reason.POLICY_IN_PART, hint=refusal.hint
        ) from None
    return Policy(
        PolicyOutcome.ENFORCED,
        str(ExecPolicy.LOCKED_MOUNTS),
        Strength.SEALED if sealed else Strength.HOST,
        allowed=tuple(tree.path for tree in (*trees, *own) if tree.executable),
        bypasses=left,
        ids=found.ids.kind,
        program=program,
    )


def _program_trees(staged: Staged) -> list[Tree]:
    from engine.lifecycle.program_trees import program_trees  # only for a set

    return program_trees(staged)


def _within_our_own(trees: Sequence[Tree], own: Sequence[Tree]) -> str | None:
    """Which of the bundle's `trees` is in one of the engine's that must not be executable; None if there is none."""
    for tree in trees:
        path = os.path.realpath(tree.path)
        for other in own:
            if not other.executable and os.path.commonpath([path, other.path]) == other.path:
                return tree.path
    return None


def _open_again(staged: Staged) -> int:
    """Open the staged runsc by its path in the new mount namespace.

    runsc looks for its sidecars beside the path of its executable. If the old namespace ends, what was opened there
    loses the path of its mount, proc_pid_exe(5). Raises `OSError`.
    """
    program = os.open(staged.runsc.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not os.path.sameopenfile(program, staged.runsc.descriptor):
        os.close(program)
        raise OSError(errno.ESTALE, "it was replaced meanwhile", staged.runsc.path)
    return program


def _off(*_: object) -> Policy:
    return _unavailable("it was turned off with --exec-policy off", "leave --exec-policy at auto")


BACKENDS: Mapping[ExecPolicy, Backend] = {
    ExecPolicy.AUTO: _locked_mounts,
    ExecPolicy.LOCKED_MOUNTS: _locked_mounts,
    ExecPolicy.OFF: _off,
}


def _unavailable(reason: str, hint: str) -> Policy:
    return Policy(PolicyOutcome.UNAVAILABLE, reason=reason, hint=hint)


def _open_everywhere() -> tuple[str, ...]:
    """A file in memory is on no mount. vm.memfd_noexec, a setting of each PID namespace, can forbid to execute it."""
    value = sysctl("vm.memfd_noexec")
    return () if value == "2" else ("memfd",)


def _open_files(preserved: int) -> Iterator[str]:
    """The descriptors that runsc keeps and that are on an executable mount of the caller's.

    A file there can be executed, and of a directory all that is in it.
    """
    names = {0: "stdin", 1: "stdout", 2: "stderr"}
    for descriptor in range(3 + preserved):
        try:
            mode = os.fstat(descriptor).st_mode
            executable = not os.fstatvfs(descriptor).f_flag & os.ST_NOEXEC
        except OSError:  # closed
            continue
        if executable and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            yield names.get(descriptor, f"fd {descriptor}")
