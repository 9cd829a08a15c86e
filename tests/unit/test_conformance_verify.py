"""`verify`: a trace that is cut, reordered, edited or forged is named at its first bad line."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.audit.walk import read_walk
from engine.lifecycle.machine import LIFECYCLE
from engine.lifecycle.spec_graph import spec_graph
from engine.traces.move import FORMAT, State, Trigger
from engine.traces.reader import BadLineError, read_header, read_record
from engine.verify.evidence import judge
from engine.verify.faults import FaultCode, all_codes
from engine.verify.trace_check import TraceResult, Verdict, verify
from engine.verify.trace_file import MAX_LINE
from tests.support.bundles import make_bundle
from tests.support.stories import Line, Story, as_they_are, retold, save, written
from tools import trace_fields

Edit = Callable[[list[Line]], object]

REFUSED_BY_THE_KERNEL = Story(end="refused")
ENDED = Story(end="ended", supervised=True)


def check(path: Path, *, runs: bool = False) -> TraceResult:
    (result,) = verify([str(path)], runs=runs)
    return result


@pytest.fixture
def good(tmp_path: Path) -> list[Line]:
    """The header and the six moves of a run that was handed off."""
    return Story().lines(tmp_path / "good")


# -- what the engine writes ------------------------------------------------------------------------------------------


def run_engine(private: Path, binary: Path, *options: str) -> Path:
    """A real run of the real engine; what it hands over to is a program that ends at once."""
    bundle = make_bundle(private / "bundle")
    trace = private / "trace.jsonl"
    command = [
        sys.executable,
        "-m",
        "engine",
        "run",
        str(bundle),
        "--runsc",
        str(binary),
        "--trace",
        str(trace),
    ]
    subprocess.run(
        [*command, *options],
        env={**os.environ, "ENGINE_ARTIFACT_BASE": str(private / "base")},
        check=False,
        capture_output=True,
        timeout=60,
    )
    return trace


def test_the_trace_of_a_real_run_conforms(private: Path, binary: Path) -> None:
    result = check(run_engine(private, binary))
    assert (result.verdict, result.records, result.state) == (Verdict.CONFORMS, 7, "handed_off")


@pytest.mark.parametrize(
    ("spoil", "options", "records"),
    [
        (lambda binary: binary.unlink(), (), 2),
        (lambda binary: binary.chmod(0o777), (), 3),
        (lambda binary: binary.chmod(0o755), ("--require-exec-policy",), 6),
    ],
)
def test_the_trace_of_a_real_run_that_was_refused_conforms(
    private: Path, binary: Path, spoil: Callable[[Path], None], options: tuple[str, ...], records: int
) -> None:
    spoil(binary)
    result = check(run_engine(private, binary, *options))
    assert (result.verdict, result.records, result.state) == (Verdict.CONFORMS, records, "refused")


def test_trace_of_a_killed_run_is_consistent_so_far(good: list[Line], tmp_path: Path) -> None:
    states = [line.get("next", "start") for line in good]
    for length in range(1, 7):
        result = check(save(tmp_path / "cut", written(good[:length])))
        assert (result.verdict, result.records) == (Verdict.INCOMPLETE, length)
        assert result.state == states[length - 1]
        for shown in (f"{tmp_path}/cut", str(Verdict.INCOMPLETE), str(length), str(result.state)):
            assert shown in str(result)


def test_refusal_may_follow_a_recorded_execve(tmp_path: Path) -> None:
    lines = REFUSED_BY_THE_KERNEL.lines(tmp_path / "trace")
    assert [line["next"] for line in lines[-2:]] == ["handed_off", "refused"]
    assert check(tmp_path / "trace").verdict is Verdict.CONFORMS


@pytest.mark.parametrize("name", ['quote"d', "new\nline", '","next":"refused', "\udcff", "ünï"])
def test_names_of_any_kind_confuse_no_line(tmp_path: Path, name: str) -> None:
    assert check(Story(name=name).write(tmp_path / "trace")).verdict is Verdict.CONFORMS


def test_earlier_trace_with_a_landlock_policy_conforms(tmp_path: Path) -> None:
    lines = Story(rootless=True, wanted=True, enforced=True).lines(tmp_path / "new")
    lines[0]["options"]["exec_policy"] = "landlock"
    lines[5]["facts"].update(
        mechanism="landlock", allowed=["/var/web/exec-allow"], open=["memfd", "allowed"], ids=None
    )
    result = check(save(tmp_path / "old", written(lines)))
    assert (result.verdict, result.state) == (Verdict.CONFORMS, "handed_off")


# -- the first bad line ----------------------------------------------------------------------------------------------


def put(number: int, name: str, value: Any) -> Edit:
    """Sets a field of the line `number`, counted from 0; `name` may be a path with dots."""

    def edit(lines: list[Line]) -> None:
        *path, last = name.split(".")
        place: Any = lines[number]
        for key in path:
            place = place[int(key)] if isinstance(place, list) else place[key]
        if isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value

    return edit


def remove(number: int, name: str) -> Edit:
    return lambda lines: lines[number].pop(name)


def swap(lines: list[Line]) -> None:
    lines[3], lines[4] = lines[4], lines[3]


def find_on_path(lines: list[Line]) -> None:
    lines[0]["options"]["runsc"] = None
    lines[1]["facts"]["found_by"] = "PATH"


def skip_validation(lines: list[Line]) -> None:
    """As a forger would, who numbers what is left anew."""
    del lines[2]
    for number, line in enumerate(lines):
        line["seq"] = number


@pytest.mark.parametrize(
    ("edit", "line", "code", "state"),
    [
        (lambda lines: lines.pop(3), 4, FaultCode.WRONG_SEQ, "validated"),
        (lambda lines: lines.insert(3, dict(lines[2])), 4, FaultCode.WRONG_SEQ, "validated"),
        (swap, 4, FaultCode.WRONG_SEQ, "validated"),
        (skip_validation, 3, FaultCode.NOT_AN_EDGE, "resolved"),
        (put(3, "seq", 7), 4, FaultCode.WRONG_SEQ, "validated"),
        (put(3, "seq", True), 4, FaultCode.NOT_OF_SCHEMA, "validated"),
        (put(3, "container", "other"), 4, FaultCode.OTHER_CONTAINER, "validated"),
        (put(3, "monotonic_ns", 1), 4, FaultCode.TIME_GOES_BACK, "validated"),
        (put(3, "monotonic_ns", None), 4, FaultCode.NOT_OF_SCHEMA, "validated"),
        (remove(3, "monotonic_ns"), 4, FaultCode.TIME_GOES_BACK, "validated"),
        (remove(0, "monotonic_ns"), 2, FaultCode.TIME_GOES_BACK, "start"),
        (put(3, "time", "yesterday"), 4, FaultCode.NOT_OF_SCHEMA, "validated"),
        (put(3, "time", "2999-01-01T00:00:00.000000"), 4, FaultCode.NOT_OF_SCHEMA, "validated"),
        (put(3, "time", "2999-01-01T00:00:00.000001+01:00"), 4, FaultCode.NOT_UTC, "validated"),
        (put(2, "state", "staged"), 3, FaultCode.NOT_AN_EDGE, "resolved"),
        (put(2, "next", "staged"), 3, FaultCode.NOT_AN_EDGE, "resolved"),
        (put(2, "trigger", "teleport"), 3, FaultCode.NOT_AN_EDGE, "resolved"),
        (put(2, "trigger", "stage"), 3, FaultCode.NOT_OF_SCHEMA, "resolved"),
        (
            put(2, "error", {"step": "s", "reason": "failure", "what": "w", "hint": "r"}),
            3,
            FaultCode.MISPLACED_ERROR,
            "resolved",
        ),
        (remove(2, "facts"), 3, FaultCode.NOT_OF_SCHEMA, "resolved"),
        (put(2, "more", 1), 3, FaultCode.NOT_OF_SCHEMA, "resolved"),
        (put(2, "facts.more", 1), 3, FaultCode.UNKNOWN_KEY, "resolved"),
        (put(2, "facts.identity.more", 1), 3, FaultCode.UNKNOWN_KEY, "resolved"),
        (put(3, "facts.directories.1.more", 1), 4, FaultCode.UNKNOWN_KEY, "validated"),
        (put(2, "facts", None), 3, FaultCode.NOT_OF_SCHEMA, "resolved"),
        (put(1, "facts.path", "runsc"), 2, "found_a_path", "start"),
        (find_on_path, 2, "path_is_not_roots", "start"),
        (put(1, "facts.found_by", "luck"), 2, FaultCode.NOT_OF_SCHEMA, "start"),
        (put(2, "facts.mode", "0777"), 3, "binary_is_trusted", "resolved"),
        (put(2, "facts.mode", "rwx"), 3, "binary_is_trusted", "resolved"),
        (put(2, "facts.owner", 12345), 3, "binary_is_trusted", "resolved"),
        (put(3, "facts.directories.3.mode", "0755"), 4, "root_is_private", "validated"),
        (put(3, "facts.directories", []), 4, "root_is_private", "validated"),
        (put(4, "facts.pinned.ctime_ns", 1), 5, "copy_is_what_was_pinned", "root_secured"),
        (put(5, "facts.outcome", "enforced"), 6, "policy_permits", "staged"),
        (put(5, "facts.outcome", "maybe"), 6, FaultCode.NOT_OF_SCHEMA, "staged"),
        (put(6, "facts.bundle.sha256", "0"), 7, FaultCode.NOT_OF_SCHEMA, "policy_settled"),
        (put(6, "facts.bundle.sha256", "0" * 64), 7, "bundle_is_unchanged", "policy_settled"),
        (put(6, "facts.argv.0", "/bin/sh"), 7, "executes_the_staged_copy", "policy_settled"),
        (put(6, "facts.argv", []), 7, "executes_the_staged_copy", "policy_settled"),
    ],
)
def test_first_bad_line_is_named_with_what_the_spec_allows(
    good: list[Line], tmp_path: Path, edit: Edit, line: int, code: str, state: str
) -> None:
    graph = spec_graph()
    edit(good)
    result = check(save(tmp_path / "bad", written(good)))
    assert (result.verdict, result.records, result.state) == (Verdict.DIFFERS, line - 1, state)
    assert result.fault is not None
    assert (result.fault.line, result.fault.code) == (line, code)
    assert result.fault.allowed is not None
    assert names_in(result.fault.allowed) == {*graph.edges[state], *graph.edges[state].values()}
    for shown in (f"{tmp_path}/bad", str(Verdict.DIFFERS), f"line {line}", result.fault.what):
        assert shown in str(result)


def names_in(text: str) -> set[str]:
    """The states and triggers that it names."""
    return set(re.findall(r"\w+", text)) & {*State, *Trigger}


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (lambda lines: lines.pop(0), FaultCode.NOT_OF_SCHEMA),
        (put(0, "seq", 1), FaultCode.WRONG_SEQ),
        (put(0, "format", FORMAT + 1), FaultCode.UNKNOWN_FORMAT),
        (remove(0, "host"), FaultCode.NOT_OF_SCHEMA),
        (put(0, "options.more", 1), FaultCode.UNKNOWN_KEY),
        (put(0, "options.rootless", "no"), FaultCode.NOT_OF_SCHEMA),
    ],
)
def test_trace_without_a_good_header_fails_at_line_1(
    good: list[Line], tmp_path: Path, edit: Edit, code: str
) -> None:
    edit(good)
    result = check(save(tmp_path / "bad", written(good)))
    assert result.fault is not None
    assert (result.verdict, result.fault.line, result.fault.code) == (Verdict.DIFFERS, 1, code)
    assert result.state is None


def test_a_trace_of_another_spec_is_said_to_be_one(good: list[Line], tmp_path: Path) -> None:
    good[0]["spec"] = "0" * 64
    result = check(save(tmp_path / "bad", written(good)))
    assert result.verdict is Verdict.OTHER_SPEC
    assert not result.verdict.is_good
    assert result.fault is not None
    assert result.fault.code == FaultCode.OTHER_SPEC
    assert spec_graph().spec in str(result)


@pytest.mark.parametrize(
    ("story", "named"),
    [
        (Story(), {State.POLICY_SETTLED, Trigger.REFUSE, State.REFUSED}),
        (Story(steps=2, end="refused"), {State.REFUSED}),
        (REFUSED_BY_THE_KERNEL, {State.REFUSED}),
        (ENDED, {State.ENDED}),
    ],
)
def test_nothing_comes_after_the_end(tmp_path: Path, story: Story, named: set[str]) -> None:
    lines = story.lines(tmp_path / "trace")
    again = [{**line, "seq": len(lines), "monotonic_ns": lines[-1]["monotonic_ns"]} for line in lines[1:]]
    for extra in again:
        if extra["trigger"] == "refuse" and extra["state"] == "policy_settled" and story.end == "handed_off":
            continue
        result = check(save(tmp_path / "more", written([*lines, extra])))
        assert result.fault is not None
        assert (result.fault.line, result.fault.code) == (len(lines) + 1, FaultCode.NOT_AN_EDGE)
        assert result.fault.allowed is not None
        assert names_in(result.fault.allowed) == named


@pytest.mark.parametrize("signal", [None, "SIGKILL"])
def test_a_supervised_run_conforms_with_its_end_and_without(tmp_path: Path, signal: str | None) -> None:
    lines = Story(end="ended", supervised=True, signal=signal).lines(tmp_path / "trace")
    result = check(save(tmp_path / "whole", written(lines)))
    assert (result.verdict, result.records, result.state) == (Verdict.CONFORMS, 8, "ended")
    result = check(save(tmp_path / "without", written(lines[:-1])))
    assert (result.verdict, result.state) == (Verdict.CONFORMS, "handed_off")
    assert "end unknown" in str(result)


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (put(7, "facts.signal", "SIGKILL"), "end_can_be_so"),
        (put(7, "facts.exit_code", None), "end_can_be_so"),
        (put(7, "facts.oom_counter", None), "end_can_be_so"),
        (put(7, "facts.oom", "unknown"), "end_can_be_so"),
        (put(7, "facts.oom", "perhaps"), FaultCode.NOT_OF_SCHEMA),
        (put(7, "facts.resources.max_rss_kib", -1), "end_can_be_so"),
        (put(7, "facts.duration_ns", 10**15), FaultCode.TIME_GOES_BACK),
        (lambda lines: lines[0]["options"].pop("supervise"), "is_supervised"),
        (lambda lines: lines[0]["asked"].pop("limits"), "end_can_be_so"),
        (lambda lines: lines[0]["asked"]["limits"].update({"memory.limit": -1}), "end_can_be_so"),
        (lambda lines: lines.pop(6), FaultCode.NOT_AN_EDGE),
        (lambda lines: lines.append({**lines[7], "seq": 8}), FaultCode.NOT_AN_EDGE),
    ],
)
def test_an_end_that_no_supervisor_wrote_is_refused(tmp_path: Path, edit: Edit, code: str) -> None:
    lines = ENDED.lines(tmp_path / "trace")
    edit(lines)
    for number, line in enumerate(lines):
        line["seq"] = number
    fault = check(save(tmp_path / "bad", written(lines))).fault
    assert fault is not None
    assert fault.code == code
    assert fault.line in (7, 8, 9)


def test_an_end_has_no_counter_where_there_are_no_cgroups(tmp_path: Path) -> None:
    lines = ENDED.lines(tmp_path / "trace")
    lines[0]["options"]["ignore_cgroups"] = True
    argv = lines[6]["facts"]["argv"]
    argv.insert(argv.index("--network"), "--ignore-cgroups")
    retold(lines)
    fault = check(save(tmp_path / "bad", written(lines))).fault
    assert fault is not None
    assert (fault.line, fault.code) == (8, "end_can_be_so")
    lines[7]["facts"] |= {"oom": "unknown", "oom_counter": None}
    assert check(save(tmp_path / "good", written(lines))).verdict is Verdict.CONFORMS


def test_only_a_refusal_from_where_it_was_may_follow_a_hand_off(good: list[Line], tmp_path: Path) -> None:
    refusal = REFUSED_BY_THE_KERNEL.lines(tmp_path / "other")[-1]
    refusal["time"] = "2999-01-01T00:00:00.000001Z"
    assert check(save(tmp_path / "trace", written([*good, refusal]))).verdict is Verdict.CONFORMS
    for state in ("handed_off", "staged"):
        lines = written([*good, {**refusal, "state": state}])
        assert check(save(tmp_path / "trace", lines)).verdict is Verdict.DIFFERS


def test_clock_that_is_set_back_within_a_run_does_not_make_it_differ(
    good: list[Line], tmp_path: Path
) -> None:
    good[3]["time"] = "2001-01-01T00:00:00.000000Z"
    assert check(save(tmp_path / "trace", written(good))).verdict is Verdict.CONFORMS
    judged = judge("trace", (tmp_path / "trace").read_bytes(), spec_graph())
    assert all(moment.seconds >= 0 for moment in judged.moments)
    assert all(leg.seconds >= 0 for leg in read_walk(str(tmp_path / "trace")).legs)
    assert read_walk(str(tmp_path / "trace")).doubt is None


def test_without_monotonic_time_the_wall_clock_must_not_go_back(good: list[Line], tmp_path: Path) -> None:
    for line in good:
        del line["monotonic_ns"]
    assert check(save(tmp_path / "trace", written(good))).verdict is Verdict.CONFORMS
    good[3]["time"] = "2001-01-01T00:00:00.000000Z"
    fault = check(save(tmp_path / "trace", written(good))).fault
    assert fault is not None
    assert (fault.line, fault.code) == (4, FaultCode.TIME_GOES_BACK)


def test_the_page_has_every_code() -> None:
    assert {code for code, _ in trace_fields.faults()} == set(all_codes())


def test_no_code_is_the_name_of_a_guard() -> None:
    guards = {guard.name for row in LIFECYCLE for guard in row.guards}
    assert len(set(all_codes())) == len(all_codes())
    assert not guards & set(all_codes())


# -- the chain -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edited", range(6))
def test_edited_line_breaks_the_chain_at_the_next(good: list[Line], tmp_path: Path, edited: int) -> None:
    good[edited]["time"] = good[edited]["time"].replace("Z", "+00:00")
    result = check(save(tmp_path / "bad", as_they_are(good)))
    assert result.fault is not None
    assert (result.fault.line, result.fault.code) == (edited + 2, FaultCode.BROKEN_CHAIN)


@pytest.mark.parametrize("cut", range(1, 7))
def test_removed_line_is_noticed_after_renumbering(tmp_path: Path, cut: int) -> None:
    """Where it is the execve's, the refusal that follows is still an edge: only the chain tells."""
    lines = REFUSED_BY_THE_KERNEL.lines(tmp_path / "trace")
    del lines[cut]
    for number, line in enumerate(lines):
        line["seq"] = number
    result = check(save(tmp_path / "trace", as_they_are(lines)))
    assert (result.verdict, result.records) == (Verdict.DIFFERS, cut)
    assert result.fault is not None
    assert result.fault.code == FaultCode.BROKEN_CHAIN


