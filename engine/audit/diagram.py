"""The lifecycle, its steps, the spec's folded graph and one run over it, drawn from the table that runs.

Each picture is first DOT text, which is the same everywhere for the same input; Graphviz makes the rest of it.
Text that comes from a trace is made printable and escaped before it gets into any of them.
"""

from __future__ import annotations

import hashlib
import html
import os
import re
import struct
import subprocess
import tempfile
import textwrap
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from engine import __version__
from engine.audit.svg import Colour, finish
from engine.audit.walk import DiagramError, Walk, read_walk
from engine.errors import Reason, hint_for, printable
from engine.lifecycle.machine import LIFECYCLE, TERMINAL, State, Transition, Trigger
from engine.lifecycle.spec_files import spec_digest
from engine.spec.fold import Actor, Fold, load_fold

__all__ = [
    "Format",
    "Picture",
    "Subject",
    "lifecycle",
    "lifecycle_svg",
    "mermaid",
    "read_walk",
    "spec",
    "steps",
]

STEPS: tuple[Transition, ...] = tuple(row for row in LIFECYCLE if row.trigger is not Trigger.REFUSE)
_FONT = "DejaVu Sans"
_SECONDS = 60
#: When a PDF was made, which cairo writes into it.
_DATE = re.compile(rb"/CreationDate \(D:[^)]*\)")
#: Longer texts of a trace are cut; the trace has them whole.
_LONGEST = 400


class Subject(StrEnum):
    """What there is a picture of."""

    LIFECYCLE = "lifecycle"
    STEPS = "steps"
    SPEC = "spec"


