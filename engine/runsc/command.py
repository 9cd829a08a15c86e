"""Runs runsc as a command and waits for its answer: the very file that was judged, by its descriptor."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Sequence

from engine.errors import EngineError, Reason
from engine.runsc.arguments import build_environment

#: Seconds. Printing a version takes a tenth of one; a binary that hangs must not hang us.
_TIME_LIMIT = 10.0


class RunscError(EngineError):
    """runsc was found and trusted, and did not answer."""

    step = "runsc"


def version(program: int, path: str) -> str:
    """What the runsc open on `program`, which is at `path`, says to `--version`, less the space around it.

    Raises `RunscError`.
    """
    try:
        done = ask(program, ["--version"], "/nonexistent")
    except subprocess.TimeoutExpired:
        raise RunscError(
            f"{path!r} did not answer in {_TIME_LIMIT:.0f} s",
            reason=Reason.TIME_LIMIT,
            hint="install it anew",
        ) from None
    except OSError as error:
        raise RunscError(
            f"{path!r}: {error.strerror}", reason=Reason.FAILURE, hint="install it anew"
        ) from None
    if done.returncode != 0:
        raise RunscError(
            f"{path!r} --version failed with {done.returncode}",
            reason=Reason.PROGRAM_FAILED,
            hint="install it anew",
        )
    return done.stdout.decode("utf-8", "replace").strip()


def delete(program: int, root: str, runtime: str, container_id: str) -> None:
    """Have the runsc open on `program` delete what is left of a container in its `root`, with this `runtime` directory.

    Raises `OSError` when it does not.
    """
    arguments = ["--root", root, "delete", "--force", container_id]
    try:
        done = ask(program, arguments, runtime)
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, f"runsc delete did not end in {_TIME_LIMIT:.0f} s", root) from None
    if done.returncode != 0:
        raise OSError(errno.EIO, f"runsc delete failed with {done.returncode}", root)


def ask(
    program: int, arguments: Sequence[str], runtime: str, *, seconds: float | None = _TIME_LIMIT
) -> subprocess.CompletedProcess[bytes]:
    """Run the runsc open on `program`, and wait for it. Raises `OSError` and `subprocess.TimeoutExpired`."""
    return subprocess.run(  # noqa: S603 (the very descriptor that was judged)
        [f"/proc/self/fd/{program}", *arguments],
        pass_fds=[program],
        env=build_environment(runtime),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        check=False,
    )
