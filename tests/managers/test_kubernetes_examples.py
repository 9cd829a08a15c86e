"""The files in examples/kubernetes are what Kubernetes and containerd accept, by the schemas and the parser of each."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "kubernetes"
HANDLER = "gvisor-engine"


def read(name: str) -> dict[str, Any]:
    found = yaml.safe_load((EXAMPLES / name).read_text())
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.yaml")))
def test_it_is_valid_by_kubernetes_own_schema(name: str) -> None:
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(read(name), version, strict=True)


def test_the_schema_would_find_a_slip() -> None:
    wrong = read("runtimeclass.yaml")
    wrong["handlers"] = wrong.pop("handler")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_pod_class_and_containerd_name_the_same_handler() -> None:
    runtime_class = read("runtimeclass.yaml")
    assert runtime_class["handler"] == HANDLER
    assert read("pod.yaml")["spec"]["runtimeClassName"] == runtime_class["metadata"]["name"]


def test_containerd_reads_the_runtime_as_it_is_meant() -> None:
    dumped = subprocess.check_output(
        ["containerd", "--config", EXAMPLES / "containerd-config.toml", "config", "dump"], text=True
    )
    cri = tomllib.loads(dumped)["plugins"]["io.containerd.grpc.v1.cri"]
    ours = cri["containerd"]["runtimes"][HANDLER]
    assert ours["runtime_type"] == "io.containerd.runc.v2"
    assert ours["options"] == {
        "BinaryName": "/opt/gvisor-engine/bin/engine-oci",
        "Root": "/run/containerd/gvisor-engine",
        "SystemdCgroup": False,
    }
    assert cri["containerd"]["runtimes"]["runc"]["runtime_type"] == "io.containerd.runc.v2"
