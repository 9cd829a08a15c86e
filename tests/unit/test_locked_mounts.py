"""Locked mounts, asked of the real kernel: what may be executed, what may be written, and that it stays so."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.linux import locked_mounts, namespaces, seccomp
from engine.linux.locked_mounts import Tree, UnusableError, confine, explain, probe
from engine.linux.mounts import MountFlag, clear_flags
from engine.linux.namespaces import IdMaps, Range, possible_maps
from engine.linux.syscall import MOUNT_SETATTR, MOVE_MOUNT, OPEN_TREE, library_call
from tests.in_a_child import in_a_child
from tests.old_kernel import forget, skip_if_it_cannot_be_made

NEW_MOUNT_NAMESPACE, RECURSIVE, PRIVATE, SHARED = 0x00020000, 0x4000, 1 << 18, 1 << 20
#: Ids that overlap, which the kernel refuses.
IMPOSSIBLE = IdMaps((Range(0, 0, 2), Range(1, 1, 2)), (Range(0, 0, 1),), "all")

pytestmark = pytest.mark.usefixtures("needs_root")


@pytest.fixture
def place(private: Path) -> Path:
    """A directory with `allowed/true`, `allowed/inner/true` and `other/true`, which load no other file."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("needs busybox-static: a program that loads no other file")
    for name in ("other", "allowed", "allowed/inner"):
        (private / name).mkdir()
        shutil.copy(busybox, private / name / "true")
    return private


def tree(path: Path, *, read_only: bool = False) -> Tree:
    status = path.stat()
    return Tree(str(path), (status.st_dev, status.st_ino), read_only)


