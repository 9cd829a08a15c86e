"""A pod of Kubernetes, from containerd's own interface for it down to gVisor, with the example's configuration."""

from __future__ import annotations

import pytest

from tests.managers.arena import Arena, eventually
from tests.managers.kubelet import Kubelet

SERVE = "mkdir -p /www && echo served >/www/index.html && httpd -p 80 -h /www && echo up && trap 'exit 7' TERM; while :; do sleep 0.1; done"
FETCH = "for i in 1 2 3 4 5 6 7 8 9; do wget -qO- http://127.0.0.1/ && exit 3; sleep 0.3; done; exit 1"


def test_a_pod_of_two_containers_lives_and_is_removed(kubelet: Kubelet) -> None:
    pod = kubelet.run_pod("two")
    server = kubelet.create(pod, "server", SERVE)
    kubelet.start(server)
    eventually("log", lambda: "stdout: up" in kubelet.log("two", "server"))
    client = kubelet.create(pod, "client", FETCH)
    kubelet.start(client)
    assert kubelet.exit_code(client) == 3
    assert kubelet.log("two", "client") == ["stdout: served"]
    assert kubelet.exec(server, "sh", "-c", "dmesg | grep -c 'Starting gVisor'; echo err >&2; exit 4") == (
        4,
        "1\n",
        "err\n",
    )
    kubelet("StopContainer", container_id=server, timeout=20)
    assert kubelet.exit_code(server) == 7
