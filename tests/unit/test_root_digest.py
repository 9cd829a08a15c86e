"""The digest of a root file system: as the description says, over all of it, nothing outside, unknown if it changes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.bundle import root_digest as module
from engine.bundle.root_digest import MAX_DEPTH, UnknownDigestError, root_digest
from engine.verify.trace_check import Verdict, verify
from tests.unit.test_runner import HandedOffError, World, given, world

__all__ = ["given", "world"]


@pytest.fixture
def root(private: Path) -> Path:
    made = private / "root"
    (made / "bin").mkdir(parents=True)
    (made / "bin" / "sh").write_bytes(b"#!")
    (made / "bin" / "sh").chmod(0o4755)
    (made / "etc").mkdir(mode=0o700)
    (made / "etc" / "passwd").write_text("root")
    (made / "link").symlink_to("/etc/passwd")
    return made


def digest(path: Path) -> str:
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        return root_digest(descriptor)
    finally:
        os.close(descriptor)


def by_the_description(root: Path) -> str:
    """The same, written anew from what the module's text says, by paths."""
    found: list[tuple[list[bytes], bytes]] = []
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        name = os.fsencode(str(path.relative_to(root)))
        kind = {
            stat.S_IFDIR: "d",
            stat.S_IFREG: "f",
            stat.S_IFLNK: "l",
            stat.S_IFCHR: "c",
            stat.S_IFIFO: "p",
        }.get(stat.S_IFMT(status.st_mode), "s")
        detail = b""
        if kind == "f":
            detail = hashlib.sha256(path.read_bytes()).hexdigest().encode()
        elif kind == "l":
            detail = os.fsencode(path.readlink())
        elif kind == "c":
            detail = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}".encode()
        fields = [name, *(each.encode() for each in (kind, f"{status.st_mode & 0o7777:04o}"))]
        fields += [str(status.st_uid).encode(), str(status.st_gid).encode(), detail]
        record = b"".join(field + b"\0" for field in fields)
        found.append(([] if name == b"." else name.split(b"/"), record))
    return hashlib.sha256(b"".join(record for _, record in sorted(found))).hexdigest()


def test_it_is_what_its_description_says(root: Path) -> None:
    for name in ("a-b", "a", "a/b", "Z", "ü", "new\nline"):
        (root / name).mkdir()
    (root / os.fsdecode(b"\xff\xfe")).write_text("x")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(root)
        try:
            listening.bind("socket")
        finally:
            os.chdir(here)
    if os.geteuid() == 0:
        os.mknod(root / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    assert digest(root) == by_the_description(root)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "bin" / "sh").write_bytes(b"#?"),
        lambda root: (root / "bin" / "sh").chmod(0o755),
        lambda root: (root / "etc").chmod(0o755),
        lambda root: root.chmod(0o700 if root.stat().st_mode & 0o077 else 0o755),
        lambda root: (root / "new").touch(),
        lambda root: (root / "new").mkdir(),
        lambda root: (root / "etc" / "passwd").rename(root / "etc" / "shadow"),
        lambda root: (root / "etc" / "passwd").unlink(),
        lambda root: ((root / "link").unlink(), (root / "link").symlink_to("/etc/shadow")),
        lambda root: ((root / "link").unlink(), (root / "link").write_text("/etc/passwd")),
        pytest.param(
            lambda root: os.chown(root / "etc" / "passwd", 5, -1),
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away"),
        ),
    ],
)
def test_whatever_counts_changes_it(root: Path, change: Callable[[Path], object]) -> None:
    before = digest(root)
    change(root)
    assert digest(root) != before


def test_times_and_names_of_one_file_do_not_count(root: Path) -> None:
    before = digest(root)
    os.utime(root / "bin" / "sh", (1, 1))
    os.utime(root / "etc", (1, 1))
    assert digest(root) == before
    again = root.parent / "again"
    again.mkdir(mode=stat.S_IMODE(root.stat().st_mode))
    os.system(f"cp -a {root}/. {again}")
    assert digest(again) == before


def test_nothing_outside_is_read(root: Path, private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (private / "outside").mkdir()
    (private / "outside" / "secret").write_text("x")
    (root / "away").symlink_to(private / "outside")
    (root / "file").symlink_to(private / "outside" / "secret")
    before = digest(root)
    (private / "outside" / "secret").write_text("y")
    assert digest(root) == before


@pytest.mark.parametrize("moment", ["content", "content again"])
@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "bin" / "sh").write_bytes(b"changed"),
        lambda root: (root / "etc" / "new").touch(),
        lambda root: (root / "etc" / "passwd").chmod(0o640),
    ],
)
def test_what_changes_meanwhile_makes_it_unknown(
    root: Path, monkeypatch: pytest.MonkeyPatch, moment: str, change: Callable[[Path], object]
) -> None:
    real, reads = module._content, []

    def changing(descriptor: int) -> bytes:
        found = real(descriptor)
        reads.append(descriptor)
        if len(reads) == (1 if moment == "content" else 2):
            change(root)
        return found

    monkeypatch.setattr(module, "_content", changing)
    with pytest.raises(UnknownDigestError):
        digest(root)


def test_a_tree_that_is_too_deep_is_unknown_and_leaves_nothing_open(root: Path) -> None:
    deep = root
    for _ in range(MAX_DEPTH + 1):
        deep = deep / "d"
        deep.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UnknownDigestError):
        digest(root)
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_cannot_be_read_makes_it_unknown(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_descriptor: int) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", "/proc/self/fd/9")

    monkeypatch.setattr(module, "_content", forbidden)
    with pytest.raises(UnknownDigestError, match="Permission denied"):
        digest(root)


@pytest.mark.usefixtures("given")
def test_a_run_records_it_on_request(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HandedOffError):
        world.run(root_digest=True)
    header = world.lines()[0]
    assert header["options"]["root_digest"] is True
    assert header["asked"]["root"]["sha256"] == digest(world.bundle / "rootfs")
    [result] = verify([str(world.trace)])
    assert result.verdict is Verdict.CONFORMS, result
    assert world.warnings == []


@pytest.mark.usefixtures("given")
def test_a_run_whose_root_changes_goes_on_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_directory: int) -> str:
        raise UnknownDigestError("it changed")

    monkeypatch.setattr(module, "root_digest", unknown)
    with pytest.raises(HandedOffError):
        world.run(root_digest=True)
    assert world.lines()[0]["asked"]["root"]["sha256"] is None
    assert len(world.warnings) == 1
    [result] = verify([str(world.trace)])
    assert result.verdict is Verdict.CONFORMS, result


@pytest.mark.usefixtures("given")
def test_a_run_without_the_request_reads_none_of_it(world: World) -> None:
    with pytest.raises(HandedOffError):
        world.run()
    line = json.dumps(world.lines()[0])
    assert "root_digest" not in line
    assert "sha256" not in json.loads(line)["asked"]["root"]
