"""Where containers' state and programs would lie: the space there, and whether programs can be executed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from engine.doctor.part import Part, Status
from engine.linux.files import UntrustedPathError
from engine.state import programs
from engine.state.base import chosen_base, open_existing_base

_MIB = 1 << 20
_PRIVATE_HINT = (
    "make it a directory of your own with mode 0700, or choose another base: ENGINE_ARTIFACT_BASE for engine run, "
    "--root for engine-oci"
)
#: Free bytes to warn below: the state of a hundred containers, and two builds of runsc.
_STATE_ROOM, _PROGRAMS_ROOM = 16 * _MIB, 128 * _MIB


def where_state_lies(environment: Mapping[str, str]) -> Part:
    """The base, which need not exist, and its file system, which may be noexec."""
    name, enables = "state", "containers: their directories, locks and traces"
    try:
        base = chosen_base(environment)
        with contextlib.suppress(FileNotFoundError):
            if (opened := open_existing_base(base)) is not None:
                opened.close()
        total, free, can_execute = _room(base)
    except UntrustedPathError as error:
        return Part(name, Status.MISSING, str(error), enables, _PRIVATE_HINT)
    except OSError as error:
        found = f"{error.filename!r}: {error.strerror}"
        return Part(name, Status.MISSING, found, enables, "give an absolute ENGINE_ARTIFACT_BASE")
    detail = {"path": base, "bytes": total, "free": free, "noexec": not can_execute}
    found = f"{base}, {free // _MIB} of {_size(total)} free{'' if can_execute else ', noexec'}"
    if free < _STATE_ROOM:
        hint = "engine gc removes what finished containers left, and with --traces-older-than 7d their old traces"
        return Part(name, Status.DEGRADED, found, enables, hint, detail)
    return Part(name, Status.OK, found, enables, detail=detail)


def where_programs_lie(environment: Mapping[str, str]) -> Part:
    """Where runsc would be staged and executed."""
    name, enables = "programs", "containers: each executes a staged runsc"
    try:
        base = chosen_base(environment)
        place = programs.foresee(base)
        total, free, can_execute = _room(place or base)
    except UntrustedPathError as error:
        return Part(name, Status.MISSING, f"{base} is mounted noexec, and {error}", enables, _PRIVATE_HINT)
    except OSError as error:
        found = f"{error.filename!r}: {error.strerror}"
        return Part(name, Status.MISSING, found, enables, "give an absolute ENGINE_ARTIFACT_BASE")
    path = place or f"{base}, with the state"
    detail = {"path": place or base, "bytes": total, "free": free, "noexec": not can_execute}
    if not can_execute:
        default = programs.default_place()
        found = f"{base} is mounted noexec, and {f'{default} is, too' if default else 'there is no home directory'}"
        return Part(name, Status.MISSING, found, enables, programs.noexec_hint(), detail)
    found = f"{path}, {free // _MIB} of {_size(total)} free"
    if free < _PROGRAMS_ROOM:
        return Part(
            name, Status.DEGRADED, found, enables, "free space there, about 40 MiB for each runsc", detail
        )
    return Part(name, Status.OK, found, enables, detail=detail)


def _room(path: str) -> tuple[int, int, bool]:
    """The size of its file system, the bytes free for this user, and whether programs can be executed there."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    status = os.statvfs(path)
    size, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    return size, free, not status.f_flag & os.ST_NOEXEC


def _size(number: int) -> str:
    return f"{number // _MIB} MiB"
