"""The OCI runtime as a manager calls it, one command a process, and what must be true whatever was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.verify.trace_check import verify
from tests.support.harness import Engine, Finished, cgroups_of, executable, processes_about, wait_for
from tests.support.refusals import one_line

#: Run in the place of `python -m engine.oci`: it kills its process when that is about to change something for the
#: nth time: a file or directory, or which processes there are. `sys.addaudithook` is told of each.
KILLED_AT = """
import os, signal, sys
left = int(sys.argv.pop(1))
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.fork", "os.exec", "subprocess.Popen", "shutil.rmtree"}
def hook(event, arguments):
    global left
    if event in CHANGES or event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
from engine.oci.cli import main
raise SystemExit(main())
"""


@dataclass
class Oci:
    """An OCI runtime with a root of its own."""

    engine: Engine
    common: tuple[str, ...] = ()

    def command(self, *arguments: str | Path, killed_at: int | None = None) -> list[str]:
        program = ["-m", "engine.oci"] if killed_at is None else ["-B", "-c", KILLED_AT, str(killed_at)]
        return [
            self.engine.caller.python,
            "-P",
            *program,
            f"--root={self.engine.base}",
            *self.common,
            *map(str, arguments),
        ]

    def start(
        self, *arguments: str | Path, killed_at: int | None = None, **more: Any
    ) -> subprocess.Popen[bytes]:
        return self.engine.start(self.command(*arguments, killed_at=killed_at), **more)

    def __call__(self, *arguments: str | Path, killed_at: int | None = None, **more: Any) -> Finished:
        """A command to its end. What runs on in the container keeps none of our pipes."""
        with (
            (self.engine.directory / "stdout").open("w+b") as out,
            (self.engine.directory / "stderr").open("w+b") as err,
        ):
            process = self.start(*arguments, killed_at=killed_at, stdout=out, stderr=err, **more)
            process.wait(timeout=60)
            out.seek(0)
            err.seek(0)
            finished = Finished(process.returncode, out.read(), err.read().decode(errors="backslashreplace"))
        assert "Traceback" not in finished.stderr, finished
        return finished

    def refused(self, code: int, reason: str, *arguments: str | Path, facts: Iterable[object] = ()) -> None:
        """A command that must be refused, with this exit code and reason, in one line that names the `facts`."""
        log = self.engine.directory / "refused.json"
        log.unlink(missing_ok=True)
        finished = Oci(self.engine, (*self.common, f"--log={log}", "--log-format=json"))(*arguments)
        assert finished.code == code, finished
        one_line(finished.stderr)
        line = json.loads(one_line(log.read_text()))
        assert line["reason"] == reason, line
        for fact in facts:
            assert str(fact) in line["msg"], line
        log.unlink()

    def ok(self, *arguments: str | Path, **more: Any) -> str:
        """A command that must succeed: what it printed."""
        finished = self(*arguments, **more)
        assert finished.code == 0, finished
        return finished.stdout.decode()

    def create(self, bundle: Path, container_id: str | None = None) -> str:
        """A created container: its id."""
        container_id = container_id or self.engine.new_id()
        self.ok("create", "--bundle", bundle, container_id)
        return container_id

    def running(self, bundle: Path) -> str:
        """A running container: its id."""
        container_id = self.create(bundle)
        self.ok("start", container_id)
        return container_id

    def state(self, container_id: str) -> dict[str, Any] | None:
        """What `state` says; None where there is no such container. It is held against what processes there are."""
        finished = self("state", container_id)
        if finished.code != 0:
            assert f"container {container_id!r} does not exist" in finished.stderr, finished
            return None
        state: dict[str, Any] = json.loads(finished.stdout)
        if state["status"] in ("created", "running", "paused"):
            # The path lacks the base where that is a mount of its own, which a sandbox of 2026 does not keep.
            assert f"/{self.engine.container(container_id).name}/" in (executable(state["pid"]) or ""), state
        else:
            assert state["pid"] == 0, state
        return state

    def status(self, container_id: str) -> str | None:
        state = self.state(container_id)
        return None if state is None else str(state["status"])

    def wait_for(self, container_id: str, status: str) -> None:
        wait_for(f"{container_id} is {status}", lambda: self.status(container_id) == status)

    def left(self, container_id: str) -> list[str]:
        """What there is of a container besides its traces."""
        found = (
            [str(self.engine.container(container_id))] if self.engine.container(container_id).exists() else []
        )
        return [
            *found,
            *processes_about(self.engine.container(container_id)).values(),
            *map(str, cgroups_of(container_id)),
        ]

    def traces(self, container_id: str) -> list[Path]:
        return sorted((self.engine.base / "traces").glob(f"{container_id}-*.jsonl"))

    def is_gone_after_delete(self, container_id: str) -> None:
        """The next command takes away all of it, whatever was killed before; its traces are whole as far as they go."""
        self.state(container_id)
        self.ok("delete", "--force", container_id)
        wait_for(
            "an end of what was killed", lambda: not processes_about(self.engine.container(container_id))
        )
        assert self.left(container_id) == []
        for result in verify([str(path) for path in self.traces(container_id)]):
            assert result.verdict.is_good, result


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
