"""Which pictures there are: the lifecycle and one run over it, its steps, the spec's folded graph.

Each picture is first DOT text, which is the same everywhere for the same input; Graphviz makes the rest of it.
"""

from __future__ import annotations

from enum import StrEnum

from engine.audit.lifecycle_picture import lifecycle
from engine.audit.picture import Picture
from engine.audit.spec_picture import spec
from engine.audit.steps_picture import steps
from engine.audit.walk import Walk
from engine.spec.fold import load_fold


class Subject(StrEnum):
    """What there is a picture of."""

    LIFECYCLE = "lifecycle"
    STEPS = "steps"
    SPEC = "spec"


def picture(subject: Subject, run: Walk | None = None) -> Picture:
    """The picture of `subject`; only that of the lifecycle takes a `run`. Raises `EngineError`."""
    if subject is Subject.LIFECYCLE:
        return lifecycle(run)
    return steps() if subject is Subject.STEPS else spec(load_fold())
