"""Where the engine keeps what belongs to one container, and who may touch it when.

    <base>/<component>/lock                       held, by flock(2), for as long as the supervisor lives
    <base>/<component>/trace-<time>-<random>.jsonl   the record of a run
    <base>/<component>/oci.json                   the record of a container that a manager created
    <base>/<component>/runsc-root/                runsc's own state (`--root`)
                       runsc-root/runtime/        TMPDIR and XDG_RUNTIME_DIR of runsc
                       runsc-root/exec-allow/stage-*/runsc
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
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping

from engine.digest import sha256
from engine.linux.files import (
    Opened,
    PrivateDirectory,
    UntrustedPathError,
    make_private_directory,
    open_private_directory,
    open_trusted,
)
from engine.linux.namespaces import read_uid_map, root_maps_to_unprivileged, unmapped_uid

_BASE_NAME = "nucleus-gvisor"
_BASE_VARIABLES = ("ENGINE_ARTIFACT_BASE", "NUCLEUS_GVISOR_ARTIFACT_BASE")
# Patterns are compiled where they are first used: a run needs one of them.
_PLAIN_COMPONENT = r"[0-9A-Fa-f]{32}"
_COMPONENT = r"[0-9A-Fa-f]{32}|id-[0-9a-f]{32}"

#: How runsc names the state of a container that is the first of its sandbox, as all are but a pod's further ones.
_STATE_FILE = r"([A-Za-z0-9_][A-Za-z0-9_.+-]*)_sandbox:\1\.state"

LOCK = "lock"
RUNSC_ROOT = "runsc-root"
RUNTIME = "runtime"
EXEC_ALLOW = "exec-allow"
OCI_RECORD = "oci.json"
TRACES = "traces"


def artifact_base(environment: Mapping[str, str], *, user: int, root_is_mapped: bool, directory: str) -> str:
    """The absolute path under which every container of `user` (an effective uid) has its directory.

    `root_is_mapped`: uid 0 of this user namespace is an ordinary user of the host. `directory`: the current
    one, against which a relative choice is taken. The variables come first, then `XDG_RUNTIME_DIR` (only when
    absolute, as the XDG base directory specification says) for everyone but the host's root.
    """
    for variable in _BASE_VARIABLES:
        if chosen := environment.get(variable):
            return os.path.join(directory, chosen)
    if user != 0 or root_is_mapped:
        runtime = environment.get("XDG_RUNTIME_DIR", "")
        if runtime.startswith("/"):
            return os.path.join(runtime, _BASE_NAME)
    if user == 0:
        return f"/run/{_BASE_NAME}"
    temporary = os.path.join(directory, environment.get("TMPDIR") or "/tmp")  # noqa: S108
    return os.path.join(temporary, f"{_BASE_NAME}-{user}")


def component(container_id: str) -> str:
    """The directory name of one container: its id when that is 32 hexadecimal digits, else a digest of it."""
    if re.fullmatch(_PLAIN_COMPONENT, container_id):
        return container_id
    return "id-" + sha256(container_id.encode())[:32]


def is_component(name: str) -> bool:
    """Whether `name` is one that `component` gives; anything else under the base is not ours to remove."""
    return re.fullmatch(_COMPONENT, name) is not None


def chosen_base(environment: Mapping[str, str]) -> str:
    """The artifact base of this very process. Raises `FileNotFoundError` where it takes a directory that is gone."""
    base = artifact_base(
        environment,
        user=os.geteuid(),
        root_is_mapped=root_maps_to_unprivileged(read_uid_map()),
        directory="",
    )
    if base.startswith("/"):
        return base
    try:
        return os.path.join(os.getcwd(), base)
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, "the current directory is gone", base) from None


def open_base(path: str) -> PrivateDirectory:
    """Make or adopt the artifact base at `path`, every directory above which must exist.

    One that exists must be private already: a base that was named by mistake is not changed. Raises
    `UntrustedPathError` for a link or `..` on the way or a directory that others can rewrite, and `OSError`.
    As the host's root every directory must be root's; otherwise root's or the effective user's.
    """
    parent, name = _open_parent(path)
    try:
        return make_private_directory(parent.descriptor, parent.path, name, tighten=False)
    finally:
        os.close(parent.descriptor)


def open_existing_base(path: str) -> PrivateDirectory | None:
    """As `open_base`, but nothing is made or changed: None where there is no base."""
    try:
        parent, name = _open_parent(path)
    except FileNotFoundError:
        return None
    try:
        base = open_private_directory(parent.descriptor, parent.path, name)
    except FileNotFoundError:
        return None
    finally:
        os.close(parent.descriptor)
    try:
        if (mode := stat.S_IMODE(os.fstat(base.descriptor).st_mode)) != 0o700:
            raise UntrustedPathError(path, f"has permissions {mode:04o} (expected 0700)")
    except BaseException:
        base.close()
        raise
    return base


def base_changed(base: PrivateDirectory) -> str | None:
    """What has become of the base since it was opened, in one phrase; None when its path still names it."""
    try:
        parent, _ = _open_parent(base.path)
    except (OSError, UntrustedPathError) as error:
        return f"{base.path!r} can no longer be reached safely ({error})"
    try:
        return base.changed(parent.descriptor)
    finally:
        os.close(parent.descriptor)


def reach_base(path: str, *, make: bool) -> str:
    """The path of the base at `path` without links; with `make` the directories above it that are missing are made.

    A link on the way is followed where nobody untrusted could have put it there, as `/var/run` is. Raises
    `UntrustedPathError` and `OSError` as `open_base`.
    """
    parent_path, name = os.path.split(path.rstrip("/"))
    owners = {0, os.geteuid()}
    missing: list[str] = []
    while True:
        try:
            parent = open_trusted(
                parent_path, owners, follow_links=True, unmapped=unmapped_uid(), directory=bool(missing)
            )
            break
        except FileNotFoundError:
            if not make:
                raise
            parent_path, last = os.path.split(parent_path)
            missing.append(last)
    try:
        while missing:
            where = os.path.join(parent.path, missing[-1])
            with contextlib.suppress(FileExistsError):
                os.mkdir(missing[-1], 0o711, dir_fd=parent.descriptor)
            os.close(parent.descriptor)
            parent = open_trusted(where, owners, follow_links=False, unmapped=unmapped_uid(), directory=True)
            missing.pop()
        return os.path.join(parent.path, name)
    finally:
        os.close(parent.descriptor)


def _open_parent(path: str) -> tuple[Opened, str]:
    """The judged directory that holds the base, and the base's name in it."""
    if "\0" in path:
        raise UntrustedPathError(path, "has a NUL character")
    parent_path, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        raise UntrustedPathError(path, "does not end in the name of a directory")
    owners = {0, os.geteuid()}
    return open_trusted(
        parent_path, owners, follow_links=False, unmapped=unmapped_uid(), directory=True
    ), name


