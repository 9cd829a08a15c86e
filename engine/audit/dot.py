"""DOT text: the elements of the pictures, and the column of states that two pictures share.

Text from a trace is made printable and escaped here.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

from engine import __version__
from engine.audit.svg import Colour
from engine.audit.walk import DiagramError, Walk
from engine.errors import Reason, printable
from engine.lifecycle.machine import STEPS, TERMINAL, Transition
from engine.lifecycle.spec_files import spec_digest
from engine.traces.move import State

_FONT = "DejaVu Sans"

#: Longer texts of a trace are cut.
_MAX_LENGTH = 400

BREAK = '<BR ALIGN="LEFT"/>'


def columns(
    title: str,
    *,
    state: Callable[[State], str],
    step: Callable[[Transition], dict[str, str]],
    why: Callable[[Transition], tuple[str, dict[str, str], dict[str, str]]],
    beside: Callable[[State], str | None] = lambda _: None,
    after: Transition | None = None,
) -> str:
    """The states in a column; beside each its refusals, with a line down to `refused`; then what comes `after`."""
    graph = digraph(title)
    last = STEPS[-1].target
    graph += [state(at) for at in State if at is not State.ENDED]
    if after is not None:
        graph += [state(after.target), edge(last, after.target, weight="9", **step(after))]
    previous: tuple[str, dict[str, str]] | None = None
    for row in STEPS:
        source = row.sources[0]
        text, look, down_line = why(row)
        graph.append(
            node(f"why_{row.trigger}", text, **({"shape": "note", "fillcolor": Colour.PAPER} | look))
        )
        graph.append(node(f"bus_{row.trigger}", "", shape="point", width="0.02", color=down_line["color"]))
        graph.append(edge(source, row.target, weight="9", **step(row)))
        graph.append(edge(source, f"why_{row.trigger}", **down_line))
        graph.append(edge(f"why_{row.trigger}", f"bus_{row.trigger}", **down_line, arrowhead="none"))
        if previous:
            graph.append(edge(previous[0], f"bus_{row.trigger}", weight="9", arrowhead="none", **previous[1]))
        down = down_line if previous is None or "penwidth" in down_line else previous[1]
        previous = (f"bus_{row.trigger}", down)
        row_of = [source, f"why_{row.trigger}", f"bus_{row.trigger}"]
        graph.append(_same(row_of))
    if previous:
        graph.append(edge(previous[0], State.REFUSED, weight="9", **previous[1]))
    graph.append(_same([last, State.REFUSED]))
    for at in State:
        if (text_beside := beside(at)) is not None:
            name = f"beside_{at}"
            graph.append(
                node(
                    name,
                    text_beside,
                    shape="box",
                    style="dotted,filled",
                    fillcolor=Colour.PAPER,
                    color=Colour.INK,
                )
            )
            graph.append(edge(name, at, style="dotted", color=Colour.INK))
            graph.append(_same([name, at]))
    return dot_text(graph)


def state_look(at: State, reached: bool, *, faded: bool, stopped: bool = False) -> dict[str, str]:
    """The attributes of a state: `reached` by the run or not; `faded` if the picture shows a run."""
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


def digraph(heading: str) -> list[str]:
    """The first lines of a graph with this heading."""
    return [f"  label=<{heading}>\n"]


def dot_text(lines: Iterable[str]) -> str:
    """The DOT text of a graph with these lines. Raises `DiagramError`."""
    graph = _library().Digraph(
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


def node(name: str, label: str, **attributes: str) -> str:
    """A node with an HTML-like label."""
    return _statement(_quote(name), {"label": f"<{label}>" if label else "", **attributes})


def edge(source: str, target: str, **attributes: str) -> str:
    return _statement(f"{_quote(source)} -> {_quote(target)}", attributes)


def _same(names: Iterable[str]) -> str:
    return "  {rank=same; " + "; ".join(_quote(name) for name in names) + "}\n"


def _statement(what: str, attributes: dict[str, str]) -> str:
    attr_list = _library().quoting.attr_list
    return f"  {what}{attr_list(kwargs={key: str(value) for key, value in attributes.items()})}\n"


def _quote(name: str) -> str:
    return str(_library().quoting.quote(str(name)))


def _library() -> Any:
    """Import the Python package graphviz. Raises `DiagramError` if it is not installed."""
    try:
        import graphviz.quoting
    except ImportError:
        raise DiagramError(
            "the Python package graphviz is missing",
            reason=Reason.UNAVAILABLE,
            hint="pip install 'gvisor-engine[diagram]'",
        ) from None
    return graphviz


def line(colour: Colour, *, thick: bool = False, dashed: bool = False) -> dict[str, str]:
    """The attributes of an edge."""
    return {"color": colour} | ({"penwidth": "3"} if thick else {}) | ({"style": "dashed"} if dashed else {})


def heading(
    title: str, said: Iterable[tuple[str, int]], run: Walk | None = None, of: str | None = None
) -> str:
    """The table above a picture: title, the lines `said` with whether each is emphasized, engine and spec."""
    engine, digest = (run.engine, run.spec) if run else (__version__, of or spec_digest())
    rows = [font(Colour.INK, 18, f"<B>{wrapped(title, 64)}</B>")]
    rows += [
        font(Colour.INK, 12, f"<B>{wrapped(text, 84)}</B>")
        if weight
        else font(Colour.INK, 11, wrapped(text, 92))
        for text, weight in said
    ]
    named = f"engine {shortened(engine, 40)} · specs/GVisorRuntime.tla SHA-256 {shortened(digest, 64)}"
    rows.append(font(Colour.MUTED, 9, wrapped(named, 120)))
    cells = "".join(f'<TR><TD ALIGN="LEFT" BALIGN="LEFT">{row}</TD></TR>' for row in rows)
    return f'<TABLE BORDER="0" CELLPADDING="2" CELLSPACING="0">{cells}<TR><TD HEIGHT="10"></TD></TR></TABLE>'


def font(colour: Colour, size: int, inside: str) -> str:
    return f'<FONT COLOR="{colour}" POINT-SIZE="{size}">{inside}</FONT>' if inside else ""


def text_of(text: str) -> str:
    """Text made printable and escaped."""
    return html.escape(printable(text))


def wrapped(text: str, width: int) -> str:
    """Escaped text in lines of at most `width` characters."""
    return BREAK.join(text_of(line) for line in textwrap.wrap(printable(text), width)) or " "


def shortened(text: str, length: int = _MAX_LENGTH) -> str:
    """Printable text of at most `length` characters."""
    safe = printable(text)
    return safe if len(safe) <= length else f"{safe[: length - 1]}…"


def duration(seconds: float) -> str:
    """The time in its most readable unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 else f"{seconds:.0f} s"
    return f"{seconds / 1e-6:.0f} µs"
