"""What the last line of a refused run says. Part of `engine.traces.schema`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypedDict

from engine.errors import all_reasons
from engine.traces.asked_schema import Says

if TYPE_CHECKING:
    ReasonCode = str
else:
    #: One of `engine.errors.Reason`.
    ReasonCode = Literal[all_reasons()]


class RefuseFacts(TypedDict):
    """What the refused run removed."""

    cleaned: Annotated[
        list[str],
        Says(
            "What this run had created and removed.",
            "below `directories`, `programs`; absolute where `secure_root` failed",
        ),
    ]
    left: Annotated[
        list[str], Says("What it could not remove, and why.", "a name and why; none before `validate`")
    ]


class Error(TypedDict):
    """Why the run was refused."""

    step: Annotated[
        str, Says("What refused: a step or another part of the engine.", "`state`; a part of the engine")
    ]
    reason: Annotated[ReasonCode, Says("The reason, as a code that never changes.", "`state`")]
    what: Annotated[str, Says("What is wrong, in words.", free="words")]
    hint: Annotated[str, Says("What to do about it, in words.", free="words")]


class Error1(TypedDict):
    """Why the run was refused, in format 1."""

    step: Annotated[str, Says("What refused.", "`state`")]
    what: Annotated[str, Says("What is wrong, in words.", free="words")]
    remedy: Annotated[str, Says("What to do about it, in words.", free="words")]
