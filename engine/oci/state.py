"""`state`: print a container's state in the format of the OCI runtime specification."""

from __future__ import annotations

import json
import os

from engine.oci.container import Container, NoSuchError
from engine.oci.flags import Table
from engine.oci.lookup import find
from engine.oci.request import Request
from engine.state.oci_lifecycle import Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FLAGS: Table = {}
SHORT: dict[str, str] = {}


def main(request: Request) -> int:
    """Print the state. A deleted container, or a killed creation with nothing alive, does not exist."""
    container_id = request.container_id()
    with find(request, container_id) as found:
        state = describe(found)
    if state is None:
        raise NoSuchError(request.verb, container_id)
    print(json.dumps(state, indent=2))
    return 0


def describe(found: Container) -> dict[str, Any] | None:
    """The state, runtime.md (State), plus creation time and owner as in runc; None if it does not exist."""
    state = found.state()
    if state.status is Status.DELETED:
        return None
    record = found.record
    return {
        "ociVersion": record.oci_version,
        "id": record.id,
        "status": str(state.status),
        "pid": state.pid,
        "bundle": record.bundle,
        "annotations": dict(record.annotations),
        "created": record.created,
        "owner": str(os.geteuid()),
    }
