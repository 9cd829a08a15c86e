"""`exec`: run another process in a running container."""

from __future__ import annotations

import os

from engine.errors import Reason, UsageError
from engine.oci.container import Container, ContainerError
from engine.oci.flags import Kind, Refused, Table
from engine.oci.lookup import permitted
from engine.oci.request import Request
from engine.state.oci_lifecycle import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
    # Nothing is paused but a whole container, in which runsc starts no process: it is refused with and without this.
    "ignore-paused": Kind.IGNORED_SWITCH,
    "pidfd-socket": Kind.VALUE,
    "cgroup": Refused(
        "the processes of a container are all in its one sandbox, and so in one cgroup", "leave it out"
    ),
    "apparmor": Refused("runsc applies no AppArmor profile", "leave it out"),
    "process-label": Refused("runsc applies no SELinux label", "leave it out"),
    "no-new-privs": Refused("runsc would ignore it", "give --process a file with process.noNewPrivileges"),
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

#: Paths that runsc is given; these last three only where it is this process that becomes runsc.
_PATHS = ("process",)
_OWN_PATHS = ("console-socket", "pid-file", "internal-pid-file")


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
        if name in (_PATHS if is_detached else (*_PATHS, *_OWN_PATHS)):
            flags += [f"--{name}", os.path.abspath(value)]
        elif name in ("cwd", "user"):
            flags += [f"--{name}", value]
    for name, values in given.lists.items():
        if name != "cap":
            for value in values:
                flags += [f"--{name}", value]
    preserved = given.number("preserve-fds")
    flags += [f"--pass-fd={number}:{number}" for number in range(3, 3 + preserved)]
    if given.value("pidfd-socket"):
        from engine.oci import pidfd

        pidfd_socket = pidfd.connect(request, is_detached=is_detached)
    else:
        pidfd_socket = None
    with permitted(request, Verb.EXEC, container_id) as found:
        if added := given.lists.get("cap"):
            flags += _capability_flags(found, added)
        if not is_detached:
            found.become_runsc(request, request.verb, flags, command, preserved)
        from engine.oci import exec_monitor

        console = given.value("console-socket")
        path = None if console is None else os.path.abspath(console)
        return exec_monitor.run(
            found, request, flags, command, preserved, console=path, pidfd_socket=pidfd_socket
        )


def _capability_flags(found: Container, added: Iterable[str]) -> Iterator[str]:
    """The flags that give the process the container's capabilities and the `added`, as runc does.

    runsc of 2024 gives it those of its flags alone, as its bounding, effective and permitted set; a later one adds them
    to the container's. Raises `ContainerError` where the container's sets differ: no list of flags says that.
    """
    own = found.capabilities()
    bounding = own.get("bounding") or ()
    if any(set(own.get(name) or ()) != set(bounding) for name in ("effective", "permitted")) or any(
        own.get(name) for name in ("inheritable", "ambient")
    ):
        raise ContainerError(
            found.verb,
            f"the sets of capabilities of container {found.record.id!r} differ, and runsc cannot add"
            f" {', '.join(map(repr, added))} to each",
            reason=Reason.USAGE,
            hint="give --process a file with process.capabilities",
        )
    for name in dict.fromkeys((*bounding, *added)):
        yield from ("--cap", name)
