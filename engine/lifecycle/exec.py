"""Step `exec`: runsc's arguments and environment, and the hand-off itself."""

from __future__ import annotations

from collections.abc import Mapping

from engine.bundle.bundle import Bundle
from engine.errors import ExecError, Reason, hint_for
from engine.lifecycle.given_config import GivenBundle
from engine.lifecycle.secure_root import StateDirs
from engine.lifecycle.stage import Staged
from engine.options import Platform, RunOptions
from engine.runsc.arguments import RUN, RunscArguments, build_argv, build_environment
from engine.runsc.execute import SignalGuard, become_runsc
from engine.traces.writer import bundle_facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NoReturn

    from engine.traces.given_schema import GivenFacts
    from engine.traces.header_schema import Bundle as BundleFacts
    from engine.traces.schema import ExecFacts


class HandOff:
    """The arguments of execve: the open `program`, `argv`, `environment`; the descriptors `kept` stay open in runsc."""

    def __init__(
        self,
        program: int,
        argv: tuple[str, ...],
        environment: Mapping[str, str],
        kept: frozenset[int],
        bundle: BundleFacts,
        config: GivenFacts,
    ) -> None:
        self.program: Final = program
        self.argv: Final = argv
        self.environment: Final = environment
        self.kept: Final = kept
        self.bundle: Final = bundle
        self.config: Final = config

    def facts(self) -> ExecFacts:
        return {
            "argv": list(self.argv),
            "environment": dict(self.environment),
            "bundle": self.bundle,
            "config": self.config,
        }


def prepare(
    bundle: Bundle,
    root: StateDirs,
    staged: Staged,
    given: GivenBundle,
    options: RunOptions,
    platform: Platform,
    runsc_arguments: RunscArguments = RUN,
    program: int | None = None,
    *,
    creation_flags: tuple[str, ...] = (),
) -> HandOff:
    """Check once more what runsc will read by path, and build its arguments and environment.

    `given`: the bundle that it reads. `program`: the staged runsc, if the policy opened it again. Raises `ExecError` if
    the root file system, a state directory or one of the copies has changed since it was checked or made.
    """
    if what := bundle.changed():
        raise ExecError(
            f"the bundle changed since it was validated: {what}",
            reason=Reason.BUNDLE_CHANGED,
            hint="run the bundle again",
        )
    if what := root.changed():
        raise ExecError(
            f"the state directories changed since they were secured: {what}",
            reason=Reason.ROOT_CHANGED,
            hint="run it again",
        )
    if what := staged.changed():
        raise ExecError(
            f"the staged copy may have changed: {what}",
            reason=Reason.COPY_CHANGED,
            hint="find out who writes there, and run it again",
        )
    if what := given.changed():
        raise ExecError(
            f"the copy of config.json may have changed: {what}",
            reason=Reason.COPY_CHANGED,
            hint="find out who writes there, and run it again",
        )
    return HandOff(
        program=staged.runsc.descriptor if program is None else program,
        argv=build_argv(
            staged.runsc.path,
            root.used_root.path,
            options,
            platform,
            given.path,
            runsc_arguments,
            creation_flags=creation_flags,
        ),
        environment=build_environment(root.runtime.path),
        kept=frozenset({root.lock, *range(3, 3 + runsc_arguments.preserved)}),
        bundle=bundle_facts(bundle, options),
        config=given.facts(),
    )


def hand_off(given: HandOff, process: SignalGuard) -> NoReturn:
    """Become runsc. Raises `ExecError` if execve fails: this process is then still the engine."""
    try:
        become_runsc(given.program, given.argv, given.environment, process, given.kept, has_output=True)
    except OSError as error:
        raise ExecError(
            f"the kernel refused to execute runsc: {error.filename!r}: {error.strerror}",
            reason=Reason.EXECVE_REFUSED,
            hint=hint_for(error, "check that this runsc is built for this machine, and mount /proc"),
        ) from None
