"""Remove a container whose record cannot be read: `delete --force` always works.

What is not known without the record, such as the pod of a member, is left to the deletion of its sandbox.
"""

from __future__ import annotations

import contextlib
import os

from engine.linux.files import PrivateDirectory, UntrustedPathError
from engine.oci.container import not_deleted, processes_remain, take_or_refuse, unreadable
from engine.oci.lookup import find_directory
from engine.oci.request import Request
from engine.state import record
from engine.state.cleanup import end_processes, remove_container
from engine.state.container import remove_damaged_lock


def remove_damaged(request: Request, container_id: str) -> bool:
    """Kill every process of the container, and remove all of it. Returns whether there was one.

    Raises `ContainerError`.
    """
    with contextlib.ExitStack() as held:
        try:
            if (found := held.enter_context(find_directory(request, container_id))) is None:
                return False
            base, directory = found
            remove_damaged_lock(directory)
            held.callback(os.close, take_or_refuse(request.verb, container_id, directory))
            _remove(request, base, directory)
        except FileNotFoundError:
            return False
        except UntrustedPathError as error:
            raise unreadable(request.verb, error) from None
        except OSError as error:
            raise not_deleted(request.verb, error, container_id) from None
    return True


def _remove(request: Request, base: PrivateDirectory, directory: PrivateDirectory) -> None:
    if left := end_processes(directory):
        raise processes_remain(request.verb, left)
    record.remove(directory)  # from here on the directory is like that of a killed run
    try:
        remove_container(base, directory)
    except OSError:  # in a tree of the container's; all else was removed, and what named the tree
        remove_container(base, directory)
