"""Which network a manager's container is given, where nobody chose: what its bundle asks for, as far as runsc can.

The notable thing: a runsc from before August 2024 takes every network namespace of a Linux since 6.10 for the host's
own, and will not start a container in it (google/gvisor#10704). There a container goes without a network, and its
state says so, rather than not at all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing

from engine.errors import EngineError, Reason
from engine.lifecycle.trusted_runsc import find_runsc
from engine.lifecycle.validate import Validated
from engine.linux.child import ask_child
from engine.linux.syscall import library_call
from engine.options import Network
from engine.records import TYPE_CHECKING
from engine.runsc.binary import texts_in

if TYPE_CHECKING:
    from typing import Any

#: Key of the annotation by which `state` says that there is no network, and why.
ANNOTATION = "dev.gvisor-engine.no-network"

#: Seen in the host's own network namespace alone, until Linux 6.10; by it the older runsc tells the two apart.
_OLD_SIGN = "/proc/sys/net/core/rmem_default"
_NEW_SIGN = "/proc/sys/net/core/dev_weight"
_NEW_NETWORK_NAMESPACE = 0x40000000


class NetworkError(EngineError):
    """What the bundle asks for is not given unless somebody says so."""

    step = "network"


def settle(
    config: Mapping[str, Any], chosen: str | None, environment: Mapping[str, str], *, rootless: bool
) -> tuple[Network, str | None]:
    """The network for the bundle with this `config`; `chosen` is the runsc asked for. With it, why there is none.

    A namespace of its own that nobody set up (no path) has nothing but a loopback, as `none` has. Raises
    `NetworkError` for a bundle that shares the host's network, and `EngineError`.
    """
    spaces = [
        space for space in config.get("linux", {}).get("namespaces", ()) if space.get("type") == "network"
    ]
    if not spaces:
        raise NetworkError(
            "the bundle shares the host's network, which takes the container's network calls to the host's kernel",
            reason=Reason.HOST_NETWORK,
            hint="give the container a network of its own, or say --network host before the verb",
        )
    if not spaces[0].get("path"):
        return Network.NONE, None
    if rootless:
        return Network.NONE, "runsc has no sandbox network with --rootless"
    if _shows_in_new_namespace(_OLD_SIGN) and not _knows_new_sign(chosen, environment):
        return (
            Network.NONE,
            "this runsc takes every network namespace of this kernel for the host's; install a newer",
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


def _knows_new_sign(chosen: str | None, environment: Mapping[str, str]) -> bool:
    """Whether the runsc that a run would use has the newer sign among its texts, or not the older one."""
    with closing(find_runsc(chosen, environment)) as binary:
        return _has(binary, _NEW_SIGN) or not _has(binary, _OLD_SIGN)


def _has(binary: Validated, sign: str) -> bool:
    return bool(texts_in(binary.descriptor, [sign.encode()]))
