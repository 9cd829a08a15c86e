"""What `engine gc` would remove of a finished container, for `--dry-run`: looks, and changes nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator

from engine.linux.files import PrivateDirectory, UntrustedPathError
from engine.linux.locks import lock
from engine.state import container as containers
from engine.state import programs


@contextlib.contextmanager
def lock_to_look(container: PrivateDirectory) -> Iterator[bool]:
    """As `take_lock_to_remove`, but makes no lock and replaces none. Raises `UntrustedPathError` and `OSError`."""
    path = os.path.join(container.path, containers.LOCK)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(containers.LOCK, flags, dir_fd=container.descriptor)
    except FileNotFoundError:
        yield True
        return
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    try:
        if (owner := os.fstat(descriptor).st_uid) != os.geteuid():
            raise UntrustedPathError(path, f"is owned by uid {owner} (expected uid {os.geteuid()})")
        yield lock(descriptor, kind=fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def leftovers(container: PrivateDirectory) -> list[str]:
    """What `remove_leftovers` would say that it removed. Raises `UntrustedPathError` and `OSError`."""
    gone = []
    with contextlib.suppress(FileNotFoundError):
        status = os.stat(containers.RUNSC_ROOT, dir_fd=container.descriptor, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return []
        gone.append(os.path.join(container.path, containers.RUNSC_ROOT))
    if (path := programs.named(container)) is not None:
        with programs.opened_place(path) as place, contextlib.suppress(FileNotFoundError):
            if place is not None and not programs.is_anothers(place, os.path.basename(path), container):
                gone.append(path)
    return gone