class Format(StrEnum):
    """What a picture can be had as."""

    SVG = "svg"
    PNG = "png"
    PDF = "pdf"
    DOT = "dot"
    MERMAID = "mermaid"

    @property
    def is_binary(self) -> bool:
        return self in {Format.PNG, Format.PDF}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture: its `dot` text, and in words what it shows. `name` begins the ids of its SVG."""

    name: str
    title: str
    description: str
    dot: str
    mermaid: str | None = None

    @property
    def digest(self) -> str:
        """The SHA-256 of the DOT text, which its SVG and PNG carry: they are stale when it differs."""
        return hashlib.sha256(self.dot.encode()).hexdigest()

    def svg(self) -> str:
        """One `<svg>` element without an XML declaration, fit for a page of HTML. Raises `DiagramError`."""
        return finish(
            _graphviz(self.dot, "svg"),
            name=self.name,
            title=self.title,
            description=self.description,
            source=self.digest,
        )

    def render(self, form: Format) -> bytes:
        """The picture as `form`. Raises `DiagramError`."""
        match form:
            case Format.SVG:
                return self.svg().encode()
            case Format.PNG:
                return _with_text(_graphviz(self.dot, "png", "-Gdpi=144"), "Source-SHA256", self.digest)
            case Format.PDF:
                return _DATE.sub(_no_date, _graphviz(self.dot, "pdf"))
            case Format.DOT:
                return self.dot.encode()
        if self.mermaid is None:
            raise DiagramError(
                f"{self.name} has no Mermaid form",
                reason=Reason.UNSUPPORTED,
                hint="take svg, png, pdf or dot",
            )
        return self.mermaid.encode()


def lifecycle_svg(run: Walk | None = None, *, name: str = "lifecycle") -> str:
    """The lifecycle as an SVG to put into a page, with the path of `run` where one is given.

    The element is self-contained: no script, no link, its style touches nothing else. It follows the reader's
    choice of dark or light and prints on white. Every id begins with `name`, which must differ between pictures
    on one page. Where `run.doubt` is not None the picture says that the trace is not verified, and why.
    Raises `DiagramError` when Graphviz is not installed.
    """
    return lifecycle(run, name=name).svg()


def picture(subject: Subject, run: Walk | None = None) -> Picture:
    """The picture of `subject`; only that of the lifecycle takes a `run`. Raises `EngineError`."""
    if subject is Subject.LIFECYCLE:
        return lifecycle(run)
    return steps() if subject is Subject.STEPS else spec(load_fold())


def write(drawn: bytes, path: str) -> None:
    """Put it into the file `path`, whole or not at all. Raises `DiagramError`."""
    try:
        target = os.path.realpath(path)
        if os.path.exists(target) and not os.path.isfile(target):
            with open(target, "wb") as device:
                device.write(drawn)
            return
        with tempfile.NamedTemporaryFile(
            dir=os.path.dirname(target), prefix=".engine-", delete=False
        ) as file:
            try:
                file.write(drawn)
                file.flush()
                mask = os.umask(0)
                os.umask(mask)
                os.fchmod(file.fileno(), 0o666 & ~mask)
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        hint = "name a file in a directory you can write"
        raise DiagramError(
            f"{path!r}: {why}",
            reason=Reason.FAILURE,
            hint=hint_for(error, hint) if isinstance(error, OSError) else hint,
        ) from None


# --- The lifecycle, and a run over it --------------------------------------------------------------------------


def lifecycle(run: Walk | None = None, *, name: str = "lifecycle") -> Picture:
    """The lifecycle with its refusals; of a `run`, its path, the time of each step, where it stopped and why."""
    title = "The lifecycle of a run" if run is None else f"Run {_cut(run.container, 80)}: {_outcome(run)}"
    said = (
        _said(run)
        if run
        else [("A solid arrow is a step, taken when its guards hold; a dashed one, a refusal.", 0)]
    )
    return Picture(
        name,
        title,
        _in_words(run),
        _columns(
            _heading(title, said, run),
            state=lambda at: _state_of(at, run),
            step=lambda row: _step_of(row, run),
            why=lambda row: _why_of(row, run),
        ),
        mermaid(run),
    )


def _outcome(run: Walk) -> str:
    if run.state is State.HANDED_OFF:
        return "handed off"
    if run.state is State.REFUSED:
        return f"refused in {_step_from(run)}"
    return f"incomplete, it stopped in {_step_from(run)}"


def _step_from(run: Walk) -> str:
    return next(str(row.trigger) for row in STEPS if run.stopped_in in row.sources)


def _said(run: Walk) -> list[tuple[str, int]]:
    """The lines below the title, each with whether it matters most."""
    lines: list[tuple[str, int]] = []
    if run.refusal:
        lines += [(f"✗ {run.refusal.step}: {run.refusal.what}", 1), (f"Hint: {run.refusal.hint}", 0)]
    elif not run.is_over:
        lines.append(("■ The trace ends here: the engine was killed, or is still at work.", 1))
    took = f"{_time(run.seconds)} from the first line to the last"
    lines.append((f"{took}. ✓ and a thick line: what the run did. Thin and dashed: what it did not.", 0))
    if run.doubt is not None:
        lines.append((f"? NOT VERIFIED: {run.doubt}.", 1))
    else:
        lines.append(("✓ Every line is as the spec and the machine's guards have it.", 0))
    return [(_cut(text), weight) for text, weight in lines]


def _taken(run: Walk | None, state: State, trigger: Trigger) -> float | None:
    """The time of the move of `run` that leaves `state` by `trigger`, in seconds, if it made it."""
    legs = run.legs if run else ()
    return next((leg.seconds for leg in legs if (leg.state, leg.trigger) == (state, trigger)), None)


def _state_of(at: State, run: Walk | None) -> str:
    reached = run is not None and (at is State.START or any(leg.next is at for leg in run.legs))
    undone = reached and at is State.HANDED_OFF and run is not None and run.state is not at
    stopped = run is not None and not run.is_over and run.state is at
    label = f"<B>{at}</B>"
    if undone:
        label = f"{at}<BR/>✗ execve failed"
    elif stopped:
        label = f"■ <B>{at}</B><BR/>it ends here"
    elif reached:
        label = f"{'✗' if at is State.REFUSED else '✓'} {label}"
    return _node(str(at), label, **_look(at, reached and not undone, faded=run is not None, stopped=stopped))


def _look(at: State, reached: bool, *, faded: bool, stopped: bool = False) -> dict[str, str]:
    shape = {"shape": "octagon"} if at is State.REFUSED else {"shape": "box", "style": "rounded,filled"}
    if at in TERMINAL:
        shape["peripheries"] = "2"
    if at is State.REFUSED:
        shape["style"] = "filled"
    if faded and not reached:
        return shape | {
            "style": shape["style"] + ",dashed",
            "color": Colour.LINE,
            "fillcolor": Colour.PAPER,
            "fontcolor": Colour.MUTED,
        }
    line, fill = Colour.INK, Colour.PANEL
    if at is State.REFUSED or stopped:
        line, fill = Colour.REFUSED, Colour.REFUSED_FILL
    elif at is State.HANDED_OFF:
        line, fill = Colour.GOOD, Colour.GOOD_FILL
    elif reached:
        line, fill = Colour.TAKEN, Colour.TAKEN_FILL
    return shape | {"color": line, "fillcolor": fill, "penwidth": "3" if reached else "1.2"}


def _step_of(row: Transition, run: Walk | None) -> dict[str, str]:
    guards = "".join(f'<BR ALIGN="LEFT"/>  [{guard.name}]' for guard in row.guards)
    took = _taken(run, row.sources[0], row.trigger)
    faded = run is not None and took is None
    # Recorded before the kernel was asked, which then refused.
    undone = (
        took is not None and run is not None and run.legs[-1].state is row.sources[0] and bool(run.refusal)
    )
    sign = "✗" if undone else "✓"
    name = f"  <B>{row.trigger}</B>" if took is None else f"  {sign} <B>{row.trigger}</B>  {_time(took)}"
    ink = Colour.MUTED if faded else Colour.INK
    return {
        "label": f'<{_font(ink, 11, name)}{_font(Colour.MUTED, 9, guards)}<BR ALIGN="LEFT"/>>',
        **_line(
            Colour.LINE if faded else Colour.TAKEN if run else Colour.INK,
            thick=took is not None,
            dashed=faded,
        ),
    }


def _why_of(row: Transition, run: Walk | None) -> tuple[str, dict[str, str], dict[str, str]]:
    """The box that says why a step refuses, its look, and that of the line from it to `refused`."""
    hit = run is not None and run.refusal is not None and run.stopped_in in row.sources
    text = f"{run.refusal.what}" if hit and run and run.refusal else row.refuses
    inside = _font(
        Colour.INK if hit or run is None else Colour.MUTED,
        10,
        _wrapped(("✗ " if hit else "") + _cut(text), 38) + _BREAK,
    )
    if not hit:
        line = Colour.REFUSED if run is None else Colour.LINE
        return inside, {"color": line, "style": "dashed,filled"}, _line(line, dashed=True)
    look = {"color": Colour.REFUSED, "fillcolor": Colour.REFUSED_FILL, "style": "filled", "penwidth": "3"}
    return inside, look, _line(Colour.REFUSED, thick=True)


def _in_words(run: Walk | None) -> str:
    if run is None:
        edges = [f"{source} --{row.trigger}--> {row.target}" for row in LIFECYCLE for source in row.sources]
        ends = " and ".join(str(state) for state in State if state in TERMINAL)
        return f"A state diagram. A run begins in start and ends in {ends}. Its edges: {'; '.join(edges)}."
    legs = [f"{leg.state} --{leg.trigger}--> {leg.next} in {_time(leg.seconds)}" for leg in run.legs]
    said = " ".join(text for text, _ in _said(run))
    return printable(f"The path of a run: {'; '.join(legs) or 'no move'}. {said}")


# --- The steps -------------------------------------------------------------------------------------------------


def steps() -> Picture:
    """What each step establishes, which guards ask for it again, and what it refuses."""
    title = "What each step checks"
    graph = _digraph(
        _heading(
            title, [("A guard is asked of what was recorded, so whoever has the trace can ask it again.", 0)]
        )
    )
    for number, row in enumerate(STEPS, start=1):
        guards = [f"{guard.name}, else: {guard.otherwise}" for guard in row.guards]
        told = [("✓ establishes", [row.establishes]), ("? guards", guards), ("✗ refuses", [row.refuses])]
        body = "".join(
            f'<TR><TD ALIGN="LEFT" VALIGN="TOP">{_font(Colour.MUTED, 11, head)}</TD><TD ALIGN="LEFT">'
            f"{_font(Colour.INK, 11, ''.join(_wrapped(text, 72) + _BREAK for text in texts))}</TD></TR>"
            for head, texts in told
        )
        head = f"<B>{number}  {row.trigger}</B>    {row.sources[0]} → {row.target}"
        table = (
            f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="4"><TR><TD COLSPAN="2" ALIGN="LEFT">'
            f"{_font(Colour.INK, 14, head)}</TD></TR>{body}</TABLE>"
        )
        graph.append(
            _node(
                row.trigger,
                table,
                shape="box",
                style="rounded,filled",
                fillcolor=Colour.PANEL,
                color=Colour.LINE,
            )
        )
    for before, after in pairwise(STEPS):
        graph.append(_edge(before.trigger, after.trigger, color=Colour.INK))
    words = " ".join(
        f"{row.trigger}: establishes {row.establishes}; guards "
        f"{', '.join(guard.name for guard in row.guards)}; refuses {row.refuses}."
        for row in STEPS
    )
    return Picture("steps", title, words, _dot(graph))


# --- The spec --------------------------------------------------------------------------------------------------


def spec(folded: Fold) -> Picture:
    """The spec's state graph folded along the lifecycle, and what the adversary and the world do beside it."""
    title = "What the model checker searched, by lifecycle state"
    total = sum(folded.states.values())
    said = [
        (
            f"All {total:,} states and {folded.steps:,} steps of the model {folded.name}: an adversary has one move.",
            0,
        ),
        ("A number says in how many steps an edge is taken; a dashed one is a refusal, by its reason.", 0),
        ("Left, dotted: what others do while a run is in that state.", 0),
    ]

    def state(at: State) -> str:
        own = "".join(
            f"<BR/>{_font(Colour.MUTED, 9, f'{b.action}:{b.count:,}')}"
            for b in folded.beside
            if b.state == at and (b.actor == Actor.ENGINE or at is State.REFUSED)
        )
        return _node(
            str(at),
            f"<B>{at}</B><BR/>{folded.states.get(at, 0):,} states{own}",
            **_look(at, False, faded=False),
        )

    def step(row: Transition) -> dict[str, str]:
        count = sum(t.count for t in folded.taken if t.trigger == row.trigger)
        return {
            "label": f"<  <B>{row.trigger}</B>  {count:,}>",
            **_line(Colour.INK),
        }

    def why(row: Transition) -> tuple[str, dict[str, str], dict[str, str]]:
        reasons = [t for t in folded.taken if t.trigger == Trigger.REFUSE and t.state in row.sources]
        text = _BREAK.join(_text(f"{t.reason}  {t.count:,}") for t in sorted(reasons, key=lambda t: -t.count))
        look = {"color": Colour.REFUSED, "style": "dashed,filled"}
        return _font(Colour.INK, 10, text + _BREAK), look, _line(Colour.REFUSED, dashed=True)

    def beside(at: State) -> str | None:
        if at is State.REFUSED:
            return None  # at the far side of the picture; its own label says it
        parts = []
        for actor in (Actor.ADVERSARY, Actor.WORLD):
            found = [b for b in folded.beside if b.state == at and b.actor == actor]
            if found:
                moves = ", ".join(f"{b.action}:{b.count:,}" for b in found)
                parts.append(
                    _font(Colour.INK, 9, f"<B>{actor}</B>{_BREAK}")
                    + _font(Colour.MUTED, 9, _wrapped(moves, 44) + _BREAK)
                )
        return "".join(parts) or None

    words = [f"{at}: {folded.states.get(at, 0)} states." for at in State]
    words += [
        f"{t.state} --{t.trigger}--> {t.next}{f' for {t.reason}' if t.reason else ''}: {t.count}."
        for t in folded.taken
    ]
    words += [f"In {b.state}, {b.actor}: {b.action} {b.count}." for b in folded.beside]
    dot = _columns(_heading(title, said, of=folded.spec), state=state, step=step, why=why, beside=beside)
    return Picture("spec", title, " ".join(words), dot)


