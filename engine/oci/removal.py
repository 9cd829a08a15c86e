"""Remove a manager's container: kill its processes, remove its files, and the record last."""

from __future__ import annotations

import contextlib
import os

from engine.errors import Reason, printable
from engine.linux.files import UntrustedPathError
from engine.linux.process import started
from engine.oci.container import Container, ContainerError, not_deleted, processes_remain, unreadable
from engine.oci.lookup import find_directory
from engine.oci.request import Request, say
from engine.state import cgroups, elsewhere, processes
from engine.state import oci_lifecycle as machine
from engine.state.base import default_base
from engine.state.cleanup import purge_runsc_state, remove_container, remove_runsc_root
from engine.state.container import OCI_RECORD, RUNTIME, take_lock_to_remove
from engine.state.oci_lifecycle import Status, Verb
from engine.state.status import argv_markers, members, open_state_root, state_file

#: Seconds for runsc delete, hooks included.
_DELETE_TIMEOUT = 60.0


def remove(found: Container, *, force: bool) -> None:
    """Kill what is alive of it and remove all of it, the record last. The caller holds the lock.

    A created container that was not started is killed even without `force`; runsc checks that under its own lock. If
    runsc cannot delete it, that is an error; with `force` it is removed without runsc. A sandbox's directory stays
    until its last member is deleted. Raises `ContainerError`.
    """
    failed = _end_and_delete(found, force=force)
    try:
        if failed:
            if not force:
                raise ContainerError(
                    found.verb, failed, reason=Reason.PROGRAM_FAILED, hint="delete it with --force"
                )
            say(f"engine-oci: warning: {failed}; removed without it")
            _purge(found)
        if members(found.base, found.record):
            return
        if failed:
            remove_runsc_root(found.base, found.directory)
        if kept := cgroups.in_use(cgroups.remove(found.record.cgroups)):
            say(f"engine-oci: warning: cgroups remain until engine gc: {', '.join(kept)}")
        remove_container(found.base, found.directory)
        if found.base.path != default_base():
            elsewhere.forget(os.path.basename(found.directory.path), found.base.path)
    except FileNotFoundError:
        pass  # already removed
    except OSError as error:
        raise not_deleted(found.verb, error, found.directory.path) from None


def _purge(found: Container) -> None:
    """Remove runsc's files about it. Raises `FileNotFoundError`."""
    try:
        purge_runsc_state(found.base, found.directory, found.record)
    except FileNotFoundError:
        raise
    except OSError as error:  # in a tree of the container's; all else was removed
        say(f"engine-oci: warning: a file of runsc's stays in {error.filename!r}: {error.strerror}")


def end_run(found: Container) -> None:
    """End a container that `run` waits for: it has the lock until the container ends. Raises `ContainerError`.

    A container that is still being created is left: its creation is waited for, or is found cut short.
    """
    try:
        state = found.state()
    except ContainerError:
        return  # `remove` says why, or does without
    pid, start = found.record.creator
    if state.sandbox is not None and started(pid) == start:
        _end(found)


def _end_and_delete(found: Container, *, force: bool) -> str | None:
    """End what is alive of the container, and let runsc delete it: why runsc could not, or None.

    runsc deletes a pod's member while its processes live, as only its sandbox can end them. Raises `ContainerError`.
    """
    status = _status_to_delete(found, force=force)
    is_member = found.record.sandbox is not None
    if not force and status is Status.CREATED:
        _end_created(found)
    elif not is_member:
        _end(found)
    failed = _have_runsc_delete(found) if _runsc_knows(found) else None
    if is_member:
        _end(found)
        if failed and _runsc_knows(found):
            failed = _have_runsc_delete(found)  # again, without the process in its way
    return failed


def _end(found: Container) -> None:
    """Kill every process of the container, and every command about it. Raises `ContainerError`."""
    if (noted := found.record.program) is None or found.record.is_of_earlier_boot:
        return
    if left := processes.end(noted.files, argv_markers(found.base, found.directory, found.record)):
        raise processes_remain(found.verb, left)


