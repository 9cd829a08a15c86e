"""The common part of create, run and restore: the modelled lifecycle, in a child process.

The child takes the run's steps and becomes `runsc create`. The parent forwards signals and returns the exit code. If
the creation fails, the parent removes what it left. If the parent is killed, the kernel kills the child (prctl(2),
PR_SET_PDEATHSIG), and the next command finds the leftovers by the record.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from engine.bundle.bundle import Bundle, open_bundle, starts_as_usual
from engine.bundle.given import given_config
from engine.bundle.pods import MEMBER, of_sandbox
from engine.enforcement.judge import for_state
from engine.errors import EngineError, ExecError, Reason, SecureRootError, hint_for, printable
from engine.lifecycle.runner import run
from engine.lifecycle.secure_root import PodSandbox, StateDirs
from engine.lifecycle.stage import Staged
from engine.lifecycle.staged_file import StagedFile
from engine.linux.boot import boot_id
from engine.linux.files import PrivateDirectory, UntrustedPathError
from engine.linux.process import die_with_parent, started
from engine.oci import pod
from engine.oci.container import ContainerError, NoSuchError
from engine.oci.lookup import find, kept_elsewhere
from engine.oci.network import ANNOTATION, choose_network
from engine.oci.removal import remove, remove_partial_create
from engine.oci.request import Request, say
from engine.oci.run_options import creation_flags, options_of, without_pid_file
from engine.options import Platform, RunOptions
from engine.runsc.arguments import RunscArguments, build_global_flags
from engine.state import cgroups, elsewhere, evidence, record
from engine.state.base import VARIABLE, default_base, open_base
from engine.state.cleanup import forget
from engine.state.container import GIVEN_BUNDLE, OCI_RECORD, component
from engine.state.record import Program, Record, Sidecar
from engine.traces.chained import ChainedRun
from engine.traces.writer import Trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Final, NoReturn

    from engine.enforcement.judge import Unenforced

_FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class _Recorded:
    """Lets a refused run remove the record."""

    def __init__(self, base: PrivateDirectory, container: PrivateDirectory) -> None:
        self.base: Final = base
        self.container: Final = container

    def discard(self) -> list[str]:
        gone = forget(self.base, self.container)
        return [os.path.join(self.container.path, OCI_RECORD)] if gone else []

    def close(self) -> None:
        """Nothing to close."""


class _Creation:
    """What a manager's container adds to the run: the place of its trace, and its record."""

    def __init__(
        self,
        options: RunOptions,
        bundle: Bundle,
        runsc_arguments: RunscArguments,
        traces: PrivateDirectory,
        creation: str,
        more: Mapping[str, str],
        sandbox_id: str | None,
        network_at_start: str | None,
    ) -> None:
        self.runsc_arguments = runsc_arguments
        self._sandbox_id = sandbox_id
        self._joining: int | None = None
        self._options = options
        self._traces = traces
        self._config = config = bundle.config
        from datetime import UTC, datetime

        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        self._record = Record(
            id=options.container_id,
            bundle=bundle.path,
            creation=creation,
            creator=(os.getpid(), started(os.getpid()) or 0),
            created=now,
            oci_version=config["ociVersion"],
            annotations={**record.without_own(config.get("annotations") or {}), **more},
            boot=boot_id(),
            network_at_start=network_at_start,
            given=GIVEN_BUNDLE,
        )

    @property
    def joins_a_pod(self) -> bool:
        return self._sandbox_id is not None

    def keep_trace(self, trace: Trace) -> ChainedRun:
        return ChainedRun(self._traces, trace, self._record.id)

    def learned(self, found: Sequence[Unenforced]) -> None:
        self._record.annotations = {**self._record.annotations, **for_state(found)}

    def join(self, base: PrivateDirectory) -> PodSandbox | None:
        if self._sandbox_id is None:
            return None
        joined, noted, self._joining = pod.join(base, self._sandbox_id, self._options)
        self._record.sandbox = noted
        return joined

    def secured(self, root: StateDirs, trace: str | None) -> _Recorded:
        self._record.trace = trace
        self._write(root, SecureRootError)
        if self._joining is not None:
            os.close(self._joining)  # from here on the record protects the sandbox's directory
        return _Recorded(root.base, root.container)

    def about_to_hand_off(self, root: StateDirs, staged: Staged, platform: Platform) -> None:
        status = os.fstat(staged.runsc.descriptor)
        program = Program(
            path=staged.runsc.path
            if root.programs
            else os.path.relpath(staged.runsc.path, root.container.path),
            sha256=staged.runsc.digest,
            device=status.st_dev,
            inode=status.st_ino,
            size=status.st_size,
            modified=status.st_mtime_ns,
            sidecars=tuple(_noted(sidecar) for sidecar in staged.sidecars),
            chosen=self._options.runsc and os.path.abspath(self._options.runsc),
            made_from=staged.runsc.pinned.facts(),
        )
        flags = build_global_flags(root.used_root.path, self._options, platform)
        own = tuple(flag for flag in self.runsc_arguments.global_flags if flag == "--systemd-cgroup")
        made = () if self._options.ignore_cgroups else cgroups.missing(self._config, self._record.id)
        self._record.program, self._record.flags, self._record.cgroups = program, (*flags, *own), made
        self._write(root, ExecError)

    def _write(self, root: StateDirs, refusal: type[SecureRootError | ExecError]) -> None:
        try:
            record.write(root.container, self._record)
        except OSError as error:
            raise refusal(
                f"{error.filename!r}: {error.strerror}",
                reason=Reason.FAILURE,
                hint=hint_for(error, "create it again"),
            ) from None


