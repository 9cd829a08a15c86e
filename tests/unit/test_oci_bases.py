"""An id is one container's, in whichever of the bases in which a verb looks for it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine.errors import Reason, SecureRootError
from engine.oci import creation
from engine.oci.creation import start
from engine.oci.flags import Flags
from engine.oci.request import Request
from engine.state import record
from engine.state.base import VARIABLE, open_base
from engine.state.container import component, open_container
from engine.state.record import Record
from tests.support.refusals import refuses


class ForkedError(Exception):
    """The creation has begun."""


@pytest.fixture(autouse=True)
def other(private: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only other base in which a verb looks. Nothing is created: a creation ends where it would begin."""

    def fork() -> int:
        raise ForkedError

    monkeypatch.setattr(os, "fork", fork)
    monkeypatch.setattr(creation, "default_base", lambda: str(private / "base"))
    monkeypatch.setattr(Request, "base", lambda _, make=False: str(private / "base"))
    monkeypatch.setattr(Request, "other_bases", lambda _: (str(private / "other"),))
    return private / "other"


def keep(other: Path, status: str | None) -> Path:
    """A container "web" in the other base, of which runsc's file says this status."""
    base = open_base(str(other))
    container, lock = open_container(base, component("web"))
    assert lock is not None
    noted = Record("web", "/bundle", "1f", (1, 1), "2026-01-01T00:00:00Z", "1.0.2", {})
    record.write(container, noted)
    runsc_root = Path(container.path, "runsc-root")
    runsc_root.mkdir(mode=0o700)
    if status is not None:
        (runsc_root / noted.state_file).write_text(json.dumps({"status": status, "sandbox": {"pid": 1}}))
    for descriptor in (lock, container.descriptor, base.descriptor):
        os.close(descriptor)
    return Path(container.path)


def create(container_id: str, environment: dict[str, str], common: Flags | None = None) -> None:
    start(
        Request(environment, common or Flags(), "create", Flags(), (container_id,)), (), ends_with_runsc=False
    )


@pytest.mark.parametrize("status", ["created", "running", "stopped"])
def test_create_refuses_an_id_of_another_base(other: Path, status: str) -> None:
    keep(other, status)
    with refuses(SecureRootError, Reason.KEPT, "'web'", other):
        create("web", {})


def test_create_takes_an_id_that_no_other_base_has(other: Path) -> None:
    keep(other, "running")
    with pytest.raises(ForkedError):
        create("db", {})


def test_create_takes_an_id_of_which_only_a_record_is_left(other: Path) -> None:
    keep(other, None)
    with pytest.raises(ForkedError):
        create("web", {})


@pytest.mark.parametrize(
    ("environment", "common"), [({VARIABLE: "/base"}, Flags()), ({}, Flags(values={"root": "/base"}))]
)
def test_create_takes_any_id_of_its_own_base(other: Path, environment: dict[str, str], common: Flags) -> None:
    keep(other, "running")
    with pytest.raises(ForkedError):
        create("web", environment, common)
