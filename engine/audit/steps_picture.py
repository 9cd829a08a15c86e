"""The picture, and the table, of what each step establishes and refuses."""

from __future__ import annotations

from itertools import pairwise

from engine.audit.dot import BREAK, digraph, dot_text, edge, font, heading, node, wrapped
from engine.audit.picture import Picture
from engine.audit.svg import Colour
from engine.lifecycle.machine import STEPS


def steps() -> Picture:
    """What each step establishes, its guards, and what it refuses."""
    title = "What each step checks"
    graph = digraph(
        heading(
            title,
            [
                (
                    "Guards are evaluated on recorded facts, so anyone with the trace can evaluate them again.",
                    0,
                )
            ],
        )
    )
    for number, row in enumerate(STEPS, start=1):
        guards = [f"{guard.name}, else: {guard.otherwise}" for guard in row.guards]
        told = [("✓ establishes", [row.establishes]), ("? guards", guards), ("✗ refuses", [row.refuses])]
        body = "".join(
            f'<TR><TD ALIGN="LEFT" VALIGN="TOP">{font(Colour.MUTED, 11, head)}</TD><TD ALIGN="LEFT">'
            f"{font(Colour.INK, 11, ''.join(wrapped(text, 72) + BREAK for text in texts))}</TD></TR>"
            for head, texts in told
        )
        head = f"<B>{number}  {row.trigger}</B>    {row.sources[0]} → {row.target}"
        table = (
            f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="4"><TR><TD COLSPAN="2" ALIGN="LEFT">'
            f"{font(Colour.INK, 14, head)}</TD></TR>{body}</TABLE>"
        )
        graph.append(
            node(
                row.trigger,
                table,
                shape="box",
                style="rounded,filled",
                fillcolor=Colour.PANEL,
                color=Colour.LINE,
            )
        )
    for before, after in pairwise(STEPS):
        graph.append(edge(before.trigger, after.trigger, color=Colour.INK))
    words = " ".join(
        f"{row.trigger}: establishes {row.establishes}; guards "
        f"{', '.join(guard.name for guard in row.guards)}; refuses {row.refuses}."
        for row in STEPS
    )
    return Picture("steps", title, words, dot_text(graph))


def steps_table() -> str:
    """The six steps as a Markdown table: what each establishes and what it refuses."""
    rows = [
        f"| `{row.trigger}` | `{row.sources[0]}` → `{row.target}` | {row.establishes} | {row.refuses} |"
        for row in STEPS
    ]
    return "\n".join(["| step | from → to | establishes | refuses |", "|---|---|---|---|", *rows]) + "\n"
