"""The monitor process of a pod member: it ends when the container does, with its exit code.

Managers wait for the pid in the pid file: conmon and containerd's shim reap it, podman polls it. A container in another
one's sandbox has no process of its own, and runsc would write the sandbox's pid. So the engine starts a process that
waits with `runsc wait`, and is reaped by whoever reaps the manager's children.

The monitor also keeps the standard streams of `create`, because runsc gives such a container those of `start`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket

from engine.linux.files import PrivateDirectory, close_all_but
from engine.linux.process import runs
from engine.runsc.command import ask
from engine.state.container import RUNSC_ROOT, RUNTIME
from engine.state.oci_lifecycle import Status
from engine.state.record import Record
from engine.state.status import CutShortError, argv_markers, open_state_root, state_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, NoReturn

    from engine.state.status import StateFile

#: Exit code if the real one is unknown: the sandbox was killed, or the container deleted.
_KILLED = 128 + 9
#: Seconds between two checks for the start; `runsc wait` does not work before it.
_POLL_INTERVAL = 0.1
#: Socket in the container's directory that passes the three descriptors to `start`.
_STREAMS = "streams"
_TIMEOUT = 5.0


def begin(base: PrivateDirectory, container: PrivateDirectory, noted: Record, program: int) -> int:
    """Start the monitor and return its pid. `program`: the container's copy of runsc, open.

    Raises `OSError` and `UntrustedPathError`.
    """
    with (
        contextlib.closing(open_state_root(base, container, noted)) as root,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as streams,
    ):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_STREAMS, dir_fd=container.descriptor)
        streams.bind(_address(container))
        streams.listen()
        child = os.fork()
        if child == 0:
            _become(container, root, noted, program, streams, argv_markers(base, container, noted)[0])
    return child


def take_streams(container: PrivateDirectory) -> None:
    """Replace descriptors 0, 1 and 2 by those of `create`; no monitor, no change. Raises `OSError`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as streams:
        streams.settimeout(_TIMEOUT)
        try:
            streams.connect(_address(container))
            given = socket.recv_fds(streams, 1, 3)[1]
        except OSError:
            return
    for standard, descriptor in enumerate(given):
        os.dup2(descriptor, standard)
        os.close(descriptor)


def _address(container: PrivateDirectory) -> str:
    """A path by descriptor, short enough for a socket, unix(7)."""
    return f"/proc/self/fd/{container.descriptor}/{_STREAMS}"


def _become(
    container: PrivateDirectory,
    root: PrivateDirectory,
    noted: Record,
    program: int,
    streams: socket.socket,
    marker: str,
) -> NoReturn:
    """`marker`: the argument that all processes of the pod have."""
    code = _KILLED
    boot = noted.sandbox.program if noted.sandbox else None
    is_killed = False
    try:
        os.setsid()
        os.chdir("/")
        close_all_but({0, 1, 2, root.descriptor, program, streams.fileno()})
        while (file := _read(root, noted.state_file)) is not None:
            if file and file.status not in (Status.CREATING, Status.CREATED):
                break
            # runsc's file stays as it is when the sandbox is killed.
            is_killed = bool(file and boot and not runs(file.pid, {boot.sandbox_file}, (marker,)))
            if is_killed:
                break
            if select.select([streams], [], [], _POLL_INTERVAL)[0]:
                with streams.accept()[0] as start:
                    socket.send_fds(start, [b"0"], [0, 1, 2])
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)  # the reader of the container's output must see its end
        streams.close()
        if file and not is_killed:
            runtime = os.path.join(container.path, RUNSC_ROOT, RUNTIME)
            done = ask(program, [*noted.flags, "wait", noted.id], runtime, seconds=None)
            if done.returncode == 0:
                code = int(json.loads(done.stdout)["exitStatus"]) & 0xFF
    finally:
        os._exit(code)


def _read(root: PrivateDirectory, name: str) -> StateFile | Literal[""] | None:
    """What runsc's file says; None without one, "" if a killed `start` left it empty."""
    try:
        found = state_file(root, name)
    except CutShortError:
        return ""
    return found and found[0]
