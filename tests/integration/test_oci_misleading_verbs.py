"""Verbs that runsc does otherwise than runc: each does what it says, or is refused in one line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.errors import Reason
from tests.integration.oci_runtime import Oci
from tests.support.harness import Engine

FOREVER = "exec sleep 1000"
CAPABILITIES = (
    "while read -r name set; do case $name in Cap*) echo $name $set;; esac; done < /proc/self/status"
)
CHOWN, KILL, NET_BIND = 1 << 0, 1 << 5, 1 << 10


@pytest.fixture
def oci(root_engine: Engine, of_each_layout: tuple[str, ...]) -> Iterator[Oci]:
    runtime = Oci(root_engine, of_each_layout)
    yield runtime
    for container in root_engine.ids:
        runtime.ok("delete", "--force", container)


def with_capabilities(oci: Oci, **sets: list[str]) -> str:
    return oci.running(oci.engine.shell(FOREVER, process={"capabilities": sets}))


def sets_of_exec(oci: Oci, container: str, *flags: str) -> dict[str, int]:
    lines = oci.ok("exec", *flags, container, "/bin/sh", "-c", CAPABILITIES).splitlines()
    return {name: int(given, 16) for name, given in (line.split(":") for line in lines)}


def test_exec_cap_adds_to_the_containers_own(oci: Oci) -> None:
    own = ["CAP_CHOWN", "CAP_KILL"]
    container = with_capabilities(oci, bounding=own, effective=own, permitted=own)
    for flags, sets in (
        ((), CHOWN | KILL),
        (("--cap", "CAP_NET_BIND_SERVICE"), CHOWN | KILL | NET_BIND),
        (("--cap", "CAP_KILL", "-c", "CAP_NET_BIND_SERVICE"), CHOWN | KILL | NET_BIND),
    ):
        given = sets_of_exec(oci, container, *flags)
        assert {given[name] for name in ("CapBnd", "CapEff", "CapPrm")} == {sets}


def test_exec_cap_where_the_container_has_none(oci: Oci) -> None:
    container = with_capabilities(oci)
    assert sets_of_exec(oci, container, "--cap", "CAP_KILL")["CapEff"] == KILL


@pytest.mark.parametrize(
    "sets",
    [
        {"bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
        {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"], "inheritable": ["CAP_KILL"]},
    ],
)  # fmt: skip
def test_exec_cap_whose_sets_differ_is_refused(oci: Oci, sets: dict[str, list[str]]) -> None:
    container = with_capabilities(oci, **sets)
    asked = ("exec", "--cap", "CAP_SYS_TIME", container, "/bin/true")
    oci.refused(1, Reason.USAGE, *asked, facts=("CAP_SYS_TIME", container))


@pytest.mark.parametrize("name", ["37", "SIGRTMIN+3", "RTMIN+3", "rtmax-1", "64"])
def test_kill_with_a_real_time_signal_is_refused(oci: Oci, name: str) -> None:
    container = oci.running(oci.engine.shell(FOREVER))
    oci.refused(1, Reason.USAGE, "kill", container, name, facts=(name,))
    assert oci.status(container) == "running"


def test_kill_with_the_last_ordinary_signal_ends_it(oci: Oci) -> None:
    container = oci.running(oci.engine.shell(FOREVER))
    oci.ok("kill", container, "31")
    oci.wait_for(container, "stopped")
