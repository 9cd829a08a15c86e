"""What engines act upon and adversaries rearrange: a binary, bundles, an artifact base, and things nobody may touch.

`World` makes it all below one directory, moves like the adversary of specs/GVisorRuntime.tla, and remembers what
lay where at which time. It never asks the engine: what it says, it read from the file system.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.linux.regular_files import Identity as FileIdentity
from engine.state.container import EXEC_ALLOW, RUNSC_ROOT, RUNTIME, component
from engine.state.store import STORE
from tests.model_based.two_steps import kept_copy, stage_directory
from tests.support.bundles import write_config

#: A user that owns nothing here.
NOBODY = 65534

#: The clock whose ticks time files, clock_gettime(2).
_CLOCK_REALTIME_COARSE = 5

#: read(0, sp, 1), then exit(0): it lives until its standard input ends. By machine: its ELF number and code.
_PROGRAMS = {
    "x86_64": (62, "31ff 4889e6 ba01000000 31c0 0f05 31ff b83c000000 0f05"),
    "aarch64": (183, "000080d2 e1030091 220080d2 e80780d2 010000d4 000080d2 a80b80d2 010000d4"),
}
_LOADED_AT, _HEADERS = 0x400000, 120

#: The directories on the way to a run's staged copy, from the outermost in. The first two all containers share.
LEVELS: tuple[str, ...] = ("above", "base", "container", "runsc_root", "runtime", "exec_allow", "stage")
SHARED = ("above", "base", STORE)
#: Those whose paths runsc is given or that lead there.
HANDED_OVER = LEVELS[:5]

Identity = tuple[int, int]


def program(nonce: int, *, size: int = 9000) -> bytes:
    """A static ELF executable that a build of runsc could be, as far as `validate` looks; no two are alike."""
    machine, code = _PROGRAMS[platform.machine()]
    text = bytes.fromhex(code)
    end = _HEADERS + len(text)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    for value, width in (
        *((2, 2), (machine, 2), (1, 4), (_LOADED_AT + _HEADERS, 8), (64, 8), (0, 8), (0, 4)),
        *((64, 2), (56, 2), (1, 2), (0, 2), (0, 2), (0, 2)),
        *((1, 4), (5, 4), (0, 8), (_LOADED_AT, 8), (_LOADED_AT, 8), (end, 8), (end, 8), (0x1000, 8)),
    ):
        header += value.to_bytes(width, "little")
    content = header + text + b"gvisor.dev/gvisor/pkg/sentry/platform/systrap"
    mark = f" build {nonce}.".encode()
    return content + (mark * (size // len(mark)))[: size - len(content)]


@dataclass(frozen=True, slots=True)
class Version:
    """What the path of runsc led to, from the time `since` on. `content` is None where it led to no program."""

    since: int
    content: bytes | None
    trusted: bool


@dataclass(frozen=True, slots=True)
class Move:
    """Something the adversary did at `time`: to `what`, of the container `whose`, or of all (None)."""

    time: int
    what: str
    whose: str | None

    def concerns(self, container_id: str) -> bool:
        return self.whose in (None, container_id)


class World:
    """One world. `clock` counts the adversary's moves; everything that is remembered bears its time."""

    def __init__(self, top: Path) -> None:
        self.top = top
        top.mkdir(mode=0o700)
        self.clock = 0
        self.moves: list[Move] = []
        self.above = top / "above"
        self.base = self.above / "base"
        self.binary = top / "bin" / "runsc"
        self.traces = top / "traces"
        self.attic = top / "attic"
        self.canary = top / "canary"
        for directory in (self.above, self.binary.parent, self.traces, self.attic):
            directory.mkdir(mode=0o755)
        # What a removal that follows a link would like best: a tree that looks like a container's.
        for name in ("runsc-root/runtime", "runsc-root/exec-allow/stage-1-a", "base"):
            (self.canary / name).mkdir(parents=True, mode=0o700)
        for name in ("lock", "precious", "runsc-root/exec-allow/stage-1-a/runsc"):
            (self.canary / name).write_text("precious")
        self._nonce = 0
        self._bundles: list[str] = []
        self._filler = top.parent / "filler"
        self.versions: list[Version] = []
        self._place_binary(self._new_program(), trusted=True)
        self._attic: dict[Path, list[Path]] = {}

    # -- where things are ---------------------------------------------------------------------------------------

    def bundle(self, container_id: str) -> Path:
        """The bundle of that container; made when it is first asked for."""
        bundle = self.top / f"bundle-{container_id}"
        if str(bundle) not in self._bundles:
            self._bundles.append(str(bundle))
            (bundle / "rootfs").mkdir(parents=True)
            write_config(bundle)
        return bundle

    def directory(self, level: str, container_id: str) -> Path | None:
        """The path at which that directory should be; None for a staging directory when there is none."""
        container = self.base / component(container_id)
        root = container / RUNSC_ROOT
        if level == "stage":
            return stage_directory(root / EXEC_ALLOW)
        return {
            "above": self.above,
            "base": self.base,
            STORE: self.base / STORE,
            "container": container,
            "runsc_root": root,
            "runtime": root / RUNTIME,
            "exec_allow": root / EXEC_ALLOW,
        }[level]

    def environment(self) -> dict[str, str]:
        return {"ENGINE_ARTIFACT_BASE": str(self.base), "PATH": str(self.binary.parent)}

    def everything_in_base(self) -> set[str]:
        """Every path below the base, and the base, relative to what is above it; links are not followed."""
        if not self.base.is_dir() or self.base.is_symlink():
            return {"base"} if os.path.lexists(self.base) else set()
        found = {"base"}
        for directory, directories, files in os.walk(self.base):
            relative = os.path.relpath(directory, self.above)
            found.update(os.path.join(relative, name) for name in (*directories, *files))
        return found

    def outside(self) -> dict[str, tuple[int, ...]]:
        """The state of everything that is no engine's to write: any write, chmod or removal changes it."""
        state: dict[str, tuple[int, ...]] = {}
        with contextlib.suppress(FileNotFoundError):
            above = os.lstat(self.above)  # its times are the base's doing
            state["above"] = (above.st_mode, above.st_uid, above.st_dev, above.st_ino)
        places = [str(self.canary), str(self.binary.parent), *self._bundles]
        while places:
            place = places.pop()
            status = state[place] = _untouched(os.lstat(place))
            if stat.S_ISDIR(status[0]):
                places += [entry.path for entry in os.scandir(place)]
        return state

    # -- the binary -------------------------------------------------------------------------------------------

    def executable_during(self, since: int, until: int) -> list[bytes]:
        """The contents of the trusted programs that the path led to at some time from `since` to `until`."""
        found = []
        for version, successor in zip(self.versions, [*self.versions[1:], None], strict=True):
            over = successor is not None and successor.since <= since
            if version.since <= until and not over and version.trusted and version.content:
                found.append(version.content)
        return found

    def swap_binary(self, kind: str) -> bool:
        """Put something else at the path of runsc: one of `BINARY_MOVES`. Says whether anything was done."""
        now = self.versions[-1]
        in_place = kind in ("rewrite", "rewrite_shorter", "chmod")
        if in_place and (self.binary.is_symlink() or not self._is_a_program()):
            return False
        self._moved("binary", None)
        self.binary.parent.chmod(0o755)
        content = self._new_program()
        if kind in ("rewrite", "rewrite_shorter"):
            content = content if kind == "rewrite" else self._new_program(2000)
            self._rewrite(content, truncate=kind == "rewrite_shorter")
            self._remember(content, trusted=self._is_trusted())
        elif kind == "chmod":
            self.binary.chmod(0o777)
            self._remember(now.content, trusted=False)
        elif kind == "chmod_directory":
            self.binary.parent.chmod(0o777)
            self._remember(now.content, trusted=False)
        elif kind == "absent":
            self.binary.unlink(missing_ok=True)
            self._remember(None, trusted=False)
        elif kind == "wrapper":
            wrapped = self.binary.with_name(".runsc-wrapped")
            _put(wrapped, content, 0o755)
            _put(self.binary, f'#!/bin/sh\nexec -a "$0" "{wrapped}" "$@"\n'.encode(), 0o755)
            self._remember(content, trusted=True)
        elif kind in ("directory", "directory_link"):
            # The file that was there keeps its name and its ctime: it is its directory that is another one.
            self._to_the_attic(self.binary.parent)
            where = self.binary.parent
            if kind == "directory_link":
                where = self.attic / f"bin-{self._nonce}"
                self.binary.parent.symlink_to(where)
            where.mkdir(mode=0o755)
            self._place_binary(content, trusted=True)
        elif kind == "link":
            _put(self.binary.with_name("runsc-elsewhere"), content, 0o755)
            aside = self.binary.with_name(".new")
            aside.symlink_to("runsc-elsewhere")
            aside.replace(self.binary)
            self._remember(content, trusted=True)
        elif kind == "not_a_program":
            _put(self.binary, b"some text\n", 0o755)
            self._remember(None, trusted=False)
        elif kind == "foreign_owner":
            _put(self.binary, content, 0o755, owner=NOBODY)
            self._remember(content, trusted=False)
        elif kind == "loose_mode":
            _put(self.binary, content, 0o775)
            self._remember(content, trusted=False)
        else:
            self._place_binary(content, trusted=True)
        return True

    def _rewrite(self, content: bytes, *, truncate: bool) -> None:
        """Write into the file itself, as a careless upgrade does, and give it its old mtime."""
        before = self.binary.stat()
        _wait_for_another_time(before)
        flags = os.O_WRONLY | (os.O_TRUNC if truncate else 0)
        descriptor = os.open(self.binary, flags)
        os.write(descriptor, content)
        os.close(descriptor)
        os.utime(self.binary, ns=(before.st_atime_ns, before.st_mtime_ns))

    def _is_a_program(self) -> bool:
        return self.binary.exists() and self.binary.read_bytes().startswith(b"\x7fELF")

    def _is_trusted(self) -> bool:
        status = self.binary.stat()
        return status.st_uid == os.geteuid() and not status.st_mode & 0o022

    def _place_binary(self, content: bytes, *, trusted: bool) -> None:
        _put(self.binary, content, 0o755)
        self._remember(content, trusted=trusted)

    def _new_program(self, size: int = 9000) -> bytes:
        self._nonce += 1
        return program(self._nonce, size=size)

    def _remember(self, content: bytes | None, *, trusted: bool) -> None:
        self.versions.append(Version(self.clock, content, trusted))

    # -- the directories --------------------------------------------------------------------------------------

    def move_directory(self, level: str, kind: str, container_id: str) -> bool:
        """Do to a directory what `kind`, one of `DIRECTORY_MOVES`, says. Says whether anything was done."""
        path = self.directory(level, container_id)
        if path is None or not _is_real_directory(path.parent):
            return False
        there = _is_real_directory(path)
        if kind in ("loosen", "chown", "plant", "empty_out") and not there:
            return False
        if kind == "restore" and not self._attic.get(path):
            return False
        if kind in ("remove", "move_away") and not os.path.lexists(path):
            return False
        self._moved(level, None if level in SHARED else container_id)
        if kind == "loosen":
            path.chmod(0o777)
        elif kind == "chown":
            os.chown(path, NOBODY, NOBODY)
        elif kind == "plant":
            self._nonce += 1
            (path / f"planted-{self._nonce}").write_text("planted")
        elif kind == "remove":
            _remove(path)
        elif kind == "restore":
            if os.path.lexists(path):
                _remove(path)
            self._attic[path].pop().rename(path)
        else:
            self._to_the_attic(path)
            if kind == "link":
                path.symlink_to(self.canary)
            elif kind == "directory":
                path.mkdir(mode=0o700)
            elif kind == "loose_directory":
                path.mkdir()
                path.chmod(0o777)
            elif kind == "file":
                path.write_text("in the way")
        return True

    def replace_copy(self, container_id: str) -> bool:
        """Put another program under the name of the staged copy. Says whether there is one."""
        stage = self.directory("stage", container_id)
        if stage is None or not (stage / "runsc").exists():
            return False
        self._moved("copy", container_id)
        _put(stage / "runsc", self._new_program(), 0o555)
        return True

    def spoil_kept(self, kind: str) -> bool:
        """Do to the kept copy that was used last, or to its record, what `kind` says: one of `KEPT_MOVES` or
        `RECORD_MOVES`. Says whether anything was tried.
        """
        store = self.base / STORE
        kept = kept_copy(store) if _is_real_directory(store) else None
        if kept is None:
            return False
        record = kept.with_name(f"{kept.name}.json")
        older = [path for path in store.glob("*-*.json") if path != record and path.with_suffix("").is_file()]
        written = _record_in(record)
        if (kind in (*RECORD_MOVES, *FORGERIES) and written is None) or (
            kind.startswith("older") and not older
        ):
            return False
        self._moved("kept", None)
        content = self._new_program(len(kept.read_bytes()))
        if kind in ("write", "truncate", "lengthen"):
            self._write_kept(
                kept, {"write": content, "truncate": content[:-1], "lengthen": content + b"."}[kind]
            )
        elif kind == "replace":
            _put(kept, content, 0o555)
        elif kind == "replace_by_the_binary_of_now":
            _put(kept, self.binary.read_bytes() if self.binary.is_file() else content, 0o555)
        elif kind == "loosen_file":
            kept.chmod(0o777)
        elif kind in ("remove", "remove_record"):
            (kept if kind == "remove" else record).unlink()
        elif kind in ("link_in_its_place", "link_for_the_record"):
            place = kept if kind == "link_in_its_place" else record
            place.unlink()
            place.symlink_to(self.canary / "precious")
        elif kind in ("directory_in_its_place", "directory_for_the_record"):
            place = kept if kind == "directory_in_its_place" else record
            place.unlink()
            place.mkdir(0o700)
        elif kind == "torn_record":
            record.write_bytes(record.read_bytes()[:-9])
        elif kind == "empty_record":
            record.write_bytes(b"")
        elif kind == "record_of_other_bytes":
            record.write_text(json.dumps({**(written or {}), "sha256": "0" * 64, "copy": None}))
        elif kind == "forged":
            self._write_kept(kept, content)
            as_it_is = {"sha256": hashlib.sha256(kept.read_bytes()).hexdigest(), "copy": _identity_of(kept)}
            record.write_text(json.dumps({**(written or {}), **as_it_is}))
        elif kind == "older_record":
            record.write_bytes(older[0].read_bytes())
        elif kind == "older_copy":
            _put(kept, older[0].with_suffix("").read_bytes(), 0o555)
        return True

    def is_store_in_use(self) -> bool:
        """Whether a kept copy has another name somewhere."""
        store = self.base / STORE
        return _is_real_directory(store) and any(
            stat.S_ISREG((status := path.lstat()).st_mode) and status.st_nlink > 1 for path in store.iterdir()
        )

    def _write_kept(self, kept: Path, content: bytes) -> None:
        """Write into the file itself, as what broke out of a container does that was started from it.

        Where a run holds it, or a container executes it, the kernel must refuse that.
        """
        before = kept.stat()
        _wait_for_another_time(before)
        if os.geteuid() != 0:
            kept.chmod(0o700)
        try:
            descriptor = os.open(kept, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno not in (errno.ETXTBSY, errno.EWOULDBLOCK):
                raise
        else:
            os.write(descriptor, content)
            os.ftruncate(descriptor, len(content))
            os.close(descriptor)
            os.utime(kept, ns=(before.st_atime_ns, before.st_mtime_ns))
        if os.geteuid() != 0:
            kept.chmod(0o555)

    def _to_the_attic(self, path: Path) -> None:
        if not os.path.lexists(path):
            return
        self._nonce += 1
        aside = self.attic / str(self._nonce)
        path.rename(aside)
        self._attic.setdefault(path, []).append(aside)

    # -- the disk ---------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether the file system was filled."""
        return self._filler.exists()

    def fill_disk(self, pages: int) -> None:
        """Leave room for so many pages on the file system of this world, which has to be a small one of its own."""
        self.free_disk()
        self._moved("disk", None)
        space = os.statvfs(self.top)
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, (space.f_bavail - pages) * space.f_frsize))

    def free_disk(self) -> None:
        """Give the room back, as whatever else is done here needs some."""
        self._filler.unlink(missing_ok=True)

    # -- the bundles ------------------------------------------------------------------------------------------

    def change_bundle(self, container_id: str, kind: str) -> None:
        """Change what the bundle is: one of `BUNDLE_MOVES`."""
        bundle = self.bundle(container_id)
        self._moved("bundle", container_id)
        if kind == "edit":
            self._nonce += 1
            write_config(bundle, hostname=f"host{self._nonce}")
        elif kind == "same_again":
            content = (bundle / "config.json").read_bytes()
            _put(bundle / "config.json", content, 0o644)
        elif kind == "rootfs":
            self._to_the_attic(bundle / "rootfs")
            (bundle / "rootfs").mkdir()
        else:
            self._to_the_attic(bundle)
            shutil.copytree(self.attic / str(self._nonce), bundle)

    def bundle_state(self, container_id: str) -> tuple[Identity, Identity, bytes]:
        """What tells one bundle from another: its directory, its root file system and the bytes of config.json."""
        bundle = self.bundle(container_id)
        return identity(bundle), identity(bundle / "rootfs"), (bundle / "config.json").read_bytes()

    # -- memory -----------------------------------------------------------------------------------------------

    def moves_since(self, when: int, container_id: str, what: tuple[str, ...]) -> list[Move]:
        """The moves after the time `when` on one of `what`, of that container or shared."""
        return [
            move
            for move in self.moves
            if move.time > when and move.what in what and move.concerns(container_id)
        ]

    def note(self, what: str, whose: str | None) -> None:
        """Remember something that was done by others than the adversary."""
        self._moved(what, whose)

    def _moved(self, what: str, whose: str | None) -> None:
        self.free_disk()
        self.clock += 1
        self.moves.append(Move(self.clock, what, whose))

    def destroy(self) -> None:
        self.free_disk()
        shutil.rmtree(self.top)


