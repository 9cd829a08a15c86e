"""Files of traces cut into chunks that can be judged apart: some small files, or a part of a large one.

A part begins and ends where a run does, so what is said of its runs is what is said of them in the whole file, but
for the numbers of their lines: each worker counts from the part's own first line, and `in_order` knows how many
lines are above. Where the cuts are depends on the files alone, never on who does the work.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from engine.verify.trace_file import HEADER, open_trace

#: How many bytes a chunk has, about, and of how many files it is at most.
SIZE = 8 << 20
FILES = 256
_LOOK = 1 << 16
_BUFFER = 1 << 16
_RUN = b"\n" + HEADER


@dataclass(frozen=True, slots=True)
class Chunk:
    """The whole of each file in `paths`; or of a single one the bytes from `begin` up to `end`, None for its end.

    `inode` is of the file that was cut, so that nothing is said of another one that is put in its place meanwhile.
    """

    paths: tuple[str, ...]
    begin: int = 0
    end: int | None = None
    inode: int | None = None

    def open(self, path: str) -> BinaryIO:
        """The file `path`, at the chunk's begin, which ends where the chunk does. Raises as `open_trace`."""
        file = open_trace(path)
        if self.inode is None:
            return file
        try:
            if os.fstat(file.fileno()).st_ino != self.inode:
                raise ValueError("another file was put in its place while it was read")
            file.seek(self.begin)
        except BaseException:
            file.close()
            raise
        return file if self.end is None else io.BufferedReader(_Part(file, self.end - self.begin), _BUFFER)


class _Part(io.RawIOBase):
    """The next `size` bytes of a file, which it closes."""

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
    """All that is in the files `paths`, in order. Only a file that holds many `runs` is ever cut.

    A file that cannot be looked at is a chunk like any other: whoever reads it says why.
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
        pass  # who reads on from here says why
    yield Chunk((path,), begin, None, inode)


def _next_run(file: int, at: int) -> int | None:
    """Where the first run begins that begins not before `at`, which is not 0. Raises `OSError`."""
    at -= 1  # the newline before it
    while len(piece := os.pread(file, _LOOK, at)) >= len(_RUN):
        if (found := piece.find(_RUN)) >= 0:
            return at + found + 1
        at += len(piece) - len(_RUN) + 1
    return None


_Result = TypeVar("_Result")
#: Of a file: its path, where the chunk of it begins, what is said of that, and how many lines that has.
Answer = tuple[str, int, _Result, int]


def in_order(
    answers: Iterable[Answer[_Result]], *, is_broken: Callable[[_Result], bool]
) -> Iterator[tuple[str, int, _Result]]:
    """Each answer with its file's path and how many lines of the file are above it.

    After one that `is_broken` nothing more is taken of that file: who reads it from its start comes no further.
    """
    above, broken = 0, False
    for path, begin, result, lines in answers:
        if begin == 0:
            above, broken = 0, False
        if not broken:
            yield path, above, result
            above, broken = above + lines, is_broken(result)
