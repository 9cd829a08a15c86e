"""Locked mounts: what the kernel holds a process to once it has confined itself, and how a trial is answered."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import shutil
import signal
import socket
import struct
import tempfile
import termios
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.linux import locked_mounts, namespaces, seccomp
from engine.linux.locked_mounts import Tree, UnusableError, explain, prepare, probe
from engine.linux.mounts import MountFlag, clear_flags
from engine.linux.namespaces import IdMaps, possible_maps
from engine.linux.syscall import MOUNT_SETATTR, MOVE_MOUNT, OPEN_TREE, library_call
from tests.support.forked import become_ordinary, can_run, failure, in_a_child
from tests.support.objects import values
from tests.support.old_kernel import forget, skip_if_it_cannot_be_made

SINGLE = IdMaps(((0, 1000, 1),), ((0, 1000, 1),), "single")
MANY = IdMaps(((0, 0, 10),), ((0, 0, 10),), "all")
NEW_MOUNT_NAMESPACE, RECURSIVE, PRIVATE, SHARED = 0x00020000, 0x4000, 1 << 18, 1 << 20
REMOUNT, BIND = 0x20, 0x1000
FLAGS = MountFlag.NO_EXEC | MountFlag.NO_SUID
LOCKED = os.ST_NOEXEC | os.ST_RDONLY


@pytest.fixture
def needs_filters() -> None:
    skip_if_it_cannot_be_made()


def tree(path: Path, *, read_only: bool = False, executable: bool = True) -> Tree:
    status = path.stat()
    return Tree(str(path), (status.st_dev, status.st_ino), read_only, executable)


def confine(maps: IdMaps, trees: list[Tree], *, sealed: bool) -> None:
    with prepare(maps, trees, sealed=sealed) as found:
        locked_mounts.confine(found, sealed=sealed)


def status_of(key: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{key}:"))


def mount(source: str, target: Path | str, kind: str, flags: int) -> int:
    """mount(2): its error number, or 0."""
    try:
        library_call("mount", source.encode(), str(target).encode(), kind.encode(), flags, 0)
    except OSError as error:
        return error.errno or 255
    return 0


def write(directory: Path) -> int:
    """The number of the error that keeps a file from being made in the directory, or 0."""
    try:
        (directory / "made").touch()
    except OSError as error:
        return error.errno or 255
    return 0


def new_mount_namespace(propagation: int = PRIVATE) -> None:
    library_call("unshare", NEW_MOUNT_NAMESPACE)
    assert mount("", "/", "", propagation | RECURSIVE) == 0


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def programs(private: Path) -> tuple[Path, Path]:
    """Two directories, each with a program that needs no other file; `inner` in the first has one, too."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("needs busybox-static: a program that loads no other file")
    kept, other = private / "kept", private / "other"
    for place in (kept, other, kept / "inner"):
        place.mkdir()
        shutil.copy(busybox, place / "true")
    return kept, other


@pytest.mark.parametrize("which", [0, -1], ids=["every id", "one id"])
@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("read_only", [True, False])
def test_only_programs_in_a_tree_run_and_it_cannot_be_undone(
    programs: tuple[Path, Path], which: int, sealed: bool, read_only: bool
) -> None:
    kept, other = programs
    if sealed:
        skip_if_it_cannot_be_made()

    def act() -> dict[str, Any]:
        confine(possible_maps()[which], [tree(kept, read_only=read_only)], sealed=sealed)
        return {
            "runs": [can_run(str(path)) for path in (kept / "true", other / "true", Path("/bin/true"))],
            "undone": [failure(lambda flag=flag: clear_flags("/", flag))[0] for flag in FLAGS],  # type: ignore[misc]
            "flags": os.statvfs("/").f_flag & (os.ST_NOEXEC | os.ST_NOSUID),
            "write": [write(kept), write(other)],
            "mount": mount("tmpfs", other, "tmpfs", 0) if sealed else errno.EPERM,
            "new_privileges": status_of("NoNewPrivs"),
            "filter": status_of("Seccomp"),
        }

    expected: dict[str, Any] = {
        "runs": [0, 13, 13],
        "undone": [errno.ENOSYS if sealed else errno.EPERM] * 2,
        "flags": os.ST_NOEXEC | os.ST_NOSUID,
        "write": [errno.EROFS if read_only else 0, errno.EROFS if sealed else 0],
        "mount": errno.EPERM,
        "new_privileges": "1",
        "filter": "2" if seccomp.is_known_machine() else "0",
    }
    assert in_a_child(act) == expected
    assert can_run("/bin/true") == 0