#: A program that is trusted, wherever it comes from: it may be executed if it was there when runsc was validated.
BINARY_MOVES: tuple[str, ...] = (
    *("other", "rewrite", "rewrite_shorter", "chmod", "chmod_directory", "absent", "wrapper", "link"),
    *("not_a_program", "loose_mode", "directory", "directory_link"),
)
DIRECTORY_MOVES: tuple[str, ...] = (
    "link",
    "directory",
    "loose_directory",
    "file",
    "move_away",
    "remove",
    "restore",
    "loosen",
    "plant",
)
BUNDLE_MOVES = ("edit", "same_again", "rootfs", "directory")
if os.geteuid() == 0:
    BINARY_MOVES = (*BINARY_MOVES, "foreign_owner")
    DIRECTORY_MOVES = (*DIRECTORY_MOVES, "chown")


#: What is done to the kept copy, and to the record of what it is.
KEPT_MOVES = (
    *("write", "truncate", "lengthen", "replace", "replace_by_the_binary_of_now", "loosen_file", "remove"),
    *("link_in_its_place", "directory_in_its_place", "older_copy"),
)
#: The two of them at once, as only one who acts as the owner of both can: where he owns the binary as well he is none
#: to be kept from anything.
FORGERIES = ("forged",)
RECORD_MOVES = (
    *("torn_record", "empty_record", "record_of_other_bytes", "older_record", "remove_record"),
    *("link_for_the_record", "directory_for_the_record"),
)


