"""Removes the leftovers of a finished container: those of runsc, its directories, its record, and its sandbox's.

The caller holds the container's lock throughout.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from engine.linux.files import PrivateDirectory, UntrustedPathError, open_private_directory
from engine.state.container import (
    CGROUPS,
    EXEC_ALLOW,
    LOCK,
    PROGRAMS,
    RUNSC_ROOT,
    component,
    has_record,
    take_lock_to_remove,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.state.record import Record, Sandbox

#: Seconds to wait for a command that creates or deletes the sandbox.
_TIMEOUT = 10.0


def in_use_reason(base: PrivateDirectory, container: PrivateDirectory) -> str | None:
    """Why only its manager may delete the container; None if anybody may. The caller holds the lock.

    Raises `UntrustedPathError` and `OSError`.
    """
    if not has_record(container):
        return None
    from engine.state import status  # only for managers' containers

    return status.in_use_reason(base, container)


def remove_leftovers(base: PrivateDirectory, container: PrivateDirectory) -> list[str]:
    """Remove what a finished run left in `container`, except its traces: what was removed. The caller holds the lock.

    First what a killed supervisor left elsewhere, which runsc's state file names (`engine.state.undeleted`). A link or
    foreign entry in the place of our directory stays, for the caller to refuse. Raises `OSError`.
    """
    gone = []
    try:
        status = os.stat(RUNSC_ROOT, dir_fd=container.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        pass
    else:
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return []
        _remove_undeleted(base, container)
        remove_runsc_root(base, container)
        gone.append(os.path.join(container.path, RUNSC_ROOT))
    gone += remove_programs(container)
    if _has(container, CGROUPS):
        from engine.state import cgroups

        cgroups.remove_listed(container)
    _forget(base, container)
    return gone


def _has(container: PrivateDirectory, name: str) -> bool:
    try:
        os.stat(name, dir_fd=container.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def remove_programs(container: PrivateDirectory) -> list[str]:
    """Remove the stage directory that `container` names, and then the link: what was removed.

    Raises `UntrustedPathError` and `OSError`.
    """
    try:
        status = os.stat(PROGRAMS, dir_fd=container.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return []
    if not stat.S_ISLNK(status.st_mode):
        from engine.state.trees import remove_tree

        remove_tree(container, PROGRAMS)
        return []
    from engine.state import programs, store  # only if they lie apart

    path = programs.named(container)
    gone = []
    if path is not None:
        with programs.opened_place(path) as place:
            if place is not None:
                with contextlib.suppress(FileNotFoundError):
                    if not programs.is_anothers(place, os.path.basename(path), container):
                        remove_stage(place, place, os.path.basename(path))
                        gone.append(path)
                store.collect(place)
    os.unlink(PROGRAMS, dir_fd=container.descriptor)
    return gone


def _forget(base: PrivateDirectory, container: PrivateDirectory) -> None:
    """Remove the record, if there is one."""
    if has_record(container):
        forget(base, container)


def _remove_undeleted(base: PrivateDirectory, container: PrivateDirectory) -> None:
    """Remove what runsc left of each container whose state file is still in its root, or in its sandbox's.

    The engine does it by itself, and executes nothing, except for the member of a pod that lives: only runsc can have
    the sandbox forget it. Raises `OSError`.
    """
    with contextlib.closing(open_private_directory(container.descriptor, container.path, RUNSC_ROOT)) as root:
        left = [name for name in os.listdir(root.descriptor) if name.endswith(".state")]
        noted = _read_record(container) if has_record(container) else None
        member = noted if noted is not None and _is_left_in_sandbox(base, container, noted) else None
        if not left and member is None:
            return
        from engine.state import undeleted  # only after a kill

        if _end_processes(container, root, noted):
            raise OSError(errno.EBUSY, "processes of the container do not end", container.path)
        for name in left:
            undeleted.remove(root, name)
        if member is not None:
            undeleted.remove_member(base, container, member)


def end_processes(container: PrivateDirectory) -> list[int]:
    """Kill every process that executes a staged file of `container` for it: those that do not end. Raises `OSError`."""
    try:
        root = open_private_directory(container.descriptor, container.path, RUNSC_ROOT)
    except (FileNotFoundError, UntrustedPathError):
        return []
    with contextlib.closing(root):
        return _end_processes(container, root)


def _end_processes(
    container: PrivateDirectory, root: PrivateDirectory, noted: Record | None = None
) -> list[int]:
    """As `end_processes`; also those that execute what was staged, where the record says it and another lies there."""
    from engine.state import processes

    with contextlib.ExitStack() as held:
        files = _files_of(_stages(container, root, held))
        if noted is not None and noted.program is not None and not noted.is_of_earlier_boot:
            files |= noted.program.files
        return processes.end(files, (root.path,))


def _stages(
    container: PrivateDirectory, root: PrivateDirectory, held: contextlib.ExitStack
) -> list[PrivateDirectory]:
    """The stage directories of `container`, open; what is no stage is removed later, and not used."""
    from engine.state import programs

    stages = []
    with contextlib.suppress(FileNotFoundError, UntrustedPathError):
        nest = open_private_directory(root.descriptor, root.path, EXEC_ALLOW)
        held.callback(nest.close)
        for name in os.listdir(nest.descriptor):
            with contextlib.suppress(FileNotFoundError, UntrustedPathError):
                stages.append(open_private_directory(nest.descriptor, nest.path, name))
                held.callback(stages[-1].close)
    with contextlib.suppress(FileNotFoundError):
        if path := programs.named(container):
            stages.append(held.enter_context(programs.opened_stage(path)))
    return stages


def _files_of(stages: list[PrivateDirectory]) -> frozenset[tuple[int, int]]:
    from engine.state import programs

    return frozenset(file for stage in stages for file in programs.staged_files(stage))


def remove_stage(home: PrivateDirectory, nest: PrivateDirectory, name: str) -> None:
    """Remove the stage directory `name` in `nest`; `home` contains the store that its files may be linked from.

    Raises `OSError`: EBUSY, before anything is removed, if something is mounted in it.
    """
    from engine.linux.mounts import mounted_beneath
    from engine.state import programs
    from engine.state.trees import remove_tree  # only if there is something to remove

    with contextlib.suppress(
        UntrustedPathError
    ):  # something else in its place: `remove_tree` removes or refuses it
        stage = open_private_directory(nest.descriptor, nest.path, name)
        with contextlib.closing(stage):
            if not mounted_beneath(stage.path):
                programs.remove_program(stage, home)
    remove_tree(nest, name)


def remove_runsc_root(base: PrivateDirectory, container: PrivateDirectory) -> None:
    """Remove runsc's directory in `container`, and the network namespace that runsc left mounted there.

    Raises `OSError`.
    """
    from engine.runsc.left_behind import unmount_null_netns  # only if there is something to remove
    from engine.state.trees import remove_tree

    with contextlib.closing(open_private_directory(container.descriptor, container.path, RUNSC_ROOT)) as root:
        unmount_null_netns(root.descriptor, root.path)
        _remove_programs_in(base, root)
    remove_tree(container, RUNSC_ROOT)


def _remove_programs_in(base: PrivateDirectory, root: PrivateDirectory) -> None:
    """Remove the programs staged in runsc's `root`; what else is there, and all if something is mounted, stays."""
    from engine.linux.mounts import mounted_beneath
    from engine.state import programs

    if mounted_beneath(root.path):
        return
    with contextlib.suppress(FileNotFoundError, UntrustedPathError):
        nest = open_private_directory(root.descriptor, root.path, EXEC_ALLOW)
        with contextlib.closing(nest):
            for name in os.listdir(nest.descriptor):
                with contextlib.suppress(FileNotFoundError, UntrustedPathError):
                    stage = open_private_directory(nest.descriptor, nest.path, name)
                    with contextlib.closing(stage):
                        programs.remove_program(stage, base)


