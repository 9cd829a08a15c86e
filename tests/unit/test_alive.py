"""Which container is alive is told by the file that its sandbox executes: its sentry's where that is one of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine.linux.files import PrivateDirectory
from engine.linux.process import executing
from engine.runsc.installation import SENTRY
from engine.state import record
from engine.state.base import open_base
from engine.state.container import OCI_RECORD, RUNSC_ROOT, component, open_container
from engine.state.oci_lifecycle import Status
from engine.state.record import Program, Record, Sandbox, Sidecar
from engine.state.status import ContainerState, in_use_reason, inspect
from tests.support.objects import changed, values

PREWARMER = "gvisor-sentry-prewarmer"
#: A creator that has ended: no process started at that tick.
GONE = (1, 1)

Start = Callable[..., int]


@pytest.fixture
def base(private: Path) -> PrivateDirectory:
    return open_base(str(private / "base"))


@pytest.fixture
def files(private: Path) -> dict[str, Path]:
    """Three shells of our own, which pass for runsc and its sidecars."""
    shell = shutil.which("sh")
    assert shell is not None
    return {name: Path(shutil.copy(shell, private / name)) for name in ("runsc", SENTRY, PREWARMER)}


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as ends:

        def start(program: Path, *given: str) -> int:
            command = [str(program), "-c", "echo; read end", "name", *given]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            ends.enter_context(process)
            ends.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            return process.pid

        yield start


def program_of(files: dict[str, Path], *sidecars: str) -> Program:
    status = files["runsc"].stat()
    noted = tuple(
        Sidecar(name, found.st_dev, found.st_ino) for name in sidecars if (found := files[name].stat())
    )
    return Program(
        "runsc", "ab" * 32, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, noted
    )


def recorded(
    base: PrivateDirectory, program: Program, container_id: str = "c"
) -> tuple[PrivateDirectory, Record]:
    noted = Record(
        container_id,
        "/bundle",
        "1f",
        GONE,
        "2026-01-01T00:00:00Z",
        "1.0.2",
        {},
        program=program,
        flags=("--root",),
    )
    container, lock = open_container(base, component(container_id))
    assert lock is not None
    os.close(lock)
    record.write(container, noted)
    Path(container.path, RUNSC_ROOT).mkdir(mode=0o700)
    return container, noted


def told_by_runsc(container: PrivateDirectory, noted: Record, status: str, pid: int) -> None:
    path = Path(container.path, RUNSC_ROOT, noted.state_file)
    path.write_text(json.dumps({"status": status, "sandbox": {"pid": pid}}))


def seen(base: PrivateDirectory, container: PrivateDirectory) -> ContainerState:
    noted = record.read(container)
    assert noted is not None
    return inspect(base, container, noted)


def test_sandbox_of_a_set_executes_the_sentry(
    base: PrivateDirectory, files: dict[str, Path], start: Start
) -> None:
    container, noted = recorded(base, program_of(files, PREWARMER, SENTRY))
    root = os.path.join(container.path, RUNSC_ROOT)
    sandbox = start(files[SENTRY], f"--root={root}", "boot")
    told_by_runsc(container, noted, "running", sandbox)
    assert (seen(base, container).status, seen(base, container).pid) == (Status.RUNNING, sandbox)
    assert in_use_reason(base, container) == "exists"


def test_single_runsc_is_its_own_sandbox(
    base: PrivateDirectory, files: dict[str, Path], start: Start
) -> None:
    container, noted = recorded(base, program_of(files))
    sandbox = start(files["runsc"], "--root", os.path.join(container.path, RUNSC_ROOT), "boot")
    told_by_runsc(container, noted, "created", sandbox)
    assert (seen(base, container).status, seen(base, container).pid) == (Status.CREATED, sandbox)


@pytest.mark.parametrize("name", ["runsc", PREWARMER])
def test_pid_that_executes_another_member_is_no_sandbox(
    base: PrivateDirectory, files: dict[str, Path], start: Start, name: str
) -> None:
    """The number of a sandbox that ended may be that of a command about the same container by now."""
    container, noted = recorded(base, program_of(files, PREWARMER, SENTRY))
    told_by_runsc(
        container, noted, "running", start(files[name], os.path.join(container.path, RUNSC_ROOT), "wait")
    )
    assert seen(base, container).status is Status.STOPPED


def test_sentry_of_another_container_is_not_this_ones(
    base: PrivateDirectory, files: dict[str, Path], start: Start
) -> None:
    container, noted = recorded(base, program_of(files, SENTRY))
    told_by_runsc(container, noted, "running", start(files[SENTRY], "--root=/another/runsc-root", "boot"))
    assert seen(base, container).status is Status.STOPPED


@pytest.mark.parametrize("status", [None, "creating"])
@pytest.mark.parametrize(
    ("name", "part"), [("runsc", "gofer"), (SENTRY, "boot"), (SENTRY, "umount"), (PREWARMER, "boot")]
)
def test_any_part_of_a_cut_creation_that_lives_is_found(
    base: PrivateDirectory, files: dict[str, Path], start: Start, name: str, part: str, status: str | None
) -> None:
    container, noted = recorded(base, program_of(files, PREWARMER, SENTRY))
    root = os.path.join(container.path, RUNSC_ROOT)
    start(files["runsc"], f"--root={root}", "state")  # a command about it is no part of it
    if status is not None:
        told_by_runsc(container, noted, status, 0)
    assert seen(base, container).status is Status.DELETED
    pid = start(files[name], f"--root={root}", part)
    assert (seen(base, container).status, seen(base, container).processes) == (Status.CREATING, (pid,))
    assert in_use_reason(base, container) == "exists"


def test_member_of_a_pod_lives_by_the_sentry_of_its_sandbox(
    base: PrivateDirectory, files: dict[str, Path], start: Start, private: Path
) -> None:
    """Its own copies are other files where the store could not be had."""
    sandbox, of_sandbox = recorded(base, program_of(files, PREWARMER, SENTRY), "pod")
    own = {name: Path(shutil.copy(path, private / f"own-{name}")) for name, path in files.items()}
    member, of_member = recorded(base, program_of(own, PREWARMER, SENTRY), "member")
    assert of_sandbox.program is not None
    of_member = changed(of_member, sandbox=Sandbox("pod", of_sandbox.creation, of_sandbox.program))
    record.write(member, of_member)
    root = os.path.join(sandbox.path, RUNSC_ROOT)
    pid = start(files[SENTRY], f"--root={root}", "boot")
    told_by_runsc(sandbox, of_member, "running", pid)
    assert (seen(base, member).status, seen(base, member).pid) == (Status.RUNNING, pid)


def test_record_with_sidecars_is_read_as_it_was_written(
    base: PrivateDirectory, files: dict[str, Path]
) -> None:
    program = program_of(files, PREWARMER, SENTRY)
    container, noted = recorded(base, program)
    noted = changed(noted, sandbox=Sandbox("pod", "2f", program))
    record.write(container, noted)
    assert values(record.read(container)) == values(noted)
    assert program.sandbox_file == (program.sidecars[1].device, program.sidecars[1].inode)
    assert len(program.files) == 3


def test_record_of_an_older_engine_is_of_one_file(base: PrivateDirectory, files: dict[str, Path]) -> None:
    container, noted = recorded(base, program_of(files))
    path = Path(container.path, OCI_RECORD)
    fields = json.loads(path.read_text())
    del fields["program"]["sidecars"]
    path.write_text(json.dumps(fields))
    assert values(record.read(container)) == values(noted)
    program = program_of(files)
    assert program.sandbox_file == (program.device, program.inode)
    assert program.files == {program.sandbox_file}


def test_executing_finds_whoever_executes_any_of_the_files(files: dict[str, Path], start: Start) -> None:
    pids = [start(files[name], "/a") for name in (SENTRY, "runsc")]
    start(files[PREWARMER], "/a")
    chosen = {(status.st_dev, status.st_ino) for status in (files[SENTRY].stat(), files["runsc"].stat())}
    assert sorted(executing(chosen, ("/a",))) == sorted(pids)
