"""Two seccomp filters, seccomp(2): no file system becomes executable; nothing is typed into the caller's terminal.

runsc remounts its root directories read-only without the noexec flag, and exits if that fails. The first answers such
a remount with success and does not make it. So it is for a process whose root file system is read-only already; the
other root, the sandbox's empty one, stays writable and noexec.
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

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2

#: For each machine: its audit(7) architecture, and the numbers of mount(2) and ioctl(2).
_MACHINES = {"x86_64": (0xC000003E, 165, 16), "aarch64": (0xC00000B7, 40, 29)}
_X32 = 0x40000000

_READ_ONLY, _NO_EXEC, _REMOUNT, _BIND, _MOVE = 0x1, 0x8, 0x20, 0x1000, 0x2000
_PROPAGATION = 0xF << 17
#: mount(2) ignores the upper half of its flags if it has this value.
_MAGIC, _MAGIC_MASK = 0xC0ED0000, 0xFFFF0000

#: Requests of ioctl_tty(2) and ioctl_console(2) that put input into a terminal.
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

# Classic BPF over struct seccomp_data, whose members lie at these offsets (little-endian machines only).
_NUMBER, _ARCHITECTURE, _IOCTL_REQUEST, _MOUNT_FLAGS = 0, 4, 16 + 1 * 8, 16 + 3 * 8
_LOAD, _AND, _IF_EQUAL, _IF_ANY, _RETURN = 0x20, 0x54, 0x15, 0x45, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000


_Jump = tuple[int, int, str | None, str | None]


def _jump(code: int, value: int, then: str | None = None, otherwise: str | None = None) -> _Jump:
    """To the label `then` if the condition holds, else `otherwise`; None is the next instruction."""
    return code, value, then, otherwise


def set_no_new_privileges() -> None:
    """No later execve(2) of this process or its children gains privileges. Raises `OSError`."""
    library_call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, about="PR_SET_NO_NEW_PRIVS")


def is_known_machine() -> bool:
    """Whether the filters support this machine."""
    return os.uname().machine in _MACHINES


def forbid_executable_mounts() -> None:
    """Forbid this process and its children to mount anything executable.

    mount(2) without MS_NOEXEC fails with EPERM, and so does a remount without it, except a read-only remount, which
    does nothing. The newer mount API fails with ENOSYS, as before Linux 5.2, and so do all calls of another
    architecture. Raises `OSError`.
    """
    _install(_no_executable_mounts())


def forbid_terminal_input() -> None:
    """Forbid this process and its children to put input into a terminal, which its shell would execute.

    ioctl(2) with TIOCSTI or TIOCLINUX fails with EPERM, and all calls of another architecture with ENOSYS. The kernel
    reads 32 bits of the request, and so does the filter. Raises `OSError`.
    """
    _install(_no_terminal_input())


def _install(code: bytes) -> None:
    # struct sock_fprog: the number of instructions of 8 bytes, and where they are.
    program = struct.pack("HxxxxxxQ", len(code) // 8, address_of(code))
    library_call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0, about="PR_SET_SECCOMP")


def _no_terminal_input() -> bytes:
    architecture, _, ioctl = _MACHINES[os.uname().machine]
    return _assemble(
        (_LOAD, _ARCHITECTURE),
        _jump(_IF_EQUAL, architecture, otherwise="absent"),
        (_LOAD, _NUMBER),
        _jump(_IF_EQUAL, ioctl, then="ioctl"),
        _jump(_IF_ANY, _X32, then="absent", otherwise="allow"),
        "ioctl",
        (_LOAD, _IOCTL_REQUEST),
        *(_jump(_IF_EQUAL, request, then="forbid") for request in (_TIOCSTI, _TIOCLINUX)),
        "allow",
        (_RETURN, _ALLOW),
        "forbid",
        (_RETURN, _ERROR | errno.EPERM),
        "absent",
        (_RETURN, _ERROR | errno.ENOSYS),
    )


def _no_executable_mounts() -> bytes:
    architecture, mount, _ = _MACHINES[os.uname().machine]
    absent = (FSOPEN, FSMOUNT, FSPICK, MOUNT_SETATTR, OPEN_TREE_ATTR)
    return _assemble(
        (_LOAD, _ARCHITECTURE),
        _jump(_IF_EQUAL, architecture, otherwise="absent"),
        (_LOAD, _NUMBER),
        _jump(_IF_EQUAL, mount, then="mount"),
        *(_jump(_IF_EQUAL, number, then="absent") for number in absent),
        _jump(_IF_ANY, _X32, then="absent", otherwise="allow"),
        "mount",
        (_LOAD, _MOUNT_FLAGS),
        _jump(_IF_ANY, _NO_EXEC, then="allow"),
        _jump(_IF_ANY, _REMOUNT, then="remount"),
        (_AND, _MAGIC_MASK),
        _jump(_IF_EQUAL, _MAGIC, then="forbid"),
        (_LOAD, _MOUNT_FLAGS),
        _jump(_IF_ANY, _BIND | _MOVE | _PROPAGATION, then="allow", otherwise="forbid"),
        "remount",
        (_AND, _BIND | _READ_ONLY),
        _jump(_IF_EQUAL, _BIND | _READ_ONLY, then="pretend", otherwise="forbid"),
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
    """struct sock_filter for each instruction; a string is the label of the next one."""
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
            case (operation, value, then, otherwise):
                jumps = here[then] - position - 1, here[otherwise] - position - 1
                code += struct.pack("HBBI", operation, *jumps, value)
            case (operation, value):
                code += struct.pack("HBBI", operation, 0, 0, value)
    return code
