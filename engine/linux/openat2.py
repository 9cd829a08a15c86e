"""openat2(2): opens a path while the kernel holds the whole walk to a rule, such as not to leave a directory.

The notable thing: libc has no wrapper, so this is the bare system call, whose number is 437 on every
architecture that gVisor runs on. `ctypes` costs milliseconds to import, so it is imported when called.
"""

from __future__ import annotations

import errno
import os

#: `resolve`: refuse the links of /proc that lead where no path does.
RESOLVE_NO_MAGICLINKS = 0x02
#: `resolve`: refuse, with EXDEV, absolute links and `..` that lead out of the directory the walk began in.
RESOLVE_BENEATH = 0x08

_SYS_OPENAT2 = 437
_ATTEMPTS = 32


def openat2(directory: int, path: str, flags: int, *, resolve: int) -> int:
    """Open the existing `path`, relative to the descriptor `directory`; answers a close-on-exec descriptor.

    A walk under RESOLVE_BENEATH that passes `..` fails with EAGAIN while anything on the system is renamed or
    mounted, and a signal may interrupt one: both are tried again a bounded number of times.
    Raises `OSError`: ENOSYS before Linux 5.6, EXDEV and ELOOP where `resolve` forbids, else as open(2).
    """
    import ctypes

    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")
    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, 0, resolve)  # struct open_how: flags, mode, resolve
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    for _ in range(_ATTEMPTS):
        descriptor: int = syscall(
            ctypes.c_long(_SYS_OPENAT2),
            directory,
            name,
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if descriptor >= 0:
            return descriptor
        failure = ctypes.get_errno()
        if failure not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(failure, os.strerror(failure), path)