def _wait_for_another_time(before: os.stat_result) -> None:
    """Within one tick of the kernel's clock two versions would bear one ctime; Linux before 6.13 has no finer."""
    while time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) <= before.st_ctime_ns:
        time.sleep(0.001)


def _record_in(path: Path) -> dict[str, object] | None:
    """What a record says; None where it is none any more, as after an earlier move."""
    if path.is_symlink() or not path.is_file():
        return None
    try:
        said: dict[str, object] = json.loads(path.read_bytes())
    except ValueError:
        return None
    return said


def _identity_of(path: Path) -> Mapping[str, int]:
    return FileIdentity.of(path.lstat()).facts()


def identity(path: Path) -> Identity:
    """Device and inode of what is at `path`, a link for itself."""
    status = path.lstat()
    return status.st_dev, status.st_ino


def _is_real_directory(path: Path) -> bool:
    return os.path.lexists(path) and stat.S_ISDIR(path.lstat().st_mode)


def _remove(path: Path) -> None:
    if _is_real_directory(path):
        shutil.rmtree(path)
    else:
        path.unlink()


def _put(path: Path, content: bytes, mode: int, owner: int | None = None) -> None:
    """Replace what is at `path` by a new file, as a package manager does."""
    aside = path.with_name(".new")
    aside.write_bytes(content)
    aside.chmod(mode)
    if owner is not None:
        os.chown(aside, owner, owner)
    aside.replace(path)


def _untouched(status: os.stat_result) -> tuple[int, ...]:
    """What stays as it is for as long as a file is only read."""
    return (
        *(status.st_mode, status.st_uid, status.st_gid, status.st_dev, status.st_ino),
        *(status.st_size, status.st_mtime_ns, status.st_ctime_ns),
    )