@pytest.mark.usefixtures("needs_filters")
def test_where_it_is_sealed_other_names_of_a_program_cannot_be_written(programs: tuple[Path, Path]) -> None:
    """A hard link beside the tree, another mount of it, and a working directory in it; what is listed can be."""
    kept, other = programs
    os.link(kept / "true", other / "link")
    written = other / "written"
    written.mkdir()

    def act() -> list[int | None]:
        namespaces.enter(possible_maps()[0])
        again = other / "again"
        again.mkdir()
        assert mount(str(kept), again, "", BIND) == 0
        os.chdir(kept)
        trees = [tree(kept, read_only=True), tree(written, executable=False)]
        confine(possible_maps()[0], trees, sealed=True)

        def opened(path: Path | str) -> int | None:
            return failure(lambda: os.close(os.open(path, os.O_WRONLY)))[0]

        shutil.copy(kept / "true", written / "true")
        return [
            *(opened(path) for path in (other / "link", again / "true", "true")),
            write(again),
            write(Path()),
            write(written),
            can_run(str(written / "true")),
            failure(lambda: os.link(kept / "true", written / "link"))[0],
        ]

    read_only = [errno.EROFS] * 5
    assert in_a_child(act) == [*read_only, 0, errno.EACCES, errno.EXDEV]


@pytest.mark.usefixtures("needs_filters")
def test_what_the_kernel_provides_stays_writable_where_it_is_sealed() -> None:
    def act() -> list[int]:
        confine(possible_maps()[0], [], sealed=True)
        return [os.statvfs(path).f_flag & os.ST_RDONLY for path in ("/proc", "/")]

    assert in_a_child(act) == [0, os.ST_RDONLY]


@pytest.mark.usefixtures("needs_filters")
@pytest.mark.parametrize("sealed", [True, False])
def test_no_input_is_put_into_a_terminal(sealed: bool) -> None:
    def act() -> list[int | None]:
        os.setsid()
        _, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSCTTY, 0)
        confine(possible_maps()[0], [], sealed=sealed)
        return [
            *(failure(lambda how=how: fcntl.ioctl(inner, how, b"x"))[0] for how in (termios.TIOCSTI, 0x541C)),  # type: ignore[misc]
            failure(lambda: library_call("ioctl", inner, 1 << 32 | termios.TIOCSTI, 0))[0],
            struct.unpack("i", fcntl.ioctl(inner, termios.FIONREAD, bytes(4)))[0],
        ]

    assert in_a_child(act) == [*[errno.EPERM] * 3, 0]


@pytest.mark.usefixtures("needs_root")
def test_an_ordinary_user_confines_itself_as_well(programs: tuple[Path, Path]) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # the tests' own is of root alone
        kept, other = (Path(shutil.copytree(place, directory / place.name)) for place in programs)

        def act() -> list[Any]:
            become_ordinary()
            maps = possible_maps()[-1]
            with probe([tree(kept)], sealed=False) as found:
                assert vars(found.ids) == vars(maps)
            confine(maps, [tree(kept)], sealed=False)
            return [can_run(str(path)) for path in (kept / "true", other / "true", Path("/bin/true"))]

        assert in_a_child(act) == [0, 13, 13]


def test_whoever_had_every_id_still_has_them(programs: tuple[Path, Path]) -> None:
    kept, _ = programs

    def act() -> bool:
        before = Path("/proc/self/uid_map").read_text().split()
        confine(possible_maps()[0], [tree(kept)], sealed=False)
        return Path("/proc/self/uid_map").read_text().split() == before

    assert in_a_child(act)


@pytest.mark.parametrize("order", [1, -1])
def test_a_tree_in_another_keeps_what_is_its_own(programs: tuple[Path, Path], order: int) -> None:
    kept, _ = programs
    trees = [tree(kept), tree(kept / "inner", read_only=True)][::order]

    def act() -> list[int]:
        confine(possible_maps()[0], trees, sealed=False)
        return [
            write(kept),
            write(kept / "inner"),
            can_run(str(kept / "inner" / "true")),
        ]

    assert in_a_child(act) == [0, errno.EROFS, 0]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("which", [0, -1], ids=["every id", "one id"])
