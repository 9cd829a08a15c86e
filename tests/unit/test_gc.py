"""`gc`: what is over goes, what is alive stays, what is not the engine's is left and named."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import Reason
from engine.lifecycle.secure_root import secure_root
from engine.state.container import component
from engine.state.gc import Collected, GcError, collect
from tests.support.refusals import refuses

WEB = component("web")
DB = component("db")


def left_by_a_run(base: Path, name: str = WEB) -> Path:
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    stage = base / name / "runsc-root" / "exec-allow" / "stage-1"
    stage.mkdir(parents=True)
    (stage / "runsc").write_text("30 MB")
    (stage / "runsc").chmod(0o555)
    os.mkfifo(base / name / "lock", mode=0o600)
    return base / name


def gc(base: Path) -> Collected:
    return collect({"ENGINE_ARTIFACT_BASE": str(base)})


def test_gc_removes_everything_of_finished_containers(private: Path) -> None:
    first, second = left_by_a_run(private / "base"), left_by_a_run(private / "base", DB)
    found = gc(private / "base")
    assert set(found.removed) == {str(first), str(second)}
    assert list((private / "base").iterdir()) == []


def test_a_live_containers_directory_is_not_touched(private: Path) -> None:
    root = secure_root("web", {"ENGINE_ARTIFACT_BASE": str(private / "base")})
    left_by_a_run(private / "base", DB)
    before = sorted(Path(root.container.path).rglob("*"))
    found = gc(private / "base")
    assert (found.alive, found.removed) == ((root.container.path,), (str(private / "base" / DB),))
    assert sorted(Path(root.container.path).rglob("*")) == before
    root.close()
    assert gc(private / "base").removed == (root.container.path,)


def test_traces_in_a_containers_directory_stay(private: Path) -> None:
    container = left_by_a_run(private / "base")
    (container / "trace-1.jsonl").write_text("{}")
    found = gc(private / "base")
    assert found.removed == (str(container / "runsc-root"),)
    assert (container / "trace-1.jsonl").exists()
    assert not (container / "runsc-root").exists()
    assert gc(private / "base").removed == ()


def test_what_is_not_the_engines_is_left_and_named(private: Path) -> None:
    left_by_a_run(private / "base")
    (private / "base" / "notes").mkdir()
    (private / "victim").mkdir()
    (private / "base" / DB).symlink_to(private / "victim")
    found = gc(private / "base")
    assert set(found.foreign) == {str(private / "base" / "notes"), str(private / "base" / DB)}
    assert (private / "base" / "notes").is_dir()
    assert (private / "base" / DB).is_symlink()


def test_links_inside_a_container_are_removed_and_not_followed(private: Path) -> None:
    container = left_by_a_run(private / "base")
    (private / "victim").mkdir()
    (private / "victim" / "precious").touch()
    (container / "runsc-root" / "link").symlink_to(private / "victim")
    (container / "link").symlink_to(private / "victim")
    gc(private / "base")
    assert (private / "victim" / "precious").exists()
    assert not container.exists()


def test_no_base_is_nothing_to_do_and_none_is_made(private: Path) -> None:
    assert gc(private / "base").removed == ()
    assert not (private / "base").exists()


def test_a_base_that_others_can_rewrite_is_refused(private: Path) -> None:
    container = left_by_a_run(private / "loose" / "base")
    (private / "loose").chmod(0o777)
    with refuses(GcError, Reason.ROOT_NOT_PRIVATE):
        gc(private / "loose" / "base")
    assert container.exists()


@pytest.mark.usefixtures("needs_root")
def test_a_directory_of_another_owner_is_left(private: Path) -> None:
    container = left_by_a_run(private / "base")
    os.chown(container, 4242, 4242)
    assert gc(private / "base").foreign == (str(container),)
    assert (container / "runsc-root").exists()


def test_a_base_that_is_not_private_is_refused_and_not_changed(private: Path) -> None:
    left_by_a_run(private / "base")
    (private / "base").chmod(0o755)
    with refuses(GcError, Reason.ROOT_NOT_PRIVATE, "0755"):
        gc(private / "base")
    assert (private / "base").stat().st_mode & 0o777 == 0o755


def test_a_base_that_cannot_be_listed_is_refused_in_one_line(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_by_a_run(private / "base")

    def failing(_: int) -> list[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    refused = refuses(GcError, Reason.FAILURE, private / "base", "Input/output error")
    with refused, monkeypatch.context() as patched:
        patched.setattr("os.listdir", failing)
        gc(private / "base")


@pytest.mark.usefixtures("needs_root")
def test_a_network_namespace_that_runsc_left_mounted_goes(private: Path) -> None:
    container = left_by_a_run(private / "base")
    point = container / "runsc-root" / "null-netns"
    point.touch()
    code = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None)\n"
        "assert libc.unshare(0x40020000) == 0\n"
        "assert libc.mount(None, b'/', None, 0x44000, None) == 0\n"
        f"assert libc.mount(b'/proc/self/ns/net', {str(point).encode()!r}, None, 4096, None) == 0\n"
        "from engine.state.gc import collect\n"
        f"found = collect({{'ENGINE_ARTIFACT_BASE': {str(private / 'base')!r}}})\n"
        "print(found.failed, found.removed, os.access('/proc/self/ns/net', os.R_OK))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split(" ", 1) == ["()", f"({str(container)!r},) True\n"]
    assert not container.exists()


@pytest.mark.usefixtures("needs_root")
def test_what_is_mounted_in_a_container_is_not_entered(private: Path) -> None:
    container = left_by_a_run(private / "base")
    (private / "victim").mkdir()
    (private / "victim" / "precious").touch()
    point = container / "runsc-root" / "a b"
    point.mkdir()
    code = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "assert libc.unshare(0x20000) == 0\n"
        "assert libc.mount(None, b'/', None, 0x44000, None) == 0\n"
        f"assert libc.mount({str(private / 'victim').encode()!r}, {str(point).encode()!r}, None, 4096, None) == 0\n"
        "from engine.state.gc import collect\n"
        f"print(collect({{'ENGINE_ARTIFACT_BASE': {str(private / 'base')!r}}}).failed)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"something is mounted on {str(point)!r}" in done.stdout.replace('\\"', '"')
    assert (private / "victim" / "precious").exists()
    assert (container / "runsc-root" / "exec-allow" / "stage-1" / "runsc").exists()


def test_an_empty_directory_is_left_where_others_make_them(private: Path) -> None:
    shared, own = private / "nucleus-gvisor", private / "base"
    for base in (shared, own):
        left_by_a_run(base)
        (base / DB).mkdir(mode=0o700)
    assert gc(shared).foreign == (str(shared / DB),)
    assert (shared / DB).is_dir()
    assert gc(own).foreign == ()
    assert not (own / DB).exists()


@pytest.mark.parametrize("others", [("trace-1.jsonl",), ("runsc-root",), ("lock", "notes"), ("config.json",)])
def test_directory_of_another_program_with_our_name_is_left(private: Path, others: tuple[str, ...]) -> None:
    left_by_a_run(private / "base")
    theirs = private / "base" / DB
    theirs.mkdir(mode=0o700)
    for name in others:
        (theirs / name).write_text("theirs")
    found = gc(private / "base")
    assert found.foreign == (str(theirs),)
    assert sorted(path.name for path in theirs.iterdir()) == sorted(others)


def everything_below(base: Path) -> dict[str, tuple[int, int, int]]:
    """Each path below `base`, with the identity and time that a change of it would change."""
    found = {}
    for path in [base, *base.rglob("*")]:
        status = path.lstat()
        found[str(path)] = (status.st_ino, status.st_mode, status.st_ctime_ns)
    return found


@pytest.mark.parametrize("age", [None, 30 * 86_400])
def test_a_dry_run_says_what_gc_does_and_changes_nothing(private: Path, age: float | None) -> None:
    base = private / "base"
    left_by_a_run(base)
    with_old, with_young = left_by_a_run(base, "a" * 32), left_by_a_run(base, "b" * 32)
    alive = secure_root("db", {"ENGINE_ARTIFACT_BASE": str(base)})
    (base / ("c" * 32)).mkdir(mode=0o700)
    (base / "notes").mkdir()
    (base / ("d" * 32)).symlink_to(private)
    (base / "traces").mkdir(mode=0o700)
    written = "20260101T000000Z-0123abcd.jsonl"
    for days, paths in (
        (60, (with_old / f"trace-{written}", base / f"traces/web-{written}", base / f"traces/db-{written}")),
        (60, (base / f"traces/web-{written}.sig", base / "traces/notes")),
        (1, (with_young / f"trace-{written}", base / f"traces/young-{written}")),
    ):
        for path in paths:
            path.write_text("{}\n")
            os.utime(path, (0, path.stat().st_mtime - days * 86_400))
    environment = {"ENGINE_ARTIFACT_BASE": str(base)}
    before = everything_below(base)
    foreseen = collect(environment, traces_older_than=age, dry_run=True)
    assert everything_below(base) == before
    found = collect(environment, traces_older_than=age)
    assert foreseen == found
    assert (len(found.removed), len(found.alive)) == ((4 if age is None else 6), 1)
    alive.close()
