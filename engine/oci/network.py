"""Choose the network of a manager's container from its bundle, if the user did not.

A manager may set up the container's new network namespace only after `create`: docker by a hook, `ctr --cni` and podman
with a user namespace between `create` and `start`. So whether it is used is seen at `start`, when runsc reads its
devices.

A runsc from before August 2024 takes every network namespace of Linux 6.10 and later for the host's, and does not start
a container in it (google/gvisor#10704). With such a runsc the container runs without a network, and its state says so.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from contextlib import closing

from engine.errors import EngineError, Reason
from engine.lifecycle.trusted_runsc import find_runsc
from engine.linux.child import ask_child
from engine.linux.syscall import library_call
from engine.options import Network, RunOptions
from engine.runsc.arguments import with_network
from engine.runsc.capabilities import OLD_NETWORK_SIGN, tells_network_namespaces_apart
from engine.state.record import OWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from engine.state.record import Record

#: The annotation in `state` that says why there is no network.
ANNOTATION = f"{OWN}no-network"

_NEW_NETWORK_NAMESPACE = 0x40000000


class NetworkError(EngineError):
    """The bundle asks for a network that needs an explicit choice."""

    step = "network"


def choose_network(
    config: Mapping[str, Any], options: RunOptions, environment: Mapping[str, str], *, starts_at_once: bool
) -> tuple[RunOptions, str | None, str | None]:
    """The options with a network, why there is none, and `network_at_start` for the record. Raises as `settle`."""
    network, why = settle(
        config, options.runsc, environment, rootless=options.rootless, starts_at_once=starts_at_once
    )
    options = options.given(network=network)
    if not starts_at_once and any(not space.get("path") for space in _namespaces(config)):
        return options, None, why or ""
    return options, why, None


def _namespaces(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    spaces = (config.get("linux") or {}).get("namespaces") or ()
    return [space for space in spaces if space.get("type") == "network"]


def settle(
    config: Mapping[str, Any],
    chosen: str | None,
    environment: Mapping[str, str],
    *,
    rootless: bool,
    starts_at_once: bool = False,
) -> tuple[Network, str | None]:
    """The network for the bundle with this `config`, and why there is none; `chosen`: the requested runsc.

    For a namespace that is set up later, the most that it can become: `at_start` has the last word. If the container
    `starts_at_once`, only the bundle's own hooks can set it up. Raises `NetworkError` for a bundle that shares the
    host's network, and `EngineError`.
    """
    spaces = _namespaces(config)
    if not spaces:
        raise NetworkError(
            "the bundle shares the host's network: the host's kernel would handle the container's network calls",
            reason=Reason.HOST_NETWORK,
            hint="give the container its own network, or put --network host before the verb",
        )
    if starts_at_once and not spaces[0].get("path") and not _has_hooks(config):
        return Network.NONE, None
    if rootless:
        return Network.NONE, "runsc has no sandbox network with --rootless"
    if _shows_in_new_namespace(OLD_NETWORK_SIGN) and not _tells_apart(chosen, environment):
        return (
            Network.NONE,
            "this runsc takes every network namespace of this kernel for the host's; install a newer one",
        )
    return Network.SANDBOX, None


def _has_hooks(config: Mapping[str, Any]) -> bool:
    """Whether the bundle has hooks that are run before the program and could set up its network."""
    hooks = config.get("hooks") or {}
    return any(hooks.get(name) for name in ("prestart", "createRuntime"))


def at_start(noted: Record, sandbox: int) -> str | None:
    """Settle the network of a container that is about to be started, whose sandbox has the pid `sandbox`.

    Without a device that has an address or a route its namespace was not set up: `none`, which has a loopback. Changes
    `noted`. Returns why a namespace that was set up cannot be used. Raises `OSError`.
    """
    why = noted.network_at_start
    if why is None:
        return None
    if not _is_set_up(sandbox):
        noted.flags = with_network(noted.flags, Network.NONE)
        return None
    if not why:
        return None
    noted.annotations = {**noted.annotations, ANNOTATION: why}
    return why


def _is_set_up(pid: int) -> bool:
    """Whether a device other than the loopback has a route or an IPv6 address there. Raises `OSError`."""
    with open(f"/proc/{pid}/net/route", encoding="utf-8") as file:
        devices = {line.split()[0] for line in file.readlines()[1:]}
    with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/net/if_inet6", encoding="utf-8") as file:
        devices.update(line.split()[-1] for line in file)
    return bool(devices - {"lo"})


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
    """Whether the runsc that a run would use knows a new network namespace from the host's.

    True if there is none to use: the run itself refuses that, and leaves a trace.
    """
    try:
        with closing(find_runsc(chosen, environment)) as binary:
            return tells_network_namespaces_apart(binary.runsc.descriptor)
    except EngineError:
        return True
