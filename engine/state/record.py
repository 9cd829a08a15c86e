"""The record of a container of a manager's: `oci.json` in its directory, there from before anything runs until last.

`runsc create` ends while the container lives on, so the lock of its directory does not say that it is alive. What
does is this record, runsc's own state file, and which processes execute the staged copy of runsc. None of the three
is lost when a command is killed, so the next one finds out the truth.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from engine.linux.boot import boot_id
from engine.linux.files import PrivateDirectory, UntrustedPathError
from engine.linux.process import started
from engine.linux.regular_files import read_own, replace_own
from engine.records import dataclass
from engine.state.container import OCI_RECORD
from engine.state.oci_lifecycle import OCI_LIFECYCLE, Status, Verb

FORMAT = 1
#: Bytes of the longest record, or file of runsc's about a container, that is read; runsc's has all of config.json.
LIMIT = 1 << 26
#: The verbs that move a container, each from one status to another.
MOVES = {
    str(row.verb): (source, row.target)
    for row in OCI_LIFECYCLE
    if row.verb in (Verb.START, Verb.PAUSE, Verb.RESUME) and row.target
    for source in row.sources
}


@dataclass(frozen=True, slots=True)
class Program:
    """The staged copy of runsc: where it is, beneath the container's directory unless absolute, and which file it is.

    Any write to it would give it another `modified` time, inode(7), which only the owner can put back. When its
    inode was changed does not tell: another container that shares the file links it.
    """

    path: str
    sha256: str
    device: int
    inode: int
    size: int
    modified: int

    def is_file(self, status: os.stat_result) -> bool:
        """Whether `status` is that very file's, and nobody changed it."""
        return (
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
        ) == (self.device, self.inode, self.size, self.modified)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The sandbox that a container of a pod has joined: the container `id`, as created by `creation`, and its copy."""

    id: str
    creation: str
    program: Program


@dataclass(frozen=True, slots=True)
class Attempt:
    """`verb` (start, pause or resume) was noted to be done by the process `who`: its id, and when it started.

    `file` is what runsc's file said before.
    """

    verb: str
    who: tuple[int, int]
    file: str

    @property
    def source(self) -> Status:
        """Where the container was before."""
        return MOVES[self.verb][0]

    @property
    def target(self) -> Status:
        """Where it is once that is done."""
        return MOVES[self.verb][1]

    @property
    def goes_on(self) -> bool:
        """Whether it is still being done."""
        return started(self.who[0]) == self.who[1]

    def file_saying(self, status: Status) -> str:
        """runsc's file as it is in this status."""
        return json.dumps({**json.loads(self.file), "status": str(status)}, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Record:
    """Who the container is. `program` and `flags` (runsc's global ones) are there from when it is handed off.

    `sandbox` is there for one that lives in another's sandbox, in whose runsc root runsc's file about it is; `waiter`
    is then its monitor process, and when that started.

    `creation` tells two creations of one id apart; `creator` is the process that takes the run's steps and becomes
    `runsc create`, and when it started; `created` is RFC 3339, UTC; `cgroups` are those that runsc is to make.
    `attempt` is the last of start, pause and resume. `boot` is the boot that it was created in, unknown of what an
    older engine created: all processes that an earlier boot had are gone, whoever has their numbers now.
    """

    id: str
    bundle: str
    creation: str
    creator: tuple[int, int]
    created: str
    oci_version: str
    annotations: Mapping[str, str]
    trace: str | None = None
    program: Program | None = None
    flags: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    sandbox: Sandbox | None = None
    waiter: tuple[int, int] | None = None
    attempt: Attempt | None = None
    boot: str | None = None

    @property
    def is_of_earlier_boot(self) -> bool:
        """Whether the machine was booted since it was created. Raises `OSError`."""
        return self.boot is not None and self.boot != boot_id()

    @property
    def state_file(self) -> str:
        """How runsc names its file about it."""
        return f"{self.id}_sandbox:{self.sandbox.id if self.sandbox else self.id}.state"


def write(container: PrivateDirectory, record: Record) -> None:
    """Put `record` in the place of the one that is there, as a whole or not at all. Raises `OSError`."""
    from dataclasses import asdict  # by verbs that write alone

    data = json.dumps({"format": FORMAT, **asdict(record)}, separators=(",", ":")).encode() + b"\n"
    replace_own(container, OCI_RECORD, data)


def remove(container: PrivateDirectory) -> bool:
    """Remove the record, and say whether there was one. Raises `OSError`."""
    try:
        os.unlink(OCI_RECORD, dir_fd=container.descriptor)
    except FileNotFoundError:
        return False
    return True


def read(container: PrivateDirectory) -> Record | None:
    """The record in `container`; None where there is none. Raises `UntrustedPathError` and `OSError`."""
    path = os.path.join(container.path, OCI_RECORD)
    try:
        data = read_own(container, OCI_RECORD, LIMIT)
    except FileNotFoundError:
        return None
    try:
        fields = json.loads(data)
        if fields.pop("format") != FORMAT:
            raise ValueError("of another format")
        program = fields.pop("program")
        if sandbox := fields.pop("sandbox", None):
            fields["sandbox"] = Sandbox(**{**sandbox, "program": Program(**sandbox["program"])})
        if attempt := fields.pop("attempt", None):
            fields["attempt"] = Attempt(str(attempt["verb"]), tuple(attempt["who"]), str(attempt["file"]))
        fields["flags"], fields["cgroups"] = tuple(fields["flags"]), tuple(fields["cgroups"])
        for name in ("creator", "waiter"):
            if fields.get(name) is not None:
                pid, start = fields[name]
                fields[name] = (pid, start)
        return Record(**fields, program=program and Program(**program))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UntrustedPathError(path, f"is no record of this engine ({error})") from None