# --- DOT -------------------------------------------------------------------------------------------------------

_BREAK = '<BR ALIGN="LEFT"/>'


def _columns(
    heading: str,
    *,
    state: Callable[[State], str],
    step: Callable[[Transition], dict[str, str]],
    why: Callable[[Transition], tuple[str, dict[str, str], dict[str, str]]],
    beside: Callable[[State], str | None] = lambda _: None,
) -> str:
    """The states in a column, beside each why it is left for `refused`, and a line down to that."""
    graph = _digraph(heading)
    last = STEPS[-1].target
    graph += [state(at) for at in State]
    previous: tuple[str, dict[str, str]] | None = None
    for row in STEPS:
        source = row.sources[0]
        text, look, line = why(row)
        graph.append(
            _node(f"why_{row.trigger}", text, **({"shape": "note", "fillcolor": Colour.PAPER} | look))
        )
        graph.append(_node(f"bus_{row.trigger}", "", shape="point", width="0.02", color=line["color"]))
        graph.append(_edge(source, row.target, weight="9", **step(row)))
        graph.append(_edge(source, f"why_{row.trigger}", **line))
        graph.append(_edge(f"why_{row.trigger}", f"bus_{row.trigger}", **line, arrowhead="none"))
        if previous:
            graph.append(
                _edge(previous[0], f"bus_{row.trigger}", weight="9", arrowhead="none", **previous[1])
            )
        down = line if previous is None or "penwidth" in line else previous[1]
        previous = (f"bus_{row.trigger}", down)
        row_of = [source, f"why_{row.trigger}", f"bus_{row.trigger}"]
        graph.append(_same(row_of))
    if previous:
        graph.append(_edge(previous[0], State.REFUSED, weight="9", **previous[1]))
    graph.append(_same([last, State.REFUSED]))
    for at in State:
        if (text_beside := beside(at)) is not None:
            name = f"beside_{at}"
            graph.append(
                _node(
                    name,
                    text_beside,
                    shape="box",
                    style="dotted,filled",
                    fillcolor=Colour.PAPER,
                    color=Colour.INK,
                )
            )
            graph.append(_edge(name, at, style="dotted", color=Colour.INK))
            graph.append(_same([name, at]))
    return _dot(graph)


