"""Step `secure_root`: makes or opens this container's directories, by descriptor, and takes its lock.

Every directory from `/` to the artifact base is opened without following links and checked. Below the base, each
directory is made by mkdirat(2) in one that is already open. No path is looked up twice.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping
from itertools import pairwise

from engine.errors import Reason, SecureRootError, hint_for
from engine.linux.files import PrivateDirectory, UntrustedPathError, is_text, make_private_directory
from engine.state.base import base_changed, chosen_base, open_base
from engine.state.cleanup import in_use_reason, remove_if_unused, remove_leftovers
from engine.state.container import EXEC_ALLOW, LOCK, RUNSC_ROOT, RUNTIME, component, open_container
from engine.state.programs import open_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from engine.traces.schema import Directory, Sandbox, SecureRootFacts

_HINT = (
    "make it a real directory that only root or you can write, or choose another base: ENGINE_ARTIFACT_BASE for "
    "engine run, --root for engine-oci"
)


class PodSandbox:
    """The live sandbox `id` that a pod's container joins, its directories open.

    `digest`: the SHA-256, in hexadecimal, of its copy of runsc.
    """

    def __init__(
        self,
        id: str,  # noqa: A002
        container: PrivateDirectory,
        runsc_root: PrivateDirectory,
        digest: str,
    ) -> None:
        self.id: Final = id
        self.container: Final = container
        self.runsc_root: Final = runsc_root
        self.digest: Final = digest

    def facts(self) -> Sandbox:
        return {
            "id": self.id,
            "directories": [_facts(self.container), _facts(self.runsc_root)],
            "sha256": self.digest,
        }


class StateDirs:
    """The container's directories, open; the descriptor `lock` that holds its lock; and the sandbox that it joined.

    `programs`: the directory of its stage directory and the store, if these lie apart from the state.
    """

    def __init__(
        self,
        base: PrivateDirectory,
        container: PrivateDirectory,
        runsc_root: PrivateDirectory,
        runtime: PrivateDirectory,
        lock: int,
        cleaned: tuple[str, ...],
        sandbox: PodSandbox | None = None,
        programs: PrivateDirectory | None = None,
    ) -> None:
        self.base: Final = base
        self.container: Final = container
        self.runsc_root: Final = runsc_root
        self.runtime: Final = runtime
        self.lock: Final = lock
        self.cleaned: Final = cleaned
        self.sandbox: Final = sandbox
        self.programs: Final = programs

    @property
    def directories(self) -> tuple[PrivateDirectory, ...]:
        """From the outermost in."""
        return self.base, self.container, self.runsc_root, self.runtime

    @property
    def used_root(self) -> PrivateDirectory:
        """The directory for runsc's `--root`, with the state of the whole sandbox."""
        return self.sandbox.runsc_root if self.sandbox else self.runsc_root

    def facts(self) -> SecureRootFacts:
        facts: SecureRootFacts = {
            "user": os.geteuid(),
            "directories": [_facts(directory) for directory in self.directories],
            "lock": os.path.join(self.container.path, LOCK),
            "cleaned": list(self.cleaned),
        }
        if self.sandbox:
            facts["sandbox"] = self.sandbox.facts()
        if self.programs:
            facts["programs"] = _facts(self.programs)
        return facts

    def changed(self) -> str | None:
        """How the directories have changed, in one phrase; None if each path still names what was secured.

        runsc gets its root by path, so each path is looked up again, from its parent's descriptor.
        """
        chains = [self.directories]
        if self.sandbox:
            chains.append((self.base, self.sandbox.container, self.sandbox.runsc_root))
        for chain in chains:
            for outer, inner in pairwise(chain):
                if what := inner.changed(outer.descriptor):
                    return what
        return base_changed(self.base) or (base_changed(self.programs) if self.programs else None)

    def discard(self) -> list[str]:
        """Remove what this run made and nothing else uses: what was removed. Raises `OSError`."""
        gone = []
        if _remove_if_empty(self.runsc_root.descriptor, EXEC_ALLOW):
            gone.append(os.path.join(self.runsc_root.path, EXEC_ALLOW))
        for outer, inner in ((self.runsc_root, self.runtime), (self.container, self.runsc_root)):
            if inner.is_named_in(outer.descriptor) and _remove_if_empty(
                outer.descriptor, os.path.basename(inner.path)
            ):
                gone.append(inner.path)
        if remove_if_unused(self.base, self.container):
            gone.append(self.container.path)
        return gone

    def close(self) -> None:
        """Close every descriptor, which also releases the lock."""
        for directory in self.directories:
            os.close(directory.descriptor)
        if self.sandbox:
            self.sandbox.container.close()
            self.sandbox.runsc_root.close()
        if self.programs:
            self.programs.close()
        os.close(self.lock)


