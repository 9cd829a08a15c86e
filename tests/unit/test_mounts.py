"""Mount trees by descriptor: the very calls that the kernel is given, and what they do where it takes them."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.linux import mounts, namespaces
from engine.linux.mounts import (
    MountFlag,
    attach_tree,
    clear_flags,
    clone_tree,
    mounted_beneath,
    other_paths,
    set_flags,
    set_flags_everywhere,
    unmount_namespace,
)
from engine.linux.syscall import library_call
from tests.support.forked import become_ordinary, failure, in_a_child

FLAGS = MountFlag.NO_EXEC | MountFlag.NO_SUID
CLOSE_ON_EXEC, EMPTY_PATH, RECURSIVE = os.O_CLOEXEC, 0x1000, 0x8000


@pytest.mark.parametrize(
    ("act", "call"),
    [
        (lambda: clone_tree(7, "/a"), (428, 7, b"", 1 | CLOSE_ON_EXEC | EMPTY_PATH | RECURSIVE)),
        (lambda: attach_tree(8, 9, "/a"), (429, 8, b"", 9, b"", 0x04 | 0x40)),
        (
            lambda: set_flags(8, MountFlag.READ_ONLY, "/a"),
            (442, 8, b"", EMPTY_PATH | RECURSIVE, struct.pack("QQQQ", 1, 0, 0, 0), 32),
        ),
        (
            lambda: set_flags_everywhere(FLAGS),
            (442, -100, b"/", RECURSIVE, struct.pack("QQQQ", 10, 0, 1 << 18, 0), 32),
        ),
        (lambda: clear_flags("/a", FLAGS), (442, -100, b"/a", 0, struct.pack("QQQQ", 0, 10, 0, 0), 32)),
    ],
)
def test_each_is_one_call(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any], call: tuple[int | bytes, ...]
) -> None:
    """Numbers from linux/mount.h, linux/fcntl.h and mount_setattr(2)."""
    asked: list[Any] = []

    def system_call(*arguments: int | bytes, about: str | None = None) -> int:
        asked.append((arguments, about))
        return 5

    monkeypatch.setattr(mounts, "system_call", system_call)
    assert act() in {5, None}
    assert asked == [(call, "/" if act.__code__.co_names[0] == "set_flags_everywhere" else "/a")]


def test_a_clone_is_its_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "system_call", lambda *_, about: 5)
    assert clone_tree(7, "/a") == 5


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize(
    ("act", "about"),
    [
        (lambda root: clone_tree(root, "it"), "it"),
        (lambda root: attach_tree(root, root, "it"), "it"),
        (lambda root: set_flags(root, FLAGS, "it"), "it"),
        (lambda root: set_flags_everywhere(FLAGS), "/"),
        (lambda root: clear_flags("/", FLAGS), "/"),
    ],
)
def test_what_an_ordinary_user_is_refused_is_named(act: Callable[[int], Any], about: str) -> None:
    def refused() -> Any:
        root = os.open("/", os.O_PATH)
        become_ordinary()
        return failure(lambda: act(root))

    assert in_a_child(refused) == (errno.EPERM, "Operation not permitted", about)


def flags_of(path: Path) -> list[str]:
    """The flags of each mount at `path`, the last mounted last; mountinfo of proc_pid_mountinfo(5)."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [fields[5] for fields in lines if fields[4] == str(path)]


def test_flags_change_every_mount_but_those_cloned_before(private: Path) -> None:
    """And nothing of it is heard of outside."""
    other, kept, inner = private / "other", private / "kept", private / "kept" / "inner"
    for path in (other, kept):
        path.mkdir()

    def act() -> list[list[str]]:
        namespaces.enter(namespaces.possible_maps()[-1])
        for path in (other, kept, inner):
            path.mkdir(exist_ok=True)
            library_call("mount", b"tmpfs", os.fsencode(path), b"tmpfs", 0, b"")
        clone = clone_tree(place := os.open(kept, os.O_PATH), str(kept))
        assert not os.get_inheritable(clone)
        set_flags(clone, MountFlag.READ_ONLY, str(kept))
        set_flags_everywhere(FLAGS)
        attach_tree(clone, place, str(kept))
        shared = [
            line for line in Path("/proc/self/mountinfo").read_text().splitlines() if " shared:" in line
        ]
        assert not shared
        clear_flags(str(other), MountFlag.NO_SUID)
        return [flags_of(other), flags_of(kept), flags_of(inner)]

    assert in_a_child(act) == [
        ["rw,noexec,relatime"],
        ["rw,nosuid,noexec,relatime", "ro,relatime"],
        ["rw,nosuid,noexec,relatime", "ro,relatime"],
    ]
    assert flags_of(other) == flags_of(kept) == []


def test_mount_points_are_unescaped_and_beneath_the_path(private: Path) -> None:
    names = ["a b", "a b/in\tner", "a b/back\\slash", "a b/re\rturn", "a b/\udcff", "a b-beside"]

    def act() -> list[str]:
        namespaces.enter(namespaces.possible_maps()[-1])
        assert mounted_beneath(str(private)) == []
        for name in names:
            (private / name).mkdir()
            library_call("mount", b"tmpfs", os.fsencode(private / name), b"tmpfs", 0, b"")
        return mounted_beneath(str(private / "a b"))

    assert in_a_child(act) == [str(private / name) for name in names[:-1]]


