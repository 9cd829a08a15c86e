"""`kill`: a signal for the container's first process, or for all."""

from __future__ import annotations

from typing import NoReturn

from engine.errors import Reason, UsageError
from engine.oci.call import Call
from engine.oci.container import delegate
from engine.oci.flags import Kind, Table
from engine.state.oci_lifecycle import Verb

FLAGS: Table = {"all": Kind.SWITCH, "pid": Kind.VALUE}
SHORT = {"a": "all"}


def main(call: Call) -> NoReturn:
    """Become runsc, which sends it. SIGTERM where none is named."""
    if len(call.arguments) not in (1, 2):
        raise UsageError(
            "kill takes a container id and a signal", reason=Reason.USAGE, hint="see engine-oci --help"
        )
    container_id, *signals = call.arguments
    pid = ("--pid", str(call.flags.number("pid"))) if call.flags.value("pid") else ()
    flags = (*(("--all",) if call.flags.has("all") else ()), *pid)
    delegate(call, Verb.KILL, container_id, flags, signals or ("SIGTERM",))
