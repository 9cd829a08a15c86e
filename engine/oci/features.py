"""`features`: print this runtime's features in the format of the OCI runtime specification, features.md."""

from __future__ import annotations

import json

from engine.oci.flags import Table
from engine.oci.request import Request

FLAGS: Table = {}
SHORT: dict[str, str] = {}

_FEATURES = {
    "ociVersionMin": "1.0.0",
    "ociVersionMax": "1.2.0",
    "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
    "linux": {
        "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
        "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": False, "rdma": False},
        "seccomp": {"enabled": True},
        "apparmor": {"enabled": False},
        "selinux": {"enabled": False},
        "intelRdt": {"enabled": False},
    },
}


def main(_: Request) -> int:
    """Print the features."""
    print(json.dumps(_FEATURES, indent=2))
    return 0
