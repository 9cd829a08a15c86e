"""`resume`: a paused container goes on."""

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
    delegate(request, Verb.RESUME, request.container_id())
