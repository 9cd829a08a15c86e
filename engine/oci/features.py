"""`features`: print this runtime's features in the format of the OCI runtime specification, features.md.

The hooks are those that the runsc of a run would run. runsc's own `features` is a constant that names all six.
"""

from __future__ import annotations

import json
from contextlib import closing

from engine.enforcement.judge import is_enforced, mount_options
from engine.errors import StepError
from engine.lifecycle.trusted_runsc import find_runsc
from engine.oci.flags import Table
from engine.oci.request import Request
from engine.oci.run_options import passed_on
from engine.runsc.binary import texts_in
from engine.runsc.capabilities import UNKNOWN, Capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FLAGS: Table = {}
SHORT: dict[str, str] = {}

#: The flag, among the names of a build that has it.
_SYSTEMD_CGROUP = b"systemd-cgroup"

_FEATURES: dict[str, Any] = {
    "ociVersionMin": "1.0.0",
    "ociVersionMax": "1.3.0",
    "linux": {
        # runsc makes no cgroup and no time namespace.
        "namespaces": ["ipc", "mount", "network", "pid", "user", "uts"],
        "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": False},
        "seccomp": {"enabled": False},
        "apparmor": {"enabled": False},
        "selinux": {"enabled": False},
        "intelRdt": {"enabled": False, "schemata": False, "monitoring": False},
        "netDevices": {"enabled": False},
    },
}


def main(request: Request) -> int:
    """Print the features, with the flags of runsc that were given; without a runsc, those of every build."""
    able, has_systemd = _found(request)
    linux = _FEATURES["linux"]
    cgroup = {**linux["cgroup"], "systemd": has_systemd}
    seccomp = {"enabled": "--oci-seccomp=true" in passed_on(request)}
    features = {
        **_FEATURES,
        "hooks": list(able.hooks),
        "mountOptions": sorted(mount_options(able)),
        "linux": {
            **linux,
            "cgroup": cgroup,
            "seccomp": seccomp,
            "mountExtensions": {"idmap": {"enabled": is_enforced("bind.option=idmap", able)}},
        },
    }
    print(json.dumps(features, indent=2))
    return 0


def _found(request: Request) -> tuple[Capabilities, bool]:
    """What the runsc of a run can do, and whether it has --systemd-cgroup."""
    try:
        with closing(find_runsc(request.common.value("runsc"), request.environment)) as binary:
            return binary.capabilities, bool(texts_in(binary.runsc.descriptor, [_SYSTEMD_CGROUP]))
    except StepError:
        return UNKNOWN, False
