"""User namespaces, user_namespaces(7): which ids they map, and how to enter one with a mount namespace.

uid 0 in a user namespace may be an ordinary user outside. A process that enters one has every capability over it and
none outside. A second one inside is less privileged than the first, so the kernel locks the flags of its mounts,
mount_namespaces(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Sequence

from engine.linux.syscall import library_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Literal

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_CAP_SETGID, _CAP_SETUID = 6, 7
_ENTERED = "a new user namespace"
#: Where newuidmap(1) and newgidmap(1) are searched: only root can write there.
_SYSTEM_PATHS = ("/usr/bin", "/bin", "/usr/local/bin")

#: What forbids user namespaces: a sysctl, its value, and the hint; user_namespaces(7) and the release notes of Debian
#: and Ubuntu.
BANS = (
    ("user.max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
    ("kernel.unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
    (
        "kernel.apparmor_restrict_unprivileged_userns",
        "1",
        "give this Python an AppArmor profile with `userns,`, or sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)


def root_maps_to_unprivileged(uid_map: str) -> bool:
    """Whether `uid_map` (the text of /proc/PID/uid_map) maps uid 0 to a host uid other than 0.

    Empty ranges and lines that are not three numbers are skipped; the first that maps uid 0 decides.
    """
    for line in uid_map.splitlines():
        fields = line.split()
        if len(fields) != 3 or not all(field.isascii() and field.isdigit() for field in fields):
            continue
        inside, outside, length = (int(field) for field in fields)
        if inside == 0 and length > 0:
            return outside != 0
    return False


def outside_uid(uid_map: str, user: int) -> int:
    """The uid of `user` in the parent user namespace, by the text of /proc/PID/uid_map; `user` if it is not mapped.

    Lines that are not three numbers are skipped.
    """
    for line in uid_map.splitlines():
        fields = line.split()
        if len(fields) != 3 or not all(field.isascii() and field.isdigit() for field in fields):
            continue
        inside, outside, length = (int(field) for field in fields)
        if inside <= user < inside + length:
            return outside + user - inside
    return user


def read_uid_map() -> str:
    """The text of /proc/self/uid_map; empty if it cannot be read."""
    try:
        with open("/proc/self/uid_map", encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def unmapped_uid() -> int | None:
    """The uid that stands for unmapped owners, if the host's root is one of them; else None.

    The host's root and its other users then look the same, user_namespaces(7). The map only says who root is in the
    parent namespace; if that is root again, the owner of `/` decides.

    Raises `OSError`, and ENODEV where /proc is not mounted: a `FileNotFoundError` would be taken for one of the path
    that a caller opens.
    """
    uid_map = read_uid_map()
    if uid_map.split() == ["0", "0", str(0xFFFFFFFF)]:
        return None
    try:
        with open("/proc/sys/kernel/overflowuid", encoding="utf-8") as file:
            unmapped = int(file.read())
    except FileNotFoundError:
        raise OSError(errno.ENODEV, "/proc is not mounted", "/proc/sys/kernel/overflowuid") from None
    return unmapped if root_maps_to_unprivileged(uid_map) or os.stat("/").st_uid == unmapped else None


def sysctl(name: str) -> str | None:
    """The value of the kernel parameter `name`; None if this kernel does not have it."""
    try:
        with open(f"/proc/sys/{name.replace('.', '/')}", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return None


#: Ids that follow each other: the first in the new namespace, the first outside of it, and their number.
Range = tuple[int, int, int]


class IdMaps:
    """The ids of a new user namespace; `kind` says who maps them."""

    def __init__(
        self,
        uids: tuple[Range, ...],
        gids: tuple[Range, ...],
        kind: Literal["all", "subordinate", "single"],
        programs: tuple[str, str] | None = None,
    ) -> None:
        self.uids: Final = uids
        self.gids: Final = gids
        #: `all`: every id of the present namespace, by its root. `subordinate`: the caller as root and its subordinate
        #: ids after it, by newuidmap(1) and newgidmap(1). `single`: the caller as root, by itself.
        self.kind: Final = kind
        self.programs: Final = programs


def possible_maps() -> list[IdMaps]:
    """The maps that this process may give a new user namespace, those with the most ids first.

    Raises `OSError` if /proc cannot be read.
    """
    single = IdMaps(((0, os.geteuid(), 1),), ((0, os.getegid(), 1),), "single")
    if os.geteuid() == 0 and _may_set_ids():
        everything = IdMaps(_present("uid_map"), _present("gid_map"), "all")
        if (everything.uids, everything.gids) == (single.uids, single.gids):
            return [single]  # its own id is the only one, which it can map itself
        return [everything, single]
    newuidmap, newgidmap = _find("newuidmap"), _find("newgidmap")
    uids, gids = (subordinate_ids(f"/etc/{kind}", os.geteuid()) for kind in ("subuid", "subgid"))
    if newuidmap is None or newgidmap is None or not uids or not gids:
        return [single]
    return [
        IdMaps(
            (*single.uids, *_after_root(uids)),
            (*single.gids, *_after_root(gids)),
            "subordinate",
            (newuidmap, newgidmap),
        ),
        single,
    ]


def _may_set_ids() -> bool:
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        (effective,) = (int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return all(effective >> capability & 1 for capability in (_CAP_SETUID, _CAP_SETGID))


def _present(name: str) -> tuple[Range, ...]:
    """Each id of this namespace, mapped to itself."""
    with open(f"/proc/self/{name}", encoding="utf-8") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    return tuple((inside, inside, size) for inside, _, size in ranges)


def _find(program: str) -> str | None:
    paths = (os.path.join(directory, program) for directory in _SYSTEM_PATHS)
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def subordinate_ids(path: str, uid: int) -> list[tuple[int, int]]:
    """The ranges (first id, number of ids) of the user in subuid(5) or subgid(5) at `path`.

    The user may be listed by name or number. An absent file has none.
    """
    import pwd

    names = {str(uid)}
    with contextlib.suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.strip().split(":") for line in file]
    except OSError:
        return []
    return [
        (int(fields[1]), int(fields[2]))
        for fields in lines
        if len(fields) == 3 and fields[0] in names and fields[1].isdigit() and fields[2].isdigit()
    ]


def _after_root(ranges: Iterable[tuple[int, int]]) -> list[Range]:
    found, inside = [], 1
    for outside, count in ranges:
        found.append((inside, outside, count))
        inside += count
    return found


def enter(maps: IdMaps) -> None:
    """Enter a new user and mount namespace, in which this process is root, with the ids of `maps`.

    Irreversible. EINVAL for a process with threads. Raises `OSError`; the process may then be in the new namespaces
    without ids.
    """
    if maps.kind == "single":
        _unshare()
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", _text(maps.uids)),
            ("gid_map", _text(maps.gids)),
        ):
            _write(f"/proc/self/{name}", text)
        return
    from engine.linux.child import Child  # only for rootless runs

    # Only a process outside may map more than its own id.
    go, gone = os.pipe()
    child = Child(lambda: _map_from_outside(maps, go, gone))
    os.close(go)
    try:
        _unshare()
        os.write(gone, b"\n")
    finally:
        os.close(gone)
        child.answer()


def join(process: int) -> None:
    """Enter the user and mount namespace of `process`, both or none; the current directory is then the root.

    EINVAL for a process with threads; EPERM unless the other one's user made its namespaces. Raises `OSError`.
    """
    descriptor = os.pidfd_open(process)
    try:
        library_call("setns", descriptor, _CLONE_NEWUSER | _CLONE_NEWNS, about=_ENTERED)
    finally:
        os.close(descriptor)


def _unshare() -> None:
    library_call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS, about=_ENTERED)


def _map_from_outside(maps: IdMaps, go: int, gone: int) -> None:
    """In the child: map the parent's ids once it is in its new namespace. Raises `OSError`."""
    os.close(gone)
    if not os.read(go, 1):
        return  # the parent failed
    parent = os.getppid()
    for name, ranges, program in zip(
        ("uid_map", "gid_map"), (maps.uids, maps.gids), maps.programs or (None, None), strict=True
    ):
        if program is None:
            _write(f"/proc/{parent}/{name}", _text(ranges))
        else:
            _run(program, parent, ranges)


def _run(program: str, process: int, ranges: Sequence[Range]) -> None:
    arguments = [
        program,
        str(process),
        *(str(number) for each in ranges for number in each),
    ]
    quiet = [(os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_RDWR, 0) for descriptor in range(3)]
    started = os.posix_spawn(program, arguments, {"PATH": ":".join(_SYSTEM_PATHS)}, file_actions=quiet)
    if code := os.waitstatus_to_exitcode(os.waitpid(started, 0)[1]):
        raise OSError(errno.EPERM, f"it ended with {code}", program)


def _text(ranges: Iterable[Range]) -> str:
    return "".join(f"{inside} {outside} {size}\n" for inside, outside, size in ranges)


def _write(path: str, text: str) -> None:
    """In one write(2), as the kernel requires."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(descriptor)
