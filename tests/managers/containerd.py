"""containerd and its client `ctr`, told which runtime to use and to keep everything in one directory."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.managers.arena import Arena, Done, eventually
from tests.managers.image import NAME, PAUSE

SOCKET = "/run/containerd.sock"

#: What a node's administrator is told to put into containerd's configuration.
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "kubernetes" / "containerd-config.toml"

#: Before the example, whose `version` is among these: keys of no table.
_SERVICE = """
root = "{directory}/root"
state = "/run/containerd"
disabled_plugins = [
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
]
"""

#: After it: what a node has by default, here without other file systems, and an image that need not be fetched.
_TABLES = """
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
default_runtime_name = "{default}"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{directory}/networks"
"""

#: What a node's network plugin makes for each pod: a pair of devices, one inside.
_NETWORK = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {"type": "ptp", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.7.0/24"}]]}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


@dataclass
class Containerd:
    """One containerd, its socket in the arena."""

    arena: Arena
    runtime: Path
    directory: Path
    process: subprocess.Popen[str] | None = None
    pause: str = PAUSE
    #: The runtime of pods that name none.
    default: str = "runc"
    #: Tables that follow the others.
    tables: str = ""
    #: What starts the service.
    enter: Sequence[str] = ()

    def serve(self) -> None:
        self.directory.mkdir()
        (self.directory / "networks").mkdir()
        (self.directory / "networks" / "pods.conflist").write_text(json.dumps(_NETWORK))
        example = EXAMPLE.read_text()
        installed = "/opt/gvisor-engine/bin/engine-oci"
        assert installed in example
        said = {
            "directory": self.directory,
            "socket": SOCKET,
            "pause": self.pause,
            "default": self.default,
        }
        example = example.replace(installed, str(self.runtime))
        (self.directory / "config.toml").write_text(
            _SERVICE.format(**said) + example + _TABLES.format(**said) + self.tables
        )
        self.resume()

    def resume(self) -> None:
        """Start the service on what it had."""
        with (self.directory / "log").open("a") as stderr:
            command: list[str | Path] = [
                *self.enter,
                "containerd",
                "--config",
                self.directory / "config.toml",
            ]
            self.process = self.arena.start(*command, stderr=stderr)
        eventually("containerd answers", lambda: self("version").code == 0)

    def stop(self) -> None:
        assert self.process is not None
        (pid,) = [
            pid for pid, line in self.arena.processes().items() if line.startswith("containerd --config")
        ]
        self.arena.run("kill", str(pid))
        self.process.wait(timeout=30)

    def command(self, *arguments: str | Path) -> list[str]:
        options = [f"--address={SOCKET}", f"--namespace={self.arena.name}"]
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
