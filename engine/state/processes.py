"""The processes of a container that is removed: the engine ends them, and then runsc knows of none.

runsc signals the pids in its state file when it deletes a container. It cannot tell whether they are still the
container's: by now others may have them. So the engine ends the processes itself, by pidfd, and then sets the pids in
the file to 0, which runsc takes for none. In specs/OCIRuntime.tla: `Disown`.

Observed in runsc of 2022-12 to 2026-08: runsc/container/container.go (stop), runsc/sandbox/sandbox.go (destroy).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable, Collection, Iterator

from engine.linux.files import PrivateDirectory
from engine.linux.locks import lock
from engine.linux.process import arguments, end_all, runs
from engine.linux.regular_files import open_own, read_own, replace_own
from engine.state.record import MAX_SIZE, Record

#: Arguments of a container's own processes; commands about it may execute the same file.
PARTS = frozenset({b"boot", b"gofer", b"umount"})
#: Seconds to wait for another runsc's lock of the container, for commands about it, and for killed processes.
_LOCK_TIMEOUT = 10.0
_COMMAND_TIMEOUT = 1.0
_END_TIMEOUT = 10.0


def end(files: Collection[tuple[int, int]], argv_markers: tuple[str, ...]) -> list[int]:
    """Kill every process that `runs` (`engine.linux.process`) one of `files` with these `argv_markers`.

    First the container's own; a command about it, such as runsc exec, then ends by itself, or is killed. Returns the
    pids of those that do not end. Raises `OSError`.
    """
    return end_all(
        lambda pid: runs(pid, files, argv_markers),
        seconds=_END_TIMEOUT,
        ends_itself=lambda pid: PARTS.isdisjoint(arguments(pid)),
        grace=_COMMAND_TIMEOUT,
    )


def forget(root: PrivateDirectory, name: str, is_sandbox: Callable[[int], bool] = lambda _: False) -> None:
    """Set the pids in runsc's file `name` in `root` to 0; the sandbox's stays if `is_sandbox` is true of it.

    runsc only looks whether that process exists when it deletes another container of the sandbox. An absent file, or
    one that runsc cannot read either, stays as it is. Raises `OSError` and `UntrustedPathError`.
    """
    try:
        fields = json.loads(read_own(root, name, MAX_SIZE))
        fields["goferPid"] = 0
        sandbox = fields.get("sandbox")
        if sandbox and not is_sandbox(int(sandbox.get("pid", 0))):
            sandbox["pid"] = 0
        data = json.dumps(fields, separators=(",", ":")).encode()
    except (FileNotFoundError, ValueError, TypeError, AttributeError, RecursionError):
        return
    replace_own(root, name, data, mode=0o640)


def forget_members(root: PrivateDirectory, member: Record) -> None:
    """As `forget`, for the `member` of a pod in the `root` of its sandbox: the sandbox's pid stays if that lives."""
    program = member.sandbox.program if member.sandbox and not member.is_of_earlier_boot else None
    forget(
        root,
        member.state_file,
        lambda pid: program is not None and runs(pid, {program.sandbox_file}, (root.path,)),
    )


@contextlib.contextmanager
def locked(root: PrivateDirectory, name: str) -> Iterator[None]:
    """Hold runsc's lock of the container with the state file `name` in `root`: no runsc changes or writes it.

    Raises `OSError`: EAGAIN if another runsc keeps it; `UntrustedPathError`.
    """
    descriptor = open_own(root, name.removesuffix(".state") + ".lock")
    try:
        if not lock(descriptor, time.monotonic() + _LOCK_TIMEOUT):
            raise OSError(errno.EAGAIN, "another runsc holds its lock", os.path.join(root.path, name))
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_if_there(root: PrivateDirectory, name: str) -> Iterator[None]:
    """As `locked`, where runsc has made its lock."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(FileNotFoundError):
            held.enter_context(locked(root, name))
        yield
