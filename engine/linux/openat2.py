"""openat2(2): opens a path under a rule for the whole walk, such as not to leave a directory.

libc has no wrapper, so this is the bare system call. `open_in_root` does without it, for what must be quick.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from engine.linux.syscall import OPENAT2, system_call

#: `resolve`: refuse magic links of /proc.
RESOLVE_NO_MAGICLINKS = 0x02
#: `resolve`: refuse, with EXDEV, absolute links and `..` that leave the starting directory.
RESOLVE_BENEATH = 0x08
#: `resolve`: the starting directory is the root, also for absolute links and `..`.
RESOLVE_IN_ROOT = 0x10

_ATTEMPTS = 32
#: As in path_resolution(7).
_MAX_LINKS = 40
_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


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


def open_in_root(root: int, path: str, places: list[str] | None = None) -> int:
    """Open `path` with O_PATH as RESOLVE_IN_ROOT does, name by name, which needs no ctypes and no Linux 5.6.

    `places` gets every path that was looked up, with what was left of the walk. Raises `OSError`.
    """
    todo, names, links = path.split("/")[::-1], list[str](), 0
    opened = [os.open(".", _STEP, dir_fd=root)]
    try:
        while todo:
            name = todo.pop()
            if name == "..":
                if names:
                    names.pop()
                    os.close(opened.pop())
                continue
            if name in ("", "."):
                continue
            if places is not None:
                places.append("/".join(("", *names, name, *todo[::-1])))
            opened.append(os.open(name, _STEP, dir_fd=opened[-1]))
            names.append(name)
            if not stat.S_ISLNK(os.fstat(opened[-1]).st_mode):
                continue
            target = os.readlink("", dir_fd=opened[-1])
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            todo += target.split("/")[::-1]
            while len(opened) > 1:
                names.pop()
                os.close(opened.pop())
                if not target.startswith("/"):
                    break
        return opened.pop()
    finally:
        for descriptor in opened:
            os.close(descriptor)
