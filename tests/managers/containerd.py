"""containerd and its client `ctr`, told which runtime to use and to keep everything in one directory."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.managers.arena import Arena, Done, eventually
from tests.managers.image import NAME

#: Version 2 of containerd's configuration. What needs other file systems, or Kubernetes, is left out.
_CONFIG = """
version = 2
root = "{directory}/root"
state = "/run/containerd"
disabled_plugins = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "/run/containerd.sock"
"""


@dataclass
class Containerd:
    """One containerd, its socket in the arena."""

    arena: Arena
    runtime: Path
    directory: Path
    process: subprocess.Popen[str] | None = None

    def serve(self) -> None:
        self.directory.mkdir()
        config = self.directory / "config.toml"
        config.write_text(_CONFIG.format(directory=self.directory))
        self.resume()

    def resume(self) -> None:
        """Start the service on what it had."""
        with (self.directory / "log").open("a") as stderr:
            self.process = self.arena.start(
                "containerd", "--config", self.directory / "config.toml", stderr=stderr
            )
        eventually("containerd answers", lambda: self("version").code == 0)

    def stop(self) -> None:
        assert self.process is not None
        (pid,) = [
            pid for pid, line in self.arena.processes().items() if line.startswith("containerd --config")
        ]
        self.arena.run("kill", str(pid))
        self.process.wait(timeout=30)

    def command(self, *arguments: str | Path) -> list[str]:
        options = ["--address=/run/containerd.sock", f"--namespace={self.arena.name}"]
        return ["ctr", *options, *map(str, arguments)]

    def __call__(self, *arguments: str | Path, given: str | None = None) -> Done:
        return self.arena.run(*self.command(*arguments), given=given)

    def start(self, *arguments: str | Path, **streams: Any) -> subprocess.Popen[str]:
        return self.arena.start(*self.command(*arguments), **streams)

    def run_command(self, container: str, *command: str, options: Sequence[str] = ()) -> list[str | Path]:
        runtime = [f"--runc-binary={self.runtime}", "--runc-root=/run/runtime-root"]
        return ["run", *runtime, "--snapshotter=native", *options, NAME, container, *command]

    def run(
        self, container: str, *command: str, options: Sequence[str] = (), given: str | None = None
    ) -> Done:
        return self(*self.run_command(container, *command, options=options), given=given)

    def detached(self, container: str, *command: str, options: Sequence[str] = ()) -> None:
        self.run(container, *command, options=["--detach", *options]).ok()
        eventually(f"{container} runs", lambda: self.tasks().get(container) == "RUNNING")

    def tasks(self) -> dict[str, str]:
        """The state of each task by its container, as `ctr tasks ls` has it."""
        lines = self("tasks", "ls").ok().splitlines()[1:]
        return {fields[0]: fields[2] for line in lines if (fields := line.split())}

    def delete(self, container: str) -> int:
        """Delete the task of a container that has ended, and give its exit code: `ctr` warns of any but 0."""
        done = self("tasks", "delete", container)
        done.ok()
        found = re.search(r"exit with non-zero exit code (\d+)", done.stderr)
        return int(found[1]) if found else 0

    def remove(self, container: str) -> None:
        """Remove a container and its task, whatever state that is in."""
        if container in self.tasks():
            self("tasks", "kill", "--signal=SIGKILL", container)
            eventually(f"{container} is removed", lambda: self("tasks", "rm", "--force", container).code == 0)
        if container in self("containers", "ls", "--quiet").ok().split():
            self("containers", "rm", container).ok()

    def wait_for(self, container: str, status: str | None) -> None:
        eventually(f"{container} is {status}", lambda: self.tasks().get(container) == status)
