"""`pause`: every process of the container is frozen."""

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
    delegate(call, Verb.PAUSE, call.container_id())