def _end_created(found: Container) -> None:
    """End a created container, unless it was started meanwhile. Raises `ContainerError`."""
    if found.record.sandbox is not None:
        if failed := _have_runsc_delete(found, "delete"):  # runsc looks again, under its own lock
            raise ContainerError(
                found.verb, failed, reason=Reason.PROGRAM_FAILED, hint="delete it with --force"
            )
        return
    try:
        with (
            contextlib.closing(open_state_root(found.base, found.directory, found.record)) as root,
            processes.locked_if_there(root, found.record.state_file),
        ):
            file = state_file(root, found.record.state_file)
            if file is not None:
                machine.require(Verb.DELETE, Status(file[0].status), found.record.id)
            _end(found)
    except FileNotFoundError:
        pass
    except (UntrustedPathError, OSError) as error:
        raise unreadable(found.verb, error) from None


def _forget_processes(found: Container) -> None:
    """Let runsc's file name no process, as runsc would signal whoever has that pid. Raises `ContainerError`."""
    try:
        with (
            contextlib.closing(open_state_root(found.base, found.directory, found.record)) as root,
            processes.locked_if_there(root, found.record.state_file),
        ):
            if found.record.sandbox is None:
                processes.forget(root, found.record.state_file)
            else:
                processes.forget_members(root, found.record)
    except FileNotFoundError:
        pass
    except (UntrustedPathError, OSError) as error:
        raise unreadable(found.verb, error) from None


def _status_to_delete(found: Container, *, force: bool) -> Status | None:
    """Its status, after repairing runsc's file. With `force` an unknown status does not prevent removal."""
    try:
        status = found.repaired().status()
    except ContainerError:
        if not force:
            raise
        return None
    if not force:
        machine.require(Verb.DELETE, status, found.record.id)
    return status


def _runsc_knows(found: Container) -> bool:
    try:
        with contextlib.closing(open_state_root(found.base, found.directory, found.record)) as root:
            os.stat(found.record.state_file, dir_fd=root.descriptor, follow_symlinks=False)
    except (OSError, UntrustedPathError):
        return False
    return True


def _have_runsc_delete(found: Container, *verb: str) -> str | None:
    """Run `runsc delete`, which then signals no process; returns why it failed, or None."""
    import subprocess

    from engine.runsc.command import ask

    arguments = [*found.record.flags, *(verb or ("delete", "--force")), found.record.id]
    try:
        _forget_processes(found)
        with found.program() as program:
            done = ask(program, arguments, os.path.join(found.runsc_root, RUNTIME), seconds=_DELETE_TIMEOUT)
    except ContainerError as error:
        return error.what
    except subprocess.TimeoutExpired:
        return f"runsc delete did not finish within {_DELETE_TIMEOUT:.0f} s"
    except OSError as error:
        return f"runsc delete: {error.strerror}"
    if done.returncode == 0:
        return None
    said = printable(done.stderr.decode("utf-8", "replace").strip())[-500:]
    failed = f"runsc delete failed with {done.returncode}: {said}"
    if _is_finished(found, said):
        say(f"engine-oci: warning: {failed}; an earlier delete had removed it")
        return None
    return failed


def _is_finished(found: Container, said: str) -> bool:
    """Whether a runsc delete that failed has deleted the container all the same, as after one that was cut short.

    runsc goes on where a file of the overlay is gone, and removes its state last. No other error is taken for that.
    """
    if "no such file or directory" not in said:
        return False
    try:
        with contextlib.closing(open_state_root(found.base, found.directory, found.record)) as root:
            os.stat(found.record.state_file, dir_fd=root.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return True
    except (OSError, UntrustedPathError):
        return False
    return False


def remove_partial_create(request: Request, container_id: str) -> bool:
    """Remove what a killed creation left before it had a record: nothing ran yet. Returns whether there was any.

    A directory with a trace belongs to `engine run`; `engine gc` removes it. Raises `ContainerError`.
    """
    with contextlib.ExitStack() as held:
        try:
            if (found := held.enter_context(find_directory(request, container_id))) is None:
                return False
            base, directory = found
            if not held.enter_context(take_lock_to_remove(directory)):
                return False
            names = os.listdir(directory.descriptor)
            if OCI_RECORD in names or any(name.startswith("trace-") for name in names):
                return False
            return remove_container(base, directory)
        except FileNotFoundError:
            return False
        except (UntrustedPathError, OSError) as error:
            raise unreadable(request.verb, error) from None
