"""A TLA+ module as text: its parts, and the names that it and its EXTENDS declare and define.

This is no parser; SANY is. It finds what SANY and TLC accept silently, and makes edits that keep each token's column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_LINE_COMMENT = re.compile(r"\\\*.*$", re.MULTILINE)
_BLOCK_COMMENT = re.compile(r"\(\*.*?\*\)", re.DOTALL)
_HEAD = re.compile(r"(\w+)(\([^)]*\))?[ \t]*==")
_DEFINED = re.compile(
    r"^[ \t]*(?:LOCAL[ \t]+)?(\w+)[ \t]*(?:\([^)\n]*\)|\[[^\]\n]*\])?[ \t]*==", re.MULTILINE
)
_EXTENDS = re.compile(r"^\s*EXTENDS\b([^=]*?)(?=^\s*(?:\w+[^\n]*==|[A-Z]{4,}\b|-{4,})|\Z)", re.MULTILINE)
_CONSTANTS = re.compile(
    r"^\s*CONSTANTS?\b(.*?)(?=^\s*(?:CONSTANT|VARIABLE|ASSUM|AXIOM|THEOREM|RECURSIVE|INSTANCE|LOCAL|-{4,}|={4,}"
    r"|\w+[^\n,]*==)|\Z)",
    re.MULTILINE | re.DOTALL,
)
_DECLARATION = re.compile(r"(\w+)\s*(?:\(\s*_[\s,_]*\))?")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a module, starting in column 1. `name`: the operator that it defines, or ""."""

    name: str
    text: str

    @property
    def parameters(self) -> str:
        """The parameters of the definition with their parentheses, or ""."""
        head = _HEAD.match(self.text)
        return head[2] or "" if head else ""

    @property
    def body(self) -> str:
        """The right-hand side. It must start on its own line, so that each token keeps its column."""
        head = _HEAD.match(self.text)
        if head is None:
            return self.text
        return " " * head.end() + self.text[head.end() :]


def parts(text: str) -> tuple[Part, ...]:
    """Split a module into parts; joined, they are `text`."""
    found: list[list[str]] = []
    for line in text.splitlines(keepends=True):
        if not found or not line[0].isspace():
            found.append([])
        found[-1].append(line)
    return tuple(Part(head[1] if (head := _HEAD.match(lines[0])) else "", "".join(lines)) for lines in found)


def declared_constants(text: str) -> tuple[str, ...]:
    """The declared constants, in order."""
    plain = without_comments(text)
    return tuple(
        name for block in _CONSTANTS.findall(plain) for name in _DECLARATION.findall(block) if name != "_"
    )


def constants(files: Mapping[str, str], module: str) -> frozenset[str]:
    """The constants that a configuration of `module` may assign: its own and those of its EXTENDS."""
    return frozenset(name for text in _with_extended(files, module) for name in declared_constants(text))


def definitions(files: Mapping[str, str], module: str) -> frozenset[str]:
    """The names that `module` and its EXTENDS define, including those within a LET."""
    return frozenset(
        name for text in _with_extended(files, module) for name in _DEFINED.findall(without_comments(text))
    )


def without_comments(text: str) -> str:
    """`text` with each comment replaced by a space."""
    return _BLOCK_COMMENT.sub(" ", _LINE_COMMENT.sub(" ", text))


def _with_extended(files: Mapping[str, str], module: str) -> Iterator[str]:
    """The texts of `module` and of all modules it extends that are in `files`."""
    waiting, seen = [module], {module}
    while waiting:
        text = files.get(f"{waiting.pop()}.tla")
        if text is None:
            continue
        yield text
        for named in _EXTENDS.findall(without_comments(text)):
            for name in re.findall(r"\w+", named):
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)
