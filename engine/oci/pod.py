"""Containers of a pod: those after the first run in the first one's sandbox, as the bundle's annotations say.

runsc finds that sandbox in its root, so all commands on a member use the sandbox's root. A member has its own trace,
lock, record and copy of runsc; the copies in a pod must have the same bytes. While a member has a record, the sandbox's
directory stays, even if the sandbox was deleted.

Lock order: a member's lock before its sandbox's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence

from engine.bundle.pods import CONTAINER, SANDBOX, SANDBOXES, TYPES, first, names_sandbox_alone
from engine.errors import EngineError, Reason, ResolveError, SecureRootError
from engine.lifecycle.resolve import resolve
from engine.lifecycle.secure_root import PodSandbox
from engine.linux.files import PrivateDirectory, UntrustedPathError, open_private_directory
from engine.linux.regular_files import Identity
from engine.oci.network import ANNOTATION
from engine.options import Network, Platform, RunOptions
from engine.state import record
from engine.state.base import open_existing_base
from engine.state.container import component, open_runsc_root, take_lock
from engine.state.oci_lifecycle import Status
from engine.state.record import Program, Record, Sandbox
from engine.state.status import inspect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Seconds to wait for a command that creates or deletes the sandbox.
_TIMEOUT = 10.0
_HINT = "create the pod's sandbox first, with the same --root, or take the annotation out of config.json"


class PodError(EngineError):
    """The annotations do not name a valid sandbox."""

    step = "pod"


def sandbox_of(config: Mapping[str, Any]) -> str | None:
    """The id of the sandbox for the bundle with this `config`; None for its own.

    Raises `PodError`.
    """
    annotations = config.get("annotations") or {}
    key = first(TYPES, annotations)
    if key is None or annotations[key] == SANDBOX:
        return None
    if annotations[key] != CONTAINER:
        raise PodError(
            f"annotation {key} is {annotations[key]!r}",
            reason=Reason.POD_ANNOTATION,
            hint=f"give {SANDBOX} or {CONTAINER}, or leave it out",
        )
    names = first(SANDBOXES, annotations)
    if names is None or not annotations[names]:
        raise PodError(
            f"annotation {key} is {CONTAINER}, but no annotation names a sandbox",
            reason=Reason.POD_ANNOTATION,
            hint=f"give {SANDBOXES[0]}",
        )
    return str(annotations[names])


def named_sandbox(config: Mapping[str, Any], base_path: str, container_id: str) -> str | None:
    """The sandbox under `base_path` that the `config` names without more, as podman 5 does; None for its own.

    podman names the pod itself where that has no sandbox, and where the container is it. So a sandbox names a pod, too;
    any other container is nobody's sandbox, whoever could put its id among the annotations.
    """
    name = names_sandbox_alone(config)
    if name is None or name == container_id:
        return None
    found = _recorded(base_path, name)
    if found is None:
        return None
    noted, _ = found
    is_of_a_pod = noted.id == name and noted.sandbox is None and noted.annotations.get(SANDBOXES[1])
    return name if is_of_a_pod else None


def _recorded(base_path: str, container_id: str) -> tuple[Record, str] | None:
    """A container's record under `base_path`, and the path of its directory; None if none can be trusted."""
    with contextlib.suppress(OSError, UntrustedPathError), contextlib.ExitStack() as held:
        base = open_existing_base(base_path)
        if base is not None:
            held.callback(base.close)
            directory = open_private_directory(base.descriptor, base.path, component(container_id))
            held.callback(directory.close)
            noted = record.read(directory)
            return None if noted is None else (noted, directory.path)
    return None


def as_in_sandbox(
    options: RunOptions,
    environment: Mapping[str, str],
    base_path: str,
    sandbox_id: str,
    *,
    network_is_chosen: bool,
) -> tuple[RunOptions, dict[str, str]]:
    """The `options` with the sandbox's runsc, platform and network unless chosen, and annotations for `state`.

    Without such a sandbox they are unchanged: `join` refuses and records it.
    """
    found = _recorded(base_path, sandbox_id)
    if found is None:
        return options, {}
    noted, directory = found
    if noted.program is None:
        return options, {}
    if options.runsc is None:
        options = options.given(runsc=_runsc_of(noted.program, directory, environment))
    if options.platform is Platform.AUTO and (platform := _value(noted.flags, "--platform")):
        options = options.given(platform=Platform(platform))
    if not network_is_chosen:
        network = noted.flags[noted.flags.index("--network") + 1]
        why = noted.annotations.get(ANNOTATION)
        return options.given(network=Network(network)), {ANNOTATION: why} if why else {}
    return options, {}


