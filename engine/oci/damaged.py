"""Remove a container whose record cannot be read: `delete --force` always works.

What is not known without the record, such as the pod of a member, is left to the deletion of its sandbox.
"""

from __future__ import annotations

import contextlib
import os

from engine.errors import Reason, hint_for
from engine.linux.files import PrivateDirectory, UntrustedPathError, open_private_directory
from engine.oci.container import TIMEOUT, ContainerError, unreadable
from engine.oci.lookup import open_base_of
from engine.oci.request import Request
from engine.options import check_container_id
from engine.state import record
from engine.state.cleanup import end_processes, remove_container
from engine.state.container import component, is_ours, open_runsc_root, remove_damaged_lock, take_lock
from engine.state.trees import remove_tree


def remove_damaged(request: Request, container_id: str) -> bool:
    """Kill every process of the container, and remove all of it. Returns whether there was one.

    Raises `ContainerError`.
    """
    check_container_id(container_id)
    with contextlib.ExitStack() as held:
        base = held.enter_context(open_base_of(request))
        if base is None:
            return False
        try:
            directory = open_private_directory(base.descriptor, base.path, component(container_id))
            held.callback(directory.close)
            if not is_ours(directory):
                return False
            remove_damaged_lock(directory)
            lock = take_lock(directory, TIMEOUT)
            if lock is None:
                raise ContainerError(
                    request.verb,
                    f"container {container_id!r} is being created or deleted by another command",
                    reason=Reason.BUSY,
                    hint="wait for it, or end it",
                )
            held.callback(os.close, lock)
            _remove(request, base, directory)
        except FileNotFoundError:
            return False
        except UntrustedPathError as error:
            raise unreadable(request.verb, error) from None
        except OSError as error:
            raise ContainerError(
                request.verb,
                f"{error.filename or container_id!r}: {error.strerror}",
                reason=Reason.FAILURE,
                hint=hint_for(error, "delete it again"),
            ) from None
    return True


def _remove(request: Request, base: PrivateDirectory, directory: PrivateDirectory) -> None:
    if left := end_processes(directory):
        raise ContainerError(
            request.verb,
            f"processes {left} of the container do not exit",
            reason=Reason.PROCESSES_REMAIN,
            hint="check what blocks them, and delete it again",
        )
    record.remove(directory)  # from here on the directory is like that of a killed run
    try:
        remove_container(base, directory)
    except (UntrustedPathError, OSError):
        _purge(directory)
        remove_container(base, directory)


def _purge(directory: PrivateDirectory) -> None:
    """Remove the state that runsc cannot delete."""
    with contextlib.suppress(FileNotFoundError), contextlib.closing(open_runsc_root(directory)) as root:
        for name in os.listdir(root.descriptor):
            if name.endswith(".state"):
                remove_tree(root, name)
