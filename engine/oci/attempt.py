"""Recover from a runsc that was killed during start, pause or resume of a container.

runsc first makes the change in the sandbox and then rewrites its state file in place. If it is killed in between, the
file has the old status or is empty. runsc cannot delete such a container, and a sandbox that is paused or resumed a
second time freezes or dies. So before the engine becomes runsc, it records the verb and the status in runsc's file. The
next command compares this with the sandbox and repairs the file before runsc reads it. In specs/OCIRuntime.tla:
`attempt`.

Observed in runsc of 2022-12 and 2024-07: runsc/container/container.go (Start, Pause, Resume), state_file.go
(saveLocked), pkg/sentry/kernel/kernel.go (Pause, Unpause).
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator, Sequence

from engine.linux.files import PrivateDirectory, make_private_directory
from engine.linux.regular_files import replace_own
from engine.runsc.command import ask
from engine.state import processes
from engine.state.container import RUNSC_ROOT, RUNTIME
from engine.state.oci_lifecycle import Status, Verb
from engine.state.record import Attempt, Record
from engine.state.status import open_state_root
from engine.state.trees import remove_tree

#: Seconds to wait for the sandbox's answer.
_TIMEOUT = 10.0
_WAIT_TIMEOUT = 1.0
#: Frames in a sandbox's stacks: of every task of its kernel, and of a stopped task.
_TASK = re.compile(rb"^gvisor\.dev/gvisor/pkg/sentry/kernel\.\(\*Task\)\.run\(", re.MULTILINE)
_STOPPED = re.compile(rb"^gvisor\.dev/gvisor/pkg/sentry/kernel\.\(\*Task\)\.doStop\(", re.MULTILINE)


def found_out(container: PrivateDirectory, noted: Record, attempt: Attempt, program: int) -> Status:
    """Return the real status after an interrupted start, pause or resume.

    `program`: the container's copy of runsc, open. A sandbox that does not answer has not done it. Raises `OSError` and
    `UntrustedPathError`.
    """
    if attempt.verb != Verb.START:
        return Status.PAUSED if _is_frozen(container, noted, program) else Status.RUNNING
    with _aside(container, noted, attempt) as root:
        # runsc ps refuses a container that its file calls created, so it gets a root whose file says paused.
        done = _answer(container, noted, program, ["ps", noted.id], root)
        if done is None:
            return Status.CREATED
        if len(done.splitlines()) > 1:  # below the heading
            return Status.RUNNING
        if noted.sandbox is not None and _answer(
            container, noted, program, ["wait", noted.id], root, _WAIT_TIMEOUT
        ):
            return Status.STOPPED
    return Status.CREATED


def _is_frozen(container: PrivateDirectory, noted: Record, program: int) -> bool:
    """Whether every task of the sandbox's kernel is stopped. runsc has no other command that shows a pause."""
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
    """The output of runsc; None if it fails or times out. Raises `OSError`."""
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
    """A temporary runsc root with only this container, its status set to paused. Raises `OSError`."""
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
    """Set the status in runsc's state file after an interrupted attempt.

    The caller holds the container's lock. Raises `OSError` and `UntrustedPathError`.
    """
    if noted.attempt is None:
        return
    with (
        contextlib.closing(open_state_root(base, container, noted)) as root,
        processes.locked(root, noted.state_file),
    ):
        text = noted.attempt.file_saying(status)
        replace_own(root, noted.state_file, text.encode(), mode=0o640)
