"""What tests hold of a refusal: its reason and facts, never its sentences. Those are in one snapshot.

`python -m tests.support.refusals` writes the snapshot anew: every sentence with which the engine refuses, by reason,
as the code has it. One test, in tests/unit/test_refusals.py, compares.
"""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest

from engine.errors import EngineError, Reason

ROOT = Path(__file__).parents[2]
SNAPSHOT = ROOT / "tests" / "unit" / "refusals.snapshot"

Error = TypeVar("Error", bound=EngineError)


def refuses(kind: type[Error], reason: str, *facts: object) -> _Refuses[Error]:
    """As `pytest.raises`: the block must be refused by a `kind` for this reason, in a line that names the `facts`.

    The refusal must leave no new descriptor open. A fact is something from outside that the user must see: a path, a
    number, what the kernel said.
    """
    return _Refuses(pytest.raises(kind), reason, facts)


class _Refuses(Generic[Error]):
    def __init__(self, raises: Any, reason: str, facts: tuple[object, ...]) -> None:
        self._raises = raises
        self._reason = reason
        self._facts = facts

    def __enter__(self) -> pytest.ExceptionInfo[Error]:
        caught: pytest.ExceptionInfo[Error] = self._raises.__enter__()
        self._caught = caught
        self._before = open_descriptors()
        return caught

    def __exit__(self, *how: object) -> bool:
        if not self._raises.__exit__(*how):
            return False
        check(self._caught.value, self._reason, *self._facts)
        assert open_descriptors() <= self._before, "a refusal left a descriptor open"
        return True


def open_descriptors() -> set[str]:
    """The numbers of this process's open descriptors."""
    return set(os.listdir("/proc/self/fd"))


def check(error: EngineError, reason: str, *facts: object) -> None:
    """Hold that `error` has this reason, is one printable line, gives a hint and names the `facts`."""
    assert error.reason is reason, error
    assert str(error).isprintable()
    assert error.hint
    for fact in facts:
        assert str(fact) in error.what


def one_line(text: str) -> str:
    """The line without its newline, where `text`, as a program wrote it to stderr or a log, is one printable line."""
    assert text.endswith("\n"), text
    assert text[:-1].isprintable(), text
    return text[:-1]


def refusal_of(text: str, reason: str, *facts: object) -> dict[str, str]:
    """What the one line of `--json` in `text` says: refused for this reason, in a sentence that names the `facts`."""
    said: dict[str, str] = json.loads(one_line(text))["refused"]
    assert said.keys() == {"step", "reason", "what", "hint"}
    assert said["reason"] == reason, text
    for fact in facts:
        assert str(fact) in said["what"], text
    return said


def sentences() -> dict[str, list[str]]:
    """Every sentence with which the engine refuses, by its reason; what it fills in stands in braces."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "engine").rglob("*.py")):
        tree = ast.parse(path.read_text())
        constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            if ast.unparse(node.func) == "MismatchError":
                text = ", wanted ".join(_text(each, constants) for each in node.args[:2])
                found.setdefault(Reason.CONFIG_INVALID, []).append(text)
            elif node.args and "hint" in given and "reason" in given:
                text = f"{_text(node.args[-1], constants)}; {_text(given['hint'], constants)}"
                for reason in _reasons(given["reason"]):
                    found.setdefault(reason, []).append(text)
    return {reason: sorted(set(texts)) for reason, texts in sorted(found.items())}


def snapshot() -> str:
    """The snapshot as it must be."""
    lines = ["# Every sentence of a refusal, by reason. Written by: python -m tests.support.refusals"]
    for reason, texts in sentences().items():
        lines += ["", f"[{reason}]", *texts]
    return "\n".join(lines) + "\n"


def _reasons(value: ast.expr) -> list[str]:
    """The members of `Reason` in an expression; none where it is the caller's."""
    return [
        str(getattr(Reason, node.attr))
        for node in ast.walk(value)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Reason"
    ]


def _text(value: ast.expr, constants: dict[str, ast.expr]) -> str:
    if isinstance(value, ast.Name) and value.id in constants:
        return _text(constants[value.id], constants)
    if isinstance(value, ast.Constant):
        return str(value.value)
    if isinstance(value, ast.JoinedStr):
        return "".join(_text(part, constants) for part in value.values)
    return "{" + ast.unparse(value.value if isinstance(value, ast.FormattedValue) else value) + "}"


if __name__ == "__main__":
    SNAPSHOT.write_text(snapshot())
