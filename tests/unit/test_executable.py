"""What of the host stays executable: each file system that the container gets, as it was seen, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from engine.bundle.bundle import Bundle, open_bundle
from engine.bundle.executable import executable_trees
from tests.support.bundles import make_bundle


def opened(private: Path, *mounts: dict[str, Any]) -> Bundle:
    return open_bundle(str(make_bundle(private / "bundle", mounts=list(mounts))))


def sources(bundle: Bundle) -> list[str]:
    return [tree.path for tree in executable_trees(bundle)][1:]


def test_a_tree_is_known_by_the_directory_that_was_seen(private: Path) -> None:
    (private / "data").mkdir()
    status = (private / "data").stat()
    mount = {"destination": "/data", "type": "bind", "source": str(private / "data")}
    root, data = executable_trees(opened(private, mount))
    assert data.identity == (status.st_dev, status.st_ino)
    assert root.identity == (os.stat(root.path).st_dev, os.stat(root.path).st_ino)
    assert not data.read_only  # which options would have to ask for


def test_only_files_with_an_execute_bit_are_programs(private: Path) -> None:
    modes = {"a": 0o666, "b": 0o700, "c": 0o010, "d": 0o601, "e": 0o622}
    for name, mode in modes.items():
        (private / name).touch()
        (private / name).chmod(mode)
    mounts = [{"destination": f"/{name}", "type": "bind", "source": str(private / name)} for name in modes]
    assert sources(opened(private, *mounts)) == [str(private / name) for name in "bcd"]


def test_what_is_no_bind_mount_takes_no_file_of_the_host(private: Path) -> None:
    """Its source is a name, even if a file has it."""
    (private / "bundle" / "scratch").mkdir(parents=True)
    mount = {"destination": "/scratch", "type": "tmpfs", "source": "scratch"}
    assert sources(opened(private, mount)) == []