@pytest.mark.usefixtures("needs_root")
def test_only_a_namespace_file_is_unmounted(private: Path) -> None:
    for name in ("net", "other"):
        (private / name).touch()
    (private / "named").mkdir()

    def act() -> list[object]:
        library_call("unshare", 0x40020000)  # CLONE_NEWNET, CLONE_NEWNS
        library_call("mount", b"none", b"/", b"", 0x44000, b"")  # MS_REC | MS_PRIVATE
        bind = 0x1000
        library_call("mount", b"/proc/self/ns/net", os.fsencode(private / "net"), b"", bind, b"")
        library_call("mount", b"/proc/version", os.fsencode(private / "other"), b"", bind, b"")
        library_call("mount", b"nsfs", os.fsencode(private / "named"), b"tmpfs", 0, b"")
        os.open(private / "net", os.O_RDONLY)  # in use
        directory = os.open(private, os.O_PATH)
        names = ("net", "other", "net", "named")
        answers = [unmount_namespace(directory, str(private / name)) for name in names]
        return [*answers, mounted_beneath(str(private))]

    left = [str(private / name) for name in ("other", "named")]
    assert in_a_child(act) == [True, False, False, False, left]


def test_a_namespace_file_that_cannot_be_unmounted_is_named(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = f"1 2 0:3 net:[1] {private}/net rw - nsfs nsfs rw - x\n".encode()
    paths = {"/proc/self/mountinfo": private / "mountinfo"}
    paths["/proc/self/mountinfo"].write_bytes(lines)
    monkeypatch.setattr(mounts, "open", lambda path, mode: paths[path].open(mode), raising=False)
    directory = os.open(private, os.O_PATH)
    with pytest.raises(OSError, match="net") as refusal:
        unmount_namespace(directory, str(private / "net"))
    os.close(directory)
    assert refusal.value.filename == str(private / "net")


def test_the_fifth_field_of_a_line_is_its_mount_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Escaped in octal where it holds a space, a tab, a newline or a backslash, proc_pid_mountinfo(5)."""
    lines = [
        rb"1 2 0:3 / /a rw - tmpfs tmpfs rw",
        rb"1 2 0:3 /a /b rw - tmpfs tmpfs rw",
        rb"1 2 0:3 / /a/x\040y\011\134 rw - tmpfs tmpfs rw",
        rb"1 2 0:3 / /a-beside rw - tmpfs tmpfs rw",
        b"1 2 0:3 / /a/\xff\\012 rw - tmpfs tmpfs rw",
    ]
    (tmp_path / "mountinfo").write_bytes(b"\n".join(lines) + b"\n")
    paths = {"/proc/self/mountinfo": tmp_path / "mountinfo"}
    monkeypatch.setattr(mounts, "open", lambda path, mode: paths[path].open(mode), raising=False)
    assert mounted_beneath("/a") == ["/a", "/a/x y\t\\", "/a/\udcff\n"]


@pytest.mark.usefixtures("needs_root")
def test_other_paths_are_those_of_other_mounts_of_it(private: Path) -> None:
    place, whole, part, file, hidden = (
        private / name for name in ("a place", "whole", "part", "file", "hidden")
    )
    (place / "in").mkdir(parents=True)
    (place / "in" / "program").touch()
    for directory in (whole, part, hidden, private / "other", private / "unrelated"):
        directory.mkdir()
    (private / "covered" / "in").mkdir(parents=True)
    file.touch()

    def act() -> list[str]:
        library_call("unshare", 0x00020000)
        library_call("mount", b"", b"/", b"", 1 << 18 | 0x4000, 0)
        assert other_paths(str(place)) == []
        for source, target in (
            (private / "other", private / "unrelated"),
            (place, private / "covered" / "in"),
            (private / "other", private / "covered"),  # on top of its parent
            (private, whole),
            (place / "in", part),
            (place / "in" / "program", file),
            (place, hidden),
            (private / "other", hidden),  # on top of it
        ):
            library_call("mount", bytes(source), bytes(target), b"", 0x1000, 0)
        library_call("mount", b"tmpfs", bytes(private / "other"), b"tmpfs", 0, 0)
        (private / "other" / "a place").mkdir()  # on another file system
        return other_paths(str(place))

    assert sorted(in_a_child(act)) == [str(file), str(part), str(whole / "a place")]


@pytest.mark.usefixtures("needs_root")
def test_other_paths_are_found_where_the_place_is_on_a_mount_of_its_own(private: Path) -> None:
    device, seen = private / "device", private / "seen"
    device.mkdir()
    seen.mkdir()

    def act() -> list[list[str]]:
        library_call("unshare", 0x00020000)
        library_call("mount", b"", b"/", b"", 1 << 18 | 0x4000, 0)
        library_call("mount", b"tmpfs", bytes(device), b"tmpfs", 0, 0)
        (device / "place").mkdir()
        library_call("mount", bytes(device), bytes(seen), b"", 0x1000, 0)
        return [other_paths(str(device / "place")), other_paths(str(device))]

    assert in_a_child(act) == [[str(seen / "place")], [str(seen)]]
