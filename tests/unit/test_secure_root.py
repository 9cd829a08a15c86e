"""Step `secure_root`: the container's own directories, whatever stands in their place."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Reason, SecureRootError
from engine.lifecycle import secure_root as secure_root_module
from engine.lifecycle.secure_root import PodSandbox, StateDirs, secure_root
from engine.linux.files import PrivateDirectory, UntrustedPathError, open_private_directory
from engine.state.container import component, open_runsc_root
from tests.support.refusals import refuses

COMPONENT = component("web")


def secure(base: Path, container_id: str = "web") -> StateDirs:
    return secure_root(container_id, {"ENGINE_ARTIFACT_BASE": str(base)})


def refused(base: Path, reason: str, *facts: object) -> None:
    before = sorted(str(path) for path in base.parent.rglob("*"))
    with refuses(SecureRootError, reason, *facts):
        secure(base)
    assert sorted(str(path) for path in base.parent.rglob("*")) == before, "something half-made was left"


def test_each_directory_is_made_private_whatever_the_umask(private: Path) -> None:
    old = os.umask(0o277)
    try:
        root = secure(private / "base")
    finally:
        os.umask(old)
    assert [directory.path for directory in root.directories] == [
        str(private / "base"),
        str(private / "base" / COMPONENT),
        str(private / "base" / COMPONENT / "runsc-root"),
        str(private / "base" / COMPONENT / "runsc-root" / "runtime"),
    ]
    for directory in root.directories:
        status = os.stat(directory.path)
        assert (status.st_uid, status.st_mode & 0o7777) == (os.geteuid(), 0o700)
        assert directory.identity == (status.st_dev, status.st_ino)
    assert {entry["mode"] for entry in root.facts()["directories"]} == {"0700"}
    assert root.facts()["user"] == os.geteuid()


def private_base(private: Path) -> Path:
    (private / "base").mkdir(mode=0o700, exist_ok=True)
    return private / "base"


def with_lock(path: Path) -> None:
    """What lies in a container's directory is only ours where our lock is."""
    if path.parent.name == COMPONENT:
        os.mkfifo(path.parent / "lock", 0o600)


@pytest.mark.parametrize("place", [COMPONENT, f"{COMPONENT}/runsc-root"])
def test_own_directory_that_is_too_open_is_tightened(private: Path, place: str) -> None:
    path = private_base(private) / place
    path.mkdir(parents=True)
    with_lock(path)
    path.chmod(0o777)
    secure(private / "base")
    assert path.stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o1777, 0o701, 0o500])
def test_base_that_is_not_private_is_refused_unchanged(private: Path, mode: int) -> None:
    private_base(private).chmod(mode)
    with refuses(SecureRootError, Reason.ROOT_NOT_PRIVATE, f"{mode:04o}"):
        secure(private / "base")
    assert (private / "base").stat().st_mode & 0o7777 == mode


@pytest.mark.parametrize("place", ["base", f"base/{COMPONENT}", f"base/{COMPONENT}/runsc-root"])
def test_link_in_the_place_of_a_directory_is_refused(private: Path, place: str) -> None:
    victim = private / "victim"
    victim.mkdir(mode=0o755)
    path = private / place
    path.parent.mkdir(parents=True, exist_ok=True)
    for parent in [private / "base", private / "base" / COMPONENT]:
        if parent.is_dir():
            parent.chmod(0o700)
    path.symlink_to(victim)
    with_lock(path)
    with refuses(SecureRootError, Reason.ROOT_NOT_PRIVATE):
        secure(private / "base")
    assert list(victim.iterdir()) == []
    assert victim.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("place", ["base", f"base/{COMPONENT}", f"base/{COMPONENT}/runsc-root"])
