"""The trace: one JSON object a line, in order, written at once, never over something else."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from engine.errors import Reason, TraceError
from engine.linux.files import make_private_directory, open_trusted
from engine.traces.move import Move, State, Trigger
from engine.traces.writer import Trace
from tests.support.refusals import refuses

MOVE = Move(State.START, Trigger.RESOLVE, State.RESOLVED, {"path": "/usr/bin/runsc"})


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_header_comes_first_and_each_move_is_a_line(private: Path) -> None:
    trace = Trace("web", {"engine": "1"})
    trace.create(str(private / "trace"))
    trace.move(MOVE)
    header, move = lines(private / "trace")
    assert header == {
        **header,
        "seq": 0,
        "container": "web",
        "previous": None,
        "format": 3,
        "engine": "1",
    }
    assert list(move) == [
        *(
            "seq",
            "time",
            "monotonic_ns",
            "container",
            "previous",
            "state",
            "trigger",
            "next",
            "facts",
            "error",
        )
    ]
    assert int(str(header["monotonic_ns"])) <= int(str(move["monotonic_ns"]))
    assert (move["seq"], move["state"], move["trigger"], move["next"]) == (1, "start", "resolve", "resolved")
    assert (move["facts"], move["error"]) == ({"path": "/usr/bin/runsc"}, None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", str(move["time"]))


def test_moves_before_the_file_exists_are_written_with_it(private: Path) -> None:
    trace = Trace("web", {})
    trace.move(MOVE)
    container = make_private_directory(
        open_trusted(str(private), {0, private.stat().st_uid}, follow_links=False).descriptor,
        str(private),
        "c",
    )
    trace.create_in(container)
    assert trace.path is not None
    assert [line["seq"] for line in lines(Path(trace.path))] == [0, 1]
    assert re.fullmatch(r"web-\d{8}T\d{6}Z-[0-9a-f]{8}\.jsonl", Path(trace.path).name)
    place = trace.path
    trace.create_in(container)
    assert trace.path == place


def test_the_error_of_a_refusal_stands_beside_its_facts(private: Path) -> None:
    trace = Trace("web", {})
    trace.create(str(private / "trace"))
    error = {"step": "resolve", "reason": "failure", "what": "w", "hint": "r"}
    trace.move(Move(State.START, Trigger.REFUSE, State.REFUSED, {"cleaned": [], "error": error}))
    assert lines(private / "trace")[1]["error"] == error
    assert lines(private / "trace")[1]["facts"] == {"cleaned": []}


def is_chained(path: Path) -> bool:
    """Whether each line carries what `sha256sum` says of the line before it."""
    written = path.read_bytes().splitlines(keepends=True)
    digests = [hashlib.sha256(line).hexdigest() for line in written]
    return [json.loads(line)["previous"] for line in written] == [None, *digests[:-1]]


def test_each_line_carries_the_digest_of_the_line_before_it(private: Path) -> None:
    trace = Trace("web", {"engine": "1"})
    trace.move(MOVE)
    trace.create(str(private / "trace"))
    trace.move(Move(State.RESOLVED, Trigger.REFUSE, State.REFUSED, {"left": ["ü\udcff"]}))
    assert is_chained(private / "trace")


def test_only_its_owner_can_read_it(private: Path) -> None:
    Trace("web", {}).create(str(private / "trace"))
    assert (private / "trace").stat().st_mode & 0o7777 == 0o600


def test_it_never_replaces_a_file_or_follows_a_link(private: Path) -> None:
    (private / "old").write_text("precious")
    (private / "link").symlink_to("new")
    for name in ("old", "link"):
        with refuses(TraceError, Reason.EXISTS):
            Trace("web", {}).create(str(private / name))
    assert (private / "old").read_text() == "precious"
    assert not (private / "new").exists()


@pytest.mark.parametrize("path", ["/no/such/directory/trace", "/proc/trace", "", "/tmp/\0"])
def test_a_place_that_cannot_be_written_is_refused(path: str) -> None:
    with refuses(TraceError, Reason.FAILURE):
        Trace("web", {}).create(path)


@contextlib.contextmanager
def at_most(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes: what does not fit is written in part, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_line_that_does_not_fit_leaves_its_number_to_the_next(private: Path) -> None:
    trace = Trace("web", {})
    trace.create(str(private / "trace"))
    size = (private / "trace").stat().st_size
    with at_most(size + 20), refuses(TraceError, Reason.FAILURE, "File too large"):
        trace.move(MOVE)
    assert (private / "trace").stat().st_size == size
    trace.move(Move(State.START, Trigger.REFUSE, State.REFUSED, {}))
    assert [line["seq"] for line in lines(private / "trace")] == [0, 1]
    assert is_chained(private / "trace")


def test_a_file_that_cannot_take_the_header_is_not_left(private: Path) -> None:
    trace = Trace("web", {})
    with at_most(10), refuses(TraceError, Reason.FAILURE, "File too large"):
        trace.create(str(private / "trace"))
    assert list(private.iterdir()) == []
    trace.create(str(private / "trace"))
    assert [line["seq"] for line in lines(private / "trace")] == [0]


def test_torn_line_that_cannot_be_cut_leaves_the_next_whole(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = Trace("web", {})
    trace.create(str(private / "trace"))
    size = (private / "trace").stat().st_size
    with at_most(size + 20), monkeypatch.context() as dying:
        dying.setattr("os.ftruncate", _dies)
        with refuses(TraceError, Reason.FAILURE, "File too large"):
            trace.move(MOVE)
        with refuses(TraceError, Reason.FAILURE, "Input/output error"):
            trace.move(MOVE)
    assert (private / "trace").stat().st_size == size + 20
    trace.move(Move(State.START, Trigger.REFUSE, State.REFUSED, {}))
    assert [line["seq"] for line in lines(private / "trace")] == [0, 1]


def test_trace_that_cannot_be_removed_is_refused_in_one_line(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.unlink", _dies)
    with at_most(10), refuses(TraceError, Reason.FAILURE, "File too large"):
        Trace("web", {}).create(str(private / "trace"))


def test_closed_trace_has_no_file_and_can_be_closed_again(private: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    trace = Trace("web", {})
    trace.close()
    trace.create(str(private / "trace"))
    trace.close()
    trace.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert len(lines(private / "trace")) == 1


def test_a_close_that_fails_is_told_and_leaves_nothing_open(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS says so when it could not keep what was written, close(2)."""
    before = sorted(os.listdir("/proc/self/fd"))
    trace = Trace("web", {})
    trace.create(str(private / "trace"))
    real = os.close

    def close(descriptor: int) -> NoReturn:
        real(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", close)
        with pytest.raises(TraceError) as refusal:
            trace.close()
    assert refusal.value.reason == Reason.FAILURE
    assert str(private / "trace") in refusal.value.what
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_trace_whose_file_has_no_readable_name_is_lost(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = Trace("web", {})
    trace.create(str(private / "trace"))
    with monkeypatch.context() as dying:
        dying.setattr("os.fstat", _dies)
        lost = trace.is_lost
    assert lost


def _dies(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_trace_that_somebody_removed_is_known_to_be_lost(private: Path) -> None:
    trace = Trace("web", {})
    seen = [trace.is_lost]
    trace.create(str(private / "trace"))
    seen.append(trace.is_lost)
    (private / "trace").unlink()
    assert [*seen, trace.is_lost] == [True, False, True]


def test_names_from_outside_cannot_break_a_line(private: Path) -> None:
    trace = Trace("web", {})
    trace.create(str(private / "trace"))
    hostile = 'a\n{"seq":9}\u2028\ud800\x1b[2J'
    trace.move(Move(State.START, Trigger.RESOLVE, State.RESOLVED, {"path": hostile}))
    assert (private / "trace").read_bytes().count(b"\n") == 2
    assert lines(private / "trace")[1]["facts"] == {"path": hostile}
