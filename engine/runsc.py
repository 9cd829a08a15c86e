"""What runsc says of itself. The binary that is asked is one that `validate` trusts, run from its descriptor."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Mapping, Sequence

from engine import artifacts
from engine.errors import EngineError, StepError
from engine.lifecycle.exec import build_environment
from engine.lifecycle.resolve import resolve
from engine.lifecycle.validate import Validated, validate
from engine.options import Platform

#: Seconds. Printing a version takes a tenth of one; a binary that hangs must not hang us.
_TIME_LIMIT = 10.0


class RunscError(EngineError):
    """runsc was found and trusted, and did not answer."""

    step = "runsc"


def find(chosen: str | None, environment: Mapping[str, str]) -> Validated:
    """The runsc that a run would use, pinned. Raises `ResolveError` and `ValidateError`."""
    return validate(resolve(chosen, environment), Platform.AUTO)


def is_available(environment: Mapping[str, str]) -> bool:
    """Whether a run would find a runsc that it trusts."""
    try:
        find(None, environment).close()
    except StepError:
        return False
    return True


def version(binary: Validated) -> str:
    """What `runsc --version` prints, without the space around it. Raises `RunscError`."""
    try:
        done = ask(binary.descriptor, ["--version"], "/nonexistent")
    except subprocess.TimeoutExpired:
        raise RunscError(
            f"{binary.path!r} did not answer in {_TIME_LIMIT:.0f} s", remedy="install it anew"
        ) from None
    except OSError as error:
        raise RunscError(f"{binary.path!r}: {error.strerror}", remedy="install it anew") from None
    if done.returncode != 0:
        raise RunscError(f"{binary.path!r} --version failed with {done.returncode}", remedy="install it anew")
    return done.stdout.decode("utf-8", "replace").strip()


def delete(program: int, root: str, container_id: str) -> None:
    """Have the runsc open on `program` delete what is left of a container in its `root`.

    Raises `OSError` when it does not.
    """
    arguments = ["--root", root, "delete", "--force", container_id]
    try:
        done = ask(program, arguments, os.path.join(root, artifacts.RUNTIME))
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
