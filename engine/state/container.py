"""The directory of one container, and its lock.

    <base>/<component>/lock                       held, by flock(2), while the supervisor lives
    <base>/<component>/oci.json                   the record of a manager's container
    <base>/<component>/cgroups                    the cgroups that runsc is to make for a run
    <base>/<component>/runsc-root/                runsc's own state (`--root`)
                       runsc-root/runtime/        TMPDIR and XDG_RUNTIME_DIR of runsc
                       runsc-root/bundle/config.json   what runsc is given in the place of the caller's
                       runsc-root/exec-allow/stage-*/runsc   its program, if that lies with the state, or
    <base>/<component>/programs                   a link that names its stage directory elsewhere (`programs`)
    <base>/traces/                                traces, which outlive their containers, if they lie here (`evidence`)
    <base>/<component>/trace-<time>-<random>.jsonl   the trace of a run of an older engine

The lock's descriptor stays open over execve into the supervisor, `runsc run`, which ends with its container. So the
kernel says whether the container is alive: whoever can take the lock may remove what it protects.

A manager's container outlives `runsc create`, which holds its lock. There the record decides as well
(`engine.state.record`): the holder of the lock may remove only what is not in use.

Whoever removes holds it shared, so that a new container of the id, which finds it so, waits and is not refused.

The lock is a FIFO: through the descriptor of a regular file runsc could write a program and execute it, whatever the
execute policy.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator

from engine.digest import sha256
from engine.linux.files import (
    PrivateDirectory,
    UntrustedPathError,
    make_private_directory,
    open_private_directory,
)
from engine.linux.locks import lock

_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")
#: Not compiled here: a run does not need it.
_COMPONENT = r"[0-9A-Fa-f]{32}|id-[0-9a-f]{32}"

#: Seconds to wait for whoever removes an earlier container of the id, and between two attempts.
_REMOVAL_TIMEOUT = 60.0
_RETRY_INTERVAL = 0.002

#: The permissions of a staged copy, in directories that only its owner and root can pass. Others can execute it: runsc
#: executes /proc/self/exe in user namespaces where the owner is not mapped. Nobody can write it.
COPY_MODE = 0o555
#: Those of older engines' copies: what they created is still deleted, and no container gets such a copy any more.
OLD_COPY_MODE = 0o500

LOCK = "lock"
RUNSC_ROOT = "runsc-root"
RUNTIME = "runtime"
EXEC_ALLOW = "exec-allow"
GIVEN_BUNDLE = "bundle"
OCI_RECORD = "oci.json"
TRACES = "traces"
PROGRAMS = "programs"
CGROUPS = "cgroups"


def component(container_id: str) -> str:
    """The directory name of a container: its id if that is 32 hexadecimal digits, else a digest of it."""
    if len(container_id) == 32 and _HEXADECIMAL.issuperset(container_id):
        return container_id
    return "id-" + sha256(container_id.encode())[:32]


def is_component(name: str) -> bool:
    """Whether `component` can return `name`; any other entry of the base is not ours to remove."""
    return re.fullmatch(_COMPONENT, name) is not None


def is_ours(container: PrivateDirectory) -> bool:
    """Whether this engine made what is in `container`: it makes a FIFO as lock first, and removes it last.

    Older engines had a regular file there, and a trace beside it. Others use the same names with neither, and a trace
    alone may be anybody's. Raises `OSError`.
    """
    try:
        status = os.stat(LOCK, dir_fd=container.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        names = os.listdir(container.descriptor)
        # Another engine may have made the lock since the stat.
        return not names or any(name in (LOCK, OCI_RECORD) for name in names)
    if stat.S_ISFIFO(status.st_mode):
        return status.st_uid == os.geteuid()
    names = os.listdir(container.descriptor)
    return names == [LOCK] or any(name == OCI_RECORD or name.startswith("trace-") for name in names)


def open_container(base: PrivateDirectory, name: str) -> tuple[PrivateDirectory, int | None]:
    """Open or make the container directory `name` and take its lock; None for the lock if the container is alive.

    Raises `UntrustedPathError` and `OSError`; then a new directory is removed again if it is empty.
    """
    while True:
        container = make_private_directory(base.descriptor, base.path, name)
        try:
            if not (container.created or is_ours(container)):
                raise UntrustedPathError(container.path, "is not this engine's: there is no lock in it")
            return container, take_lock_to_live(container)
        except FileNotFoundError:
            # Another process, which held the lock, removed the directory: make it again.
            os.close(container.descriptor)
        except BaseException:
            os.close(container.descriptor)
            if container.created:
                with contextlib.suppress(OSError):  # with a lock in it, it may be another engine's
                    os.rmdir(name, dir_fd=base.descriptor)
            raise


def take_lock(container: PrivateDirectory, seconds: float = 0.0, *, kind: int = fcntl.LOCK_EX) -> int | None:
    """Take the lock in `container`: its descriptor, or None if somebody else still holds it after `seconds`.

    If the lock file was removed meanwhile, or is no FIFO, it is replaced and taken again. Raises `UntrustedPathError`
    if it is not a file of the effective user, and `OSError`.
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
            if not lock(descriptor, until, kind):
                return None
            if _names(container, LOCK, status):
                if stat.S_ISFIFO(status.st_mode):
                    undo.pop_all()
                    return descriptor
                _remove_any(container, LOCK)


