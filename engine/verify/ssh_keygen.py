"""OpenSSH's `ssh-keygen` as a child: found on trusted paths, with nothing of the caller's but what it is given."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from typing import IO, Any

from engine.errors import EngineError, Reason

#: Where `ssh-keygen` is looked for; never on PATH.
PROGRAMS = ("/usr/bin/ssh-keygen", "/usr/local/bin/ssh-keygen", "/run/current-system/sw/bin/ssh-keygen")
#: Nothing of the caller's: no agent, no askpass program, no time zone.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
#: Seconds. A signature takes some 5 ms; a security key waits for a touch.
_TIMEOUT = 60.0
#: memfd_create(2), since Linux 6.3; where vm.memfd_noexec is 2 the kernel insists on it.
_MFD_NOEXEC_SEAL = 0x8


class SignatureError(EngineError):
    """A trace cannot be signed, or what its signature should be checked with cannot be read."""

    step = "signature"

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """For workers: what pickle makes of an exception by itself would lack the hint."""
        return partial(type(self), reason=self.reason, hint=self.hint), (self.what,)


def find() -> str:
    """The path of the trusted `ssh-keygen`. Raises `SignatureError`."""
    for path in PROGRAMS:
        if os.access(path, os.X_OK):
            return path
    raise SignatureError(
        f"ssh-keygen is needed for signatures, and is none of {', '.join(PROGRAMS)}",
        reason=Reason.UNAVAILABLE,
        hint="install openssh-client (apt-get install openssh-client)",
    )


def ask(
    *arguments: str, stdin: IO[bytes] | None = None, shared: Sequence[IO[bytes]] = ()
) -> subprocess.CompletedProcess[bytes]:
    """What it answers. Of the caller's it has only `stdin` and the `shared` files, and no terminal to ask.

    Raises `SignatureError`.
    """
    try:
        return subprocess.run(  # noqa: S603 (a trusted path)
            [find(), *arguments],
            stdin=stdin or subprocess.DEVNULL,
            capture_output=True,
            pass_fds=[file.fileno() for file in shared],
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SignatureError(
            f"ssh-keygen has not ended after {_TIMEOUT:.0f} s",
            reason=Reason.TIME_LIMIT,
            hint="see what it waits for: run ssh-keygen -Y by hand",
        ) from None


def by_descriptor(file: IO[bytes]) -> str:
    return f"/proc/self/fd/{file.fileno()}"


def last_line(done: subprocess.CompletedProcess[bytes]) -> str:
    """What it complained of; its name for a shared file, which means nothing to a user, becomes "the file"."""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return re.sub(r"/proc/self/fd/\d+", "the file", lines[-1]) if lines else f"exit code {done.returncode}"


@contextlib.contextmanager
def in_memory(content: bytes) -> Iterator[IO[bytes]]:
    """A file of these bytes that nobody else has, at its start."""
    try:
        descriptor = os.memfd_create("signature", os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        descriptor = os.memfd_create("signature", os.MFD_CLOEXEC)
    with open(descriptor, "w+b") as file:
        file.write(content)
        file.seek(0)
        yield file
