"""`ps`: the processes in a container."""

from __future__ import annotations

from engine.errors import Reason, UsageError
from engine.oci.flags import Kind, Table
from engine.oci.lookup import delegate
from engine.oci.request import Request
from engine.state.oci_lifecycle import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

FLAGS: Table = {"format": Kind.VALUE}
SHORT = {"f": "format"}


def main(request: Request) -> NoReturn:
    """Become `runsc ps`. runc passes options on to ps(1); runsc does not use ps(1), so they are refused."""
    if len(request.arguments) > 1:
        raise UsageError(
            "runsc ps takes no options of ps(1)",
            reason=Reason.UNSUPPORTED,
            hint="give only the container's id",
        )
    form = request.flags.value("format")
    delegate(request, Verb.PS, request.container_id(), ("--format", form) if form else ())
