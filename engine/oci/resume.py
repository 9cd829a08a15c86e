"""`resume`: a paused container goes on."""

from __future__ import annotations

from typing import NoReturn

from engine.oci.call import Call
from engine.oci.container import delegate
from engine.oci.flags import Table
from engine.state.oci_lifecycle import Verb

FLAGS: Table = {}
SHORT: dict[str, str] = {}


def main(call: Call) -> NoReturn:
    """Become runsc, which does it."""
    delegate(call, Verb.RESUME, call.container_id())
