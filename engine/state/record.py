"""The record of a manager's container: `oci.json` in its directory, written before anything runs and removed last.

`runsc create` ends while the container lives, so the lock does not say whether it is alive. This record does, with
runsc's own state file and the processes that execute the staged files. All three survive a killed command.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from engine.linux.boot import boot_id
from engine.linux.files import PrivateDirectory, UntrustedPathError
from engine.linux.process import started
from engine.linux.regular_files import read_own, replace_own
from engine.runsc.installation import SENTRY
from engine.state.container import OCI_RECORD
from engine.state.oci_lifecycle import OCI_LIFECYCLE, Status, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

FORMAT = 1
#: How the names of the engine's own annotations in `state` begin. A bundle's of such a name are not the engine's word.
OWN = "dev.gvisor-engine."
#: Those that say what runsc does not do as asked, and what `start` says of it.
ENFORCEMENT, WARNING = f"{OWN}not-as-asked", f"{OWN}warning"
#: Bytes, at most, of a record or of runsc's state file, which contains all of config.json.
MAX_SIZE = 1 << 26
#: The verbs that change a status: from which, to which.
MOVES = {
    str(row.verb): (source, row.target)
    for row in OCI_LIFECYCLE
    if row.verb in (Verb.START, Verb.PAUSE, Verb.RESUME) and row.target
    for source in row.sources
}


def without_own(annotations: Mapping[str, str]) -> dict[str, str]:
    """The annotations of a bundle, but for those that have the engine's own names."""
    return {name: value for name, value in annotations.items() if not name.startswith(OWN)}


class Sidecar:
    """A program that runsc starts from beside its own executable: which file its staged copy is."""

    def __init__(self, name: str, device: int, inode: int) -> None:
        self.name: Final = name
        self.device: Final = device
        self.inode: Final = inode

    @property
    def file(self) -> tuple[int, int]:
        """Its device and inode."""
        return self.device, self.inode


class Program:
    """The staged copy of runsc; `path` is relative to the container's directory unless absolute.

    Any write changes `modified`, which only the owner can set back, inode(7). ctime is not recorded: it also changes
    when another container links the same file. `sidecars` are those of runsc's installation; a record of an older
    engine has none.

    `chosen`: the path that was asked for with `--runsc`. `made_from`: the identity of the file that was copied; None in
    a record of an older engine.
    """

    def __init__(
        self,
        path: str,
        sha256: str,
        device: int,
        inode: int,
        size: int,
        modified: int,
        sidecars: tuple[Sidecar, ...] = (),
        chosen: str | None = None,
        made_from: Mapping[str, int] | None = None,
    ) -> None:
        self.path: Final = path
        self.sha256: Final = sha256
        self.device: Final = device
        self.inode: Final = inode
        self.size: Final = size
        self.modified: Final = modified
        self.sidecars: Final = sidecars
        self.chosen: Final = chosen
        self.made_from: Final = made_from

    @property
    def sandbox_file(self) -> tuple[int, int]:
        """Device and inode of the file that the sandbox executes: the sentry's if there is one, else runsc's."""
        sentry = [sidecar.file for sidecar in self.sidecars if sidecar.name == SENTRY]
        return sentry[0] if sentry else (self.device, self.inode)

    @property
    def files(self) -> frozenset[tuple[int, int]]:
        """Device and inode of each file that a process of the container may execute."""
        return frozenset(((self.device, self.inode), *(sidecar.file for sidecar in self.sidecars)))

    def is_file(self, status: os.stat_result) -> bool:
        """Whether `status` is of this file, unchanged."""
        return (
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
        ) == (self.device, self.inode, self.size, self.modified)


class Sandbox:
    """The sandbox of a pod's member: its container `id`, the `creation` of that, and its copy of runsc."""

    def __init__(self, id: str, creation: str, program: Program) -> None:  # noqa: A002
        self.id: Final = id
        self.creation: Final = creation
        self.program: Final = program


class Attempt:
    """A recorded start, pause or resume (`verb`) by the process `who`: its pid and start time.

    `file`: the content of runsc's file before.
    """

    def __init__(self, verb: str, who: tuple[int, int], file: str) -> None:
        self.verb: Final = verb
        self.who: Final = who
        self.file: Final = file

    @property
    def source(self) -> Status:
        """The status before it."""
        return MOVES[self.verb][0]

    @property
    def target(self) -> Status:
        """The status after it."""
        return MOVES[self.verb][1]

    @property
    def goes_on(self) -> bool:
        """Whether that process is still alive."""
        return started(self.who[0]) == self.who[1]

    def file_saying(self, status: Status) -> str:
        """runsc's file with this status."""
        return json.dumps({**json.loads(self.file), "status": str(status)}, separators=(",", ":"))


