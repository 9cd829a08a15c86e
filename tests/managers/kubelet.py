"""What the kubelet asks of containerd: pods by the Container Runtime Interface, with the handler of a RuntimeClass."""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.managers.arena import Done, eventually
from tests.managers.containerd import SOCKET, Containerd
from tests.managers.image import NAME

#: The handler that runtimeclass.yaml names.
HANDLER = "gvisor-engine"

#: Where containerd keeps what is Kubernetes'.
NAMESPACE = "k8s.io"

_CALL = Path(__file__).with_name("cri_call.py")

Json = dict[str, Any]


@dataclass
class Pod:
    """A pod sandbox: its id, and what was asked for it, which each of its containers is created with."""

    id: str
    config: Json


@dataclass
class Kubelet:
    """A client of one containerd. Ids are containerd's; a container's name is unique in its pod."""

    containerd: Containerd

    def ask(self, method: str, **request: Any) -> Done:
        """One call, to its end; fields are named as in the API's protocol."""
        return self.containerd.arena.run(sys.executable, _CALL, SOCKET, method, json.dumps(request))

    def __call__(self, method: str, **request: Any) -> Json:
        answer = json.loads(self.ask(method, **request).ok())
        assert isinstance(answer, dict)
        return answer

    def is_ready(self) -> bool:
        """Whether containerd says that it can run pods, and has found its network."""
        conditions = self("Status")["status"]["conditions"]
        return all(condition["status"] for condition in conditions)

    def run_pod(self, name: str) -> Pod:
        arena = self.containerd.arena
        config: Json = {
            "metadata": {"name": name, "uid": f"uid-of-{name}", "namespace": "default"},
            "hostname": name,
            "log_directory": str(self.logs(name)),
            "linux": {"cgroup_parent": f"/{arena.name}"},
        }
        pod = self("RunPodSandbox", config=config, runtime_handler=HANDLER)["podSandboxId"]
        return Pod(pod, config)

    def create(self, pod: Pod, name: str, script: str) -> str:
        config = {
            "metadata": {"name": name},
            "image": {"image": NAME},
            "command": ["/bin/sh", "-c", script],
            "log_path": f"{name}.log",
            "linux": {},
        }
        asked = {"pod_sandbox_id": pod.id, "config": config, "sandbox_config": pod.config}
        return str(self("CreateContainer", **asked)["containerId"])

    def start(self, container: str) -> None:
        self("StartContainer", container_id=container)

    def exec(self, container: str, *command: str) -> tuple[int, str, str]:
        """The exit code, stdout and stderr of a command beside the container's first process."""
        done = self("ExecSync", container_id=container, cmd=command, timeout=30)
        return done["exitCode"], *(base64.b64decode(done[stream]).decode() for stream in ("stdout", "stderr"))

    def status(self, container: str) -> Json:
        status = self("ContainerStatus", container_id=container)["status"]
        assert isinstance(status, dict)
        return status

    def exit_code(self, container: str) -> int:
        """That of a container which ends by itself."""
        eventually(
            f"{container} ends", lambda: self.status(container)["state"] == "CONTAINER_EXITED", patience=30
        )
        return int(self.status(container)["exitCode"])

    def remove_pod(self, pod: str) -> None:
        """As the kubelet does: stop, then remove."""
        self("StopPodSandbox", pod_sandbox_id=pod)
        self("RemovePodSandbox", pod_sandbox_id=pod)

    def logs(self, pod: str) -> Path:
        return self.containerd.directory / "logs" / pod

    def log(self, pod: str, name: str) -> list[str]:
        """The lines of a container, each with its stream, without the times and tags of the log's format."""
        lines = (self.logs(pod) / f"{name}.log").read_text().splitlines()
        return [f"{stream}: {text}" for line in lines for _, stream, _, text in [line.split(" ", 3)]]
