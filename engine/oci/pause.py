"""`pause`: freeze every process of the container."""

from __future__ import annotations

from engine.oci.flags import Table
from engine.oci.lookup import delegate
from engine.oci.request import Request
from engine.state.oci_lifecycle import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

FLAGS: Table = {}
SHORT: dict[str, str] = {}


def main(request: Request) -> NoReturn:
    """Become `runsc pause`."""
    delegate(request, Verb.PAUSE, request.container_id())
