"""`gc --traces-older-than`: the old traces of what is over go; the young, the living's and what is no trace stay."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from engine.cli.main import main
from engine.lifecycle.secure_root import secure_root
from engine.linux.files import open_private_directory
from engine.state import gc as gc_module
from engine.state import record, retention
from engine.state.container import component
from engine.state.gc import Collected, collect
from engine.state.record import Record

DAY = 86_400
WRITTEN = "20260101T000000Z-0123abcd.jsonl"


@pytest.fixture
def base(private: Path) -> Path:
    made = private / "base"
    (made / "traces").mkdir(mode=0o700, parents=True)
    made.chmod(0o700)
    return made


def trace_of(base: Path, container_id: str, *, days: float, written: str = WRITTEN) -> Path:
    """A manager's trace that was last written so many days ago."""
    return aged(base / "traces" / f"{container_id}-{written}", days)


def aged(path: Path, days: float) -> Path:
    path.write_text("{}\n")
    then = time.time() - days * DAY
    os.utime(path, (then, then))
    return path


def gc(base: Path, days: float = 30) -> Collected:
    return collect({"ENGINE_ARTIFACT_BASE": str(base)}, traces_older_than=days * DAY)


def test_old_traces_of_ended_containers_are_removed(base: Path) -> None:
    old, young = trace_of(base, "web-1.2", days=31), trace_of(base, "db", days=29)
    found = gc(base)
    assert found.removed == (str(old),)
    assert (old.exists(), young.exists()) == (False, True)
    assert (found.alive, found.foreign, found.failed) == ((), (), ())


def test_without_an_age_no_managers_trace_goes(base: Path) -> None:
    old = trace_of(base, "web", days=1000)
    assert collect({"ENGINE_ARTIFACT_BASE": str(base)}).removed == ()
    assert old.exists()


def test_signature_is_removed_with_its_trace_only(base: Path) -> None:
    old, young = trace_of(base, "web", days=31), trace_of(base, "db", days=1)
    signatures = [aged(path.with_name(path.name + ".sig"), 40) for path in (old, young)]
    found = gc(base)
    assert found.removed == (str(old), str(signatures[0]))
    assert signatures[1].exists()
    assert found.foreign == ()


def test_traces_of_a_live_or_new_container_stay(base: Path) -> None:
    root = secure_root("web", {"ENGINE_ARTIFACT_BASE": str(base)})
    old = trace_of(base, "web", days=31)
    own = aged(Path(root.container.path) / f"trace-{WRITTEN}", 31)
    assert gc(base).removed == ()
    assert old.exists()
    assert own.exists()
    root.close()
    assert set(gc(base).removed) == {str(old), root.container.path}


