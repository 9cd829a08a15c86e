"""Step `stage`: what will be executed is the bytes that were judged, or nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Reason, StageError
from engine.lifecycle import staged_file
from engine.lifecycle.resolve import Resolved
from engine.lifecycle.secure_root import PodSandbox, StateDirs, secure_root
from engine.lifecycle.stage import stage
from engine.lifecycle.validate import Validated, validate
from engine.linux.boot import boot_id
from engine.linux.files import PrivateDirectory, UntrustedPathError
from engine.options import Platform
from engine.state import programs, store
from tests.support.objects import changed
from tests.support.refusals import refuses


@pytest.fixture
def root(private: Path) -> StateDirs:
    return secure_root("web", {"ENGINE_ARTIFACT_BASE": str(private / "base")})


@pytest.fixture
def pinned(binary: Path) -> Validated:
    return validate(Resolved(str(binary), "option"), Platform.AUTO)


def nothing_staged(root: StateDirs) -> bool:
    return not list(Path(root.runsc_root.path).rglob("stage-*"))


def test_the_copy_is_private_and_holds_the_pinned_bytes(
    root: StateDirs, pinned: Validated, binary: Path
) -> None:
    staged = stage(pinned, root)
    path = Path(staged.runsc.path)
    assert path.parent.parent == Path(root.runsc_root.path, "exec-allow")
    assert path.name == "runsc"
    assert path.read_bytes() == binary.read_bytes()
    assert path.stat().st_mode & 0o7777 == 0o555
    assert path.parent.stat().st_mode & 0o7777 == 0o700
    assert staged.runsc.digest == hashlib.sha256(binary.read_bytes()).hexdigest()
    assert os.path.samestat(os.fstat(staged.runsc.descriptor), path.stat())
    assert staged.facts()["pinned"] == pinned.facts()["identity"]
    assert staged.facts()["size"] == path.stat().st_size


def test_each_copy_has_a_directory_of_its_own(root: StateDirs, pinned: Validated) -> None:
    assert stage(pinned, root).runsc.path != stage(pinned, root).runsc.path


def test_a_binary_swapped_at_the_path_is_not_what_is_staged(
    root: StateDirs, pinned: Validated, binary: Path
) -> None:
    content = binary.read_bytes()
    binary.parent.rename(binary.parent.with_name("old"))  # moves the directory: the file's ctime stays
    binary.parent.mkdir()
    binary.write_bytes(b"\x7fELF trojan")
    assert Path(stage(pinned, root).runsc.path).read_bytes() == content


def test_binary_replaced_by_rename_is_not_staged(root: StateDirs, pinned: Validated, binary: Path) -> None:
    trojan = binary.with_name("trojan")
    trojan.write_bytes(b"\x7fELF trojan")
    trojan.rename(binary)
    with refuses(StageError, Reason.NOT_WHAT_WAS_PINNED):
        stage(pinned, root)  # its link count moved its ctime: an upgrade is under way
    assert nothing_staged(root)


def test_a_binary_rewritten_in_place_is_refused(root: StateDirs, pinned: Validated, binary: Path) -> None:
    with binary.open("r+b") as file:
        file.seek(100)
        file.write(b"trojan")
    with refuses(StageError, Reason.NOT_WHAT_WAS_PINNED):
        stage(pinned, root)
    assert nothing_staged(root)


def test_a_binary_truncated_in_place_is_refused(root: StateDirs, pinned: Validated, binary: Path) -> None:
    os.truncate(binary, 1000)
    with pytest.raises(StageError):
        stage(pinned, root)
    assert nothing_staged(root)


def test_a_linked_staging_directory_is_refused_and_not_followed(
    root: StateDirs, pinned: Validated, private: Path
) -> None:
    (private / "victim").mkdir()
    Path(root.runsc_root.path, "exec-allow").symlink_to(private / "victim")
    with refuses(StageError, Reason.STAGE_NOT_OWN, "exec-allow'"):
        stage(pinned, root)
    assert list((private / "victim").iterdir()) == []


@pytest.mark.usefixtures("needs_root")
def test_a_foreign_staging_directory_is_refused(root: StateDirs, pinned: Validated) -> None:
    path = Path(root.runsc_root.path, "exec-allow")
    path.mkdir()
    os.chown(path, 4242, 4242)
    with refuses(StageError, Reason.STAGE_NOT_OWN, 4242):
        stage(pinned, root)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_write_that_fails_leaves_nothing_half_made(
    root: StateDirs, pinned: Validated, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def copy(*_: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.copy_file_range", copy)
    with refuses(StageError, Reason.FAILURE, os.strerror(code)):
        stage(pinned, root)
    assert nothing_staged(root)


def test_write_that_fails_where_programs_lie_apart_names_that_place(
    private: Path, pinned: Validated, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, base = private / "programs", private / "base"
    monkeypatch.setattr(programs, "default_place", lambda: str(place))
    monkeypatch.setattr(programs, "default_base", lambda: str(base))
    root = secure_root("web", {"ENGINE_ARTIFACT_BASE": str(base)})

    def fail(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", fail)
    with refuses(StageError, Reason.FAILURE, f"{str(place)!r}: No space left on device"):
        stage(pinned, root)
    assert list(place.iterdir()) == []
    assert not Path(root.container.path, "programs").is_symlink()


@pytest.mark.parametrize("within_one_file_system", [True, False])
def test_a_write_that_takes_a_part_is_continued(
    root: StateDirs,
    pinned: Validated,
    binary: Path,
    monkeypatch: pytest.MonkeyPatch,
    within_one_file_system: bool,
) -> None:
    copy, send = os.copy_file_range, os.sendfile

    def copy_a_part(source: int, target: int, count: int, offset: int, to: int) -> int:
        if not within_one_file_system:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return copy(source, target, min(count, 777), offset, to)

    monkeypatch.setattr("os.copy_file_range", copy_a_part)
    monkeypatch.setattr("os.sendfile", lambda to, source, offset, count: send(to, source, offset, 777))
    assert Path(stage(pinned, root).runsc.path).read_bytes() == binary.read_bytes()


def test_a_read_that_ends_early_is_a_short_copy_and_refused(
    root: StateDirs, pinned: Validated, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = os.copy_file_range
    monkeypatch.setattr(
        "os.copy_file_range",
        lambda source, target, _, offset, to: copy(source, target, 100, offset, to) if offset == 0 else 0,
    )
    monkeypatch.setattr("os.sendfile", lambda *_: 0)
    with refuses(StageError, Reason.NOT_WHAT_WAS_PINNED, 100):
        stage(pinned, root)
    assert nothing_staged(root)


def test_a_copy_can_be_taken_back(root: StateDirs, pinned: Validated) -> None:
    staged = stage(pinned, root)
    assert staged.discard() == [staged.directory.path, os.path.join(root.base.path, "staged")]
    staged.close()
    assert nothing_staged(root)


def test_what_was_staged_is_recorded(root: StateDirs, pinned: Validated, binary: Path) -> None:
    facts = dict(stage(pinned, root).facts())
    nest = re.escape(os.path.join(root.runsc_root.path, "exec-allow"))
    assert re.fullmatch(rf"{nest}/stage-{boot_id()}-[0-9a-f]{{16}}/runsc", str(facts.pop("path")))
    expected = {
        "sha256": hashlib.sha256(binary.read_bytes()).hexdigest(),
        "size": binary.stat().st_size,
        "mode": "0555",
        "pinned": pinned.facts()["identity"],
        "made_from": pinned.facts()["identity"],
        "from_store": False,
        "shared": False,  # the binary was made just now
        "hashed": True,
        "compared": False,
        "version": None,
    }
    assert facts == expected


def before_opening_the_copy(
    monkeypatch: pytest.MonkeyPatch, do: Callable[[int], None], *, again: bool = False
) -> None:
    """`do`, with its directory's descriptor, just before the copy is created, or is opened `again`."""
    real = os.open

    def opening(path: str, flags: int, *arguments: Any, **named: Any) -> int:
        if path == "runsc" and bool(flags & os.O_CREAT) is not again:
            do(named["dir_fd"])
        return real(path, flags, *arguments, **named)

    monkeypatch.setattr("os.open", opening)


