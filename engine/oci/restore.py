"""`restore`: the processes of a checkpoint continue, in a new container or in a created one.

Into a created one it is a `start`: what specs/OCIRuntime.tla says of that verb, killed anywhere, holds.
"""

from __future__ import annotations

import contextlib
import json
import os

from engine.errors import EngineError, Reason, UsageError
from engine.oci.container import Container, ContainerError, NoSuchError
from engine.oci.creation import start, wait_for
from engine.oci.flags import Kind, Table
from engine.oci.lookup import find
from engine.oci.request import Request
from engine.oci.start import settle
from engine.runsc.command import ask
from engine.state.container import RUNTIME
from engine.state.oci_lifecycle import Status, Verb

FLAGS: Table = {
    "bundle": Kind.VALUE,
    "pid-file": Kind.VALUE,
    "console-socket": Kind.VALUE,
    "image-path": Kind.VALUE,
    "detach": Kind.SWITCH,
    "work-path": Kind.IGNORED_VALUE,
    "no-subreaper": Kind.IGNORED_SWITCH,
    "no-pivot": Kind.IGNORED_SWITCH,
}
SHORT = {"b": "bundle", "d": "detach"}


def main(request: Request) -> int:
    """Restore from `--image-path`: into a created container of this id, else through the lifecycle of a new one."""
    image = request.flags.value("image-path")
    if not image:
        raise UsageError(
            "restore needs --image-path", reason=Reason.USAGE, hint="give the directory that checkpoint wrote"
        )
    detach = request.flags.has("detach")
    paths = ("--image-path", os.path.abspath(image))
    with contextlib.suppress(NoSuchError), find(request, request.container_id()) as found:
        if found.status() is Status.CREATED:
            return _restore_into(request, found, paths, detach=detach)
    return start(request, (*paths, *(("--detach",) if detach else ())), ends_with_runsc=not detach)


def _restore_into(request: Request, found: Container, paths: tuple[str, ...], *, detach: bool) -> int:
    """Restore into a created container, in the place of its `start`. Unless `detach`, wait until it ends.

    Returns the exit code: the container's if it was waited for. Raises `ContainerError`.
    """
    if found.record.sandbox is not None:
        raise ContainerError(
            found.verb,
            f"container {found.record.id!r} is a member of the sandbox {found.record.sandbox.id!r}",
            reason=Reason.UNSUPPORTED,
            hint="restore it into a sandbox of its own: runsc restores a whole sandbox",
        )
    child = os.fork()
    if child == 0:
        code = ContainerError.exit_code
        try:
            # Were runsc to find the container gone, it would make another of what is in the current directory.
            flags = ("--bundle", found.given_bundle, *paths, "--detach")
            found.note_attempt(Verb.START, settle).become_runsc(request, "restore", flags)
        except EngineError as error:
            request.report(error)
        finally:
            os._exit(code)
    code = wait_for(child)
    if code != 0 or detach:
        return code
    runtime = os.path.join(found.runsc_root, RUNTIME)
    with found.program() as program:
        done = ask(program, [*found.record.flags, "wait", found.record.id], runtime, seconds=None)
    return int(json.loads(done.stdout)["exitStatus"]) & 0xFF if done.returncode == 0 else done.returncode
