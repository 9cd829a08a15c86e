"""`start`: start a created container."""

from __future__ import annotations

from engine.oci.flags import Table
from engine.oci.lookup import find
from engine.oci.request import Request, say
from engine.state import oci_lifecycle as machine
from engine.state.oci_lifecycle import Verb
from engine.state.record import WARNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from engine.state.record import Record
    from engine.state.status import ContainerState

FLAGS: Table = {}
SHORT: dict[str, str] = {}


def main(request: Request) -> NoReturn:
    """Become `runsc start`. A pod member gets the standard streams of its `create`."""
    container_id = request.container_id()
    with find(request, container_id) as found:
        machine.require(Verb.START, found.status(), container_id)
        if (text := found.record.annotations.get(WARNING)) is not None:
            request.warn(text)
        if found.record.sandbox is not None:
            from engine.oci import monitor

            monitor.take_streams(found.directory)
        found.note_attempt(Verb.START, settle).become_runsc(request, request.verb)


def settle(noted: Record, state: ContainerState) -> None:
    """Choose the network of a container whose namespace its manager has set up since `create`."""
    if noted.network_at_start is None or state.sandbox is None:
        return
    from engine.oci import network

    why = network.at_start(noted, state.sandbox)
    if why is not None:
        say(f"engine-oci: warning: {noted.id!r} has no network: {why}")
