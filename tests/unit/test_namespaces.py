"""User namespaces: which ids a new one is given, and that an error names its remedy."""

from __future__ import annotations

import ctypes  # noqa: F401 (as the next two: what is imported late may lie where an ordinary user cannot go)
import encodings.ascii  # noqa: F401
import errno
import os
import pwd  # noqa: F401
import struct
from pathlib import Path

import pytest

from engine.linux import locked_mounts, namespaces
from engine.linux.locked_mounts import UnusableError, explain
from engine.linux.namespaces import IdMaps, Range, possible_maps, subordinate_ids
from engine.linux.syscall import library_call
from tests.in_a_child import in_a_child


def become_ordinary() -> None:
    os.setgroups([])
    os.setresgid(4242, 4242, 4242)
    os.setresuid(4242, 4242, 4242)
    library_call("prctl", 4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: as after execve, its files in /proc are its own


def test_ranges_are_a_users_by_name_and_by_number(tmp_path: Path) -> None:
    path = tmp_path / "subuid"
    path.write_bytes(
        b"root:100000:65536\nbob:1:7\n\xff\xfe:1:7\n0:300000:4\nroot:broken\nroot:1:x\nroot:x:1\n:::\n"
    )
    assert subordinate_ids(str(path), 0) == [(100000, 65536), (300000, 4)]
    assert subordinate_ids(str(path), 4242) == []
    assert subordinate_ids(str(tmp_path / "none"), 0) == []


def test_the_map_of_this_namespace_is_read_and_one_that_is_not_there_is_empty(
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
def test_the_hosts_root_is_unmapped_where_root_is_another_or_the_root_directory_is_nobodys(
    monkeypatch: pytest.MonkeyPatch, uid_map: str, owner_of_root: int, unmapped: bool
) -> None:
    overflow = int(Path("/proc/sys/kernel/overflowuid").read_text())
    owner = overflow if owner_of_root else 0
    monkeypatch.setattr(namespaces, "read_uid_map", lambda: uid_map)
    status = os.stat_result((0o40755, 2, 1, 1, owner, 0, 0, 0, 0, 0))
    monkeypatch.setattr(os, "stat", lambda path: status)
    assert namespaces.unmapped_uid() == (overflow if unmapped else None)


def test_a_kernel_parameter_is_read_by_its_name_and_an_unknown_one_is_none() -> None:
    assert namespaces.sysctl("kernel.ostype") == "Linux"
    assert namespaces.sysctl("kernel.no_such_parameter") is None


def test_helpers_are_looked_for_where_only_root_puts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert namespaces._SYSTEM_PATHS == ("/usr/bin", "/bin", "/usr/local/bin")
    for name, mode in (("a", 0o644), ("b", 0o755), ("c", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "helper").touch()
        (tmp_path / name / "helper").chmod(mode)
    monkeypatch.setattr(namespaces, "_SYSTEM_PATHS", tuple(str(tmp_path / name) for name in "xabc"))
    assert namespaces._find("helper") == str(tmp_path / "b" / "helper")
    assert namespaces._find("another") is None


SUBORDINATE = {"/etc/subuid": [(100000, 10), (300000, 5)], "/etc/subgid": [(200000, 20)]}
HELPERS = {"newuidmap": "/usr/bin/newuidmap", "newgidmap": "/usr/bin/newgidmap"}


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, list[tuple[int, int]]], dict[str, str]]:
    """The ranges and the helpers of user 1000 of group 1001, to be taken away."""
    ranges, helpers = dict(SUBORDINATE), dict(HELPERS)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1001)
    monkeypatch.setattr(namespaces, "_find", helpers.get)
    monkeypatch.setattr(
        namespaces, "subordinate_ids", lambda path, uid: ranges.get(path, []) if uid == 1000 else []
    )
    return ranges, helpers


SINGLE = IdMaps((Range(0, 1000, 1),), (Range(0, 1001, 1),), "single")


@pytest.mark.usefixtures("user")
def test_a_user_becomes_root_and_has_the_subordinate_ids_after_it() -> None:
    assert possible_maps() == [
        IdMaps(
            (Range(0, 1000, 1), Range(1, 100000, 10), Range(11, 300000, 5)),
            (Range(0, 1001, 1), Range(1, 200000, 20)),
            "subordinate",
            ("/usr/bin/newuidmap", "/usr/bin/newgidmap"),
        ),
        SINGLE,
    ]


@pytest.mark.parametrize("gone", [*SUBORDINATE, *HELPERS])
def test_without_a_helper_or_a_range_there_is_root_alone(
    user: tuple[dict[str, list[tuple[int, int]]], dict[str, str]], gone: str
) -> None:
    for each in user:
        each.pop(gone, None)
    assert possible_maps() == [SINGLE]


