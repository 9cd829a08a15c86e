"""The id of this boot of the machine, random(4)."""

from __future__ import annotations


def boot_id() -> str:
    """32 hexadecimal digits, unique to this boot. Raises `OSError`."""
    with open("/proc/sys/kernel/random/boot_id", "rb", buffering=0) as file:
        return file.read().decode("ascii").strip().replace("-", "")