def _noted(sidecar: StagedFile) -> Sidecar:
    status = os.fstat(sidecar.descriptor)
    return Sidecar(sidecar.name, status.st_dev, status.st_ino)


def start(request: Request, flags: Sequence[str], *, ends_with_runsc: bool) -> int:
    """Take the bundle through the lifecycle to `runsc VERB`; returns the exit code.

    `ends_with_runsc`: the container ends with that process, and everything of it is removed then.
    """
    options = options_of(request)
    runsc_arguments = RunscArguments(
        verb=request.verb,
        flags=(*creation_flags(request), *flags),
        global_flags=(
            *request.log_flags(),
            *(("--systemd-cgroup",) if request.common.has("systemd-cgroup") else ()),
        ),
        preserved=request.flags.number("preserve-fds"),
    )
    pidfd_socket = None
    if request.flags.value("pidfd-socket"):
        from engine.oci import pidfd

        pidfd_socket = pidfd.connect(request, is_detached=not ends_with_runsc)
    creation = os.urandom(16).hex()
    path = _make_base(request)
    if request.common.value("root") is None and not request.environment.get(VARIABLE):
        _require_unique(
            request, options.container_id
        )  # the next verb may not say which of two it means either
    if request.common.value("root") is None and path != default_base():
        elsewhere.note(component(options.container_id), path)
    environment = {**request.environment, VARIABLE: path}
    sys.stdout.flush()
    held_log = request.hold_log()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _become(
            request, options, runsc_arguments, environment, creation, parent, ends_with_runsc=ends_with_runsc
        )
    code = wait_for(child)
    if held_log is not None:
        os.close(held_log)
    if code == 0 and not ends_with_runsc:
        code = _start_monitor(request, options.container_id, creation, pidfd_socket)
    if code != 0 or ends_with_runsc:
        _take_away(request, options.container_id, creation)
    return code


def _become(
    request: Request,
    options: RunOptions,
    runsc_arguments: RunscArguments,
    environment: dict[str, str],
    creation: str,
    parent: int,
    *,
    ends_with_runsc: bool,
) -> NoReturn:
    """The child: it becomes runsc or reports why not."""
    code = EngineError.exit_code

    def warn(text: str) -> None:
        if request.verb == "run":  # create's stderr is the container's, and its log is for errors only
            say(f"engine-oci: warning: {printable(text)}")

    try:
        die_with_parent(parent)
        path = request.flags.value("bundle") or "."
        with open_bundle(path, require_strict=options.require_strict_bundle) as bundle:
            more: dict[str, str] = {}
            network_at_start: str | None = None
            network_is_chosen = request.common.value("network") not in (None, "auto")
            base_path = environment[VARIABLE]
            sandbox_id = pod.sandbox_of(bundle.config)
            if sandbox_id is None:
                sandbox_id = pod.named_sandbox(bundle.config, base_path, options.container_id)
                added = MEMBER if sandbox_id else {} if options.ignore_cgroups else of_sandbox(bundle.config)
                if added:
                    bundle.given = given_config(bundle.data, bundle.config, bundle.path, bundle.digest, added)
            if sandbox_id is not None:
                if not ends_with_runsc:
                    runsc_arguments = without_pid_file(runsc_arguments)
                options, more = pod.as_in_sandbox(
                    options, environment, base_path, sandbox_id, network_is_chosen=network_is_chosen
                )
            elif not network_is_chosen:
                options, why, network_at_start = choose_network(
                    bundle.config, options, request.environment, starts_at_once=ends_with_runsc
                )
                if why is not None:
                    more[ANNOTATION] = why
                    warn(f"{options.container_id!r} has no network: {why}")
            if not starts_as_usual(bundle, options):
                from engine.bundle.program import check

                has_terminal = True if request.flags.value("console-socket") else None
                check(bundle, options, with_program=request.verb != "restore", has_terminal=has_terminal)
            traces = _open_traces(base_path, environment)
            run(
                bundle,
                options,
                environment,
                manager=_Creation(
                    options, bundle, runsc_arguments, traces, creation, more, sandbox_id, network_at_start
                ),
                warn=warn,
            )
    except EngineError as error:
        request.report(error)
        code = error.exit_code
    except BaseException as error:  # a bug of ours; the child must not return into the parent's code
        request.report(
            EngineError(
                f"unexpected {type(error).__name__}",
                reason=Reason.UNEXPECTED,
                hint="run with --debug and report what it shows",
            )
        )
        if request.common.has("debug"):
            import traceback

            say(traceback.format_exc())
    os._exit(code)


