"""The record of a container of a manager's: `oci.json` in its directory, there from before anything runs until last.

`runsc create` ends while the container lives on, so the lock of its directory does not say that it is alive. What
does is this record, runsc's own state file, and which processes execute the staged copy of runsc. None of the three
is lost when a command is killed, so the next one finds out the truth.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from engine import artifacts
from engine.linux.files import PrivateDirectory, UntrustedPathError, open_private_directory
from engine.linux.process import arguments, executing, runs, started
from engine.oci.machine import OCI_LIFECYCLE, Status, Verb, status

FORMAT = 1
_NEW = artifacts.OCI_RECORD + ".new"
#: Seconds. runsc writes its state file in place; whoever looks meanwhile looks again.
_MID_WRITE = 2.0
#: The same where nobody is known to write it.
_AT_REST = 0.1
#: The verbs that move a container, each from one status to another.
MOVES = {
    str(row.verb): (source, row.target)
    for row in OCI_LIFECYCLE
    if row.verb in (Verb.START, Verb.PAUSE, Verb.RESUME) and row.target
    for source in row.sources
}
#: By what runsc's own processes of a container are told from commands about it, which execute the same file.
_PARTS = frozenset({b"boot", b"gofer", b"umount"})


@dataclass(frozen=True, slots=True)
class Program:
    """The staged copy of runsc: where it is beneath the container's directory, and which file it is.

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
    is then the process that stands for it, and when it started.

    `creation` tells two creations of one id apart; `creator` is the process that takes the run's steps and becomes
    `runsc create`, and when it started; `created` is RFC 3339, UTC; `cgroups` are those that runsc is to make.
    `attempt` is the last of start, pause and resume.
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

    @property
    def state_file(self) -> str:
        """How runsc names its file about it."""
        return f"{self.id}_sandbox:{self.sandbox.id if self.sandbox else self.id}.state"


@dataclass(frozen=True, slots=True)
class StateFile:
    """What runsc's own state file says: `status` is what it was when last written."""

    status: str
    pid: int


def write(container: PrivateDirectory, record: Record) -> None:
    """Put `record` in the place of the one that is there, as a whole or not at all. Raises `OSError`."""
    data = json.dumps({"format": FORMAT, **asdict(record)}, separators=(",", ":")).encode() + b"\n"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    here = container.descriptor
    descriptor = os.open(_NEW, flags, 0o600, dir_fd=here)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
        os.rename(_NEW, artifacts.OCI_RECORD, src_dir_fd=here, dst_dir_fd=here)
    except OSError as error:
        with contextlib.suppress(OSError):  # what stopped the writing is what is said
            os.unlink(_NEW, dir_fd=here)
        raise OSError(
            error.errno, error.strerror, os.path.join(container.path, artifacts.OCI_RECORD)
        ) from None


def remove(container: PrivateDirectory) -> bool:
    """Remove the record, and say whether there was one. Raises `OSError`."""
    try:
        os.unlink(artifacts.OCI_RECORD, dir_fd=container.descriptor)
    except FileNotFoundError:
        return False
    return True


def read(container: PrivateDirectory) -> Record | None:
    """The record in `container`; None where there is none. Raises `UntrustedPathError` and `OSError`."""
    path = os.path.join(container.path, artifacts.OCI_RECORD)
    data = _read_own(container, artifacts.OCI_RECORD)
    if data is None:
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


def _read_own(directory: PrivateDirectory, name: str) -> bytes | None:
    """The content of a file of our own in `directory`; None where there is no such name."""
    path = os.path.join(directory.path, name)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=directory.descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UntrustedPathError(path, "is a symbolic link") from None
        raise OSError(error.errno, error.strerror, path) from None
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise UntrustedPathError(path, "is another user's")
        return file.read()


def open_runsc_root(base: PrivateDirectory, container: PrivateDirectory, record: Record) -> PrivateDirectory:
    """Where runsc's file about the container is: its own root, or its sandbox's. Raises as `artifacts`' own."""
    if record.sandbox is None:
        return artifacts.open_runsc_root(container)
    name = artifacts.component(record.sandbox.id)
    with contextlib.closing(open_private_directory(base.descriptor, base.path, name)) as sandbox:
        return artifacts.open_runsc_root(sandbox)


def about(base: PrivateDirectory, container: PrivateDirectory, record: Record) -> tuple[str, ...]:
    """By which arguments its processes are told from others that execute the same file.

    They are given runsc's root, and those of a pod, which are given the same one, each their bundle.
    """
    if record.sandbox is None:
        return (os.path.join(container.path, artifacts.RUNSC_ROOT),)
    sandbox = os.path.join(base.path, artifacts.component(record.sandbox.id))
    return os.path.join(sandbox, artifacts.RUNSC_ROOT), record.bundle


class CutShortError(UntrustedPathError):
    """runsc's file is empty, or not whole: whoever wrote it was killed."""


