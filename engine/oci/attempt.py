"""What runsc was about to do with a container when it was killed, found out afterwards: start, pause or resume it.

runsc has the sandbox do it, and then writes its own file anew, in place. Killed in between it leaves a file that says
what was before, or an empty one, and goes by it ever after: it cannot delete the container, and a sandbox that it
pauses or resumes a second time is frozen for good, or dies. So the engine notes in the record, before it becomes runsc,
what that is about to do and what its file says. The next command finds out from that and from the sandbox what was
done, and puts runsc's file right before runsc reads it again. specs/OCIRuntime.tla has it: `attempt`.

Seen in runsc of 2022-12 and 2024-07: runsc/container/container.go (Start, Pause, Resume), state_file.go (saveLocked),
pkg/sentry/kernel/kernel.go (Pause, Unpause).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence

from engine.linux.files import PrivateDirectory, make_private_directory
from engine.linux.locks import lock
from engine.linux.regular_files import open_own, replace_own
from engine.runsc.command import ask
from engine.state.cleanup import remove_tree
from engine.state.container import RUNSC_ROOT, RUNTIME
from engine.state.oci_lifecycle import Status, Verb
from engine.state.record import Attempt, Record
from engine.state.status import open_state_root

#: Seconds that another runsc may hold its lock of the container, and that the sandbox may take to tell of an end.
_TIMEOUT = 10.0
_END = 1.0
#: In the stacks of a sandbox: what a task of its kernel has, and what one that is stopped has besides.
_TASK = re.compile(rb"^gvisor\.dev/gvisor/pkg/sentry/kernel\.\(\*Task\)\.run\(", re.MULTILINE)
_STOPPED = re.compile(rb"^gvisor\.dev/gvisor/pkg/sentry/kernel\.\(\*Task\)\.doStop\(", re.MULTILINE)


def found_out(container: PrivateDirectory, noted: Record, attempt: Attempt, program: int) -> Status:
    """Whether the sandbox did what nobody does any more and runsc's file does not tell: where the container is.

    `program` is the container's copy of runsc, open. What does not answer has done nothing. Raises `OSError` and
    `UntrustedPathError`.
    """
    if attempt.verb != Verb.START:
        return Status.PAUSED if _is_frozen(container, noted, program) else Status.RUNNING
    with _aside(container, noted, attempt) as root:
        # runsc lists no processes of what its file calls created; in a root of its own the file calls it paused.
        done = _answer(container, noted, program, ["ps", noted.id], root)
        if done is None:
            return Status.CREATED
        if len(done.splitlines()) > 1:  # below the heading
            return Status.RUNNING
        if noted.sandbox is not None and _answer(container, noted, program, ["wait", noted.id], root, _END):
            return Status.STOPPED
    return Status.CREATED


def _is_frozen(container: PrivateDirectory, noted: Record, program: int) -> bool:
    """Whether every task of the sandbox's kernel is stopped: nothing else that runsc tells shows a pause."""
    stacks = _answer(container, noted, program, ["debug", "--stacks", noted.id]) or b""
    tasks = len(_TASK.findall(stacks))
    return tasks > 0 and tasks == len(_STOPPED.findall(stacks))


def _answer(
    container: PrivateDirectory,
    noted: Record,
    program: int,
    verb: Sequence[str],
    root: str | None = None,
    seconds: float = _TIMEOUT,
) -> bytes | None:
    """What runsc prints; None where it fails or takes too long. Raises `OSError`."""
    flags = list(noted.flags)
    if root is not None:
        flags[flags.index("--root") + 1] = root
    runtime = os.path.join(container.path, RUNSC_ROOT, RUNTIME)
    try:
        done = ask(program, [*flags, *verb], runtime, seconds=seconds)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None


@contextlib.contextmanager
def _aside(container: PrivateDirectory, noted: Record, attempt: Attempt) -> Iterator[str]:
    """A root for runsc that has this container alone, and calls it paused. Raises `OSError`."""
    name = f"oci-aside-{os.getpid()}"
    aside = make_private_directory(container.descriptor, container.path, name)
    try:
        with contextlib.closing(aside):
            text = attempt.file_saying(Status.PAUSED)
            replace_own(aside, noted.state_file, text.encode(), mode=0o640)
        yield aside.path
    finally:
        remove_tree(container, name)


def repair_state_file(
    base: PrivateDirectory, container: PrivateDirectory, noted: Record, status: Status
) -> None:
    """Have runsc's file say `status`, of a container with an attempt that nobody makes any more.

    The caller holds the container's lock. Raises `OSError` and `UntrustedPathError`.
    """
    if noted.attempt is None:
        return
    with contextlib.closing(open_state_root(base, container, noted)) as root:
        path = os.path.join(root.path, noted.state_file)
        runscs = open_own(root, noted.state_file.removesuffix(".state") + ".lock")
        try:
            if not lock(runscs, time.monotonic() + _TIMEOUT):
                raise OSError(errno.EAGAIN, "another runsc holds its lock", path)
            text = noted.attempt.file_saying(status)
            replace_own(root, noted.state_file, text.encode(), mode=0o640)
        finally:
            os.close(runscs)