def test_file_in_a_tree_that_is_not_executable_runs_alone(
    programs: tuple[Path, Path], which: int, order: int
) -> None:
    """As a staged file does: neither its other names nor its neighbours run, and none of them can be written."""
    kept, _ = programs
    (kept / "stage").mkdir()
    os.link(kept / "true", kept / "stage" / "true")
    shutil.copy(kept / "true", kept / "stage" / "beside")
    shutil.copy(kept / "true", kept / "inner" / "written")
    trees = [
        tree(kept, read_only=True, executable=False),
        tree(kept / "inner", executable=False),
        tree(kept / "stage" / "true", read_only=True),
    ][::order]

    def act() -> dict[str, Any]:
        confine(possible_maps()[which], trees, sealed=False)
        file, beside = kept / "stage" / "true", kept / "stage" / "beside"
        return {
            "runs": [can_run(str(path)) for path in (file, beside, kept / "true", kept / "inner" / "true")],
            "write": [write(place) for place in (kept, kept / "stage", kept / "inner")],
            "open": [
                failure(lambda path=path: os.open(path, os.O_WRONLY))[0]  # type: ignore[misc]
                for path in (file, beside, kept / "true")
            ],
            "mode": failure(lambda: file.chmod(0o777))[0],
            "rename": failure(lambda: file.rename(kept / "inner" / "taken"))[0],
            "link": failure(lambda: os.link(file, kept / "inner" / "taken"))[0],
            "unmount": failure(lambda: library_call("umount2", os.fsencode(file), 2))[0],
            "remount": mount("", file, "", REMOUNT | BIND),
        }

    assert in_a_child(act) == {
        "runs": [0, errno.EACCES, errno.EACCES, errno.EACCES],
        "write": [errno.EROFS, errno.EROFS, 0],
        "open": [errno.EROFS] * 3,
        "mode": errno.EROFS,
        "rename": errno.EXDEV,
        "link": errno.EXDEV,
        "unmount": errno.EINVAL,
        "remount": errno.EPERM,
    }


def test_tree_named_by_a_link_is_beneath_what_is_inside_of_it(programs: tuple[Path, Path]) -> None:
    """However deep the link is."""
    kept, other = programs
    (other / "deep" / "deeper").mkdir(parents=True)
    link = other / "deep" / "deeper" / "link"
    link.symlink_to(kept)
    trees = [tree(link), tree(kept / "inner", read_only=True, executable=False)]

    def act() -> list[int]:
        confine(possible_maps()[0], trees, sealed=False)
        return [can_run(str(kept / "true")), can_run(str(kept / "inner" / "true")), write(kept / "inner")]

    assert in_a_child(act) == [0, errno.EACCES, errno.EROFS]


@pytest.mark.parametrize("gone", [False, True])
def test_working_directory_is_on_the_tree_and_not_beneath_it(programs: tuple[Path, Path], gone: bool) -> None:
    kept, _ = programs

    def act() -> tuple[str, int]:
        os.chdir(kept / "inner")
        trees = [tree(kept, read_only=True, executable=False)]
        if gone:
            shutil.rmtree(kept / "inner")
        confine(possible_maps()[0], trees, sealed=False)
        return os.getcwd(), 0 if gone else write(Path())

    assert in_a_child(act) == ("/" if gone else str(kept / "inner"), 0 if gone else errno.EROFS)


def test_mount_in_a_tree_gets_the_flags_of_the_tree(
    programs: tuple[Path, Path],
) -> None:
    kept, other = programs

    def act() -> list[int]:
        new_mount_namespace()
        for directory in (kept / "inner", other):
            assert mount("tmpfs", directory, "tmpfs", 0) == 0
            shutil.copy(kept / "true", directory / "true")
        confine(possible_maps()[0], [tree(kept, read_only=True)], sealed=False)
        return [
            can_run(str(kept / "inner" / "true")),
            write(kept / "inner"),
            can_run(str(other / "true")),
        ]

    assert in_a_child(act) == [0, errno.EROFS, errno.EACCES]


