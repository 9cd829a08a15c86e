"""The picture of the lifecycle, with or without a run, drawn from the machine's table."""

from __future__ import annotations

from engine.audit.dot import (
    BREAK,
    columns,
    duration,
    font,
    heading,
    line,
    node,
    shortened,
    state_look,
    wrapped,
)
from engine.audit.picture import Picture
from engine.audit.svg import Colour
from engine.audit.walk import Walk
from engine.errors import printable
from engine.lifecycle.machine import LIFECYCLE, STEPS, TERMINAL, Transition
from engine.traces.move import State, Trigger


def lifecycle(run: Walk | None = None, *, name: str = "lifecycle") -> Picture:
    """The lifecycle with its refusals; with a `run`: its path, step times, where it stopped and why."""
    title = (
        "The lifecycle of a run" if run is None else f"Run {shortened(run.container, 80)}: {_outcome(run)}"
    )
    said = (
        _said(run)
        if run
        else [("A solid arrow is a step, taken when its guards hold; a dashed one, a refusal.", 0)]
    )
    return Picture(
        name,
        title,
        _in_words(run),
        columns(
            heading(title, said, run),
            state=lambda at: _state_of(at, run),
            step=lambda row: _step_of(row, run),
            why=lambda row: _why_of(row, run),
            after=next(row for row in LIFECYCLE if row.trigger is Trigger.END),
        ),
        mermaid(run),
    )


def lifecycle_svg(run: Walk | None = None, *, name: str = "lifecycle") -> str:
    """The lifecycle as an SVG for a page, with the path of `run` if given.

    The element has no script and no link, and its style affects nothing else. It follows the reader's dark or light
    mode and prints on white. All ids begin with `name`, which must differ between pictures on one page. If `run.doubt`
    is set, the picture says that the trace is not verified, and why. Raises `DiagramError` if Graphviz is not
    installed.
    """
    return lifecycle(run, name=name).svg()


def mermaid(run: Walk | None = None) -> str:
    """A Mermaid `stateDiagram-v2` with every edge in the table's order; with a `run`, its step times."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.START}"]
    for row in LIFECYCLE:
        guards = " and ".join(guard.name for guard in row.guards)
        label = f"{row.trigger} [{guards}]" if guards else str(row.trigger)
        for source in row.sources:
            took = _taken(run, source, row.trigger)
            lines.append(
                f"    {source} --> {row.target}: {label if took is None else f'✓ {label} {duration(took)}'}"
            )
    lines += [f"    {state} --> [*]" for state in State if state in TERMINAL]
    return "\n".join(lines) + "\n"


def _outcome(run: Walk) -> str:
    if run.bad_line is not None:
        return f"not reliable from line {run.bad_line} on"
    if run.state in (State.HANDED_OFF, State.ENDED):
        return "handed off" if run.state is State.HANDED_OFF else "handed off, and ended"
    if run.state is State.REFUSED:
        return f"refused in {_step_from(run)}"
    return f"incomplete, it stopped in {_step_from(run)}"


def _step_from(run: Walk) -> str:
    return next(str(row.trigger) for row in STEPS if run.stopped_in in row.sources)


def _said(run: Walk) -> list[tuple[str, int]]:
    """The lines below the title, each with whether it is emphasized."""
    lines: list[tuple[str, int]] = []
    if run.refusal:
        lines += [(f"✗ {run.refusal.step}: {run.refusal.what}", 1), (f"Hint: {run.refusal.hint}", 0)]
    elif not run.is_over and run.bad_line is None:
        lines.append(("■ The trace ends here: the engine was killed, or is still running.", 1))
    took = f"{duration(run.seconds)} from the first line to the last step's"
    lines.append((f"{took}. ✓ and a thick line: taken by the run. Thin and dashed: not taken.", 0))
    if run.bad_line is not None:
        lines.append(
            (f"✗ No engine wrote line {run.bad_line} there; nothing is drawn of it and what follows it.", 1)
        )
        lines.append((f"{run.doubt}.", 0))
    elif run.doubt is not None:
        lines.append((f"? NOT VERIFIED: {run.doubt}.", 1))
    else:
        lines.append(("✓ Every line conforms to the spec and the machine's guards.", 0))
    return [(shortened(text), weight) for text, weight in lines]


def _taken(run: Walk | None, state: State, trigger: Trigger) -> float | None:
    """The time in seconds of the run's move that leaves `state` by `trigger`; None if it made none."""
    legs = run.legs if run else ()
    return next((leg.seconds for leg in legs if (leg.state, leg.trigger) == (state, trigger)), None)


