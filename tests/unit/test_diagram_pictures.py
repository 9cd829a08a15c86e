"""The committed pictures are of today's table and spec; whatever a trace says, it is drawn as text."""

from __future__ import annotations

import os
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from engine.audit.diagram import Subject, picture
from engine.audit.lifecycle_picture import lifecycle, lifecycle_svg
from engine.audit.picture import Format
from engine.audit.walk import DiagramError, Leg, Walk, read_walk
from engine.cli.main import main
from engine.errors import Reason
from engine.lifecycle.machine import LIFECYCLE, STEPS
from engine.spec.fold import is_current, load_fold
from engine.traces.move import State, Trigger
from engine.traces.schema import Refusal
from tests.support.refusals import one_line, refuses
from tests.support.stories import Story
from tools.make_diagrams import BY_HAND, DIAGRAMS, RUNS, pictures

HOSTILE = (
    '</text><script>alert(1)</script> --> ]]> &amp; "];evil->x[label=" \\N \\G\n\x1b[31m\u202e\ud800 <B>'
)
NAMES = [*map(str, Subject), *BY_HAND, *RUNS]


def walk(said: str = "why", doubt: str | None = None) -> Walk:
    legs = (
        Leg(State.START, Trigger.RESOLVE, State.RESOLVED, 0.0012),
        Leg(State.RESOLVED, Trigger.REFUSE, State.REFUSED, 0.002),
    )
    return Walk(said, said, said, legs, Refusal(said, said, said, said), doubt)


def text(svg: str) -> str:
    """The words of a picture, apart from the white space by which they are broken into lines."""
    return " ".join("".join(ET.fromstring(svg).itertext()).split())


# Another version of dot, or another font, places the same picture otherwise: what is compared is the text that dot
# was given, which is the same everywhere, and that the drawings carry its digest and show all of its words.
@pytest.mark.parametrize("name", NAMES)
def test_committed_picture_is_up_to_date(name: str) -> None:
    drawn = pictures()[name]
    stale = f"diagrams/{name} is stale: ./just diagrams"
    assert (DIAGRAMS / f"{name}.dot").read_text() == drawn.dot, stale
    svg = (DIAGRAMS / f"{name}.svg").read_text()
    assert ET.fromstring(svg).get("data-source-sha256") == drawn.digest, stale
    assert text(svg) == text(drawn.svg()), stale
    assert drawn.digest.encode() in (DIAGRAMS / f"{name}.png").read_bytes(), stale
    if drawn.mermaid is not None:
        assert (DIAGRAMS / f"{name}.mermaid").read_text() == drawn.mermaid, stale


def test_the_fold_is_of_todays_spec_and_model() -> None:
    assert is_current(load_fold()), "engine/spec/spec_fold.json is stale: ./just diagrams"


def test_the_runs_that_are_shown_hold_against_the_spec() -> None:
    assert [read_walk(str(DIAGRAMS / f"{name}.jsonl")).doubt for name in RUNS] == [None, None, None]


@pytest.mark.parametrize("form", [Format.SVG, Format.PNG, Format.PDF, Format.DOT])
def test_the_same_input_gives_the_same_bytes(form: Format) -> None:
    assert lifecycle(walk()).render(form) == lifecycle(walk()).render(form)


def test_every_edge_of_the_table_is_in_the_words_of_the_picture() -> None:
    for row in LIFECYCLE:
        for source in row.sources:
            assert f"{source} --{row.trigger}--> {row.target}" in lifecycle().description


def test_hostile_text_is_drawn_as_text() -> None:
    svg = lifecycle_svg(walk(HOSTILE, doubt=HOSTILE), name="one")
    harmless = lifecycle_svg(walk(), name="one")
    tags = {element.tag for element in ET.fromstring(svg).iter()}
    assert tags == {element.tag for element in ET.fromstring(harmless).iter()}
    assert "<script" not in svg
    assert "<script>alert(1)</script>" in text(svg)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", svg)
    drawn = lifecycle(walk(HOSTILE))
    assert drawn.render(Format.PNG).startswith(b"\x89PNG")
    assert "alert" not in (drawn.mermaid or "")


def test_a_picture_has_a_text_alternative_and_no_id_but_its_own() -> None:
    root = ET.fromstring(lifecycle_svg(name="two"))
    ids = {element.get("id") for element in root.iter()} - {None}
    assert root.get("role") == "img"
    assert set((root.get("aria-labelledby") or "").split()) == ids == {"two-title", "two-desc"}


def test_picture_shows_the_reason_and_what_is_not_verified() -> None:
    shown = text(lifecycle_svg(walk("too loose", doubt="line 3 is forged")))
    assert "refused in validate" in shown
    assert "✗ too loose: too loose" in shown
    assert "NOT VERIFIED: line 3 is forged." in shown


