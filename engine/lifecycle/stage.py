"""Step `stage`: a private copy of each pinned file, to be executed.

The bytes come from the descriptor that `validate` pinned, never from the path; or from a copy in the store, which an
earlier run made of a file with the same identity. That is compared with the pinned file unless the effective user owns
the binary. No fsync: a container does not survive a crash of the machine either.
"""

from __future__ import annotations

import contextlib
import os
from itertools import pairwise

from engine.errors import Reason, StageError, hint_for
from engine.lifecycle.secure_root import StateDirs
from engine.lifecycle.staged_file import StagedFile, stage_file
from engine.lifecycle.validate import Validated
from engine.linux.files import PrivateDirectory, UntrustedPathError, make_private_directory
from engine.runsc.installation import SENTRY, SIDECARS, PinnedFile
from engine.state import programs, store
from engine.state.container import EXEC_ALLOW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from engine.traces.schema import StageFacts


class Staged:
    """The copy of the program: of `runsc`, whose descriptor execve gets, and of its `sidecars`.

    `directory` contains runsc, and `sidecars_directory` the sidecars, if any.
    """

    def __init__(
        self,
        exec_allow: PrivateDirectory,
        directory: PrivateDirectory,
        runsc: StagedFile,
        root: StateDirs,
        sidecars: tuple[StagedFile, ...] = (),
        sidecars_directory: PrivateDirectory | None = None,
    ) -> None:
        self.exec_allow: Final = exec_allow
        self.directory: Final = directory
        self.runsc: Final = runsc
        self.root: Final = root
        self.sidecars: Final = sidecars
        self.sidecars_directory: Final = sidecars_directory

    @property
    def files(self) -> tuple[StagedFile, ...]:
        """Every file of it, runsc first."""
        return self.runsc, *self.sidecars

    @property
    def sandbox_file(self) -> tuple[int, int]:
        """Device and inode of the file that the sandbox executes: the sentry's if there is one, else runsc's."""
        sentry = next((sidecar for sidecar in self.sidecars if sidecar.name == SENTRY), self.runsc)
        status = os.fstat(sentry.descriptor)
        return status.st_dev, status.st_ino

    def facts(self) -> StageFacts:
        facts: StageFacts = {
            **self.runsc.facts(),
            "version": self.runsc.version,
            "sidecars": [{**sidecar.facts(), "name": sidecar.name} for sidecar in self.sidecars],
        }
        if not self.sidecars:
            del facts["sidecars"]
        return facts

    def changed(self) -> str | None:
        """How the copies have changed, in one phrase; None if each name still leads to the staged file.

        runsc starts its sidecars by path, so every name is looked up again in its open directory.
        """
        nest = None if self.root.programs is not None else self.root.runsc_root
        chain = [nest, self.exec_allow, self.directory, self.sidecars_directory]
        for outer, inner in pairwise(filter(None, chain)):
            if what := inner.changed(outer.descriptor):
                return what
        if what := self.runsc.changed(self.directory.descriptor):
            return what
        if self.sidecars_directory is not None:
            for sidecar in self.sidecars:
                if what := sidecar.changed(self.sidecars_directory.descriptor):
                    return what
        return None

    def discard(self) -> list[str]:
        """Remove the copies and their directories, and what they brought to the store: what is gone.

        Raises `OSError`.
        """
        gone = _remove(self.root, self.exec_allow, self.directory)
        if not all(file.from_store for file in self.files):
            with contextlib.suppress(
                UntrustedPathError
            ):  # what is in the store's place by now is not this run's
                gone += store.collect(_home(self.root))
        return gone

    def close(self) -> None:
        """Close the copies and their directories."""
        _close_files(self)
        self.directory.close()
        self.exec_allow.close()


