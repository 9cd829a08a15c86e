"""`pause`: every process of the container is frozen."""

from __future__ import annotations

from typing import NoReturn

from engine.oci.flags import Table
from engine.oci.lookup import delegate
from engine.oci.request import Request
from engine.state.oci_lifecycle import Verb

FLAGS: Table = {}
SHORT: dict[str, str] = {}


def main(request: Request) -> NoReturn:
    """Become runsc, which does it."""
    delegate(request, Verb.PAUSE, request.container_id())
