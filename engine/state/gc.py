"""`engine gc`: removes what finished containers left, and nothing of a live one.

A live container's supervisor holds the lock of its directory. gc removes a directory only while it holds that lock.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.errors import EngineError, Reason, hint_for
from engine.linux.files import PrivateDirectory, UntrustedPathError, open_private_directory
from engine.state import elsewhere, evidence, foreseen, programs, store
from engine.state import retention as old_traces
from engine.state.base import chosen_base, open_existing_base
from engine.state.cleanup import (
    in_use_reason,
    remove_container,
    remove_leftovers,
    remove_stage,
)
from engine.state.container import CGROUPS, TRACES, is_component, is_ours, take_lock_to_remove
from engine.state.foreseen import lock_to_look
from engine.state.legacy import is_shared, other_bases
from engine.state.retention import Old

_HINT = "check that path, and remove it by hand if it is not needed"
#: Handled apart: the store last, and managers' traces by age only, so that they can be read after their container.
_NO_CONTAINERS = frozenset({store.STORE, TRACES, elsewhere.ELSEWHERE})


class GcError(EngineError):
    """The artifact base cannot be read safely."""

    step = "gc"


def _failed(path: str | None, error: OSError) -> GcError:
    return GcError(f"{path!r}: {error.strerror}", reason=Reason.FAILURE, hint=hint_for(error, _HINT))


@dataclass(frozen=True, slots=True)
class Collected:
    """What happened to each entry of the artifact `base` and of the other bases, by path.

    `failed`: pairs of path and reason. The store of staged copies is listed only if it is foreign or failed.
    """

    base: str
    removed: tuple[str, ...]
    alive: tuple[str, ...]
    foreign: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]


def collect(
    environment: Mapping[str, str], *, traces_older_than: float | None = None, dry_run: bool = False
) -> Collected:
    """Remove every container directory under the artifact base whose lock can be taken, then unused programs.

    Unless a base was chosen, also in this user's other bases (`engine.state.legacy`).

    Traces stay, and a container's directory with one in it. `traces_older_than`: seconds; older traces go, wherever
    they lie. `dry_run`: says what would be removed, and changes nothing. Entries that are not the engine's stay and are
    listed. Raises `GcError` if the base cannot be trusted.
    """
    path, base = _open_base(environment)
    before = None if traces_older_than is None else time.time() - traces_older_than
    sweeps = []
    foreign: list[str] = []
    if base is not None:
        sweeps.append(_swept(base, before, dry_run=dry_run))
    try:
        others = other_bases(environment)
    except OSError as error:
        raise _failed(error.filename, error) from None
    for other in others:
        try:
            if (found := open_existing_base(other)) is not None:
                sweeps.append(_swept(found, before, dry_run=dry_run))
        except (UntrustedPathError, OSError, GcError):
            foreign.append(other)
    if not dry_run:
        try:
            elsewhere.prune()
        except OSError as error:
            raise _failed(error.filename or path, error) from None
    removed, failed = _collect_programs(path, dry_run=dry_run)
    if before is not None:
        old = _old_traces(path, environment, before, dry_run=dry_run)
        removed, foreign, failed = (*removed, *old.removed), [*foreign, *old.foreign], (*failed, *old.failed)
    return Collected(
        path,
        (*(gone for sweep in sweeps for gone in sweep.removed), *removed),
        tuple(alive for sweep in sweeps for alive in sweep.alive),
        (*(left for sweep in sweeps for left in sweep.foreign), *foreign),
        (*(one for sweep in sweeps for one in sweep.failed), *failed),
    )


def _swept(base: PrivateDirectory, before: float | None, *, dry_run: bool) -> _Sweep:
    """Collect what is in `base`, and close it. Raises `GcError`."""
    with contextlib.closing(base):
        try:
            names = sorted(os.listdir(base.descriptor))
        except OSError as error:
            raise _failed(base.path, error) from None
        sweep = _Sweep(base, before, dry_run=dry_run)
        for name in names:
            if is_component(name):
                sweep.do(name, sweep.container)
            elif programs.is_stage(name):
                sweep.do(name, sweep.stage)
            elif name not in _NO_CONTAINERS:
                sweep.foreign.append(os.path.join(base.path, name))
        if before is not None:
            sweep.do(TRACES, sweep.traces)
        sweep.do(store.STORE, sweep.store)  # last: by now only live containers have links to it
    return sweep


def _old_traces(base: str, environment: Mapping[str, str], before: float, *, dry_run: bool) -> Old:
    """Remove the old traces that lie apart from the bases."""
    removed: list[str] = []
    foreign: list[str] = []
    failed: list[tuple[str, str]] = []
    try:
        places = evidence.places(base, environment)
    except UntrustedPathError as error:  # no run of this user has a trace there
        return Old((), (error.path,), ())
    except OSError as error:
        return Old((), (), ((_named(error) or base, error.strerror or str(error)),))
    for path in places:
        try:
            place = open_existing_base(path)
            if place is not None:
                with contextlib.closing(place):
                    old = old_traces.remove_in_place(place, None, before, dry_run=dry_run)
                removed += old.removed
                foreign += old.foreign
                failed += old.failed
        except UntrustedPathError:
            foreign.append(path)
        except OSError as error:
            failed.append((_named(error) or path, error.strerror or str(error)))
    return Old(tuple(removed), tuple(foreign), tuple(failed))


def _collect_programs(base: str, *, dry_run: bool) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Remove unused programs where the programs of `base` lie, if that is apart from the state."""
    try:
        path = programs.foresee(base)
        place = None if path is None else open_existing_base(path)
    except UntrustedPathError as error:
        return (), ((error.path, error.why),)
    except PermissionError:
        return (), ()  # so no run of this user could write there
    except OSError as error:
        return (), ((str(error.filename), error.strerror or str(error)),)
    if place is None:
        return (), ()
    with contextlib.closing(place):
        sweep = _Sweep(place, None, dry_run=dry_run)
        for name in sorted(os.listdir(place.descriptor)):
            if programs.is_stage(name):
                sweep.do(name, sweep.stage)
        sweep.do(store.STORE, sweep.store)
    return tuple(sweep.removed), tuple(sweep.failed)