def test_what_is_no_directory_is_refused_and_left(private: Path, place: str) -> None:
    path = private / place
    if place != "base":
        private_base(private)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with_lock(path)
    with refuses(SecureRootError, Reason.ROOT_NOT_PRIVATE):
        secure(private / "base")
    assert path.read_text() == "mine"


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize("place", ["base", f"base/{COMPONENT}", f"base/{COMPONENT}/runsc-root"])
def test_a_directory_of_another_owner_is_refused(private: Path, place: str) -> None:
    path = private / place
    private_base(private)
    path.mkdir(parents=True, exist_ok=True)
    with_lock(path)
    os.chown(path, 4242, 4242)
    with refuses(SecureRootError, Reason.ROOT_NOT_PRIVATE, 4242):
        secure(private / "base")


def test_a_link_anywhere_above_the_base_is_refused(private: Path) -> None:
    (private / "real").mkdir()
    (private / "link").symlink_to("real")
    refused(private / "link" / "base", Reason.ROOT_NOT_PRIVATE, f"{private}/link'")


def test_a_parent_that_others_can_write_is_refused(private: Path) -> None:
    (private / "loose").mkdir()
    (private / "loose").chmod(0o775)
    refused(private / "loose" / "base", Reason.ROOT_NOT_PRIVATE, "0775")


def test_a_sticky_parent_is_accepted(private: Path) -> None:
    (private / "sticky").mkdir()
    (private / "sticky").chmod(0o1777)
    secure(private / "sticky" / "base")


def test_an_ancestor_that_others_can_write_is_refused(private: Path) -> None:
    (private / "loose" / "tight").mkdir(parents=True)
    (private / "loose").chmod(0o777)
    refused(private / "loose" / "tight" / "base", Reason.ROOT_NOT_PRIVATE, "loose'", "0777")


@pytest.mark.usefixtures("needs_root")
def test_as_root_an_ancestor_of_another_owner_is_refused(private: Path) -> None:
    (private / "theirs" / "root").mkdir(parents=True)
    os.chown(private / "theirs", 4242, 4242)
    refused(private / "theirs" / "root" / "base", Reason.ROOT_NOT_PRIVATE, "theirs'", 4242)


def test_a_missing_parent_is_refused_and_not_made(private: Path) -> None:
    refused(private / "none" / "base", Reason.FAILURE, "No such file")


def test_a_parent_that_is_a_file_is_refused(private: Path) -> None:
    (private / "file").write_text("")
    with refuses(SecureRootError, Reason.FAILURE, "Not a directory"):
        secure(private / "file" / "base")


def test_a_parent_component_in_the_base_is_refused(private: Path) -> None:
    with refuses(SecureRootError, Reason.ROOT_NOT_PRIVATE, "'..'"):
        secure_root("web", {"ENGINE_ARTIFACT_BASE": f"{private}/../base"})


def test_live_id_is_refused_and_another_is_not(private: Path) -> None:
    first = secure(private / "base")
    with refuses(SecureRootError, Reason.ALIVE, "'web'"):
        secure(private / "base")
    secure(private / "base", "other")
    first.close()
    secure(private / "base")


def test_what_has_no_mark_of_this_engine_is_refused_and_left(private: Path) -> None:
    container = private_base(private) / COMPONENT
    (container / "runsc-root").mkdir(parents=True)  # as the published engine has it
    with refuses(SecureRootError, Reason.ROOT_NOT_PRIVATE, repr(str(container))):
        secure(private / "base")
    assert os.listdir(container) == ["runsc-root"]


def test_leftovers_of_an_earlier_run_go_but_traces_stay(private: Path) -> None:
    container = private_base(private) / COMPONENT
    (container / "runsc-root" / "exec-allow" / "stage-1").mkdir(parents=True)
    (container / "runsc-root" / "exec-allow" / "stage-1" / "runsc").write_text("30 MB")
    (container / "trace-1.jsonl").write_text("{}")
    (container / "lock").touch(mode=0o600)
    root = secure(private / "base")
    assert root.cleaned == (str(container / "runsc-root"),)
    assert root.facts()["cleaned"] == [str(container / "runsc-root")]
    assert sorted(str(path.relative_to(container)) for path in container.rglob("*")) == [
        "lock",
        "runsc-root",
        "runsc-root/runtime",
        "trace-1.jsonl",
    ]


