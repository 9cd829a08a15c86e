"""`spec`: write a template config.json with the installed runsc."""

from __future__ import annotations

import os

from engine.errors import EngineError, Reason, UsageError, hint_for
from engine.lifecycle.trusted_runsc import find_runsc
from engine.oci.flags import Kind, Table
from engine.oci.request import Request
from engine.runsc.arguments import build_environment
from engine.runsc.execute import SignalGuard, become_runsc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

FLAGS: Table = {"bundle": Kind.VALUE, "cwd": Kind.VALUE, "netns": Kind.VALUE}
SHORT = {"b": "bundle"}


def main(request: Request) -> NoReturn:
    """Become the runsc that a run would use. The arguments are the command for the config.json."""
    bundle = os.path.abspath(request.flags.value("bundle") or ".")
    if os.path.lexists(os.path.join(bundle, "config.json")):
        raise UsageError(
            f"{bundle!r} has a config.json",
            reason=Reason.EXISTS,
            hint="remove it first: it is never overwritten",
        )
    flags = [
        part for name in ("cwd", "netns") if (v := request.flags.value(name)) for part in (f"--{name}", v)
    ]
    command = ("--", *request.arguments) if request.arguments else ()
    binary = find_runsc(request.common.value("runsc"), request.environment)
    argv = (binary.runsc.path, "spec", "--bundle", bundle, *flags, *command)
    try:
        with SignalGuard() as process:
            become_runsc(binary.runsc.descriptor, argv, build_environment("/nonexistent"), process)
    except OSError as error:
        raise EngineError(
            f"runsc cannot be executed: {error.filename!r}: {error.strerror}",
            reason=Reason.FAILURE,
            hint=hint_for(error, "install it again"),
        ) from None