def test_what_is_mounted_outside_later_does_not_come_in(programs: tuple[Path, Path]) -> None:
    kept, other = programs

    def act() -> int:
        new_mount_namespace(SHARED)
        mounted, told = os.pipe()

        def confined() -> int:
            confine(possible_maps()[0], [tree(kept)], sealed=False)
            os.write(ready, b"\n")
            os.read(mounted, 1)
            return can_run(str(other / "true"))

        go, ready = os.pipe()
        if os.fork() == 0:
            try:
                os.read(go, 1)
                assert mount(str(kept), other, "", 0x1000) == 0
            finally:
                os.write(told, b"\n")
                os._exit(0)
        answer = in_a_child(confined)
        os.wait()
        assert can_run(str(other / "true")) == 0
        assert (other / "inner").exists()
        return answer

    assert in_a_child(act) == errno.EACCES


def test_a_socket_that_is_bound_into_the_container_is_a_tree_too(programs: tuple[Path, Path]) -> None:
    """It cannot be opened but by O_PATH."""
    kept, _ = programs
    path = kept / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))

    def act() -> bool:
        confine(possible_maps()[0], [tree(path, read_only=True)], sealed=False)
        return not os.statvfs(path).f_flag & os.ST_NOEXEC

    assert in_a_child(act)


@pytest.mark.parametrize(
    ("number", "read_only", "is_the_tree"),
    [
        (OPEN_TREE, False, True),
        (MOVE_MOUNT, False, True),
        (MOUNT_SETATTR, False, False),
        (MOUNT_SETATTR, True, True),
    ],
)
def test_a_kernel_that_lacks_one_of_the_calls_is_too_old(
    programs: tuple[Path, Path], number: int, read_only: bool, is_the_tree: bool
) -> None:
    kept, _ = programs
    skip_if_it_cannot_be_made()

    def act() -> str:
        forget(number)
        try:
            probe([tree(kept, read_only=read_only)], sealed=False)
        except UnusableError as error:
            return error.why
        raise AssertionError("it was usable")

    assert in_a_child(act) == f"{kept if is_the_tree else '/'}: Function not implemented; it needs Linux 5.12"


def test_confine_leaves_no_descriptor_of_the_old_mounts(
    programs: tuple[Path, Path],
) -> None:
    kept, _ = programs

    def act() -> bool:
        before = descriptors()
        confine(possible_maps()[0], [tree(kept, read_only=True)], sealed=False)
        return descriptors() == before

    assert in_a_child(act)


def test_a_tree_that_was_replaced_is_not_taken(private: Path) -> None:
    (private / "a").mkdir()
    known = tree(private / "a")
    (private / "a").rmdir()
    (private / "b").mkdir()
    (private / "a").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for wrong in (
        Tree(known.path, (known.identity[0], known.identity[1] + 1_000_000), read_only=False),
        Tree(known.path, (known.identity[0] + 1, tree(private / "a").identity[1]), read_only=False),
    ):
        assert failure(lambda wrong=wrong: locked_mounts._open(wrong)) == (  # type: ignore[misc]
            errno.ESTALE,
            "it was replaced",
            str(private / "a"),
        )
    assert len(os.listdir("/proc/self/fd")) == before
    place = locked_mounts._open(tree(private / "a"))
    assert not os.get_inheritable(place)
    os.close(place)


# --- The order ------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of a kernel that does nothing, in its order; descriptors are the letters of the paths."""
    told: list[Any] = []

    def tell(name: str, answer: Callable[..., Any] = lambda *_: None) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            told.append((name, *arguments))
            return answer(*arguments)

        return call

    monkeypatch.setattr(namespaces, "enter", tell("enter"))
    monkeypatch.setattr(namespaces, "possible_maps", lambda: [MANY, SINGLE])
    monkeypatch.setattr(locked_mounts, "_open", lambda tree: f"open {tree.path}")
    for name in ("set_flags", "set_flags_everywhere", "attach_tree", "make_kernel_file_systems_writable"):
        monkeypatch.setattr(locked_mounts, name, tell(name))
    monkeypatch.setattr(locked_mounts, "clone_tree", tell("clone", lambda _, path: f"clone {path}"))
    monkeypatch.setattr(locked_mounts, "os", SimpleNamespace(close=tell("close")))
    return told


