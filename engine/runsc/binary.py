"""What a build of runsc contains, by searching its bytes: runsc is not executed.

Use read(2): a truncated mapped file would raise SIGBUS.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

_CHUNK = 1 << 18
#: elf(5), `e_ident`: of each architecture that gVisor runs on.
_64_BITS_LITTLE_ENDIAN = b"\2\1"
#: Program headers to read, at most; runsc has about ten.
_MAX_SEGMENTS = 64
#: elf(5), `p_type` and `p_flags`: a loaded segment, neither writable nor executable.
_LOAD, _READ_ONLY = b"\1\0\0\0", b"\4\0\0\0"


def platform_package(name: str) -> bytes:
    """The Go package of a Sentry platform; builds with that platform contain its name."""
    return f"pkg/sentry/platform/{name}".encode()


def texts_in(binary: int, texts: Collection[bytes]) -> set[bytes]:
    """Which of `texts`, at least one, are in the file open on `binary`. Raises `OSError`."""
    found: set[bytes] = set()
    longest = max(map(len, texts))
    middle, size = _constants_offset(binary), os.fstat(binary).st_size
    # The constants first, where most texts are. Read the rest only if one is missing.
    for begin, end in ((middle, size), (0, middle + longest)):
        for window in _windows(binary, begin, end, longest):
            found.update(text for text in texts if text not in found and text in window)
            if len(found) == len(texts):
                return found
    return found


def _windows(descriptor: int, begin: int, end: int, overlap: int) -> Iterator[bytearray]:
    """The bytes from `begin` to `end` in chunks, each after the last `overlap` bytes of the one before.

    One buffer for all: allocating costs more than the search.
    """
    window = bytearray(overlap + _CHUNK)
    piece = memoryview(window)[overlap:]
    while begin < end and (count := os.preadv(descriptor, [piece[: end - begin]], begin)):
        window[overlap + count :] = bytes(_CHUNK - count)
        yield window
        window[:overlap] = window[count : count + overlap]
        begin += count


def _constants_offset(descriptor: int) -> int:
    """Where the read-only data of a 64-bit ELF file begins, elf(5); 0 if unknown."""
    header = os.pread(descriptor, 64, 0)
    if header[4:6] != _64_BITS_LITTLE_ENDIAN:
        return 0
    table, entry, number = header[32:40], header[54:56], header[56:58]
    for index in range(min(int.from_bytes(number, "little"), _MAX_SEGMENTS)):
        offset = int.from_bytes(table, "little") + index * int.from_bytes(entry, "little")
        if offset >= 1 << 63:
            return 0
        program = os.pread(descriptor, 16, offset)
        kind, flags = program[0:4], program[4:8]
        if (kind, flags) == (_LOAD, _READ_ONLY):
            return int.from_bytes(program[8:16], "little")
    return 0