def remove_if_unused(base: PrivateDirectory, container: PrivateDirectory) -> bool:
    """Remove `container` if only the lock is in it, which the caller holds: whether it was removed."""
    if os.listdir(container.descriptor) != [LOCK]:
        return False
    return remove_container(base, container)


def remove_container(base: PrivateDirectory, container: PrivateDirectory) -> bool:
    """Remove all that is in `container`, the lock last, and then the directory. The caller holds the lock.

    Returns whether the directory is gone. It stays with the list of cgroups that cannot be removed yet, if another
    engine has made its lock in it meanwhile, or if its name is now another directory's. Raises `OSError`.
    """
    remove_leftovers(base, container)
    names = set(os.listdir(container.descriptor))
    if others := names - {LOCK, CGROUPS}:
        from engine.state.trees import remove_trees

        remove_trees(container, sorted(others))
    if CGROUPS in names:  # not removed, or not yet looked at, for a link in the place of our directory
        from engine.state import cgroups

        try:
            if not cgroups.remove_listed(container):
                return False
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False  # `delete` has just listed it, and says so
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


def _read_record(container: PrivateDirectory) -> Record | None:
    from engine.state import record

    return record.read(container)


def _is_left_in_sandbox(base: PrivateDirectory, container: PrivateDirectory, noted: Record) -> bool:
    """Whether it is a pod's member, and runsc has a file about it in its sandbox's root. Raises `OSError`."""
    from engine.state import status

    if noted.sandbox is None:
        return False
    try:
        with contextlib.closing(status.open_state_root(base, container, noted)) as root:
            os.stat(noted.state_file, dir_fd=root.descriptor, follow_symlinks=False)
            return True
    except FileNotFoundError:
        return False