def run(program: Path | str) -> int:
    """The exit code of the program, or the number of the error that kept it from being executed."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(program, [str(program)], {}), 0)[1])
    except OSError as error:
        return error.errno or 255


def write(directory: Path) -> int:
    """The number of the error that keeps a file from being made in the directory, or 0."""
    try:
        (directory / "made").touch()
    except OSError as error:
        return error.errno or 255
    return 0


def mount(source: str, target: Path | str, kind: str, flags: int) -> int:
    """mount(2): its error number, or 0."""
    try:
        library_call("mount", source.encode(), str(target).encode(), kind.encode(), flags, 0)
    except OSError as error:
        return error.errno or 255
    return 0


def new_mount_namespace(propagation: int = PRIVATE) -> None:
    library_call("unshare", NEW_MOUNT_NAMESPACE)
    assert mount("", "/", "", propagation | RECURSIVE) == 0


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("which", [0, -1], ids=["every id", "one id"])
@pytest.mark.parametrize("sealed", [True, False])
def test_only_what_lies_in_the_trees_can_be_executed(place: Path, which: int, sealed: bool) -> None:
    def act() -> list[int]:
        confine(possible_maps()[which], [tree(place / "allowed", read_only=True)], sealed=sealed)
        return [
            run(place / "allowed" / "true"),
            run(place / "allowed" / "inner" / "true"),
            run(place / "other" / "true"),
            run("/bin/true"),
            write(place / "allowed"),
            write(place / "other"),
        ]

    assert in_a_child(act) == [0, 0, errno.EACCES, errno.EACCES, errno.EROFS, 0]


def test_whoever_had_every_id_still_has_them(place: Path) -> None:
    def act() -> bool:
        before = Path("/proc/self/uid_map").read_text().split()
        confine(possible_maps()[0], [tree(place / "allowed")], sealed=False)
        return Path("/proc/self/uid_map").read_text().split() == before

    assert in_a_child(act)


def test_it_cannot_be_taken_back(place: Path) -> None:
    def act() -> tuple[list[int], int, bool]:
        confine(possible_maps()[0], [tree(place / "allowed")], sealed=False)
        answers = []
        for flag in (MountFlag.NO_EXEC, MountFlag.NO_SUID):
            try:
                clear_flags("/", flag)
            except OSError as error:
                answers.append(error.errno or 255)
        flags = os.statvfs("/").f_flag & (os.ST_NOEXEC | os.ST_NOSUID)
        return answers, flags, "NoNewPrivs:\t1" in Path("/proc/self/status").read_text()

    assert in_a_child(act) == ([errno.EPERM] * 2, os.ST_NOEXEC | os.ST_NOSUID, True)


@pytest.mark.parametrize(("sealed", "answer"), [(True, errno.EPERM), (False, 0)])
def test_sealed_is_that_nothing_executable_is_mounted_either(place: Path, sealed: bool, answer: int) -> None:
    def act() -> int:
        confine(possible_maps()[0], [tree(place / "allowed", read_only=True)], sealed=sealed)
        return mount("tmpfs", place / "other", "tmpfs", 0)

    assert in_a_child(act) == answer


@pytest.mark.parametrize("order", [1, -1])
def test_a_tree_in_another_keeps_what_is_its_own(place: Path, order: int) -> None:
    trees = [tree(place / "allowed"), tree(place / "allowed" / "inner", read_only=True)][::order]

    def act() -> list[int]:
        confine(possible_maps()[0], trees, sealed=False)
        return [
            write(place / "allowed"),
            write(place / "allowed" / "inner"),
            run(place / "allowed" / "inner" / "true"),
        ]

    assert in_a_child(act) == [0, errno.EROFS, 0]


def test_what_is_mounted_in_a_tree_is_as_the_tree_and_what_is_mounted_elsewhere_as_the_rest(
    place: Path,
) -> None:
    def act() -> list[int]:
        new_mount_namespace()
        for name in ("allowed/inner", "other"):
            assert mount("tmpfs", place / name, "tmpfs", 0) == 0
            shutil.copy(place / "allowed" / "true", place / name / "true")
        confine(possible_maps()[0], [tree(place / "allowed", read_only=True)], sealed=False)
        return [
            run(place / "allowed" / "inner" / "true"),
            write(place / "allowed" / "inner"),
            run(place / "other" / "true"),
        ]

    assert in_a_child(act) == [0, errno.EROFS, errno.EACCES]


def test_what_is_mounted_outside_later_does_not_come_in(place: Path) -> None:
    def act() -> int:
        new_mount_namespace(SHARED)
        mounted, told = os.pipe()

        def confined() -> int:
            confine(possible_maps()[0], [tree(place / "allowed")], sealed=False)
            os.write(ready, b"\n")
            os.read(mounted, 1)
            return run(place / "other" / "true")

        go, ready = os.pipe()
        if os.fork() == 0:
            try:
                os.read(go, 1)
                assert mount(str(place / "allowed"), place / "other", "", 0x1000) == 0
            finally:
                os.write(told, b"\n")
                os._exit(0)
        answer = in_a_child(confined)
        os.wait()
        assert run(place / "other" / "true") == 0
        assert (place / "other" / "inner").exists()
        return answer

    assert in_a_child(act) == errno.EACCES


def test_a_tree_that_was_replaced_meanwhile_is_refused(place: Path) -> None:
    known = tree(place / "allowed")
    (place / "allowed").rename(place / "gone")
    (place / "other").rename(place / "allowed")

    def act() -> tuple[int | None, str, str | None, bool]:
        before = descriptors()
        try:
            confine(possible_maps()[0], [known], sealed=False)
        except OSError as error:
            return error.errno, error.filename, error.strerror, descriptors() == before
        raise AssertionError("it was taken")

    assert in_a_child(act) == (errno.ESTALE, known.path, "it was replaced meanwhile", True)


def test_a_socket_that_is_bound_into_the_container_is_a_tree_too(place: Path) -> None:
    """It cannot be opened but by O_PATH."""
    path = place / "allowed" / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))

    def act() -> bool:
        confine(possible_maps()[0], [tree(path, read_only=True)], sealed=False)
        return not os.statvfs(path).f_flag & os.ST_NOEXEC

    assert in_a_child(act)


@pytest.mark.parametrize(
    ("number", "read_only", "about"),
    [
        (OPEN_TREE, False, "allowed"),
        (MOVE_MOUNT, False, "allowed"),
        (MOUNT_SETATTR, False, ""),
        (MOUNT_SETATTR, True, "allowed"),
    ],
)
def test_a_kernel_that_lacks_one_of_the_calls_is_too_old(
    place: Path, number: int, read_only: bool, about: str
) -> None:
    skip_if_it_cannot_be_made()

    def act() -> str:
        forget(number)
        try:
            probe([tree(place / "allowed", read_only=read_only)], sealed=False)
        except UnusableError as error:
            return error.why
        raise AssertionError("it was usable")

    what = place / about if about else "/"
    assert in_a_child(act) == f"{what}: Function not implemented; it takes Linux 5.12"


def test_it_leaves_no_descriptor_by_which_the_old_mounts_could_be_reached(place: Path) -> None:
    def act() -> bool:
        before = descriptors()
        confine(possible_maps()[0], [tree(place / "allowed", read_only=True)], sealed=False)
        return descriptors() == before

    assert in_a_child(act)


# --- The trial ------------------------------------------------------------------------------------------------


def test_the_trial_says_which_ids_can_be_mapped_and_leaves_the_caller_free(place: Path) -> None:
    best, single = possible_maps()
    before = descriptors(), os.readlink("/proc/self/ns/user"), os.readlink("/proc/self/ns/mnt")
    assert probe([tree(place / "allowed")], sealed=True) == best
    assert (best.kind, single.kind) == ("all", "single")
    assert (descriptors(), os.readlink("/proc/self/ns/user"), os.readlink("/proc/self/ns/mnt")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert run(place / "other" / "true") == 0


def test_where_the_best_map_is_refused_the_next_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    (_, single), caller = possible_maps(), os.getpid()

    def maps() -> list[IdMaps]:
        return [IMPOSSIBLE, single] if os.getpid() == caller else possible_maps()

    monkeypatch.setattr(namespaces, "possible_maps", maps)
    assert probe([], sealed=False) == single


def test_where_no_map_is_possible_the_last_error_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "possible_maps", lambda: [IMPOSSIBLE])
    with pytest.raises(UnusableError) as refusal:
        probe([], sealed=False)
    assert refusal.value.why == str(refusal.value)
    assert re.fullmatch(
        r"the ids of a user namespace \(all\): /proc/\d+/uid_map: Invalid argument", refusal.value.why
    )
    assert refusal.value.remedy == (
        "allow user namespaces and mounts in them where this system is confined (seccomp, a container)"
    )


@pytest.mark.parametrize("name", ["gone", "gone-\udcff"])
def test_a_tree_that_is_not_there_is_named(place: Path, name: str) -> None:
    with pytest.raises(UnusableError) as refusal:
        probe([Tree(str(place / name), (1, 2), read_only=False)], sealed=False)
    assert refusal.value.why == f"{place / name}: No such file or directory"


def test_a_kernel_that_does_not_lock_the_flags_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locked_mounts, "set_flags_everywhere", lambda flags: None)
    with pytest.raises(UnusableError, match=r"^/: this kernel does not lock the flags of mounts$"):
        probe([], sealed=False)


def test_the_trial_tries_to_take_the_flags_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first namespace alone that can be done, as on a kernel that does not lock them."""
    entered: list[IdMaps] = []

    def enter(maps: IdMaps) -> None:
        if not entered:
            enter_namespaces(maps)
        entered.append(maps)

    enter_namespaces = namespaces.enter
    monkeypatch.setattr(namespaces, "enter", enter)
    with pytest.raises(UnusableError, match=r"^/: this kernel does not lock the flags of mounts$"):
        probe([], sealed=False)


