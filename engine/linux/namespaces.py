"""What the user namespace makes of root: uid 0 here may be an ordinary user outside, user_namespaces(7)."""

from __future__ import annotations


def root_maps_to_unprivileged(uid_map: str) -> bool:
    """Whether `uid_map` (the text of /proc/PID/uid_map) maps uid 0 to a host uid other than 0.

    Lines that are not three numbers are passed over, as is an empty range; the first that maps uid 0 decides.
    """
    for line in uid_map.splitlines():
        fields = line.split()
        if len(fields) != 3 or not all(field.isascii() and field.isdigit() for field in fields):
            continue
        inside, outside, length = (int(field) for field in fields)
        if inside == 0 and length > 0:
            return outside != 0
    return False


def read_uid_map() -> str:
    """The text of /proc/self/uid_map; empty where there is no /proc or no such file."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def unmapped_uid() -> int | None:
    """The uid that stands for every owner that is not mapped, where the host's root is one of them; else None.

    In there the host's root and any other user of the host look the same, user_namespaces(7).
    """
    if not root_maps_to_unprivileged(read_uid_map()):
        return None
    with open("/proc/sys/kernel/overflowuid", encoding="ascii") as file:
        return int(file.read())
