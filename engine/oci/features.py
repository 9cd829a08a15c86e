"""`features`: print this runtime's features in the format of the OCI runtime specification, features.md.

The hooks are those that the runsc of a run would run. runsc's own `features` is a constant that names all six.
"""

from __future__ import annotations

import json
from contextlib import closing

from engine.errors import StepError
from engine.lifecycle.trusted_runsc import find_runsc
from engine.oci.flags import Table
from engine.oci.request import Request
from engine.runsc.capabilities import UNKNOWN, Capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FLAGS: Table = {}
SHORT: dict[str, str] = {}

_FEATURES: dict[str, Any] = {
    "ociVersionMin": "1.0.0",
    "ociVersionMax": "1.2.0",
    "linux": {
        "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
        "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": False, "rdma": False},
        "seccomp": {"enabled": True},
        "apparmor": {"enabled": False},
        "selinux": {"enabled": False},
        "intelRdt": {"enabled": False},
    },
}


def main(request: Request) -> int:
    """Print the features; without a runsc, those of every build."""
    features = dict(_FEATURES)
    features["hooks"] = list(_found(request).hooks)
    print(json.dumps(features, indent=2))
    return 0


def _found(request: Request) -> Capabilities:
    try:
        with closing(find_runsc(request.common.value("runsc"), request.environment)) as binary:
            return binary.capabilities
    except StepError:
        return UNKNOWN
