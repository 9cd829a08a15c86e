"""Walks by descriptor: what was opened is closed again, also where the kernel fails in telling about it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.bundle.bundle import open_bundle
from engine.errors import EngineError
from engine.lifecycle.resolve import Resolved
from engine.lifecycle.secure_root import secure_root
from engine.lifecycle.stage import stage
from engine.lifecycle.validate import validate
from engine.options import Platform
from tests.support.bundles import make_bundle
from tests.support.refusals import open_descriptors


def _validate(binary: Path) -> None:
    validate(Resolved(str(binary), "option"), Platform.AUTO).close()


def _secure(binary: Path) -> None:
    secure_root("web", {"ENGINE_ARTIFACT_BASE": str(binary.parent.parent / "base")}).close()


def _stage(binary: Path) -> None:
    validated = validate(Resolved(str(binary), "option"), Platform.AUTO)
    try:
        root = secure_root("web", {"ENGINE_ARTIFACT_BASE": str(binary.parent.parent / "base")})
        try:
            stage(validated, root).close()
        finally:
            root.close()
    finally:
        validated.close()


def _open_bundle(binary: Path) -> None:
    open_bundle(str(make_bundle(binary.parent.parent / "bundle"))).close()


@pytest.mark.parametrize("act", [_validate, _secure, _stage, _open_bundle])
def test_a_failing_fstat_leaves_no_descriptor_open(
    act: Callable[[Path], None], binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fstat(2) that `act` makes fails once."""
    real, before = os.fstat, open_descriptors()
    nth, made = 0, 0

    def fstat(descriptor: int) -> os.stat_result:
        nonlocal made
        made += 1
        if made == nth:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor)

    while nth == 0 or made >= nth:
        nth, made = nth + 1, 0
        with monkeypatch.context() as failing, contextlib.suppress(EngineError, OSError):
            failing.setattr("os.fstat", fstat)
            act(binary)
        assert open_descriptors() == before, f"fstat number {nth}"
    assert nth > 4