def _digraph(heading: str) -> list[str]:
    return [f"  label=<{heading}>\n"]


def _dot(lines: Iterable[str]) -> str:
    try:
        from graphviz import Digraph
    except ImportError:
        raise DiagramError(
            "the Python package graphviz is missing",
            reason=Reason.UNAVAILABLE,
            hint="pip install 'gvisor-engine[diagram]'",
        ) from None

    graph = Digraph(
        graph_attr={
            "rankdir": "TB",
            "labelloc": "t",
            "labeljust": "l",
            "bgcolor": Colour.PAPER,
            "fontname": _FONT,
            "fontcolor": Colour.INK,
            "nodesep": "0.35",
            "ranksep": "0.42",
            "pad": "0.3",
            "splines": "line",
        },
        node_attr={"fontname": _FONT, "fontsize": "12", "fontcolor": Colour.INK, "margin": "0.16,0.09"},
        edge_attr={"fontname": _FONT, "fontsize": "11", "fontcolor": Colour.INK, "arrowsize": "0.8"},
    )
    graph.body += lines
    return str(graph.source)


def _node(name: str, label: str, **attributes: str) -> str:
    return _statement(_quote(name), {"label": f"<{label}>" if label else "", **attributes})


def _edge(source: str, target: str, **attributes: str) -> str:
    return _statement(f"{_quote(source)} -> {_quote(target)}", attributes)


