"""A pod of Kubernetes, from containerd's own interface for it down to gVisor, with the example's configuration."""

from __future__ import annotations

import time

from tests.managers.arena import Arena, eventually
from tests.managers.conftest import verify_traces
from tests.managers.kubelet import NAMESPACE, Kubelet

#: Serves a page until it is told to stop, then ends with 7.
SERVE = """
trap 'exit 7' TERM
mkdir -p /www && echo served >/www/index.html && httpd -p 80 -h /www && echo up
while :; do sleep 0.1; done
"""
FETCH = "for i in 1 2 3 4 5 6 7 8 9; do wget -qO- http://127.0.0.1/ && exit 3; sleep 0.3; done; exit 1"

#: The example's `Root`, in which runc's shim makes one for each namespace.
TRACES = "/var/lib/gvisor-engine/traces"


def test_two_containers_of_a_pod_share_its_sandbox(kubelet: Kubelet, arena: Arena, is_ours: bool) -> None:
    pod = kubelet.run_pod("two")
    server = kubelet.create(pod, "server", SERVE)
    kubelet.start(server)
    eventually("the server is up", lambda: "stdout: up" in kubelet.log("two", "server"))
    client = kubelet.create(pod, "client", FETCH)
    kubelet.start(client)
    assert kubelet.exit_code(client) == 3
    assert kubelet.log("two", "client") == ["stdout: served"]
    said = kubelet.exec(server, "sh", "-c", "dmesg | grep -c 'Starting gVisor'; echo err >&2; exit 4")
    assert said == (4, "1\n", "err\n")
    assert kubelet.status(server)["state"] == "CONTAINER_RUNNING"

    kubelet("StopContainer", container_id=server, timeout=20)
    assert kubelet.exit_code(server) == 7
    kubelet("StopPodSandbox", pod_sandbox_id=pod.id)
    asked = kubelet("PodSandboxStatus", pod_sandbox_id=pod.id)
    assert asked["status"]["state"] == "SANDBOX_NOTREADY"
    kubelet("RemovePodSandbox", pod_sandbox_id=pod.id)
    assert kubelet("ListPodSandbox")["items"] == []
    assert kubelet("ListContainers")["containers"] == []
    if is_ours:
        verify_traces(arena, TRACES, pod.id, server, client)


def test_exec_that_times_out_ends_inside(kubelet: Kubelet) -> None:
    """As a probe with a timeout: its caller is answered, and nothing of it stays."""
    pod = kubelet.run_pod("probed")
    container = kubelet.create(pod, "probed", "exec sleep 2000")
    kubelet.start(container)
    begin = time.monotonic()
    timed_out = kubelet.ask("ExecSync", container_id=container, cmd=["sleep", "1000"], timeout=1)
    assert timed_out.code != 0
    assert "timeout" in timed_out.stderr
    assert time.monotonic() - begin < 15
    eventually(
        "it has ended inside", lambda: "sleep 1000" not in kubelet.exec(container, "ps", "-o", "args")[1]
    )
    kubelet.remove_pod(pod.id)


def test_pod_is_removed_whose_sandbox_ended_before_its_container_started(kubelet: Kubelet) -> None:
    pod = kubelet.run_pod("short")
    container = kubelet.create(pod, "late", "exec sleep 2000")
    sandbox = kubelet.containerd.arena
    (pause,) = [
        task
        for task in kubelet.containerd("--namespace", NAMESPACE, "tasks", "ls").ok().splitlines()
        if task.startswith(pod.id)
    ]
    sandbox.run("kill", "-KILL", pause.split()[1]).ok()
    eventually(
        "the container cannot be started", lambda: kubelet.ask("StartContainer", container_id=container).code
    )
    kubelet.remove_pod(pod.id)
    assert kubelet("ListPodSandbox")["items"] == []


def test_what_a_container_started_ends_with_it(kubelet: Kubelet) -> None:
    """The containers of this pod share their processes, so that the first one's end does not end the rest."""
    pod = kubelet.run_pod("left")
    watcher = kubelet.create(pod, "watcher", "exec sleep 2000")
    parent = kubelet.create(pod, "parent", "sleep 3000 & exec sleep 3001")
    for container in (watcher, parent):
        kubelet.start(container)

    def is_there() -> bool:
        return "sleep 3000" in kubelet.exec(watcher, "ps", "-o", "args")[1]

    eventually("the process is there", is_there)
    kubelet("StopContainer", container_id=parent, timeout=1)
    eventually("the process has ended", lambda: not is_there())
    assert kubelet.status(watcher)["state"] == "CONTAINER_RUNNING"
    kubelet.remove_pod(pod.id)