def test_a_header_has_nothing_before_it(good: list[Line], tmp_path: Path) -> None:
    good[0]["previous"] = "00" * 32
    result = check(save(tmp_path / "bad", as_they_are(good)))
    assert result.fault is not None
    assert (result.fault.line, result.fault.code) == (1, FaultCode.NOT_OF_SCHEMA)
    assert "$.previous" in result.fault.what


def test_cut_end_or_edited_last_line_keeps_the_chain(good: list[Line], tmp_path: Path) -> None:
    """Documented: against these, only a signature helps."""
    assert check(save(tmp_path / "cut", as_they_are(good[:5]))).verdict is Verdict.INCOMPLETE
    good[-1]["time"] = "2999-01-01T00:00:00.000000Z"
    assert check(save(tmp_path / "edited", as_they_are(good))).verdict is Verdict.CONFORMS


# -- lines that are no lines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"", FaultCode.NOT_JSON),
        (b"{", FaultCode.NOT_JSON),
        (b"[]", FaultCode.NOT_AN_OBJECT),
        (b'{"seq":1}{"seq":1}', FaultCode.NOT_JSON),
        (b'{"seq":1,"\xff":1}', FaultCode.NOT_JSON),
        (b'\xef\xbb\xbf{"seq":1}', FaultCode.NOT_JSON),
        (b'{"seq":NaN}', FaultCode.AMBIGUOUS_JSON),
        (b'{"seq":1,"seq":1}', FaultCode.AMBIGUOUS_JSON),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, FaultCode.NOT_JSON),
        (b'{"seq":' + b"9" * 5000 + b"}", FaultCode.AMBIGUOUS_JSON),
    ],
)
@pytest.mark.parametrize("number", [0, 2])
def test_what_is_no_object_of_json_is_said_to_be_none(
    good: list[Line], tmp_path: Path, line: bytes, code: str, number: int
) -> None:
    lines = written(good)
    lines[number] = line
    result = check(save(tmp_path / "bad", lines))
    assert result.fault is not None
    assert (result.fault.line, result.fault.code) == (number + 1, code)
    assert len(str(result)) < 1000


