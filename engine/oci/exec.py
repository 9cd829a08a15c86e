"""`exec`: run another process in a running container."""

from __future__ import annotations

import os

from engine.errors import Reason, UsageError
from engine.oci.flags import Kind, Table
from engine.oci.lookup import delegate, permitted
from engine.oci.request import Request
from engine.state.oci_lifecycle import Verb

FLAGS: Table = {
    "console-socket": Kind.VALUE,
    "cwd": Kind.VALUE,
    "env": Kind.VALUES,
    "tty": Kind.IGNORED_SWITCH,
    "user": Kind.VALUE,
    "additional-gids": Kind.VALUES,
    "process": Kind.VALUE,
    "detach": Kind.SWITCH,
    "pid-file": Kind.VALUE,
    "internal-pid-file": Kind.VALUE,
    "cap": Kind.VALUES,
    "preserve-fds": Kind.VALUE,
    "no-subreaper": Kind.IGNORED_SWITCH,
}
SHORT = {
    "e": "env",
    "t": "tty",
    "u": "user",
    "g": "additional-gids",
    "p": "process",
    "d": "detach",
    "c": "cap",
}

_PATHS = ("console-socket", "process")
_PID_FILES = ("pid-file", "internal-pid-file")


def main(request: Request) -> int:
    """Become `runsc exec`, which waits for the process. With `--detach`, start it and what stands for it."""
    if not request.arguments:
        raise UsageError(
            "exec takes a container id and a command", reason=Reason.USAGE, hint="see engine-oci --help"
        )
    container_id, *command = request.arguments
    given = request.flags
    if not command and not given.value("process"):
        raise UsageError("exec has no command", reason=Reason.USAGE, hint="give one, or --process FILE")
    is_detached = given.has("detach")
    flags = []
    for name, value in given.values.items():
        if name in (_PATHS if is_detached else (*_PATHS, *_PID_FILES)):
            flags += [f"--{name}", os.path.abspath(value)]
        elif name in ("cwd", "user"):
            flags += [f"--{name}", value]
    for name, values in given.lists.items():
        for value in values:
            flags += [f"--{name}", value]
    preserved = given.number("preserve-fds")
    flags += [f"--pass-fd={number}:{number}" for number in range(3, 3 + preserved)]
    if not is_detached:
        delegate(request, Verb.EXEC, container_id, flags, command, preserved)
    from engine.oci import exec_monitor

    with permitted(request, Verb.EXEC, container_id) as found:
        has_console = given.value("console-socket") is not None
        return exec_monitor.run(found, request, flags, command, preserved, has_console=has_console)
