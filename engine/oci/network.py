"""Choose the network of a manager's container from its bundle, if the user did not.

A runsc from before August 2024 takes every network namespace of Linux 6.10 and later for the host's, and does not start
a container in it (google/gvisor#10704). With such a runsc the container runs without a network, and its state says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing

from engine.errors import EngineError, Reason
from engine.lifecycle.trusted_runsc import find_runsc
from engine.linux.child import ask_child
from engine.linux.syscall import library_call
from engine.options import Network
from engine.runsc.capabilities import OLD_NETWORK_SIGN, tells_network_namespaces_apart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The annotation in `state` that says why there is no network.
ANNOTATION = "dev.gvisor-engine.no-network"

_NEW_NETWORK_NAMESPACE = 0x40000000


class NetworkError(EngineError):
    """The bundle asks for a network that needs an explicit choice."""

    step = "network"


def settle(
    config: Mapping[str, Any], chosen: str | None, environment: Mapping[str, str], *, rootless: bool
) -> tuple[Network, str | None]:
    """The network for the bundle with this `config`, and why there is none; `chosen`: the requested runsc.

    A new namespace without a path that nobody set up has only a loopback device, as `none`. Raises `NetworkError` for a
    bundle that shares the host's network, and `EngineError`.
    """
    spaces = [
        space for space in config.get("linux", {}).get("namespaces", ()) if space.get("type") == "network"
    ]
    if not spaces:
        raise NetworkError(
            "the bundle shares the host's network: the host's kernel would handle the container's network calls",
            reason=Reason.HOST_NETWORK,
            hint="give the container its own network, or put --network host before the verb",
        )
    if not spaces[0].get("path"):
        return Network.NONE, None
    if rootless:
        return Network.NONE, "runsc has no sandbox network with --rootless"
    if _shows_in_new_namespace(OLD_NETWORK_SIGN) and not _tells_apart(chosen, environment):
        return (
            Network.NONE,
            "this runsc takes every network namespace of this kernel for the host's; install a newer one",
        )
    return Network.SANDBOX, None


def _shows_in_new_namespace(path: str) -> bool:
    """Whether `path` exists in a new network namespace; False where none can be made."""

    def look() -> bytes:
        library_call("unshare", _NEW_NETWORK_NAMESPACE)
        return b"shows" if os.path.exists(path) else b""

    try:
        return bool(ask_child(look))
    except OSError:
        return False


def _tells_apart(chosen: str | None, environment: Mapping[str, str]) -> bool:
    """Whether the runsc that a run would use knows a new network namespace from the host's."""
    with closing(find_runsc(chosen, environment)) as binary:
        return tells_network_namespaces_apart(binary.runsc.descriptor)
