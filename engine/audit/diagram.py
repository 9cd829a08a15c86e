"""The available pictures: the lifecycle with or without a run, the steps, the spec's folded graph.

Each picture is DOT text, reproducible for the same input; Graphviz renders it.
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
    """The subject of a picture."""

    LIFECYCLE = "lifecycle"
    STEPS = "steps"
    SPEC = "spec"


def picture(subject: Subject, run: Walk | None = None) -> Picture:
    """The picture of `subject`; only `lifecycle` takes a `run`. Raises `EngineError`."""
    if subject is Subject.LIFECYCLE:
        return lifecycle(run)
    return steps() if subject is Subject.STEPS else spec(load_fold())
