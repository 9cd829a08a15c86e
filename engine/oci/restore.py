"""`restore`: create a container from a checkpoint; its processes continue."""

from __future__ import annotations

import os

from engine.errors import Reason, UsageError
from engine.oci.creation import start
from engine.oci.flags import Kind, Table
from engine.oci.request import Request

FLAGS: Table = {
    "bundle": Kind.VALUE,
    "pid-file": Kind.VALUE,
    "console-socket": Kind.VALUE,
    "image-path": Kind.VALUE,
    "detach": Kind.SWITCH,
    "work-path": Kind.IGNORED_VALUE,
    "no-subreaper": Kind.IGNORED_SWITCH,
    "no-pivot": Kind.IGNORED_SWITCH,
}
SHORT = {"b": "bundle", "d": "detach"}


def main(request: Request) -> int:
    """Restore from `--image-path`, through the same lifecycle as a new container."""
    image = request.flags.value("image-path")
    if not image:
        raise UsageError(
            "restore needs --image-path", reason=Reason.USAGE, hint="give the directory that checkpoint wrote"
        )
    detach = request.flags.has("detach")
    flags = ("--image-path", os.path.abspath(image), *(("--detach",) if detach else ()))
    return start(request, flags, ends_with_runsc=not detach)
