"""Runs critest, Kubernetes' tests of the Container Runtime Interface, on containerd with the engine as its runtime.

usage: python -m tests.kubernetes.critest [--containerd 1.6|2.1] [--runtime ours|runc] [--focus REGEX]     (as root)

Which specs fail, and why, is in `critest.toml` beside this file. A spec that fails and is not there, or is there and
passes, makes this fail.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kubernetes import modules
from tests.kubernetes.node import ENDPOINT, STATE, Node, open_node
from tests.managers.arena import eventually
from tests.managers.kubelet import HANDLER
from tools import SetupError, say

LIST = Path(__file__).with_suffix(".toml")
_KEPT = Path(__file__).resolve().parents[2] / "build" / "critest"

#: Seconds for all of them.
_LIMIT = 2400
#: How many specs run at once: most of them wait, by sleeping, for what they asked for.
_PARALLEL = 4
#: They need what no node here has: the NRI's socket, or to measure.
_NOT_HERE = ("NRI",)


@dataclass(frozen=True)
class Spec:
    """How one of critest's specs came out: `passed`, `skipped` or anything else; and what it said."""

    name: str
    state: str
    said: str
    seconds: float


@dataclass(frozen=True)
class Expected:
    """A spec that fails: whose doing it is, why, and with which containerd, if not with each."""

    whose: str
    why: str
    containerd: Sequence[str] = ("1.6", "2.1")


def expected(containerd: str) -> dict[str, Expected]:
    """The specs that fail with that containerd, by name."""
    listed = {name: Expected(**entry) for name, entry in tomllib.loads(LIST.read_text()).items()}
    return {name: entry for name, entry in listed.items() if containerd in entry.containerd}


def run(
    node: Node, built: Path, handler: str, focus: Sequence[str] = (), parallel: int = _PARALLEL
) -> list[Spec]:
    """Run the specs whose name has one of `focus`, a regular expression each. Raises `RuntimeError`."""
    arena = node.arena
    report = arena.directory / "report.json"
    options = [
        f"-runtime-endpoint={ENDPOINT}",
        f"-runtime-handler={handler}",
        f"-parallel={parallel}",
        f"-ginkgo.json-report={report}",
        f"-ginkgo.timeout={_LIMIT}s",
        *(f"-ginkgo.skip={pattern}" for pattern in _NOT_HERE),
        *(f"-ginkgo.focus={pattern}" for pattern in focus),
    ]
    path = f"PATH={built}:{arena.environment['PATH']}"
    with (arena.directory / "critest.log").open("w") as log:
        done = subprocess.run(
            arena.inside("env", path, str(built / "critest"), *options),
            cwd=arena.directory,
            env=dict(arena.environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=_LIMIT + 60,
            check=False,
        )
    if not report.exists():
        raise RuntimeError(
            f"critest ended with {done.returncode}: {_last_line(arena.directory / 'critest.log')}"
        )
    return [spec for suite in json.loads(report.read_text()) for spec in _specs(suite)]


def _last_line(log: Path) -> str:
    return (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]


def _specs(suite: Mapping[str, Any]) -> list[Spec]:
    return [
        Spec(
            " ".join([*entry["ContainerHierarchyTexts"], entry["LeafNodeText"]])
            .removeprefix("[k8s.io] ")
            .replace(" [Conformance]", ""),
            entry["State"],
            entry.get("Failure", {}).get("Message", ""),
            entry["RunTime"] / 1e9,
        )
        for entry in suite["SpecReports"]
        if entry["LeafNodeType"] == "It" and (entry["State"] != "skipped" or "Failure" in entry)
    ]


def differences(specs: Sequence[Spec], listed: Mapping[str, Expected]) -> list[str]:
    """What came out otherwise than it is listed, a line for each spec."""
    found = []
    for spec in specs:
        if spec.state == "passed" and spec.name in listed:
            found.append(f"passes, and is listed as failing: {spec.name}")
        elif spec.state not in {"passed", "skipped"} and spec.name not in listed:
            found.append(f"fails, and is not listed: {spec.name}: {' '.join(spec.said.split())[:300]}")
    return found


def what_is_left(node: Node) -> list[str]:
    """What outlives the pods by more than a moment, and the traces that do not conform, a line for each.

    First `engine gc`, as an administrator's timer calls it: it removes the cgroups above the pods' that their first
    containers made, and that others were in as these ended.
    """
    collected = node.arena.run("env", f"ENGINE_ARTIFACT_BASE={STATE}", "engine", "gc")
    if collected.code != 0:
        return [f"engine gc: {collected.stderr.strip()}"]
    try:
        eventually("the end of what pods left", lambda: not node.left(), patience=10)
    except TimeoutError:
        left = [f"left behind: {what}" for what in node.left()]
    else:
        left = []
    traces = node.traces()
    if not traces:
        return [*left, "no trace was written"]
    verified = node.arena.run("engine", "trace", "verify", *traces)
    said = verified.stdout.splitlines() + verified.stderr.splitlines()
    return left + (
        [f"trace verify: {line}" for line in said if "conforms" not in line] if verified.code else []
    )


def _keep(node: Node) -> None:
    """Keep what was said: what fails is looked for there."""
    _KEPT.mkdir(parents=True, exist_ok=True)
    directory = node.arena.directory
    for file in (directory / "critest.log", directory / "report.json", node.containerd.directory / "log"):
        shutil.copy(file, _KEPT)


def _summary(specs: Sequence[Spec], listed: Mapping[str, Expected], seconds: float) -> None:
    counts = Counter(
        "passed" if spec.state == "passed" else "skipped" if spec.state == "skipped" else "failed"
        for spec in specs
    )
    print(
        ", ".join(f"{counts[state]} {state}" for state in ("passed", "failed", "skipped")),
        f"in {seconds:.0f} s",
    )
    failed = [spec.name for spec in specs if spec.state not in {"passed", "skipped"}]
    for whose, count in Counter(listed[name].whose for name in failed if name in listed).items():
        print(f"  {count} failed as listed: {whose}")
    for why, count in Counter(spec.said.split(":")[0] for spec in specs if spec.state == "skipped").items():
        print(f"  {count} skipped: {why}")


def main() -> int:
    """Run all of them, or those that are asked for; 1 if anything came out otherwise than listed."""
    parser = argparse.ArgumentParser(
        prog="./just critest", description="Run Kubernetes' tests of a container runtime."
    )
    parser.add_argument(
        "--containerd", choices=("1.6", "2.1"), default="1.6", help="Debian 12's, or one built here"
    )
    parser.add_argument("--runtime", choices=("ours", "runc"), default="ours")
    parser.add_argument(
        "--focus", action="append", default=[], help="only specs with this, a regular expression, in the name"
    )
    asked = parser.parse_args()
    if os.geteuid() != 0:
        say("critest: root only: it makes namespaces and cgroups")
        return 1
    ours = asked.runtime == "ours"
    try:
        built = modules.build("critest")
        programs = modules.build("containerd") if asked.containerd == "2.1" else None
        with open_node(Path(sys.executable).parent / "engine-oci", programs) as node:
            began = time.monotonic()
            specs = run(node, built, HANDLER if ours else "runc", asked.focus)
            seconds = time.monotonic() - began
            left = what_is_left(node) if ours else []
            _keep(node)
    except (SetupError, RuntimeError) as error:
        say(str(error))
        return 1
    listed = expected(asked.containerd)
    if not ours:
        listed = {
            name: entry for name, entry in listed.items() if entry.whose in {"containerd", "the images"}
        }
    _summary(specs, listed, seconds)
    found = [*differences(specs, listed), *left]
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
