"""The seccomp filter, asked of the real kernel: nothing that was not executable becomes so, and runsc's calls pass."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
from tests.support.forked import failure, in_a_child

RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, MOVE, REC = 1, 2, 4, 8, 0x20, 0x1000, 0x2000, 0x4000
UNBINDABLE, PRIVATE, SLAVE = 1 << 17, 1 << 18, 1 << 19
MAGIC = 0xC0ED0000


# --- The program, read as the kernel reads it -----------------------------------------------------------------

X86_64, AARCH64, I386 = 0xC000003E, 0xC00000B7, 0x40000003
ALLOW, PRETEND, FORBID, ABSENT = 0x7FFF0000, 0x00050000, 0x00050001, 0x00050026
OPENAT2, OPEN_TREE, MOVE_MOUNT = 437, 428, 429


def verdict(program: bytes, architecture: int, number: int, flags: int = 0) -> int:
    """What classic BPF, bpf(4), answers for a system call whose fourth argument is `flags`."""
    data = struct.pack("IIQ6Q", number, architecture, 0, 0, 0, 0, flags, 0, 0)
    code = list(struct.iter_unpack("HBBI", program))
    accumulator = position = 0
    while True:
        operation, then, otherwise, value = code[position]
        position += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("I", data, value)
            case 0x54:
                accumulator &= value
            case 0x15:
                position += then if accumulator == value else otherwise
            case 0x45:
                position += then if accumulator & value else otherwise
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"no such instruction: {operation:#x}")


MACHINES = [("x86_64", X86_64, 165), ("aarch64", AARCH64, 40)]


@pytest.fixture(params=MACHINES, ids=[name for name, _, _ in MACHINES])
def judged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The filter of a machine: the verdict on a call's number and flags. `mount` stands for its mount(2)."""
    machine, architecture, mount_number = request.param
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine))
    program = seccomp._no_executable_mounts()
    monkeypatch.undo()

    def judge(number: int | str, flags: int = 0, *, entry: int = architecture) -> int:
        return verdict(program, entry, mount_number if number == "mount" else int(number), flags)

    return judge


#: What mount(2) is asked for, and the answer; see mount(2) for what each combination does.
MOUNTS = [
    (0, FORBID),
    (RDONLY | NOSUID | NODEV, FORBID),
    (NOEXEC, ALLOW),
    (NOEXEC | NOSUID | NODEV, ALLOW),
    (BIND, ALLOW),
    (BIND | REC, ALLOW),
    (MOVE, ALLOW),
    (REC, FORBID),
    *((1 << bit, ALLOW) for bit in (17, 18, 19, 20)),
    *((1 << bit | REC, ALLOW) for bit in (17, 18, 19, 20)),
    (1 << 16, FORBID),
    (1 << 21, FORBID),
    (REMOUNT, FORBID),
    (REMOUNT | RDONLY, FORBID),
    (REMOUNT | BIND, FORBID),
    (REMOUNT | BIND | NOSUID, FORBID),
    (REMOUNT | BIND | RDONLY, PRETEND),
    (REMOUNT | BIND | RDONLY | NOSUID | REC, PRETEND),
    (REMOUNT | BIND | RDONLY | NOEXEC, ALLOW),
    (REMOUNT | PRIVATE, FORBID),
    (MAGIC, FORBID),
    (MAGIC | BIND, FORBID),
    (MAGIC | NOSUID, FORBID),
    (MAGIC | NOEXEC, ALLOW),
    (MAGIC | REMOUNT | BIND | RDONLY, PRETEND),
    (MAGIC | 1 << 20, ALLOW),  # no longer the magic number, so the upper half counts
]


@pytest.mark.parametrize(("flags", "answer"), MOUNTS)
def test_each_mount_has_its_verdict(judged: Callable[..., int], flags: int, answer: int) -> None:
    assert judged("mount", flags) == answer


def test_each_call_has_its_verdict(judged: Callable[..., int]) -> None:
    for number in (430, 432, 433, MOUNT_SETATTR, 467):
        assert judged(number) == judged(number, NOEXEC) == ABSENT
    for number in (0, 1, 59, 221, 319, OPEN_TREE, MOVE_MOUNT, 431, OPENAT2, 441, 443, 466, 468, 0x3FFFFFFF):
        assert judged(number) == ALLOW
    for number in (0x40000000, 0x40000000 + 165, 0x40000001, 0xFFFFFFFF):
        assert judged(number) == ABSENT
    for call in ("mount", 0, 21, MOUNT_SETATTR):
        assert judged(call, NOEXEC, entry=I386) == ABSENT


def test_a_machine_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for machine in ("x86_64", "aarch64", "riscv64"):
        monkeypatch.setattr(os, "uname", lambda machine=machine: SimpleNamespace(machine=machine))
        found.append(seccomp.is_known_machine())
    assert found == [True, True, False]


def test_kernel_gets_the_filter_and_no_new_privs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def library_call(*arguments: Any, about: str) -> int:
        *others, program, fourth, fifth = arguments
        if isinstance(program, bytes):  # struct sock_fprog; what it points to is there during the call
            length, address = struct.unpack("HxxxxxxQ", program)
            program = ctypes.string_at(address, length * 8)
        asked.append((*others, program, fourth, fifth, about))
        return 0

    monkeypatch.setattr(seccomp, "library_call", library_call)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="x86_64"))
    seccomp.set_no_new_privileges()
    seccomp.forbid_executable_mounts()
    assert asked == [
        ("prctl", 38, 1, 0, 0, 0, "PR_SET_NO_NEW_PRIVS"),
        ("prctl", 22, 2, seccomp._no_executable_mounts(), 0, 0, "PR_SET_SECCOMP"),
    ]


# --- And by the kernel ----------------------------------------------------------------------------------------


@pytest.fixture
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


@pytest.mark.usefixtures("_can_be_tried")
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


@pytest.mark.usefixtures("_can_be_tried")
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


@pytest.mark.usefixtures("_can_be_tried")
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


@pytest.mark.usefixtures("_can_be_tried")
@pytest.mark.parametrize("name", NEWER)
def test_the_newer_mount_calls_are_absent(private: Path, name: str) -> None:
    def act() -> int:
        number, *arguments = NEWER[name]
        assert isinstance(number, int)
        return failure(lambda: system_call(number, *arguments))[0] or 255

    assert answers(private, act) == errno.ENOSYS


@pytest.mark.usefixtures("_can_be_tried")
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


@pytest.mark.usefixtures("_can_be_tried")
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


@pytest.mark.usefixtures("_can_be_tried", "needs_root")
def test_who_may_set_no_filter_is_told_which_call_was_refused() -> None:
    """It takes no_new_privs or CAP_SYS_ADMIN."""

    def act() -> Any:
        os.setresuid(4242, 4242, 4242)
        return failure(seccomp.forbid_executable_mounts)

    assert in_a_child(act) == (errno.EACCES, "Permission denied", "PR_SET_SECCOMP")