def state_file(
    runsc_root: PrivateDirectory, name: str, seconds: float = _MID_WRITE
) -> tuple[StateFile, str] | None:
    """What runsc's file `name` says, and the file; None where there is none. Looks again for so many `seconds`.

    Raises `OSError`, `UntrustedPathError`, and of that `CutShortError`.
    """
    end = time.monotonic() + seconds
    while (data := _read_own(runsc_root, name)) is not None:
        try:
            return _parsed(data), data.decode()
        except (ValueError, KeyError, TypeError, AttributeError):
            if time.monotonic() > end:
                raise CutShortError(
                    os.path.join(runsc_root.path, name), "is no state file that this engine can read"
                ) from None
            time.sleep(0.01)
    return None


def _parsed(data: bytes | str) -> StateFile:
    fields = json.loads(data)
    return StateFile(str(fields["status"]), int((fields.get("sandbox") or {}).get("pid", 0)))


@dataclass(frozen=True, slots=True)
class Truth:
    """What is true of a recorded container.

    `doubt` is an attempt that nobody makes any more, and of which runsc's file does not tell whether the sandbox did
    it; `is_told` says whether runsc's file says what is `known`.

    `known` is what runsc's file says, None when runsc does not know of it (yet, or any more); `sandbox` is the
    sandbox's process, None when it does not run; `processes` are the parts of it that live, looked
    for only where runsc does not know of the container; `is_being_created`: its creator lives; `waiter` is there while
    it waits.
    """

    known: str | None
    sandbox: int | None
    processes: tuple[int, ...]
    is_being_created: bool
    waiter: int | None = None
    doubt: Attempt | None = None
    is_told: bool = True

    @property
    def status(self) -> Status:
        """Where the container is."""
        return status(
            known=self.known,
            lives=bool(self.processes) if self.known is None else self.sandbox is not None,
            is_being_created=self.is_being_created,
        )

    @property
    def pid(self) -> int:
        """The process that stands for the container on the host; 0 when it does not run."""
        return (self.waiter or self.sandbox or 0) if self.sandbox else 0

    @property
    def is_kept(self) -> bool:
        """Whether it is still somebody's: runsc knows of it, or processes of it live."""
        return self.known is not None or bool(self.processes)


def look(base: PrivateDirectory, container: PrivateDirectory, record: Record) -> Truth:
    """Find out what is true of the container. Raises `OSError` and `UntrustedPathError`."""
    pid, start = record.creator
    is_being_created = (
        started(pid) == start
    )  # asked first: what a creator that is gone has not made, is not made
    attempt = record.attempt
    was_killed = attempt is not None and not attempt.goes_on
    file, is_told = None, True
    ours = about(base, container, record)
    with contextlib.suppress(FileNotFoundError):
        root = open_runsc_root(base, container, record)
        with contextlib.closing(root):
            try:
                found = state_file(root, record.state_file, _AT_REST if was_killed else _MID_WRITE)
                file = found and found[0]
            except CutShortError:
                is_told = False
                if attempt is not None:  # the sandbox had done it: only then runsc writes
                    file = StateFile(str(attempt.target), _parsed(attempt.file).pid)
    program = (record.program.device, record.program.inode) if record.program else None
    if file is None or file.status == Status.CREATING:
        processes = executing(program, ours) if program else ()
        parts = tuple(process for process in processes if not _PARTS.isdisjoint(arguments(process)))
        return Truth(None, None, parts, is_being_created, is_told=is_told)
    boot = record.sandbox.program if record.sandbox else record.program
    alive = boot is not None and runs(file.pid, (boot.device, boot.inode), ours[:1])
    waiter = record.waiter[0] if record.waiter and started(record.waiter[0]) == record.waiter[1] else None
    return Truth(
        file.status,
        file.pid if alive else None,
        (),
        is_being_created=False,
        waiter=waiter,
        doubt=attempt
        if alive and attempt is not None and was_killed and file.status == attempt.source
        else None,
        is_told=is_told,
    )


def members(base: PrivateDirectory, sandbox: Record) -> list[str]:
    """The ids of the containers that have joined this very sandbox and have a record.

    What cannot be read is none of them: nobody could have created it here. Raises `OSError` where the base cannot be.
    """
    found = []
    for name in os.listdir(base.descriptor):
        if not artifacts.is_component(name):
            continue
        with contextlib.suppress(OSError, UntrustedPathError):
            with contextlib.closing(open_private_directory(base.descriptor, base.path, name)) as container:
                data = _read_own(container, artifacts.OCI_RECORD)
                if data is None or sandbox.creation.encode() not in data:
                    continue  # a hundred of them are to be passed over quickly
                noted = read(container)
            if noted is not None and noted.sandbox is not None and noted.sandbox.creation == sandbox.creation:
                found.append(noted.id)
    return sorted(found)


def why_kept(base: PrivateDirectory, container: PrivateDirectory) -> str | None:
    """Why only `delete` may take away what a manager has there, in one phrase. The caller holds the lock.

    None where there is no record, and where what was being created never came to be. Raises as `look`.
    """
    record = read(container)
    if record is None:
        return None
    if look(base, container, record).is_kept:
        return "exists"
    if left := members(base, record):
        return f"is gone, and containers of its sandbox are not: {', '.join(map(repr, left))}"
    return None
