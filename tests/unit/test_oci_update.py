"""`engine-oci update`: what the manager reads of what runsc did."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.errors import Reason, UsageError
from engine.oci import update
from engine.oci.container import Container, ContainerError
from engine.oci.flags import Flags
from engine.oci.request import Request
from tests.support.refusals import refuses

HAS_VERB = "\n# *cmd.Update\0\n"


def container(tmp_path: Path, script: str) -> Container:
    program = tmp_path / "runsc"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)

    @contextlib.contextmanager
    def opened() -> Iterator[int]:
        descriptor = os.open(program, os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    record = SimpleNamespace(flags=("--root", "/r"), id="web")
    found: Any = SimpleNamespace(verb="update", record=record, runsc_root=str(tmp_path), program=opened)
    return cast("Container", found)


def request(values: Mapping[str, str]) -> Request:
    return Request({}, Flags(), "update", Flags(values=values), ("web",))


def test_runsc_is_given_the_flags_before_the_id(tmp_path: Path) -> None:
    found = container(tmp_path, f'echo "$@" > {tmp_path}/said; exit 0{HAS_VERB}')
    assert update._update(request({"memory": "9"}), found, ["--memory", "9"]) == 0
    assert (tmp_path / "said").read_text() == "--root /r update --memory 9 web\n"


def test_runscs_own_code_and_last_line_are_passed_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = container(tmp_path, f"echo more >&2; echo setting back >&2; exit 128{HAS_VERB}")
    assert update._update(request({}), found, []) == 128
    assert capsys.readouterr().err == "engine-oci: setting back\n"


def test_a_crash_of_runsc_is_one_line_and_no_wrong_usage(tmp_path: Path) -> None:
    found = container(tmp_path, f"printf 'panic: x\\n\\ngoroutine 1 [running]:\\n' >&2; exit 2{HAS_VERB}")
    with refuses(ContainerError, Reason.PROGRAM_FAILED) as refused:
        update._update(request({}), found, [])
    assert refused.value.exit_code != 2


def test_runscs_wrong_usage_is_not_taken_for_a_crash(tmp_path: Path) -> None:
    found = container(tmp_path, f"echo usage >&2; exit 2{HAS_VERB}")
    assert update._update(request({}), found, []) == 2


def test_a_runsc_without_the_verb_is_not_executed(tmp_path: Path) -> None:
    found = container(tmp_path, f"touch {tmp_path}/ran")
    with refuses(UsageError, Reason.USAGE):
        update._update(request({}), found, [])
    assert not (tmp_path / "ran").exists()
