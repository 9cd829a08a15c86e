"""What runsc is given as its bundle: a private directory with config.json, made from the bytes that were judged.

Nothing that others write into the caller's bundle after it was opened reaches runsc (specs/GVisorRuntime.tla,
`RunsWhatWasJudged`). The directory stays until the container is removed: runsc reads it again when it starts a pod's
member. To hooks, runsc names it as the bundle: for them there is a link to the root.
"""

from __future__ import annotations

import contextlib
import os

from engine.bundle.bundle import CONFIG_NAME
from engine.bundle.given import GivenConfig
from engine.errors import ExecError, Reason, hint_for
from engine.linux.files import PrivateDirectory, UntrustedPathError, make_private_directory
from engine.linux.regular_files import Identity, write_all
from engine.state.container import GIVEN_BUNDLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from engine.traces.given_schema import GivenFacts

_MODE = 0o400


class GivenBundle:
    """The directory, open in the open `parent`, and the version of the file that was written there."""

    def __init__(
        self, parent: PrivateDirectory, directory: PrivateDirectory, config: GivenConfig, written: Identity
    ) -> None:
        self.parent: Final = parent
        self.directory: Final = directory
        self.config: Final = config
        self.written: Final = written

    @property
    def path(self) -> str:
        """The absolute path of the directory, for runsc."""
        return self.directory.path

    def facts(self) -> GivenFacts:
        facts: GivenFacts = {"sha256": self.config.digest}
        if self.config.changes:
            facts["changes"] = {**self.config.changes}  # type: ignore[typeddict-item]  # built by name
        return facts

    def changed(self) -> str | None:
        """How it has changed, in one phrase; None if the path still leads to what was written."""
        if what := self.directory.changed(self.parent.descriptor):
            return what
        try:
            status = os.stat(CONFIG_NAME, dir_fd=self.directory.descriptor, follow_symlinks=False)
        except OSError as error:
            return f"{os.path.join(self.path, CONFIG_NAME)!r}: {error.strerror}"
        if Identity.of(status) != self.written:
            return f"{os.path.join(self.path, CONFIG_NAME)!r} was replaced or written"
        return None

    def discard(self) -> list[str]:
        """Remove the file and the directory: what is gone. Raises `OSError`."""
        if not self.directory.is_named_in(self.parent.descriptor):
            return []  # another directory has its name
        _remove(self.parent, self.directory, self.config)
        return [self.path]

    def close(self) -> None:
        """Close the directory."""
        self.directory.close()


def give_config(parent: PrivateDirectory, config: GivenConfig) -> GivenBundle:
    """Write `config` into a new directory in `parent`, runsc's own for this container.

    Raises `ExecError`: something else is in its place, no space. Then nothing is left behind.
    """
    try:
        directory = make_private_directory(parent.descriptor, parent.path, GIVEN_BUNDLE)
        try:
            if config.link is not None:
                _link(directory, config.link, config.changes["root_path"])
            return GivenBundle(parent, directory, config, _write(directory, config.data))
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is reported
                _remove(parent, directory, config)
            directory.close()
            raise
    except UntrustedPathError as error:
        raise ExecError(
            f"the state directories changed since they were secured: {error}",
            reason=Reason.ROOT_CHANGED,
            hint="run it again",
        ) from None
    except OSError as error:
        raise ExecError(
            f"{error.filename!r}: {error.strerror}",
            reason=Reason.FAILURE,
            hint=hint_for(error, "run it again"),
        ) from None


def _write(directory: PrivateDirectory, data: bytes) -> Identity:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(CONFIG_NAME, flags, _MODE, dir_fd=directory.descriptor)
        try:
            write_all(descriptor, data)
            return Identity.of(os.fstat(descriptor))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.path.join(directory.path, CONFIG_NAME)) from None


def _link(directory: PrivateDirectory, name: str, root: str) -> None:
    try:
        os.symlink(root, name, dir_fd=directory.descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.path.join(directory.path, name)) from None


def _remove(parent: PrivateDirectory, directory: PrivateDirectory, config: GivenConfig) -> None:
    for name in (CONFIG_NAME, config.link):
        if name is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory.descriptor)
    os.rmdir(os.path.basename(directory.path), dir_fd=parent.descriptor)
