"""`engine run --detach`: the run as a transient service of systemd's, which keeps what the container says.

Sources: systemd-run(1), sd_booted(3), systemd.unit(5) (names of units), systemd.service(5) (command lines).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence

from engine.errors import EngineError, Reason

SYSTEMD_RUN = "/usr/bin/systemd-run"
#: Is there where systemd is the system's manager.
BOOTED = "/run/systemd/system"

_PASSED_ON = ("ENGINE_ARTIFACT_BASE", "PATH")
_NO_SYSTEMD = (
    "run it without --detach and in the background (setsid engine run … &), or give the bundle to a manager: "
    "podman --runtime engine-oci"
)


class ServiceError(EngineError):
    """There is nobody to hand the run to, or it was not taken."""

    step = "detach"


def unit_name(container_id: str) -> str:
    """The service of the container's; what a unit's name cannot have is escaped as systemd-escape(1) does."""
    escaped = re.sub(r"[^A-Za-z0-9_.]", lambda found: f"\\x{ord(found[0]):02x}", container_id)
    return f"engine-{escaped}.service"


def command(
    unit: str, arguments: Sequence[str], environment: Mapping[str, str], *, user: int, directory: str
) -> list[str]:
    """What starts `unit`, a run of the engine with these `arguments` in the current `directory`.

    When it ends, the engine takes away what a runsc that was told to stop leaves: its cgroups and its copy.
    """
    engine = (sys.executable, "-P", "-m", "engine")
    collect = " ".join(_quoted(word) for word in (*engine, "gc", "--keep-traces"))
    given = [f"--setenv={name}={environment[name]}" for name in _PASSED_ON if environment.get(name)]
    return [
        SYSTEMD_RUN,
        *(() if user == 0 else ("--user",)),
        "--quiet",
        "--collect",
        "--service-type=exec",
        f"--unit={unit}",
        f"--description=Container of {arguments[0]} under gVisor",
        f"--working-directory={directory}",
        "--property=KillMode=mixed",
        "--property=Delegate=yes",
        f"--property=SyslogIdentifier={unit.removesuffix('.service')}",
        f"--property=ExecStopPost=:-{collect}",
        *given,
        "--",
        *engine,
        "run",
        *(word.replace("$", "$$") for word in arguments),  # else systemd takes it for one of its variables
    ]


def _quoted(word: str) -> str:
    """The word as systemd reads it in a command line."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def start(container_id: str, arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Have systemd run it: the name of its unit. Raises `ServiceError`, where there is no systemd with the hint."""
    if not os.path.isdir(BOOTED) or not os.access(SYSTEMD_RUN, os.X_OK):
        raise ServiceError(
            "systemd does not manage this system, and detached runs are its",
            reason=Reason.UNAVAILABLE,
            hint=_NO_SYSTEMD,
        )
    unit = unit_name(container_id)
    asked = command(unit, arguments, environment, user=os.geteuid(), directory=os.getcwd())
    try:
        done = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603
    except OSError as error:
        raise ServiceError(
            f"{SYSTEMD_RUN!r}: {error.strerror}", reason=Reason.FAILURE, hint=_NO_SYSTEMD
        ) from None
    if done.returncode != 0:
        own = "" if os.geteuid() == 0 else " --user"
        said = done.stderr.decode("utf-8", "replace").strip()
        raise ServiceError(
            f"systemd did not take it: {said}",
            reason=Reason.PROGRAM_FAILED,
            hint=f"see systemctl{own} status {unit}",
        )
    return unit
