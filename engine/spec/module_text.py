"""A TLA+ module read as text: its parts, and the names that it and what it extends declare and define.

SANY is the one who parses. This is for what SANY and TLC let pass, and for edits that keep each token in its column.
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
    """A stretch of a module that begins in the first column. `name` is what it defines, "" where it defines nothing."""

    name: str
    text: str

    @property
    def parameters(self) -> str:
        """The parameters of the definition with their parentheses, or ""."""
        head = _HEAD.match(self.text)
        return head[2] or "" if head else ""

    @property
    def body(self) -> str:
        """What is defined. It is to stand on a line of its own: each token is then in its column still."""
        head = _HEAD.match(self.text)
        if head is None:
            return self.text
        return " " * head.end() + self.text[head.end() :]


def parts(text: str) -> tuple[Part, ...]:
    """The parts of a module: joined, their texts are `text`."""
    found: list[list[str]] = []
    for line in text.splitlines(keepends=True):
        if not found or not line[0].isspace():
            found.append([])
        found[-1].append(line)
    return tuple(Part(head[1] if (head := _HEAD.match(lines[0])) else "", "".join(lines)) for lines in found)


def declared_constants(text: str) -> tuple[str, ...]:
    """The constants that a module, or a part of one, declares, in order."""
    plain = without_comments(text)
    return tuple(
        name for block in _CONSTANTS.findall(plain) for name in _DECLARATION.findall(block) if name != "_"
    )


def constants(files: Mapping[str, str], module: str) -> frozenset[str]:
    """The constants that a configuration of `module` may assign: its own and those of the modules that it extends."""
    return frozenset(name for text in _with_extended(files, module) for name in declared_constants(text))


def definitions(files: Mapping[str, str], module: str) -> frozenset[str]:
    """What `module` and the modules that it extends define. Names within a LET are among them."""
    return frozenset(
        name for text in _with_extended(files, module) for name in _DEFINED.findall(without_comments(text))
    )


def without_comments(text: str) -> str:
    """`text` with a space in the place of each comment."""
    return _BLOCK_COMMENT.sub(" ", _LINE_COMMENT.sub(" ", text))


def _with_extended(files: Mapping[str, str], module: str) -> Iterator[str]:
    """The texts of `module` and of all that it extends, as far as they are in `files`."""
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
