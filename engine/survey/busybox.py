"""Finds a busybox that needs no loader and no libraries, so that it alone makes a root file system."""

from __future__ import annotations

import os
import struct

#: Where Debian (with and without a merged /usr) and Alpine put a static one.
BUSYBOX_PATHS = ("/usr/bin/busybox", "/bin/busybox", "/bin/busybox.static")

_PT_INTERP = 3


def is_static(path: str) -> bool:
    """Whether the file at `path` is a 64-bit little-endian ELF program that needs no loader, elf(5)."""
    with open(path, "rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
            return False
        (offset,) = struct.unpack_from("<Q", header, 0x20)
        size, count = struct.unpack_from("<HH", header, 0x36)
        file.seek(offset)
        table = file.read(size * count)
    kinds = [struct.unpack_from("<I", table, at)[0] for at in range(0, len(table) - 3, size or 1)]
    return bool(kinds) and _PT_INTERP not in kinds


def static_busybox() -> str | None:
    """The first static busybox in the usual places."""
    return next((path for path in BUSYBOX_PATHS if os.path.isfile(path) and is_static(path)), None)
