"""Step `stage`: what will be executed is the bytes that were judged, or nothing."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from engine.errors import StageError
from engine.lifecycle.resolve import Resolved
from engine.lifecycle.secure_root import SecuredRoot, secure_root
from engine.lifecycle.stage import stage
from engine.lifecycle.validate import Validated, validate
from engine.options import Platform


@pytest.fixture
def root(private: Path) -> SecuredRoot:
    return secure_root("web", {"ENGINE_ARTIFACT_BASE": str(private / "base")})


@pytest.fixture
def pinned(binary: Path) -> Validated:
    return validate(Resolved(str(binary), "option"), Platform.AUTO)


def nothing_staged(root: SecuredRoot) -> bool:
    return not list(Path(root.runsc_root.path).rglob("stage-*"))


def test_the_copy_is_private_and_holds_the_pinned_bytes(
    root: SecuredRoot, pinned: Validated, binary: Path
) -> None:
    staged = stage(pinned, root)
    path = Path(staged.path)
    assert path.parent.parent == Path(root.runsc_root.path, "exec-allow")
    assert path.name == "runsc"
    assert path.read_bytes() == binary.read_bytes()
    assert path.stat().st_mode & 0o7777 == 0o500
    assert path.parent.stat().st_mode & 0o7777 == 0o700
    assert staged.digest == hashlib.sha256(binary.read_bytes()).hexdigest()
    assert os.path.samestat(os.fstat(staged.descriptor), path.stat())
    assert staged.facts()["pinned"] == pinned.facts()["identity"]
    assert staged.facts()["size"] == path.stat().st_size


def test_each_copy_has_a_directory_of_its_own(root: SecuredRoot, pinned: Validated) -> None:
    assert stage(pinned, root).path != stage(pinned, root).path


def test_a_binary_swapped_at_the_path_is_not_what_is_staged(
    root: SecuredRoot, pinned: Validated, binary: Path
) -> None:
    content = binary.read_bytes()
    binary.parent.rename(binary.parent.with_name("old"))  # moves the directory: the file's ctime stays
    binary.parent.mkdir()
    binary.write_bytes(b"\x7fELF trojan")
    assert Path(stage(pinned, root).path).read_bytes() == content


def test_a_binary_replaced_by_rename_over_it_is_not_what_is_staged(
    root: SecuredRoot, pinned: Validated, binary: Path
) -> None:
    trojan = binary.with_name("trojan")
    trojan.write_bytes(b"\x7fELF trojan")
    trojan.rename(binary)
    with pytest.raises(StageError, match="was changed after it was validated"):
        stage(pinned, root)  # its link count moved its ctime: an upgrade is under way
    assert nothing_staged(root)


def test_a_binary_rewritten_in_place_is_refused(root: SecuredRoot, pinned: Validated, binary: Path) -> None:
    with binary.open("r+b") as file:
        file.seek(100)
        file.write(b"trojan")
    with pytest.raises(StageError, match="was changed after it was validated"):
        stage(pinned, root)
    assert nothing_staged(root)


def test_a_binary_truncated_in_place_is_refused(root: SecuredRoot, pinned: Validated, binary: Path) -> None:
    os.truncate(binary, 1000)
    with pytest.raises(StageError):
        stage(pinned, root)
    assert nothing_staged(root)


def test_a_linked_staging_directory_is_refused_and_not_followed(
    root: SecuredRoot, pinned: Validated, private: Path
) -> None:
    (private / "victim").mkdir()
    Path(root.runsc_root.path, "exec-allow").symlink_to(private / "victim")
    with pytest.raises(StageError, match="exec-allow' is a symbolic link"):
        stage(pinned, root)
    assert list((private / "victim").iterdir()) == []


@pytest.mark.usefixtures("needs_root")
def test_a_foreign_staging_directory_is_refused(root: SecuredRoot, pinned: Validated) -> None:
    path = Path(root.runsc_root.path, "exec-allow")
    path.mkdir()
    os.chown(path, 4242, 4242)
    with pytest.raises(StageError, match="owned by uid 4242"):
        stage(pinned, root)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_write_that_fails_leaves_nothing_half_made(
    root: SecuredRoot, pinned: Validated, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def write(_descriptor: int, _data: memoryview) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.write", write)
    with pytest.raises(StageError, match=os.strerror(code)) as refusal:
        stage(pinned, root)
    assert ("free space" in str(refusal.value)) is (code in (errno.ENOSPC, errno.EDQUOT))
    assert nothing_staged(root)


def test_a_write_that_takes_a_part_is_continued(
    root: SecuredRoot, pinned: Validated, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr("os.write", lambda descriptor, data: write(descriptor, data[:777]))
    assert Path(stage(pinned, root).path).read_bytes() == binary.read_bytes()


def test_a_read_that_ends_early_is_a_short_copy_and_refused(
    root: SecuredRoot, pinned: Validated, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread = os.pread
    monkeypatch.setattr(
        "os.pread", lambda descriptor, count, offset: pread(descriptor, 100, offset) if offset == 0 else b""
    )
    with pytest.raises(StageError, match="only 100 of"):
        stage(pinned, root)
    assert nothing_staged(root)


def test_a_copy_can_be_taken_back(root: SecuredRoot, pinned: Validated) -> None:
    staged = stage(pinned, root)
    assert staged.discard() == [staged.directory.path]
    staged.close()
    assert nothing_staged(root)


def test_a_refusal_leaves_no_descriptor_open(root: SecuredRoot, pinned: Validated, binary: Path) -> None:
    binary.write_bytes(b"\x7fELF other")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StageError):
        stage(pinned, root)
    assert os.listdir("/proc/self/fd") == before