def _runsc_of(program: Program, directory: str, environment: Mapping[str, str]) -> str | None:
    """The file that the sandbox's runsc was made from, as its creation found it: from there both link one copy.

    After an upgrade it is another; then the sandbox's own copy, in its `directory`.
    """
    with contextlib.suppress(OSError, ResolveError):
        source = program.chosen or resolve(None, environment).path
        if Identity.of(os.stat(source)).facts() == program.made_from:
            return program.chosen
    return os.path.join(directory, program.path)


def _value(flags: Sequence[str], name: str) -> str | None:
    """The value of the global flag `name` among those of a record; None if it is not there."""
    return flags[flags.index(name) + 1] if name in flags else None


def _require_same(sandbox_id: str, flags: Sequence[str], options: RunOptions) -> None:
    """Raise `SecureRootError` where the member's options say what its sandbox, with these `flags`, does not do."""
    pairs = [
        (f"--network {_value(flags, '--network')}", f"--network {options.network}"),
        (f"--platform {_value(flags, '--platform')}", f"--platform {options.platform}"),
    ]
    if options.platform is Platform.AUTO:
        pairs.pop()
    if options.runsc_flags or any(flag.startswith("--") and "=" in flag for flag in flags):
        from engine.runsc_flags import of_sentry

        theirs, ours = (", ".join(sorted(of_sentry(each))) for each in (flags, options.runsc_flags))
        pairs.append((theirs, ours))
    for has, wanted in pairs:
        if has != wanted:
            raise SecureRootError(
                f"sandbox {sandbox_id!r} runs with {has or 'no such flags'}, not with {wanted or 'none of them'}",
                reason=Reason.NO_SANDBOX,
                hint="give the flags with which the sandbox was created, or create the pod anew",
            )


def join(base: PrivateDirectory, sandbox_id: str, options: RunOptions) -> tuple[PodSandbox, Sandbox, int]:
    """Lock the live sandbox with this id; returns it for the run, for the record, and the lock's descriptor.

    `options`: of the member. While the lock is held the sandbox is not deleted; afterwards the member's record protects
    its directory. Raises `SecureRootError` if there is no live sandbox, or it does not do what the options say;
    `UntrustedPathError` and `OSError`.
    """

    def refused(why: str) -> SecureRootError:
        return SecureRootError(f"sandbox {sandbox_id!r} {why}", reason=Reason.NO_SANDBOX, hint=_HINT)

    with contextlib.ExitStack() as undo:
        try:
            directory = open_private_directory(base.descriptor, base.path, component(sandbox_id))
        except FileNotFoundError:
            raise refused("does not exist here") from None
        undo.callback(directory.close)
        noted = record.read(directory)
        if noted is None or noted.id != sandbox_id:
            raise refused("does not exist here")
        lock = take_lock(directory, _TIMEOUT)
        if lock is None:
            raise refused("is being created or deleted by another command")
        undo.callback(os.close, lock)
        noted = record.read(directory)
        if noted is None or noted.program is None:
            raise refused("does not exist here")
        if noted.sandbox is not None:
            raise refused(f"is itself a member of the sandbox {noted.sandbox.id!r}")
        status = inspect(base, directory, noted).status
        if status not in (Status.CREATED, Status.RUNNING):
            raise refused("does not exist here" if status is Status.DELETED else f"is {status}")
        _require_same(sandbox_id, noted.flags, options)
        root = open_runsc_root(directory)
        undo.pop_all()
    joined = PodSandbox(sandbox_id, directory, root, noted.program.sha256)
    return joined, Sandbox(sandbox_id, noted.creation, noted.program), lock
