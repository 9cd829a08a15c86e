"""A module as text: its parts keep their columns, and the names that a configuration may use are found."""

from __future__ import annotations

import pytest

from engine.spec.models import load
from engine.spec.module_text import Part, constants, declared_constants, definitions, parts

MODULE = r"""---- MODULE Door ----
(* Opens ==
   a comment *)
EXTENDS Naturals,
        Hinge

CONSTANTS
    Doors,      \* which there are, and Locked, which is no constant
    Key(_, _),  (* Code, nor this *)
    Few
CONSTANT Many
VARIABLES open

Closed(d) == /\ open[d] = FALSE
             /\ TRUE

Never == LET Inner == 1 IN Inner
\* Old == 1
====
"""
HINGE = "---- MODULE Hinge ----\nCONSTANT Oil\nCreaks == FALSE\n====\n"
FILES = {
    "Door.tla": MODULE,
    "Hinge.tla": HINGE,
    "Other.tla": "---- MODULE Other ----\nCONSTANT Alien\n====\n",
}


@pytest.mark.parametrize("text", [MODULE, HINGE, *load().files.values()])
def test_parts_joined_are_the_module(text: str) -> None:
    assert "".join(part.text for part in parts(text)) == text


def test_a_body_keeps_each_token_in_its_column() -> None:
    [closed] = [part for part in parts(MODULE) if part.name == "Closed"]
    assert closed.parameters == "(d)"
    assert closed.body.splitlines()[:2] == [
        "             /\\ open[d] = FALSE",
        "             /\\ TRUE",
    ]


def test_a_comment_defines_nothing() -> None:
    assert [part.name for part in parts(MODULE) if part.name] == ["Closed", "Never"]


def test_a_part_without_a_definition_has_no_parameters() -> None:
    assert Part("", "VARIABLES open\n").parameters == ""


def test_constants_include_those_of_extended_modules() -> None:
    assert declared_constants(MODULE) == ("Doors", "Key", "Few", "Many")
    assert constants(FILES, "Door") == {"Doors", "Key", "Few", "Many", "Oil"}


def test_definitions_include_those_of_extended_modules() -> None:
    assert {"Closed", "Never", "Creaks"} <= definitions(FILES, "Door")
    assert not {"Opens", "Old"} & definitions(FILES, "Door")


def test_the_constants_of_the_real_specs_are_all_assigned() -> None:
    specs = load()
    for model in specs.models:
        assert model.configuration.constants.keys() == constants(specs.files, model.module), model.name
