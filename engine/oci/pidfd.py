"""`--pidfd-socket`, as in runc 1.2: the manager gets a descriptor of the process whose pid is in the pid file.

Source: runc, docs of `--pidfd-socket` and libcontainer/init_linux.go (setupPidfd); pidfd_open(2), unix(7).
"""

from __future__ import annotations

import os
import socket

from engine.errors import Reason, UsageError
from engine.oci.container import ContainerError
from engine.oci.request import Request

#: What runc writes beside the descriptor, by how the process was started.
_MESSAGES = {"exec": b"setns"}
_STANDARD = b"standard"


def connect(request: Request, *, is_detached: bool) -> socket.socket | None:
    """A connection to the socket of `--pidfd-socket`; None without one. Raises `UsageError`."""
    path = request.flags.value("pidfd-socket")
    if path is None:
        return None
    if not is_detached:
        raise UsageError(
            f"--pidfd-socket needs --detach: until then {request.verb} is runsc itself",
            reason=Reason.UNSUPPORTED,
            hint="give --detach, or leave it out",
        )
    manager = socket.socket(socket.AF_UNIX)
    try:
        manager.connect(path)
    except OSError as error:
        manager.close()
        what, hint = _words(request, error)
        raise UsageError(what, reason=Reason.FAILURE, hint=hint) from None
    return manager


def send(request: Request, manager: socket.socket, pid: int) -> None:
    """Send a descriptor of the process `pid`, and close the connection. Raises `ContainerError`."""
    try:
        with manager:
            held = os.pidfd_open(pid)
            try:
                socket.send_fds(manager, [_MESSAGES.get(request.verb, _STANDARD)], [held])
            finally:
                os.close(held)
    except OSError as error:
        what, hint = _words(request, error)
        raise ContainerError(request.verb, what, reason=Reason.FAILURE, hint=hint) from None


def _words(request: Request, error: OSError) -> tuple[str, str]:
    """What failed, and the hint."""
    path = request.flags.value("pidfd-socket")
    return (
        f"--pidfd-socket {path!r}: {error.strerror or error}",
        "give the path of a socket on which the manager listens",
    )
