"""A file of traces: opened only if it is one, and read line by line."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from typing import BinaryIO

#: Names standard input.
STDIN = "-"

#: The longest line that is read, in bytes. The engine's own are a few thousand.
MAX_LINE = 1 << 20

_PIECE = 1 << 16

#: How every header that the engine writes begins.
HEADER = b'{"seq":0,'


def open_trace(path: str) -> BinaryIO:
    """Raises `OSError` and, for a path that no file can have or one that is not a regular file, `ValueError`."""
    if path == STDIN:
        return open(0, "rb", buffering=_PIECE, closefd=False)
    mode = os.stat(path).st_mode  # before it is opened: opening some devices does something
    if not stat.S_ISREG(mode):
        raise ValueError(f"it is {_KINDS.get(stat.S_IFMT(mode), 'no file')}, and not a regular file")
    # Should it be swapped for a FIFO by now, this does not wait for a writer.
    return open(
        os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb", buffering=_PIECE
    )


_KINDS: Mapping[int, str] = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """Each line with its newline; of one that is too long, as much as shows that it is."""
    while line := file.readline(MAX_LINE + 2):
        yield line
        if len(line) > MAX_LINE:
            while line and not line.endswith(b"\n"):
                line = file.readline(_PIECE)
