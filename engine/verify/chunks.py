"""Split files of traces into chunks for workers: several small files, or a part of a large one.

A part begins and ends at a run's boundary, so its results are those of the whole file except for line numbers: a worker
counts from the part's first line, and `in_order` knows how many lines precede it. The split depends on the files only,
never on the workers.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from engine.verify.trace_file import HEADER, open_trace

#: Approximate size of a chunk in bytes, and the largest number of files in it.
SIZE = 8 << 20
FILES = 256
_LOOK = 1 << 16
_BUFFER = 1 << 16
_RUN = b"\n" + HEADER


@dataclass(frozen=True, slots=True)
class Chunk:
    """The whole of each file in `paths`; or the bytes from `begin` to `end` (None: the end) of a single file.

    `inode`: of the file that was split, to detect that another file took its place.
    """

    paths: tuple[str, ...]
    begin: int = 0
    end: int | None = None
    inode: int | None = None

    def open(self, path: str) -> BinaryIO:
        """Open the file at `path`, limited to the chunk. Raises as `open_trace`."""
        file = open_trace(path)
        if self.inode is None:
            return file
        try:
            if os.fstat(file.fileno()).st_ino != self.inode:
                raise ValueError("it was replaced by another file while it was read")
            file.seek(self.begin)
        except BaseException:
            file.close()
            raise
        return file if self.end is None else io.BufferedReader(_Part(file, self.end - self.begin), _BUFFER)


class _Part(io.RawIOBase):
    """The next `size` bytes of a file; closes the file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        count: int = self._file.readinto(memoryview(buffer)[: self._left])  # type: ignore[attr-defined]
        self._left -= count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def split(paths: Iterable[str], *, runs: bool) -> Iterator[Chunk]:
    """Split the files `paths`, in order. Only a file with many `runs` is split into parts.

    A file that stat(2) fails on is also a chunk: its reader reports the error.
    """
    some: list[str] = []
    size = 0
    for path in paths:
        try:
            has = os.stat(path).st_size
        except (OSError, ValueError):
            has = 0
        is_large = runs and has > SIZE
        if some and (is_large or size + has > SIZE or len(some) == FILES):
            yield Chunk(tuple(some))
            some, size = [], 0
        if is_large:
            yield from _parts(path)
        else:
            some.append(path)
            size += has
    if some:
        yield Chunk(tuple(some))


def _parts(path: str) -> Iterator[Chunk]:
    begin, inode = 0, None
    try:
        with open_trace(path) as file:
            inode = os.fstat(file.fileno()).st_ino
            while (end := _next_run(file.fileno(), begin + SIZE)) is not None:
                yield Chunk((path,), begin, end, inode)
                begin = end
    except (OSError, ValueError):
        pass  # the reader reports it
    yield Chunk((path,), begin, None, inode)


def _next_run(file: int, at: int) -> int | None:
    """The offset of the first run that begins at `at` or later; `at` must not be 0. Raises `OSError`."""
    at -= 1  # the newline before it
    while len(piece := os.pread(file, _LOOK, at)) >= len(_RUN):
        if (found := piece.find(_RUN)) >= 0:
            return at + found + 1
        at += len(piece) - len(_RUN) + 1
    return None


_Result = TypeVar("_Result")
#: For a file: its path, the offset of its chunk, the result, and its number of lines.
Answer = tuple[str, int, _Result, int]


def in_order(
    answers: Iterable[Answer[_Result]], *, is_broken: Callable[[_Result], bool]
) -> Iterator[tuple[str, int, _Result]]:
    """Each answer with its file's path and the number of lines of the file above it.

    After an answer that `is_broken` the rest of the file is skipped, as a reader of the whole file would stop there.
    """
    above, broken = 0, False
    for path, begin, result, lines in answers:
        if begin == 0:
            above, broken = 0, False
        if not broken:
            yield path, above, result
            above, broken = above + lines, is_broken(result)