def test_discard_leaves_only_the_base(private: Path) -> None:
    root = secure(private / "base")
    gone = root.discard()
    root.close()
    assert list((private / "base").iterdir()) == []
    assert gone == [directory.path for directory in reversed(root.directories[1:])]


def test_taking_back_leaves_what_is_not_its_own(private: Path) -> None:
    root = secure(private / "base")
    trace = Path(root.container.path, "trace-1.jsonl")
    trace.write_text("{}")
    root.discard()
    root.close()
    assert trace.exists()
    secure(private / "base")


@pytest.mark.parametrize("depth", range(4))
def test_a_directory_that_was_replaced_is_noticed(private: Path, depth: int) -> None:
    root = secure(private / "base")
    assert root.changed() is None
    path = Path(root.directories[depth].path)
    path.rename(path.with_name("moved"))
    what = root.changed()
    assert what is not None
    assert repr(str(path)) in what
    path.mkdir(mode=0o700)
    assert root.changed() is not None
    path.rmdir()
    path.symlink_to("moved")
    assert root.changed() is not None


@pytest.mark.parametrize("depth", range(4))
def test_a_directory_whose_mode_was_loosened_is_noticed(private: Path, depth: int) -> None:
    root = secure(private / "base")
    path = Path(root.directories[depth].path)
    path.chmod(0o755)
    what = root.changed()
    assert what is not None
    assert repr(str(path)) in what


def test_what_was_secured_is_recorded_whole(private: Path) -> None:
    private_base(private)
    root = secure(private / "base")
    container = str(private / "base" / COMPONENT)
    paths = [str(private / "base"), container, f"{container}/runsc-root", f"{container}/runsc-root/runtime"]
    assert root.facts() == {
        "user": os.geteuid(),
        "directories": [
            {"path": path, "owner": os.geteuid(), "mode": "0700", "created": path != paths[0]}
            for path in paths
        ],
        "lock": f"{container}/lock",
        "cleaned": [],
    }


def test_an_empty_nest_of_staged_copies_is_taken_back_too(private: Path) -> None:
    root = secure(private / "base")
    nest = Path(root.runsc_root.path, "exec-allow")
    nest.mkdir()
    gone = root.discard()
    root.close()
    assert gone == [str(nest), *(directory.path for directory in reversed(root.directories[1:]))]


