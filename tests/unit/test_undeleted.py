"""What the engine removes by itself of a container that runsc did not delete: only what is runsc's, and ours."""

from __future__ import annotations

import datetime
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from engine.linux.files import PrivateDirectory, make_private_directory
from engine.state import cgroups, undeleted
from engine.state.record import MAX_SIZE

NAME = "web_sandbox:web.state"


@pytest.fixture
def root(private: Path) -> PrivateDirectory:
    parent = os.open(private, os.O_PATH)
    directory = make_private_directory(parent, str(private), "runsc-root")
    os.close(parent)
    return directory


@pytest.fixture
def tree(private: Path) -> Path:
    """A root file system, with the file that runsc leaves in it."""
    (private / "rootfs").mkdir()
    (private / "rootfs" / ".gvisor.filestore.web").touch()
    (private / "rootfs" / ".gvisor.filestore.other").touch()
    return private / "rootfs"


def said(tree: Path, **changes: Any) -> dict[str, Any]:
    created = datetime.datetime.now(tz=datetime.UTC).isoformat()
    return {"createdAt": created, "spec": {"root": {"path": str(tree)}}, **changes}


def remove(root: PrivateDirectory, content: object, name: str = NAME) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (Path(root.path) / name).write_text(text)
    (Path(root.path) / name.replace(".state", ".lock")).touch()
    undeleted.remove(root, name)
    assert os.listdir(root.path) == []


def test_the_filestore_of_this_sandbox_goes_and_no_other(root: PrivateDirectory, tree: Path) -> None:
    remove(root, said(tree))
    assert os.listdir(tree) == [".gvisor.filestore.other"]


def test_the_filestore_in_a_mounted_tree_goes(root: PrivateDirectory, tree: Path) -> None:
    mounts = [{"source": str(tree)}, {"source": "tmpfs"}, {"source": "/nonexistent/x"}, {}]
    remove(root, {"spec": {"root": {"path": "/nonexistent"}, "mounts": mounts}})
    assert os.listdir(tree) == [".gvisor.filestore.other"]


@pytest.mark.parametrize("kind", ["link", "directory"])
def test_what_is_no_filestore_stays(root: PrivateDirectory, tree: Path, kind: str) -> None:
    path, target = tree / ".gvisor.filestore.web", tree / ".gvisor.filestore.other"
    path.unlink()
    path.symlink_to(target) if kind == "link" else path.mkdir()
    remove(root, said(tree))
    assert target.exists()
    assert os.path.lexists(path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "7",
        {"spec": 7, "sandbox": 7, "compatCgroup": 7},
        {"spec": {"root": 7, "mounts": 7}, "sandbox": {"cgroup": 7, "controlSocketPath": 7}},
        {
            "spec": {
                "root": {"path": 7},
                "mounts": [7, {"source": 7}, {"source": "a\0b"}, {"source": "/a\0b"}],
            }
        },
        {"sandbox": {"cgroup": {"cgroupv1": 7, "cgroupv2": {"own": [7]}}}, "createdAt": "2999-01-01"},
        {"sandbox": {"cgroup": {"cgroupv1": {"own": {"a": True}, "name": 7}}}, "createdAt": "2999-01-01"},
        {"spec": {"root": {"path": "/\ud800"}}, "sandbox": {"controlSocketPath": "/\ud800/runsc-web.sock"}},
        {"sandbox": {"controlSocketPath": "/\0/runsc-web.sock"}},
        {"sandbox": {"cgroup": {"cgroupv2": {"own": ["/sys/fs/cgroup/\0"]}}}, "createdAt": "2999-01-01"},
        {
            "sandbox": {"cgroup": {"cgroupv1": {"own": {"\0": True}, "name": "\ud800"}}},
            "createdAt": "2999-01-01",
        },
    ],
    ids=ascii,
)
def test_damaged_state_file_is_removed(root: PrivateDirectory, tree: Path, content: object) -> None:
    remove(root, content)
    assert len(os.listdir(tree)) == 2


def test_state_file_too_deep_to_read_is_removed(root: PrivateDirectory) -> None:
    remove(root, "[" * 200_000)


def test_state_file_too_large_to_read_is_removed(root: PrivateDirectory) -> None:
    path = Path(root.path) / NAME
    path.touch()
    os.truncate(path, MAX_SIZE + 1)
    undeleted.remove(root, NAME)
    assert os.listdir(root.path) == []