def refuses(*_: Any) -> None:
    raise OSError(errno.ENOSYS, "Function not implemented", "PR_SET_SECCOMP")


@pytest.mark.parametrize(
    ("step", "sealed", "refused"),
    [
        ("forbid_executable_mounts", True, True),
        ("forbid_executable_mounts", False, False),
        ("set_no_new_privileges", False, True),
    ],
)
def test_the_filter_is_tried_where_it_will_be_wanted(
    monkeypatch: pytest.MonkeyPatch, step: str, sealed: bool, refused: bool
) -> None:
    monkeypatch.setattr(seccomp, step, refuses)
    if not refused:
        assert probe([], sealed=sealed) == possible_maps()[0]
        return
    with pytest.raises(
        UnusableError, match=r"^PR_SET_SECCOMP: Function not implemented; it takes Linux 5.12$"
    ):
        probe([], sealed=sealed)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise RuntimeError("a fault")


@pytest.mark.parametrize("end", [die, fail])
def test_a_trial_that_ends_without_an_answer_is_no_success(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[], None]
) -> None:
    monkeypatch.setattr(seccomp, "set_no_new_privileges", end)
    with pytest.raises(UnusableError, match=r"^locked mounts: the trial ended without an answer$"):
        probe([], sealed=False)


# --- What an error means --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "why", "remedy"),
    [
        (
            OSError(errno.ENOSYS, "Function not implemented", "/"),
            "/: Function not implemented; it takes Linux 5.12",
            "boot a newer kernel",
        ),
        (
            OSError(errno.EINVAL, "Invalid argument", "a new user namespace"),
            "a new user namespace: Invalid argument: this process has threads",
            "start the run from a process of its own",
        ),
        (
            OSError(errno.EINVAL, "Invalid argument", "/"),
            "/: Invalid argument",
            "allow user namespaces and mounts in them where this system is confined (seccomp, a container)",
        ),
        (
            OSError(errno.EPERM, "Operation not permitted", "a new user namespace"),
            "a new user namespace: Operation not permitted",
            "allow user namespaces and mounts in them where this system is confined (seccomp, a container)",
        ),
    ],
)
def test_an_error_of_the_kernel_is_explained_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, error: OSError, why: str, remedy: str
) -> None:
    monkeypatch.setattr(namespaces, "sysctl", lambda name: None)
    found = explain(error)
    assert (found.why, found.remedy) == (why, remedy)
