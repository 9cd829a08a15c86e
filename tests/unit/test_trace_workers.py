"""Many workers give the answer of one: the same results in the same order, the same page, byte for byte."""

from __future__ import annotations

import json
import math
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audit import tally as tally_module
from engine.audit.fleet import fleet_page
from engine.audit.tally import Buckets, Durations, Kind, Run, Tally
from engine.errors import Reason
from engine.verify import chunks
from engine.verify.chunks import Chunk, split
from engine.verify.signature import Signers, sign
from engine.verify.signature import verify as verify_signed
from engine.verify.trace_check import Verdict, verify
from engine.verify.trace_file import MAX_LINE
from engine.verify.workers import DaskCluster, Processes, ThisProcess, Workers, WorkersError
from tests.support.refusals import check, one_line
from tests.support.stories import Story, mutate, save, written
from tests.unit.test_signature import new_key

MADE = re.compile(rb"on \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\.")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Some hundred runs in one file: good, cut, refused and wrong ones, lines too long, and what is no trace."""
    rng = random.Random(7)
    path = tmp_path / "archive.jsonl"
    with path.open("wb") as file:
        for number in range(120):
            story = Story.draw(rng)
            lines = story.lines(tmp_path / f"{number}")
            chosen = mutate(lines, rng, story) if number % 3 == 0 and len(lines) > 1 else written(lines)
            file.writelines(line + b"\n" for line in chosen)
            if number % 40 == 20:
                file.write(b"x" * (2 * MAX_LINE) + b"\n" + b"no trace\n")
        file.write(b'{"seq":0,"cut')
    return path


@pytest.fixture
def small_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few kilobytes are many chunks."""
    monkeypatch.setattr(chunks, "SIZE", 5000)
    monkeypatch.setattr(chunks, "FILES", 7)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Dask scheduler with two workers, each a process of its own."""
    distributed = pytest.importorskip("distributed", reason="needs the extra: pip install '.[fleet]'")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",  # any free port
    ) as made:
        yield made.scheduler_address


@pytest.fixture(params=["this process", "processes", "cluster"])
def workers(request: pytest.FixtureRequest) -> Workers:
    if request.param == "this process":
        return ThisProcess()
    return Processes(2) if request.param == "processes" else DaskCluster(request.getfixturevalue("cluster"))


def page(paths: list[str], **how: Any) -> bytes:
    return MADE.sub(b"", fleet_page(paths, signers=how.pop("signers", None), **how))


# -- the same answer -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_stretches")
def test_workers_answer_as_one_does(archive: Path, tmp_path: Path, workers: Workers) -> None:
    paths = [
        str(tmp_path / "missing"),
        str(archive),
        str(tmp_path),
        *(str(tmp_path / f"{number}") for number in range(20)),
        str(archive),
    ]
    assert len(list(split(paths, runs=True))) > 20
    for runs in (True, False):
        alone = list(verify(paths, runs=runs))
        shared = list(verify(paths, runs=runs, workers=workers))
        assert shared == alone
        assert [str(result) for result in shared] == [str(result) for result in alone]
        assert page(paths, runs=runs, workers=workers) == page(paths, runs=runs)
    assert {result.verdict for result in verify(paths, runs=True)} >= {
        Verdict.CONFORMS,
        Verdict.INCOMPLETE,
        Verdict.DIFFERS,
        Verdict.UNREADABLE,
    }


@pytest.mark.usefixtures("small_stretches")
def test_workers_check_signatures(private: Path, workers: Workers) -> None:
    key = new_key(private / "key")
    paths = [str(Story().write(private / f"t{number}.jsonl")) for number in range(10)]
    for path in paths[3:]:
        sign(path, str(key))
    Path(paths[5]).write_bytes(Path(paths[5]).read_bytes()[:-1])
    signers = Signers.of_key(f"{key}.pub")
    shared = list(verify_signed([*paths, "none"], signers, workers))
    assert shared == list(verify_signed([*paths, "none"], signers))
    assert [verified.is_good for verified in shared] == [*[False] * 3, True, True, False, *[True] * 4, False]
    assert page(paths, signers=signers, workers=workers) == page(paths, signers=signers)


@settings(max_examples=60, deadline=None)
@given(
    content=st.lists(
        st.sampled_from(
            (b'{"seq":0,"a":1}\n', b'{"seq":1}\n', b"\n", b'x{"seq":0,\n', b"y" * 90 + b"\n", b'{"seq":0,')
        )
    ).map(b"".join),
    size=st.integers(1, 200),
)
def test_wherever_a_file_is_cut_its_runs_stay_whole(
    content: bytes, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "file"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chunks, "SIZE", size)
        patched.setattr(chunks, "_LOOK", len(chunks._RUN))
        parts = list(split([str(path)], runs=True))
        pieces = []
        for part in parts:
            with part.open(str(path)) as file:
                pieces.append(file.read())
        assert b"".join(pieces) == content
        assert all(piece.startswith(b'{"seq":0,') for piece in pieces[1:])
        shared = list(verify([str(path)], runs=True, workers=ThisProcess()))
    assert shared == list(verify([str(path)], runs=True))


@pytest.mark.usefixtures("small_stretches")
def test_a_file_whose_runs_never_begin_is_one_stretch(tmp_path: Path) -> None:
    path = save(tmp_path / "long", [b"no run"] * 5000)
    assert len(list(split([str(path)], runs=True))) == 1
    (result,) = verify([str(path)], runs=True, workers=Processes(2))
    assert (result.verdict, result.fault and result.fault.line) == (Verdict.DIFFERS, 1)


@pytest.mark.usefixtures("small_stretches")
def test_the_first_bad_line_is_numbered_in_the_whole_file(tmp_path: Path) -> None:
    good = Story().lines(tmp_path / "good")
    bad = [dict(line) for line in good]
    bad[4]["seq"] = 9
    path = save(tmp_path / "many", written([*good * 40, *bad, *good * 3]))
    results = list(verify([str(path)], runs=True, workers=Processes(2)))
    (wrong,) = (result for result in results if result.verdict is Verdict.DIFFERS)
    assert (wrong.first_line, wrong.fault and wrong.fault.line) == (281, 285)
    shown = page([str(path)], runs=True, workers=Processes(2)).decode()
    assert wrong.fault is not None
    assert f"line 285: {wrong.fault.what}" in shown
    assert "many:281" in shown


@pytest.mark.usefixtures("small_stretches")
def test_replaced_file_gets_no_verdict(tmp_path: Path) -> None:
    path = tmp_path / "many"
    path.write_bytes(Story().write(tmp_path / "one").read_bytes() * 9)
    parts = list(split([str(path)], runs=True))
    (tmp_path / "other").write_bytes(path.read_bytes())
    (tmp_path / "other").rename(path)
    assert len(parts) > 1
    with pytest.raises(ValueError, match="it was replaced by another file"):
        parts[1].open(str(path))


def test_after_an_error_nothing_more_is_taken_of_that_file() -> None:
    answers = [("a", 0, "well", 7), ("a", 9, "broken", 3), ("a", 20, "well", 5), ("b", 0, "well", 1)]
    taken = list(chunks.in_order(answers, is_broken="broken".__eq__))
    assert taken == [("a", 0, "well"), ("a", 7, "broken"), ("b", 0, "well")]


def test_standard_input_is_read_here(tmp_path: Path) -> None:
    one = Story().write(tmp_path / "one")
    for jobs in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "engine", "trace", "verify", "--jobs", jobs, str(one), "-", str(one)],
            input=one.read_bytes(),
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert done.stdout.decode().splitlines() == [
            f"{one}: conforms: 7 lines, handed_off, end unknown",
            "-: conforms: 7 lines, handed_off, end unknown",
            f"{one}: conforms: 7 lines, handed_off, end unknown",
            "3 runs: 3 conforms",
        ]


# -- when workers fail -----------------------------------------------------------------------------------------------


def _end(_: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def test_a_process_that_is_killed_is_an_error_and_no_answer() -> None:
    with pytest.raises(WorkersError) as refusal:
        list(Processes(2).map(_end, range(9)))
    check(refusal.value, Reason.PROGRAM_FAILED)


_ASK = """
import sys
from engine.verify.workers import Processes
from tests.unit.test_trace_workers import tell
if __name__ == "__main__":
    print(list(Processes(2).map(tell, [sys.argv[1] + "/a", sys.argv[1] + "/b"])))
