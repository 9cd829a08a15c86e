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
#: Bytes of a section header, elf(5), `Elf64_Shdr`.
_SECTION = 64
#: How the name of a release begins; eight digits follow, and some of the characters.
_RELEASE, _RELEASE_CHARACTERS = b"release-", b"abcdefghijklmnopqrstuvwxyz0123456789.-"
_MAX_RELEASE = 128
#: How Debian names the version of its builds, by a release's date and number.
_DEBIAN, _DEBIAN_CHARACTERS = b"0.0~", b"0123456789.~"
#: Bytes at the end of a file that are read for what was added to it.
_TAIL = 1 << 14
#: Bytes at the end of the constants in which Go's linker puts a text that it was given, such as a version; some
#: three hundred thousand follow it in the builds of 2026.
_LINKED_IN = 1 << 19


def platform_package(name: str) -> bytes:
    """The Go package of a Sentry platform; builds with that platform contain its name."""
    return f"pkg/sentry/platform/{name}".encode()


def texts_in(binary: int, texts: Collection[bytes], signs: Collection[bytes] = ()) -> set[bytes]:
    """Which of `texts`, of at least one, are in the file open on `binary`, and which `signs` are where these are.

    `signs` are looked for in what is read for `texts` and no further, so that one that is not there costs little.
    Raises `OSError`.
    """
    return set(find_texts(binary, texts, signs))


def find_texts(binary: int, texts: Collection[bytes], signs: Collection[bytes] = ()) -> dict[bytes, int]:
    """As `texts_in`, with where in the file each is. Raises `OSError`."""
    found: dict[bytes, int] = {}
    middle, size = _constants_offset(binary), os.fstat(binary).st_size
    # The constants first, where most texts are. Read the rest only if one is missing.
    for begin, end in ((middle, size), (0, middle + max(map(len, (*texts, *signs))))):
        _find_between(binary, texts, signs, begin, end, found)
        if found.keys() >= set(texts):
            break
    return found


def texts_within(binary: int, texts: Collection[bytes], begin: int, size: int) -> set[bytes]:
    """Which of `texts`, at least one, are among the `size` bytes from `begin`. Raises `OSError`."""
    found: dict[bytes, int] = {}
    _find_between(binary, texts, (), begin, begin + size, found)
    return set(found)


def _find_between(
    binary: int,
    texts: Collection[bytes],
    signs: Collection[bytes],
    begin: int,
    end: int,
    found: dict[bytes, int],
) -> None:
    """Add what is there to `found`, until that has all of `texts`."""
    sought = (*texts, *signs)
    longest = max(map(len, sought))
    for window in _windows(binary, begin, end, longest):
        for text in sought:
            if text not in found and (at := window.find(text)) >= 0:
                found[text] = begin - longest + at
        if found.keys() >= set(texts):
            return
        begin += len(window) - longest


def is_at_the_end(binary: int, text: bytes) -> bool:
    """Whether `text` is among the last bytes of the file open on `binary`. Raises `OSError`."""
    return text in os.pread(binary, _TAIL, max(0, os.fstat(binary).st_size - _TAIL))


def release_of(binary: int, *, wholly: bool) -> str | None:
    """The release that the file open on `binary` says it is of, such as `release-20260817.0`.

    It is looked for where a linker puts a version, and in all of the file only with `wholly`. Raises `OSError`.
    """
    middle, size = _constants_offset(binary), os.fstat(binary).st_size
    linked_in = _section_end(binary, middle)
    places = [(max(0, size - _TAIL), size), (max(middle, linked_in - _LINKED_IN), linked_in)]
    if wholly:
        places += [(middle, size), (0, middle + _MAX_RELEASE)]
    for begin, end in places:
        window = bytearray()
        for window in _windows(binary, begin, end, _MAX_RELEASE):
            if found := _release_in(window):
                return found
        # No window follows that has the last bytes and zeros behind them, if a whole chunk was the last.
        if found := _release_in(window[-_MAX_RELEASE:] + bytes(_MAX_RELEASE)):
            return found
    return None


def version_of(binary: int) -> str | None:
    """The version that the runsc open on `binary` would print: of a release, or Debian's. Reads up to the whole file.

    Raises `OSError`.
    """
    if found := release_of(binary, wholly=True):
        return found
    at = find_texts(binary, [_DEBIAN]).get(_DEBIAN)
    if at is None:
        return None
    text = os.pread(binary, _MAX_RELEASE, at)
    text = text[: len(text) - len(text.lstrip(_DEBIAN_CHARACTERS))]
    version = text.decode("ascii")
    return version if is_version(version) else None


def is_version(text: str) -> bool:
    """Whether `version_of` can return `text`."""
    prefix = _DEBIAN.decode("ascii")
    numbers = text.removeprefix(prefix)
    return is_release(text) or (
        text.startswith(prefix)
        and len(text) < _MAX_RELEASE
        and numbers[:8].isdigit()
        and len(numbers) >= 8
        and not numbers.strip("0123456789.")
    )


def is_release(text: str) -> bool:
    """Whether `release_of` can return `text`."""
    prefix = _RELEASE.decode("ascii")
    number = text[len(prefix) :][:8]
    return (
        text.startswith(prefix)
        and len(text) <= _MAX_RELEASE
        and not text.strip(_RELEASE_CHARACTERS.decode("ascii"))
        and len(number) == 8
        and number.isdigit()
    )


def _release_in(window: bytearray) -> str | None:
    at = window.find(_RELEASE)
    while 0 <= at <= len(window) - _MAX_RELEASE:  # else the next window has all of it
        text = window[at : at + _MAX_RELEASE]
        text = text[: len(text) - len(text.lstrip(_RELEASE_CHARACTERS))]
        if text[len(_RELEASE) :][:8].isdigit() and len(text) >= len(_RELEASE) + 8:
            return text.decode("ascii")
        at = window.find(_RELEASE, at + 1)
    return None


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


def _section_end(descriptor: int, place: int) -> int:
    """Where the section of an ELF file of 64 bits, elf(5), that has the byte at `place` ends; `place` if none does."""
    header = os.pread(descriptor, 64, 0)
    table, number = int.from_bytes(header[40:48], "little"), int.from_bytes(header[60:62], "little")
    if header[4:6] != _64_BITS_LITTLE_ENDIAN or table >= 1 << 63:
        return place
    sections = os.pread(descriptor, min(number, _MAX_SEGMENTS) * _SECTION, table)
    for at in range(0, len(sections) - _SECTION + 1, _SECTION):
        begin, size = (int.from_bytes(sections[at + field : at + field + 8], "little") for field in (24, 32))
        if 0 < begin <= place < begin + size < 1 << 63:
            return begin + size
    return place


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
