"""What a build of runsc has in it, told by the texts among its bytes: nothing is run to ask.

The bytes are read, not mapped: a mapped file that its owner cuts short ends the reader by SIGBUS.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

_CHUNK = 1 << 18
#: elf(5), `e_ident`: of each architecture that gVisor runs on.
_64_BITS_LITTLE_ENDIAN = b"\2\1"
#: As many program headers are looked at; a build of runsc has some ten.
_MAX_SEGMENTS = 64
#: elf(5), `p_type` and `p_flags`: a loaded segment that is neither written nor executed.
_LOAD, _READ_ONLY = b"\1\0\0\0", b"\4\0\0\0"


def platform_package(name: str) -> bytes:
    """The Go package of a Sentry platform, whose name a build with that platform carries."""
    return f"pkg/sentry/platform/{name}".encode()


def texts_in(binary: int, texts: Collection[bytes]) -> set[bytes]:
    """Which of `texts`, of at least one, are in the file open on `binary`. Raises `OSError`."""
    found: set[bytes] = set()
    longest = max(map(len, texts))
    middle, size = _constants_offset(binary), os.fstat(binary).st_size
    # Constants first: there texts are soon found. What lies before is read only where one is missing.
    for begin, end in ((middle, size), (0, middle + longest)):
        for window in _windows(binary, begin, end, longest):
            found.update(text for text in texts if text not in found and text in window)
            if len(found) == len(texts):
                return found
    return found


def _windows(descriptor: int, begin: int, end: int, overlap: int) -> Iterator[bytearray]:
    """The bytes from `begin` to `end`, a piece a turn; each turn starts with the last `overlap` of the one before.

    It is one buffer: a new one a turn costs more than the search in it.
    """
    window = bytearray(overlap + _CHUNK)
    piece = memoryview(window)[overlap:]
    while begin < end and (count := os.preadv(descriptor, [piece[: end - begin]], begin)):
        window[overlap + count :] = bytes(_CHUNK - count)
        yield window
        window[:overlap] = window[count : count + overlap]
        begin += count


def _constants_offset(descriptor: int) -> int:
    """Where in an ELF file of 64 bits, elf(5), its read-only data begins; 0 where that cannot be told."""
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
