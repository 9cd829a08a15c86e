"""`engine run --detach`: run as a transient systemd service, with output in the journal.

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
#: Exists if systemd manages the system.
BOOTED = "/run/systemd/system"

_PASSED_ON = ("ENGINE_ARTIFACT_BASE", "PATH", "XDG_STATE_HOME")
_NO_SYSTEMD = (
    "run it without --detach and in the background (setsid engine run … &), or give the bundle to a manager: "
    "podman --runtime engine-oci"
)


class ServiceError(EngineError):
    """There is no systemd, or it refused the run."""

    step = "detach"


def unit_name(container_id: str) -> str:
    """The container's service; characters that a unit's name cannot have are escaped as by systemd-escape(1)."""
    escaped = re.sub(r"[^A-Za-z0-9_.]", lambda found: f"\\x{ord(found[0]):02x}", container_id)
    return f"engine-{escaped}.service"


def command(
    unit: str, arguments: Sequence[str], environment: Mapping[str, str], *, user: int, directory: str
) -> list[str]:
    """The command that starts `unit`: a run of the engine with these `arguments` in the current `directory`.

    When the service ends, `engine gc` removes what a terminated runsc leaves: its cgroups and its copy.
    """
    engine = (sys.executable, "-P", "-m", "engine")
    collect = " ".join(_quoted(word) for word in (*engine, "gc"))
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
        "--property=SuccessExitStatus=143",  # a program that SIGTERM ends, as systemctl stop does
        "--property=Delegate=yes",
        f"--property=SyslogIdentifier={unit.removesuffix('.service')}",
        f"--property=ExecStopPost=:-{collect}",
        *given,
        "--",
        *engine,
        "run",
        *(word.replace("$", "$$") for word in arguments),  # else systemd expands it
    ]


def _quoted(word: str) -> str:
    """The word, quoted for systemd."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def start(container_id: str, arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Start it as a service: the name of its unit. Raises `ServiceError`."""
    if not os.path.isdir(BOOTED) or not os.access(SYSTEMD_RUN, os.X_OK):
        raise ServiceError(
            "systemd does not manage this system, and --detach needs it",
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
            f"systemd refused it: {said}",
            reason=Reason.PROGRAM_FAILED,
            hint=f"see systemctl{own} status {unit}",
        )
    return unit
