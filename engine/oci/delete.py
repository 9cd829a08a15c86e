"""`delete`: remove a stopped container; with `--force` kill it first."""

from __future__ import annotations

from engine.errors import Reason
from engine.oci.container import ContainerError, NoSuchError
from engine.oci.flags import Kind, Table
from engine.oci.lookup import find
from engine.oci.removal import end_run, remove, remove_partial_create
from engine.oci.request import Request, say
from engine.state import oci_lifecycle as machine
from engine.state.oci_lifecycle import Verb
from engine.state.record import read

FLAGS: Table = {"force": Kind.SWITCH}
SHORT = {"f": "force"}


def main(request: Request) -> int:
    """Delete the container. With `--force` it is no error if it does not exist or another command deletes it first.

    A killed creation is deleted like a container.
    """
    container_id, force = request.container_id(), request.flags.has("force")
    verb = Verb.FORCE_DELETE if force else Verb.DELETE
    try:
        with find(request, container_id) as found:
            if force:
                end_run(found)
            else:
                machine.require(verb, found.status(), container_id)
            with found.locked():
                noted = read(found.directory)
                if noted is None or noted.creation != found.record.creation:
                    raise NoSuchError(request.verb, container_id)  # deleted during the wait for the lock
                now = found.with_record(noted)  # its creation may have continued during the wait
                if not force:
                    machine.require(verb, now.status(), container_id)
                remove(now, force=force)
    except NoSuchError:
        if remove_partial_create(request, container_id) or force:
            return 0
        raise
    except ContainerError as error:
        if not force or error.reason != Reason.ROOT_NOT_PRIVATE:
            raise
        from engine.oci.damaged import remove_damaged

        if not remove_damaged(request, container_id):
            raise
        say(f"engine-oci: warning: {error.what}; removed without it")
    return 0