"""


def tell(path: str) -> None:
    """Write down which process this is, and then work for ever."""
    Path(f"{path}.part").write_text(str(os.getpid()))
    Path(f"{path}.part").rename(path)
    time.sleep(600)


def test_processes_end_with_the_one_that_asked(tmp_path: Path) -> None:
    asking = subprocess.Popen([sys.executable, "-c", _ASK, str(tmp_path)], stderr=subprocess.DEVNULL)
    places = tmp_path / "a", tmp_path / "b"
    deadline = time.monotonic() + 60
    while not all(place.exists() for place in places) and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = [os.pidfd_open(int(place.read_text())) for place in places]
    asking.kill()
    asking.wait()
    for worker in workers:
        waiting = select.poll()  # select(2) takes no descriptor from 1024 on
        waiting.register(worker, select.POLLIN)
        ended = waiting.poll(60_000)  # also where nobody reaps it, pidfd_open(2)
        os.close(worker)
        assert ended


def test_no_scheduler_is_one_line() -> None:
    pytest.importorskip("distributed", reason="needs the extra: pip install '.[fleet]'")
    for address in ("nowhere", "foo://a:1"):
        with pytest.raises(WorkersError) as refusal:
            list(verify(["/x"], workers=DaskCluster(address)))
        check(refusal.value, Reason.UNAVAILABLE)


def test_a_cluster_of_another_engine_is_not_asked(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = Story().write(tmp_path / "t")
    monkeypatch.setattr("engine.verify.workers.__version__", "0.0.0")
    with pytest.raises(WorkersError) as refusal:
        list(verify([str(trace)], workers=DaskCluster(cluster)))
    check(refusal.value, Reason.STALE, "0.0.0")


def test_what_a_worker_raises_is_told(cluster: str) -> None:
    with pytest.raises(WorkersError) as refusal:
        list(DaskCluster(cluster).map(_fail, [1]))
    check(refusal.value, Reason.PROGRAM_FAILED, "ZeroDivisionError")


def _fail(number: int) -> float:
    return number / 0


def test_a_missing_extra_is_one_line_with_the_hint(tmp_path: Path) -> None:
    arguments = ["trace", "verify", "--cluster", "tcp://127.0.0.1:1", str(tmp_path)]
    code = (
        "import sys; sys.modules['distributed'] = None\n"
        f"from engine.cli.main import main\nsys.exit(main({arguments!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert one_line(done.stderr).endswith("pip install 'gvisor-engine[fleet]'")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--jobs", "0", "/x"],
        ["--jobs", "2", "--cluster", "tcp://a:1", "/x"],
        ["--cluster", "tcp://a:1", "relative"],
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str]) -> None:
    for command in (["trace", "verify"], ["report", "--runs"]):
        done = subprocess.run(
            [sys.executable, "-m", "engine", *command, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr


# -- the tally: what is kept does not grow ---------------------------------------------------------------------------

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def run(number: int, *, apart: timedelta = timedelta(seconds=7), **changes: Any) -> Run:
    known: dict[str, Any] = {
        "path": "/t/a",
        "line": 7 * number + 1,
        "kind": Kind.RAN,
        "container": f"c{number}",
        "started": NOON + apart * number,
        "step": "",
        "fault": None,
        "reason": "",
        "what": "",
        "seconds": 0.1,
        "steps": (("stage", 1000 + number),),
        "signature": None,
    }
    return Run(**known | changes)


def part(*runs: Run) -> Tally:
    made = Tally()
    for each in runs:
        made.add(each)
    return made


def test_list_keeps_gravest_and_newest_and_counts_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally_module, "LISTED", 60)
    monkeypatch.setattr(chunks, "SIZE", 8000)
    good, bad = Story().write(tmp_path / "good"), Story(steps=1, end="refused").write(tmp_path / "bad")
    many = tmp_path / "many"
    many.write_bytes((good.read_bytes() * 9 + bad.read_bytes()) * 20)
    shown = page([str(many)], runs=True).decode()
    assert "50 of 200 runs are shown. The others need JavaScript" in shown
    assert "The list has the first 60 of them. The other 140 are counted above but not listed." in shown
    found = re.search(r'id="data">(.*?)</script>', shown, re.DOTALL)
    assert found is not None
    assert found[1].count('"refused"') == 20
    assert json.loads(found[1])["total"] == 200


def test_bars_cover_the_same_time_whatever_the_cell_width(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for days in (0.001, 1, 40, 700, 30_000):
        moments = [NOON + timedelta(days=days * number / 500) for number in range(500)]
        fine, coarse = Tally(), Tally()
        for cells, made in ((1 << 30, fine), (40, coarse)):
            monkeypatch.setattr(tally_module, "_CELLS", cells)
            for number, moment in enumerate(moments):
                made.merge(part(run(number, started=moment)), 0)
        buckets = fine.buckets()
        assert buckets is not None
        assert coarse.buckets() == buckets
        assert coarse.width >= fine.width
        over = [made.over_time(made.groups.values(), buckets) for made in (fine, coarse)]
        assert over[0] == over[1]
        assert over[0].total() == 500
        expected = (buckets.start + buckets.width * index for index in range(buckets.count))
        assert [over[0][index] for index in range(buckets.count)] == [
            sum(start <= moment.timestamp() < start + buckets.width for moment in moments)
            for start in expected
        ]


def test_cells_stay_few_over_any_span(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally_module, "_CELLS", 100)
    made = Tally()
    for number in range(5000):
        made.merge(part(run(number, apart=timedelta(minutes=61))), 0)
    assert len(made.groups[Kind.RAN, "", ""].cells) < 500


def test_bar_covers_whole_years_from_the_first_year_on() -> None:
    first, last = (int(datetime(year, 6, 1, tzinfo=UTC).timestamp()) for year in (1, 9999))
    buckets = Buckets.over(first, last)
    assert buckets.count <= 30
    assert buckets.width % (365 * 86400) == 0
    assert buckets.label(0) == "0001-01-01"


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=200), st.sampled_from((0.5, 0.95)))
def test_a_time_is_of_the_nearest_rank_to_three_digits(times: list[int], share: float) -> None:
    durations = Durations()
    for each in times:
        durations.add(each, "c")
    exact = sorted(times)[math.ceil(len(times) * share) - 1]
    assert durations.below(share) * 1e6 == pytest.approx(exact, rel=0.0051)
    assert exact >= 1000 or durations.below(share) == exact / 1e6
    assert durations.longest == (max(times), "c")


def test_refusals_of_one_step_and_reason_are_one_group() -> None:
    made = Tally()
    for number in range(50):
        reason = "noexec" if number % 5 else "failure"
        told = run(number, kind=Kind.REFUSED, step="stage", reason=reason, what=f"text {number}")
        made.merge(part(told), 0)
    found = {(step, reason): (group.count, group.example) for step, reason, group in made.refusals()}
    assert found == {("stage", "failure"): (10, "text 0"), ("stage", "noexec"): (40, "text 1")}


def test_tallies_of_parts_add_up_to_the_tally_of_all() -> None:
    rng = random.Random(3)
    runs = [
        run(
            number,
            kind=rng.choice(list(Kind)),
            step=rng.choice(("stage", "resolve")),
            started=rng.choice((None, NOON + timedelta(seconds=rng.randrange(10**6)))),
            reason=rng.choice(("", "alive", "failure")),
            what=f"it has {number} bytes",
        )
        for number in range(300)
    ]
    at_once, by_parts = part(*runs), Tally()
    for begin in range(0, 300, 37):
        by_parts.merge(part(*runs[begin : begin + 37]), 0)
    for made in (at_once, by_parts):
        made.forget_the_unlisted()
    assert by_parts == at_once


def test_chunk_that_is_not_of_the_file_is_refused(tmp_path: Path) -> None:
    path = Story().write(tmp_path / "t")
    with pytest.raises(ValueError, match="another file"):
        Chunk((str(path),), 5, None, inode=path.stat().st_ino + 1).open(str(path))


def test_the_memory_a_report_takes_does_not_grow(tmp_path: Path) -> None:
    one = Story().write(tmp_path / "one").read_bytes()
    figures = []
    for times in (6_000, 18_000):
        path = tmp_path / f"{times}"
        path.write_bytes(one * times)
        ran = subprocess.run(
            [sys.executable, "-c", _MEASURE, str(path)], check=True, capture_output=True, text=True
        )
        figures.append(int(ran.stdout))
    assert figures[1] - figures[0] < 8 << 10, figures


_MEASURE = """
import sys
from engine.audit import tally
from engine.audit.fleet import fleet_page
tally.LISTED = 1000
fleet_page(sys.argv[1:], signers=None, runs=True)
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""
