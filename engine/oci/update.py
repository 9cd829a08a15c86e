"""`update`: change a container's resource limits, where its runsc has that verb (since January 2026)."""

from __future__ import annotations

import os
import sys

from engine.errors import Reason, UsageError, printable
from engine.oci.container import Container, ContainerError
from engine.oci.flags import Kind, Table
from engine.oci.lookup import find
from engine.oci.request import Request, say
from engine.state import oci_lifecycle as machine
from engine.state.container import RUNTIME
from engine.state.oci_lifecycle import Verb

_VALUES = (
    "blkio-weight",
    "cpu-burst",
    "cpu-idle",
    "cpu-period",
    "cpu-quota",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "cpu-share",
    "cpuset-cpus",
    "cpuset-mems",
    "l3-cache-schema",
    "mem-bw-schema",
    "memory",
    "memory-reservation",
    "memory-swap",
    "pids-limit",
)
FLAGS: Table = {"resources": Kind.VALUE, **dict.fromkeys(_VALUES, Kind.VALUE)}
SHORT = {"r": "resources"}

#: Seconds; it waits for stdin where `--resources -` says so.
_TIMEOUT = 60.0
#: What a Go program exits with after a panic.
_PANIC = 2


def main(request: Request) -> int:
    """Run `runsc update`, and wait for it. Returns its exit code.

    It is a child, and not this process: runsc rewrites its state file, and whoever kills this command must not cut that
    short.
    """
    container_id = request.container_id()
    flags: list[str] = []
    for name, value in request.flags.values.items():
        is_file = name == "resources" and value != "-"
        flags += [f"--{name}", os.path.abspath(value) if is_file else value]
    with find(request, container_id) as found, found.locked():
        now = found.repaired()
        machine.require(Verb.UPDATE, now.status(), container_id)
        return _update(request, now, flags)


def _update(request: Request, found: Container, flags: list[str]) -> int:
    import subprocess

    from engine.runsc.capabilities import has_verb
    from engine.runsc.command import ask

    arguments = [*found.record.flags, *request.log_flags(), "update", *flags, found.record.id]
    runtime = os.path.join(found.runsc_root, RUNTIME)
    stdin = sys.stdin.fileno() if request.flags.value("resources") == "-" else subprocess.DEVNULL
    try:
        with found.program() as program:
            if not has_verb(program, "update"):
                raise UsageError(
                    f"the runsc of container {found.record.id!r} has no verb 'update'",
                    reason=Reason.USAGE,
                    hint="create the container with a gVisor of 2026 or later, and with the limits that it shall have",
                )
            done = ask(program, arguments, runtime, seconds=_TIMEOUT, stdin=stdin, apart=True)
    except subprocess.TimeoutExpired:
        raise ContainerError(
            found.verb,
            f"runsc update did not finish within {_TIMEOUT:.0f} s",
            reason=Reason.TIME_LIMIT,
            hint="check what --resources reads",
        ) from None
    except OSError as error:
        raise ContainerError(
            found.verb,
            f"runsc update: {error.strerror}",
            reason=Reason.FAILURE,
            hint="check the machine's limits",
        ) from None
    said = done.stderr.decode("utf-8", "replace")
    if done.returncode == _PANIC and "goroutine " in said:
        raise ContainerError(
            found.verb,
            f"runsc update crashed and changed nothing of {found.record.id!r}",
            reason=Reason.PROGRAM_FAILED,
            hint="create it from a bundle with linux.resources: this runsc updates no other",
        )
    if lines := [line for line in said.splitlines() if line.strip()]:
        say(f"engine-oci: {printable(lines[-1])[-500:]}")
    return done.returncode
