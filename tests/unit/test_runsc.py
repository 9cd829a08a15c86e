"""What runsc says of itself, asked of real programs that answer, fail or hang."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from engine.errors import Reason
from engine.lifecycle import trusted_runsc
from engine.lifecycle.resolve import Resolved, resolve
from engine.lifecycle.validate import Validated, validate
from engine.options import Platform
from engine.runsc.binary import platform_package
from engine.runsc.command import RunscError, version
from tests.support.refusals import refuses


def pinned(private: Path, program: str) -> Validated:
    found = shutil.which(program)
    assert found is not None
    shutil.copy(found, private / "runsc")
    with (private / "runsc").open("ab") as file:
        file.write(platform_package("ptrace"))
    return validate(Resolved(str(private / "runsc"), "option"), Platform.AUTO)


def version_of(binary: Validated) -> str:
    return version(binary.runsc.descriptor, binary.runsc.path)


def test_the_version_is_what_the_binary_prints(private: Path) -> None:
    printed = version_of(pinned(private, "env"))
    assert printed.startswith("env (GNU coreutils)")
    assert printed == printed.strip()


def test_the_pinned_file_is_asked_whatever_the_path_names_by_now(private: Path) -> None:
    binary = pinned(private, "env")
    (private / "runsc").unlink()
    assert version_of(binary).startswith("env")


def test_a_binary_that_fails_is_an_error(private: Path) -> None:
    failing = pinned(private, "test" if _prints_a_version("false") else "false")
    with refuses(RunscError, Reason.PROGRAM_FAILED):
        version_of(failing)


def _prints_a_version(program: str) -> bool:
    return os.spawnvp(os.P_WAIT, program, [program, "--version"]) == 0


def test_nothing_found_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusted_runsc, "resolve", partial(resolve, trusted_paths=("/no/such/runsc",)))
    assert not trusted_runsc.is_available({"PATH": "/nonexistent"})


def test_a_trusted_binary_is_available(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned(private, "env").discard()
    monkeypatch.setattr(trusted_runsc, "resolve", partial(resolve, trusted_paths=(str(private / "runsc"),)))
    assert trusted_runsc.is_available({})
    (private / "runsc").chmod(0o777)
    assert not trusted_runsc.is_available({})