def _same(names: Iterable[str]) -> str:
    return "  {rank=same; " + "; ".join(_quote(name) for name in names) + "}\n"


def _statement(what: str, attributes: dict[str, str]) -> str:
    from graphviz.quoting import attr_list

    return f"  {what}{attr_list(kwargs={key: str(value) for key, value in attributes.items()})}\n"


def _quote(name: str) -> str:
    from graphviz.quoting import quote

    return str(quote(str(name)))


def _line(colour: Colour, *, thick: bool = False, dashed: bool = False) -> dict[str, str]:
    return {"color": colour} | ({"penwidth": "3"} if thick else {}) | ({"style": "dashed"} if dashed else {})


def _heading(
    title: str, said: Iterable[tuple[str, int]], run: Walk | None = None, of: str | None = None
) -> str:
    engine, digest = (run.engine, run.spec) if run else (__version__, of or spec_digest())
    rows = [_font(Colour.INK, 18, f"<B>{_wrapped(title, 64)}</B>")]
    rows += [
        _font(Colour.INK, 12, f"<B>{_wrapped(text, 84)}</B>")
        if weight
        else _font(Colour.INK, 11, _wrapped(text, 92))
        for text, weight in said
    ]
    named = f"engine {_cut(engine, 40)} · specs/GVisorRuntime.tla SHA-256 {_cut(digest, 64)}"
    rows.append(_font(Colour.MUTED, 9, _wrapped(named, 120)))
    cells = "".join(f'<TR><TD ALIGN="LEFT" BALIGN="LEFT">{row}</TD></TR>' for row in rows)
    return f'<TABLE BORDER="0" CELLPADDING="2" CELLSPACING="0">{cells}<TR><TD HEIGHT="10"></TD></TR></TABLE>'