@pytest.mark.parametrize("twin", [b'"next":"staged",', b'"facts":{},', b'"seq":2,'])
def test_key_given_twice_is_refused(good: list[Line], tmp_path: Path, twin: bytes) -> None:
    lines = written(good)
    lines[2] = b"{" + twin + lines[2][1:]
    result = check(save(tmp_path / "bad", lines))
    assert result.fault is not None
    assert (result.fault.line, result.fault.code) == (3, FaultCode.AMBIGUOUS_JSON)


def test_a_line_may_be_spaced_and_ordered_as_json_allows(good: list[Line], tmp_path: Path) -> None:
    lines = written(good, lambda line: json.dumps(dict(sorted(line.items()))).encode())
    assert check(save(tmp_path / "trace", lines)).verdict is Verdict.CONFORMS


def test_a_last_line_without_an_end_was_cut(good: list[Line], tmp_path: Path) -> None:
    path = save(tmp_path / "cut", written(good))
    path.write_bytes(path.read_bytes()[:-1])
    result = check(path)
    assert result.fault is not None
    assert (result.fault.line, result.fault.code, result.records) == (7, FaultCode.CUT, 6)


def test_an_empty_file_is_no_trace(tmp_path: Path) -> None:
    result = check(save(tmp_path / "empty", []))
    assert result.fault is not None
    assert (result.verdict, result.fault.line, result.fault.code) == (Verdict.DIFFERS, 1, FaultCode.EMPTY)


