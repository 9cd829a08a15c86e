"""User namespaces: which ids a new one is given, and that an error names its remedy."""

from __future__ import annotations

import ctypes  # noqa: F401 (as the next two: what is imported late may lie where an ordinary user cannot go)
import encodings.ascii  # noqa: F401
import errno
import os
import pwd  # noqa: F401
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.linux import locked_mounts, namespaces
from engine.linux.locked_mounts import UnusableError, explain
from engine.linux.namespaces import IdMaps, Range, possible_maps, subordinate_ids
from engine.linux.syscall import library_call


def in_a_child(act: Callable[[], bool]) -> bool:
    """Whether `act` answers True in a child, whose namespaces end with it."""
    child = os.fork()
    if child == 0:
        answer = 99
        try:
            answer = 0 if act() else 1
        finally:
            os._exit(answer)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def become_ordinary() -> None:
    os.setgroups([])
    os.setresgid(4242, 4242, 4242)
    os.setresuid(4242, 4242, 4242)
    library_call("prctl", 4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: as after execve, its files in /proc are its own


def test_ranges_are_a_users_by_name_and_by_number(tmp_path: Path) -> None:
    path = tmp_path / "subuid"
    path.write_text("root:100000:65536\nbob:1:7\n0:300000:4\nroot:broken\nroot:1:x\n:::\n")
    assert subordinate_ids(str(path), 0) == [(100000, 65536), (300000, 4)]
    assert subordinate_ids(str(path), 4242) == []
    assert subordinate_ids(str(tmp_path / "none"), 0) == []


@pytest.mark.usefixtures("needs_root")
class TestRealKernel:
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
