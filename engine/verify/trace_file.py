"""Open a file of traces and read it line by line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from engine.linux.regular_files import open_named

#: Names standard input.
STDIN = "-"
#: Of the signature beside a trace, as `ssh-keygen -Y sign` names it.
SUFFIX = ".sig"

#: Longest line in bytes. The engine's lines have a few thousand.
MAX_LINE = 1 << 20

_CHUNK = 1 << 16

#: How every header begins.
HEADER = b'{"seq":0,'


def open_trace(path: str) -> BinaryIO:
    """Open a regular file, or standard input, for reading. Raises `OSError`."""
    if path == STDIN:
        return open(0, "rb", buffering=_CHUNK, closefd=False)
    return open(open_named(path), "rb", buffering=_CHUNK)


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """Each line with its newline; a line that is too long is cut just above the limit."""
    while line := file.readline(MAX_LINE + 2):
        yield line
        if len(line) > MAX_LINE:
            while line and not line.endswith(b"\n"):
                line = file.readline(_CHUNK)
