"""Takes a run through the six steps of the machine, writes the trace, and undoes what a refused run made.

The machine says what may happen, the steps do it; only here are the two combined.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

from engine import __version__
from engine.bundle.bundle import Bundle
from engine.enforcement.judge import warnings
from engine.errors import EngineError, ExecError, FailedError, Reason, StoppedError, TraceError
from engine.lifecycle.exec import HandOff, hand_off, prepare
from engine.lifecycle.given_config import give_config
from engine.lifecycle.machine import Lifecycle
from engine.lifecycle.outside import Cleaned, Outside
from engine.lifecycle.policy import apply_policy
from engine.lifecycle.resolve import resolve
from engine.lifecycle.secure_root import PodSandbox, StateDirs, secure_root
from engine.lifecycle.spec_graph import SpecLifecycle, spec_graph
from engine.lifecycle.stage import Staged, stage
from engine.lifecycle.validate import Validated, hold_against, validate
from engine.linux.files import PrivateDirectory, UntrustedPathError
from engine.options import Network, Platform, RunOptions
from engine.runsc.arguments import RUN, RunscArguments
from engine.runsc.execute import SignalGuard
from engine.state import cgroups, evidence
from engine.state.base import chosen_base, open_base
from engine.traces.chained import ChainedRun
from engine.traces.move import PolicyOutcome, Trigger
from engine.traces.writer import Trace, header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn, Protocol, TypeVar

    from engine.enforcement.judge import Unenforced
    from engine.lifecycle.supervisor import Channel
    from engine.traces.refusal_schema import Error, RefuseFacts

    class Undoable(Protocol):
        """What a run made: `discard` removes it, `close` closes its descriptors."""

        def discard(self) -> list[str]: ...

        def close(self) -> None: ...

    Made = TypeVar("Made", bound=Undoable)

    class Manager(Protocol):
        """The manager of the container, beyond the run: its arguments for runsc, and what it records of the run."""

        @property
        def runsc_arguments(self) -> RunscArguments: ...

        @property
        def joins_a_pod(self) -> bool:
            """Whether the container runs in a pod's sandbox."""

        def keep_trace(self, trace: Trace) -> ChainedRun | None:
            """Create the trace's file, before the first step. Raises `EngineError`."""

        def learned(self, found: Sequence[Unenforced]) -> None:
            """What of the bundle runsc will not do as asked, in order of danger."""

        def join(self, base: PrivateDirectory) -> PodSandbox | None:
            """The sandbox under `base` that the container joins, if any. Raises what `secure_root` catches."""

        def secured(self, root: StateDirs, trace: str | None) -> Undoable:
            """The container's directory exists and is locked. Raises `EngineError`."""

        def about_to_hand_off(self, root: StateDirs, staged: Staged, platform: Platform) -> None:
            """Called just before the run is recorded as handed off. Raises `EngineError`."""


#: How the warning begins that says so; why, follows.
NO_TRACE = "no trace of this refusal was kept"


def run(
    bundle: Bundle,
    options: RunOptions,
    environment: Mapping[str, str],
    *,
    trace_path: str | None = None,
    manager: Manager | None = None,
    supervisor: Channel | None = None,
    warn: Callable[[str], None] = lambda _: None,
    announce: Callable[[str], None] = lambda _: None,
) -> NoReturn:
    """Take the bundle through the lifecycle; a successful run becomes runsc and never returns.

    `environment`: the caller's; the places of state and traces and (not as root) PATH are read from it. `supervisor`:
    gets what it needs just before execve. `warn` gets one line about a run that continues, `announce` the trace's path
    just before the hand-off. Raises `EngineError`, after the refusal was recorded and what this run made was removed.
    """
    for grant in bundle.grants:
        warn(str(grant))
    opened = [("host_network", "--network host")] if options.network is Network.HOST else []
    opened += [(code, f"runsc's {flag}") for code, flag in options.opened_by_flags()]
    if opened:
        from engine.bundle.grant_codes import CODES

        for code, by in opened:
            warn(f"{CODES[code]} ({by})")
    graph = spec_graph()
    digest = _root_digest(bundle, warn) if options.root_digest else None
    known = header(__version__, graph.spec, options, bundle, digest)
    trace = Trace(options.container_id, known)
    with SignalGuard() as process:
        chained = None
        if trace_path is not None:
            trace.create(trace_path)
        elif manager is not None:
            chained = manager.keep_trace(trace)
        lifecycle = SpecLifecycle({**known, "container": options.container_id}, trace.move, graph)
        _Run(
            *(bundle, options, environment, trace, lifecycle, warn, process, manager, supervisor),
            *(announce, chained),
        ).go()
    raise AssertionError("unreachable: a run is handed off or raises")