@pytest.mark.usefixtures("needs_root")
class TestCapabilities:
    """Whether this process may map every id: CAP_SETUID and CAP_SETGID, capabilities(7)."""

    @pytest.mark.parametrize(
        ("effective", "answer"), [({6, 7}, True), ({6}, False), ({7, 8}, False), (set(), False)]
    )
    def test_root_maps_every_id_only_with_the_capabilities(self, effective: set[int], answer: bool) -> None:
        def act() -> list[str]:
            bits = sum(1 << number for number in effective)
            header = struct.pack("Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
            library_call("capset", header, struct.pack("6I", bits, bits, 0, 0, 0, 0))
            return [maps.kind for maps in possible_maps() if maps.kind != "subordinate"]

        assert in_a_child(act) == (["all", "single"] if answer else ["single"])

    def test_the_name_of_the_process_does_not_matter(self) -> None:
        def act() -> bool:
            library_call("prctl", 15, b"CapEff:\xff\0", 0, 0, 0)  # PR_SET_NAME
            return possible_maps()[0].kind == "all"

        assert in_a_child(act)

    def test_an_ordinary_user_with_the_capabilities_is_not_root(self) -> None:
        def act() -> list[str]:
            library_call("prctl", 8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
            os.setresuid(4242, 4242, 4242)
            header = struct.pack("Ii", 0x20080522, 0)
            library_call("capset", header, struct.pack("6I", 0xC0, 0xC0, 0, 0, 0, 0))
            assert namespaces._may_set_ids()
            return [maps.kind for maps in possible_maps()]

        assert in_a_child(act) == ["single"]


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


@pytest.mark.usefixtures("needs_root")
class TestHelpers:
    """Ids that only newuidmap(1) and newgidmap(1) may map; here by programs that do the same as root."""

    def helpers(self, private: Path, text: str = HELPER) -> tuple[str, str]:
        for name, file in (("newuidmap", "uid_map"), ("newgidmap", "gid_map")):
            (private / name).write_text(text.format(log=private / f"{name}.log", file=file))
            (private / name).chmod(0o755)
        return str(private / "newuidmap"), str(private / "newgidmap")

    def test_each_is_told_the_process_and_its_ranges_and_nothing_of_the_caller(
        self, private: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        uids, gids = (Range(0, 0, 1), Range(1, 100000, 9)), (Range(0, 0, 1),)
        maps = IdMaps(uids, gids, "subordinate", self.helpers(private))

        def act() -> tuple[int, str, str, bool]:
            os.environ["SECRET"] = "secret"
            before = set(os.listdir("/proc/self/fd"))
            namespaces.enter(maps)
            with pytest.raises(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
            return (
                os.getpid(),
                Path("/proc/self/uid_map").read_text(),
                Path("/proc/self/gid_map").read_text(),
                set(os.listdir("/proc/self/fd")) == before,
            )

        process, uid_map, gid_map, clean = in_a_child(act)
        assert (uid_map.split(), gid_map.split(), clean) == (
            ["0", "0", "1", "1", "100000", "9"],
            ["0", "0", "1"],
            True,
        )
        path = "PATH=/usr/bin:/bin:/usr/local/bin /dev/null\n"
        assert (private / "newuidmap.log").read_text() == f"7 {process} 0 0 1 1 100000 9 {path}"
        assert (private / "newgidmap.log").read_text() == f"4 {process} 0 0 1 {path}"
        assert capfd.readouterr() == ("", "")

    def test_one_that_fails_is_named(self, private: Path) -> None:
        single = (Range(0, 0, 1),)
        maps = IdMaps(single, single, "subordinate", self.helpers(private, "#!/bin/sh\nsleep 0.5\nexit 3\n"))

        def act() -> tuple[int | None, str, str | None]:
            try:
                namespaces.enter(maps)
            except OSError as error:
                with pytest.raises(ChildProcessError):
                    os.waitpid(-1, os.WNOHANG)
                return error.errno, error.filename, error.strerror
            raise AssertionError("it was taken for success")

        assert in_a_child(act) == (
            errno.EPERM,
            "the ids of a user namespace (subordinate)",
            f"{private}/newuidmap: it ended with 3",
        )

    def test_one_that_is_not_there_is_named_whatever_its_name(self, private: Path) -> None:
        single = (Range(0, 0, 1),)
        maps = IdMaps(single, single, "subordinate", (f"{private}/none-é", f"{private}/none"))

        def act() -> str | None:
            try:
                namespaces.enter(maps)
            except OSError as error:
                return error.strerror
            raise AssertionError("it was taken for success")

        assert in_a_child(act) == f"{private}/none-é: No such file or directory"


@pytest.mark.usefixtures("needs_root")
class TestRealKernel:
    def test_a_map_that_is_refused_is_named(self) -> None:
        def act() -> tuple[int | None, str]:
            try:
                namespaces.enter(IdMaps((Range(0, 0, 0),), (Range(0, 0, 1),), "single"))
            except OSError as error:
                return error.errno, error.filename
            raise AssertionError("it was permitted")

        assert in_a_child(act) == (errno.EINVAL, "/proc/self/uid_map")

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
            theirs = (Range(0, 4242, 1), Range(1, 100000, 65536))
            try:
                namespaces.enter(IdMaps(theirs, theirs, "all"))
            except PermissionError as error:
                return "uid_map: Operation not permitted" in str(error)
            return False

        assert in_a_child(act)

    def test_in_a_second_namespace_the_hosts_root_is_still_known_to_be_unmapped(self) -> None:
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
                return "forbidden by user.max_user_namespaces = 0" in error.why and "sysctl" in error.remedy
            return False

        assert in_a_child(act)

    def test_a_process_with_threads_is_told_so(self) -> None:
        import threading

        def act() -> bool:
            stop = threading.Event()
            thread = threading.Thread(target=stop.wait)
            thread.start()
            try:
                locked_mounts.confine(possible_maps()[-1], [], sealed=False)
            except OSError as error:
                return "this process has threads" in explain(error).why
            finally:
                stop.set()
                thread.join()
            return False

        assert in_a_child(act)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, value, _ in namespaces.BANS])
def test_each_ban_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setattr(namespaces, "sysctl", {name: value}.get)
    found = explain(OSError(errno.EPERM, "Operation not permitted", "a new user namespace"))
    assert found.why == (
        f"user namespaces are forbidden by {name} = {value} (a new user namespace: Operation not permitted)"
    )
    assert name in found.remedy


def test_an_old_kernel_is_named() -> None:
    assert "it takes Linux 5.12" in explain(OSError(errno.ENOSYS, "Function not implemented", "/")).why
