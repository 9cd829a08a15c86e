"""Makes an installation in the layout of 2026 out of Debian's runsc of 2024, for tests where no newer one is to be had.

`python -m tests.support.standin DIRECTORY` makes one by hand. It starts the Sentry as a runsc of 2026 does: from a file
of its own in `gvisor-bin/` beside runsc, by way of the prewarmer, and refuses where one of the two is missing. Root's
containers leave `null-netns`, unless it is given `--gofer-network-namespace new`. What it cannot show: that releases
are compared, new verbs and keys, `features`, the order of hooks, the sandbox's pid namespace, and speed.

The notable thing: runsc itself stays what it is. A small program is put in front of its entry point, in a segment of
its own, and steps in in one process only: the one that runsc starts to become the Sentry (`standin_asm/runsc.s`).
"""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.system_parts import PACKAGED_RUNSC

#: What it is made of where nothing else is named.
PACKAGED: Final = Path(PACKAGED_RUNSC)

#: A release whose runsc refuses to start without its sidecars.
RELEASE: Final = "release-20260914.0"

SIDECARS: Final = "gvisor-bin"
SENTRY: Final = "gvisor_sentry"
PREWARMER: Final = "gvisor-sentry-prewarmer"
#: Sidecars that end with 0 and do nothing.
IDLE: Final = ("checkpointgofer", "runsc-metric-server")

#: Those that say of which release they are, as in an installation of 2026.
LABELLED: Final = ("runsc", SENTRY, *IDLE)

#: What the engine looks for in a build, and where it looks.
_SIGNS = (
    b"gvisor.dev/gvisor/runsc/gvisorbinaries",
    b'flag:"gofer-network-namespace"',
    b'flag:"sidecar-release-enforcement-policy"',
)
_PLATFORMS = tuple(f"pkg/sentry/platform/{name}".encode() for name in ("kvm", "ptrace", "systrap"))

_SOURCES = Path(__file__).with_name("standin_asm")
_LABEL = re.compile(r"[A-Za-z0-9.+~-]{1,64}")
_PAGE = 0x1000
#: elf(5): `e_machine`, `p_type` and `p_flags`.
_X86_64, _LOAD, _NOTE, _READ, _READ_AND_EXECUTE = 62, 1, 4, 4, 5
#: Where the address of the entry point is in the header.
_ENTRY = 24
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")


@dataclass(frozen=True)
class Installation:
    """An installation in the layout of 2026 in `directory`."""

    directory: Path

    @property
    def runsc(self) -> Path:
        return self.directory / "runsc"

    @property
    def sidecars(self) -> Path:
        return self.directory / SIDECARS

    @property
    def sentry(self) -> Path:
        return self.sidecars / SENTRY

    @property
    def prewarmer(self) -> Path:
        return self.sidecars / PREWARMER

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of it, runsc first."""
        return (self.runsc, self.sentry, self.prewarmer, *(self.sidecars / name for name in IDLE))


def build(
    directory: Path,
    *,
    original: Path | None = None,
    release: str = RELEASE,
    releases: Mapping[str, str] | None = None,
) -> Installation:
    """Make an installation in `directory`, which need not exist, out of the runsc at `original`.

    Without `original` it is the one of Debian's package. Each file says that it is of `release`, but for
    those that `releases` names (of `LABELLED`): so an installation of mixed releases is made.

    Raises `ValueError` for an `original` or a release that cannot be used, `OSError` and `CalledProcessError`.
    """
    of_file = dict.fromkeys(LABELLED, release) | dict(releases or {})
    if unknown := of_file.keys() - set(LABELLED):
        raise ValueError(f"no file with a release: {', '.join(sorted(unknown))}")
    if bad := [label for label in of_file.values() if not _LABEL.fullmatch(label)]:
        raise ValueError(f"not a release: {bad[0]!r}")
    if original is None:
        if not PACKAGED.exists():
            raise ValueError(f"no {PACKAGED} to make it of; ./just setup installs it")
        original = PACKAGED
    version = _version(original)
    runsc = _Elf(original.read_bytes())
    runsc.add_signs()
    made = Installation(directory)
    made.sidecars.mkdir(parents=True, exist_ok=True)
    for path in (made.directory, made.sidecars):
        path.chmod(0o755)
    with tempfile.TemporaryDirectory() as work:
        assembler = _Assembler(Path(work))
        _write(made.prewarmer, assembler.program("prewarmer.s", ""))
        for name in IDLE:
            _write(made.sidecars / name, assembler.program("nothing.s", of_file[name]))
        stub = assembler.code("runsc.s", of_file["runsc"], runsc.free_address, OLD_ENTRY=runsc.entry)
    _write(made.runsc, runsc.extended(stub, version, of_file["runsc"], enter=True))
    texts = f"{SENTRY}\0{of_file[SENTRY]}\0".encode()
    _write(made.sentry, runsc.extended(texts, version, of_file[SENTRY], enter=False))
    return made


def _version(runsc: Path) -> str:
    """What a runsc says that it is. Raises `ValueError` where it is none."""
    said = subprocess.run([runsc, "--version"], capture_output=True, text=True, check=True).stdout
    if (found := re.match(r"runsc version (\S+)\n", said)) is None:
        raise ValueError(f"{runsc} is no runsc: it says {said[:100]!r}")
    return found[1]


def _write(path: Path, content: bytes) -> None:
    """Make a new program at `path`: whoever executes the file that was there goes on with that one."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(0o755)


