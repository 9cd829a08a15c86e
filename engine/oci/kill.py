"""`kill`: send a signal to the container's first process, or to all."""

from __future__ import annotations

import contextlib

from engine.errors import Reason, UsageError
from engine.oci.container import ContainerError
from engine.oci.flags import Kind, Table
from engine.oci.lookup import find, permitted
from engine.oci.request import Request
from engine.state.oci_lifecycle import Status, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

    from engine.oci.container import Container

FLAGS: Table = {"all": Kind.SWITCH, "pid": Kind.VALUE}
SHORT = {"a": "all"}
#: The kernel's, signal(7): of these the C library keeps 32 and 33 for itself.
_REAL_TIME = range(32, 65)


def main(request: Request) -> NoReturn:
    """Become `runsc kill`. The default signal is SIGTERM. Raises `ContainerError` for a real-time signal."""
    if len(request.arguments) not in (1, 2):
        raise UsageError(
            "kill takes a container id and a signal", reason=Reason.USAGE, hint="see engine-oci --help"
        )
    container_id, *signals = request.arguments
    pid = ("--pid", str(request.flags.number("pid"))) if request.flags.value("pid") else ()
    flags = (*(("--all",) if request.flags.has("all") else ()), *pid)
    with _that_can_be_killed(request, container_id) as found:
        if signals and _is_real_time(signals[0]):
            raise ContainerError(
                request.verb,
                f"runsc cannot send the real-time signal {signals[0]!r}",
                reason=Reason.USAGE,
                hint="send one of 1 to 31; for an image that names it, give the manager another stop signal",
            )
        found.become_runsc(request, request.verb, flags, signals or ("SIGTERM",))


@contextlib.contextmanager
def _that_can_be_killed(request: Request, container_id: str) -> Iterator[Container]:
    """The container, if its status allows it; with `--all` also a stopped one of a pod whose sandbox lives.

    Where a pod's containers share their processes, those that its first process started stay in the sandbox after its
    end, with its output open. containerd's shim kills them so, as runc and runsc let it.
    """
    if request.flags.has("all"):
        with find(request, container_id) as found:
            if found.record.sandbox is not None and found.has_sandbox() and found.status() is Status.STOPPED:
                yield found
                return
    with permitted(request, Verb.KILL, container_id) as found:
        yield found


def _is_real_time(text: str) -> bool:
    """Whether a signal is one of those that no runsc sends: a number, or RTMIN+N or RTMAX-N, with or without SIG."""
    if text.isascii() and text.isdigit():
        return int(text) in _REAL_TIME
    return text.upper().removeprefix("SIG").startswith(("RTMIN", "RTMAX"))
