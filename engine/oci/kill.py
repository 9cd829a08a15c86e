"""`kill`: send a signal to the container's first process, or to all."""

from __future__ import annotations

from engine.errors import Reason, UsageError
from engine.oci.flags import Kind, Table
from engine.oci.lookup import delegate
from engine.oci.request import Request
from engine.state.oci_lifecycle import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

FLAGS: Table = {"all": Kind.SWITCH, "pid": Kind.VALUE}
SHORT = {"a": "all"}


def main(request: Request) -> NoReturn:
    """Become `runsc kill`. The default signal is SIGTERM."""
    if len(request.arguments) not in (1, 2):
        raise UsageError(
            "kill takes a container id and a signal", reason=Reason.USAGE, hint="see engine-oci --help"
        )
    container_id, *signals = request.arguments
    pid = ("--pid", str(request.flags.number("pid"))) if request.flags.value("pid") else ()
    flags = (*(("--all",) if request.flags.has("all") else ()), *pid)
    delegate(request, Verb.KILL, container_id, flags, signals or ("SIGTERM",))
