"""A file of traces: opened only if it is one, and read line by line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from engine.linux.regular_files import open_named

#: Names standard input.
STDIN = "-"

#: The longest line that is read, in bytes. The engine's own are a few thousand.
MAX_LINE = 1 << 20

_PIECE = 1 << 16

#: How every header that the engine writes begins.
HEADER = b'{"seq":0,'


def open_trace(path: str) -> BinaryIO:
    """Open it for reading, or standard input. Raises `OSError`."""
    if path == STDIN:
        return open(0, "rb", buffering=_PIECE, closefd=False)
    return open(open_named(path), "rb", buffering=_PIECE)


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """Each line with its newline; of one that is too long, as much as shows that it is."""
    while line := file.readline(MAX_LINE + 2):
        yield line
        if len(line) > MAX_LINE:
            while line and not line.endswith(b"\n"):
                line = file.readline(_PIECE)
