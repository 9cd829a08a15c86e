"""The picture of the spec's state graph, folded along the lifecycle."""

from __future__ import annotations

from engine.audit.dot import BREAK, columns, font, heading, line, node, state_look, text_of, wrapped
from engine.audit.picture import Picture
from engine.audit.svg import Colour
from engine.lifecycle.machine import Transition
from engine.spec.fold import Actor, Fold
from engine.traces.move import State, Trigger


def spec(folded: Fold) -> Picture:
    """The folded state graph, with the steps of the adversary and of the environment beside it."""
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
            f"<BR/>{font(Colour.MUTED, 9, f'{b.action}:{b.count:,}')}"
            for b in folded.beside
            if b.state == at and (b.actor == Actor.ENGINE or at is State.REFUSED)
        )
        return node(
            str(at),
            f"<B>{at}</B><BR/>{folded.states.get(at, 0):,} states{own}",
            **state_look(at, False, faded=False),
        )

    def step(row: Transition) -> dict[str, str]:
        count = sum(t.count for t in folded.taken if t.trigger == row.trigger)
        return {
            "label": f"<  <B>{row.trigger}</B>  {count:,}>",
            **line(Colour.INK),
        }

    def why(row: Transition) -> tuple[str, dict[str, str], dict[str, str]]:
        reasons = [t for t in folded.taken if t.trigger == Trigger.REFUSE and t.state in row.sources]
        text = BREAK.join(
            text_of(f"{t.reason}  {t.count:,}") for t in sorted(reasons, key=lambda t: -t.count)
        )
        look = {"color": Colour.REFUSED, "style": "dashed,filled"}
        return font(Colour.INK, 10, text + BREAK), look, line(Colour.REFUSED, dashed=True)

    def beside(at: State) -> str | None:
        if at is State.REFUSED:
            return None  # at the far side of the picture; its own label says it
        parts = []
        for actor in (Actor.ADVERSARY, Actor.WORLD):
            found = [b for b in folded.beside if b.state == at and b.actor == actor]
            if found:
                moves = ", ".join(f"{b.action}:{b.count:,}" for b in found)
                parts.append(
                    font(Colour.INK, 9, f"<B>{actor}</B>{BREAK}")
                    + font(Colour.MUTED, 9, wrapped(moves, 44) + BREAK)
                )
        return "".join(parts) or None

    words = [f"{at}: {folded.states.get(at, 0)} states." for at in State if at is not State.ENDED]
    words += [
        f"{t.state} --{t.trigger}--> {t.next}{f' for {t.reason}' if t.reason else ''}: {t.count}."
        for t in folded.taken
    ]
    words += [f"In {b.state}, {b.actor}: {b.action} {b.count}." for b in folded.beside]
    dot = columns(heading(title, said, of=folded.spec), state=state, step=step, why=why, beside=beside)
    return Picture("spec", title, " ".join(words), dot)
