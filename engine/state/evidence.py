"""Where traces lie: in a place that a reboot does not clear, apart from the state.

    <place>/<id>-<time>-<random>.jsonl       the trace of a run
    <place>/<id>-<time>-<random>.jsonl.sig   its signature

Sources: XDG Base Directory Specification (`XDG_STATE_HOME`), file-hierarchy(7), tmpfiles.d(5).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from engine.errors import Reason, TraceError, hint_for
from engine.linux.files import PrivateDirectory, UntrustedPathError, make_private_directory
from engine.state.base import NAME, default_base, home_of, open_or_reach, ordinary_user, reach_base
from engine.state.container import TRACES

VARIABLE = "XDG_STATE_HOME"
_VOLATILE = "/run/"


def default_place(environment: Mapping[str, str]) -> str | None:
    """The directory of this user's traces; None for a user without a home.

    Of an ordinary user by `XDG_STATE_HOME`, else by the uid: podman gives no variable to some verbs. Raises `OSError`.
    """
    user = ordinary_user()
    if user is None:
        return f"/var/lib/{NAME}/{TRACES}"
    chosen = environment.get(VARIABLE, "")
    if chosen.startswith("/"):  # the specification: a relative path is ignored
        return os.path.join(chosen, NAME, TRACES)
    home = home_of(user)
    return (
        os.path.join(home, ".local/state", NAME, TRACES) if home is not None and os.path.isdir(home) else None
    )


def choose_place(base: str, environment: Mapping[str, str]) -> str:
    """The directory of the traces of the containers in `base`. Raises `OSError`.

    A base that somebody chose outside of /run has its own; so has every base of a user without a home.
    """
    if base.startswith(_VOLATILE) or base == default_base():
        place = default_place(environment)
        if place is not None:
            return place
    return os.path.join(base, TRACES)


def places(base: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The directories, apart from `base`, in which traces of its containers may be, without links above them.

    Both that of `XDG_STATE_HOME` and the one of those to whom it was not given. Raises `OSError`, and
    `UntrustedPathError` for one that is below a directory that others can rewrite.
    """
    if choose_place(base, environment) == os.path.join(base, TRACES):
        return ()
    found = dict.fromkeys((default_place(environment), default_place({})))
    reached = []
    for place in found:
        if place is not None:
            with contextlib.suppress(FileNotFoundError):
                reached.append(reach_base(place, make=False))
    return tuple(dict.fromkeys(reached))


def open_place(base: PrivateDirectory, environment: Mapping[str, str]) -> PrivateDirectory:
    """Open or make the directory of the traces of the containers in `base`. Raises `TraceError`."""
    place = None
    try:
        place = choose_place(base.path, environment)
        if place == os.path.join(base.path, TRACES):
            return make_private_directory(base.descriptor, base.path, TRACES)
        return open_or_reach(place)
    except UntrustedPathError as error:
        raise TraceError(
            f"no trace can be kept: {error}", reason=Reason.ROOT_NOT_PRIVATE, hint=_hint("make it private")
        ) from None
    except OSError as error:
        raise TraceError(
            f"no trace can be kept: {error.filename or place!r}: {error.strerror}",
            reason=Reason.FAILURE,
            hint=hint_for(error, _hint("let it be written")),
        ) from None


def _hint(first: str) -> str:
    return f"{first}, or choose another: XDG_STATE_HOME for an ordinary user, or ENGINE_ARTIFACT_BASE outside of /run"
