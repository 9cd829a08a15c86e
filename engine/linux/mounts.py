"""What is mounted where, as this process sees it, proc(5)."""

from __future__ import annotations

import re

_ESCAPED = re.compile(rb"\\([0-7]{3})")


def mounted_beneath(path: str) -> list[str]:
    """The mount points at `path`, which is absolute and free of links, and beneath it. Raises `OSError`."""
    with open("/proc/self/mountinfo", "rb") as file:
        points = [
            _ESCAPED.sub(_unescape, line.split(b" ")[4]).decode(errors="surrogateescape") for line in file
        ]
    return [point for point in points if point == path or point.startswith(path + "/")]


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 8)])
