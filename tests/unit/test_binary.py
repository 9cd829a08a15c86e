"""What is in a build of runsc: texts are found wherever they lie, and no more is read than it takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.runsc import binary
from engine.runsc.binary import platform_package, texts_in

NAMES = [platform_package(name) for name in ("systrap", "kvm", "ptrace")]


def found(path: Path, content: bytes) -> list[bytes]:
    """Which of `NAMES` are in a file with this content."""
    path.write_bytes(content)
    with path.open("rb") as file:
        return [name for name in NAMES if name in texts_in(file.fileno(), NAMES)]


def elf(*segments: tuple[int, int, int], table: int = 64, entry: int = 56, told: int | None = None) -> bytes:
    """An ELF file of 64 bits with these program headers: type, flags, offset of what is loaded.

    It says that it has as many, or as many as are `told`. What nobody asks for is all ones.
    """
    header = bytearray(b"\xff" * 64)
    header[:6] = b"\x7fELF\2\1"
    header[32:40] = table.to_bytes(8, "little")
    header[54:56] = entry.to_bytes(2, "little")
    header[56:58] = (len(segments) if told is None else told).to_bytes(2, "little")
    headers = [
        kind.to_bytes(4, "little") + flags.to_bytes(4, "little") + offset.to_bytes(8, "little")
        for kind, flags, offset in segments
    ]
    return bytes(header) + bytes(table - 64) + b"".join(each.ljust(entry, b"\xff") for each in headers)


CODE, CONSTANTS, NOTE = (1, 5, 0), (1, 4, 3000), (4, 4, 7)


@pytest.mark.parametrize(
    ("content", "offset"),
    [
        (elf(CODE, CONSTANTS), 3000),
        (elf(NOTE, CODE, CONSTANTS, (1, 4, 4000)), 3000),
        (elf(CODE, CONSTANTS, table=100, entry=64), 3000),
        (elf(CODE, (1, 4, 2**64 - 1)), 2**64 - 1),
        (elf(CODE, NOTE, (1, 6, 9)), 0),
        (elf(), 0),
        (elf(*[CODE] * 63, CONSTANTS), 3000),
        (elf(*[CODE] * 64, CONSTANTS), 0),
        (elf(CODE, CONSTANTS, told=1), 0),
        (b"\x7fELF\1\1" + elf(CODE, CONSTANTS)[6:], 0),
        (b"\x7fELF\2\2" + elf(CODE, CONSTANTS)[6:], 0),
        (elf(CODE, CONSTANTS)[:60], 0),
        (elf(CODE, CONSTANTS)[:100], 0),
        (elf(CODE, CONSTANTS)[:32] + b"\xff" * 8 + elf(CODE, CONSTANTS)[40:], 0),
        (elf(CODE, CONSTANTS)[:32] + (1 << 63).to_bytes(8, "little") + elf(CODE, CONSTANTS)[40:], 0),
        (b"\x7fELF", 0),
    ],
)
def test_where_constants_begin_is_read_from_the_program_headers(
    private: Path, content: bytes, offset: int
) -> None:
    (private / "elf").write_bytes(content)
    with (private / "elf").open("rb") as file:
        assert binary._constants_offset(file.fileno()) == offset


@pytest.mark.parametrize("chunk", [1, 5, 27, 28, 61])
def test_a_text_is_found_wherever_the_pieces_read_are_parted(
    private: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(binary, "_CHUNK", chunk)
    for padding in range(30):
        content = b"\x7fELF" + b"x" * padding + NAMES[0] + b"none" * padding + NAMES[2]
        assert found(private / "runsc", content) == [NAMES[0], NAMES[2]]


@pytest.mark.parametrize(
    "places", [(3000, 4000, 5000), (500, 4000, 1000), (2990, 2000, 300), (5000, 2987, 2960)]
)
def test_texts_are_found_wherever_they_lie(
    private: Path, monkeypatch: pytest.MonkeyPatch, places: tuple[int, ...]
) -> None:
    content = bytearray(elf(CODE, CONSTANTS).ljust(6000, b"\0"))
    for place, name in zip(places, NAMES, strict=True):
        content[place : place + len(name)] = name
    for chunk in (64, 100, 1024, 1 << 18):
        monkeypatch.setattr(binary, "_CHUNK", chunk)
        assert found(private / "runsc", bytes(content)) == NAMES


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_text_that_is_not_there_is_not_found(private: Path, missing: int) -> None:
    there = NAMES[:missing] + NAMES[missing + 1 :]
    content = elf(CODE, CONSTANTS).ljust(3000, b"\0") + b";".join(there)
    assert found(private / "runsc", content) == there


def test_nothing_is_found_in_an_empty_file(private: Path) -> None:
    assert found(private / "runsc", b"") == []


@pytest.mark.parametrize(
    ("content", "begin"),
    [
        (elf(CODE, CONSTANTS).ljust(3000, b"\0") + b";".join(NAMES) + bytes(3000), 3000),
        (b"\x7fELF" + b";".join(NAMES) + bytes(8192), 0),
    ],
)
def test_reading_ends_once_all_constants_are_found(
    private: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, begin: int
) -> None:
    monkeypatch.setattr(binary, "_CHUNK", 128)
    read: list[int] = []
    preadv = os.preadv

    def noting(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        read.append(offset)
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr("os.preadv", noting)
    (private / "runsc").write_bytes(content)
    with (private / "runsc").open("rb") as file:
        assert texts_in(file.fileno(), NAMES) == set(NAMES)
    assert read == [begin]