def wait_for(child: int) -> int:
    """Forward signals to `child` until it ends. Returns its exit code, or 128 plus the signal that killed it."""
    held = os.pidfd_open(child)  # once it is reaped, its pid may be another's

    def forward(number: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(held, number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(held)
    return status if status >= 0 else 128 - status


def _start_monitor(
    request: Request, container_id: str, creation: str, pidfd_socket: socket.socket | None
) -> int:
    """Start the monitor process of a pod member; other containers use the sandbox's pid. Returns the exit code."""
    try:
        with find(request, container_id) as found:
            if found.record.sandbox is not None:
                with found.locked():
                    if (noted := record.read(found.directory)) is not None and noted.creation == creation:
                        pid_file = request.flags.value("pid-file")
                        found = found.with_record(noted)  # noqa: PLW2901 (the same one)
                        found.start_monitor(pid_file and os.path.abspath(pid_file))
            if pidfd_socket is not None:
                from engine.oci import pidfd

                pidfd.send(request, pidfd_socket, found.state().pid)
    except ContainerError as error:
        request.report(error)
        return EngineError.exit_code
    return 0


def _take_away(request: Request, container_id: str, creation: str) -> None:
    """Remove what this creation left. A container of that id from another creation is not touched."""
    try:
        with find(request, container_id) as found:
            if found.record.creation != creation:
                return
            with found.locked():
                if (noted := record.read(found.directory)) is not None and noted.creation == creation:
                    remove(found, force=True)
    except NoSuchError:
        with contextlib.suppress(ContainerError):  # the next command on it reports the reason
            remove_partial_create(request, container_id)
    except ContainerError as error:
        if error.reason != Reason.ROOT_NOT_PRIVATE:  # where nothing could be made, nothing is left
            say(f"engine-oci: warning: {error}")


def _make_base(request: Request) -> str:
    try:
        return request.base(make=True)
    except FileNotFoundError as error:
        raise SecureRootError(
            f"{error.filename!r}: {error.strerror}",
            reason=Reason.FAILURE,
            hint="create it, or give another with --root",
        ) from None


def _require_unique(request: Request, container_id: str) -> None:
    """Raise `SecureRootError` where a container of this id is in another base, and `ContainerError`."""
    if other := kept_elsewhere(request, container_id):
        raise SecureRootError(
            f"container {container_id!r} exists in {other!r}",
            reason=Reason.KEPT,
            hint="delete it, or choose another id",
        )


def _open_traces(base_path: str, environment: Mapping[str, str]) -> PrivateDirectory:
    """Open the directory of the traces; create it if needed. Raises `SecureRootError` and `TraceError`."""
    try:
        with contextlib.closing(open_base(base_path)) as base:
            return evidence.open_place(base, environment)
    except UntrustedPathError as error:
        raise SecureRootError(
            str(error), reason=Reason.ROOT_NOT_PRIVATE, hint="give another directory with --root"
        ) from None
    except OSError as error:
        raise SecureRootError(
            f"{error.filename or base_path!r}: {error.strerror}",
            reason=Reason.FAILURE,
            hint=hint_for(error, "give another directory with --root"),
        ) from None