def refused(root: StateDirs, pinned: Validated, reason: str, *facts: object) -> None:
    """Staging is refused, for this reason; nothing of it is left."""
    with refuses(StageError, reason, *facts) as refusal:
        stage(pinned, root)
    assert refusal.value.step == "stage"
    assert nothing_staged(root)


@pytest.mark.parametrize("link", [False, True])
def test_file_in_the_place_of_the_copy_is_not_written(
    root: StateDirs, pinned: Validated, private: Path, monkeypatch: pytest.MonkeyPatch, link: bool
) -> None:
    victim = private / "victim"
    victim.write_text("mine")

    def plant(directory: int) -> None:
        if link:
            os.symlink(victim, "runsc", dir_fd=directory)
        else:
            os.link(victim, "runsc", dst_dir_fd=directory)

    before_opening_the_copy(monkeypatch, plant)
    refused(root, pinned, Reason.FAILURE, "'runsc': File exists")
    assert victim.read_text() == "mine"


def test_copy_exchanged_before_it_is_reopened_is_refused(
    root: StateDirs, pinned: Validated, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exchange(directory: int) -> None:
        os.unlink("runsc", dir_fd=directory)
        copy = os.open("runsc-", os.O_WRONLY | os.O_CREAT, 0o555, dir_fd=directory)
        os.write(copy, binary.read_bytes())
        os.close(copy)
        os.rename("runsc-", "runsc", src_dir_fd=directory, dst_dir_fd=directory)

    before_opening_the_copy(monkeypatch, exchange, again=True)
    refused(root, pinned, Reason.NOT_WHAT_WAS_PINNED, f"{root.runsc_root.path}/exec-allow/stage-")


def test_copy_turned_into_a_link_is_refused(
    root: StateDirs, pinned: Validated, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exchange(directory: int) -> None:
        os.unlink("runsc", dir_fd=directory)
        os.symlink(binary, "runsc", dir_fd=directory)

    before_opening_the_copy(monkeypatch, exchange, again=True)
    refused(root, pinned, Reason.FAILURE, "'runsc': Too many levels of symbolic links")


def test_copy_is_never_more_open_than_its_final_mode(
    root: StateDirs, pinned: Validated, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    change = os.fchmod

    def fchmod(descriptor: int, mode: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        change(descriptor, mode)

    monkeypatch.setattr("os.fchmod", fchmod)
    old = os.umask(0)
    try:
        staged = stage(pinned, root)
    finally:
        os.umask(old)
    assert modes == [0o555]
    assert Path(staged.runsc.path).stat().st_mode & 0o7777 == 0o555


def test_binary_of_many_pieces_is_copied_whole(
    root: StateDirs, pinned: Validated, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = os.copy_file_range
    offsets: list[int] = []

    def copy_file_range(source: int, target: int, count: int, offset: int, to: int) -> int:
        assert offset == to
        assert offset not in offsets
        offsets.append(offset)
        return copy(source, target, count, offset, to)

    monkeypatch.setattr(staged_file, "_CHUNK", 1000)
    monkeypatch.setattr("os.copy_file_range", copy_file_range)
    staged = stage(pinned, root)
    content = binary.read_bytes()
    assert len(offsets) > 3
    assert Path(staged.runsc.path).read_bytes() == content
    assert staged.runsc.digest == hashlib.sha256(content).hexdigest()


def test_each_refusal_has_its_reason_and_says_where(
    root: StateDirs, pinned: Validated, binary: Path, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nest = Path(root.runsc_root.path, "exec-allow")
    nest.symlink_to(private)
    refused(root, pinned, Reason.STAGE_NOT_OWN, repr(str(nest)))
    nest.unlink()

    def fail(code: int, path: str | None = None) -> Callable[..., Any]:
        def failing(*_: Any, **__: Any) -> Any:
            raise OSError(code, os.strerror(code), path)

        return failing

    with monkeypatch.context() as patch:
        patch.setattr("os.mkdir", fail(errno.ENOSPC))
        refused(root, pinned, Reason.FAILURE, f"{str(nest)!r}: No space left on device")
    for code in (errno.ENOSPC, errno.EIO):
        with monkeypatch.context() as patch:
            patch.setattr("os.fchmod", fail(code))
            refused(root, pinned, Reason.FAILURE, f"{root.runsc_root.path!r}: {os.strerror(code)}")
    with monkeypatch.context() as patch:
        status = os.fstatvfs(root.runsc_root.descriptor)
        values = list(status)
        values[8] |= os.ST_NOEXEC
        patch.setattr("os.fstatvfs", lambda _: os.statvfs_result(values))
        refused(root, pinned, Reason.NOEXEC, repr(root.runsc_root.path))
    with monkeypatch.context() as patch:
        patch.setattr(staged_file, "_copy_bytes", lambda *_: ("", 100))
        refused(root, pinned, Reason.NOT_WHAT_WAS_PINNED, pinned.runsc.identity.size, repr(str(binary)))
    binary.write_bytes(b"upgraded")
    refused(root, pinned, Reason.NOT_WHAT_WAS_PINNED, repr(str(binary)))


def test_a_clean_up_that_fails_does_not_hide_why_it_was_refused(
    root: StateDirs, pinned: Validated, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.unlink", read_only)
    monkeypatch.setattr("os.fchmod", full)
    with refuses(StageError, Reason.FAILURE, "No space left on device"):
        stage(pinned, root)


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, os.strerror(errno.EIO)), UntrustedPathError("/there", "is a symbolic link")]
)
def test_store_that_cannot_be_emptied_hides_no_refusal(
    root: StateDirs, pinned: Validated, binary: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def collect(base: PrivateDirectory) -> list[str]:
        assert base == root.base
        raise error

    monkeypatch.setattr(store, "collect", collect)
    binary.chmod(0o700)
    with refuses(StageError, Reason.NOT_WHAT_WAS_PINNED):
        stage(pinned, root)


def test_a_copy_that_is_gone_already_is_taken_back_all_the_same(root: StateDirs, pinned: Validated) -> None:
    staged = stage(pinned, root)
    os.unlink(staged.runsc.path)
    assert staged.discard() == [staged.directory.path, os.path.join(root.base.path, "staged")]
    staged.close()
    assert nothing_staged(root)


def test_only_the_runsc_that_runs_the_sandbox_joins_it(
    root: StateDirs, pinned: Validated, binary: Path
) -> None:
    digest = hashlib.sha256(binary.read_bytes()).hexdigest()
    pod = changed(root, sandbox=PodSandbox("pod", root.container, root.runsc_root, digest))
    staged = stage(pinned, pod)
    assert staged.runsc.digest == digest
    staged.discard()
    other = changed(root, sandbox=PodSandbox("pod", root.container, root.runsc_root, "d" * 64))
    refused(other, pinned, Reason.OTHER_RUNSC, repr(str(binary)), "'pod'")
