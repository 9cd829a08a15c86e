"""`run`: create and start a container; unless `--detach`, wait for it and remove it."""

from __future__ import annotations

from engine.oci.creation import start
from engine.oci.flags import Kind, Refused, Table
from engine.oci.request import Request

FLAGS: Table = {
    "bundle": Kind.VALUE,
    "pid-file": Kind.VALUE,
    "console-socket": Kind.VALUE,
    "preserve-fds": Kind.VALUE,
    "detach": Kind.SWITCH,
    "no-pivot": Kind.IGNORED_SWITCH,
    "no-new-keyring": Kind.IGNORED_SWITCH,
    "no-subreaper": Kind.IGNORED_SWITCH,
    "pidfd-socket": Kind.VALUE,
    "keep": Refused(
        "runsc run removes its container when it ends",
        "use create and start: that container stays until delete",
    ),
}
SHORT = {"b": "bundle", "d": "detach"}


def main(request: Request) -> int:
    """Run the container; returns its exit code, or runsc's if it is detached."""
    preserved = request.flags.number("preserve-fds")
    passed = [f"--pass-fd={number}:{number}" for number in range(3, 3 + preserved)]
    detach = request.flags.has("detach")
    return start(request, (*(("--detach",) if detach else ()), *passed), ends_with_runsc=not detach)
