"""Removes traces that were not written for a given time, once their container is gone.

A trace that anybody has open for writing stays: the kernel gives no lease on it. Where traces of several bases lie, the
trace says in which base its container was.

Sources: fcntl(2) (leases), inode(7), signal(7).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass

from engine.errors import TraceError
from engine.linux.files import PrivateDirectory, UntrustedPathError, open_private_directory
from engine.linux.locks import take_lease
from engine.linux.regular_files import open_own
from engine.state.base import open_existing_base
from engine.state.chain import CHAIN, HostChain
from engine.state.cleanup import in_use_reason
from engine.state.container import component, take_lock_to_remove
from engine.state.foreseen import lock_to_look

_RUN = r"(\d{8}T\d{6}Z-[0-9a-f]{8})\.jsonl"
_WRITTEN_LENGTH = len("-20260101T000000Z-01234567.jsonl")
#: As `Trace.create_in` names them: in a container's own directory, by an older engine, and where they lie now.
NAME_IN_CONTAINER = re.compile(rf"trace-{_RUN}", re.ASCII)
NAME_IN_PLACE = re.compile(rf"([A-Za-z0-9_][A-Za-z0-9_.+-]*)-{_RUN}", re.ASCII)
#: Holds a container's lock to look at it, if it is not alive.
_Look = Callable[[PrivateDirectory], contextlib.AbstractContextManager[bool]]
_SECURED = b'"trigger":"secure_root"'
#: The signature by `engine trace sign`: removed with its trace.
SIGNATURE = ".sig"


@dataclass(frozen=True, slots=True)
class Old:
    """What happened to the traces of one directory, by path; those that stay are not listed."""

    removed: tuple[str, ...]
    foreign: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]


def remove_in_container(container: PrivateDirectory, before: float, *, dry_run: bool = False) -> Old:
    """Remove the traces in `container` last written before the time `before`, time(2). The caller holds its lock.

    `dry_run`: says so, and removes none.
    """
    names = sorted(filter(NAME_IN_CONTAINER.fullmatch, os.listdir(container.descriptor)))
    return _remove(container, names, before, lambda _: True, dry_run=dry_run)


def remove_in_place(
    place: PrivateDirectory, base: PrivateDirectory | None, before: float, *, dry_run: bool = False
) -> Old:
    """Remove those in `place` whose container is gone, from `base` or the base that the trace names.

    `dry_run`: says so, and removes none. Raises `OSError` if the directory cannot be read.
    """
    ours, foreign = [], []
    chain: HostChain | None = None
    for name in sorted(os.listdir(place.descriptor)):
        if name == CHAIN:
            continue
        if NAME_IN_PLACE.fullmatch(name):
            ours.append(name)
        elif not NAME_IN_PLACE.fullmatch(name.removesuffix(SIGNATURE)):
            foreign.append(os.path.join(place.path, name))
    look = lock_to_look if dry_run else take_lock_to_remove
    with contextlib.ExitStack() as held:
        if not dry_run:
            try:
                chain = HostChain(place, make=False)
                held.callback(chain.close)
            except FileNotFoundError:
                pass
            except TraceError as error:  # it could not be told what is removed
                return Old((), tuple(foreign), ((place.path, f"{error.what}, so its traces stay"),))
        old = _remove(
            *(place, ours, before, lambda trace: _is_over(base, trace, look)), dry_run=dry_run, chain=chain
        )
    return Old(old.removed, (*foreign, *old.foreign), old.failed)


def _remove(
    directory: PrivateDirectory,
    names: Iterable[str],
    before: float,
    is_over: Callable[[_Own], bool],
    *,
    dry_run: bool,
    chain: HostChain | None = None,
) -> Old:
    removed: list[str] = []
    foreign: list[str] = []
    failed: list[tuple[str, str]] = []
    for name in names:
        path = os.path.join(directory.path, name)
        try:
            with closing(_Own(directory, name)) as trace:
                # In this order: once nobody writes it the run is handed off, so that its container can be found.
                if trace.status.st_mtime >= before or trace.is_written() or not is_over(trace):
                    continue
                if not dry_run:
                    if chain is not None:
                        chain.removed(name)
                    trace.unlink()
            removed.append(path)
            with contextlib.suppress(FileNotFoundError):
                path += SIGNATURE
                with closing(_Own(directory, name + SIGNATURE)) as signature:
                    if not dry_run:
                        signature.unlink()
                removed.append(path)
        except UntrustedPathError:
            foreign.append(path)
        except FileNotFoundError:
            pass  # another process removed it
        except OSError as error:
            failed.append((path, error.strerror or str(error)))
        except TraceError as error:
            failed.append((path, f"{error.what}, so it stays"))
    return Old(tuple(removed), tuple(foreign), tuple(failed))


class _Own:
    """A regular file of the effective user, open for reading.

    Raises `UntrustedPathError` for anything else, and `OSError`.
    """

    def __init__(self, directory: PrivateDirectory, name: str) -> None:
        self._directory, self.name = directory, name
        self._descriptor = open_own(directory, name)
        self.status = os.fstat(self._descriptor)

    def close(self) -> None:
        """Close the descriptor; the file stays."""
        os.close(self._descriptor)

    def is_written(self) -> bool:
        """Whether anybody has it open for writing: then no read lease is possible. Raises `OSError`."""
        try:
            take_lease(self._descriptor)
        except BlockingIOError:
            return True
        fcntl.fcntl(self._descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False

    def base(self) -> str | None:
        """The path of the base that the trace names; None if it names none. Raises `OSError`."""
        with open(os.dup(self._descriptor), "rb") as file:
            for line in file:
                with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
                    if _SECURED in line and isinstance(
                        path := json.loads(line)["facts"]["directories"][0]["path"], str
                    ):
                        return path
        return None

    def unlink(self) -> None:
        """Remove the name if it is still this file's. Raises `OSError`."""
        named = os.stat(self.name, dir_fd=self._directory.descriptor, follow_symlinks=False)
        if os.path.samestat(named, self.status):
            os.unlink(self.name, dir_fd=self._directory.descriptor)


def _is_over(base: PrivateDirectory | None, trace: _Own, look: _Look) -> bool:
    """Whether the container of the `trace` is gone, or its id is a later container's. Raises `OSError`."""
    if base is not None and not _is_over_in(base, trace.name, look):
        return False
    path = trace.base()
    if path is None or (base is not None and path == base.path):
        return True
    try:
        other = open_existing_base(path)
    except UntrustedPathError:
        return False  # unknown
    if other is None:
        return True
    with closing(other):
        return _is_over_in(other, trace.name, look)


def _is_over_in(base: PrivateDirectory, name: str, look: _Look) -> bool:
    where = component(name[:-_WRITTEN_LENGTH])
    try:
        container = open_private_directory(base.descriptor, base.path, where)
    except FileNotFoundError:
        return True
    except UntrustedPathError:
        return False  # unknown, and gc reports the directory
    with closing(container), suppress(UntrustedPathError), look(container) as is_taken:
        if not is_taken:
            return False
        if in_use_reason(base, container) is None:
            return True
        from engine.state import record  # only for managers' containers

        noted = record.read(container)
        return noted is not None and noted.trace is not None and os.path.basename(noted.trace) != name
    return False
