"""Which cgroups are removed after a container: those listed in this boot before the hand-off, and no others."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from engine.linux.boot import boot_id
from engine.linux.files import PrivateDirectory
from engine.state import cgroups, record
from engine.state.base import open_base
from engine.state.cleanup import remove_container
from engine.state.container import CGROUPS, component, open_container
from engine.state.gc import collect


@pytest.fixture
def base(private: Path) -> PrivateDirectory:
    return open_base(str(private / "base"))


@pytest.fixture
def container(base: PrivateDirectory) -> PrivateDirectory:
    container, lock = open_container(base, component("web"))
    assert lock is not None
    os.close(lock)
    return container


def gc(base: PrivateDirectory) -> list[tuple[str, str]]:
    return list(collect({"ENGINE_ARTIFACT_BASE": base.path}).failed)


def test_listed_cgroups_go_with_the_container(
    base: PrivateDirectory, container: PrivateDirectory, private: Path
) -> None:
    made, odd, other = private / "cgroup", private / "line\n\udcff", private / "other"
    for path in (made, odd, other):
        path.mkdir()
    cgroups.note(container, (str(made), str(odd), str(private / "never-made"))).close()
    assert gc(base) == []
    assert [path.exists() for path in (made, odd, other)] == [False, False, True]
    assert not os.path.exists(container.path)


def test_cgroup_with_anothers_in_it_stays_listed_until_it_can_go(
    base: PrivateDirectory, container: PrivateDirectory, private: Path
) -> None:
    made = private / "cgroup"
    (made / "anothers").mkdir(parents=True)
    cgroups.note(container, (str(made),))
    collected = collect({"ENGINE_ARTIFACT_BASE": base.path})
    assert (collected.failed, collected.alive) == ((), (container.path,))
    (made / "anothers").rmdir()
    assert gc(base) == []
    assert not made.exists()
    assert not os.path.exists(container.path)


def test_cgroup_with_processes_stays_listed_until_it_can_go(
    base: PrivateDirectory, container: PrivateDirectory, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = private / "cgroup"
    made.mkdir()
    cgroups.note(container, (str(made),))
    with monkeypatch.context() as busy:
        busy.setattr(cgroups, "_TIMEOUT", 0.0)
        busy.setattr(cgroups, "_rmdir", lambda _: errno.EBUSY)
        assert [path for path, _ in gc(base)] == [str(made)]
    assert gc(base) == []
    assert not made.exists()


def test_record_that_goes_leaves_its_cgroups_in_the_list(
    base: PrivateDirectory, container: PrivateDirectory, private: Path
) -> None:
    made = private / "cgroup"
    (made / "anothers").mkdir(parents=True)
    record.write(
        container,
        record.Record(
            id="web",
            bundle="/b",
            creation="c",
            creator=(1, 1),
            created="2026-01-01T00:00:00Z",
            oci_version="1.0.2",
            annotations={},
            cgroups=(str(made),),
            boot=boot_id(),
        ),
    )
    assert not remove_container(base, container)
    assert sorted(os.listdir(container.path)) == [CGROUPS, "lock"]
    (made / "anothers").rmdir()
    assert gc(base) == []
    assert not made.exists()


def test_list_of_an_earlier_container_is_kept_with_the_next_ones(
    container: PrivateDirectory, private: Path
) -> None:
    parent = private / "parent"
    (parent / "anothers").mkdir(parents=True)
    cgroups.note(container, (str(parent),))
    assert not cgroups.remove_listed(container)
    (parent / "anothers").rmdir()
    (parent / "own").mkdir()
    cgroups.note(container, (str(parent / "own"),)).discard()
    assert not cgroups.remove_listed(container)
    cgroups.note(container, (str(parent / "own"),))
    assert cgroups.remove_listed(container)
    assert not parent.exists()


def test_cgroups_listed_before_a_reboot_are_not_touched(
    base: PrivateDirectory, container: PrivateDirectory, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = private / "cgroup"
    made.mkdir()
    with monkeypatch.context() as earlier:
        earlier.setattr(cgroups, "boot_id", lambda: "0" * 32)
        cgroups.note(container, (str(made),))
    assert gc(base) == []
    assert made.exists()


@pytest.mark.parametrize("kind", ["link", "directory", "fifo", "empty", "of another"])
def test_what_is_no_list_of_ours_is_removed_and_not_read(
    base: PrivateDirectory, container: PrivateDirectory, private: Path, kind: str
) -> None:
    made, path = private / "cgroup", Path(container.path, CGROUPS)
    made.mkdir()
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        subprocess.run(["mkfifo", path], check=True)
    elif kind == "empty":
        path.touch()
    else:
        cgroups.note(container, (str(made),))
        if kind == "link":
            path.rename(private / "list")
            path.symlink_to(private / "list")
        elif os.geteuid() == 0:
            os.chown(path, 4242, 4242)
        else:
            pytest.skip("needs root")
    cgroups.remove_listed(container)
    assert made.exists()
    assert not path.is_symlink()
    assert not path.exists()
    assert gc(base) == []


def test_refused_run_takes_its_list_back(container: PrivateDirectory) -> None:
    listed = cgroups.note(container, ("/sys/fs/cgroup/web",))
    assert listed.discard() == []
    listed.close()
    assert os.listdir(container.descriptor) == ["lock"]


@pytest.mark.parametrize("path", ["/web", "/with\0nul"])
def test_cgroup_of_which_nobody_can_tell_is_not_listed_as_ours(
    private: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def fail(_: str) -> os.stat_result:
        raise OSError(errno.EIO, "as it says")

    monkeypatch.setattr(cgroups, "_hierarchies", lambda: iter([(str(private), "/")]))
    if "\0" not in path:
        monkeypatch.setattr(os, "stat", fail)
    with pytest.raises(OSError, match=r"as it says|Invalid argument"):
        cgroups.missing({"linux": {"cgroupsPath": path}}, "web")


def test_own_cgroups_that_cannot_be_read_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **_named: object) -> None:
        raise OSError(errno.EIO, "as it says")

    monkeypatch.setattr(cgroups, "open", fail, raising=False)
    with pytest.raises(OSError, match="as it says"):
        cgroups.missing({}, "web")


def test_cgroup_of_which_nobody_can_tell_stays_listed(
    base: PrivateDirectory, container: PrivateDirectory, monkeypatch: pytest.MonkeyPatch, private: Path
) -> None:
    cgroups.note(container, (str(private / "web"),))

    def refuse(_: str) -> int:
        return errno.EROFS

    def fail(_: str) -> bool:
        raise OSError(errno.EIO, "as it says")

    with monkeypatch.context() as broken:
        broken.setattr(cgroups, "_rmdir", refuse)
        broken.setattr(cgroups, "_is_directory", fail)
        assert [path for path, _ in gc(base)] == [str(private / "web")]
    assert os.path.exists(os.path.join(container.path, CGROUPS))
    assert gc(base) == []
