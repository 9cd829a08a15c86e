"""Runs a real kubelet on containerd with the engine as its runtime: probes, hooks, limits, restarts, 20 pods.

usage: python -m tests.kubernetes.kubelet [--runtime ours|runc]     (as root)

The pods are static: files in a directory that the kubelet watches, so that no API server is needed. Of it nothing is
left on the machine: it has the namespaces of a node, a cgroup of its own, and copies of the settings that it writes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.kubernetes import modules, pods
from tests.kubernetes.critest import what_is_left
from tests.kubernetes.node import ENDPOINT, ENTER, Node, open_node
from tests.kubernetes.pods import Expected, Json
from tests.managers.arena import eventually
from tests.managers.kubelet import HANDLER, Kubelet
from tools import SetupError, say

_KEPT = Path(__file__).resolve().parents[2] / "build" / "kubelet"
#: Seconds for what a group of pods must become, and for all of them to go.
_PATIENCE = 240.0
_READ_ONLY_PORT = 10255
#: What the kubelet sets for the whole machine.
_SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
_PREPARE = """
set -eu
mount -t tmpfs none /var/log
directory=$1; shift
for setting; do
    copy=$directory/$(echo "$setting" | tr / .)
    cat "/proc/sys/$setting" >"$copy"
    mount --bind "$copy" "/proc/sys/$setting"
