"""`events`: print resource usage, once or at an interval."""

from __future__ import annotations

from engine.errors import Reason, UsageError
from engine.oci.flags import Kind, Table
from engine.oci.lookup import delegate
from engine.oci.request import Request
from engine.state.oci_lifecycle import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

FLAGS: Table = {"stats": Kind.SWITCH, "interval": Kind.VALUE}
SHORT: dict[str, str] = {}


def main(request: Request) -> NoReturn:
    """Become `runsc events`. `--interval` is in whole seconds: `5s` as in runc, or `5`."""
    flags: list[str] = ["--stats"] if request.flags.has("stats") else []
    if interval := request.flags.value("interval"):
        seconds = interval.removesuffix("s")
        if not (seconds.isascii() and seconds.isdigit()):
            raise UsageError(
                f"--interval is {interval!r}", reason=Reason.USAGE, hint="give whole seconds, such as 5s"
            )
        flags += ["--interval", seconds]
    delegate(request, Verb.EVENTS, request.container_id(), flags)