def _named(error: OSError) -> str | None:
    """The absolute path that the error is about, if it names one."""
    path = error.filename
    return path if isinstance(path, str) and path.startswith("/") else None


class _Sweep:
    """One collection in `base`. Traces written before the time `before` are removed, time(2)."""

    def __init__(self, base: PrivateDirectory, before: float | None, *, dry_run: bool) -> None:
        self._base = base
        self._dry_run = dry_run
        self._before = before
        self.removed: list[str] = []
        self.alive: list[str] = []
        self.foreign: list[str] = []
        self.failed: list[tuple[str, str]] = []

    def do(self, name: str, collect: Callable[[str], None]) -> None:
        """Collect the entry `name`, and note the reason if that fails."""
        where = os.path.join(self._base.path, name)
        try:
            collect(name)
        except UntrustedPathError:
            self.foreign.append(where)
        except FileNotFoundError:
            pass  # another process removed it
        except OSError as error:
            self.failed.append((_named(error) or where, error.strerror or str(error)))

    def container(self, name: str) -> None:
        """Remove a container's directory, or all but its traces, unless it is alive."""
        with contextlib.closing(
            open_private_directory(self._base.descriptor, self._base.path, name)
        ) as container:
            if not is_ours(container) or (
                is_shared(self._base.path) and not os.listdir(container.descriptor)
            ):
                raise UntrustedPathError(container.path, "has no lock of this engine's")
            look = lock_to_look if self._dry_run else take_lock_to_remove
            with look(container) as is_taken:
                try:
                    is_in_use = not is_taken or in_use_reason(self._base, container) is not None
                except UntrustedPathError as error:  # ours, and unknown whether it lives
                    self.failed.append((error.path, error.why))
                    return
                if is_in_use:
                    self.alive.append(container.path)
                else:
                    self._finished(container)

    def _finished(self, container: PrivateDirectory) -> None:
        gone = foreseen.leftovers(container) if self._dry_run else remove_leftovers(self._base, container)
        if self._before is not None:
            old = old_traces.remove_in_container(container, self._before, dry_run=self._dry_run)
            gone += self._noted(old)
        names = {os.path.join(container.path, name) for name in os.listdir(container.descriptor)} - {*gone}
        has_traces = any(os.path.basename(name).startswith("trace-") for name in names)
        whole = not has_traces and (self._dry_run or remove_container(self._base, container))
        self.removed += [container.path] if whole else gone
        if not whole and CGROUPS in os.listdir(container.descriptor):
            self.alive.append(container.path)  # others' cgroups are in its

    def traces(self, _: str) -> None:
        """Remove the old traces that lie in the base itself."""
        if self._before is not None:
            place = open_private_directory(self._base.descriptor, self._base.path, TRACES)
            with contextlib.closing(place):
                self.removed += self._noted(
                    old_traces.remove_in_place(place, self._base, self._before, dry_run=self._dry_run)
                )

    def stage(self, name: str) -> None:
        """Remove a stage directory that nobody uses."""
        if programs.may_go(self._base, name):
            if not self._dry_run:
                remove_stage(self._base, self._base, name)
            self.removed.append(os.path.join(self._base.path, name))

    def store(self, _: str) -> None:
        if not self._dry_run:
            store.collect(self._base)

    def _noted(self, old: Old) -> tuple[str, ...]:
        """Add the foreign and failed ones to this sweep; the removed ones are returned."""
        self.foreign += old.foreign
        self.failed += old.failed
        return old.removed


def _open_base(environment: Mapping[str, str]) -> tuple[str, PrivateDirectory | None]:
    """The path of the artifact base, and the base, or None. Raises `GcError`."""
    path = ""
    try:
        path = chosen_base(environment)
        base = open_existing_base(path)
    except UntrustedPathError as error:
        raise GcError(str(error), reason=Reason.ROOT_NOT_PRIVATE, hint=_HINT) from None
    except OSError as error:
        raise GcError(
            f"{path or error.filename!r}: {error.strerror}", reason=Reason.FAILURE, hint=_HINT
        ) from None
    return path, base