class _Elf:
    """A program for x86-64 at fixed addresses, elf(5), with a note, which the kernel has no use for.

    Raises `ValueError` for any other file.
    """

    def __init__(self, content: bytes) -> None:
        if content[:6] != b"\x7fELF\2\1":
            raise ValueError("not an ELF file of 64 bits")
        header = _HEADER.unpack_from(content)
        self._content = content
        machine, self.entry, self._table, number = header[2], header[4], header[5], header[10]
        if machine != _X86_64:
            raise ValueError(
                f"a stand-in can be made of a runsc for x86-64 only, and this is for machine {machine}"
            )
        self._segments = [
            _SEGMENT.unpack_from(content, self._table + index * _SEGMENT.size) for index in range(number)
        ]
        if not any(kind == _NOTE for kind, *_ in self._segments):
            raise ValueError("the program has no note, in whose place a segment could be put")
        #: Where nothing is loaded, and nothing behind it.
        self.free_address = _page_up(
            max(address + size for kind, _, _, address, _, _, size, _ in self._segments if kind == _LOAD)
        )

    def add_signs(self) -> None:
        """Write the texts by which a runsc of 2026 is told near the names of its platforms.

        They go over names of types of closures, which nothing ever looks up.
        """
        changed = bytearray(self._content)
        constants = next(
            offset for kind, flags, offset, *_ in self._segments if (kind, flags) == (_LOAD, _READ)
        )
        near = min(at for name in _PLATFORMS if (at := changed.find(name, constants)) >= 0)
        for sign in _SIGNS:
            closure = rb"\*struct { F uintptr;[ -~]{%d,}" % (len(sign) - 19)
            room = re.compile(closure).search(changed, near if b"flag:" in sign else near - _PAGE)
            if room is None:
                raise ValueError(f"no room for {sign!r} in it")
            at = room.start() + 1
            changed[at : at + len(sign)] = sign
        self._content = bytes(changed)

    def extended(self, added: bytes, version: str, release: str, *, enter: bool) -> bytes:
        """This program with `added` at `free_address`, which ends with the text `release` and a NUL.

        `version` is what it says that it is, and from then on it says `release`. With `enter` it starts there.
        """
        content = bytearray(self._content)
        self._replace_text(content, version, release, self.free_address + len(added) - len(release) - 1)
        content += bytes(_page_up(len(content)) - len(content))
        address, size = self.free_address, len(added)
        segment = (_LOAD, _READ_AND_EXECUTE, len(content), address, address, size, size, _PAGE)
        # Those that are loaded stay in the order of their addresses, as elf(5) wants them.
        others = list(self._segments)
        others.remove(next(one for one in others if one[0] == _NOTE))
        last = max(index for index, one in enumerate(others) if one[0] == _LOAD)
        others.insert(last + 1, segment)
        for index, one in enumerate(others):
            _SEGMENT.pack_into(content, self._table + index * _SEGMENT.size, *one)
        if enter:
            struct.pack_into("<Q", content, _ENTRY, address)
        return bytes(content + added)

    def _replace_text(self, content: bytearray, old: str, new: str, address: int) -> None:
        """Have the one variable whose value is the text `old` point to `new`, which will be at `address`.

        A string of Go's is an address and a length. The linker puts the text of one that it was given between NULs.
        """
        at = content.find(b"\0" + old.encode() + b"\0") + 1
        variable = struct.pack("<QQ", self._address_of(at), len(old)) if at else b""
        if not variable or content.count(variable) != 1:
            raise ValueError(f"the variable with the version {old!r} cannot be told")
        struct.pack_into("<QQ", content, content.find(variable), address, len(new))
        content[at : at + len(old)] = bytes(len(old))

    def _address_of(self, place: int) -> int:
        """The address of what is at `place` in the file."""
        for kind, _, offset, address, _, size, _, _ in self._segments:
            if kind == _LOAD and offset <= place < offset + size:
                return int(address + place - offset)
        raise ValueError(f"what is at {place} in the file is not loaded")


def _page_up(number: int) -> int:
    return -(-number // _PAGE) * _PAGE


class _Assembler:
    """as(1) and ld(1), of binutils, with their files in the directory `work`."""

    def __init__(self, work: Path) -> None:
        self._work = work

    def program(self, source: str, release: str) -> bytes:
        """A whole program."""
        return self._linked(source, release, "--strip-all", "-z", "noseparate-code", "-z", "noexecstack")

    def code(self, source: str, release: str, address: int, **symbols: int) -> bytes:
        """Code that lies at `address`; `symbols` are addresses of what it refers to."""
        given = [f"--defsym={name}={value:#x}" for name, value in symbols.items()]
        return self._linked(source, release, "--oformat=binary", f"-Ttext={address:#x}", *given)

    def _linked(self, source: str, release: str, *options: str) -> bytes:
        compiled, linked = self._work / "compiled", self._work / "linked"
        text = (_SOURCES / source).read_text() + f'release:        .asciz  "{release}"\n'
        subprocess.run(["as", "--64", "-o", compiled, "-"], input=text, text=True, check=True)
        subprocess.run(["ld", "-m", "elf_x86_64", *options, "-o", linked, compiled], check=True)
        return linked.read_bytes()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.support.standin DIRECTORY")
    print(build(Path(sys.argv[1])).runsc)
