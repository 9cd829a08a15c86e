"""A process that stands for a pod's container: it ends when the container does, and with its exit code.

Managers wait for the process that the pid file names: conmon and containerd's shim as its reaper, podman by asking
whether it is there. A container in another's sandbox has none; runsc names the sandbox's, whose end is another's. So
one is made that waits with `runsc wait`. It belongs to whoever reaps the manager's children.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from typing import NoReturn

from engine import artifacts, runsc
from engine.linux.files import PrivateDirectory, UntrustedPathError
from engine.oci import record
from engine.oci.machine import Status
from engine.oci.record import Record

#: Where nobody can tell the exit code any more: the sandbox was killed, or the container deleted.
_KILLED = 128 + 9
#: Seconds between two looks whether it was started; runsc cannot wait before.
_BRIEFLY = 0.02
_LONGER = 0.2


def begin(base: PrivateDirectory, container: PrivateDirectory, noted: Record, program: int) -> int:
    """Its process id. `program` is the container's copy of runsc, open. Raises `OSError` and `UntrustedPathError`."""
    with contextlib.closing(record.open_runsc_root(base, container, noted)) as root:
        child = os.fork()
        if child == 0:
            _become(container, root, noted, program)
    return child


def _become(container: PrivateDirectory, root: PrivateDirectory, noted: Record, program: int) -> NoReturn:
    code = _KILLED
    try:
        os.setsid()
        os.chdir("/")
        _let_go_of_all_but({root.descriptor, program})
        code = _wait(
            os.path.join(container.path, artifacts.RUNSC_ROOT, artifacts.RUNTIME), root, noted, program
        )
    finally:
        os._exit(code)


def _let_go_of_all_but(kept: set[int]) -> None:
    """Whoever reads what the container writes must see its end."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    for name in os.listdir("/proc/self/fd"):
        if (descriptor := int(name)) > 2 and descriptor not in kept:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(descriptor)


def _wait(runtime: str, root: PrivateDirectory, noted: Record, program: int) -> int:
    pause = _BRIEFLY
    try:
        while (file := record.state_file(root, noted.state_file)) is not None:
            if file.status not in (Status.CREATING, Status.CREATED):
                done = runsc.ask(program, [*noted.flags, "wait", noted.id], runtime, seconds=None)
                return int(json.loads(done.stdout)["exitStatus"]) & 0xFF if done.returncode == 0 else _KILLED
            time.sleep(pause)
            pause = min(pause * 1.1, _LONGER)
    except (OSError, UntrustedPathError, ValueError, KeyError, TypeError, subprocess.SubprocessError):
        pass
    return _KILLED


def write_pid_file(path: str, pid: int) -> None:
    """Put `pid` where the manager reads it, as a whole or not at all. Raises `OSError`."""
    directory, name = os.path.split(path)
    unfinished = os.path.join(directory, f".{name}.{os.getpid()}")
    descriptor = os.open(
        unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
    )
    try:
        os.write(descriptor, str(pid).encode())
    finally:
        os.close(descriptor)
    os.rename(unfinished, path)
