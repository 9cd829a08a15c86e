"""User namespaces: which ids a new one is given, by whom, and that an error says what failed."""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.linux import locked_mounts, namespaces
from engine.linux.locked_mounts import UnusableError, explain
from engine.linux.namespaces import IdMaps, outside_uid, possible_maps, subordinate_ids
from engine.linux.syscall import library_call
from tests.support.forked import become_ordinary, failure, in_a_child
from tests.support.objects import values

UID, GID = 4242, 4343
SINGLE = IdMaps(((0, UID, 1),), ((0, GID, 1),), "single")


# --- Which ids ------------------------------------------------------------------------------------------------


def test_ranges_are_a_users_by_name_and_by_number(tmp_path: Path) -> None:
    path = tmp_path / "subuid"
    path.write_text("root:100000:65536\nbob:1:7\n0:300000:4\nroot:broken\nroot:1:x\nroot:x:1\n:::\n")
    assert subordinate_ids(str(path), 0) == [(100000, 65536), (300000, 4)]
    assert subordinate_ids(str(path), 4242) == []
    assert subordinate_ids(str(tmp_path / "none"), 0) == []


def test_a_user_without_an_account_stands_there_by_number_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getpwuid(uid: int) -> Any:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    path = tmp_path / "subuid"
    path.write_bytes(b"4242 : 1:2\nroot\xff:1:2\n 4242:7:8 \n4242:1:2:3\n4242:9:1\n")
    assert subordinate_ids(str(path), UID) == [(7, 8), (9, 1)]


