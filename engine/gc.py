"""Removes what containers that are over left under the artifact base, and never touches a live one's.

Who is alive is not guessed: a live container's supervisor holds the lock of its directory, and what is
removed here is removed while holding that lock.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from engine import artifacts, store
from engine.errors import EngineError, remedy_for
from engine.linux.files import PrivateDirectory, UntrustedPathError, open_private_directory
from engine.records import dataclass

_REMEDY = "look at it, and remove it by hand if it is not needed"
#: The store is emptied last; traces stay, as managers' containers are over sooner than anybody has read about them.
_NO_CONTAINERS = frozenset({store.STORE, artifacts.TRACES})


class GcError(EngineError):
    """The artifact base itself cannot be looked through safely."""

    step = "gc"


@dataclass(frozen=True, slots=True)
class Collected:
    """What became of each entry of the artifact `base`, by path. `failed` pairs a path with the reason.

    The store of staged copies belongs to no container: it is named only where it is foreign or failed.
    """

    base: str
    removed: tuple[str, ...]
    alive: tuple[str, ...]
    foreign: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]


def collect(environment: Mapping[str, str], *, keep_traces: bool = False) -> Collected:
    """Remove every container directory under the artifact base whose lock can be taken.

    With `keep_traces` the traces stay, and with them the directory. Entries that are not the engine's are
    left and named. Raises `GcError` when the base may not be relied on.
    """
    removed: list[str] = []
    alive: list[str] = []
    foreign: list[str] = []
    failed: list[tuple[str, str]] = []
    path, base = _open_base(environment)
    if base is not None:
        with contextlib.closing(base):
            try:
                names = sorted(os.listdir(base.descriptor))
            except OSError as error:
                raise GcError(f"{path!r}: {error.strerror}", remedy=remedy_for(error, _REMEDY)) from None
            for name in names:
                where = os.path.join(path, name)
                if name in _NO_CONTAINERS:
                    continue
                if not artifacts.is_component(name):
                    foreign.append(where)
                    continue
                try:
                    gone = _collect(base, name, keep_traces=keep_traces)
                except UntrustedPathError:
                    foreign.append(where)
                except FileNotFoundError:
                    pass  # another engine collected it meanwhile
                except OSError as error:
                    failed.append((where, error.strerror or str(error)))
                else:
                    removed += gone or []
                    alive += [where] if gone is None else []
            where = os.path.join(path, store.STORE)
            try:
                store.collect(base)  # last: now nothing links to what only finished containers used
            except UntrustedPathError:
                foreign.append(where)
            except OSError as error:
                failed.append((where, error.strerror or str(error)))
    return Collected(path, tuple(removed), tuple(alive), tuple(foreign), tuple(failed))


def _open_base(environment: Mapping[str, str]) -> tuple[str, PrivateDirectory | None]:
    """The artifact base's path, and the base; None when there is none. Raises `GcError`."""
    path = ""
    try:
        path = artifacts.chosen_base(environment)
        base = artifacts.open_existing_base(path)
    except UntrustedPathError as error:
        raise GcError(str(error), remedy=_REMEDY) from None
    except OSError as error:
        raise GcError(f"{path or error.filename!r}: {error.strerror}", remedy=_REMEDY) from None
    return path, base


def _collect(base: PrivateDirectory, name: str, *, keep_traces: bool) -> list[str] | None:
    """Remove one container's directory, or all but its traces: what is gone; None when it is alive."""
    with contextlib.closing(open_private_directory(base.descriptor, base.path, name)) as container:
        lock = artifacts.take_lock(container)
        if lock is None:
            return None
        try:
            if artifacts.why_kept(base, container):
                return None
            gone = artifacts.remove_leftovers(base, container) if keep_traces else []
            whole = artifacts.remove_if_unused if keep_traces else artifacts.remove_container
            return [container.path] if whole(base, container) else gone
        finally:
            os.close(lock)
