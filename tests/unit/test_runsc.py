"""What runsc says of itself, asked of real programs that answer, fail or hang."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from engine import runsc
from engine.lifecycle.resolve import Resolved, resolve
from engine.lifecycle.validate import Validated, validate
from engine.options import Platform
from engine.runsc import RunscError


def pinned(private: Path, program: str) -> Validated:
    found = shutil.which(program)
    assert found is not None
    shutil.copy(found, private / "runsc")
    return validate(Resolved(str(private / "runsc"), "option"), Platform.AUTO)


def test_the_version_is_what_the_binary_prints(private: Path) -> None:
    printed = runsc.version(pinned(private, "env"))
    assert printed.startswith("env (GNU coreutils)")
    assert printed == printed.strip()


def test_the_pinned_file_is_asked_whatever_the_path_names_by_now(private: Path) -> None:
    binary = pinned(private, "env")
    (private / "runsc").unlink()
    assert runsc.version(binary).startswith("env")


def test_a_binary_that_fails_is_an_error(private: Path) -> None:
    with pytest.raises(RunscError, match="--version failed with 1"):
        runsc.version(pinned(private, "false") if not _prints_a_version("false") else pinned(private, "test"))


def _prints_a_version(program: str) -> bool:
    return os.spawnvp(os.P_WAIT, program, [program, "--version"]) == 0


def test_nothing_found_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runsc, "resolve", partial(resolve, trusted_paths=("/no/such/runsc",)))
    assert not runsc.is_available({"PATH": "/nonexistent"})


def test_a_trusted_binary_is_available(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned(private, "env").discard()
    monkeypatch.setattr(runsc, "resolve", partial(resolve, trusted_paths=(str(private / "runsc"),)))
    assert runsc.is_available({})
    (private / "runsc").chmod(0o777)
    assert not runsc.is_available({})
