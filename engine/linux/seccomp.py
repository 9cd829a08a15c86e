"""A seccomp filter under which no file system becomes executable that was not: seccomp(2).

The notable thing: runsc makes its root directories read-only by a remount that leaves the noexec flag out, and
takes an error for fatal. Such a remount is answered with success and not made. So the filter is for a process whose
root file system is read-only already; the other one, of the sandbox's empty root, then stays writable and noexec.
"""

from __future__ import annotations

import errno
import os
import struct

from engine.linux.syscall import (
    FSMOUNT,
    FSOPEN,
    FSPICK,
    MOUNT_SETATTR,
    OPEN_TREE_ATTR,
    address_of,
    library_call,
)
from engine.records import dataclass

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2

#: For each machine: its number in seccomp's data, audit(7), and that of its mount(2).
_MACHINES = {"x86_64": (0xC000003E, 165), "aarch64": (0xC00000B7, 40)}
_X32 = 0x40000000

_READ_ONLY, _NO_EXEC, _REMOUNT, _BIND, _MOVE = 0x1, 0x8, 0x20, 0x1000, 0x2000
_PROPAGATION = 0xF << 17
#: What mount(2) takes the upper half of its flags for when it has this value: nothing.
_MAGIC, _MAGIC_MASK = 0xC0ED0000, 0xFFFF0000

# Classic BPF over struct seccomp_data, whose members lie at these offsets (little-endian machines only).
_NUMBER, _ARCHITECTURE, _MOUNT_FLAGS = 0, 4, 16 + 3 * 8
_LOAD, _AND, _IF_EQUAL, _IF_ANY, _RETURN = 0x20, 0x54, 0x15, 0x45, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000


@dataclass(frozen=True, slots=True)
class _Jump:
    """To the label `then` where the condition holds, else `otherwise`; None is the next instruction."""

    code: int
    value: int
    then: str | None = None
    otherwise: str | None = None


def set_no_new_privileges() -> None:
    """From here on no execve(2) of this process and its children gives privileges. Raises `OSError`."""
    library_call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, about="PR_SET_NO_NEW_PRIVS")


def is_known_machine() -> bool:
    """Whether the filter is written for this machine."""
    return os.uname().machine in _MACHINES


def forbid_executable_mounts() -> None:
    """From here on this process and its children mount nothing that programs can be executed from.

    mount(2) of a file system without MS_NOEXEC is EPERM, and so is a remount without it, but for one that makes
    read-only, which is not made. The calls of the newer mount API are ENOSYS, as before Linux 5.2, and so is all
    that comes in by another architecture's entry. Raises `OSError`.
    """
    code = _program()
    # struct sock_fprog: the number of instructions of 8 bytes, and where they are.
    program = struct.pack("HxxxxxxQ", len(code) // 8, address_of(code))
    library_call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0, about="PR_SET_SECCOMP")


def _program() -> bytes:
    architecture, mount = _MACHINES[os.uname().machine]
    absent = (FSOPEN, FSMOUNT, FSPICK, MOUNT_SETATTR, OPEN_TREE_ATTR)
    return _assemble(
        (_LOAD, _ARCHITECTURE),
        _Jump(_IF_EQUAL, architecture, otherwise="absent"),
        (_LOAD, _NUMBER),
        _Jump(_IF_EQUAL, mount, then="mount"),
        *(_Jump(_IF_EQUAL, number, then="absent") for number in absent),
        _Jump(_IF_ANY, _X32, then="absent", otherwise="allow"),
        "mount",
        (_LOAD, _MOUNT_FLAGS),
        _Jump(_IF_ANY, _NO_EXEC, then="allow"),
        _Jump(_IF_ANY, _REMOUNT, then="remount"),
        (_AND, _MAGIC_MASK),
        _Jump(_IF_EQUAL, _MAGIC, then="forbid"),
        (_LOAD, _MOUNT_FLAGS),
        _Jump(_IF_ANY, _BIND | _MOVE | _PROPAGATION, then="allow", otherwise="forbid"),
        "remount",
        (_AND, _BIND | _READ_ONLY),
        _Jump(_IF_EQUAL, _BIND | _READ_ONLY, then="pretend", otherwise="forbid"),
        "allow",
        (_RETURN, _ALLOW),
        "pretend",
        (_RETURN, _ERROR),
        "forbid",
        (_RETURN, _ERROR | errno.EPERM),
        "absent",
        (_RETURN, _ERROR | errno.ENOSYS),
    )


def _assemble(*lines: tuple[int, int] | _Jump | str) -> bytes:
    """struct sock_filter for each instruction; a string is the label of the one after it."""
    labels: dict[str | None, int] = {}
    instructions: list[tuple[int, int] | _Jump] = []
    for line in lines:
        if isinstance(line, str):
            labels[line] = len(instructions)
        else:
            instructions.append(line)
    code = b""
    for position, line in enumerate(instructions):
        here = labels | {None: position + 1}
        match line:
            case _Jump(operation, value, then, otherwise):
                jumps = here[then] - position - 1, here[otherwise] - position - 1
                code += struct.pack("HBBI", operation, *jumps, value)
            case (operation, value):
                code += struct.pack("HBBI", operation, 0, 0, value)
    return code