def secure_root(
    container_id: str,
    environment: Mapping[str, str],
    join: Callable[[PrivateDirectory], PodSandbox | None] = lambda _: None,
) -> StateDirs:
    """Make or open `<base>/<component>/runsc-root/runtime` and take the container's lock.

    First the leftovers of an earlier run of this id are removed: with the lock, that run is known to be over. Then the
    place for programs is made or opened, if that lies apart (`engine.state.programs`). `join` gets the base and returns
    the sandbox that the container joins, if any.

    Raises `SecureRootError`: a link, a foreign owner, not a directory, `..` in the base, a parent that others can
    rewrite, or a live container of this id.
    """
    with contextlib.ExitStack() as undo:
        try:
            path = chosen_base(environment)
            # runsc's own state is JSON: it would read U+FFFD in the place of these bytes.
            if not is_text(path):
                raise UntrustedPathError(path, "is not UTF-8")
            base = open_base(path)
            undo.callback(os.close, base.descriptor)
            container, lock = open_container(base, component(container_id))
            undo.callback(os.close, container.descriptor)
            if lock is None:
                raise SecureRootError(
                    f"container {container_id!r} is alive",
                    reason=Reason.ALIVE,
                    hint="stop it, wait for its end, or choose another --id",
                )
            undo.callback(os.close, lock)
            if why := in_use_reason(base, container):
                raise SecureRootError(
                    f"container {container_id!r} {why}",
                    reason=Reason.KEPT,
                    hint="delete it, or choose another id",
                )
            undo.callback(_remove_if_unused, base, container)
            cleaned = remove_leftovers(base, container)
            runsc_root = _make(container, RUNSC_ROOT, undo)
            runtime = _make(runsc_root, RUNTIME, undo)
            programs = open_place(base)
            if programs is not None:
                undo.callback(programs.close)
            sandbox = join(base)
        except UntrustedPathError as error:
            raise SecureRootError(str(error), reason=Reason.ROOT_NOT_PRIVATE, hint=_HINT) from None
        except OSError as error:
            raise SecureRootError(
                f"{error.filename or 'the artifact base'!r}: {error.strerror}",
                reason=Reason.FAILURE,
                hint=hint_for(error, _HINT),
            ) from None
        undo.pop_all()
    return StateDirs(base, container, runsc_root, runtime, lock, tuple(cleaned), sandbox, programs)


def _make(parent: PrivateDirectory, name: str, undo: contextlib.ExitStack) -> PrivateDirectory:
    directory = make_private_directory(parent.descriptor, parent.path, name)
    undo.callback(os.close, directory.descriptor)
    if directory.created:
        undo.callback(_remove_if_empty, parent.descriptor, name)
    return directory


def _remove_if_unused(base: PrivateDirectory, container: PrivateDirectory) -> None:
    with contextlib.suppress(OSError):  # the refusal is what to report; gc removes the rest
        remove_if_unused(base, container)


def _remove_if_empty(parent: int, name: str) -> bool:
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError:  # gone already, or not empty
        return False
    return True


def _facts(directory: PrivateDirectory) -> Directory:
    status = os.fstat(directory.descriptor)
    return {
        "path": directory.path,
        "owner": status.st_uid,
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "created": directory.created,
    }
