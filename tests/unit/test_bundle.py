"""A bundle is opened by descriptor, refused without waiting, and asked again right before it is handed over."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, NoReturn

import pytest

from engine.bundle import bundle as bundle_module
from engine.bundle.bundle import MAX_CONFIG_SIZE, Bundle, open_bundle
from engine.errors import BundleError, Reason
from engine.linux.openat2 import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, openat2
from engine.options import RunOptions
from engine.traces.writer import bundle_facts
from tests.support.bundles import base_config, make_bundle, write_config
from tests.support.refusals import open_descriptors, refuses


@pytest.fixture(autouse=True)
def _no_test_waits() -> Iterator[None]:
    def too_long(_number: int, _frame: FrameType | None) -> NoReturn:
        raise AssertionError("the bundle was waited for")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def place(private: Path) -> Path:
    """A good bundle."""
    return make_bundle(private / "bundle")


def refused(place: Path | str, reason: str, *facts: object) -> BundleError:
    with refuses(BundleError, reason, *facts) as caught:
        open_bundle(str(place))
    return caught.value


def identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


# --- A good bundle --------------------------------------------------------------------------------------------


def test_a_good_bundle_says_what_was_opened(place: Path) -> None:
    with open_bundle(str(place)) as bundle:
        assert bundle.path == str(place)
        assert bundle.rootfs == str(place / "rootfs")
        assert bundle.config == base_config()
        assert bundle.digest == hashlib.sha256((place / "config.json").read_bytes()).hexdigest()
        assert bundle.identity == identity(place)
        assert bundle.rootfs_identity == identity(place / "rootfs")
        assert bundle_facts(bundle, RunOptions("web")) == {
            "path": bundle.path,
            "sha256": bundle.digest,
            "rootfs": bundle.rootfs,
            "hooks": 0,
        }
        assert bundle.changed() is None


def test_the_facts_count_the_hooks_of_every_kind(place: Path) -> None:
    hook = {"path": "/bin/true"}
    write_config(place, hooks={"prestart": [hook], "poststop": [hook, hook], "unknown": 5})
    with open_bundle(str(place)) as bundle:
        assert bundle_facts(bundle, RunOptions("web"))["hooks"] == 3


def test_the_facts_hold_the_annotations_that_runsc_reads(place: Path) -> None:
    hints = {"dev.gvisor.spec.mount.shm.type": "tmpfs"}
    write_config(place, annotations={"org.a/key": "SECRETVALUE", **hints})
    with open_bundle(str(place)) as bundle:
        assert bundle_facts(bundle, RunOptions("web")).get("hints") == hints


def test_descriptors_are_of_the_directories_and_close_on_exec(place: Path) -> None:
    with open_bundle(str(place)) as bundle:
        for descriptor, path in ((bundle.directory, place), (bundle.rootfs_directory, place / "rootfs")):
            status = os.fstat(descriptor)
            assert stat.S_ISDIR(status.st_mode)
            assert (status.st_dev, status.st_ino) == identity(path)
            assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_closing_leaves_no_descriptor_open(place: Path) -> None:
    before = open_descriptors()
    with open_bundle(str(place)) as bundle:
        assert bundle.changed() is None
    assert open_descriptors() == before


def test_the_path_is_made_absolute_as_text(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place / "rootfs")
    with open_bundle("../rootfs/..") as bundle:
        assert bundle.path == str(place)


def test_bundle_path_through_a_link_keeps_the_link(place: Path, private: Path) -> None:
    link = private / "link"
    link.symlink_to("bundle")
    with open_bundle(str(link)) as bundle:
        assert bundle.path == str(link)
        assert bundle.identity == identity(place)
        assert bundle.changed() is None


def test_config_writable_by_others_is_accepted(place: Path) -> None:
    (place / "config.json").chmod(0o666)
    with open_bundle(str(place)) as bundle:
        assert bundle.changed() is None


@pytest.mark.parametrize("root_path", ["rootfs", "./rootfs", "rootfs/", "rootfs//", "inner/rootfs"])
def test_a_root_path_beneath_the_bundle_is_accepted(place: Path, root_path: str) -> None:
    (place / "inner" / "rootfs").mkdir(parents=True)
    write_config(place, root={"path": root_path})
    with open_bundle(str(place)) as bundle:
        assert bundle.rootfs == os.path.normpath(place / root_path)
        assert bundle.rootfs_identity == identity(place / root_path)
        assert bundle.changed() is None


@pytest.mark.parametrize("target", ["inner/real", "./inner/../inner/real"])
def test_a_linked_rootfs_that_stays_in_the_bundle_is_accepted(place: Path, target: str) -> None:
    (place / "inner" / "real").mkdir(parents=True)
    (place / "linked").symlink_to(target)
    write_config(place, root={"path": "linked"})
    with open_bundle(str(place)) as bundle:
        assert bundle.rootfs == str(place / "linked")
        assert bundle.rootfs_identity == identity(place / "inner" / "real")
        assert bundle.changed() is None


def test_an_absolute_root_path_may_be_anywhere(place: Path, private: Path) -> None:
    (private / "elsewhere").mkdir()
    (private / "link").symlink_to("elsewhere")
    write_config(place, root={"path": str(private / "link")})
    with open_bundle(str(place)) as bundle:
        assert bundle.rootfs == str(private / "link")
        assert bundle.rootfs_identity == identity(private / "elsewhere")
        assert bundle.changed() is None


# --- The bundle's own path ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_that_can_name_nothing_is_refused(path: str) -> None:
    refused(path, Reason.BUNDLE_ABSENT)


def test_a_bundle_that_does_not_exist_is_refused(private: Path) -> None:
    refused(private / "none", Reason.BUNDLE_ABSENT, f"'{private}/none': No such file or directory")


def test_a_bundle_that_is_a_file_is_refused(place: Path) -> None:
    refused(place / "config.json", Reason.BUNDLE_ABSENT, "Not a directory")


def test_bundle_name_with_control_characters_is_refused(private: Path) -> None:
    refused(private / "a\n\x1b[31mb\udcff", Reason.BUNDLE_ABSENT, r"a\n\x1b[31mb\udcff")


# --- config.json as a file ------------------------------------------------------------------------------------


def test_a_bundle_without_config_is_refused(place: Path) -> None:
    (place / "config.json").unlink()
    refused(place, Reason.BUNDLE_ABSENT, "config.json")


def test_fifo_as_config_is_refused_without_waiting(place: Path) -> None:
    (place / "config.json").unlink()
    os.mkfifo(place / "config.json")
    refused(place, Reason.BUNDLE_UNSAFE, "config.json")


def test_a_directory_as_config_is_refused(place: Path) -> None:
    (place / "config.json").unlink()
    (place / "config.json").mkdir()
    refused(place, Reason.BUNDLE_UNSAFE, "config.json")


def test_symbolic_link_as_config_is_refused(place: Path) -> None:
    (place / "config.json").rename(place / "real.json")
    (place / "config.json").symlink_to("real.json")
    refused(place, Reason.BUNDLE_UNSAFE, "config.json")


def test_a_socket_as_config_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "config.json").unlink()
    monkeypatch.chdir(place)  # the path of a socket may not be long
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("config.json")
        refused(place, Reason.BUNDLE_UNSAFE, "config.json")


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize(("device", "minor"), [("null", 3), ("zero", 5)])
def test_a_device_as_config_is_refused(place: Path, device: str, minor: int) -> None:
    (place / "config.json").unlink()
    try:
        os.mknod(place / "config.json", stat.S_IFCHR | 0o600, os.makedev(1, minor))
        (place / "config.json").open("rb").close()
    except PermissionError:
        pytest.skip("this root may not make devices")
    refused(place, Reason.BUNDLE_UNSAFE, "config.json")


def test_config_of_100_mb_is_refused_unread(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (place / "config.json").open("wb") as file:
        file.truncate(100 * 1024 * 1024)

    def read(_descriptor: int, _length: int) -> NoReturn:
        raise AssertionError("it was read")

    monkeypatch.setattr(os, "read", read)
    refused(place, Reason.TOO_LARGE, "config.json", MAX_CONFIG_SIZE)


def test_a_config_of_just_the_largest_size_is_read(place: Path) -> None:
    text = json.dumps(base_config()).encode()
    (place / "config.json").write_bytes(text + b" " * (MAX_CONFIG_SIZE - len(text)))
    with open_bundle(str(place)) as bundle:
        assert bundle.config == base_config()
    (place / "config.json").write_bytes(text + b" " * (MAX_CONFIG_SIZE - len(text) + 1))
    refused(place, Reason.TOO_LARGE)


def test_config_that_grows_while_read_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []

    def endless(_descriptor: int, length: int) -> bytes:
        pieces.append(length)
        return b" " * length

    monkeypatch.setattr(os, "read", endless)
    refused(place, Reason.TOO_LARGE)
    assert sum(pieces) <= MAX_CONFIG_SIZE + 1024 * 1024


def test_a_config_that_may_not_be_read_is_refused(place: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads it all the same")
    (place / "config.json").chmod(0)
    refused(place, Reason.FAILURE, "config.json: Permission denied")


def test_invalid_config_is_refused_with_its_path(place: Path) -> None:
    write_config(place, hostname=5)
    assert refused(place, Reason.CONFIG_INVALID, "$.hostname").member == "$.hostname"


# --- The root filesystem --------------------------------------------------------------------------------------


@pytest.mark.parametrize("root_path", ["missing", "missing/rootfs", "/nonexistent/rootfs"])
def test_a_rootfs_that_does_not_exist_is_refused(place: Path, root_path: str) -> None:
    write_config(place, root={"path": root_path})
    refused(place, Reason.ROOTFS_ABSENT, "$.root.path", repr(root_path))


@pytest.mark.parametrize("root_path", ["config.json", "config.json/", "link"])
def test_a_rootfs_that_is_a_file_is_refused(place: Path, root_path: str) -> None:
    (place / "link").symlink_to("config.json")
    write_config(place, root={"path": root_path})
    refused(place, Reason.ROOTFS_ABSENT, "$.root.path", repr(root_path))


def test_an_absolute_rootfs_that_is_a_file_is_refused(place: Path) -> None:
    write_config(place, root={"path": str(place / "config.json")})
    refused(place, Reason.ROOTFS_ABSENT, "$.root.path")


def test_a_fifo_as_rootfs_is_refused_without_waiting(place: Path) -> None:
    os.mkfifo(place / "pipe")
    write_config(place, root={"path": "pipe"})
    refused(place, Reason.ROOTFS_ABSENT, "$.root.path")


@pytest.mark.parametrize("root_path", [".", "./", "here", "..", "{place}", "/", "../{name}"])
@pytest.mark.parametrize("readonly", [False, True])
def test_a_rootfs_with_the_bundle_in_it_deserves_a_word(place: Path, root_path: str, readonly: bool) -> None:
    (place / "here").symlink_to(".")
    path = root_path.format(place=place, name=place.name)
    write_config(place, root={"path": path, "readonly": readonly})
    with open_bundle(str(place)) as bundle:
        assert bundle.rootfs_identity == identity(place / path)
        assert [grant.code for grant in bundle.grants] == ([] if readonly else ["writable_config"])
        assert bundle.changed() is None


def test_an_empty_root_path_is_refused(place: Path) -> None:
    write_config(place, root={"path": ""})
    assert refused(place, Reason.CONFIG_INVALID).member == "$.root.path"


@pytest.mark.parametrize(
    "root_path", ["../outside", "rootfs/../../outside", "./.././outside/", "{outside}/../outside"]
)
def test_a_root_path_may_lead_up(place: Path, root_path: str) -> None:
    outside = place.parent / "outside"
    outside.mkdir()
    write_config(place, root={"path": root_path.format(outside=outside)})
    with open_bundle(str(place)) as bundle:
        assert bundle.rootfs == str(outside)
        assert bundle.rootfs_identity == identity(outside)
        assert bundle.changed() is None
        outside.rename(place.parent / "was")
        outside.mkdir()
        assert bundle.changed() is not None


@pytest.mark.parametrize("root_path", ["link/../rootfs", "{place}/link/../rootfs", "../named/../outside"])
def test_a_parent_behind_a_link_is_refused_if_text_and_walk_differ(place: Path, root_path: str) -> None:
    far = place.parent / "far" / "deep"
    far.mkdir(parents=True)
    for other in ("rootfs", "outside"):
        (far.parent / other).mkdir()
    (place.parent / "outside").mkdir()
    (place / "link").symlink_to(far)
    (place.parent / "named").symlink_to(far)
    write_config(place, root={"path": root_path.format(place=place)})
    refused(place, Reason.BUNDLE_UNSAFE, "$.root.path", "'..'")


def test_a_root_path_that_leads_up_from_a_linked_bundle_is_refused_if_they_differ(place: Path) -> None:
    (place.parent / "outside").mkdir()
    elsewhere = place.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "outside").mkdir()
    (elsewhere / "link").symlink_to(place)
    write_config(place, root={"path": "../outside"})
    refused(elsewhere / "link", Reason.BUNDLE_UNSAFE, "$.root.path", "'..'")


@pytest.mark.parametrize("root_path", ["missing/../rootfs", "../missing"])
def test_a_root_path_that_leads_up_to_nothing_is_refused(place: Path, root_path: str) -> None:
    write_config(place, root={"path": root_path})
    refused(place, Reason.ROOTFS_ABSENT, "$.root.path", repr(root_path))


@pytest.mark.parametrize("target", ["{outside}", "../outside", "inner/../../outside", "/"])
def test_a_linked_rootfs_that_leaves_the_bundle_is_refused(place: Path, target: str) -> None:
    outside = place.parent / "outside"
    outside.mkdir()
    (place / "inner").mkdir()
    (place / "escape").symlink_to(target.format(outside=outside))
    write_config(place, root={"path": "escape"})
    refused(place, Reason.BUNDLE_UNSAFE, "$.root.path", "'escape'")


@pytest.mark.parametrize("target", ["{outside}", ".."])
def test_link_to_the_rootfs_that_leaves_the_bundle_is_refused(place: Path, target: str) -> None:
    outside = place.parent / "outside"
    (outside / "rootfs").mkdir(parents=True)
    (place / "way").symlink_to(target.format(outside=outside))
    write_config(place, root={"path": "way/bundle/rootfs" if target == ".." else "way/rootfs"})
    refused(place, Reason.BUNDLE_UNSAFE, "$.root.path")


def test_a_rootfs_that_is_a_loop_of_links_is_refused(place: Path) -> None:
    (place / "a").symlink_to("b")
    (place / "b").symlink_to("a")
    write_config(place, root={"path": "a"})
    refused(place, Reason.BUNDLE_UNSAFE, "$.root.path")


def test_a_rootfs_by_way_of_a_link_of_proc_is_refused(place: Path) -> None:
    write_config(place, root={"path": "/proc/self/cwd"})
    refused(place, Reason.BUNDLE_UNSAFE, "$.root.path")


def test_without_openat2_only_a_plain_rootfs_name_is_taken(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(directory: int, path: str, flags: int, *, resolve: int) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), path)

    monkeypatch.setattr(bundle_module, "openat2", missing)
    with open_bundle(str(place)) as bundle:
        assert bundle.changed() is None
    (place / "link").symlink_to("rootfs")
    for root_path in ("link", "./rootfs", str(place / "rootfs")):
        write_config(place, root={"path": root_path})
        refused(place, Reason.UNAVAILABLE, repr(root_path))


# --- What changed since ---------------------------------------------------------------------------------------


def opened(place: Path) -> Bundle:
    bundle = open_bundle(str(place))
    assert bundle.changed() is None
    return bundle


def _write(place: Path) -> None:
    write_config(place, hostname="other")


def _rename(place: Path) -> None:
    (place / "new").write_text(json.dumps(base_config(hostname="other")))
    (place / "new").rename(place / "config.json")


def _fifo(place: Path) -> None:
    (place / "config.json").unlink()
    os.mkfifo(place / "config.json")


def _link(place: Path) -> None:
    (place / "config.json").rename(place / "real.json")
    (place / "config.json").symlink_to("real.json")


@pytest.mark.parametrize("change", [_write, _rename, _fifo, _link])
def test_a_config_that_was_read_does_not_matter_any_more(place: Path, change: Callable[[Path], None]) -> None:
    with opened(place) as bundle:
        before = bundle.given.data
        change(place)
        assert bundle.changed() is None
        assert (bundle.given.data, json.loads(before)["root"]["path"]) == (before, f"{place}/rootfs")


def test_what_runsc_is_given_has_absolute_paths_and_is_otherwise_the_same(place: Path) -> None:
    mounts = [
        {"destination": "/a", "type": "bind", "source": "a/../b", "options": ["ro"]},
        {"destination": "/c", "type": "none", "source": "./c", "options": ["rbind"]},
        {"destination": "/d", "type": "bind", "source": "/d//e"},
        {"destination": "/proc", "type": "proc", "source": "proc"},
    ]
    (place / "b").mkdir()
    (place / "c").mkdir()
    write_config(place, mounts=mounts)
    with opened(place) as bundle:
        given = json.loads(bundle.given.data)
        assert [mount["source"] for mount in given["mounts"]] == [f"{place}/b", f"{place}/c", "/d//e", "proc"]
        assert bundle.given.changes == {"root_path": f"{place}/rootfs", "mount_sources": 2}
        assert bundle.given.digest == sha256(bundle.given.data).hexdigest() != bundle.digest
        given["mounts"], given["root"]["path"] = mounts, "rootfs"
        assert given == json.loads((place / "config.json").read_bytes())


def test_numbers_are_given_to_runsc_as_they_were_written(place: Path) -> None:
    text = json.dumps(base_config())[:-1] + ', "x": [1e400, -0, 1.50, 18446744073709551615, 1E+2]}'
    (place / "config.json").write_text(text)
    with opened(place) as bundle:
        assert b'"x":[1e400,-0,1.50,18446744073709551615,1E+2]' in bundle.given.data


def test_a_bundle_renamed_and_replaced_by_its_twin_is_noticed(place: Path) -> None:
    with opened(place) as bundle:
        place.rename(place.parent / "moved")
        assert f"'{place}': No such file or directory" in str(bundle.changed())
        (place / "rootfs").mkdir(parents=True)
        write_config(place)
        assert f"'{place}'" in str(bundle.changed())


def test_a_bundle_replaced_by_a_link_to_its_twin_is_noticed(place: Path) -> None:
    twin = place.parent / "twin"
    make_bundle(twin)
    with opened(place) as bundle:
        place.rename(place.parent / "moved")
        place.symlink_to("twin")
        assert f"'{place}'" in str(bundle.changed())


def test_a_rootfs_replaced_by_a_new_directory_is_noticed(place: Path) -> None:
    with opened(place) as bundle:
        for _ in range(20):  # a file system may hand out the freed inode number at once; ours is not freed
            shutil.rmtree(place / "rootfs")
            (place / "rootfs").mkdir()
            assert f"'{place}/rootfs'" in str(bundle.changed())


def test_a_rootfs_renamed_away_and_back_is_the_same(place: Path) -> None:
    with opened(place) as bundle:
        (place / "rootfs").rename(place / "away")
        assert "$.root.path" in str(bundle.changed())
        (place / "away").rename(place / "rootfs")
        assert bundle.changed() is None


def test_rootfs_replaced_by_a_link_out_is_noticed(place: Path) -> None:
    with opened(place) as bundle:
        (place / "rootfs").rename(place.parent / "outside")
        (place / "rootfs").symlink_to("../outside")
        what = bundle.changed()
        assert (
            what == "config.json: $.root.path is 'rootfs', which leads out of the bundle by a symbolic link"
        )


def test_changed_link_on_the_way_to_the_rootfs_is_noticed(place: Path) -> None:
    for name in ("one", "two"):
        (place / name / "rootfs").mkdir(parents=True)
    (place / "way").symlink_to("one")
    write_config(place, root={"path": "way/rootfs"})
    with opened(place) as bundle:
        (place / "way").unlink()
        (place / "way").symlink_to("two")
        assert f"'{place}/way/rootfs'" in str(bundle.changed())


def test_asking_again_and_again_leaves_no_descriptor_open(place: Path) -> None:
    with opened(place) as bundle:
        before = open_descriptors()
        bundle.changed()
        shutil.rmtree(place / "rootfs")
        bundle.changed()
        (place / "config.json").unlink()
        bundle.changed()
        assert open_descriptors() == before


# --- openat2 --------------------------------------------------------------------------------------------------


@pytest.fixture
def directory(place: Path) -> Iterator[int]:
    descriptor = os.open(place, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def test_openat2_opens_beneath_and_closes_on_exec(place: Path, directory: int) -> None:
    descriptor = openat2(directory, "rootfs", os.O_PATH | os.O_DIRECTORY, resolve=RESOLVE_BENEATH)
    try:
        assert os.fstat(descriptor).st_ino == (place / "rootfs").stat().st_ino
        assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("path", "resolve", "expected"),
    [
        ("../bundle/rootfs", RESOLVE_BENEATH, errno.EXDEV),
        ("/", RESOLVE_BENEATH, errno.EXDEV),
        ("/proc/self/cwd", RESOLVE_NO_MAGICLINKS, errno.ELOOP),
        ("missing", RESOLVE_BENEATH, errno.ENOENT),
        ("config.json", RESOLVE_BENEATH, errno.ENOTDIR),
        ("rootfs", 1 << 60, errno.EINVAL),
    ],
)
def test_openat2_answers_with_the_kernels_error(
    directory: int, path: str, resolve: int, expected: int
) -> None:
    with pytest.raises(OSError, match=r"^\[Errno") as caught:
        openat2(directory, path, os.O_PATH | os.O_DIRECTORY, resolve=resolve)
    assert (caught.value.errno, caught.value.strerror) == (expected, os.strerror(expected))
    assert caught.value.filename == path


def test_openat2_may_answer_with_descriptor_0(place: Path, directory: int) -> None:
    standard_input = os.dup(0)
    os.close(0)
    try:
        assert openat2(directory, "rootfs", os.O_PATH, resolve=RESOLVE_BENEATH) == 0
        assert os.fstat(0).st_ino == (place / "rootfs").stat().st_ino
    finally:
        os.dup2(standard_input, 0)
        os.close(standard_input)


@pytest.mark.parametrize(
    ("failures", "left", "calls"),
    [
        ([errno.EAGAIN, errno.EINTR], None, 3),
        ([errno.EAGAIN] * 40, errno.EAGAIN, 32),
        ([errno.EINTR, errno.ENOENT], errno.ENOENT, 2),
    ],
)
def test_openat2_disturbed_is_retried_a_limited_number_of_times(
    directory: int, monkeypatch: pytest.MonkeyPatch, failures: list[int], left: int | None, calls: int
) -> None:
    made: list[tuple[Any, ...]] = []

    def syscall(*arguments: Any) -> int:
        made.append(arguments)
        if len(made) > len(failures):
            return 7
        ctypes.set_errno(failures[len(made) - 1])
        return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(syscall=syscall))
    if left is None:
        assert openat2(directory, "rootfs", os.O_PATH, resolve=RESOLVE_BENEATH) == 7
    else:
        with pytest.raises(OSError, match="rootfs") as caught:
            openat2(directory, "rootfs", os.O_PATH, resolve=RESOLVE_BENEATH)
        assert caught.value.errno == left
    assert len(made) == calls


def test_openat2_does_not_cut_a_path_at_a_nul(directory: int) -> None:
    with pytest.raises(ValueError, match=r"^embedded null byte$"):
        openat2(directory, "rootfs\0/../..", os.O_PATH, resolve=RESOLVE_BENEATH)