@pytest.mark.parametrize("sealed", [True, False])
def test_exceptions_are_cloned_before_flags_are_set_and_locked(asked: list[Any], sealed: bool) -> None:
    locked_mounts._lock(
        SINGLE, [Tree("/a/b", (1, 2), read_only=True), Tree("/c", (1, 3), read_only=False)], sealed=sealed
    )
    assert asked == [
        ("enter", SINGLE),
        ("clone", "open /c", "/c"),
        ("clone", "open /a/b", "/a/b"),
        ("set_flags", "clone /a/b", MountFlag.READ_ONLY, "/a/b"),
        *(
            [("set_flags_everywhere", FLAGS | MountFlag.READ_ONLY), ("make_kernel_file_systems_writable",)]
            if sealed
            else [("set_flags_everywhere", FLAGS)]
        ),
        ("attach_tree", "clone /c", "open /c", "/c"),
        ("attach_tree", "clone /a/b", "open /a/b", "/a/b"),
        *(
            ("close", each)
            for each in ("open /a/b", "open /c", "clone /a/b", "open /a/b", "clone /c", "open /c")
        ),
        ("enter", MANY),
    ]


# --- The trial ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_child_left")
def test_trial_leaves_its_caller_free_and_returns_the_ids() -> None:
    before = os.readlink("/proc/self/ns/user"), os.readlink("/proc/self/ns/mnt")
    descriptors = len(os.listdir("/proc/self/fd"))
    for sealed in (False, seccomp.is_known_machine()):
        with probe([], sealed=sealed) as found:
            assert values(found.ids) in values(possible_maps())
    assert (os.readlink("/proc/self/ns/user"), os.readlink("/proc/self/ns/mnt")) == before
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert can_run("/bin/true") == 0


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> dict[str, OSError | None]:
    """What stands in the way of each kind of ids."""
    answers: dict[str, OSError | None] = {}

    def try_it(maps: IdMaps, trees: Any, *, sealed: bool) -> None:
        if (trees, sealed) == ((), True) and (refusal := answers[maps.kind]) is not None:
            raise refusal

    monkeypatch.setattr(namespaces, "possible_maps", lambda: [MANY, SINGLE])
    monkeypatch.setattr(namespaces, "sysctl", lambda _: None)
    monkeypatch.setattr(locked_mounts, "_try", try_it)
    return answers


REFUSED = OSError(errno.EPERM, "Operation not permitted", "a new user namespace")


@pytest.mark.parametrize(("all_ids", "maps"), [(None, MANY), (REFUSED, SINGLE)])
def test_the_most_ids_that_can_be_had_are_taken(
    tried: dict[str, OSError | None], all_ids: OSError | None, maps: IdMaps
) -> None:
    tried |= {"all": all_ids, "single": None}
    with probe((), sealed=True) as found:
        assert found.ids is maps


def test_error_is_what_prevents_the_fewest_ids(tried: dict[str, OSError | None]) -> None:
    tried |= {"all": OSError(1, "another", "x"), "single": REFUSED}
    with pytest.raises(UnusableError) as refusal:
        probe((), sealed=True)
    error = refusal.value
    assert str(error) == error.why == "a new user namespace: Operation not permitted"
    assert error.hint == (
        "allow user namespaces and mounts in them where this system is confined (seccomp, a container)"
    )


def test_a_proc_that_cannot_be_read_makes_it_unusable(monkeypatch: pytest.MonkeyPatch) -> None:
    def possible_maps() -> list[IdMaps]:
        raise OSError(errno.ENOENT, "No such file or directory", "/proc/self/status")

    monkeypatch.setattr(namespaces, "possible_maps", possible_maps)
    with pytest.raises(UnusableError, match=r"^/proc/self/status: No such file or directory$"):
        probe((), sealed=False)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise RuntimeError("a fault")


@pytest.mark.parametrize("end", [die, fail])
def test_a_trial_that_ends_without_an_answer_is_no_success(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[], None]
) -> None:
    monkeypatch.setattr(seccomp, "set_no_new_privileges", end)
    with pytest.raises(UnusableError, match=r"^a child process: it ended without an answer$"):
        probe([], sealed=False)


