"""The pods that a kubelet is given, and what must become of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.kubernetes.images import TOOLS

Json = dict[str, Any]

_WAIT = "trap 'exit 0' TERM; while :; do sleep 0.2; done"
#: Serves for `{0}` seconds from the start of the container, or for ever.
_SERVE = "httpd -p 8080 -h /www; sleep {0}; kill $(pgrep httpd); " + _WAIT
_GET = {"httpGet": {"path": "/index.html", "port": 8080}}
_CONNECT = {"tcpSocket": {"port": 8080}}
_QUICK = {"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 1}


@dataclass(frozen=True)
class Expected:
    """A pod, and what its status as the kubelet gives it must say in the end."""

    pod: Json
    becomes: Callable[[Json], bool]


def container(name: str, script: str, **fields: Any) -> Json:
    return {
        "name": name,
        "image": TOOLS,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", script],
        **fields,
    }


def pod(name: str, *containers: Json, **fields: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": {"terminationGracePeriodSeconds": 5, "containers": list(containers), **fields},
    }


def states(status: Json) -> Sequence[Json]:
    found = status.get("containerStatuses", [])
    assert isinstance(found, list)
    return found


def is_ready(status: Json) -> bool:
    return bool(states(status)) and all(state["ready"] for state in states(status))


def _restarted(times: int) -> Callable[[Json], bool]:
    return lambda status: any(state["restartCount"] >= times for state in states(status))


def _ended(*codes: int, phase: str) -> Callable[[Json], bool]:
    def becomes(status: Json) -> bool:
        ended = [state["state"].get("terminated", {}).get("exitCode") for state in states(status)]
        return status.get("phase") == phase and ended == list(codes)

    return becomes


def _started_once(status: Json) -> bool:
    return is_ready(status) and all(state["restartCount"] == 0 for state in states(status))


def probes() -> Mapping[str, Expected]:
    """Each kind of probe for each purpose, once failing (liveness) and once passing after a while (the others)."""
    late = "sleep 3; touch /tmp/up; httpd -p 8080 -h /www; " + _WAIT
    look = {"exec": {"command": ["test", "-e", "/tmp/up"]}}
    patient = {"periodSeconds": 1, "failureThreshold": 30}
    return {
        # A command that never ends: its probe has a limit of a second.
        "live-exec": Expected(
            pod(
                "live-exec",
                container("c", _WAIT, livenessProbe={"exec": {"command": ["sleep", "1000"]}, **_QUICK}),
            ),
            _restarted(2),
        ),
        "live-http": Expected(
            pod(
                "live-http",
                container("c", _SERVE.format(5), livenessProbe={**_GET, **_QUICK, "initialDelaySeconds": 3}),
            ),
            _restarted(1),
        ),
        "live-tcp": Expected(
            pod(
                "live-tcp",
                container(
                    "c", _SERVE.format(5), livenessProbe={**_CONNECT, **_QUICK, "initialDelaySeconds": 3}
                ),
            ),
            _restarted(1),
        ),
        **{
            f"{purpose}-{kind}": Expected(
                pod(f"{purpose}-{kind}", container("c", late, **{f"{field}Probe": {**how, **patient}})),
                _started_once,
            )
            for purpose, field in (("ready", "readiness"), ("begun", "startup"))
            for kind, how in (("exec", look), ("http", _GET), ("tcp", _CONNECT))
        },
    }


def lives(shared: str) -> Mapping[str, Expected]:
    """Hooks, init containers, a sidecar, limits and restart policies; `shared` is a directory of the node."""
    volume = [{"name": "node", "hostPath": {"path": shared, "type": "Directory"}}]
    mounted = [{"name": "node", "mountPath": "/node"}]
    hooks = {
        "postStart": {"exec": {"command": ["touch", "/node/post-start"]}},
        "preStop": {"exec": {"command": ["touch", "/node/pre-stop"]}},
    }
    sidecar = container(
        "side",
        "httpd -f -p 8080 -h /www",
        restartPolicy="Always",
        startupProbe={
            "httpGet": {"path": "/index.html", "port": 8080},
            "periodSeconds": 1,
            "failureThreshold": 30,
        },
    )
    limits = {"limits": {"memory": "96Mi", "cpu": "500m"}, "requests": {"memory": "16Mi", "cpu": "10m"}}
    return {
        "hooks": Expected(
            pod("hooks", container("c", _WAIT, lifecycle=hooks, volumeMounts=mounted), volumes=volume),
            _started_once,
        ),
        "sidecar": Expected(
            pod(
                "sidecar",
                container(
                    "c",
                    "test -e /work/made && wget -qO- http://127.0.0.1:8080/",
                    volumeMounts=[{"name": "w", "mountPath": "/work"}],
                ),
                initContainers=[
                    container(
                        "first", "touch /work/made", volumeMounts=[{"name": "w", "mountPath": "/work"}]
                    ),
                    sidecar,
                ],
                volumes=[{"name": "w", "emptyDir": {}}],
                restartPolicy="Never",
            ),
            _ended(0, phase="Succeeded"),
        ),
        "two": Expected(
            pod(
                "two",
                container("server", "httpd -f -p 8080 -h /www"),
                container(
                    "client",
                    f"until wget -qO- http://127.0.0.1:8080/; do sleep 0.2; done; touch /tmp/up; {_WAIT}",
                    readinessProbe={
                        "exec": {"command": ["test", "-e", "/tmp/up"]},
                        "periodSeconds": 1,
                        "failureThreshold": 30,
                    },
                ),
            ),
            _started_once,
        ),
        "limited": Expected(pod("limited", container("c", _WAIT, resources=limits)), _started_once),
        "too-much": Expected(
            pod(
                "too-much",
                container("c", "x=$(head -c 400000000 /dev/zero | tr '\\0' x); echo never", resources=limits),
                restartPolicy="Never",
            ),
            _ended(137, phase="Failed"),
        ),
        "never": Expected(
            pod("never", container("c", "exit 3"), restartPolicy="Never"), _ended(3, phase="Failed")
        ),
        "on-failure": Expected(
            pod("on-failure", container("c", "exit 3"), restartPolicy="OnFailure"), _restarted(1)
        ),
        "succeeded": Expected(
            pod("succeeded", container("c", "exit 0"), restartPolicy="OnFailure"),
            _ended(0, phase="Succeeded"),
        ),
        "always": Expected(pod("always", container("c", "sleep 1")), _restarted(1)),
    }


def many(count: int) -> Mapping[str, Expected]:
    probe = {"exec": {"command": ["true"]}, "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 10}
    return {
        f"many-{number}": Expected(
            pod(f"many-{number}", container("c", _WAIT, readinessProbe=probe)), is_ready
        )
        for number in range(count)
    }
