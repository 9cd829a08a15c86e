"""Mount points, proc(5), and mount trees that are cloned, changed and attached by descriptor.

A clone by open_tree(2) keeps its flags, whatever is then done to the original. So an exception is made by cloning its
tree first, never by clearing a flag.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from enum import IntFlag

from engine.linux.syscall import MOUNT_SETATTR, MOVE_MOUNT, OPEN_TREE, library_call, system_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_ESCAPED = re.compile(rb"\\([0-7]{3})")

_AT_FDCWD = -100
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40
_MS_PRIVATE = 1 << 18
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8


#: File systems that hold no programs, and in which runsc writes: maps of ids, owners of terminals, control groups.
_OF_THE_KERNEL = frozenset({b"proc", b"sysfs", b"cgroup", b"cgroup2", b"devpts", b"mqueue"})


class MountFlag(IntFlag):
    """The mount flags that mount_setattr(2) can change."""

    READ_ONLY = 0x1
    NO_SUID = 0x2
    NO_EXEC = 0x8


def mounted_beneath(path: str) -> list[str]:
    """The mount points at and beneath `path`, which is absolute and free of links. Raises `OSError`."""
    return [mount.point for mount in _mounts() if _within(mount.point, path) is not None]


def other_paths(path: str) -> list[str]:
    """Paths on other mounts that lead to what is at or beneath `path`, which is absolute and free of links.

    Hidden mounts do not count. Raises `OSError`.
    """
    mounts = _mounts()
    holder = max(
        (mount for mount in mounts if _within(path, mount.point) is not None),
        key=lambda mount: (len(mount.point), mounts.index(mount)),
    )
    place = _below(holder.root, _within(path, holder.point) or "")  # in its file system
    found = []
    for mount in mounts:
        if mount.device != holder.device:
            continue
        if (rest := _within(place, mount.root)) is not None:
            other, same = _below(mount.point, rest), path
        elif (rest := _within(mount.root, place)) is not None:
            other, same = mount.point, _below(path, rest)
        else:
            continue
        if _within(other, path) is None and _is_one_file(other, same):
            found.append(other)
    return found


def _within(path: str, outer: str) -> str | None:
    """`path` relative to `outer`, empty if they are the same; None if it is not beneath it."""
    if path == outer:
        return ""
    outer = outer.rstrip("/") + "/"
    return path[len(outer) :] if path.startswith(outer) else None


def _below(outer: str, rest: str) -> str:
    return os.path.join(outer, rest) if rest else outer


def _is_one_file(path: str, other: str) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.stat(other))
    except OSError:  # it cannot be reached
        return False


def unmount_namespace(directory: int, path: str) -> bool:
    """Unmount the namespace file, nsfs of namespaces(7), that is mounted on `path` in the open `directory`.

    Returns whether there was one. Any other mount stays. Raises `OSError`.
    """
    if not any(mount.point == path and mount.kind == b"nsfs" for mount in _mounts()):
        return False
    at = f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    library_call("umount2", os.fsencode(at), _MNT_DETACH | _UMOUNT_NOFOLLOW, about=path)
    return True


class _Mount:
    """A mount: at `point`, of the directory or file `root` in the file system on `device`, whose type is `kind`."""

    def __init__(self, device: bytes, root: str, point: str, kind: bytes) -> None:
        self.device: Final = device
        self.root: Final = root
        self.point: Final = point
        self.kind: Final = kind


def _mounts() -> list[_Mount]:
    """The mounts of this mount namespace, proc_pid_mountinfo(5)."""
    with open("/proc/self/mountinfo", "rb") as file:
        lines = [line.partition(b" - ") for line in file]
    return [
        _Mount(fields[2], _text(fields[3]), _text(fields[4]), system.split(b" ")[0])
        for fields, system in ((mount.split(b" "), system) for mount, _, system in lines)
    ]


def _text(field: bytes) -> str:
    return _ESCAPED.sub(_unescape, field).decode(errors="surrogateescape")


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 8)])


def clone_tree(directory: int, about: str) -> int:
    """Clone what is mounted at and beneath the open `directory` (or file); the clone is not mounted anywhere yet.

    Returns its descriptor. Raises `OSError` that names `about`, as do the functions below: EPERM without CAP_SYS_ADMIN
    over the mount namespace, ENOSYS before Linux 5.2.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_EMPTY_PATH | _AT_RECURSIVE
    return system_call(OPEN_TREE, directory, b"", flags, about=about)


def attach_tree(tree: int, directory: int, about: str) -> None:
    """Mount the cloned `tree` on the open `directory` (or file)."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    system_call(MOVE_MOUNT, tree, b"", directory, b"", flags, about=about)


def set_flags(tree: int, flags: MountFlag, about: str) -> None:
    """Set `flags` on the cloned `tree` and all mounts beneath it. ENOSYS before Linux 5.12."""
    _set_attributes(tree, b"", _AT_EMPTY_PATH, flags, about)


def set_flags_everywhere(flags: MountFlag) -> None:
    """Set `flags` on every mount of this mount namespace, and make all of them private."""
    _set_attributes(_AT_FDCWD, b"/", 0, flags, "/", propagation=_MS_PRIVATE)


def make_kernel_file_systems_writable() -> None:
    """Clear the read-only flag of what the kernel provides, as proc(5), where it is not locked. Raises `OSError`."""
    for mount in _mounts():
        if mount.kind in _OF_THE_KERNEL:
            with contextlib.suppress(OSError):  # hidden, not accessible, or read-only before
                place = os.open(mount.point, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    status = os.fstat(place)
                    if b"%d:%d" % (os.major(status.st_dev), os.minor(status.st_dev)) == mount.device:
                        _clear_flags(place, b"", _AT_EMPTY_PATH, MountFlag.READ_ONLY, mount.point)
                finally:
                    os.close(place)


def clear_flags(path: str, flags: MountFlag) -> None:
    """Clear `flags` of the mount at `path`. EPERM if they are locked, mount_namespaces(7)."""
    _clear_flags(_AT_FDCWD, os.fsencode(path), 0, flags, path)


def _clear_flags(directory: int, path: bytes, how: int, flags: MountFlag, about: str) -> None:
    attributes = struct.pack("QQQQ", 0, flags, 0, 0)  # struct mount_attr
    system_call(MOUNT_SETATTR, directory, path, how, attributes, len(attributes), about=about)


def _set_attributes(
    directory: int, path: bytes, how: int, flags: MountFlag, about: str, propagation: int = 0
) -> None:
    attributes = struct.pack("QQQQ", flags, 0, propagation, 0)  # struct mount_attr
    system_call(MOUNT_SETATTR, directory, path, how | _AT_RECURSIVE, attributes, len(attributes), about=about)