@pytest.mark.parametrize("newline", [b"", b"\n"])
@pytest.mark.parametrize("more", [-60, -1, 0, 1, 100_000])
def test_a_line_of_hostile_length_is_refused_wherever_it_falls(
    good: list[Line], tmp_path: Path, newline: bytes, more: int
) -> None:
    head = b'{"seq":2,"pad":"'
    line = head + b"x" * (MAX_LINE + more - len(head) - 2) + b'"}'
    path = tmp_path / "long"
    path.write_bytes(b"\n".join(written(good)[:2]) + b"\n" + line + newline)
    result = check(path)
    assert result.fault is not None
    expected = FaultCode.TOO_LONG if more > 0 else FaultCode.NOT_OF_SCHEMA if newline else FaultCode.CUT
    assert (result.fault.line, result.fault.code) == (3, expected)


@pytest.mark.parametrize(
    ("make", "number"),
    [
        (lambda path: None, errno.ENOENT),
        (lambda path: path.symlink_to(path), errno.ELOOP),
    ],
)
def test_what_cannot_be_read_is_told_apart_from_what_is_wrong(
    tmp_path: Path, make: Callable[[Path], None], number: int
) -> None:
    make(tmp_path / "trace")
    result = check(tmp_path / "trace")
    assert (result.verdict, result.fault) == (Verdict.UNREADABLE, None)
    assert result.why is not None
    assert os.strerror(number) in result.why
    for shown in (f"{tmp_path}/trace", str(Verdict.UNREADABLE), result.why):
        assert shown in str(result)


