"""podman as its users call it, told which runtime to use and to keep everything in one directory."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.managers.arena import Arena, Done, eventually
from tests.managers.image import NAME


@dataclass
class Podman:
    """One podman: a store, networks, events and a runtime."""

    arena: Arena
    runtime: Path
    directory: Path

    def command(self, *arguments: str | Path) -> list[str]:
        kept = self.directory
        options = [
            f"--root={kept}/root",
            f"--runroot={kept}/run",
            f"--tmpdir={kept}/tmp",
            f"--network-config-dir={kept}/networks",
            "--storage-driver=vfs",
            "--cgroup-manager=cgroupfs",
            "--events-backend=file",
            f"--runtime={self.runtime}",
        ]
        return ["podman", *options, *map(str, arguments)]

    def __call__(self, *arguments: str | Path, given: str | None = None) -> Done:
        return self.arena.run(*self.command(*arguments), given=given)

    def start(self, *arguments: str | Path, **streams: Any) -> subprocess.Popen[str]:
        return self.arena.start(*self.command(*arguments), **streams)

    def of_container(self, *options: str | Path) -> list[str | Path]:
        """What every container here is given: a cgroup named after the arena, limits that need no privilege."""
        return [
            f"--cgroup-parent=/{self.arena.name}",
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=1024:1024",
            *options,
        ]

    def run(self, *command: str, options: Sequence[str | Path] = (), given: str | None = None) -> Done:
        """`podman run`, without a network unless `options` say otherwise."""
        network = (
            ()
            if any(str(option).startswith(("--network", "--pod")) for option in options)
            else ("--network=none",)
        )
        return self("run", *self.of_container(*network, *options), NAME, *command, given=given)

    def detached(self, *command: str, options: Sequence[str | Path] = ()) -> str:
        """A container that runs by now: its id."""
        return self.run(*command, options=["--detach", *options]).ok().strip()

    def shell(self, script: str, *options: str | Path) -> str:
        """A container in which a shell runs `script`, by now: its id."""
        return self.detached("/bin/sh", "-c", script, options=options)

    def inspect(self, thing: str) -> dict[str, Any]:
        (found,) = json.loads(self("inspect", thing).ok())
        assert isinstance(found, dict)
        return found

    def status(self, container: str) -> str:
        status: str = self.inspect(container)["State"]["Status"]
        return status

    def wait_for(self, container: str, status: str) -> None:
        eventually(f"{container} is {status}", lambda: self.status(container) == status)

    def wait_for_log(self, container: str, line: str) -> None:
        eventually(f"{container} says {line}", lambda: line in self("logs", container).ok())
