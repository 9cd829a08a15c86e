"""What unit tests share: a private directory to work in, and a binary that passes for runsc until it is run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A directory of our own, mode 0700, on a path that nobody else can rewrite."""
    directory = tmp_path / "private"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def binary(private: Path) -> Path:
    """A real ELF file that names gVisor's platforms as a build of runsc does."""
    path = private / "bin" / "runsc"
    path.parent.mkdir(mode=0o755)
    true = shutil.which("true")
    assert true is not None
    shutil.copy(true, path)
    with path.open("ab") as file:
        file.writelines(
            b"gvisor.dev/gvisor/pkg/sentry/platform/" + name for name in (b"ptrace", b"kvm", b"systrap")
        )
    path.chmod(0o755)
    return path


@pytest.fixture
def installation(binary: Path) -> Path:
    """The `binary` as one that starts programs from `gvisor-bin/` beside it, and these: its directory."""
    with binary.open("ab") as file:
        file.write(b"gvisor.dev/gvisor/runsc/gvisorbinaries\0gvisor-sentry-prewarmer\0release-20260914.0\0")
    sidecars = binary.parent / "gvisor-bin"
    sidecars.mkdir(mode=0o755)
    for name, release in (
        ("gvisor_sentry", b"release-20260914.0"),
        ("gvisor-sentry-prewarmer", b""),
        ("of-a-later-version", b"release-20260914.0"),
    ):
        (sidecars / name).write_bytes(b"\x7fELF" + name.encode() + b"\0" + release + b"\0")
        (sidecars / name).chmod(0o755)
    return binary.parent


@pytest.fixture
def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes files of other owners")


@pytest.fixture
def no_child_left() -> Iterator[None]:
    """The test leaves no child process behind, ended or not; those that other tests keep are none of its own."""
    before = _children()
    yield
    assert _children() <= before, "a child process is left"


def _children() -> set[int]:
    """The processes whose parent is this one, whichever of its threads made them, proc_tid_children(5)."""
    return {
        int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()
    }
