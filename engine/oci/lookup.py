"""Find a manager's container by id: in the chosen base, else in one that an older engine chose."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence

from engine.errors import Reason
from engine.linux.files import PrivateDirectory, UntrustedPathError, open_private_directory
from engine.oci.container import Container, ContainerError, NoSuchError, unreadable
from engine.oci.request import Request, say
from engine.options import check_container_id
from engine.state import oci_lifecycle as machine
from engine.state import record
from engine.state.base import open_existing_base
from engine.state.container import component, is_component, is_ours
from engine.state.oci_lifecycle import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_Opener = Callable[[str, PrivateDirectory, str, contextlib.ExitStack], Container | None]


@contextlib.contextmanager
def find(request: Request, container_id: str) -> Iterator[Container]:
    """The container with this id. Raises `ContainerError` if none has a record, and `UsageError`."""
    check_container_id(container_id)
    with contextlib.ExitStack() as held:
        found = None
        if (base := held.enter_context(open_base_of(request))) is not None:
            found = _open(request.verb, base, component(container_id), held)
        if found is None:
            for other in _other_bases(request, held):
                if found := _open_if_ours(request.verb, other, component(container_id), held):
                    break
        if found is None:
            raise NoSuchError(request.verb, container_id)
        if found.record.id != container_id:
            raise ContainerError(
                request.verb,
                f"the record in {found.directory.path!r} is another container's",
                reason=Reason.OTHER_RECORD,
                hint="find out who changed it",
            )
        yield found


def find_all(request: Request) -> Iterator[Container]:
    """Every container with a record, each open until the next. Raises `ContainerError` where the base is no base."""
    with contextlib.ExitStack() as bases:
        if (base := bases.enter_context(open_base_of(request))) is not None:
            yield from _all_in(base, request.verb, _open)
        for other in _other_bases(request, bases):
            yield from _all_in(other, request.verb, _open_if_ours)


def kept_elsewhere(request: Request, container_id: str) -> str | None:
    """The other base in which there is a container of this id; None where there is none. Raises `ContainerError`."""
    with contextlib.ExitStack() as held:
        for other in _other_bases(request, held):
            found = _open_if_ours(request.verb, other, component(container_id), held)
            if found is not None and found.state().is_kept:
                return other.path
    return None


def _all_in(base: PrivateDirectory, verb: str, opened: _Opener) -> Iterator[Container]:
    """Each container in `base`; one that cannot be read is named on stderr, and the rest go on."""
    for name in sorted(os.listdir(base.descriptor)):
        with contextlib.ExitStack() as held:
            try:
                found = opened(verb, base, name, held) if is_component(name) else None
            except ContainerError as error:
                say(f"engine-oci: warning: {error}")
                continue
            if found is not None:
                yield found


def _other_bases(request: Request, held: contextlib.ExitStack) -> Iterator[PrivateDirectory]:
    """The other bases that exist and are trusted: under any other nobody could have created a container."""
    with contextlib.suppress(OSError):
        for path in request.other_bases():
            with contextlib.suppress(OSError, UntrustedPathError):
                if (base := open_existing_base(path)) is not None:
                    held.callback(base.close)
                    yield base


def _open_if_ours(
    verb: str, base: PrivateDirectory, name: str, held: contextlib.ExitStack
) -> Container | None:
    """As `_open`; returns None instead of an error."""
    with contextlib.suppress(ContainerError):
        return _open(verb, base, name, held)
    return None


@contextlib.contextmanager
def open_base_of(request: Request) -> Iterator[PrivateDirectory | None]:
    """The directory with the containers; None if there is none. Raises `ContainerError`."""
    try:
        base = open_existing_base(request.base())
    except FileNotFoundError:
        base = None
    except (UntrustedPathError, OSError) as error:
        raise unreadable(request.verb, error) from None
    try:
        yield base
    finally:
        if base is not None:
            base.close()


@contextlib.contextmanager
def find_directory(
    request: Request, container_id: str
) -> Iterator[tuple[PrivateDirectory, PrivateDirectory] | None]:
    """The base and the directory of a container, whatever its record is; None if there is none of ours.

    Raises `UsageError`, `ContainerError`, `UntrustedPathError` and `OSError`.
    """
    check_container_id(container_id)
    with open_base_of(request) as base, contextlib.ExitStack() as held:
        found = None
        if base is not None:
            with contextlib.suppress(FileNotFoundError):
                directory = open_private_directory(base.descriptor, base.path, component(container_id))
                held.callback(directory.close)
                found = (base, directory) if is_ours(directory) else None
        yield found


def _open(verb: str, base: PrivateDirectory, name: str, held: contextlib.ExitStack) -> Container | None:
    try:
        directory = open_private_directory(base.descriptor, base.path, name)
        held.callback(directory.close)
        noted = record.read(directory)
    except FileNotFoundError:
        return None
    except (UntrustedPathError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ESTALE:
            return None
        raise unreadable(verb, error) from None
    return Container(verb, base, directory, noted) if noted is not None else None


@contextlib.contextmanager
def permitted(request: Request, permission: Verb, container_id: str) -> Iterator[Container]:
    """The container, if its status allows the verb `permission`; runsc's file about it is right. Raises as `find`."""
    with find(request, container_id) as found:
        state = found.state()
        machine.require(permission, state.status, container_id)
        if permission in record.MOVES:
            found.note_attempt(permission)
        elif not state.is_told:
            with found.locked():
                found.repaired()
        yield found


def delegate(
    request: Request,
    permission: Verb,
    container_id: str,
    flags: Sequence[str] = (),
    arguments: Sequence[str] = (),
    preserved: int = 0,
) -> NoReturn:
    """Become the container's runsc for `request.verb`, if its status allows the verb `permission`."""
    with permitted(request, permission, container_id) as found:
        found.become_runsc(request, request.verb, flags, arguments, preserved)
