"""Removes what is over of a container: what its runsc left, its directories, its record, and its sandbox's.

The caller holds the container's lock throughout.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator

from engine.linux.files import PrivateDirectory, UntrustedPathError, open_private_directory
from engine.linux.regular_files import open_own
from engine.records import TYPE_CHECKING
from engine.state.container import (
    EXEC_ALLOW,
    LOCK,
    PROGRAMS,
    RUNSC_ROOT,
    RUNTIME,
    component,
    has_record,
    take_lock,
)

if TYPE_CHECKING:
    from engine.state.record import Record, Sandbox

#: How runsc names the state of a container that is the first of its sandbox, as all are but a pod's further ones.
_STATE_FILE = r"([A-Za-z0-9_][A-Za-z0-9_.+-]*)_sandbox:\1\.state"
#: Seconds to wait for a command that creates or deletes the sandbox.
_TIMEOUT = 10.0


def in_use_reason(base: PrivateDirectory, container: PrivateDirectory) -> str | None:
    """Why only its manager may delete what is in there; None where anybody may. The caller holds the lock.

    Raises `UntrustedPathError`, and `OSError`.
    """
    if not has_record(container):
        return None
    from engine.state import status  # only where a manager was

    return status.in_use_reason(base, container)


def remove_leftovers(base: PrivateDirectory, container: PrivateDirectory) -> list[str]:
    """Remove what a run that is over left in `container`, but not its traces. The caller holds the lock.

    What a supervisor that was killed left elsewhere (cgroups, a file of its overlay in the root file system) only
    runsc knows, so its own copy is asked to delete the container first. Says what was removed. A link or foreign
    thing in the place of our directory stays for the caller to refuse. Raises `OSError`.
    """
    gone = []
    try:
        status = os.stat(RUNSC_ROOT, dir_fd=container.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        pass
    else:
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return []
        _delete_the_killed(base, container)
        remove_runsc_root(container)
        gone.append(os.path.join(container.path, RUNSC_ROOT))
    gone += remove_programs(container)
    _forget(base, container)
    return gone


def remove_programs(container: PrivateDirectory) -> list[str]:
    """Remove the stage directory that `container` names, and then the name: what is gone.

    Raises `UntrustedPathError` and `OSError`.
    """
    try:
        os.stat(PROGRAMS, dir_fd=container.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return []
    from engine.state import programs, store  # only where they lie apart

    path = programs.named(container)
    gone = []
    if path is not None:
        with programs.opened_place(path) as place:
            if place is not None:
                with contextlib.suppress(FileNotFoundError):
                    if not programs.is_anothers(place, os.path.basename(path), container):
                        remove_tree(place, os.path.basename(path))
                        gone.append(path)
                store.collect(place)
    os.unlink(PROGRAMS, dir_fd=container.descriptor)
    return gone


def _forget(base: PrivateDirectory, container: PrivateDirectory) -> None:
    """Remove the record, after what it is about."""
    if has_record(container):
        forget(base, container)


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
        if has_record(container):
            killed += left_in_sandbox(base, container)
        if not killed:
            return
        from engine.runsc.command import delete  # only after a kill: it is costly to import

        for program, is_of_earlier_boot in _staged_copies(container, root):
            try:
                for where, container_id in killed:
                    if is_of_earlier_boot and where == root.path:
                        from engine.state.after_boot import forget_processes

                        forget_processes(root, f"{container_id}_sandbox:{container_id}.state")
                    delete(program, where, os.path.join(where, RUNTIME), container_id)
            finally:
                os.close(program)
            return


def _staged_copies(container: PrivateDirectory, root: PrivateDirectory) -> Iterator[tuple[int, bool]]:
    """Each staged copy of runsc, open, and whether it was staged in an earlier boot.

    A copy is a file of our own that nobody else could write.
    """
    from engine.state import programs

    with contextlib.ExitStack() as held:
        stages = []
        with contextlib.suppress(FileNotFoundError):
            nest = open_private_directory(root.descriptor, root.path, EXEC_ALLOW)
            held.callback(nest.close)
            for name in os.listdir(nest.descriptor):
                stages.append(open_private_directory(nest.descriptor, nest.path, name))
                held.callback(stages[-1].close)
        with contextlib.suppress(FileNotFoundError):
            if path := programs.named(container):
                stages.append(held.enter_context(programs.opened_stage(path)))
        for stage in stages:
            try:
                program = open_own(stage, programs.PROGRAM)
            except (FileNotFoundError, UntrustedPathError):
                continue
            if stat.S_IMODE(os.fstat(program).st_mode) == 0o500:
                yield program, programs.is_of_earlier_boot(os.path.basename(stage.path))
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


def remove_runsc_root(container: PrivateDirectory) -> None:
    """Remove runsc's directory in `container`, and the network namespace that runsc left mounted there.

    Raises `OSError`.
    """
    from engine.runsc.left_behind import unmount_null_netns  # only where there is something to remove

    with contextlib.closing(open_private_directory(container.descriptor, container.path, RUNSC_ROOT)) as root:
        unmount_null_netns(root.descriptor, root.path)
    remove_tree(container, RUNSC_ROOT)


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


def left_in_sandbox(base: PrivateDirectory, container: PrivateDirectory) -> list[tuple[str, str]]:
    """The root in which runsc still has a file about a member, and the member's id. Raises `OSError`."""
    from engine.state import record, status

    noted = record.read(container)
    if noted is None or noted.sandbox is None:
        return []
    try:
        with contextlib.closing(status.open_state_root(base, container, noted)) as root:
            os.stat(noted.state_file, dir_fd=root.descriptor, follow_symlinks=False)
            return [(root.path, noted.id)]
    except FileNotFoundError:
        return []


def purge_runsc_state(base: PrivateDirectory, container: PrivateDirectory, noted: Record) -> None:
    """Remove runsc's own files about a container that runsc will not delete. Raises `OSError`."""
    from engine.state import status

    with contextlib.closing(status.open_state_root(base, container, noted)) as root:
        for name in (noted.state_file, noted.state_file.removesuffix(".state") + ".lock"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=root.descriptor)


def forget(base: PrivateDirectory, container: PrivateDirectory) -> bool:
    """Remove the record, and say whether there was one. With the last member's goes what is left of its sandbox.

    The caller holds the lock of `container`. Raises `OSError`.
    """
    from engine.state import record

    noted = None
    with contextlib.suppress(UntrustedPathError):
        noted = record.read(container)
    gone = record.remove(container)
    if noted is not None and noted.sandbox is not None:
        _leave(base, noted.sandbox)
    return gone


def _leave(base: PrivateDirectory, sandbox: Sandbox) -> None:
    """Take away the directory of a sandbox that was deleted before its last member was.

    Whoever deletes it after this looked counts its members after that, and does it itself.
    """
    try:
        directory = open_private_directory(base.descriptor, base.path, component(sandbox.id))
    except (FileNotFoundError, UntrustedPathError):
        return
    with contextlib.closing(directory), contextlib.suppress(UntrustedPathError):
        if not _is_over(base, directory, sandbox):
            return
        lock = take_lock(directory, _TIMEOUT)
        if lock is None:
            return
        try:
            if _is_over(base, directory, sandbox) and not in_use_reason(base, directory):
                remove_container(base, directory)
        finally:
            os.close(lock)


def _is_over(base: PrivateDirectory, directory: PrivateDirectory, sandbox: Sandbox) -> bool:
    from engine.state import record, status
    from engine.state.oci_lifecycle import Status

    noted = record.read(directory)
    if noted is None or noted.creation != sandbox.creation:
        return False
    return status.inspect(base, directory, noted).status is Status.DELETED
