"""openat2(2): opens a path under a rule for the whole walk, such as not to leave a directory.

libc has no wrapper, so this is the bare system call.
"""

from __future__ import annotations

import errno
import os
import struct

from engine.linux.syscall import OPENAT2, system_call

#: `resolve`: refuse magic links of /proc.
RESOLVE_NO_MAGICLINKS = 0x02
#: `resolve`: refuse, with EXDEV, absolute links and `..` that leave the starting directory.
RESOLVE_BENEATH = 0x08
#: `resolve`: the starting directory is the root, also for absolute links and `..`.
RESOLVE_IN_ROOT = 0x10

_ATTEMPTS = 32


def openat2(directory: int, path: str, flags: int, *, resolve: int) -> int:
    """Open the existing `path`, relative to the descriptor `directory`; returns a close-on-exec descriptor.

    Under RESOLVE_BENEATH a walk through `..` fails with EAGAIN while anything on the system is renamed or mounted, and
    a signal may interrupt it: both are tried again, up to a limit. Raises `OSError`: ENOSYS before Linux 5.6, EXDEV and
    ELOOP where `resolve` forbids, else as open(2).
    """
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, resolve)  # struct open_how: flags, mode, resolve
    for _ in range(_ATTEMPTS - 1):
        try:
            return system_call(OPENAT2, directory, name, how, len(how), about=path)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                raise
    return system_call(OPENAT2, directory, name, how, len(how), about=path)
