"""`create`: set up a container, which then waits for `start`."""

from __future__ import annotations

from engine.errors import Reason, UsageError
from engine.oci.creation import start
from engine.oci.flags import Kind, Table
from engine.oci.request import Request

FLAGS: Table = {
    "bundle": Kind.VALUE,
    "pid-file": Kind.VALUE,
    "console-socket": Kind.VALUE,
    "preserve-fds": Kind.VALUE,
    "pidfd-socket": Kind.VALUE,
    "no-pivot": Kind.IGNORED_SWITCH,
    "no-new-keyring": Kind.IGNORED_SWITCH,
}
SHORT = {"b": "bundle"}


def main(request: Request) -> int:
    """Create the container.

    runsc passes no further descriptors to a created container, and cannot create with `--rootless`: both are refused.
    """
    if request.common.value("rootless") == "true":
        raise UsageError(
            "runsc has no create with --rootless",
            reason=Reason.UNSUPPORTED,
            hint="use run, or let root create it",
        )
    if request.flags.number("preserve-fds"):
        raise UsageError(
            "runsc create cannot pass descriptors", reason=Reason.UNSUPPORTED, hint="use run --preserve-fds"
        )
    return start(request, (), ends_with_runsc=False)