def stage(binary: Validated, root: StateDirs) -> Staged:
    """Link or copy the pinned `binary` to `stage-*/runsc` and its sidecars to `stage-*/gvisor-bin/`, each mode 0555.

    That is in `root`'s place for programs, and without one in `exec-allow` in runsc's own directory.

    Raises `StageError`: a linked or foreign directory, a noexec file system, a pinned file that has changed, a short
    copy, no space, or another runsc than that of the sandbox to join. Then nothing is left behind.
    """
    if not programs.is_executable((root.programs or root.runsc_root).descriptor):
        raise StageError(
            f"{root.runsc_root.path!r} is on a file system that is mounted noexec",
            reason=Reason.NOEXEC,
            hint=programs.noexec_hint(),
        )
    with contextlib.ExitStack() as undo:
        undo.callback(_empty_the_store, root)
        try:
            exec_allow = _open_nest(root)
            undo.callback(os.close, exec_allow.descriptor)
            name = programs.new_name()
            if root.programs is not None:
                directory = programs.make_stage(exec_allow, root.container, name)
            else:
                directory = make_private_directory(exec_allow.descriptor, exec_allow.path, name)
            undo.callback(os.close, directory.descriptor)
            undo.callback(_remove_what_can_be, root, exec_allow, directory)
            staged = _make(binary, root, exec_allow, directory)
            undo.callback(_close_files, staged)
            if root.sandbox is not None and staged.runsc.digest != root.sandbox.digest:
                raise StageError(
                    f"runsc {binary.runsc.path!r} is not the one that sandbox {root.sandbox.id!r} runs",
                    reason=Reason.OTHER_RUNSC,
                    hint="leave out --runsc, which takes the sandbox's, or create the pod anew",
                )
        except UntrustedPathError as error:
            raise StageError(
                str(error), reason=Reason.STAGE_NOT_OWN, hint="remove it and run again"
            ) from None
        except OSError as error:
            raise StageError(
                f"{error.filename or (root.programs or root.runsc_root).path!r}: {error.strerror}",
                reason=Reason.FAILURE,
                hint=hint_for(error, "run again"),
            ) from None
        undo.pop_all()
    return staged


def _home(root: StateDirs) -> PrivateDirectory:
    """The directory that contains the store."""
    return root.programs or root.base


def _open_nest(root: StateDirs) -> PrivateDirectory:
    """The directory that contains the stage directories."""
    if root.programs is None:
        return make_private_directory(root.runsc_root.descriptor, root.runsc_root.path, EXEC_ALLOW)
    return PrivateDirectory(os.dup(root.programs.descriptor), root.programs.path, created=False)


def _make(
    binary: Validated, root: StateDirs, exec_allow: PrivateDirectory, directory: PrivateDirectory
) -> Staged:
    """The staged files in `directory`, in the layout of an installation."""
    with contextlib.ExitStack() as undo:
        folder = None
        if binary.sidecars:
            folder = make_private_directory(directory.descriptor, directory.path, SIDECARS)
            undo.callback(folder.close)
        with store.opened(_home(root)) as kept_copies:

            def make(file: PinnedFile, place: PrivateDirectory) -> StagedFile:
                made = stage_file(file, kept_copies, place)
                undo.callback(os.close, made.descriptor)
                return made

            runsc = make(binary.runsc, directory)
            sidecars = () if folder is None else tuple(make(file, folder) for file in binary.sidecars)
        undo.pop_all()
    return Staged(
        exec_allow=exec_allow,
        directory=directory,
        runsc=runsc,
        root=root,
        sidecars=sidecars,
        sidecars_directory=folder,
    )


def _remove(root: StateDirs, exec_allow: PrivateDirectory, directory: PrivateDirectory) -> list[str]:
    if root.programs is not None:
        is_own = directory.is_named_in(exec_allow.descriptor)
        programs.remove_stage(exec_allow, root.container, directory)
        return [directory.path] if is_own else []
    programs.remove_program(directory, _home(root))
    if not directory.is_named_in(exec_allow.descriptor):
        return []  # another directory has its name
    programs.remove_directory(exec_allow, os.path.basename(directory.path))
    return [directory.path]


def _close_files(staged: Staged) -> None:
    for file in staged.files:
        os.close(file.descriptor)
    if staged.sidecars_directory is not None:
        staged.sidecars_directory.close()


def _remove_what_can_be(root: StateDirs, exec_allow: PrivateDirectory, directory: PrivateDirectory) -> None:
    with contextlib.suppress(
        OSError
    ):  # on the way out of a refusal, which must stay what is said; gc has the rest
        _remove(root, exec_allow, directory)


def _empty_the_store(root: StateDirs) -> None:
    with contextlib.suppress(OSError, UntrustedPathError):  # as above
        store.collect(_home(root))