def test_a_name_that_no_file_can_have_is_unreadable() -> None:
    (result,) = verify(["a\0b"])
    assert result.verdict is Verdict.UNREADABLE
    assert "\0" not in str(result)


def test_what_is_no_regular_file_is_named_and_not_opened(tmp_path: Path) -> None:
    """A FIFO nobody writes to would be waited for, and a device such as a watchdog acts on being opened."""
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    for path, kind in (
        (tmp_path / "fifo", "a FIFO"),
        (tmp_path / "socket", "a socket"),
        (tmp_path, "a directory"),
        (Path("/dev/zero"), "a character device"),
    ):
        result = check(path)
        assert (result.path, result.verdict) == (str(path), Verdict.UNREADABLE)
        assert result.why is not None
        assert kind in result.why


# -- many ------------------------------------------------------------------------------------------------------------


def test_each_run_in_a_file_of_many_is_judged_by_itself(good: list[Line], tmp_path: Path) -> None:
    bad = [dict(line) for line in good]
    bad[2]["next"] = "staged"
    refused = Story(steps=1, end="refused").lines(tmp_path / "refused")
    many = save(tmp_path / "many", written([*good, *bad, *refused, *good[:3], *good]))
    found = list(verify([str(many), str(tmp_path / "good")], runs=True))
    assert [(result.first_line, result.records, result.verdict) for result in found] == [
        (1, 7, Verdict.CONFORMS),
        (8, 2, Verdict.DIFFERS),
        (15, 3, Verdict.CONFORMS),
        (18, 3, Verdict.INCOMPLETE),
        (21, 7, Verdict.CONFORMS),
        (1, 7, Verdict.CONFORMS),
    ]
    fault = found[1].fault
    assert fault is not None
    assert (fault.line, fault.code) == (10, FaultCode.NOT_AN_EDGE)
    for shown in (f"{many}:8", str(Verdict.DIFFERS), "line 10"):
        assert shown in str(found[1])


