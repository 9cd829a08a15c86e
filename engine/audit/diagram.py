"""The lifecycle as Mermaid text, generated from the table that runs."""

from __future__ import annotations

from engine.lifecycle.machine import LIFECYCLE, TERMINAL, State, Trigger


def mermaid() -> str:
    """A Mermaid `stateDiagram-v2` of every edge of the lifecycle, in the order of the table."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.START}"]
    for row in LIFECYCLE:
        guards = " and ".join(guard.name for guard in row.guards)
        label = f"{row.trigger} [{guards}]" if guards else str(row.trigger)
        lines += [f"    {source} --> {row.target}: {label}" for source in row.sources]
    lines += [f"    {state} --> [*]" for state in State if state in TERMINAL]
    return "\n".join(lines) + "\n"


def steps_table() -> str:
    """The six steps as a Markdown table: what each establishes and what it refuses."""
    rows = [
        f"| `{row.trigger}` | `{row.sources[0]}` → `{row.target}` | {row.establishes} | {row.refuses} |"
        for row in LIFECYCLE
        if row.trigger is not Trigger.REFUSE
    ]
    return "\n".join(["| step | from → to | establishes | refuses |", "|---|---|---|---|", *rows]) + "\n"
