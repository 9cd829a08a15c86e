"""Programs of Kubernetes' are built only by a Go that can, and only from the module that is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kubernetes import modules
from tools import SetupError


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `go` in the place of any other: the test writes what it prints."""
    program = tmp_path / "bin" / "go"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return program


def prints(go: Path, text: str) -> None:
    go.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    go.chmod(0o755)


@pytest.mark.parametrize("version", ["go1.27.0", "go1.26.6", "go1.26.10", "go2.0"])
def test_go_that_is_new_enough_builds(go: Path, version: str) -> None:
    prints(go, version)
    assert modules.why_not("critest") is None


@pytest.mark.parametrize("version", ["go1.19.8", "go1.26.5", "go1.26", "devel"])
def test_go_that_is_too_old_is_named(go: Path, version: str) -> None:
    prints(go, version)
    why = modules.why_not("critest")
    assert why is not None
    assert "1.26.6" in why
    assert version in why
    with pytest.raises(SetupError, match="1\\.26\\.6"):
        modules.build("critest")


def test_without_go_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no go" in (modules.why_not("kubelet") or "")


def test_module_of_another_checksum_is_not_built(go: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    go.write_text(
        "#!/bin/sh\n[ $1 != env ] || { echo go1.27.0; exit; }\n"
        f'echo \'{{"Sum": "h1:another", "Dir": "{source}"}}\'\n'
    )
    go.chmod(0o755)
    with pytest.raises(SetupError, match="h1:another"):
        modules.build("critest")
    assert modules.built("critest") is None
    assert list(modules.cache().iterdir()) == []