def fail_to_make(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the kernel be out of space for the directory `name`."""
    mkdir = os.mkdir

    def out_of_space(path: str, *arguments: Any, **named: Any) -> None:
        if path == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        mkdir(path, *arguments, **named)

    monkeypatch.setattr("os.mkdir", out_of_space)


@pytest.mark.parametrize("place", ["runsc-root", "runsc-root/runtime"])
def test_no_space_for_a_directory_leaves_nothing(
    private: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    private_base(private)
    fail_to_make(os.path.basename(place), monkeypatch)
    where = repr(str(private / "base" / COMPONENT / place))
    with refuses(SecureRootError, Reason.FAILURE, f"{where}: No space left on device"):
        secure(private / "base")
    assert list((private / "base").iterdir()) == []


def test_a_clean_up_that_fails_does_not_hide_why_it_was_refused(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    fail_to_make("runsc-root", monkeypatch)
    monkeypatch.setattr("os.unlink", read_only)
    with refuses(SecureRootError, Reason.FAILURE, "No space left on device"):
        secure(private / "base")


def test_each_refusal_has_its_reason_and_says_where(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = secure(private / "base")
    (private / "link").symlink_to("base")
    for base, reason, fact in (
        (private / "base", Reason.ALIVE, "'web'"),
        (private / "link", Reason.ROOT_NOT_PRIVATE, repr(str(private / "link"))),
        (private / "none" / "base", Reason.FAILURE, f"{str(private / 'none')!r}: No such file or directory"),
    ):
        with refuses(SecureRootError, reason, fact) as refusal:
            secure(base)
        assert refusal.value.step == "secure_root"
    held.close()

    def no_descriptor_left(_: str) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(secure_root_module, "open_base", no_descriptor_left)
    with refuses(SecureRootError, Reason.FAILURE, "Too many open files"):
        secure(private / "base")


def test_what_a_manager_still_has_is_not_taken_over(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secure(private / "base").close()
    asked: list[tuple[str, str]] = []

    def in_use_reason(base: PrivateDirectory, container: PrivateDirectory) -> str:
        asked.append((base.path, container.path))
        return "belongs to a pod"

    monkeypatch.setattr(secure_root_module, "in_use_reason", in_use_reason)
    before = sorted(private.rglob("*"))
    with refuses(SecureRootError, Reason.KEPT, "'web'"):
        secure(private / "base")
    assert asked == [(str(private / "base"), str(private / "base" / COMPONENT))]
    assert sorted(private.rglob("*")) == before


def test_leftovers_are_those_of_this_base_and_container(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def remove_leftovers(base: PrivateDirectory, container: PrivateDirectory) -> list[str]:
        asked.append((base.path, container.path))
        return ["something"]

    monkeypatch.setattr(secure_root_module, "remove_leftovers", remove_leftovers)
    assert secure(private / "base").facts()["cleaned"] == ["something"]
    assert asked == [(str(private / "base"), str(private / "base" / COMPONENT))]


# --- A sandbox that is joined ---------------------------------------------------------------------------------


def join_pod(base: PrivateDirectory) -> PodSandbox:
    """The sandbox of container `pod`, with descriptors of its own."""
    container = open_private_directory(base.descriptor, base.path, component("pod"))
    return PodSandbox("pod", container, open_runsc_root(container), "d" * 64)


def secure_in_pod(base: Path) -> StateDirs:
    secure_root("pod", {"ENGINE_ARTIFACT_BASE": str(base)}).close()
    return secure_root("web", {"ENGINE_ARTIFACT_BASE": str(base)}, join_pod)


def test_joined_sandbox_is_recorded_and_its_root_used(private: Path) -> None:
    root = secure_in_pod(private / "base")
    pod = str(private / "base" / component("pod"))
    assert root.facts()["sandbox"] == {
        "id": "pod",
        "directories": [
            {"path": path, "owner": os.geteuid(), "mode": "0700", "created": False}
            for path in (pod, f"{pod}/runsc-root")
        ],
        "sha256": "d" * 64,
    }
    assert root.used_root.path == f"{pod}/runsc-root"
    assert secure_root("alone", {"ENGINE_ARTIFACT_BASE": str(private / "base")}).used_root.path == str(
        private / "base" / component("alone") / "runsc-root"
    )


@pytest.mark.parametrize("place", ["", "runsc-root"])
def test_a_directory_of_the_sandbox_that_was_replaced_is_noticed(private: Path, place: str) -> None:
    root = secure_in_pod(private / "base")
    assert root.changed() is None
    path = private / "base" / component("pod") / place
    path.rename(path.with_name("moved"))
    path.mkdir(mode=0o700)
    what = root.changed()
    assert what is not None
    assert repr(str(path)) in what


def test_descriptors_of_the_sandbox_are_closed_with_the_rest(private: Path) -> None:
    secure(private / "base").close()
    before = os.listdir("/proc/self/fd")
    secure_in_pod(private / "base").close()
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UntrustedPathError("/there", "is a symbolic link"), Reason.ROOT_NOT_PRIVATE),
        (OSError(errno.ENOENT, "No such file or directory", "/there"), Reason.FAILURE),
    ],
)
def test_sandbox_that_cannot_be_joined_is_refused_cleanly(
    private: Path, error: Exception, reason: str
) -> None:
    def join(base: PrivateDirectory) -> PodSandbox:
        assert base.path == str(private / "base")
        raise error

    private_base(private)
    with refuses(SecureRootError, reason, "'/there'"):
        secure_root("web", {"ENGINE_ARTIFACT_BASE": str(private / "base")}, join)
    assert list((private / "base").iterdir()) == []
