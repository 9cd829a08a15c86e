"""The program that the doctor runs in a container: a static ELF file of our own, since no other is certainly there.

It sleeps, so that a sandbox that ends after a second is noticed, and then writes `SAYS`.
"""

from __future__ import annotations

import platform
import struct

#: Seconds.
SLEEP = 2
SAYS = "engine doctor was here\n"

_ADDRESS = 0x400000
#: ELF header and one program header; then the timespec, then the text, then the code.
_HEADERS, _TIMESPEC, _TEXT = 64 + 56, 16, 32


def _x86_64(timespec: int, text: int, length: int) -> bytes:
    """nanosleep(timespec, NULL); write(1, text, length); exit(0)."""

    def word(value: int) -> bytes:
        return struct.pack("<I", value)

    mov_eax, mov_edi, mov_esi, mov_edx = b"\xb8", b"\xbf", b"\xbe", b"\xba"
    syscall = b"\x0f\x05"
    return b"".join(
        (
            *(mov_edi, word(timespec), mov_esi, word(0), mov_eax, word(35), syscall),
            *(mov_edi, word(1), mov_esi, word(text), mov_edx, word(length), mov_eax, word(1), syscall),
            *(mov_edi, word(0), mov_eax, word(60), syscall),
        )
    )


def _aarch64(timespec: int, text: int, length: int) -> bytes:
    """As `_x86_64`."""
    svc = 0xD4000001

    def load(register: int, value: int) -> tuple[int, int]:
        movz, movk_16 = 0xD2800000, 0xF2A00000
        return movz | (value & 0xFFFF) << 5 | register, movk_16 | (value >> 16) << 5 | register

    words = (
        *(*load(0, timespec), *load(1, 0), *load(8, 101), svc),
        *(*load(0, 1), *load(1, text), *load(2, length), *load(8, 64), svc),
        *(*load(0, 0), *load(8, 93), svc),
    )
    return struct.pack(f"<{len(words)}I", *words)


_MACHINES = {"x86_64": (62, _x86_64), "aarch64": (183, _aarch64)}


def probe(machine: str | None = None) -> bytes:
    """The program for this `machine`, as uname(2) names it. Raises `KeyError` for one that gVisor does not run on."""
    number, code_for = _MACHINES[machine or platform.machine()]
    says = SAYS.encode()
    data = _ADDRESS + _HEADERS
    code = code_for(data, data + _TIMESPEC, len(says))
    content = struct.pack("<qq", SLEEP, 0) + says.ljust(_TEXT, b"\0") + code
    size = _HEADERS + len(content)
    entry = data + _TIMESPEC + _TEXT
    header = b"\x7fELF\2\1\1" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, number, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _ADDRESS, _ADDRESS, size, size, 0x10000)
    return header + segment + content
