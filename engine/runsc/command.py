"""Runs the checked runsc, by its descriptor, as a command, and waits for it."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Sequence

from engine.errors import EngineError, Reason
from engine.runsc.arguments import build_environment

#: Seconds. Printing a version takes 0.1 s.
_TIMEOUT = 10.0


class RunscError(EngineError):
    """A trusted runsc that did not answer."""

    step = "runsc"


def version(program: int, path: str) -> str:
    """The output of `--version` of the runsc open on `program`, which is at `path`, without surrounding space.

    Raises `RunscError`.
    """
    try:
        done = ask(program, ["--version"], "/nonexistent")
    except subprocess.TimeoutExpired:
        raise RunscError(
            f"{path!r} did not answer in {_TIMEOUT:.0f} s",
            reason=Reason.TIME_LIMIT,
            hint="reinstall it",
        ) from None
    except OSError as error:
        raise RunscError(f"{path!r}: {error.strerror}", reason=Reason.FAILURE, hint="reinstall it") from None
    if done.returncode != 0:
        raise RunscError(
            f"{path!r} --version failed with {done.returncode}",
            reason=Reason.PROGRAM_FAILED,
            hint="reinstall it",
        )
    return done.stdout.decode("utf-8", "replace").strip()


def delete(program: int, root: str, runtime: str, container_id: str) -> None:
    """Let the runsc open on `program` delete a container's state in its `root`, with this `runtime` directory.

    Raises `OSError` if it fails.
    """
    arguments = ["--root", root, "delete", "--force", container_id]
    try:
        done = ask(program, arguments, runtime)
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, f"runsc delete did not end in {_TIMEOUT:.0f} s", root) from None
    if done.returncode != 0:
        raise OSError(errno.EIO, f"runsc delete failed with {done.returncode}", root)


def ask(
    program: int,
    arguments: Sequence[str],
    runtime: str,
    *,
    seconds: float | None = _TIMEOUT,
    stdin: int = subprocess.DEVNULL,
    apart: bool = False,
) -> subprocess.CompletedProcess[bytes]:
    """Run the runsc open on `program`, and wait for it. Raises `OSError` and `subprocess.TimeoutExpired`.

    `apart`: in a session of its own, so that no signal from a terminal reaches it.
    """
    return subprocess.run(  # noqa: S603 (the descriptor that was checked)
        [f"/proc/self/fd/{program}", *arguments],
        pass_fds=[program],
        env=build_environment(runtime),
        stdin=stdin,
        start_new_session=apart,
        capture_output=True,
        timeout=seconds,
        check=False,
    )
