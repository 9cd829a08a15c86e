"""A minute of Kubernetes' own tests of a container runtime; `./just critest` runs all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kubernetes import critest, modules
from tests.kubernetes.node import open_node
from tests.managers.kubelet import HANDLER

#: Beside the exec with a timeout, what a kubelet asks of each container.
_SOME = (
    r"runtime should support execSync with timeout",
    r"runtime should support preserving container attributes",
    r"runtime should support removing running container",
    r"runtime should support starting container with log",
    r"runtime should support RunAsGroup$",
    r"Multiple Containers .* should support network",
    r"StopContainer should not return an error if already stopped",
)


def test_critest_passes(runtime: Path, kernel_has_bridges: None) -> None:
    built = modules.built("critest")
    if built is None:
        why = modules.why_not("critest") or "it is built by ./just critest, which takes 4 minutes"
        pytest.skip(f"no critest in {modules.cache()}: {why}")
    with open_node(runtime) as node:
        specs = critest.run(node, built, HANDLER, _SOME)
        left = critest.what_is_left(node)
    assert {spec.name: spec.said for spec in specs if spec.state != "passed"} == {}
    assert len(specs) == len(_SOME)
    assert left == []