def test_a_file_of_many_runs_must_be_asked_for_as_one(good: list[Line], tmp_path: Path) -> None:
    result = check(save(tmp_path / "many", written([*good, *good])))
    assert result.fault is not None
    assert (result.fault.line, result.fault.code) == (8, FaultCode.WRONG_SEQ)
    assert "--runs" in result.fault.what


def test_a_line_without_end_hides_no_run_after_it(good: list[Line], tmp_path: Path) -> None:
    path = tmp_path / "many"
    path.write_bytes(
        b"".join(line + b"\n" for line in [*written(good), b"x" * (3 * MAX_LINE), *written(good)])
    )
    found = list(verify([str(path)], runs=True))
    assert [(result.first_line, result.verdict) for result in found] == [
        (1, Verdict.DIFFERS),
        (9, Verdict.CONFORMS),
    ]


def test_the_last_of_many_runs_can_be_cut(good: list[Line], tmp_path: Path) -> None:
    path = save(tmp_path / "many", written([*good, *good]))
    path.write_bytes(path.read_bytes()[:-9])
    first, last = verify([str(path)], runs=True)
    assert (first.verdict, last.verdict) == (Verdict.CONFORMS, Verdict.DIFFERS)
    assert last.fault is not None
    assert (last.fault.line, last.fault.code) == (14, FaultCode.CUT)