def _root_digest(bundle: Bundle, warn: Callable[[str], None]) -> str | None:
    from engine.bundle.root_digest import UnknownDigestError, root_digest

    try:
        return root_digest(bundle.rootfs_directory)
    except UnknownDigestError as error:
        warn(f"the digest of the root file system is unknown: {error}")
        return None


class _Refusal:
    def __init__(self, error: EngineError, cleaned: tuple[str, ...], left: tuple[str, ...]) -> None:
        self.error: Final = error
        self.cleaned: Final = cleaned
        self.left: Final = left

    def facts(self) -> dict[str, Any]:
        given = self.error
        error: Error = {"step": given.step, "reason": given.reason, "what": given.what, "hint": given.hint}
        facts: RefuseFacts = {"cleaned": list(self.cleaned), "left": list(self.left)}
        return {"error": error, **facts}


class _Run:
    def __init__(
        self,
        bundle: Bundle,
        options: RunOptions,
        environment: Mapping[str, str],
        trace: Trace,
        lifecycle: Lifecycle,
        warn: Callable[[str], None],
        process: SignalGuard,
        manager: Manager | None,
        supervisor: Channel | None,
        announce: Callable[[str], None],
        chained: ChainedRun | None,
    ) -> None:
        self._chained = chained
        self._process = process
        self._announce = announce
        self._supervisor = supervisor
        self._manager = manager
        self._bundle = bundle
        self._options = options
        self._environment = environment
        self._trace = trace
        self._lifecycle = lifecycle
        self._warn = warn
        self._made: list[Undoable] = []
        self._outside = Outside(self._discard)
        self._known_outside = 0
        self._step = Trigger.RESOLVE

    def go(self) -> None:
        try:
            self._walk()
        except EngineError as error:
            self._refuse(error)
            raise
        except OSError as error:
            failure = FailedError(self._step, error)
            self._refuse(failure)
            raise failure from error
        except Exception as error:
            fault = EngineError(
                f"unexpected {type(error).__name__} in {self._step}",
                reason=Reason.UNEXPECTED,
                hint="run with --debug and report what it shows",
            )
            self._refuse(fault)
            raise fault from error

    def _walk(self) -> None:
        options, lifecycle, process = self._options, self._lifecycle, self._process

        def begin(trigger: Trigger) -> Trigger:
            self._step = trigger
            if process.arrived:
                raise StoppedError(trigger, process.arrived)
            return trigger

        resolved = lifecycle.perform(
            begin(Trigger.RESOLVE), lambda: resolve(options.runsc, self._environment)
        )
        joins = self._manager is not None and self._manager.joins_a_pod
        binary = lifecycle.perform(
            begin(Trigger.VALIDATE),
            lambda: self._keep(
                hold_against(validate(resolved, options.platform), self._bundle, options, joins)
            ),
        )
        if options.platform is Platform.AUTO and binary.platform is not Platform.SYSTRAP:
            self._warn(f"platform {binary.platform}: this runsc has no systrap")
        for text in warnings(self._bundle, options, binary.unenforced or ()):
            self._warn(text)
        if self._manager is not None:
            self._manager.learned(binary.unenforced or ())
        root = lifecycle.perform(begin(Trigger.SECURE_ROOT), self._secure_root)
        staged = lifecycle.perform(begin(Trigger.STAGE), lambda: self._keep(stage(binary, root)))
        self._known_outside = len(self._made)
        policy = lifecycle.perform(
            begin(Trigger.APPLY_POLICY),
            lambda: self._keep(
                apply_policy(options, self._bundle, staged, self._runsc_arguments(), self._outside)
            ),
        )
        if policy.outcome is PolicyOutcome.UNAVAILABLE:
            self._warn(f"no execute policy: {policy.reason}")
        process.block()
        lifecycle.perform(
            begin(Trigger.EXEC),
            lambda: self._prepare(root, staged, binary, policy.program),
            commit=lambda given: self._hand_off(given, root),
        )

    def _hand_off(self, given: HandOff, root: StateDirs) -> NoReturn:
        """Become runsc; a supervisor first gets what it needs. Raises `ExecError`, and `OSError` if it is gone."""
        if self._trace.path is not None:
            self._announce(self._trace.path)
        if self._chained is not None:
            try:
                self._chained.end(self._trace)
            except TraceError as error:
                raise ExecError(error.what, reason=error.reason, hint=error.hint) from None
        if self._supervisor is not None:
            self._supervisor.hand_over(root, self._trace, given, self._chained)
        try:
            hand_off(given, self._process)
        except BaseException:
            if self._supervisor is not None:
                self._supervisor.take_back()
            raise

    def _keep(self, made: Made) -> Made:
        """Remember what to remove if the run is refused."""
        self._made.append(made)
        return made

    def _secure_root(self) -> StateDirs:
        join = self._manager.join if self._manager is not None else lambda _: None
        root = self._keep(secure_root(self._options.container_id, self._environment, join))
        self._create_trace(root.base)
        if self._manager is not None:
            self._keep(self._manager.secured(root, self._trace.path))
        return root

    def _create_trace(self, base: PrivateDirectory) -> None:
        """Give the run its number, and the trace a file where those of containers in `base` lie unless it has one.

        Raises `TraceError`.
        """
        if self._chained is None:
            with contextlib.closing(evidence.open_place(base, self._environment)) as place:
                self._chained = ChainedRun(place, self._trace, self._options.container_id)

    def _prepare(self, root: StateDirs, staged: Staged, binary: Validated, program: int | None) -> HandOff:
        if self._manager is not None:
            self._manager.about_to_hand_off(root, staged, binary.platform)
        elif not self._options.ignore_cgroups:
            made = cgroups.missing(self._bundle.config, self._options.container_id)
            self._keep(cgroups.note(root.container, made))
        return prepare(
            self._bundle,
            root,
            staged,
            self._keep(give_config(root.runsc_root, self._bundle.given)),
            self._options,
            binary.platform,
            self._runsc_arguments(),
            program,
            creation_flags=binary.capabilities.creation_flags(),
        )

    def _runsc_arguments(self) -> RunscArguments:
        return RUN if self._manager is None else self._manager.runsc_arguments

    def _refuse(self, error: EngineError) -> None:
        """Remove what was made, record the refusal, and only then release the lock."""
        later = self._discard(self._known_outside) if self._outside.helper else ([], [])
        cleaned, left = (since + rest for since, rest in zip(later, self._outside.clean(), strict=True))
        self._outside.end()
        with contextlib.ExitStack() as open_until_recorded:
            for made in self._made:
                open_until_recorded.callback(made.close)
            open_until_recorded.callback(self._close_trace)
            try:
                if self._trace.path is None:
                    self._find_a_place_for_the_trace()
                self._lifecycle.perform(Trigger.REFUSE, lambda: _Refusal(error, tuple(cleaned), tuple(left)))
                error.trace = self._trace.path
                if self._trace.is_lost:
                    self._warn(f"{NO_TRACE}: somebody removed it")
            except TraceError as lost:
                if not isinstance(error, TraceError) or self._trace.path is not None:
                    self._warn(f"{NO_TRACE}: {lost.what}; {lost.hint}")
            else:
                self._end_in_chain()

    def _end_in_chain(self) -> None:
        """Note the refusal's line in the chain over the runs."""
        if self._chained is not None:
            try:
                self._chained.end(self._trace)
            except TraceError as lost:
                self._warn(f"the chain over the runs has no end of this one: {lost.what}; {lost.hint}")

    def _discard(self, first: int = 0) -> Cleaned:
        """Remove what was made from the `first` on, the latest first."""
        cleaned: list[str] = []
        left: list[str] = []
        for made in reversed(self._made[first:]):
            try:
                cleaned += made.discard()
            except OSError as failure:
                left.append(f"{failure.filename or type(made).__name__}: {failure.strerror}")
        return cleaned, left

    def _close_trace(self) -> None:
        if self._chained is not None:
            try:
                self._chained.close()
            except OSError as lost:
                self._warn(f"the chain over the runs may lack the end of this one: {lost.strerror}")
        try:
            self._trace.close()
        except TraceError as lost:
            self._warn(f"the trace of this refusal may be cut: {lost.what}; {lost.hint}")

    def _find_a_place_for_the_trace(self) -> None:
        """Give the trace of a run that was refused before it had directories the file that it would have had."""
        try:
            base = open_base(chosen_base(self._environment))
        except (OSError, UntrustedPathError) as error:
            raise TraceError(
                str(error),
                reason=Reason.FAILURE if isinstance(error, OSError) else Reason.ROOT_NOT_PRIVATE,
                hint="give a path with --trace FILE",
            ) from None
        with contextlib.closing(base):
            self._create_trace(base)