def test_traces_of_earlier_containers_of_an_id_are_removed(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = trace_of(base, "web", days=60)
    own = trace_of(base, "web", days=40, written="20260201T000000Z-0123abcd.jsonl")
    name = component("web")
    (base / name).mkdir(mode=0o700)
    opened = os.open(base, os.O_RDONLY)
    container = open_private_directory(opened, str(base), name)
    noted = Record("web", "/bundle", "1f", (1, 1), "2026-01-01T00:00:00Z", "1.0.2", {}, trace=str(own))
    record.write(container, noted)
    for module in (gc_module, retention):
        monkeypatch.setattr(module, "in_use_reason", lambda *_: "exists")
    found = gc(base)
    assert (found.removed, found.alive) == ((str(before),), (container.path,))
    assert own.exists()
    container.close()
    os.close(opened)


@pytest.mark.parametrize("noted", ["nothing", "no trace yet"])
def test_all_traces_of_an_id_stay_if_the_live_one_is_unknown(
    base: Path, noted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = trace_of(base, "web", days=60)
    name = component("web")
    (base / name).mkdir(mode=0o700)
    opened = os.open(base, os.O_RDONLY)
    container = open_private_directory(opened, str(base), name)
    if noted != "nothing":
        record.write(container, Record("web", "/bundle", "1f", (1, 1), "2026-01-01T00:00:00Z", "1.0.2", {}))
    for module in (gc_module, retention):
        monkeypatch.setattr(module, "in_use_reason", lambda *_: "exists")
    assert gc(base).removed == ()
    assert old.exists()
    container.close()
    os.close(opened)


def test_a_trace_that_somebody_still_writes_stays_however_old(base: Path) -> None:
    old = trace_of(base, "web", days=60)
    with old.open("a"):
        assert gc(base).removed == ()
    with old.open():  # a reader keeps nothing
        assert gc(base).removed == (str(old),)


def test_other_files_and_links_are_left_and_named(private: Path, base: Path) -> None:
    victim = aged(private / "precious", 99)
    traces = base / "traces"
    link = traces / f"link-{WRITTEN}"
    link.symlink_to(victim)
    directory = traces / f"directory-{WRITTEN}"
    directory.mkdir()
    pipe = traces / f"pipe-{WRITTEN}"
    os.mkfifo(pipe)
    plug = traces / f"socket-{WRITTEN}"
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(traces)  # its path would be too long
        try:
            listening.bind(plug.name)
        finally:
            os.chdir(here)
    notes = [
        aged(traces / name, 99)
        for name in ("notes", f"web-{WRITTEN}x", f"-{WRITTEN}", "web-20260101T000000Z.jsonl", "notes.sig")
    ]
    found = gc(base)
    assert set(found.foreign) == {str(path) for path in (link, directory, pipe, plug, *notes)}
    assert (found.removed, found.failed) == ((), ())
    assert len(list(traces.iterdir())) == 9
    assert victim.exists()


def test_a_signature_that_is_a_link_stays_and_is_named(private: Path, base: Path) -> None:
    victim = aged(private / "precious", 99)
    old = trace_of(base, "web", days=31)
    link = old.with_name(old.name + ".sig")
    link.symlink_to(victim)
    found = gc(base)
    assert (found.removed, found.foreign) == ((str(old),), (str(link),))
    assert link.is_symlink()
    assert victim.exists()


@pytest.mark.usefixtures("needs_root")
def test_a_trace_of_another_owner_is_left_and_named(base: Path) -> None:
    old = trace_of(base, "web", days=31)
    os.chown(old, 4242, 4242)
    assert gc(base).foreign == (str(old),)
    assert old.exists()


def test_a_directory_of_traces_that_is_a_link_is_left_and_named(private: Path, base: Path) -> None:
    old = trace_of(base, "web", days=31)
    (base / "traces").rename(private / "elsewhere")
    (base / "traces").symlink_to(private / "elsewhere")
    assert gc(base).foreign == (str(base / "traces"),)
    assert (private / "elsewhere" / old.name).exists()


def test_what_cannot_be_removed_is_said_and_the_rest_is_removed(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stuck, old = trace_of(base, "a", days=31), trace_of(base, "b", days=31)
    unlink = os.unlink

    def failing(name: str, **more: int) -> None:
        if name == stuck.name:
            raise PermissionError(1, "Operation not permitted")
        unlink(name, **more)

    monkeypatch.setattr(os, "unlink", failing)
    monkeypatch.setenv("ENGINE_ARTIFACT_BASE", str(base))
    assert main(["gc", "--traces-older-than", "30d"]) == 125
    said = capsys.readouterr()
    assert said.out == f"removed: {old}\n"
    assert said.err == f"engine: gc: {str(stuck)!r}: Operation not permitted; remove it by hand\n"


def test_old_traces_of_runs_are_removed_and_young_ones_stay(base: Path) -> None:
    for name, days in (("a" * 32, (31, 1)), ("b" * 32, (31, 60))):
        (base / name / "runsc-root").mkdir(parents=True)
        (base / name / "lock").touch()
        for number, age in enumerate(days):
            aged(base / name / f"trace-20260101T00000{number}Z-0123abcd.jsonl", age)
    found = gc(base)
    first = base / ("a" * 32)
    assert set(found.removed) == {
        str(first / "runsc-root"),
        str(first / "trace-20260101T000000Z-0123abcd.jsonl"),
        str(base / ("b" * 32)),
    }
    assert sorted(path.name for path in first.iterdir()) == ["lock", "trace-20260101T000001Z-0123abcd.jsonl"]


def test_no_descriptor_stays_open(base: Path) -> None:
    trace_of(base, "a", days=31)
    (base / "traces" / f"link-{WRITTEN}").symlink_to("nowhere")
    before = len(os.listdir("/proc/self/fd"))
    gc(base)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("age", ["", "d", "30", "0d", "-1d", "1.5h", "30s", "1000000w", "٣d"])
def test_an_age_that_is_none_is_wrong_usage(age: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["gc", f"--traces-older-than={age}"])
    assert ended.value.code == 2
    assert "give a number and m, h, d or w, as in 30d" in capsys.readouterr().err


def test_an_age_and_keeping_all_are_not_both_had(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["gc", "--keep-traces", "--traces-older-than=30d"])
    assert ended.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize(("age", "days"), [("60m", 1 / 24), ("12h", 0.5), ("3d", 3), ("2w", 14)])
def test_an_age_is_what_it_says(
    age: str, days: float, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old, young = trace_of(base, "old", days=days * 1.1), trace_of(base, "young", days=days * 0.9)
    monkeypatch.setenv("ENGINE_ARTIFACT_BASE", str(base))
    assert main(["gc", "--traces-older-than", age]) == 0
    assert capsys.readouterr().out == f"removed: {old}\n"
    assert young.exists()
