"""Write the trace of a run: one JSON object a line, each written before its move is made.

The first line is the header (engine, spec, options, bundle, host, what was asked), each further line a move. Lines are
buffered until the trace has a file, then written at once. Each line has the SHA-256 of the line before it, so none can
be edited, removed or moved alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping

from engine.bundle.oci_config import KINDS_OF_HOOKS
from engine.digest import sha256
from engine.errors import Reason, TraceError, hint_for
from engine.linux.boot import boot_id, login_user
from engine.linux.files import PrivateDirectory
from engine.linux.regular_files import write_all
from engine.options import Network
from engine.traces.asked import asked_facts
from engine.traces.move import FORMAT, Move

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from engine.bundle.bundle import Bundle
    from engine.linux.regular_files import Identity
    from engine.options import RunOptions
    from engine.traces import header_schema, schema


def header(
    engine: str, spec: str, options: RunOptions, bundle: Bundle, root_digest: str | None = None
) -> dict[str, Any]:
    """The facts of the first line: engine, spec, options, bundle, host, and what was asked.

    `root_digest`: that of the root file system, if the options want it; None if it is unknown.
    """
    uname = os.uname()
    host: header_schema.Host = {
        "kernel": uname.release,
        "machine": uname.machine,
        "user": os.geteuid(),
        "name": uname.nodename,
        "boot": _boot(),
        "login_user": login_user(),
    }
    asked = asked_facts(bundle)
    if options.root_digest:
        asked["root"]["sha256"] = root_digest
    return {
        "engine": engine,
        "spec": spec,
        "options": options_facts(options),
        "bundle": bundle_facts(bundle, options),
        "host": host,
        "asked": asked,
    }


def _boot() -> str | None:
    try:
        return boot_id()
    except (OSError, ValueError):
        return None


def options_facts(options: RunOptions) -> header_schema.Options:
    """The options as recorded; those that older engines had not only where they were asked for."""
    facts: header_schema.Options = {
        "network": str(options.network),
        "platform": str(options.platform),
        "rootless": options.rootless,
        "ignore_cgroups": options.ignore_cgroups,
        "exec_policy": str(options.exec_policy),
        "require_exec_policy": options.require_exec_policy,
        "runsc": options.runsc,
    }
    if options.require_strict_bundle:
        facts["require_strict_bundle"] = True
    if options.supervise:
        facts["supervise"] = True
    if options.root_digest:
        facts["root_digest"] = True
    if options.require_enforced:
        facts["require_enforced"] = True
    if options.runsc_flags:
        facts["runsc_flags"] = list(options.runsc_flags)
    return facts


def bundle_facts(bundle: Bundle, options: RunOptions) -> header_schema.Bundle:
    """The bundle as recorded, with the number of hooks; its hints and grants only if it has any."""
    hooks = bundle.config.get("hooks", {})
    facts: header_schema.Bundle = {
        "path": bundle.path,
        "sha256": bundle.digest,
        "rootfs": bundle.rootfs,
        "hooks": sum(len(hooks.get(kind, ())) for kind in KINDS_OF_HOOKS),
    }
    if bundle.hints:
        facts["hints"] = bundle.hints
    grants = [grant.code for grant in bundle.grants]
    if options.network is Network.HOST:
        grants.append("host_network")
    grants += dict.fromkeys(code for code, _ in options.opened_by_flags())
    if grants:
        facts["grants"] = grants
    return facts


def identity_facts(identity: Identity) -> schema.Identity:
    """A file's version as recorded."""
    return {
        "device": identity.device,
        "inode": identity.inode,
        "size": identity.size,
        "mtime_ns": identity.mtime_ns,
        "ctime_ns": identity.ctime_ns,
    }