def _font(colour: Colour, size: int, inside: str) -> str:
    return f'<FONT COLOR="{colour}" POINT-SIZE="{size}">{inside}</FONT>' if inside else ""


def _text(text: str) -> str:
    return html.escape(printable(text))


def _wrapped(text: str, width: int) -> str:
    return _BREAK.join(_text(line) for line in textwrap.wrap(printable(text), width)) or " "


def _cut(text: str, length: int = _LONGEST) -> str:
    safe = printable(text)
    return safe if len(safe) <= length else f"{safe[: length - 1]}…"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 else f"{seconds:.0f} s"
    return f"{seconds / 1e-6:.0f} µs"


def _graphviz(dot: str, form: str, *more: str) -> bytes:
    """What `dot` draws of the text. Raises `DiagramError`."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(  # noqa: S603 - the text goes to its stdin
            ["dot", f"-T{form}", *more],  # noqa: S607 - the user's, as any tool is
            input=dot.encode(),
            capture_output=True,
            check=False,
            timeout=_SECONDS,
            env=environment,
        )
    except FileNotFoundError:
        raise DiagramError(
            "dot is not installed",
            reason=Reason.UNAVAILABLE,
            hint="install graphviz, or take --format dot or mermaid",
        ) from None
    except subprocess.TimeoutExpired:
        raise DiagramError(
            f"dot did not finish in {_SECONDS} s", reason=Reason.TIME_LIMIT, hint="take --format dot"
        ) from None
    if done.returncode or not done.stdout:
        why = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise DiagramError(
            f"dot: {why.splitlines()[0]}",
            reason=Reason.PROGRAM_FAILED,
            hint="install graphviz again, with its plugins",
        )
    return done.stdout


def _no_date(date: re.Match[bytes]) -> bytes:
    """As many spaces, as a PDF finds its parts by their place."""
    return b" " * len(date[0])


def _with_text(png: bytes, key: str, text: str) -> bytes:
    """`png` with a tEXt chunk behind its header (PNG, section 11.3.4.3)."""
    chunk = b"tEXt" + key.encode("latin-1") + b"\0" + text.encode("latin-1")
    header = 8 + 25  # the signature and IHDR
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:header] + whole + png[header:]


# --- Text ------------------------------------------------------------------------------------------------------


def mermaid(run: Walk | None = None) -> str:
    """A Mermaid `stateDiagram-v2` of every edge of the lifecycle, in the order of the table; of a `run`, its times."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.START}"]
    for row in LIFECYCLE:
        guards = " and ".join(guard.name for guard in row.guards)
        label = f"{row.trigger} [{guards}]" if guards else str(row.trigger)
        for source in row.sources:
            took = _taken(run, source, row.trigger)
            lines.append(
                f"    {source} --> {row.target}: {label if took is None else f'✓ {label} {_time(took)}'}"
            )
    lines += [f"    {state} --> [*]" for state in State if state in TERMINAL]
    return "\n".join(lines) + "\n"


def steps_table() -> str:
    """The six steps as a Markdown table: what each establishes and what it refuses."""
    rows = [
        f"| `{row.trigger}` | `{row.sources[0]}` → `{row.target}` | {row.establishes} | {row.refuses} |"
        for row in STEPS
    ]
    return "\n".join(["| step | from → to | establishes | refuses |", "|---|---|---|---|", *rows]) + "\n"