@pytest.mark.parametrize("name", ["", "/", None])
def test_a_cgroup_without_a_name_is_not_its_parent(
    root: PrivateDirectory, tree: Path, private: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    monkeypatch.setattr(cgroups, "TOP", str(private))
    others = [private / "cpu" / "a", private / "cpu" / "a" / "None"]
    others[-1].mkdir(parents=True)
    if name is not None:
        others.pop().rmdir()
    given = {"cgroupv1": {"name": name, "parents": {"cpu": "/a"}, "own": {"cpu": True}}}
    remove(root, said(tree, sandbox={"cgroup": given}))
    assert all(path.exists() for path in others)


def test_state_file_of_another_name_names_nothing(root: PrivateDirectory, tree: Path) -> None:
    remove(root, said(tree), "../web.state".replace("/", "_"))
    assert len(os.listdir(tree)) == 2


def test_tree_that_cannot_be_written_is_named_after_all_else_was_removed(
    root: PrivateDirectory, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink

    def read_only(path: str, *, dir_fd: int | None = None) -> None:
        if path.startswith(".gvisor"):
            raise OSError(30, "Read-only file system")
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", read_only)
    with pytest.raises(OSError, match="Read-only") as failed:
        remove(root, said(tree))
    assert failed.value.filename == str(tree)
    assert os.listdir(root.path) == []


def test_only_the_control_socket_of_the_sandbox_goes(
    root: PrivateDirectory, tree: Path, private: Path
) -> None:
    ours, other, no_socket = (
        private / "runsc-web.sock",
        private / "x.sock",
        private / "run" / "runsc-web.sock",
    )
    no_socket.parent.mkdir()
    no_socket.touch()
    for path in (ours, other):
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    for path in (ours, other, no_socket, private / "gone" / "runsc-web.sock"):
        remove(root, said(tree, sandbox={"controlSocketPath": str(path)}))
    assert [path.exists() for path in (ours, other, no_socket)] == [False, True, True]


def test_a_member_leaves_the_socket_and_the_cgroup_of_its_sandbox(
    root: PrivateDirectory, tree: Path, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "TOP", str(private))
    path = private / "runsc-pod.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
    (private / "pod").mkdir()
    (private / "member").mkdir()
    (tree / ".gvisor.filestore.pod").touch()
    own = {"cgroupv2": {"own": [str(private / "pod")]}}
    sandbox = {"controlSocketPath": str(path), "cgroup": own}
    compat = {"cgroupv2": {"own": [str(private / "member")]}}
    remove(root, said(tree, sandbox=sandbox, compatCgroup=compat), "web_sandbox:pod.state")
    assert path.exists()
    assert (private / "pod").exists()
    assert not (private / "member").exists()
    assert not (tree / ".gvisor.filestore.pod").exists()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("of_this_boot", [True, False])
def test_cgroups_that_runsc_made_in_this_boot_go(
    root: PrivateDirectory,
    tree: Path,
    private: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: int,
    of_this_boot: bool,
) -> None:
    top = private / "cgroups"
    monkeypatch.setattr(cgroups, "TOP", str(top))
    made, before, outside = top / "cpu" / "a" / "web", top / "memory" / "web", private / "outside"
    for path in (made, before, outside):
        path.mkdir(parents=True)
    if version == 1:
        own = {"cpu": True, "memory": False, "../../outside": True, "pids": True}
        given = {"cgroupv1": {"name": "web", "parents": {"cpu": "/a", "../../outside": ".."}, "own": own}}
    else:
        given = {"cgroupv2": {"own": [str(made), f"{top}/../outside", str(outside)]}}
    changes = {} if of_this_boot else {"createdAt": "2001-09-09T01:46:40.123456789+02:00"}
    remove(root, said(tree, sandbox={"cgroup": given}, **changes))
    assert made.exists() is not of_this_boot
    assert before.exists()
    assert outside.exists()


def test_a_cgroup_with_others_in_it_stays_and_is_no_failure(
    root: PrivateDirectory, tree: Path, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "TOP", str(private))
    (private / "web" / "others").mkdir(parents=True)
    own = {"cgroupv2": {"own": [str(private / "web")]}}
    remove(root, said(tree, sandbox={"cgroup": own}))
    assert (private / "web" / "others").exists()
    assert os.listdir(tree) == [".gvisor.filestore.other"]
