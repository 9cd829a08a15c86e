"""A pytest plugin that rewords every refusal: `pytest -p tests.support.reworded` finds tests that go by sentences.

Facts stay: what is quoted, paths, numbers, names with an underscore or a dash, and what the kernel says. What then
fails goes by a sentence. Words that podman and containerd look for are the only ones that tests may go by.
"""

from __future__ import annotations

import os
import re

from engine import errors
from engine.options import Platform
from engine.traces.move import State, Trigger

_KEPT = re.compile(
    "|".join(
        [
            *(re.escape(os.strerror(number)) for number in range(1, 134)),
            r"'(?:[^'\\]|\\.)*'",
            r'"(?:[^"\\]|\\.)*"',
            r"\S*[/_\-$.=<>\[\]…\d]\S*",
            *(rf"\b{word}\b" for word in (*State, *Trigger, *Platform)),
        ]
    )
)
_WORD = re.compile(r"\b[a-z]{2,}\b")


def reword(text: str) -> str:
    """`text` with other words around the same facts."""
    parts = []
    end = 0
    for kept in _KEPT.finditer(text):
        parts += [_WORD.sub("quux", text[end : kept.start()]), kept[0]]
        end = kept.end()
    return "".join(parts) + _WORD.sub("quux", text[end:])


_as_written = errors.EngineError.__init__


def _reworded(self: errors.EngineError, what: str, *, reason: str, hint: str) -> None:
    _as_written(self, reword(what), reason=reason, hint=hint)


errors.EngineError.__init__ = _reworded  # type: ignore[method-assign]
