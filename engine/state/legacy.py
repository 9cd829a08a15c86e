"""Where else a user's containers can be: the other default place, and what engines before 2026-12 used by default.

Nothing new is put there but for the second place of an ordinary user. The old places are also those of the published
engine that this one descends from, so what lies there is only ours where it has a lock of ours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from engine.linux.namespaces import read_uid_map, root_maps_to_unprivileged
from engine.state.base import VARIABLE, chosen_base, default_bases_of, ordinary_user

_OLD_NAME = "nucleus-gvisor"


def is_shared(base: str) -> bool:
    """Whether the published engine can have containers in `base`, too: it makes a directory before what is in it."""
    return os.path.basename(base).startswith(_OLD_NAME)


def other_bases(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The bases besides the chosen one; none where `environment` names one. Raises `OSError`."""
    if environment.get(VARIABLE):
        return ()
    user = ordinary_user()
    found: list[str] = []
    if os.geteuid() != 0 or root_maps_to_unprivileged(read_uid_map()):
        runtime = environment.get("XDG_RUNTIME_DIR", "")
        found += [os.path.join(runtime, _OLD_NAME)] if runtime.startswith("/") else []
    if os.geteuid() == 0:
        found.append(f"/run/{_OLD_NAME}")
    if user is not None:
        temporary = environment.get("TMPDIR", "")
        found += [
            *default_bases_of(user),
            f"/run/user/{user}/{_OLD_NAME}",
            *([os.path.join(temporary, f"{_OLD_NAME}-{user}")] if temporary.startswith("/") else []),
            f"/tmp/{_OLD_NAME}-{user}",  # noqa: S108 (judged when opened)
        ]
    chosen = chosen_base(environment)
    return tuple(dict.fromkeys(base for base in found if base != chosen))