done
"""
_ASK = "import sys, urllib.request as r; sys.stdout.write(r.urlopen(sys.argv[1], timeout=10).read().decode())"


class StaticPods:
    """One kubelet and the files of its pods."""

    def __init__(self, node: Node, program: Path) -> None:
        self.node = node
        self.directory = node.arena.directory / "kubelet"
        self.files = self.directory / "pods"
        self.files.mkdir(parents=True)
        self.shared = self.directory / "shared"
        self.shared.mkdir()
        arena = node.arena
        arena.run("sh", "-c", _PREPARE, "sh", self.directory, *_SETTINGS).ok()
        node.mounts = arena.mounts()
        settings = self.directory / "config.json"
        settings.write_text(json.dumps(self._configuration()))
        self.log = self.directory / "log"
        with self.log.open("w") as log:
            self.process = arena.start(
                *ENTER,
                program,
                f"--config={settings}",
                f"--root-dir={self.directory / 'root'}",
                f"--cert-dir={self.directory / 'certificates'}",
                "--hostname-override=node",
                stdout=log,
                stderr=log,
            )
        self.program = str(program)

    def _configuration(self) -> Json:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "address": "127.0.0.1",
            "readOnlyPort": _READ_ONLY_PORT,
            "containerRuntimeEndpoint": ENDPOINT,
            "staticPodPath": str(self.files),
            "fileCheckFrequency": "1s",
            "syncFrequency": "2s",
            "podLogsDir": str(self.directory / "logs"),
            "volumePluginDir": str(self.directory / "plugins"),
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": True,
            "enforceNodeAllocatable": ["pods"],
            "failCgroupV1": False,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "resolvConf": "",
            # The machine's own disk and memory are no business of these pods.
            "evictionHard": {
                "memory.available": "0%",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "maxPods": 110,
        }

    def statuses(self) -> Mapping[str, Json]:
        """What the kubelet says of each pod, by the name in its file."""
        asked = self.node.arena.run(sys.executable, "-c", _ASK, f"http://127.0.0.1:{_READ_ONLY_PORT}/pods")
        if asked.code != 0:
            return {}
        listed = json.loads(asked.stdout)["items"] or []
        return {item["metadata"]["name"].removesuffix("-node"): item["status"] for item in listed}

    def add(self, wanted: Mapping[str, Expected]) -> None:
        for name, expected in wanted.items():
            scratch = self.directory / f"{name}.json"
            scratch.write_text(json.dumps(expected.pod))
            scratch.rename(self.files / f"{name}.json")

    def missing(self, wanted: Mapping[str, Expected]) -> list[str]:
        """Those that have not become what they must, after some patience, with their status."""
        waits = dict(wanted)
        statuses: Mapping[str, Json] = {}
        end = time.monotonic() + _PATIENCE
        while waits and time.monotonic() < end:
            statuses = self.statuses()
            for name in [name for name in waits if name in statuses and waits[name].becomes(statuses[name])]:
                del waits[name]
            time.sleep(0.3)
        return [f"{name}: {_brief(statuses.get(name, {}))}" for name in waits]

    def remove(self, wanted: Mapping[str, Expected]) -> list[str]:
        """Take the files away; those pods of which the runtime still has a sandbox after some patience."""
        for name in wanted:
            (self.files / f"{name}.json").unlink()
        runtime = Kubelet(self.node.containerd)

        def there() -> list[str]:
            items = runtime("ListPodSandbox")["items"]
            return [
                item["metadata"]["name"]
                for item in items
                if item["metadata"]["name"].removesuffix("-node") in wanted
            ]

        with contextlib.suppress(TimeoutError):
            eventually("the pods are gone", lambda: not there(), _PATIENCE)
        return [f"not removed: {name}" for name in there()]

    def stop(self) -> None:
        (pid,) = [pid for pid, line in self.node.arena.processes().items() if line.startswith(self.program)]
        self.node.arena.run("kill", str(pid)).ok()
        self.process.wait(timeout=30)


def _brief(status: Json) -> str:
    parts = [
        f"{state['name']} restarted {state['restartCount']} times, {json.dumps(state['state'])}"
        for state in pods.states(status)
    ]
    return "; ".join([str(status.get("phase", "no status")), *parts])


@contextlib.contextmanager
def _kubelet(node: Node, program: Path) -> Iterator[StaticPods]:
    kubelet = StaticPods(node, program)
    try:
        eventually(
            "the kubelet answers",
            lambda: (
                kubelet.node.arena.run(
                    sys.executable, "-c", _ASK, f"http://127.0.0.1:{_READ_ONLY_PORT}/pods"
                ).code
                == 0
            ),
            60,
        )
        yield kubelet
        kubelet.stop()
    finally:
        _KEPT.mkdir(parents=True, exist_ok=True)
        shutil.copy(kubelet.log, _KEPT / "kubelet.log")
        shutil.copy(node.containerd.directory / "log", _KEPT / "containerd.log")


def _group(title: str, kubelet: StaticPods, wanted: Mapping[str, Expected]) -> list[str]:
    """Add these pods at once; what they have not become."""
    began = time.monotonic()
    kubelet.add(wanted)
    missing = kubelet.missing(wanted)
    print(
        f"{title}: {len(wanted) - len(missing)} of {len(wanted)} after {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return missing


def run(kubelet: StaticPods) -> list[str]:
    """Everything, a line for each thing that is not as it must be."""
    found = []
    for title, wanted in (("probes", pods.probes()), ("lives", pods.lives(str(kubelet.shared)))):
        found += _group(title, kubelet, wanted)
        found += kubelet.remove(wanted)
    found += [
        f"hook did not run: {name}"
        for name in ("post-start", "pre-stop")
        if not (kubelet.shared / name).exists()
    ]
    twenty = dict(pods.many(20))
    names = list(twenty)
    for begin in range(0, 20, 5):
        found += _group("five more", kubelet, {name: twenty[name] for name in names[begin : begin + 5]})
    found += kubelet.missing(twenty)
    found += kubelet.remove(twenty)
    with contextlib.suppress(TimeoutError):
        eventually(
            "the kubelet's directories go",
            lambda: not any((kubelet.directory / "root" / "pods").iterdir()),
            60,
        )
    found += [f"directory left: {path.name}" for path in (kubelet.directory / "root" / "pods").iterdir()]
    found += [
        f"cgroup left: {path}"
        for path in kubelet.node.arena.cgroups()
        if "pod" in path.name and path.name.removeprefix("kube") != "pods"
    ]
    return found


def main() -> int:
    """1 if anything is not as it must be."""
    parser = argparse.ArgumentParser(prog="./just kubelet", description="Run a kubelet's pods.")
    parser.add_argument("--runtime", choices=("ours", "runc"), default="ours")
    ours = parser.parse_args().runtime == "ours"
    if os.geteuid() != 0:
        say("kubelet: root only: it makes namespaces and cgroups")
        return 1
    began = time.monotonic()
    try:
        built = modules.build("kubelet") / "kubelet"
        with open_node(
            Path(sys.executable).parent / "engine-oci", default=HANDLER if ours else "runc"
        ) as node:
            with _kubelet(node, built) as kubelet:
                found = run(kubelet)
            node.mounts.add(str(kubelet.directory / "root"))  # the kubelet mounts it on itself
            if ours:
                found += what_is_left(node)
            print(f"{len(node.traces())} traces, {time.monotonic() - began:.0f} s")
    except (SetupError, RuntimeError, TimeoutError) as error:
        say(str(error))
        return 1
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