def take_lock_to_live(container: PrivateDirectory) -> int | None:
    """As `take_lock`, for a new container: waits for whoever removes an earlier one; None only if one is alive.

    Who removes holds the lock shared (`take_lock_to_remove`), a live container alone. In specs/GVisorRuntime.tla:
    `ANamesakeLives`. Raises also `OSError` EAGAIN, if a removal does not end.
    """
    until = time.monotonic() + _REMOVAL_TIMEOUT
    while (taken := take_lock(container)) is None:
        shared = take_lock(container, kind=fcntl.LOCK_SH)
        if shared is None:
            return None
        os.close(shared)
        if time.monotonic() > until:
            raise OSError(errno.EAGAIN, "another command removes it and does not end", container.path)
        time.sleep(_RETRY_INTERVAL)
    return taken


@contextlib.contextmanager
def take_lock_to_remove(container: PrivateDirectory, seconds: float = 0.0) -> Iterator[bool]:
    """Hold the lock in `container` to look at or remove a container that is not alive; False where that is not so.

    The container cannot become alive meanwhile, and nobody else removes it. Raises as `take_lock`.
    """
    if not lock(container.descriptor, time.monotonic() + seconds):
        yield False
        return
    try:
        taken = take_lock(container, seconds, kind=fcntl.LOCK_SH)
        try:
            yield taken is not None
        finally:
            if taken is not None:
                os.close(taken)
    finally:
        fcntl.flock(container.descriptor, fcntl.LOCK_UN)


def remove_damaged_lock(container: PrivateDirectory) -> None:
    """Remove what is in the place of the lock in `container`, and is no FIFO: nobody can hold it. Raises `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        status = os.stat(LOCK, dir_fd=container.descriptor, follow_symlinks=False)
        if not stat.S_ISFIFO(status.st_mode) and not stat.S_ISREG(status.st_mode):
            _remove_any(container, LOCK)


def _remove_any(container: PrivateDirectory, name: str) -> None:
    from engine.state.trees import remove_tree  # rarely needed

    remove_tree(container, name)


def open_runsc_root(container: PrivateDirectory) -> PrivateDirectory:
    """Open runsc's directory in `container`. Raises `FileNotFoundError`, other `OSError`s and `UntrustedPathError`."""
    return open_private_directory(container.descriptor, container.path, RUNSC_ROOT)


def has_record(container: PrivateDirectory) -> bool:
    """Whether `container` is a manager's. Raises `OSError`."""
    try:
        os.stat(OCI_RECORD, dir_fd=container.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _make_lock(container: PrivateDirectory, path: str) -> None:
    """Make the lock unless it exists. Raises `OSError`: ENOENT if the directory itself is gone."""
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
