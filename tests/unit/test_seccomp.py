"""The seccomp filter, asked of the real kernel: nothing that was not executable becomes so, and runsc's calls pass."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.linux import namespaces, seccomp
from engine.linux.syscall import (
    FSMOUNT,
    FSOPEN,
    FSPICK,
    MOUNT_SETATTR,
    OPEN_TREE_ATTR,
    library_call,
    system_call,
)
from tests.in_a_child import in_a_child

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


def in_a_child_ends_with(act: Callable[[], int]) -> int:
    """How a child that does `act` ends: its exit code, or the negative number of a signal."""
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(0)
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
        (MAGIC | NOSUID, errno.EPERM),
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


NEWER = {
    "fsopen": (FSOPEN, b"tmpfs", 0),
    "fsmount": (FSMOUNT, -1, 0, 0),
    "fspick": (FSPICK, -100, b"/", 0),
    "mount_setattr": (MOUNT_SETATTR, -100, b"/", 0, b"\0" * 32, 32),
    "open_tree_attr": (OPEN_TREE_ATTR, -100, b"/", 0, b"\0" * 32, 32),
}


@pytest.mark.parametrize("name", NEWER)
def test_the_newer_mount_calls_are_absent(private: Path, name: str) -> None:
    def act() -> int:
        number, *arguments = NEWER[name]
        assert isinstance(number, int)
        try:
            system_call(number, *arguments)
        except OSError as error:
            return error.errno or 255
        return 0

    assert answers(private, act) == errno.ENOSYS


def test_the_entry_of_32_bit_programs_is_absent(private: Path) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("int 0x80 is an entry of x86_64")
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x89\xf8\xcd\x80\xc3")  # mov eax, edi; int 0x80; ret
    enter = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    getpid = 20
    if in_a_child_ends_with(lambda: enter(getpid) == os.getpid()) < 0:
        pytest.skip("this kernel has no entry for 32-bit programs (IA32_EMULATION)")
    assert answers(private, lambda: -enter(getpid)) == errno.ENOSYS


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


def test_who_may_set_no_filter_is_told_which_call_was_refused(needs_root: None) -> None:
    """It takes no_new_privs or CAP_SYS_ADMIN."""

    def act() -> tuple[int | None, str]:
        os.setresuid(4242, 4242, 4242)
        try:
            seccomp.forbid_executable_mounts()
        except OSError as error:
            return error.errno, error.filename
        raise AssertionError("it was permitted")

    assert in_a_child(act) == (errno.EACCES, "PR_SET_SECCOMP")