def _state_of(at: State, run: Walk | None) -> str:
    reached = run is not None and (at is State.START or any(leg.next is at for leg in run.legs))
    undone = reached and at is State.HANDED_OFF and run is not None and run.state is State.REFUSED
    bad_line = run.bad_line if run is not None and run.state is at else None
    stopped = run is not None and (not run.is_over or bad_line is not None) and run.state is at
    label = f"<B>{at}</B>"
    if undone:
        label = f"{at}<BR/>✗ execve failed"
    elif bad_line is not None:
        label = f"✗ <B>{at}</B><BR/>line {bad_line} is bad"
    elif stopped:
        label = f"■ <B>{at}</B><BR/>ends here"
    elif reached:
        label = f"{'✗' if at is State.REFUSED else '✓'} {label}"
    return node(
        str(at), label, **state_look(at, reached and not undone, faded=run is not None, stopped=stopped)
    )


def _step_of(row: Transition, run: Walk | None) -> dict[str, str]:
    guards = "".join(f'<BR ALIGN="LEFT"/>  [{guard.name}]' for guard in row.guards)
    took = _taken(run, row.sources[0], row.trigger)
    faded = run is not None and took is None
    # Recorded before execve, which then failed.
    undone = (
        took is not None and run is not None and run.legs[-1].state is row.sources[0] and bool(run.refusal)
    )
    sign = "✗" if undone else "✓"
    name = f"  <B>{row.trigger}</B>" if took is None else f"  {sign} <B>{row.trigger}</B>  {duration(took)}"
    ink = Colour.MUTED if faded else Colour.INK
    return {
        "label": f'<{font(ink, 11, name)}{font(Colour.MUTED, 9, guards)}<BR ALIGN="LEFT"/>>',
        **line(
            Colour.LINE if faded else Colour.TAKEN if run else Colour.INK,
            thick=took is not None,
            dashed=faded,
        ),
    }


def _why_of(row: Transition, run: Walk | None) -> tuple[str, dict[str, str], dict[str, str]]:
    """The box with a step's refusals, its attributes, and those of its line to `refused`."""
    hit = run is not None and run.refusal is not None and run.stopped_in in row.sources
    text = f"{run.refusal.what}" if hit and run and run.refusal else row.refuses
    inside = font(
        Colour.INK if hit or run is None else Colour.MUTED,
        10,
        wrapped(("✗ " if hit else "") + shortened(text), 38) + BREAK,
    )
    if not hit:
        colour = Colour.REFUSED if run is None else Colour.LINE
        return inside, {"color": colour, "style": "dashed,filled"}, line(colour, dashed=True)
    look = {"color": Colour.REFUSED, "fillcolor": Colour.REFUSED_FILL, "style": "filled", "penwidth": "3"}
    return inside, look, line(Colour.REFUSED, thick=True)


def _in_words(run: Walk | None) -> str:
    if run is None:
        edges = [f"{source} --{row.trigger}--> {row.target}" for row in LIFECYCLE for source in row.sources]
        ends = " and ".join(str(state) for state in State if state in TERMINAL)
        return f"A state diagram. A run begins in start and ends in {ends}. Its edges: {'; '.join(edges)}."
    legs = [f"{leg.state} --{leg.trigger}--> {leg.next} in {duration(leg.seconds)}" for leg in run.legs]
    said = " ".join(text for text, _ in _said(run))
    return printable(f"The path of a run: {'; '.join(legs) or 'no move'}. {said}")
