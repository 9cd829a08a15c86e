"""The seccomp filter, asked of the real kernel: nothing that was not executable becomes so, and runsc's calls pass."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.linux import namespaces, seccomp
from engine.linux.syscall import FSOPEN, MOUNT_SETATTR, library_call, system_call

RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, MOVE, REC = 1, 2, 4, 8, 0x20, 0x1000, 0x2000, 0x4000
UNBINDABLE, PRIVATE, SLAVE = 1 << 17, 1 << 18, 1 << 19
MAGIC = 0xC0ED0000


@pytest.fixture(autouse=True)
def _can_be_tried() -> None:
    if not seccomp.is_known_machine():
        pytest.skip(f"no filter is written for {os.uname().machine}")


def answers(private: Path, act: Callable[[], int]) -> int:
    """What `act` answers under the filter, in mount namespaces of its own: an error number, or 0."""
    child = os.fork()
    if child == 0:
        answer = 255
        try:
            namespaces.enter(namespaces.possible_maps()[-1])
            seccomp.forbid_executable_mounts()
            answer = act()
        finally:
            os._exit(answer)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def mount(source: str, target: Path, kind: str, flags: int) -> int:
    """mount(2): its error number, or 0."""
    try:
        library_call("mount", source.encode(), str(target).encode(), kind.encode(), flags, 0)
    except OSError as error:
        return error.errno or 255
    return 0


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        (NOSUID | NODEV | NOEXEC, 0),
        (0, errno.EPERM),
        (NOSUID | NODEV | RDONLY, errno.EPERM),
        (MAGIC, errno.EPERM),  # what is above the lower half is nothing to the kernel then
        (MAGIC | NOEXEC, 0),
    ],
)
def test_a_new_file_system_is_mounted_noexec_or_not_at_all(private: Path, flags: int, answer: int) -> None:
    assert answers(private, lambda: mount("tmpfs", private, "tmpfs", flags)) == answer


@pytest.mark.parametrize(
    "flags", [0, RDONLY, BIND, BIND | NOSUID, BIND | RDONLY, BIND | RDONLY | REC | NOSUID]
)
def test_no_remount_makes_it_executable(private: Path, flags: int) -> None:
    def act() -> int:
        assert mount("tmpfs", private, "tmpfs", NOEXEC) == 0
        answer = mount("", private, "", flags | REMOUNT)
        # The read-only ones, which runsc makes, are answered with success; none is made.
        assert answer == (0 if flags & BIND and flags & RDONLY else errno.EPERM)
        (private / "still").touch()
        return 0 if os.statvfs(private).f_flag & os.ST_NOEXEC else 1

    assert answers(private, act) == 0


def test_what_runsc_mounts_besides_passes(private: Path) -> None:
    def act() -> int:
        return (
            mount("", Path("/"), "", SLAVE | REC)
            or mount("tmpfs", private, "tmpfs", NOSUID | NODEV | NOEXEC)
            or mount("", private, "", UNBINDABLE)
            or mount("", private, "", PRIVATE)
            or mount("/proc/self", private, "", BIND | RDONLY | REC)
            or mount("", private, "", REMOUNT | BIND | RDONLY | NOEXEC | NOSUID | NODEV)
        )

    assert answers(private, act) == 0


def test_the_newer_mount_calls_are_absent(private: Path) -> None:
    def act() -> int:
        for number, arguments in ((FSOPEN, (b"tmpfs", 0)), (MOUNT_SETATTR, (-100, b"/", 0, b"\0" * 32, 32))):
            try:
                system_call(number, *arguments)
            except OSError as error:
                if error.errno != errno.ENOSYS:
                    return 1
        return 0

    assert answers(private, act) == 0


def test_the_x32_entry_is_absent(private: Path) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("x32 is an entry of x86_64")

    def act() -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        answer = libc.syscall(
            ctypes.c_long(0x40000000 + 165), b"tmpfs", str(private).encode(), b"tmpfs", 0, 0
        )
        return 0 if answer == -1 and ctypes.get_errno() == errno.ENOSYS else 1

    assert answers(private, act) == 0
