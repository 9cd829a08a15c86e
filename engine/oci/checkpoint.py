"""`checkpoint`: write the state of a running container to a directory."""

from __future__ import annotations

import os

from engine.errors import Reason, UsageError
from engine.oci.flags import Kind, Refused, Table
from engine.oci.lookup import delegate
from engine.oci.request import Request
from engine.state.oci_lifecycle import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

FLAGS: Table = {
    "image-path": Kind.VALUE,
    "leave-running": Kind.SWITCH,
    "work-path": Kind.IGNORED_VALUE,
    # Of CRIU, for what the sandbox's own kernel saves anyway: locks, its session and its cgroups.
    "file-locks": Kind.IGNORED_SWITCH,
    "shell-job": Kind.IGNORED_SWITCH,
    "manage-cgroups-mode": Kind.IGNORED_VALUE,
    **dict.fromkeys(
        ("pre-dump", "parent-path", "lazy-pages", "page-server", "auto-dedup"),
        Refused("runsc writes a whole checkpoint, and at once", "leave it out"),
    ),
    "tcp-established": Refused("runsc keeps no connection to outside over a checkpoint", "leave it out"),
}
SHORT: dict[str, str] = {}


def main(request: Request) -> NoReturn:
    """Become `runsc checkpoint`."""
    image = request.flags.value("image-path")
    if not image:
        raise UsageError("checkpoint needs --image-path", reason=Reason.USAGE, hint="give a directory")
    flags = ("--image-path", os.path.abspath(image))
    more = ("--leave-running",) if request.flags.has("leave-running") else ()
    delegate(request, Verb.CHECKPOINT, request.container_id(), (*flags, *more))
