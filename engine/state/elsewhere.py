"""Links in the default base to containers in bases that a variable chose, so that every verb finds them.

    <default base>/elsewhere/<component>@<digest>   a link that names the container's base

`<digest>` is of the base's path: two bases can each have a container of the same id.

podman, for example, gives `ENGINE_ARTIFACT_BASE` to `create`, but not to `start` and `delete`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from engine.digest import sha256
from engine.linux.files import (
    PrivateDirectory,
    UntrustedPathError,
    make_private_directory,
    open_private_directory,
)
from engine.state.base import default_base, open_base, open_existing_base
from engine.state.container import is_component

ELSEWHERE = "elsewhere"
#: Seconds, at most, from the note to the container's directory.
_CREATION_TIMEOUT = 60.0


def note(name: str, base: str) -> None:
    """Note that the container whose directory is `name` is in `base`.

    If the default base cannot be opened, only a verb that gets the variable finds the container.
    """
    with (
        contextlib.suppress(OSError, UntrustedPathError),
        contextlib.closing(open_base(default_base())) as here,
        contextlib.closing(make_private_directory(here.descriptor, here.path, ELSEWHERE)) as notes,
    ):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_link_name(name, base), dir_fd=notes.descriptor)
        os.symlink(base, _link_name(name, base), dir_fd=notes.descriptor)


def bases() -> tuple[str, ...]:
    """All bases that are noted."""
    with _opened() as notes:
        return () if notes is None else tuple(sorted({base for _, base in _noted(notes)}))


def forget(name: str, base: str) -> None:
    """Remove the note that the container is in `base`."""
    with _opened() as notes:
        if notes is not None and (name, base) in _noted(notes):
            os.unlink(_link_name(name, base), dir_fd=notes.descriptor)


def prune() -> None:
    """Remove notes of containers that do not exist, except new ones: those are about to be created."""
    with _opened() as notes:
        if notes is None:
            return
        for name, base in _noted(notes):
            with contextlib.suppress(OSError):
                link = _link_name(name, base)
                noted = os.stat(link, dir_fd=notes.descriptor, follow_symlinks=False).st_ctime
                if time.time() - noted > _CREATION_TIMEOUT and not os.path.lexists(os.path.join(base, name)):
                    os.unlink(link, dir_fd=notes.descriptor)


@contextlib.contextmanager
def _opened() -> Iterator[PrivateDirectory | None]:
    """The directory of notes; None if there is none, or it is not private."""
    with contextlib.ExitStack() as held:
        notes = None
        with contextlib.suppress(OSError, UntrustedPathError):
            if (here := open_existing_base(default_base())) is not None:
                held.callback(here.close)
                notes = open_private_directory(here.descriptor, here.path, ELSEWHERE)
                held.callback(notes.close)
        yield notes


def _noted(notes: PrivateDirectory) -> list[tuple[str, str]]:
    found = []
    for link in os.listdir(notes.descriptor):
        with contextlib.suppress(OSError):
            base = os.readlink(link, dir_fd=notes.descriptor)
            name = link.partition("@")[0]
            if is_component(name) and base.startswith("/") and link == _link_name(name, base):
                found.append((name, base))
    return found


def _link_name(name: str, base: str) -> str:
    return f"{name}@{sha256(os.fsencode(base))[:16]}"