def open_container(base: PrivateDirectory, name: str) -> tuple[PrivateDirectory, int | None]:
    """Make or adopt the container directory `name` and take its lock; None for the lock if it is alive.

    Raises `UntrustedPathError` and `OSError`; what it made and could not lock is removed again if it is empty.
    """
    while True:
        container = make_private_directory(base.descriptor, base.path, name)
        try:
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


def take_lock(container: PrivateDirectory) -> int | None:
    """Take the lock in `container`; None when a live container, or another engine, holds it.

    Answers with a descriptor that holds it. A lock file that was removed between the opening and the taking
    guards nothing, so it is opened anew; so is one that is no FIFO, once nobody holds it. Raises
    `UntrustedPathError` when the lock is not a file of our own.
    """
    path = os.path.join(container.path, LOCK)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
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
        try:
            status = os.fstat(descriptor)
            if status.st_uid != os.geteuid():
                raise UntrustedPathError(
                    path, f"is owned by uid {status.st_uid} (expected uid {os.geteuid()})"
                )
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _names(container, LOCK, status):
                if stat.S_ISFIFO(status.st_mode):
                    return descriptor
                os.unlink(LOCK, dir_fd=container.descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def why_kept(base: PrivateDirectory, container: PrivateDirectory) -> str | None:
    """Why only its manager may delete what is in there; None where anybody may. The caller holds the lock.

    Raises `UntrustedPathError`, and `OSError`.
    """
    if not _has_record(container):
        return None
    from engine.oci import record  # only where a manager was

    return record.why_kept(base, container)


def wait_for_lock(container: PrivateDirectory, seconds: float) -> int | None:
    """As `take_lock`, after waiting up to so many seconds for whoever holds it."""
    end = time.monotonic() + seconds
    while (lock := take_lock(container)) is None and time.monotonic() < end:
        time.sleep(0.01)
    return lock


def open_runsc_root(container: PrivateDirectory) -> PrivateDirectory:
    """runsc's directory in `container`. Raises `FileNotFoundError`, other `OSError`s and `UntrustedPathError`."""
    return open_private_directory(container.descriptor, container.path, RUNSC_ROOT)


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


def remove_leftovers(base: PrivateDirectory, container: PrivateDirectory) -> list[str]:
    """Remove what a run that is over left in `container`, but not its traces. The caller holds the lock.

    What a supervisor that was killed left elsewhere (cgroups, a file of its overlay in the root file system) only
    runsc knows, so its own copy is asked to delete the container first. Says what was removed. A link or foreign
    thing in the place of our directory stays for the caller to refuse. Raises `OSError`.
    """
    try:
        status = os.stat(RUNSC_ROOT, dir_fd=container.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        _forget(base, container)
        return []
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return []
    _delete_the_killed(base, container)
    remove_tree(container, RUNSC_ROOT)
    _forget(base, container)
    return [os.path.join(container.path, RUNSC_ROOT)]


def _has_record(container: PrivateDirectory) -> bool:
    try:
        os.stat(OCI_RECORD, dir_fd=container.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _forget(base: PrivateDirectory, container: PrivateDirectory) -> None:
    """Remove the record, after what it is about."""
    if _has_record(container):
        from engine.oci import pod  # only where a manager was

        pod.forget(base, container)


def _delete_the_killed(base: PrivateDirectory, container: PrivateDirectory) -> None:
    """Have the staged runsc delete each container whose state is still in its root, or in its sandbox's.

    Raises `OSError`.
    """
    with contextlib.closing(open_private_directory(container.descriptor, container.path, RUNSC_ROOT)) as root:
        killed = [
            (root.path, match[1])
            for name in os.listdir(root.descriptor)
            if (match := re.fullmatch(_STATE_FILE, name))
        ]
        if _has_record(container):
            from engine.oci import pod  # only where a manager was

            killed += pod.left_in_sandbox(base, container)
        if not killed:
            return
        from engine.runsc import delete  # only after a kill: it is costly to import

        for program in _staged_copies(root):
            try:
                for where, container_id in killed:
                    delete(program, where, container_id)
            finally:
                os.close(program)
            return


def _staged_copies(root: PrivateDirectory) -> Iterator[int]:
    """Each staged copy of runsc in `root`, open: a file of our own that nobody else could write."""
    try:
        nest = open_private_directory(root.descriptor, root.path, EXEC_ALLOW)
    except FileNotFoundError:
        return
    with contextlib.closing(nest):
        for name in os.listdir(nest.descriptor):
            with contextlib.closing(open_private_directory(nest.descriptor, nest.path, name)) as stage:
                try:
                    program = os.open(
                        "runsc", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=stage.descriptor
                    )
                except FileNotFoundError:
                    continue
            try:
                status = os.fstat(program)
            except BaseException:
                os.close(program)
                raise
            if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o500:
                yield program
            else:
                os.close(program)


def remove_tree(directory: PrivateDirectory, name: str) -> None:
    """Remove the tree `name` in `directory` without following links and without entering what is mounted there.

    Raises `OSError`: EBUSY, before anything is removed, where something is mounted in the tree.
    """
    import shutil  # only where there is something to remove: both are costly to import

    from engine.linux.mounts import mounted_beneath

    path = os.path.join(directory.path, name)
    if mounted := mounted_beneath(path):
        raise OSError(errno.EBUSY, f"something is mounted on {mounted[0]!r}", path)
    shutil.rmtree(name, dir_fd=directory.descriptor)


def remove_if_unused(base: PrivateDirectory, container: PrivateDirectory) -> bool:
    """Remove `container` if it holds nothing but the lock, which the caller holds. Says whether it did."""
    if os.listdir(container.descriptor) != [LOCK]:
        return False
    return remove_container(base, container)


def remove_container(base: PrivateDirectory, container: PrivateDirectory) -> bool:
    """Remove all that is in `container`, the lock last, and then itself. The caller holds the lock.

    Says whether the directory is gone: not when another engine has made its lock in it by then, or when its
    name is another directory's, which is left alone. Raises `OSError`.
    """
    remove_leftovers(base, container)
    for name in os.listdir(container.descriptor):
        if name == LOCK:
            continue
        status = os.stat(name, dir_fd=container.descriptor, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            remove_tree(container, name)
        else:
            os.unlink(name, dir_fd=container.descriptor)
    os.unlink(LOCK, dir_fd=container.descriptor)
    if not container.is_named_in(base.descriptor):
        return False
    try:
        os.rmdir(os.path.basename(container.path), dir_fd=base.descriptor)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTEMPTY):
            return False
        raise
    return True
