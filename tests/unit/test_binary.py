"""What is in a build of runsc: texts are found wherever they lie, and no more is read than it takes."""

from __future__ import annotations

import os
import subprocess
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


@pytest.mark.parametrize("chunk", [64, 100, 1 << 18])
def test_a_text_is_told_by_its_first_place(
    private: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(binary, "_CHUNK", chunk)
    content = bytearray(elf(CODE, CONSTANTS).ljust(6000, b"\0"))
    places = {NAMES[0]: 3900, NAMES[1]: 4000, NAMES[2]: 500}
    for name, place in (*places.items(), (NAMES[0], 3930)):
        content[place : place + len(name)] = name
    (private / "runsc").write_bytes(bytes(content))
    with (private / "runsc").open("rb") as file:
        assert binary.find_texts(file.fileno(), NAMES) == places


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


def release_in(path: Path, content: bytes, *, wholly: bool = True) -> str | None:
    path.write_bytes(content)
    with path.open("rb") as file:
        return binary.release_of(file.fileno(), wholly=wholly)


@pytest.mark.parametrize(
    ("text", "release"),
    [
        (b"release-20260817.0", "release-20260817.0"),
        (b"release-20260817.0-70-g3c5eee17d\0more", "release-20260817.0-70-g3c5eee17d"),
        (b"release-20260817", "release-20260817"),
        (b"release-20260817.0/", "release-20260817.0"),
        (b"release-notes release-2026081 release-20260914.1", "release-20260914.1"),
        (b"release-20260817.0\0release-20260914.1", "release-20260817.0"),
        (b"release-notes release-20260817.0 release-notes", "release-20260817.0"),
        (b"release-2026081", None),
        (b"Release-20260817.0", None),
        (b"", None),
    ],
)
def test_a_release_is_told_by_its_name(private: Path, text: bytes, release: str | None) -> None:
    assert release_in(private / "runsc", elf(CODE, CONSTANTS).ljust(3000, b"\0") + text) == release


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (b"release-20260817.0", "release-20260817.0"),
        (b"go1.24.4\x00\x000.0~20240729.0\x00\x00", "0.0~20240729.0"),
        (b"golang-gvisor-gvisor-0.0~20221219.0/_build", "0.0~20221219.0"),
        (b"0.0~20240729", "0.0~20240729"),
        (b"0.0~20240729.0 release-20260817.0", "release-20260817.0"),
        (b"0.0~2024072.0", None),
        (b"0.0~", None),
        (b"0.0~20240729~1", None),
        (b"", None),
    ],
)
def test_a_version_is_a_release_or_debians(private: Path, text: bytes, version: str | None) -> None:
    path = private / "runsc"
    path.write_bytes(elf(CODE, CONSTANTS).ljust(3000, b"\0") + text)
    with path.open("rb") as file:
        assert binary.version_of(file.fileno()) == version
    assert version is None or binary.is_version(version)


@pytest.mark.skipif(not Path("/usr/bin/runsc").exists(), reason="Debian's runsc is not installed")
def test_the_version_is_what_runsc_prints() -> None:
    said = subprocess.run(["/usr/bin/runsc", "--version"], capture_output=True, text=True, check=True).stdout
    with Path("/usr/bin/runsc").open("rb") as file:
        version = binary.version_of(file.fileno())
    assert version is not None
    assert said.splitlines()[0] == f"runsc version {version}"


def test_a_release_is_found_wherever_the_pieces_read_are_parted(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binary, "_CHUNK", 50)
    monkeypatch.setattr(binary, "_TAIL", 0)
    text = b"release-20260817.0-70-g3c5eee17d"
    for padding in range(120):
        content = elf(CODE, CONSTANTS).ljust(3000 + padding, b"\0") + text + bytes(300)
        assert release_in(private / "runsc", content) == text.decode()


