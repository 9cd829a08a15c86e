"""Step `resolve`: which file is runsc. Whether it can be trusted is checked by `validate`."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence

from engine.errors import Reason, ResolveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from engine.traces.schema import FoundBy, ResolveFacts

TRUSTED_PATHS = ("/usr/local/bin/runsc", "/usr/bin/runsc", "/opt/gvisor/runsc")

_INSTALL = "install gVisor (on Debian and Ubuntu the package is runsc), or name it with --runsc PATH"


class Resolved:
    """`path` is absolute; `found_by`: `option`, `trusted path` or `PATH`."""

    def __init__(self, path: str, found_by: FoundBy) -> None:
        self.path: Final = path
        self.found_by: Final = found_by

    def facts(self) -> ResolveFacts:
        return {"path": self.path, "found_by": self.found_by}


def resolve(
    chosen: str | None, environment: Mapping[str, str], *, trusted_paths: Sequence[str] = TRUSTED_PATHS
) -> Resolved:
    """Find runsc: the `chosen` path, else the first trusted path that is an executable file, else on PATH.

    Root does not search PATH: whoever sets root's environment would choose what runs as root. Entries of PATH that are
    not absolute are skipped. Raises `ResolveError`.
    """
    if chosen is not None:
        if "\0" in chosen:
            raise ResolveError(
                "--runsc PATH has a NUL character", reason=Reason.NOT_FOUND, hint="name an existing file"
            )
        try:
            path = os.path.abspath(chosen)
        except FileNotFoundError:
            raise ResolveError(
                f"no runsc at {chosen!r}: the current directory is gone",
                reason=Reason.NOT_FOUND,
                hint="give its absolute path",
            ) from None
        if not os.path.lexists(path):
            raise ResolveError(
                f"no runsc at {path!r}",
                reason=Reason.NOT_FOUND,
                hint="name an existing file with --runsc PATH",
            )
        return Resolved(path, "option")
    for path in trusted_paths:
        if _is_executable_file(path):
            return Resolved(path, "trusted path")
    if os.geteuid() == 0:
        raise ResolveError(
            f"no runsc at {', '.join(trusted_paths)} (root does not search PATH)",
            reason=Reason.PATH_SEARCHED_AS_ROOT,
            hint=_INSTALL,
        )
    for entry in environment.get("PATH", "").split(":"):
        if entry.startswith("/") and _is_executable_file(path := os.path.join(entry, "runsc")):
            return Resolved(path, "PATH")
    raise ResolveError(
        f"no runsc at {', '.join(trusted_paths)} or on PATH", reason=Reason.NOT_FOUND, hint=_INSTALL
    )


def _is_executable_file(path: str) -> bool:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and bool(status.st_mode & 0o111)