def test_id_map_is_read_and_a_missing_one_is_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert namespaces.read_uid_map() == Path("/proc/self/uid_map").read_text()

    def no_proc(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr("builtins.open", no_proc)
    assert namespaces.read_uid_map() == ""


@pytest.mark.parametrize(
    ("uid_map", "answer"),
    [
        ("0 1000 1\n", True),
        ("0 0 4294967295\n", False),
        ("not a map\n1 2 x\n5 1000 1\n0 7 0\n0 1000 1\n0 0 1\n", True),
        ("", False),
    ],
)
def test_the_first_line_that_maps_root_decides(uid_map: str, answer: bool) -> None:
    assert namespaces.root_maps_to_unprivileged(uid_map) is answer


@pytest.mark.parametrize(
    ("uid_map", "owner_of_root", "unmapped"),
    [
        ("         0          0 4294967295\n", 0, False),
        ("0 0 4294967295\n", 65534, False),  # every id is mapped, so this is an owner as others
        ("0 0 1000\n", 0, False),
        ("0 0 1000\n", 65534, True),
        ("0 1000 1\n", 0, True),
    ],
)
def test_root_is_unmapped_if_mapped_elsewhere_or_owns_nothing(
    monkeypatch: pytest.MonkeyPatch, uid_map: str, owner_of_root: int, unmapped: bool
) -> None:
    overflow = int(Path("/proc/sys/kernel/overflowuid").read_text())
    owner = overflow if owner_of_root else 0
    monkeypatch.setattr(namespaces, "read_uid_map", lambda: uid_map)
    status = os.stat_result((0o40755, 2, 1, 1, owner, 0, 0, 0, 0, 0))
    monkeypatch.setattr(os, "stat", lambda path: status)
    assert namespaces.unmapped_uid() == (overflow if unmapped else None)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An ordinary user: what it has, and the helpers that are installed."""
    has: dict[str, Any] = {
        "/etc/subuid": [(100_000, 65_536), (300_000, 5)],
        "/etc/subgid": [(200_000, 7)],
        "newuidmap": "/usr/bin/newuidmap",
        "newgidmap": "/usr/bin/newgidmap",
    }

    def ids(path: str, uid: int) -> Any:
        assert uid == UID
        return has[path]

    monkeypatch.setattr(os, "geteuid", lambda: UID)
    monkeypatch.setattr(os, "getegid", lambda: GID)
    monkeypatch.setattr(namespaces, "subordinate_ids", ids)
    monkeypatch.setattr(namespaces, "_find", has.get)
    return has


def test_user_is_mapped_to_root_then_subordinate_ids(account: dict[str, Any]) -> None:
    assert values(possible_maps()) == values(
        [
            IdMaps(
                ((0, UID, 1), (1, 100_000, 65_536), (65_537, 300_000, 5)),
                ((0, GID, 1), (1, 200_000, 7)),
                "subordinate",
                ("/usr/bin/newuidmap", "/usr/bin/newgidmap"),
            ),
            SINGLE,
        ]
    )


@pytest.mark.parametrize("lacking", ["/etc/subuid", "/etc/subgid", "newuidmap", "newgidmap"])
def test_without_ranges_or_helpers_a_user_is_root_alone(account: dict[str, Any], lacking: str) -> None:
    account[lacking] = [] if lacking.startswith("/") else None
    assert values(possible_maps()) == values([SINGLE])


@pytest.mark.parametrize("may", [True, False])
def test_root_keeps_each_id_as_itself_where_it_may_say_so(monkeypatch: pytest.MonkeyPatch, may: bool) -> None:
    present = {"uid_map": ((0, 0, 3),), "gid_map": ((0, 0, 4),)}
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getegid", lambda: GID)
    monkeypatch.setattr(namespaces, "_may_set_ids", lambda: may)
    monkeypatch.setattr(namespaces, "_present", present.__getitem__)
    monkeypatch.setattr(namespaces, "_find", lambda _: None)
    single = IdMaps(((0, 0, 1),), ((0, GID, 1),), "single")
    everything = IdMaps(present["uid_map"], present["gid_map"], "all")
    assert values(possible_maps()) == values([everything, single] if may else [single])


@pytest.mark.parametrize(("uids", "gids", "alone"), [(1, 1, True), (2, 1, False), (1, 2, False)])
def test_single_id_is_mapped_without_a_helper(
    monkeypatch: pytest.MonkeyPatch, uids: int, gids: int, alone: bool
) -> None:
    present = {"uid_map": ((0, 0, uids),), "gid_map": ((0, 0, gids),)}
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getegid", lambda: 0)
    monkeypatch.setattr(namespaces, "_may_set_ids", lambda: True)
    monkeypatch.setattr(namespaces, "_present", present.__getitem__)
    single = IdMaps(((0, 0, 1),), ((0, 0, 1),), "single")
    everything = IdMaps(present["uid_map"], present["gid_map"], "all")
    assert values(possible_maps()) == values([single] if alone else [everything, single])


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize(("lost", "may"), [(None, True), (6, False), (7, False), (0, True)])
def test_whether_root_may_set_ids_is_a_matter_of_capabilities(lost: int | None, may: bool) -> None:
    """CAP_SETGID is 6 and CAP_SETUID 7, capabilities(7)."""

    def act() -> bool:
        if lost is not None:
            drop_capability(lost)
        return namespaces._may_set_ids()

    assert in_a_child(act) is may


def drop_capability(number: int) -> None:
    """Take it out of the effective set, capset(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    assert libc.capget(header, data) == 0
    effective, *others = struct.unpack("6I", data.raw)
    assert libc.capset(header, struct.pack("6I", effective & ~(1 << number), *others)) == 0


@pytest.mark.usefixtures("needs_root")
def test_an_ordinary_user_with_the_capabilities_is_not_root() -> None:
    def act() -> list[str]:
        library_call("prctl", 8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
        os.setresuid(4242, 4242, 4242)
        header = struct.pack("Ii", 0x20080522, 0)
        library_call("capset", header, struct.pack("6I", 0xC0, 0xC0, 0, 0, 0, 0))
        assert namespaces._may_set_ids()
        return [maps.kind for maps in possible_maps()]

    assert in_a_child(act) == ["single"]


@pytest.mark.parametrize(
    ("effective", "may"),
    [("00000000000000c0", True), ("0000000000000080", False), ("0000000000000040", False)],
)
def test_the_effective_capabilities_are_those_of_proc(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, effective: str, may: bool
) -> None:
    """As proc_pid_status(5) has them: the permitted ones do not count, and a name may be any bytes."""
    text = (
        b"Name:\t\xff\nCapInh:\t0\nCapPrm:\tffffffffff\nCapEff:\t" + effective.encode() + b"\nCapBnd:\tff\n"
    )
    (tmp_path / "status").write_bytes(text)
    redirect(monkeypatch, {"/proc/self/status": tmp_path / "status"})
    assert namespaces._may_set_ids() is may


@pytest.mark.parametrize("name", ["uid_map", "gid_map"])
def test_the_present_ids_are_each_themselves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("         0       1000          1\n         1     100000      65536\n")
    redirect(monkeypatch, {f"/proc/self/{name}": tmp_path / name})
    assert namespaces._present(name) == ((0, 0, 1), (1, 1, 65_536))


def redirect(monkeypatch: pytest.MonkeyPatch, paths: Mapping[str, Path]) -> None:
    """Have the module open other files for these."""
    monkeypatch.setattr(namespaces, "open", lambda path, **how: paths[path].open(**how), raising=False)


def test_the_helpers_are_looked_for_where_only_root_can_put_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    places = [tmp_path / name for name in ("a", "b", "c")]
    for place in places:
        place.mkdir()
    monkeypatch.setattr(namespaces, "_SYSTEM_PATHS", tuple(map(str, places)))
    assert namespaces._find("newuidmap") is None
    (places[0] / "newuidmap").touch(0o644)
    for place in places[1:]:
        (place / "newuidmap").touch(0o755)
    assert namespaces._find("newuidmap") == str(places[1] / "newuidmap")


def test_kernel_parameter_is_read_and_a_missing_one_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "value").write_text("10\n")
    redirect(monkeypatch, {"/proc/sys/user/max_user_namespaces": tmp_path / "value"})
    assert namespaces.sysctl("user.max_user_namespaces") == "10"
    monkeypatch.undo()
    assert namespaces.sysctl("kernel.no_such_parameter") is None


def test_ranges_are_lines_of_three_numbers() -> None:
    assert namespaces._text([(0, 1000, 1), (1, 100_000, 7)]) == "0 1000 1\n1 100000 7\n"


# --- Entering one ---------------------------------------------------------------------------------------------


HELPER = """#!/bin/sh
exec 9>> {log}
[ ! -e /proc/$$/fd/3 ] || echo more than standard files >&9
echo "$# $* $(env | grep -v ^PWD=) $(readlink /proc/self/fd/0)" >&9
echo loud; echo loud >&2
map="$2 $3 $4"
[ $# = 4 ] || map="$map
$5 $6 $7"
echo "$map" > /proc/$1/{file}
"""


@pytest.fixture
def helpers(private: Path) -> tuple[str, str]:
    """Stand for newuidmap(1) and newgidmap(1): root's shell writes what they would."""
    for name, file in (("newuidmap", "uid_map"), ("newgidmap", "gid_map")):
        (private / name).write_text(HELPER.format(log=private / f"{name}.log", file=file))
        (private / name).chmod(0o755)
    return str(private / "newuidmap"), str(private / "newgidmap")


RANGES = ((0, 0, 1), (1, 100_000, 5))


@pytest.mark.usefixtures("needs_root")
def test_helper_gets_the_process_and_its_ranges_only(
    helpers: tuple[str, str], private: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def act() -> list[Any]:
        os.environ["SECRET"] = "secret"
        before = os.readlink("/proc/self/ns/user"), os.readlink("/proc/self/ns/mnt")
        descriptors = set(os.listdir("/proc/self/fd"))
        namespaces.enter(IdMaps(RANGES, RANGES[:1], "subordinate", helpers))
        after = os.readlink("/proc/self/ns/user"), os.readlink("/proc/self/ns/mnt")
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        return [
            os.getpid(),
            [one != other for one, other in zip(before, after, strict=True)],
            set(os.listdir("/proc/self/fd")) == descriptors,
            *(Path(f"/proc/self/{name}").read_text().split() for name in ("uid_map", "gid_map")),
        ]

    process, *found = in_a_child(act)
    assert found == [[True, True], True, ["0", "0", "1", "1", "100000", "5"], ["0", "0", "1"]]
    rest = "PATH=/usr/bin:/bin:/usr/local/bin /dev/null\n"
    assert (private / "newuidmap.log").read_text() == f"7 {process} 0 0 1 1 100000 5 {rest}"
    assert (private / "newgidmap.log").read_text() == f"4 {process} 0 0 1 {rest}"
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("needs_root")
def test_failed_helper_is_named_and_the_next_is_not_run(helpers: tuple[str, str], private: Path) -> None:
    (private / "newuidmap").write_text("#!/bin/sh\nsleep 0.5\nexit 3\n")

    def act() -> Any:
        found = failure(lambda: namespaces.enter(IdMaps(RANGES, RANGES, "subordinate", helpers)))
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        return found

    assert in_a_child(act) == (errno.EPERM, "it ended with 3", helpers[0])
    assert not (private / "newgidmap.log").exists()


@pytest.mark.usefixtures("needs_root")
def test_a_helper_that_is_not_there_is_named_whatever_its_name(private: Path) -> None:
    maps = IdMaps(RANGES, RANGES, "subordinate", (f"{private}/none-é", f"{private}/none"))
    told = in_a_child(lambda: failure(lambda: namespaces.enter(maps)))
    assert told == (errno.ENOENT, "No such file or directory", f"{private}/none-é")


def test_a_file_is_written_in_place_and_what_refuses_it_is_named(private: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (private / "file").touch()
    namespaces._write(str(private / "file"), "0 0 1\n")
    assert (private / "file").read_text() == "0 0 1\n"
    assert failure(lambda: namespaces._write("/dev/full", "x")) == (
        errno.ENOSPC,
        "No space left on device",
        "/dev/full",
    )
    missing = str(private / "missing")
    assert failure(lambda: namespaces._write(missing, "x"))[0] == errno.ENOENT
    assert len(os.listdir("/proc/self/fd")) == before


def mapped(monkeypatch: pytest.MonkeyPatch, maps: IdMaps, *, go: bytes = b"\n") -> list[Any]:
    """What the child that stays outside does once it is told to `go`."""
    asked: list[Any] = []
    with monkeypatch.context() as patched:
        patched.setattr(os, "getppid", lambda: 42)
        patched.setattr(namespaces, "_write", lambda path, text: asked.append((path, text)))
        patched.setattr(namespaces, "_text", lambda ranges: f"text of {ranges}")
        patched.setattr(namespaces, "_run", lambda *arguments: asked.append(arguments))
        wait, start = os.pipe()
        os.write(start, go)
        namespaces._map_from_outside(maps, wait, start)
    os.close(wait)
    return asked


def test_child_maps_ids_once_its_parent_is_inside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uids: Any = "uids"
    gids: Any = "gids"
    written = [("/proc/42/uid_map", "text of uids"), ("/proc/42/gid_map", "text of gids")]
    assert mapped(monkeypatch, IdMaps(uids, gids, "all")) == written
    run = [("/bin/a", 42, "uids"), ("/bin/b", 42, "gids")]
    assert mapped(monkeypatch, IdMaps(uids, gids, "subordinate", ("/bin/a", "/bin/b"))) == run
    assert mapped(monkeypatch, IdMaps(uids, gids, "all"), go=b"") == []


def test_a_single_id_is_mapped_from_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """setgroups(2) is denied first, without which the kernel takes no gid, user_namespaces(7)."""
    asked: list[Any] = []
    monkeypatch.setattr(namespaces, "_unshare", lambda: asked.append("unshare"))
    monkeypatch.setattr(namespaces, "_write", lambda path, text: asked.append((path, text)))
    namespaces.enter(SINGLE)
    assert asked == [
        "unshare",
        ("/proc/self/setgroups", "deny"),
        ("/proc/self/uid_map", "0 4242 1\n"),
        ("/proc/self/gid_map", "0 4343 1\n"),
    ]


@pytest.mark.usefixtures("no_child_left")
@pytest.mark.parametrize("failed", [False, True])
def test_child_that_maps_ids_waits_for_the_namespaces(
    monkeypatch: pytest.MonkeyPatch, private: Path, failed: bool
) -> None:
    def from_outside(maps: IdMaps, go: int, gone: int) -> None:
        os.close(gone)
        given = os.read(go, 9)
        (private / "told").write_text(f"{maps.kind} {given!r} {(private / 'entered').exists()}")
        if failed:
            raise OSError(errno.EPERM, "it ended with 7", "newuidmap")

    monkeypatch.setattr(namespaces, "_map_from_outside", from_outside)
    monkeypatch.setattr(namespaces, "_unshare", (private / "entered").touch)
    before = len(os.listdir("/proc/self/fd"))
    maps = IdMaps(RANGES, RANGES, "subordinate", ("/bin/a", "/bin/b"))
    if failed:
        assert failure(lambda: namespaces.enter(maps)) == (errno.EPERM, "it ended with 7", "newuidmap")
    else:
        namespaces.enter(maps)
    assert (private / "told").read_text() == r"subordinate b'\n' True"
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("needs_root")
def test_a_file_of_the_kernel_that_takes_no_ids_is_named() -> None:
    assert in_a_child(lambda: failure(lambda: namespaces._write("/proc/self/uid_map", "0 0 1\n"))) == (
        errno.EPERM,
        "Operation not permitted",
        "/proc/self/uid_map",
    )


@pytest.mark.usefixtures("no_child_left")
def test_missing_namespace_is_reported_and_leaves_no_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unshare() -> None:
        raise OSError(28, "No space left on device", "a new user namespace")

    monkeypatch.setattr(namespaces, "_unshare", unshare)
    expected = 28, "No space left on device", "a new user namespace"
    before = len(os.listdir("/proc/self/fd"))
    for kind in ("all", "single"):
        assert failure(lambda kind=kind: namespaces.enter(IdMaps(RANGES, RANGES, kind))) == expected  # type: ignore[misc]
    assert len(os.listdir("/proc/self/fd")) == before


def test_both_namespaces_are_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        namespaces, "library_call", lambda *arguments, about: asked.append((*arguments, about))
    )
    namespaces._unshare()
    assert asked == [("unshare", 0x10000000 | 0x00020000, "a new user namespace")]


@pytest.mark.usefixtures("needs_root")
class TestRealKernel:
    def test_a_map_that_is_refused_is_named(self) -> None:
        maps = IdMaps(((0, 0, 0),), ((0, 0, 1),), "single")
        assert in_a_child(lambda: failure(lambda: namespaces.enter(maps))) == (
            errno.EINVAL,
            "Invalid argument",
            "/proc/self/uid_map",
        )

    def test_root_keeps_every_id_and_is_as_confined(self) -> None:
        def act() -> bool:
            maps, single = possible_maps()
            before = Path("/proc/self/uid_map").read_text().split()
            namespaces.enter(maps)
            same = Path("/proc/self/uid_map").read_text().split() == before
            return (maps.kind, single.kind, same, os.geteuid()) == ("all", "single", True, 0)

        assert in_a_child(act)

    def test_a_user_without_subordinate_ids_becomes_root_alone(self) -> None:
        def act() -> bool:
            become_ordinary()
            [maps] = possible_maps()
            namespaces.enter(maps)
            uid_map = Path("/proc/self/uid_map").read_text().split()
            return (uid_map, os.geteuid(), os.getegid()) == (["0", "4242", "1"], 0, 0)

        assert in_a_child(act)

    def test_a_map_that_the_kernel_refuses_is_an_error_that_says_so(self) -> None:
        def act() -> bool:
            become_ordinary()
            theirs = ((0, 4242, 1), (1, 100000, 65536))
            try:
                namespaces.enter(IdMaps(theirs, theirs, "all"))
            except PermissionError as error:
                return str(error.filename).endswith("/uid_map")
            return False

        assert in_a_child(act)

    def test_root_is_still_unmapped_in_a_second_namespace(self) -> None:
        def act() -> bool:
            become_ordinary()
            for _ in range(2):
                namespaces.enter(possible_maps()[-1])
            overflow = int(Path("/proc/sys/kernel/overflowuid").read_text())
            return namespaces.unmapped_uid() == os.stat("/").st_uid == overflow

        assert in_a_child(act)

    def test_where_namespaces_are_forbidden_the_sysctl_is_named(self) -> None:
        def act() -> bool:
            namespaces.enter(possible_maps()[0])
            Path("/proc/sys/user/max_user_namespaces").write_text("0")
            try:
                locked_mounts.probe([], sealed=False)
            except UnusableError as error:
                return "forbidden by user.max_user_namespaces = 0" in error.why and "sysctl" in error.hint
            return False

        assert in_a_child(act)

    def test_a_process_with_threads_is_told_so(self) -> None:
        def act() -> bool:
            before = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt")]
            stop = threading.Event()
            thread = threading.Thread(target=stop.wait)
            thread.start()
            try:
                with locked_mounts.prepare(possible_maps()[-1], [], sealed=False) as found:
                    locked_mounts.confine(found, sealed=False)
            except OSError as error:
                unchanged = before == [os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt")]
                return unchanged and "this process has threads" in explain(error).why
            finally:
                stop.set()
                thread.join()
            return False

        assert in_a_child(act)


@pytest.mark.parametrize(
    ("uid_map", "user", "outside"),
    [
        ("0 1000 1\n1 100000 65536\n", 0, 1000),
        ("0 1000 1\n1 100000 65536\n", 1, 100000),
        ("0 1000 1\n1 100000 65536\n", 65536, 165535),
        ("0 1000 1\n1 100000 65536\n", 65537, 65537),
        ("0 1000 1\n", 1, 1),
        ("nothing\n0 x 1\n0 1 2 3\n0 1000 1\n", 0, 1000),
        ("0 \u00b2 1\n0 1000 1\n", 0, 1000),
        ("", 7, 7),
    ],
)
def test_uid_outside_is_told_by_the_map(uid_map: str, user: int, outside: int) -> None:
    assert outside_uid(uid_map, user) == outside