@pytest.mark.parametrize("place", [0, 2890, 2990, 3072])
def test_a_release_is_found_at_each_border_of_what_is_read(
    private: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """The constants are from 3000 to 3200. A file that begins with its release is no ELF file."""
    monkeypatch.setattr(binary, "_CHUNK", 50)
    monkeypatch.setattr(binary, "_TAIL", 0)
    content = bytearray(elf(CODE, CONSTANTS).ljust(3200, b"\0"))
    content[place : place + 18] = b"release-20260817.0"
    assert release_in(private / "runsc", bytes(content)) == "release-20260817.0"


def test_a_file_that_begins_with_its_release_tells_it_at_once(private: Path) -> None:
    assert release_in(private / "runsc", b"release-20260817.0", wholly=False) == "release-20260817.0"


@pytest.mark.parametrize("size", [200, 300, 400])
@pytest.mark.parametrize("back", [18, 60, 128])
def test_a_release_at_the_very_end_of_what_is_read_is_found(
    private: Path, monkeypatch: pytest.MonkeyPatch, size: int, back: int
) -> None:
    """The constants that a linker puts there are `size` bytes, which are read 100 at a time, and more follows them."""
    monkeypatch.setattr(binary, "_CHUNK", 100)
    monkeypatch.setattr(binary, "_LINKED_IN", size)
    monkeypatch.setattr(binary, "_TAIL", 0)
    content = bytearray(elf(CODE, CONSTANTS).ljust(9000, b"\0"))
    content[40:48], content[60:62] = (8000).to_bytes(8, "little"), (1).to_bytes(2, "little")
    content[8000:8064] = section(3000, 1000)
    content[4000 - back : 4018 - back] = b"release-20260817.0"
    content[4000:4001] = b"/"
    assert release_in(private / "runsc", bytes(content), wholly=False) == "release-20260817.0"


def section(begin: int, size: int, following: int = 0) -> bytes:
    """The header of a section, of 64 bytes: where it begins, its size, and what follows these."""
    fields = (each.to_bytes(8, "little") for each in (begin, size, following))
    return (b"\xff" * 24 + b"".join(fields)).ljust(64, b"\xff")


@pytest.mark.parametrize(
    ("table", "told", "end"),
    [
        (section(3000, 5000), 1, 8000),
        (section(2000, 1500), 1, 3500),
        (section(2000, 1000) + section(3000, 5000), 2, 8000),
        (section(2000, 1000) + section(3000, 5000), 1, 3000),
        (section(5, 2500, 9999) + section(3000, 5000), 2, 8000),
        (section(5, 2500) + section(3000, 5000)[:-1], 2, 3000),
        (section(3001, 5000), 1, 3000),
        (section(1, 5000), 1, 5001),
        (section(0, 5000), 1, 3000),
        (section(3000, 2**63 - 1), 1, 3000),
        (b"", 0, 3000),
    ],
)
def test_where_constants_end_is_read_from_the_section_headers(
    private: Path, table: bytes, told: int, end: int
) -> None:
    content = bytearray(elf(CODE, CONSTANTS).ljust(4000, b"\0"))
    content[40:48] = (4000).to_bytes(8, "little")
    content[60:62] = told.to_bytes(2, "little")
    (private / "elf").write_bytes(bytes(content) + table)
    with (private / "elf").open("rb") as file:
        assert binary._section_end(file.fileno(), 3000) == end


def test_the_release_is_that_which_the_linker_put_there(private: Path) -> None:
    content = bytearray(elf(CODE, CONSTANTS).ljust(40000, b"\0"))
    content[3100:3118], content[-18:] = b"release-20200101.0", b"release-20260817.0"
    assert release_in(private / "runsc", bytes(content)) == "release-20260817.0"


@pytest.mark.parametrize(("place", "is_found"), [(3100, False), (7900, True), (9000, False), (29900, True)])
def test_a_release_is_looked_for_where_a_linker_puts_it(
    private: Path, monkeypatch: pytest.MonkeyPatch, place: int, is_found: bool
) -> None:
    """The constants end at 8000, by the table of sections; the file at 30000."""
    monkeypatch.setattr(binary, "_LINKED_IN", 1000)
    monkeypatch.setattr(binary, "_TAIL", 1000)
    content = bytearray(elf(CODE, CONSTANTS).ljust(30000, b"\0"))
    content[40:48] = (20000).to_bytes(8, "little")
    content[58:62] = (64).to_bytes(2, "little") + (2).to_bytes(2, "little")
    content[20064 + 24 : 20064 + 40] = (3000).to_bytes(8, "little") + (5000).to_bytes(8, "little")
    content[place : place + 18] = b"release-20260817.0"
    path = private / "runsc"
    assert (release_in(path, bytes(content), wholly=False) is not None) is is_found
    assert release_in(path, bytes(content)) == "release-20260817.0"


@pytest.mark.parametrize("table", [1 << 62, 1 << 63, (1 << 64) - 1, 2990])
def test_a_table_of_sections_that_is_none_tells_nothing(private: Path, table: int) -> None:
    content = bytearray(elf(CODE, CONSTANTS).ljust(3000, b"\0") + b"release-20260817.0")
    content[40:48] = table.to_bytes(8, "little")
    content[58:62] = b"\xff" * 4
    assert release_in(private / "runsc", bytes(content)) == "release-20260817.0"


def test_a_sign_is_looked_for_no_further_than_the_texts(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binary, "_CHUNK", 1024)
    before = elf(CODE, CONSTANTS).ljust(3000, b"\0") + b"sign-1" + b";".join(NAMES)
    (private / "runsc").write_bytes(before + bytes(4096) + b"sign-2")
    with (private / "runsc").open("rb") as file:
        assert texts_in(file.fileno(), NAMES, [b"sign-1", b"sign-2"]) == {*NAMES, b"sign-1"}


@pytest.mark.parametrize(
    ("before", "behind", "is_there"), [(1000, 0, True), (1000, 90, True), (1000, 95, False), (0, 0, True)]
)
def test_the_end_of_a_file_is_its_last_bytes(
    private: Path, monkeypatch: pytest.MonkeyPatch, before: int, behind: int, is_there: bool
) -> None:
    monkeypatch.setattr(binary, "_TAIL", 100)
    (private / "runsc").write_bytes(bytes(before) + b"the sentry" + bytes(behind))
    with (private / "runsc").open("rb") as file:
        assert binary.is_at_the_end(file.fileno(), b"the sentry") is is_there
