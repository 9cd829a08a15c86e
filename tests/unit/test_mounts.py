"""What is mounted where, and that a refusal of the mount calls names its thing; the rest: test_locked_mounts.py."""

from __future__ import annotations

import ctypes  # noqa: F401 (what is imported late may lie where an ordinary user cannot go)
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.linux.mounts import (
    MountFlag,
    attach_tree,
    clear_flags,
    clone_tree,
    mounted_beneath,
    set_flags,
    set_flags_everywhere,
)
from engine.linux.syscall import library_call
from tests.in_a_child import in_a_child

NEW_MOUNT_NAMESPACE, PRIVATE, RECURSIVE, BIND = 0x00020000, 1 << 18, 0x4000, 0x1000

pytestmark = pytest.mark.usefixtures("needs_root")


def new_mount_namespace() -> None:
    library_call("unshare", NEW_MOUNT_NAMESPACE)
    library_call("mount", b"", b"/", b"", PRIVATE | RECURSIVE, 0)


def mount_tmpfs(path: Path) -> None:
    library_call("mount", b"tmpfs", os.fsencode(path), b"tmpfs", 0, 0)


def test_mounts_at_a_path_and_beneath_it_are_named_whatever_their_names(private: Path) -> None:
    names = [
        "here",
        "here/with space",
        "here/back\\slash",
        "here/re\rturn",
        "here/\udcff",
        "here-too",
        "beside",
    ]
    for name in names:
        (private / name).mkdir()

    def act() -> list[str]:
        new_mount_namespace()
        mount_tmpfs(private / names[0])
        for name in names[1:]:
            (private / name).mkdir(exist_ok=True)
            mount_tmpfs(private / name)
        return mounted_beneath(str(private / "here"))

    assert in_a_child(act) == [str(private / name) for name in names[:5]]


def test_nothing_is_mounted_beneath_an_ordinary_directory(private: Path) -> None:
    assert mounted_beneath(str(private)) == []


def test_a_cloned_tree_is_attached_with_what_was_mounted_in_it_and_keeps_its_flags(private: Path) -> None:
    (private / "from").mkdir()
    (private / "to").mkdir()

    def act() -> tuple[list[bool], bool]:
        new_mount_namespace()
        mount_tmpfs(private / "from")
        (private / "from" / "inner").mkdir()
        mount_tmpfs(private / "from" / "inner")
        (private / "from" / "inner" / "file").touch()
        source = os.open(private / "from", os.O_PATH)
        tree = clone_tree(source, "from")
        set_flags(tree, MountFlag.READ_ONLY, "from")
        set_flags_everywhere(MountFlag.NO_EXEC)
        target = os.open(private / "to", os.O_PATH)
        attach_tree(tree, target, "to")
        flags = [
            bool(os.statvfs(private / name).f_flag & flag)
            for name in ("from", "to", "to/inner")
            for flag in (os.ST_RDONLY, os.ST_NOEXEC)
        ]
        clear_flags(str(private / "from"), MountFlag.NO_EXEC)
        flags += [bool(os.statvfs(private / "from").f_flag & flag) for flag in (os.ST_RDONLY, os.ST_NOEXEC)]
        assert (private / "to" / "inner" / "file").exists()
        return flags, os.get_inheritable(tree)

    assert in_a_child(act) == ([False, True, True, False, True, False, False, False], False)


@pytest.mark.parametrize(
    ("call", "about"),
    [
        (lambda root: clone_tree(root, "it"), "it"),
        (lambda root: attach_tree(root, root, "it"), "it"),
        (lambda root: set_flags(root, MountFlag.NO_EXEC, "it"), "it"),
        (lambda root: set_flags_everywhere(MountFlag.NO_EXEC), "/"),
        (lambda root: clear_flags("/", MountFlag.NO_EXEC), "/"),
    ],
)
def test_what_an_ordinary_user_is_refused_is_named(call: Callable[[int], object], about: str) -> None:
    def act() -> tuple[int | None, str | None, str]:
        root = os.open("/", os.O_PATH)
        os.setresuid(4242, 4242, 4242)
        try:
            call(root)
        except OSError as error:
            return error.errno, error.strerror, error.filename
        raise AssertionError("it was permitted")

    assert in_a_child(act) == (errno.EPERM, "Operation not permitted", about)
