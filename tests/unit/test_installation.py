"""An installation: every file beside runsc is judged as runsc is, and one that is not whole is refused."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Reason, ValidateError
from engine.lifecycle.resolve import Resolved
from engine.lifecycle.validate import Validated, validate
from engine.linux import files
from engine.options import Platform
from engine.runsc import installation as installation_rules
from engine.runsc.installation import PACKAGE
from tests.support.refusals import refuses

SENTRY, PREWARMER, UNKNOWN = "gvisor_sentry", "gvisor-sentry-prewarmer", "of-a-later-version"
NAMES = sorted((SENTRY, PREWARMER, UNKNOWN))


def pin(runsc: Path) -> Validated:
    return validate(Resolved(str(runsc), "option"), Platform.AUTO)


def refused(runsc: Path, reason: str, *facts: object) -> None:
    with refuses(ValidateError, reason, *facts) as refusal:
        pin(runsc)
    assert refusal.value.step == "validate"


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o755)


def test_every_file_beside_runsc_is_pinned(installation: Path) -> None:
    pinned = pin(installation / "runsc")
    assert [sidecar.name for sidecar in pinned.sidecars] == NAMES
    assert pinned.release == "release-20260914.0"
    for sidecar in pinned.sidecars:
        path = installation / "gvisor-bin" / sidecar.name
        assert sidecar.path == str(path)
        assert os.path.samestat(os.fstat(sidecar.descriptor), path.stat())
        assert (sidecar.owner, sidecar.mode) == (os.geteuid(), 0o755)
        assert not os.get_inheritable(sidecar.descriptor)


def test_what_was_pinned_is_recorded(installation: Path) -> None:
    facts = pin(installation / "runsc").facts()
    assert facts["release"] == "release-20260914.0"
    status = (installation / "gvisor-bin" / SENTRY).stat()
    assert facts["sidecars"][NAMES.index(SENTRY)] == {
        "name": SENTRY,
        "path": str(installation / "gvisor-bin" / SENTRY),
        "identity": {
            "device": status.st_dev,
            "inode": status.st_ino,
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "ctime_ns": status.st_ctime_ns,
        },
        "owner": os.geteuid(),
        "mode": "0755",
    }


def test_unpinning_closes_every_file(installation: Path) -> None:
    pinned = pin(installation / "runsc")
    pinned.close()
    for descriptor in (pinned.runsc.descriptor, *(sidecar.descriptor for sidecar in pinned.sidecars)):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_a_build_that_names_no_sentry_is_a_set_of_one(binary: Path) -> None:
    sidecars = binary.parent / "gvisor-bin"
    sidecars.mkdir()
    write(sidecars / SENTRY, b"#!/bin/sh\n")  # nobody's: it is not looked at
    pinned = pin(binary)
    assert (pinned.sidecars, pinned.release) == ((), None)
    assert not {"sidecars", "release"} & set(pinned.facts())


@pytest.mark.parametrize("padding", [0, 100_000])
def test_a_sentry_named_at_the_end_or_anywhere_is_wanted(installation: Path, padding: int) -> None:
    runsc = installation / "runsc"
    write(runsc, runsc.read_bytes().replace(PACKAGE, b"\0" + SENTRY.encode()) + bytes(padding))
    assert [sidecar.name for sidecar in pin(runsc).sidecars] == NAMES


def test_the_folder_of_sidecars_may_be_a_link(installation: Path) -> None:
    (installation / "gvisor-bin").rename(installation / "of-a-release")
    (installation / "gvisor-bin").symlink_to("of-a-release")
    for sidecar, name in zip(pin(installation / "runsc").sidecars, NAMES, strict=True):
        assert sidecar.path == str(installation / "of-a-release" / name)


@pytest.mark.parametrize("beside_the_link", ["nothing", "an empty folder", "a whole one", "a file"])
def test_sidecars_are_those_beside_the_file_not_beside_a_link(
    installation: Path, private: Path, beside_the_link: str
) -> None:
    """runsc looks beside its /proc/self/exe, which has no links."""
    link = private / "elsewhere" / "runsc"
    link.parent.mkdir(mode=0o755)
    link.symlink_to(installation / "runsc")
    if beside_the_link == "a file":
        (link.parent / "gvisor-bin").touch()
    elif beside_the_link != "nothing":
        (link.parent / "gvisor-bin").mkdir(mode=0o755)
    if beside_the_link == "a whole one":
        for name in (SENTRY, PREWARMER):
            write(link.parent / "gvisor-bin" / name, (installation / "gvisor-bin" / name).read_bytes())
    pinned = pin(link)
    assert pinned.runsc.path == str(installation / "runsc")
    assert [sidecar.path for sidecar in pinned.sidecars] == [
        str(installation / "gvisor-bin" / name) for name in NAMES
    ]


def test_sidecars_beside_a_link_alone_are_none(installation: Path, private: Path) -> None:
    (private / "elsewhere").mkdir(mode=0o755)
    (private / "elsewhere" / "runsc").symlink_to(installation / "runsc")
    (installation / "gvisor-bin").rename(private / "elsewhere" / "gvisor-bin")
    refused(private / "elsewhere" / "runsc", Reason.INCOMPLETE, repr(str(installation / "runsc")), SENTRY)


def loosen(path: Path) -> None:
    path.chmod(0o775)


def deny(path: Path) -> None:
    path.chmod(0o644)


def rewrite(path: Path) -> None:
    write(path, b"#!/bin/sh\n")


def link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    target = path.parent.parent / "moved"
    path.with_name("moved").rename(target)
    path.symlink_to(target)


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (loosen, Reason.LOOSE_MODE),
        (deny, Reason.NOT_A_PROGRAM),
        (rewrite, Reason.NOT_A_PROGRAM),
        (link, Reason.NOT_A_PROGRAM),
        (make_a_folder, Reason.NOT_A_PROGRAM),
    ],
)
def test_each_sidecar_is_judged_as_runsc_is(
    installation: Path, name: str, spoil: Callable[[Path], None], reason: str
) -> None:
    path = installation / "gvisor-bin" / name
    spoil(path)
    refused(installation / "runsc", reason, repr(str(path)))


@pytest.mark.parametrize("name", NAMES)
def test_a_sidecar_of_another_owner_is_refused(needs_root: None, installation: Path, name: str) -> None:
    os.chown(installation / "gvisor-bin" / name, 4242, -1)
    refused(installation / "runsc", Reason.FOREIGN_OWNER, name, 4242)


def test_an_immutable_store_may_have_any_owner(
    needs_root: None, installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_NIX_STORE", str(installation.parent))
    sidecars = installation / "gvisor-bin"
    os.chown(sidecars / SENTRY, 4242, -1)
    (sidecars / SENTRY).chmod(0o555)
    refused(installation / "runsc", Reason.FOREIGN_OWNER, SENTRY)
    sidecars.chmod(0o555)
    assert pin(installation / "runsc").sidecars[NAMES.index(SENTRY)].owner == 4242


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_folder_that_others_can_write_is_refused(installation: Path, mode: int) -> None:
    (installation / "gvisor-bin").chmod(mode)
    refused(installation / "runsc", Reason.LOOSE_CHAIN, f"{mode:04o}", str(installation / "gvisor-bin"))


def test_a_name_may_have_64_characters(installation: Path) -> None:
    write(installation / "gvisor-bin" / ("x" * 64), b"\x7fELF")
    assert [sidecar.name for sidecar in pin(installation / "runsc").sidecars] == [*NAMES, "x" * 64]


@pytest.mark.parametrize("name", [".hidden", "a b", "é", "x" * 65])
def test_a_name_that_no_program_has_is_refused(installation: Path, name: str) -> None:
    write(installation / "gvisor-bin" / name, b"\x7fELF")
    refused(installation / "runsc", Reason.NOT_A_PROGRAM, str(installation / "gvisor-bin"))


def test_sixteen_files_are_an_installation(installation: Path) -> None:
    for number in range(13):
        write(installation / "gvisor-bin" / f"more-{number}", b"\x7fELF")
    assert len(pin(installation / "runsc").sidecars) == 16


def test_more_files_than_an_installation_has_are_refused(installation: Path) -> None:
    for number in range(14):
        write(installation / "gvisor-bin" / f"more-{number}", b"\x7fELF")
    refused(installation / "runsc", Reason.NOT_A_PROGRAM, 17, str(installation / "gvisor-bin"))


@pytest.mark.parametrize("name", [SENTRY, PREWARMER])
def test_a_sidecar_that_is_needed_and_missing_is_refused(installation: Path, name: str) -> None:
    (installation / "gvisor-bin" / name).unlink()
    refused(installation / "runsc", Reason.INCOMPLETE, name, repr(str(installation / "runsc")))


@pytest.mark.parametrize("how", [os.link, shutil.copy])
@pytest.mark.parametrize(
    ("name", "of"), [(SENTRY, "runsc"), (PREWARMER, "runsc"), (PREWARMER, f"gvisor-bin/{SENTRY}")]
)
def test_a_program_under_the_name_of_another_is_refused(
    installation: Path, name: str, of: str, how: Callable[[Path, Path], object]
) -> None:
    """A Sentry that is runsc itself would be started, and end with 128."""
    path = installation / "gvisor-bin" / name
    path.unlink()
    how(installation / of, path)
    refused(installation / "runsc", Reason.INCOMPLETE, repr(str(path)), repr(str(installation / of)))


def test_programs_of_one_size_are_not_one(installation: Path) -> None:
    sentry, prewarmer = installation / "gvisor-bin" / SENTRY, installation / "gvisor-bin" / PREWARMER
    size = max(path.stat().st_size for path in (installation / "runsc", sentry))
    for path in (installation / "runsc", sentry, prewarmer):
        write(path, path.read_bytes().ljust(size, b"\0"))
    assert [sidecar.name for sidecar in pin(installation / "runsc").sidecars] == NAMES


@pytest.mark.parametrize(
    "name", [f"{SENTRY}.dpkg-new", f"{SENTRY}.dpkg-tmp", f"{SENTRY};65a1b2c3", ".apk.0123456789abcdef"]
)
@pytest.mark.parametrize("mode", [0o000, 0o644, 0o755])
def test_an_upgrade_under_way_is_to_be_waited_for(installation: Path, name: str, mode: int) -> None:
    """What a package manager unpacks has another name until it is whole: no mode is to be given to it."""
    path = installation / "gvisor-bin" / name
    write(path, b"\x7fELF half of it")
    path.chmod(mode)
    with refuses(ValidateError, Reason.MIXED_RELEASES, repr(str(path))) as refusal:
        pin(installation / "runsc")
    assert "chmod" not in refusal.value.hint
    assert "upgrade" in refusal.value.hint


def test_a_build_without_a_prewarmer_needs_none(installation: Path) -> None:
    runsc = installation / "runsc"
    write(runsc, runsc.read_bytes().replace(PREWARMER.encode(), b"gvisor-nothing"))
    (installation / "gvisor-bin" / PREWARMER).unlink()
    assert [sidecar.name for sidecar in pin(runsc).sidecars] == [SENTRY, UNKNOWN]


def remove_folder(installation: Path) -> None:
    for path in (installation / "gvisor-bin").iterdir():
        path.unlink()
    (installation / "gvisor-bin").rmdir()


@pytest.mark.parametrize(
    ("release", "is_alone"),
    [
        (b"release-20260817.0-70-g3c5eee17d", True),
        (b"release-20260810.0", True),
        (b"release-20260818.0", False),
        (b"release-20260914.0", False),
        (b"of no release", False),
    ],
)
@pytest.mark.parametrize("padding", [0, 100_000])
@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_without_its_folder_only_a_build_that_is_its_own_sentry_runs(
    installation: Path, release: bytes, is_alone: bool, padding: int, folder: str
) -> None:
    if folder == "missing":
        remove_folder(installation)
    else:
        for path in (installation / "gvisor-bin").iterdir():
            path.unlink()
    runsc = installation / "runsc"
    write(runsc, runsc.read_bytes().replace(b"release-20260914.0", release) + bytes(padding))
    if is_alone:
        assert (pin(runsc).sidecars, pin(runsc).starts_sidecars) == ((), False)
    else:
        refused(runsc, Reason.INCOMPLETE, repr(str(runsc)), SENTRY)


def test_without_a_folder_a_build_is_not_searched_for_its_sentry(installation: Path) -> None:
    remove_folder(installation)
    runsc = installation / "runsc"
    write(runsc, runsc.read_bytes().replace(PACKAGE, b"\0" + SENTRY.encode()) + bytes(100_000))
    assert pin(runsc).sidecars == ()


def test_a_file_in_the_place_of_the_folder_is_no_installation(installation: Path) -> None:
    remove_folder(installation)
    (installation / "gvisor-bin").touch()
    refused(installation / "runsc", Reason.INCOMPLETE, str(installation / "gvisor-bin"))


@pytest.mark.parametrize("name", [SENTRY, UNKNOWN])
@pytest.mark.parametrize("which", ["runsc", "sidecar"])
def test_an_installation_of_two_releases_is_refused(installation: Path, name: str, which: str) -> None:
    path = installation / "gvisor-bin" / name if which == "sidecar" else installation / "runsc"
    write(path, path.read_bytes().replace(b"release-20260914.0", b"release-20261005.0"))
    refused(installation / "runsc", Reason.MIXED_RELEASES, "release-20260914.0", "release-20261005.0")


def test_a_sentry_that_tells_no_release_is_not_of_runscs(installation: Path) -> None:
    sentry = installation / "gvisor-bin" / SENTRY
    write(sentry, b"\x7fELF")
    refused(installation / "runsc", Reason.MIXED_RELEASES, repr(str(sentry)), "release-20260914.0")


def test_an_installation_that_tells_no_release_is_of_one(installation: Path) -> None:
    for path in (installation / "runsc", *(installation / "gvisor-bin" / name for name in NAMES)):
        write(path, path.read_bytes().replace(b"release-20260914.0", b"release-of-nobody."))
    pinned = pin(installation / "runsc")
    assert pinned.release is None
    assert pinned.facts()["release"] is None


def test_a_sidecar_that_goes_meanwhile_is_refused(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.listdir
    monkeypatch.setattr(
        "os.listdir", lambda path: [*real(path), "gone"] if "/fd/" in str(path) else real(path)
    )
    refused(installation / "runsc", Reason.ABSENT, str(installation / "gvisor-bin" / "gone"))


@pytest.mark.parametrize("call", ["listdir", "open"])
def test_what_the_kernel_says_is_told(installation: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    real = getattr(os, call)

    def failing(path: Any, *arguments: Any, **named: Any) -> Any:
        if call == "listdir" or path == SENTRY:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(ValidateError) as refusal:
        pin(installation / "runsc")
    assert refusal.value.reason == Reason.FAILURE
    assert "Input/output error" in refusal.value.what
    assert "gvisor-bin" in refusal.value.what


def test_a_folder_out_of_reach_is_refused(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: str, *_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(installation_rules, "open_trusted", failing)
    refused(installation / "runsc", Reason.FAILURE, str(installation / "gvisor-bin"), "Permission denied")


def test_a_sidecar_swapped_after_it_was_pinned_stays_what_was_judged(installation: Path) -> None:
    pinned = pin(installation / "runsc")
    sentry = installation / "gvisor-bin" / SENTRY
    before = sentry.stat()
    sentry.rename(installation / "old")
    write(sentry, b"\x7fELF trojan")
    held = pinned.sidecars[NAMES.index(SENTRY)]
    assert os.path.samestat(os.fstat(held.descriptor), before)
    assert stat.S_IMODE(os.fstat(held.descriptor).st_mode) == held.mode