#: The peak of this program's own memory, proc(5); getrusage(2) would count that of the process it was forked from.
_MEASURE = """
import sys
from engine.verify.trace_check import verify
found = sum(result.verdict == "conforms" for result in verify(sys.argv[1:], runs=True))
with open("/proc/self/status") as status:
    print(found, next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def test_a_long_file_takes_no_more_memory_than_a_short_one(good: list[Line], tmp_path: Path) -> None:
    one = b"".join(line + b"\n" for line in written(good))
    figures = []
    for times in (10, 10_000):
        path = tmp_path / f"{times}"
        path.write_bytes(one * times)
        ran = subprocess.run(
            [sys.executable, "-c", _MEASURE, str(path)],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        found, kibibytes = map(int, ran.stdout.split())
        assert found == times
        figures.append(kibibytes)
    assert len(one) * 10_000 > 25 << 20
    assert figures[1] - figures[0] < 4 << 10, figures


def test_a_run_does_not_pay_for_the_checker() -> None:
    asked = "import sys, engine.cli, engine.lifecycle.runner; print('msgspec' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True)
    assert ran.stdout == "False\n"


# -- the two readings of a line --------------------------------------------------------------------------------------


def _read(read: Callable[[bytes], Any], line: bytes) -> Any:
    try:
        return read(line)
    except BadLineError:
        return None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fast_and_careful_reading_of_a_line_agree(good: list[Line], data: st.DataObject) -> None:
    """A space behind a line is nothing to JSON, but no line of the engine has one: it is read with care."""
    number = data.draw(st.integers(0, len(good) - 1))
    line = bytearray(written(good)[number])
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(line) - 1))
        piece = data.draw(
            st.sampled_from([b"", b'"', b",", b"0", b"\\", b":1,", b"1.0", b'"seq":3,', b"\xc3", b" "])
        )
        line[at : at + data.draw(st.integers(0, 2))] = piece
    read = read_record if number else read_header
    text = bytes(line).rstrip(b" ")
    assert _read(read, text) == _read(read, text + b" ")


#: Verifies files, and tells whether the careful reading was needed: it is imported for its first line.
_READ = """
import sys
from engine.traces import reader
from engine.verify.trace_check import verify
careful, read_object = [], reader._read_object
reader._read_object = lambda line: careful.append(line) or read_object(line)
good = all(result.verdict == "conforms" for result in verify(sys.argv[1:]))
print(good, bool(careful))
"""


def test_every_story_is_read_fast(tmp_path: Path) -> None:
    """Only lines with escaped names, or of the very start of a second, need the careful reading."""
    paths = []
    for number, story in enumerate(
        (Story(), Story(rootless=True, enforced=True), REFUSED_BY_THE_KERNEL, ENDED)
    ):
        lines = story.lines(tmp_path / str(number))
        for line in lines:
            line["time"] = "2026-11-24T00:47:27.888547Z"
            if line.get("error"):
                line["error"]["what"] = "full"
        paths.append(save(tmp_path / f"fast-{number}", written(lines)))
    spaced = save(tmp_path / "spaced", written(lines, lambda line: json.dumps(line).encode()))
    for files, is_careful in ((paths, False), ([spaced], True)):
        ran = subprocess.run(
            [sys.executable, "-c", _READ, *map(str, files)], check=True, capture_output=True, text=True
        )
        assert ran.stdout.split() == ["True", str(is_careful)]


# -- the command -----------------------------------------------------------------------------------------------------


def command(*arguments: str | Path, given: bytes = b"") -> tuple[int, list[str]]:
    """The exit code of `engine trace verify` and what it says, after which it says nothing on stderr."""
    ran = subprocess.run(
        [sys.executable, "-m", "engine", "trace", "verify", *map(str, arguments)],
        input=given,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert ran.stderr == b""
    return ran.returncode, ran.stdout.decode().splitlines()


@pytest.fixture
def files(good: list[Line], tmp_path: Path) -> dict[str, Path]:
    edited = [dict(line) for line in good]
    edited[2]["next"] = "staged"
    return {
        "good": save(tmp_path / "conforms", written(good)),
        "cut": save(tmp_path / "incomplete", written(good[:4])),
        "bad": save(tmp_path / "differs", written(edited)),
        "none": tmp_path / "missing",
    }


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (("good",), 0),
        (("good", "cut"), 0),
        (("good", "cut", "--complete"), 1),
        (("good", "bad"), 1),
        (("good", "none"), 3),
        (("none", "bad", "good"), 1),
    ],
)
def test_the_exit_code_tells_what_was_found(
    files: dict[str, Path], given: tuple[str, ...], code: int
) -> None:
    assert command(*(files.get(name, name) for name in given))[0] == code


def test_each_run_is_a_line_and_many_are_counted(files: dict[str, Path]) -> None:
    _, said = command(*files.values())
    *each, counted = said
    assert each == [str(result) for result in verify([str(path) for path in files.values()])]
    verdicts = (Verdict.CONFORMS, Verdict.INCOMPLETE, Verdict.DIFFERS, Verdict.UNREADABLE)
    for shown in (f"{len(each)} runs", *(f"1 {verdict}" for verdict in verdicts)):
        assert shown in counted


def test_as_json_each_run_is_an_object_on_a_line(files: dict[str, Path]) -> None:
    code, said = command("--json", files["good"], files["bad"])
    assert code == 1
    good, bad = map(json.loads, said)
    assert (good["verdict"], good["fault"], good["records"]) == ("conforms", None, 7)
    assert bad["path"] == str(files["bad"])
    assert bad["fault"].keys() == {"line", "code", "what", "allowed"}
    assert (bad["fault"]["line"], bad["fault"]["code"]) == (3, FaultCode.NOT_AN_EDGE)


def test_many_runs_can_be_piped_in(files: dict[str, Path]) -> None:
    many = files["good"].read_bytes() * 2
    code, said = command("--json", "--runs", "-", given=many)
    assert code == 0
    runs = [json.loads(line) for line in said]
    assert [(run["path"], run["first_line"], run["records"], run["verdict"]) for run in runs] == [
        ("-", 1, 7, Verdict.CONFORMS),
        ("-", 8, 7, Verdict.CONFORMS),
    ]
    assert command("-", given=many)[0] == 1


def test_hostile_text_is_shown_printable(good: list[Line], tmp_path: Path) -> None:
    good[2]["state"] = "\x1b[2J\nfine: conforms"
    code, said = command(save(tmp_path / "a\nb", written(good)))
    assert code == 1
    assert len(said) == 1
    assert "\x1b" not in said[0]
