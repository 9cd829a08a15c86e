"""Other bases of a user: the other default base, and the defaults of engines before 2026-12.

Only an ordinary user's other default base still gets new containers. The published engine uses the old bases too, so a
directory there is ours only if it has our lock.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from engine.linux.namespaces import read_uid_map, root_maps_to_unprivileged
from engine.state.base import VARIABLE, chosen_base, default_bases_of, ordinary_user

_OLD_NAME = "nucleus-gvisor"


def is_shared(base: str) -> bool:
    """Whether the published engine also uses `base`. It makes a directory before the files in it."""
    return os.path.basename(base).startswith(_OLD_NAME)


def other_bases(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The bases besides the chosen one; none if `environment` names one. Raises `OSError`."""
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
