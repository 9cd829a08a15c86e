"""Which boot of the machine this is, and who logged in."""

from __future__ import annotations


def boot_id() -> str:
    """32 hexadecimal digits, unique to this boot, random(4). Raises `OSError`."""
    with open("/proc/sys/kernel/random/boot_id", "rb", buffering=0) as file:
        return file.read().decode("ascii").strip().replace("-", "")


#: What the kernel has for a process whose user never logged in, audit(7).
_UNSET = (1 << 32) - 1


def login_user() -> int:
    """The uid that logged in, whatever user it became since, proc(5) `loginuid`; -1 if unknown."""
    try:
        with open("/proc/self/loginuid", "rb", buffering=0) as file:
            uid = int(file.read())
    except (OSError, ValueError):
        return -1
    return uid if 0 <= uid < _UNSET else -1
