"""The chain over a host's runs: no number twice and none left out, whoever is killed; what is done to traces shows."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from engine.cli.main import main
from engine.errors import Reason, TraceError
from engine.linux.files import PrivateDirectory
from engine.linux.locks import lock
from engine.state import chain as chain_module
from engine.state.base import open_base
from engine.state.chain import HostChain
from engine.state.gc import collect
from engine.traces.chained import ChainedRun
from engine.traces.move import Move, State, Trigger
from engine.traces.writer import Trace
from engine.verify import host as host_module
from engine.verify.host import Finding, HostError, HostResult, verify
from tests.support.refusals import refuses

MOVE = Move(State.START, Trigger.RESOLVE, State.RESOLVED, {"path": "/usr/bin/runsc"})

#: Appends runs to the chain of a directory: argv is the directory, the container, and how many.
APPEND = """
import sys
from engine.state.base import open_base
from engine.traces.chained import ChainedRun
from engine.traces.writer import Trace
place = open_base(sys.argv[1])
for number in range(int(sys.argv[3])):
    trace = Trace(sys.argv[2], {})
    run = ChainedRun(place, trace, sys.argv[2])
    run.end(trace)
    run.close()
    trace.close()
    print(run.start.run, flush=True)
"""


@pytest.fixture
def place(private: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    base = private / "base"
    base.mkdir(mode=0o700)
    monkeypatch.setenv("ENGINE_ARTIFACT_BASE", str(base))
    with closing(open_base(str(base / "traces"))):
        return base / "traces"


def run(place: Path, container_id: str = "web", *, ends: bool = True) -> Path:
    """A run of two lines; the end of one that `ends` is in the chain."""
    trace = Trace(container_id, {})
    with (
        closing(open_base(str(place))) as opened,
        closing(ChainedRun(opened, trace, container_id)) as chained,
    ):
        trace.move(MOVE)
        if ends:
            chained.end(trace)
    trace.close()
    assert trace.path is not None
    return Path(trace.path)


def found(result: HostResult) -> list[tuple[Finding, int | None]]:
    return [(each.finding, each.run) for each in result.found]


def entries(place: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (place / "chain").read_bytes().splitlines()]


def test_runs_are_numbered_and_nothing_is_found_in_good_ones(place: Path) -> None:
    for container_id in ("web", "db", "web"):
        run(place, container_id)
    result = verify(str(place))
    assert (result.runs, result.entries, result.found, result.is_good) == (3, 6, (), True)
    assert [entry["seq"] for entry in entries(place)] == list(range(6))
    assert (place / "chain").stat().st_mode & 0o777 == 0o600


def take_away(path: Path) -> None:
    path.unlink()


def take_the_last_line(path: Path) -> None:
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])


def take_half_a_line(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def edit_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"web"', b'"www"', 1))


def edit_the_last_line(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"/usr/bin/runsc", b"/usr/bin/evil0"))


def put_a_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


@pytest.mark.parametrize(
    ("act", "finding"),
    [
        (take_away, Finding.TAKEN),
        (take_the_last_line, Finding.CUT),
        (take_half_a_line, Finding.CUT),
        (empty, Finding.EMPTY),
        (edit_the_header, Finding.CHANGED),
        (edit_the_last_line, Finding.CHANGED),
        (put_a_link, Finding.TAKEN),
    ],
)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_done_to_a_trace_is_found_with_its_run(
    place: Path, act: Callable[[Path], None], finding: Finding, which: int
) -> None:
    traces = [run(place) for _ in range(3)]
    act(traces[which])
    result = verify(str(place))
    assert found(result) == [(finding, which + 1)]
    assert not result.is_good
    run(place)  # the next run hides nothing
    assert found(verify(str(place))) == [(finding, which + 1)]


def test_a_trace_that_is_added_is_found(place: Path) -> None:
    trace = run(place)
    added = trace.with_name("db-29990101T000000Z-0123abcd.jsonl")
    added.write_bytes(trace.read_bytes())
    result = verify(str(place))
    assert [(each.finding, each.trace) for each in result.found] == [(Finding.ADDED, str(added))]


@pytest.mark.parametrize("name", ["old-20200101T000000Z", "old-{now}"])
def test_traces_from_before_the_chain_are_named_and_not_bad(place: Path, name: str) -> None:
    now = run(place).name.split("-")[1]
    (place / f"{name.format(now=now)}-0123abcd.jsonl").write_text("{}\n")
    result = verify(str(place))
    assert (found(result), result.is_good) == ([(Finding.OLDER, None)], True)


def following(lines: list[bytes], /, **facts: object) -> bytes:
    """An entry that follows the last one."""
    entry = {"seq": len(lines), "previous": sha256(lines[-1]).hexdigest(), "runs": 3, **facts}
    return json.dumps(entry).replace("Infinity", "1e999").encode() + b"\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[1:],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
        lambda lines: [lines[0].replace(b'"web"', b'"www"'), *lines[1:]],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [*lines, b"[]\n"],
        lambda lines: [*lines, b"noise\n"],
        lambda lines: [*lines, b'{"seq":6}\n'],
        lambda lines: [*lines, following(lines, event="end", run=1, lines=float("inf"), digest="")],
        lambda lines: [*lines, following(lines, event="removed", trace=[])],
    ],
)
def test_a_chain_that_was_changed_is_none(place: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    for _ in range(3):
        run(place)
    path = place / "chain"
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    result = verify(str(place))
    assert result.fault is not None
    assert not result.is_good


def test_a_cut_chain_shows_by_a_head_that_was_noted(place: Path) -> None:
    first, _ = run(place), run(place)
    result = verify(str(place))
    assert result.head is not None
    head = result.entries - 1, result.head
    run(place)
    assert verify(str(place), head=head).is_good
    lines = (place / "chain").read_bytes().splitlines(keepends=True)
    (place / "chain").write_bytes(b"".join(lines[:2]))
    for path in set(place.glob("*.jsonl")) - {first}:
        path.unlink()
    assert verify(str(place)).is_good  # whoever can write all of it can do so
    assert verify(str(place), head=head).fault is not None
    (place / "chain").write_bytes(b"")
    assert verify(str(place), head=head).fault is not None


def test_a_run_that_goes_on_is_not_bad(place: Path) -> None:
    path = run(place, ends=False)
    assert found(verify(str(place))) == [(Finding.NO_END, 1)]
    second = run(place)
    with second.open("ab") as file:
        file.write(b"{}\n")
    result = verify(str(place))
    assert found(result) == [(Finding.NO_END, 1), (Finding.OPEN, 2)]
    assert result.is_good
    assert path.exists()


def test_a_trace_elsewhere_is_found_there_or_where_it_was_moved_to(place: Path, private: Path) -> None:
    trace = Trace("web", {})
    trace.create(str(private / "mine"))
    with closing(open_base(str(place))) as opened, closing(ChainedRun(opened, trace, "web")) as chained:
        chained.end(trace)
    trace.close()
    run(place)
    assert verify(str(place)).found == ()
    (private / "mine").rename(private / "archived")
    assert found(verify(str(place))) == [(Finding.TAKEN, 1)]
    assert verify(str(place), [str(private / "archived")]).found == ()
    edit_the_header(private / "archived")
    assert found(verify(str(place), [str(private / "archived")])) == [(Finding.TAKEN, 1)]


def elsewhere(place: Path, path: Path | str, *, ends: bool = True) -> None:
    """A run with its trace at `path`."""
    trace = Trace("web", {})
    trace.create(str(path))
    with (
        closing(trace),
        closing(open_base(str(place))) as opened,
        closing(ChainedRun(opened, trace, "web")) as chained,
    ):
        if ends:
            chained.end(trace)


def test_a_path_that_leads_nowhere_any_more_stops_no_other_run(place: Path, private: Path) -> None:
    (private / "theirs").mkdir()
    elsewhere(place, private / "theirs" / "mine", ends=False)
    (private / "theirs").rename(private / "moved")
    (private / "theirs").write_text("")  # ENOTDIR, as EACCES by a file system of theirs
    run(place)
    result = verify(str(place))
    assert (found(result), result.is_good) == ([(Finding.TAKEN, 1)], False)


def test_a_path_that_is_too_long_for_an_entry_is_refused_and_stops_no_other_run(
    place: Path, private: Path
) -> None:
    path = private
    while len(os.fsencode(path)) < 3300:
        path /= "é" * 100
    path.mkdir(parents=True)
    with refuses(TraceError, Reason.TOO_LARGE, place / "chain"):
        elsewhere(place, path / "mine")
    run(place)
    assert verify(str(place)).runs == 1


def test_a_trace_that_was_hidden_from_another_run_is_missed_when_it_is_taken(place: Path) -> None:
    trace = Trace("web", {})
    with closing(open_base(str(place))) as opened, closing(ChainedRun(opened, trace, "web")) as chained:
        assert trace.path is not None
        path = Path(trace.path)
        hidden = path.rename(path.with_name("hidden"))
        run(place)
        hidden.rename(path)
        trace.move(MOVE)
        chained.end(trace)
    trace.close()
    assert verify(str(place)).found == ()
    path.unlink()
    result = verify(str(place))
    assert (found(result), result.is_good) == ([(Finding.TAKEN, 1)], False)


def test_what_gc_removes_while_somebody_looks_is_no_alarm(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = run(place)
    os.utime(old, (0, 0))
    run(place, "db")
    judge = host_module._judge

    def after_gc(*arguments: Any) -> Finding | None:
        collect(dict(os.environ), traces_older_than=3600)
        return judge(*arguments)

    monkeypatch.setattr(host_module, "_judge", after_gc)
    result = verify(str(place))
    assert not old.exists()
    assert (found(result), result.runs, result.entries) == ([(Finding.REMOVED, 1)], 2, 4)


def test_a_trace_with_a_line_without_an_end_costs_no_memory(place: Path) -> None:
    trace = run(place)
    with trace.open("r+b") as file:
        file.truncate(trace.stat().st_size + (1 << 28))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert found(verify(str(place))) == [(Finding.CHANGED, 1)]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_a_chain_that_cannot_be_told_keeps_its_traces_and_stops_no_gc(place: Path) -> None:
    old = run(place)
    os.utime(old, (0, 0))
    (place / "chain").rename(place / "moved")
    (place / "chain").mkdir()
    collected = collect(dict(os.environ), traces_older_than=3600)
    assert [path for path, _ in collected.failed] == [str(place)]
    assert str(place / "chain") in collected.failed[0][1]
    assert old.exists()


def test_a_trace_that_was_asked_for_among_the_others_is_one_of_them(place: Path) -> None:
    path = place / "mine-20260101T000000Z-0123abcd.jsonl"
    elsewhere(place, path)
    run(place)
    assert verify(str(place)).found == ()
    os.utime(path, (0, 0))
    assert collect(dict(os.environ), traces_older_than=3600).removed == (str(path),)
    assert found(verify(str(place))) == [(Finding.REMOVED, 1)]


@pytest.mark.parametrize("runs", [0, 1])
def test_the_end_of_a_run_is_in_no_chain_that_was_begun_since(place: Path, runs: int) -> None:
    """The supervisor of a container opens the chain again at its end, which may be months later."""
    with closing(open_base(str(place))) as opened:
        trace = Trace("web", {})
        with closing(ChainedRun(opened, trace, "web")) as chained:
            start = chained.start
        trace.close()
        (place / "chain").rename(place / "damaged")
        (place / "chain").touch()
        for _ in range(runs):
            run(place, "other")
        before = (place / "chain").read_bytes()
        with closing(HostChain(opened, make=False)) as anew:
            with refuses(TraceError, Reason.FAILURE, place / "chain"):
                anew.end(start, 2, "0" * 64)
            (place / "chain").rename(place / "new")
            (place / "damaged").rename(place / "chain")
        assert (place / "new").read_bytes() == before
        with closing(HostChain(opened, make=False)) as chain:
            chain.end(start, 1, trace.header_digest)
    result = verify(str(place))
    assert (result.fault, [each for each in result.found if each.run is not None]) == (None, [])


def test_what_gc_removes_is_no_alarm(place: Path) -> None:
    old = run(place)
    os.utime(old, (0, 0))
    run(place, "db")
    assert collect(dict(os.environ), traces_older_than=3600).removed == (str(old),)
    result = verify(str(place))
    assert (found(result), result.is_good) == ([(Finding.REMOVED, 1)], True)


def test_a_dry_run_of_gc_tells_the_chain_nothing(place: Path) -> None:
    os.utime(run(place), (0, 0))
    before = (place / "chain").read_bytes()
    assert collect(dict(os.environ), traces_older_than=3600, dry_run=True).foreign == ()
    assert (place / "chain").read_bytes() == before


def test_a_trace_that_cannot_be_made_costs_its_number_and_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: Trace, _directory: PrivateDirectory, name: str) -> None:
        raise TraceError(f"{name}: no space", reason=Reason.FAILURE, hint="free some")

    with monkeypatch.context() as patched, closing(open_base(str(place))) as opened:
        patched.setattr(Trace, "create_in", full)
        with refuses(TraceError, Reason.FAILURE, "no space"):
            ChainedRun(opened, Trace("web", {}), "web")
    assert found(verify(str(place))) == [(Finding.LOST, 1)]
    run(place)
    result = verify(str(place))
    assert (found(result), result.runs, result.is_good) == ([(Finding.LOST, 1)], 2, True)
    assert [entry["event"] for entry in entries(place)] == ["start", "lost", "start", "end"]


@pytest.mark.parametrize("torn", [b"{", b'{"seq":4,"previous":"', b"x" * 5000])
def test_an_entry_that_was_written_in_part_is_cut_off(place: Path, torn: bytes) -> None:
    run(place), run(place)
    with (place / "chain").open("ab") as file:
        file.write(torn)
    assert verify(str(place)).is_good
    run(place)
    result = verify(str(place))
    assert (result.runs, result.found, result.is_good) == (3, (), True)


@pytest.mark.parametrize(
    "noise",
    [
        b"noise\n",
        b"[]\n",
        b"{}\n",
        b"\xff\n",
        b"x" * 9000,
        b"[" * 8000 + b"\n",
        b'{"seq":1e999,"event":"end","runs":1}\n',
        b'{"seq":1,"event":"start","runs":1,"trace":1}\n',
    ],
)
def test_a_chain_that_is_none_is_refused_and_left(place: Path, noise: bytes) -> None:
    (place / "chain").write_bytes(noise)
    with refuses(TraceError, Reason.FAILURE, place / "chain"):
        run(place)
    assert (place / "chain").read_bytes() == noise or noise == b"x" * 9000
    assert list(place.glob("*.jsonl")) == []


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_what_is_in_the_place_of_the_chain_is_refused(place: Path, private: Path, kind: str) -> None:
    path = place / "chain"
    if kind == "link":
        (private / "precious").write_text("precious")
        path.symlink_to(private / "precious")
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    with refuses(TraceError, Reason.FAILURE, path):
        run(place)
    if kind == "link":
        assert (private / "precious").read_text() == "precious"


def test_a_lock_that_is_kept_is_refused_after_a_while(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(place)
    monkeypatch.setattr(chain_module, "_TIMEOUT", 0.05)
    with (place / "chain").open("rb") as other:
        assert lock(other.fileno())
        with refuses(TraceError, Reason.FAILURE, place / "chain"):
            run(place)
    run(place)
    assert verify(str(place)).runs == 2


def append(place: Path, container_id: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", APPEND, str(place), container_id, str(count)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_runs_beside_each_other_have_numbers_of_their_own(place: Path) -> None:
    writers = [append(place, f"c{number}", 50) for number in range(4)]
    numbers = [int(number) for writer in writers for number in writer.communicate()[0].split()]
    assert sorted(numbers) == list(range(1, 201))
    result = verify(str(place))
    assert (result.runs, result.found, result.is_good) == (200, (), True)


def test_writers_that_are_killed_block_nobody_and_break_nothing(place: Path) -> None:
    for number in range(12):
        writer = append(place, f"c{number}", 100_000)
        assert writer.stdout is not None
        assert writer.stdout.readline()
        time.sleep(0.003 * number)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        run(place)
        result = verify(str(place))
        assert result.is_good, result
        assert {each.finding for each in result.found} <= {Finding.LOST, Finding.NO_END}


def test_no_descriptor_stays_open(place: Path) -> None:
    run(place)
    before = len(os.listdir("/proc/self/fd"))
    run(place)
    verify(str(place))
    with closing(open_base(str(place))) as opened, closing(HostChain(opened)) as chain:
        chain.removed("web")
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_command_says_what_is_missing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = run(place)
    run(place)
    assert main(["trace", "verify", "--host"]) == 0
    said = capsys.readouterr().out.split()
    gone.unlink()
    assert main(["trace", "verify", "--host", "--head", said[-1]]) == 1
    assert str(gone) in capsys.readouterr().out
    assert main(["trace", "verify", "--host", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["runs"], told["good"], [each["run"] for each in told["found"]]) == (2, False, [1])


@pytest.mark.parametrize(
    "arguments", [(), ("--head", "1:2"), ("--host", "--runs"), ("--head", f"1:{'0' * 64}", "f")]
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["trace", "verify", *arguments])
    assert ended.value.code == 2


def test_no_chain_is_a_refusal(place: Path) -> None:
    with refuses(HostError, Reason.NO_SUCH, place / "chain"):
        verify(str(place))
    with refuses(HostError, Reason.NO_SUCH, place.parent / "none"):
        verify(str(place.parent / "none"))