class Trace:
    """The trace of one container's run, open for appending."""

    def __init__(self, container_id: str, header: Mapping[str, Any]) -> None:
        self._container = container_id
        self._seq = 0
        self._previous: str | None = None
        self._waiting: list[bytes] = []
        self._descriptor: int | None = None
        self._whole = 0  # bytes of the file in complete lines
        self._torn = False  # whether the file may have more bytes than that
        self.path: str | None = None
        self._append({"format": FORMAT, **header})
        #: The digest of the first line.
        self.header_digest = self._previous or ""

    @classmethod
    def resume(cls, container_id: str, seq: int, previous: str, path: str, descriptor: int) -> Self:
        """The trace in the open file, to write line `seq` after the one with the digest `previous`."""
        trace = cls.__new__(cls)
        trace._container = container_id
        trace._seq, trace._previous = seq, previous
        trace._waiting = []
        trace._descriptor, trace.path = descriptor, path
        trace._whole = os.fstat(descriptor).st_size
        trace._torn = False
        return trace

    def position(self) -> tuple[int, str | None, int | None]:
        """What `resume` needs: the number of the next line, the digest of the last one, and the descriptor."""
        return self._seq, self._previous, self._descriptor

    def create(self, path: str) -> None:
        """Write the trace to a new file at `path`; an existing file is never replaced. Raises `TraceError`."""
        self._create(path, path, None)

    def new_name(self) -> str:
        """A name for the trace among those of other runs, also of this container."""
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        return f"{self._container}-{now}-{os.urandom(4).hex()}.jsonl"

    def create_in(self, directory: PrivateDirectory, name: str | None = None) -> None:
        """Write the trace to a new file in `directory`, unless it has a file already. Raises `TraceError`."""
        if self._descriptor is None:
            name = name or self.new_name()
            self._create(name, os.path.join(directory.path, name), directory.descriptor)

    def move(self, move: Move) -> None:
        """Record `move`; a refusal's facts include its `error`. Raises `TraceError`."""
        facts = dict(move.facts)
        error = facts.pop("error", None)
        self._append(
            {"state": move.state, "trigger": move.trigger, "next": move.next, "facts": facts, "error": error}
        )

    def _create(self, name: str, path: str, directory: int | None) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, 0o600, dir_fd=directory)
        except FileExistsError:
            raise TraceError(
                f"{path!r} exists", reason=Reason.EXISTS, hint="give a new file: a trace is never overwritten"
            ) from None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise TraceError(
                f"{path!r}: {why}",
                reason=Reason.FAILURE,
                hint="give a new file in a directory that you can write",
            ) from None
        self._descriptor, self.path = descriptor, path
        so_far = list(self._waiting)
        try:
            self._flush()
        except TraceError:
            self._descriptor, self.path, self._waiting = None, None, so_far
            self._whole, self._torn = 0, False
            with contextlib.suppress(OSError):  # the error of the write is reported
                os.unlink(name, dir_fd=directory)
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise

    def _append(self, fields: Mapping[str, Any]) -> None:
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        now = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 1000:06}Z"
        record = {
            "seq": self._seq,
            "time": now,
            "monotonic_ns": time.monotonic_ns(),
            "container": self._container,
            "previous": self._previous,
            **fields,
        }
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        self._waiting.append(line)
        try:
            self._flush()
        except TraceError:
            del self._waiting[-1]  # the move is not made: the next one takes its number
            raise
        self._seq += 1
        self._previous = sha256(line)

    def _flush(self) -> None:
        """Write the buffered lines, each completely or not at all. Raises `TraceError`."""
        if self._descriptor is None:
            return
        try:
            if self._torn:
                self._cut(self._descriptor)
            while self._waiting:
                self._torn = True
                write_all(self._descriptor, self._waiting[0])
                self._torn = False
                self._whole += len(self._waiting[0])
                del self._waiting[0]
        except OSError as error:
            if self._torn:
                with contextlib.suppress(OSError):  # the next flush truncates a partial line first
                    self._cut(self._descriptor)
            raise self._failed(error) from None

    def _cut(self, descriptor: int) -> None:
        os.ftruncate(descriptor, self._whole)
        self._torn = False

    def close(self) -> None:
        """Close the file, if it is open. Raises `TraceError` if the system could not keep what was written."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            os.close(descriptor)
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> TraceError:
        return TraceError(
            f"{self.path!r}: {error.strerror}",
            reason=Reason.FAILURE,
            hint=hint_for(error, "give another file with --trace FILE"),
        )

    @property
    def is_lost(self) -> bool:
        """Whether nobody can read the trace: its file has no name any more, or fstat(2) fails."""
        if self._descriptor is None:
            return True
        try:
            return os.fstat(self._descriptor).st_nlink == 0
        except OSError:
            return True
