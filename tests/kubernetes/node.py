"""A node in namespaces of its own: containerd with its Kubernetes interface, and the images on the loopback."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.kubernetes import images, registry
from tests.managers.arena import Arena, eventually, open_arena
from tests.managers.containerd import SOCKET, Containerd
from tests.managers.kubelet import NAMESPACE, Kubelet

#: What the example's `Root` becomes for containers of Kubernetes, what is staged for them, and their traces.
STATE = f"/run/containerd/gvisor-engine/{NAMESPACE}"
_PROGRAMS = "/var/lib/gvisor-engine/programs"
_TRACES = "/var/lib/gvisor-engine/traces"

#: Whatever registry an image names, it is asked for here.
_MIRROR = f"""[host."http://127.0.0.1:{registry.PORT}"]
  capabilities = ["pull", "resolve"]
"""
#: Makes a cgroup of the arena's name in each hierarchy of cgroups v1, and mounts these as their own root. So what pods
#: make lies beneath, and they share the processor as a node's do: without the weight that a kubelet gives them, a pod
#: that asks for nothing gets next to nothing on a machine that does something else, too.
_OWN_CGROUPS = """
for hierarchy in /sys/fs/cgroup/*/; do
    [ -e "$hierarchy/tasks" ] || continue
    [ ! -e "$hierarchy/cpuset.cpus" ] || echo 1 >"$hierarchy/cgroup.clone_children"
    mkdir -p "$hierarchy/$1"
    [ ! -e "$hierarchy/cpu.shares" ] || echo $(($(nproc) * 1024)) >"$hierarchy/$1/cpu.shares"
    echo $$ >"$hierarchy/$1/cgroup.procs"
done
exec unshare --cgroup sh -euc '
grep " - cgroup " /proc/self/mountinfo | while read -r _ _ _ _ point rest; do
    umount "$point"  # the same file system cannot be mounted on itself
    mount -t cgroup -o "${rest##* rw,}" none "$point"
done'
"""
_JOIN = """
for hierarchy in /sys/fs/cgroup/*/; do [ ! -e "$hierarchy/tasks" ] || echo $$ >"$hierarchy/cgroup.procs"; done
exec unshare --cgroup "$@"
"""
#: Before a command: it runs in those cgroups, and sees them as the roots.
ENTER = ("sh", "-euc", _JOIN, "sh")
_REGISTRY = """
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{certs}"
"""
#: containerd 2 has its own idea of how images are unpacked.
_UNPACK = """
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux"
snapshotter = "native"
"""


@dataclass
class Node:
    """What a kubelet needs: the interface of one containerd, and what is on the machine before it is used."""

    containerd: Containerd
    mounts: set[str]

    @property
    def arena(self) -> Arena:
        return self.containerd.arena

    def left(self) -> list[str]:
        """What is here of containers: processes, mounts and the engine's directories, beside the evidence."""
        own = ("containerd --config", f"{sys.executable} {registry.__file__}")
        processes = [line for line in self.arena.processes().values() if not line.startswith(own)]
        states = [
            f"{where}/{path.name}"
            for where in (STATE, _PROGRAMS)
            for path in self._inside(where).glob("*")
            if path.name not in {"locks", "traces"}
        ]
        # critest leaves the mounts of its own that it cannot propagate.
        tests = f"{self.arena.directory}/test"
        mounts = [where for where in self.arena.mounts() - self.mounts if not where.startswith(tests)]
        return [*processes, *sorted(mounts), *states]

    def traces(self) -> list[str]:
        return [f"{_TRACES}/{path.name}" for path in sorted(self._inside(_TRACES).glob("*.jsonl"))]

    def _inside(self, path: str) -> Path:
        return Path(f"/proc/{self.arena.init}/root{path}")


@contextlib.contextmanager
def open_node(runtime: Path, programs: Path | None = None, default: str = "runc") -> Iterator[Node]:
    """Make one; `programs` has another containerd than Debian's, `default` is the runtime of pods that name none.

    Raises `RuntimeError` and `SetupError`.
    """
    with tempfile.TemporaryDirectory(prefix="ge-kubernetes-") as made:
        directory = Path(made)
        images.write(directory / "images")
        (directory / "certs" / "_default").mkdir(parents=True)
        (directory / "certs" / "_default" / "hosts.toml").write_text(_MIRROR)
        arena = open_arena(directory)
        try:
            if programs:
                arena.environment = {**arena.environment, "PATH": f"{programs}:{arena.environment['PATH']}"}
            tables = _REGISTRY.format(certs=directory / "certs") + (_UNPACK if programs else "")
            containerd = Containerd(
                arena, runtime, directory / "containerd", None, images.PAUSE, default, tables, ENTER
            )
            arena.run("sh", "-euc", _OWN_CGROUPS, "sh", arena.name).ok()
            served = arena.start(sys.executable, registry.__file__, str(registry.PORT), directory / "images")
            containerd.serve()
            eventually("the network is ready", Kubelet(containerd).is_ready)
            node = Node(containerd, arena.mounts())
            yield node
            containerd.stop()
            served.kill()
            served.wait()
        finally:
            arena.close()


ENDPOINT = f"unix://{SOCKET}"