def test_an_edited_trace_is_drawn_as_not_verified(tmp_path: Path) -> None:
    edited = tmp_path / "edited.jsonl"
    edited.write_bytes((DIAGRAMS / "run-handed-off.jsonl").read_bytes().replace(b'"owner":0', b'"owner":1'))
    run = read_walk(str(edited))
    assert run.doubt is not None
    assert (run.bad_line, [leg.trigger for leg in run.legs]) == (3, [Trigger.RESOLVE])
    shown = text(lifecycle_svg(run))
    assert "not reliable from line 3 on" in shown
    assert "line 3 is bad" in shown
    assert "killed" not in shown
    assert "✓ validate" not in shown


@pytest.mark.parametrize("last", [False, True])
def test_after_the_bad_line_nothing_is_ticked_and_nothing_is_said_to_have_ended(
    tmp_path: Path, last: bool
) -> None:
    """Wherever the bad line is: a trace that goes on after the hand-off was not cut off by a kill."""
    content = (DIAGRAMS / "run-handed-off.jsonl").read_bytes()
    lines = content.splitlines(keepends=True)
    for at in range(1, len(lines)):
        edited = tmp_path / f"edited-{at}.jsonl"
        bad = lines[at].replace(b'"trigger":"', b'"trigger":"un')
        edited.write_bytes(b"".join([*lines[:at], bad, *([] if last else lines[at + 1 :])]))
        run = read_walk(str(edited))
        assert (run.bad_line, len(run.legs)) == (at + 1, at - 1)
        shown = text(lifecycle_svg(run))
        assert f"line {at + 1} is bad" in shown
        assert "killed" not in shown
        assert "handed off" not in shown
        ticked = [trigger for trigger in Trigger if f"✓ {trigger}" in shown]
        assert ticked == [leg.trigger for leg in run.legs]
    extra = tmp_path / "extra.jsonl"
    extra.write_bytes(content + lines[-1])
    shown = text(lifecycle_svg(read_walk(str(extra))))
    assert f"line {len(lines) + 1} is bad" in shown
    assert "✓ handed_off" not in shown


def test_what_is_drawn_and_what_is_verified_are_the_same_bytes(tmp_path: Path) -> None:
    """The file is opened once: nobody can replace it between a look at it and another."""
    trace, opened = Story().write(tmp_path / "trace"), []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and arguments[0] == str(trace):
            opened.append(arguments[0])

    sys.addaudithook(hook)
    assert read_walk(str(trace)).doubt is None
    assert len(opened) == 1


def test_a_killed_run_ends_where_its_trace_does() -> None:
    run = read_walk(str(DIAGRAMS / "run-killed.jsonl"))
    assert (run.state, run.is_over, run.stopped_in) == (State.ROOT_SECURED, False, State.ROOT_SECURED)
    assert "incomplete, it stopped in stage" in text(lifecycle_svg(run))


def test_an_execve_that_the_kernel_refused_is_not_shown_as_done() -> None:
    legs = [Leg(row.sources[0], row.trigger, row.target, 0.001) for row in STEPS]
    legs.append(Leg(STEPS[-1].sources[0], Trigger.REFUSE, State.REFUSED, 0.001))
    shown = text(
        lifecycle_svg(
            Walk("c", "0", "0", tuple(legs), Refusal("exec", "execve_refused", "noexec", "remount"), None)
        )
    )
    assert "✗ execve failed" in shown
    assert "✗ exec " in shown
    assert "✓ exec " not in shown


def test_binary_picture_is_not_written_to_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with pytest.raises(SystemExit) as stopped:
        main(["diagram", "--format", "png"])
    assert stopped.value.code == 2
    assert "--output" in capsys.readouterr().err


def test_a_forged_move_ends_the_picture(tmp_path: Path) -> None:
    forged = tmp_path / "forged.jsonl"
    lines = (DIAGRAMS / "run-handed-off.jsonl").read_bytes().splitlines(keepends=True)
    forged.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    run = read_walk(str(forged))
    assert [leg.trigger for leg in run.legs] == [Trigger.RESOLVE]
    assert run.doubt is not None
    assert "line 3" in run.doubt


@pytest.mark.parametrize("content", [b"", b"\xff\n", b"[]\n", b"{}\n", b"[" * 100_000, b'{"container":1}\n'])
def test_what_is_no_trace_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with refuses(DiagramError, Reason.MALFORMED):
        read_walk(str(path))


def test_the_command_writes_a_whole_file_or_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x.png"
    assert main(["diagram", "--output", str(target)]) == 0
    assert target.read_bytes() == picture(Subject.LIFECYCLE).render(Format.PNG)
    assert main(["diagram", "--output", str(tmp_path / "none" / "x.svg")]) == 125
    one_line(capsys.readouterr().err)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["diagram", "--output", str(tmp_path / "y.svg")]) == 125
    assert "dot is not installed; install graphviz" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["x.png"]


def test_without_its_library_the_command_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "graphviz", None)
    monkeypatch.setitem(sys.modules, "graphviz.quoting", None)
    assert main(["diagram", "--format", "dot"]) == 125
    assert "gvisor-engine[diagram]" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "arguments", [["spec", "--format", "mermaid"], ["steps", "--trace", "x"], ["--format", "jpeg"], ["other"]]
)
def test_wrong_usage_is_said_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["diagram", *arguments])
    assert stopped.value.code == 2
    one_line(capsys.readouterr().err)
