"""The copy of runsc that a record names: opened by descriptor, and compared with what was recorded."""

from __future__ import annotations

import contextlib
import os
import stat

from engine.linux.files import PrivateDirectory, UntrustedPathError, open_private_directory
from engine.linux.regular_files import open_own
from engine.state import programs
from engine.state.container import COPY_MODE, OLD_COPY_MODE
from engine.state.record import Program


class OtherProgramError(UntrustedPathError):
    """Another file is in the place of the recorded copy, or somebody has written it."""


def open_recorded(container: PrivateDirectory, program: Program) -> int:
    """Open the copy of runsc for execution, from the `container` whose record names it.

    Raises `OtherProgramError` if it is not the recorded file, other `UntrustedPathError`s and `OSError`.
    """
    path = os.path.join(container.path, program.path)
    descriptor = _open(container, program.path)
    try:
        status = os.fstat(descriptor)
        if stat.S_IMODE(status.st_mode) not in (
            COPY_MODE,
            OLD_COPY_MODE,
        ) or not program.is_file(status):
            raise OtherProgramError(path, "is not the copy of runsc that created the container")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_recorded_to_clean_up(container: PrivateDirectory, program: Program) -> int | None:
    """As `open_recorded`, and its bytes have the recorded digest; None if that file is not there. Raises `OSError`.

    In specs/GVisorRuntime.tla: `IsTheRecordedCopy`.
    """
    from engine.state.store import digest_of

    try:
        descriptor = open_recorded(container, program)
    except (FileNotFoundError, UntrustedPathError):
        return None
    try:
        is_good = digest_of(descriptor) == program.sha256
    except BaseException:
        os.close(descriptor)
        raise
    if not is_good:
        os.close(descriptor)
        return None
    return descriptor


def _open(container: PrivateDirectory, path: str) -> int:
    *directories, name = path.split("/")
    here = container
    with contextlib.ExitStack() as held:
        if path.startswith("/"):
            here = held.enter_context(programs.opened_stage(os.path.dirname(path)))
            directories = []
        for step in directories:
            here = held.enter_context(
                contextlib.closing(open_private_directory(here.descriptor, here.path, step))
            )
        return open_own(here, name)