@pytest.fixture
def in_the_child(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a trial does, of which nothing is done; `/` has the flag, and a list of what was asked is kept."""
    told: list[Any] = []
    monkeypatch.setattr(locked_mounts, "_lock", lambda *arguments, sealed: told.append((*arguments, sealed)))
    monkeypatch.setattr(locked_mounts, "clear_flags", lambda *arguments: told.append(arguments))
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=LOCKED if path == "/" else 0))
    monkeypatch.setattr(seccomp, "is_known_machine", lambda: True)
    monkeypatch.setattr(seccomp, "forbid_terminal_input", lambda: told.append("terminal"))
    monkeypatch.setattr(seccomp, "set_no_new_privileges", lambda: told.append("no_new_privileges"))
    monkeypatch.setattr(seccomp, "forbid_executable_mounts", lambda: told.append("filter"))
    return told


@pytest.mark.parametrize("sealed", [True, False])
def test_the_trial_does_all_of_it_and_tries_to_undo_it(in_the_child: list[Any], sealed: bool) -> None:
    locked_mounts._try(SINGLE, ("trees",), sealed=sealed)  # type: ignore[arg-type]
    assert in_the_child == [
        (SINGLE, ("trees",), sealed),
        ("/", MountFlag.NO_EXEC),
        *([("/", MountFlag.READ_ONLY)] if sealed else []),
        "no_new_privileges",
        "terminal",
        *(["filter"] if sealed else []),
    ]


@pytest.mark.parametrize("left", [os.ST_RDONLY | os.ST_NOSUID, os.ST_NOEXEC | os.ST_NOSUID])
def test_flags_that_could_be_undone_are_no_success(
    in_the_child: list[Any], monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=left))
    expected = errno.EOPNOTSUPP, "this kernel does not lock the flags of mounts", "/"
    assert failure(lambda: locked_mounts._try(SINGLE, (), sealed=True)) == expected
    assert "filter" not in in_the_child


def test_flags_that_cannot_be_cleared_are_what_is_hoped_for(
    in_the_child: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted", "/")

    monkeypatch.setattr(locked_mounts, "clear_flags", refuses)
    locked_mounts._try(SINGLE, (), sealed=True)
    assert in_the_child[-1] == "filter"


@pytest.mark.parametrize("name", ["gone", "gone-\udcff"])
def test_a_tree_that_is_not_there_is_named(private: Path, name: str) -> None:
    with pytest.raises(UnusableError) as refusal:
        probe([Tree(str(private / name), (1, 2), read_only=False)], sealed=False)
    assert refusal.value.why == f"{private / name}: No such file or directory"


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


# --- What the kernel meant ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "why", "hint"),
    [
        (
            OSError(errno.ENOSYS, "Function not implemented", "/a"),
            "/a: Function not implemented; it needs Linux 5.12",
            "boot a newer kernel",
        ),
        (
            OSError(errno.EINVAL, "Invalid argument", "a new user namespace"),
            "a new user namespace: Invalid argument: this process has threads",
            "start the run from a process of its own",
        ),
        (
            OSError(errno.EINVAL, "Invalid argument", "/a"),
            "/a: Invalid argument",
            "allow user namespaces and mounts in them where this system is confined (seccomp, a container)",
        ),
    ],
)
def test_what_stood_in_the_way_is_named_with_its_hint(
    monkeypatch: pytest.MonkeyPatch, error: OSError, why: str, hint: str
) -> None:
    monkeypatch.setattr(namespaces, "sysctl", lambda _: None)
    found = explain(error)
    assert (found.why, found.hint) == (why, hint)


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("user.max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
        ("kernel.unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        (
            "kernel.apparmor_restrict_unprivileged_userns",
            "1",
            (
                "give this Python an AppArmor profile with `userns,`, "
                "or sysctl kernel.apparmor_restrict_unprivileged_userns=0"
            ),
        ),
    ],
)
def test_each_ban_is_named_with_its_hint(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, hint: str
) -> None:
    monkeypatch.setattr(namespaces, "sysctl", {name: value}.get)
    found = explain(OSError(errno.EPERM, "Operation not permitted", "a new user namespace"))
    assert found.why == (
        f"user namespaces are forbidden by {name} = {value} (a new user namespace: Operation not permitted)"
    )
    assert found.hint == hint
    monkeypatch.setattr(namespaces, "sysctl", {name: "2"}.get)
    assert "forbidden" not in explain(OSError(errno.EPERM, "Operation not permitted", "x")).why
