"""The annotations that say which pod a container is of, and those that the engine adds for runsc.

Sources: containerd's and cri-o's annotations packages, runsc's specutils/cri.go and container.go, gVisor's own shim,
and podman's pkg/specgen/generate/container.go.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: containerd's key takes precedence over cri-o's, which podman also uses; as in runsc.
TYPES = ("io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType")
SANDBOXES = ("io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID")
CONTAINER, SANDBOX = "container", "sandbox"
#: podman 5 only names the sandbox. Without this, too, runsc would make another.
MEMBER = {TYPES[1]: CONTAINER}
#: In which cgroup runsc puts the sandbox; in its container's own, only that container's processes are counted.
CGROUP_PARENT = "dev.gvisor.spec.cgroup-parent"
_OF_POD = "pod"


def first(keys: tuple[str, ...], annotations: Mapping[str, str]) -> str | None:
    """The first of `keys` that is there."""
    return next((key for key in keys if key in annotations), None)


def names_sandbox_alone(config: Mapping[str, Any]) -> str | None:
    """The id of a sandbox that the valid `config` names without saying what the container is to it."""
    annotations = config.get("annotations") or {}
    # runsc would take the id of the latter.
    if first(TYPES, annotations) is not None or SANDBOXES[0] in annotations:
        return None
    return annotations.get(SANDBOXES[1]) or None


def of_sandbox(config: Mapping[str, Any]) -> dict[str, str]:
    """What to add where the valid `config` is of a pod's sandbox: that it lies in the pod's cgroup.

    As in gVisor's shim, that is a directory whose name begins with `pod`; here, the one that the container's own lies
    in. Nothing where it is none, and where the container has limits of its own, which nothing would keep there.
    """
    annotations = config.get("annotations") or {}
    key = first(TYPES, annotations)
    path = config.get("linux", {}).get("cgroupsPath", "")
    if key is None or annotations[key] != SANDBOX or ":" in path or os.path.normpath(path) != path:
        return {}
    if _is_limited(config["linux"].get("resources", {})):
        return {}
    parent, _, _ = path.rpartition("/")
    return {CGROUP_PARENT: parent} if os.path.basename(parent).startswith(_OF_POD) else {}


def _is_limited(resources: Mapping[str, Any]) -> bool:
    """Whether valid `linux.resources` limit memory, processes or CPU time; a weight is no limit."""
    return any(
        resources.get(kind, {}).get(name, 0) > 0
        for kind, name in (("memory", "limit"), ("pids", "limit"), ("cpu", "quota"))
    )
