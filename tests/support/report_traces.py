"""Traces for reports and signatures: real ones, with other strings in them; and a model checker's answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from engine.audit import controls
from engine.lifecycle.spec_files import spec_digest
from engine.verify import trace_check
from tests.support.stories import Line, Story, read

#: What has one of a few values, or a form of its own; every other text may be anything.
_FIXED = frozenset(
    {
        "time",
        "previous",
        "spec",
        "state",
        "trigger",
        "next",
        "found_by",
        "mode",
        "outcome",
        "strength",
        "ids",
        "network",
        "exec_policy",
        "platform",
        "sha256",
        "boot",
        "type",
        "bounding",
        "effective",
        "default_action",
        "RLIMIT_NOFILE",
    }
)

HOSTILE = (
    "<script>window.owned=1</script>",
    '"><img src=x onerror=window.owned=1>',
    "' onmouseover='window.owned=1' x='",
    "</script><script>window.owned=1</script>",
    "</style></code></title><svg onload=window.owned=1>",
    "{{ 7*7 }}{% raw %}<!--]]>&lt;&#60;",
    "javascript:window.owned=1",
    "\u202e\u0000\u001b]0;x\u0007\u2028\n\r\t\ud800",
)


def chained(lines: list[Line]) -> bytes:
    """The lines as the engine would write them, each with the digest of the one before."""
    content, previous = b"", None
    for line in lines:
        written = json.dumps({**line, "previous": previous}, separators=(",", ":")).encode() + b"\n"
        previous = hashlib.sha256(written).hexdigest()
        content += written
    return content


def rewritten(path: Path, change: Callable[[list[Line]], list[Line]]) -> Path:
    """The trace in `path` with other content, chained anew: by somebody who knows how."""
    path.write_bytes(chained(change(read(path))))
    return path


def poisoned(value: Any, text: str) -> Any:
    """`value` with `text` at the end of every string in it that may be anything, names of variables included."""
    if isinstance(value, str):
        return value + text
    if isinstance(value, list):
        return [poisoned(each, text) for each in value]
    if isinstance(value, dict):
        return {
            key + text if key.isupper() and key not in _FIXED else key: each
            if key in _FIXED or (key == "reason" and "step" in value)
            else poisoned(each, text)
            for key, each in value.items()
        }
    return value


@contextmanager
def credulous() -> Iterator[None]:
    """No guard looks at the facts meanwhile, so that a page shows all of a poisoned trace, whatever they may say."""
    with (
        patch.object(trace_check, "_GUARDS", dict.fromkeys(trace_check._GUARDS, ())),
        patch.object(trace_check, "contradiction", lambda _header: None),
        patch.object(trace_check, "check_facts", lambda *_: None),
        patch.object(trace_check, "check_refusal", lambda *_: None),
        patch.object(controls, "_holds", lambda _guard, _evidence: True),
    ):
        yield


def poisoned_trace(path: Path, story: Story, text: str) -> Path:
    story.write(path)
    return rewritten(path, lambda lines: [poisoned(line, text) for line in lines])


def check_result(**changes: Any) -> dict[str, Any]:
    """What `engine check --mutants --json` says when all is well, in small."""
    model = {
        "name": "Lifecycle",
        "module": "GVisorRuntime",
        "says": "the lifecycle",
        "expected": "success",
        "surprises": [],
        "distinctStates": 3048,
        "totalStates": 6132,
        "stateDepth": 13,
        "seconds": 2.5,
        "properties": {"TypeOK": "holds", "NoStepSkipped": "holds"},
        "actions": {"Resolve": 144, "Exec": 27},
        "counterexample": None,
    }
    mutant = {
        "name": "policy-is-skipped",
        "says": "it is skipped",
        "breaks": "StepOrder",
        "killed": True,
        "steps": 9,
        "also": None,
    }
    said = {
        "ok": True,
        "spec": spec_digest(),
        "seconds": 60.0,
        "tlc": "TLC2 Version 2.15",
        "java": "17",
        "jar": {"path": "/x/tla2tools.jar", "source": "package", "sha256": "58" * 32},
        "models": [model],
        "gaps": [],
        "mutants": [mutant],
    }
    return said | changes
