"""Where the engine keeps what belongs to one container, and who may touch it when.

    <base>/<component>/lock                       held, by flock(2), for as long as the supervisor lives
    <base>/<component>/trace-<time>-<random>.jsonl   the record of a run
    <base>/<component>/oci.json                   the record of a container that a manager created
    <base>/<component>/runsc-root/                runsc's own state (`--root`)
                       runsc-root/runtime/        TMPDIR and XDG_RUNTIME_DIR of runsc
                       runsc-root/exec-allow/stage-*/runsc   its program, where that lies with the state, or
    <base>/<component>/programs                   a link that names its stage directory elsewhere (`programs`)
    <base>/traces/<id>-<time>-<random>.jsonl      the traces of containers that managers create, which outlive them

The lock's descriptor survives execve into the supervisor, `runsc run`, whose end takes the container with it.
So the kernel itself says whether the container is alive: whoever can take the lock may remove what it guards.
A manager's container lives longer than `runsc create`, which holds its lock: there the record is asked as well
(`engine.oci.record`), and whoever has the lock may remove only what it does not say is kept.
It is a FIFO: a regular file could be written and executed by that descriptor, whatever the execute policy.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time

from engine.digest import sha256
from engine.linux.files import (
    PrivateDirectory,
    UntrustedPathError,
    make_private_directory,
    open_private_directory,
)
from engine.linux.locks import lock

_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")
#: Compiled where it is first used: a run does without it.
_COMPONENT = r"[0-9A-Fa-f]{32}|id-[0-9a-f]{32}"

LOCK = "lock"
RUNSC_ROOT = "runsc-root"
RUNTIME = "runtime"
EXEC_ALLOW = "exec-allow"
OCI_RECORD = "oci.json"
TRACES = "traces"
PROGRAMS = "programs"


def component(container_id: str) -> str:
    """The directory name of one container: its id when that is 32 hexadecimal digits, else a digest of it."""
    if len(container_id) == 32 and _HEXADECIMAL.issuperset(container_id):
        return container_id
    return "id-" + sha256(container_id.encode())[:32]


def is_component(name: str) -> bool:
    """Whether `name` is one that `component` gives; anything else under the base is not ours to remove."""
    return re.fullmatch(_COMPONENT, name) is not None


def is_ours(container: PrivateDirectory) -> bool:
    """Whether an engine of ours made what is in `container`: it makes a lock first, and writes a trace.

    The published engine, whose directories have the same names, does neither. Raises `OSError`.
    """
    try:
        os.stat(LOCK, dir_fd=container.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        names = os.listdir(container.descriptor)
        # Another engine may have made the lock since the look.
        return not names or any(name in (LOCK, OCI_RECORD) or name.startswith("trace-") for name in names)
    return True


def open_container(base: PrivateDirectory, name: str) -> tuple[PrivateDirectory, int | None]:
    """Make or adopt the container directory `name` and take its lock; None for the lock if it is alive.

    Raises `UntrustedPathError` and `OSError`; what it made and could not lock is removed again if it is empty.
    """
    while True:
        container = make_private_directory(base.descriptor, base.path, name)
        try:
            if not (container.created or is_ours(container)):
                raise UntrustedPathError(container.path, "is not this engine's: there is no lock in it")
            return container, take_lock(container)
        except FileNotFoundError:
            # Another process held the lock and removed the directory under our feet: make it anew.
            os.close(container.descriptor)
        except BaseException:
            os.close(container.descriptor)
            if container.created:
                with contextlib.suppress(OSError):  # once there is a lock in it, it may be another engine's
                    os.rmdir(name, dir_fd=base.descriptor)
            raise


def take_lock(container: PrivateDirectory, seconds: float = 0.0) -> int | None:
    """Take the lock in `container`; None when a live container, or another engine, still holds it after `seconds`.

    Answers with a descriptor that holds it. A lock file that was removed between the opening and the taking
    guards nothing, so it is opened anew; so is one that is no FIFO, once nobody holds it. Raises
    `UntrustedPathError` when the lock is not a file of our own.
    """
    path = os.path.join(container.path, LOCK)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    until = time.monotonic() + seconds
    while True:
        try:
            descriptor = os.open(LOCK, flags, dir_fd=container.descriptor)
        except FileNotFoundError:
            _make_lock(container, path)
            continue
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UntrustedPathError(path, "is a symbolic link") from None
            raise OSError(error.errno, error.strerror, path) from None
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, descriptor)
            status = os.fstat(descriptor)
            if status.st_uid != os.geteuid():
                raise UntrustedPathError(
                    path, f"is owned by uid {status.st_uid} (expected uid {os.geteuid()})"
                )
            if not lock(descriptor, until):
                return None
            if _names(container, LOCK, status):
                if stat.S_ISFIFO(status.st_mode):
                    undo.pop_all()
                    return descriptor
                os.unlink(LOCK, dir_fd=container.descriptor)


def open_runsc_root(container: PrivateDirectory) -> PrivateDirectory:
    """runsc's directory in `container`. Raises `FileNotFoundError`, other `OSError`s and `UntrustedPathError`."""
    return open_private_directory(container.descriptor, container.path, RUNSC_ROOT)


def has_record(container: PrivateDirectory) -> bool:
    """Whether a manager created what is in `container`. Raises `OSError`."""
    try:
        os.stat(OCI_RECORD, dir_fd=container.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _make_lock(container: PrivateDirectory, path: str) -> None:
    """Make it, unless another engine does. Raises `OSError`: ENOENT where the directory is gone itself."""
    try:
        os.mkfifo(LOCK, 0o600, dir_fd=container.descriptor)
    except FileExistsError:
        pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _names(directory: PrivateDirectory, name: str, status: os.stat_result) -> bool:
    """Whether `name` in `directory` is still the file with this status."""
    try:
        named = os.stat(name, dir_fd=directory.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(status, named)
