"""The values that TLC prints."""

from __future__ import annotations

import pytest

from engine.spec.values import Function, ModelValue, Value, flatten, format_value, parse_state, parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("TRUE", True),
        ("-3", -3),
        ('"a \\"quoted\\" word"', 'a "quoted" word'),
        ("r1", ModelValue("r1")),
        ("<<1, <<>>>>", (1, ())),
        ('{"b", "a"}', frozenset({'"a"', '"b"'})),
        ("{}", frozenset()),
        ("1..3", frozenset({"1", "2", "3"})),
        ("[root |-> FALSE, bundle |-> 2]", {"root": False, "bundle": 2}),
        ('(r1 :> "x" @@ r2 :> "y")', {"r1": "x", "r2": "y"}),
        (
            "( r1 :>\n      [ rootless |-> TRUE,\n        required |-> FALSE ] )",
            {"r1": {"rootless": True, "required": False}},
        ),
    ],
)
def test_a_value_is_read_as_tlc_prints_it(text: str, value: Value) -> None:
    assert parse_value(text) == value


@pytest.mark.parametrize(
    "text", ["", "<<1", "[a |-> ]", "1 2", "(r1 :> )", "{1,,2}", "?", "[1 |-> 2]", '"a".."b"']
)
def test_what_is_no_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="value"):
        parse_value(text)


def test_a_state_is_its_variables() -> None:
    state = parse_state(
        '/\\ state = (r1 :> "start")\n/\\ option = ( r1 :>\n      [ rootless |-> TRUE ] )\n/\\ moves = 0\n'
    )
    assert state == {"state": {"r1": "start"}, "option": {"r1": {"rootless": True}}, "moves": 0}


def test_a_state_of_one_variable_has_no_conjunction() -> None:
    assert parse_state("x = 0\n") == {"x": 0}


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(ValueError, match="not a state"):
        parse_state("Stuttering")


def test_each_part_of_a_state_has_a_name_of_its_own() -> None:
    state = parse_state(
        '/\\ seen = (r1 :> [root |-> "loose"] @@ r2 :> [root |-> "private"])\n/\\ path = "vendor"'
    )
    assert flatten(state) == {"seen[r1].root": "loose", "seen[r2].root": "private", "path": "vendor"}


@pytest.mark.parametrize(
    "text", ["TRUE", "-3", '"word"', "r1", "<<1, 2>>", '{"a", "b"}', "[a |-> 1]", "(r1 :> 1 @@ r2 :> 2)"]
)
def test_a_value_is_written_as_it_was_read(text: str) -> None:
    assert format_value(parse_value(text)) == text


def test_a_function_is_told_from_a_record() -> None:
    assert isinstance(parse_value("(r1 :> 1)"), Function)
    assert not isinstance(parse_value("[r1 |-> 1]"), Function)