class Record:
    """What the engine must know of the container after a command has ended.

    `creation` is unique to each creation; `creator` is the process that takes the run's steps and becomes `runsc
    create`: its pid and start time. `created` is RFC 3339, UTC. `cgroups`: those that runsc is to make. `program` and
    `flags` (runsc's global ones) are set before the hand-off.

    `sandbox`: of a pod's member, whose state file is in the sandbox's runsc root; `waiter` is then its monitor process:
    pid and start time. `attempt`: the last start, pause or resume. `boot`: the boot of its creation, None in records of
    older engines. After another boot none of its processes is left, and others may have their pids. `network_at_start`:
    None if its network is settled; else it is at its start, and this says why runsc could not use it, or is empty.
    `given`: the name, in runsc's own directory of the container, of the bundle that runsc is given; None in records of
    older engines, which gave it the caller's.
    """

    def __init__(
        self,
        id: str,  # noqa: A002
        bundle: str,
        creation: str,
        creator: tuple[int, int],
        created: str,
        oci_version: str,
        annotations: Mapping[str, str],
        trace: str | None = None,
        program: Program | None = None,
        flags: tuple[str, ...] = (),
        cgroups: tuple[str, ...] = (),
        sandbox: Sandbox | None = None,
        waiter: tuple[int, int] | None = None,
        attempt: Attempt | None = None,
        boot: str | None = None,
        network_at_start: str | None = None,
        given: str | None = None,
    ) -> None:
        self.id: Final = id
        self.bundle: Final = bundle
        self.creation: Final = creation
        self.creator: Final = creator
        self.created: Final = created
        self.oci_version: Final = oci_version
        self.annotations = annotations
        self.trace = trace
        self.program = program
        self.flags = flags
        self.cgroups = cgroups
        self.sandbox = sandbox
        self.waiter = waiter
        self.attempt = attempt
        self.boot: Final = boot
        self.network_at_start: Final = network_at_start
        self.given: Final = given

    @property
    def is_of_earlier_boot(self) -> bool:
        """Whether the machine was rebooted after its creation. Raises `OSError`."""
        return self.boot is not None and self.boot != boot_id()

    @property
    def state_file(self) -> str:
        """The name of runsc's file about it."""
        return f"{self.id}_sandbox:{self.sandbox.id if self.sandbox else self.id}.state"


_TEXTS = ("id", "bundle", "creation", "created", "oci_version")


def write(container: PrivateDirectory, record: Record) -> None:
    """Replace the record, all or nothing. Raises `OSError`."""
    data = (
        json.dumps({"format": FORMAT, **vars(record)}, default=vars, separators=(",", ":")).encode() + b"\n"
    )
    replace_own(container, OCI_RECORD, data)


def remove(container: PrivateDirectory) -> bool:
    """Remove the record; whether there was one. Raises `OSError`."""
    try:
        os.unlink(OCI_RECORD, dir_fd=container.descriptor)
    except FileNotFoundError:
        return False
    except IsADirectoryError:
        from engine.state.trees import remove_tree  # rarely needed

        remove_tree(container, OCI_RECORD)
    return True


def read(container: PrivateDirectory) -> Record | None:
    """The record in `container`; None if there is none. Raises `UntrustedPathError` and `OSError`."""
    path = os.path.join(container.path, OCI_RECORD)
    try:
        data = read_own(container, OCI_RECORD, MAX_SIZE)
    except FileNotFoundError:
        return None
    try:
        fields = json.loads(data)
        if fields.pop("format") != FORMAT:
            raise ValueError("of another format")
        if wrong := [name for name in _TEXTS if not isinstance(fields[name], str)]:
            raise ValueError(f"{wrong[0]} is no text")
        program = fields.pop("program")
        if sandbox := fields.pop("sandbox", None):
            fields["sandbox"] = Sandbox(**{**sandbox, "program": _program(sandbox["program"])})
        if attempt := fields.pop("attempt", None):
            fields["attempt"] = Attempt(str(attempt["verb"]), _numbers(attempt["who"]), str(attempt["file"]))
        fields["flags"], fields["cgroups"] = _texts(fields["flags"]), _texts(fields["cgroups"])
        for name in ("creator", "waiter"):
            if fields.get(name) is not None:
                fields[name] = _numbers(fields[name])
        return Record(**fields, program=program and _program(program))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UntrustedPathError(path, f"is no record of this engine ({error})") from None


def _texts(given: list[str]) -> tuple[str, ...]:
    """Raises `TypeError`."""
    return tuple("".join((each,)) for each in given)


def _numbers(given: list[int]) -> tuple[int, int]:
    """Raises `TypeError` and `ValueError`."""
    pid, start = given
    return int(pid), int(start)


def _program(fields: dict[str, Any]) -> Program:
    sidecars = tuple(
        Sidecar(str(each["name"]), int(each["device"]), int(each["inode"]))
        for each in fields.pop("sidecars", ())
    )
    return Program(**fields, sidecars=sidecars)
