"""What the documents name exists: each test, each file, each linked page."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def _names_of_tests(path: Path) -> set[str]:
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)
            }
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
    return names


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_a_document_names_exists(document: Path) -> None:
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", document.read_text()):
        assert name in _names_of_tests(ROOT / file), f"{document.name} names {file}::{name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_a_document_links_to_or_names_exists(document: Path) -> None:
    text = document.read_text()
    linked = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    for target in filter(None, linked):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"
    for named in re.findall(
        r"`((?:engine|specs|tests|docs|setup|examples|diagrams|benchmarks)/[\w./-]+)`", text
    ):
        assert (ROOT / named).exists(), f"{document.name} names {named}"


def test_the_parity_table_has_a_test_in_every_row() -> None:
    rows = [
        line for line in (ROOT / "docs/reference-parity.md").read_text().splitlines() if line.startswith("| ")
    ]
    assert len(rows) > 25
    for row in rows[1:]:
        assert "::test_" in row, row