def purge_runsc_state(base: PrivateDirectory, container: PrivateDirectory, noted: Record) -> None:
    """Remove what runsc has about a container that it cannot delete, without it. Raises `OSError`."""
    from engine.state import status, undeleted

    with contextlib.closing(status.open_state_root(base, container, noted)) as root:
        undeleted.remove(root, noted.state_file)


def forget(base: PrivateDirectory, container: PrivateDirectory) -> bool:
    """Remove the record; whether there was one. The caller holds the lock of `container`.

    Removing the last member's record also removes the deleted sandbox's directory. Raises `OSError`.
    """
    from engine.state import record

    noted = None
    with contextlib.suppress(UntrustedPathError):
        noted = record.read(container)
    if noted is not None and noted.cgroups and not noted.is_of_earlier_boot:
        from engine.state import cgroups

        if left := cgroups.remove(noted.cgroups):
            cgroups.note(container, left)  # for gc, or the next container of the id
    gone = record.remove(container)
    if noted is not None and noted.sandbox is not None:
        _leave(base, noted.sandbox)
    return gone


def _leave(base: PrivateDirectory, sandbox: Sandbox) -> None:
    """Remove the directory of a sandbox that was deleted before its last member.

    A command that deletes the sandbox after this check counts its members later still, and removes the directory
    itself.
    """
    try:
        directory = open_private_directory(base.descriptor, base.path, component(sandbox.id))
    except (FileNotFoundError, UntrustedPathError):
        return
    with contextlib.closing(directory), contextlib.suppress(UntrustedPathError):
        if not _is_over(base, directory, sandbox):
            return
        with take_lock_to_remove(directory, _TIMEOUT) as is_taken:
            if is_taken and _is_over(base, directory, sandbox) and not in_use_reason(base, directory):
                remove_container(base, directory)


def _is_over(base: PrivateDirectory, directory: PrivateDirectory, sandbox: Sandbox) -> bool:
    from engine.state import record, status
    from engine.state.oci_lifecycle import Status

    noted = record.read(directory)
    if noted is None or noted.creation != sandbox.creation:
        return False
    return status.inspect(base, directory, noted).status is Status.DELETED
