"""Strict JSON: what two readers could read differently is refused where it stands. `test_oci_config` has the rest."""

from __future__ import annotations

import pytest

from engine.bundle.strict_json import MismatchError, NotJsonError, read

ANY_TEXT = b'{"\\u0000": ["\\udcff", "a\\u0000"]}'


def test_text_no_c_string_can_hold_is_read_where_allowed() -> None:
    with pytest.raises(MismatchError):
        read(ANY_TEXT)
    assert read(ANY_TEXT, any_text=True) == {"\0": ["\udcff", "a\0"]}


@pytest.mark.parametrize("any_text", [False, True])
@pytest.mark.parametrize(
    ("data", "member"),
    [(b'{"a": [{"b": 1, "b": 1}]}', "$.a[0].b"), (b'["\\u0041", Infinity]', "$[1]"), (b"1" * 101, "$")],
)
def test_what_is_read_in_two_ways_is_refused_by_its_path(data: bytes, member: str, any_text: bool) -> None:
    with pytest.raises(MismatchError) as refused:
        read(data, any_text=any_text)
    assert refused.value.member == member


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"", "column 1"),
        (b"\n\n{", "line 3, column 2"),
        (b"[" * 100_000, ""),
        (b'"\xff"', "0xff at offset 1"),
    ],
)
def test_what_is_not_json_is_said_to_be_none(data: bytes, where: str) -> None:
    with pytest.raises(NotJsonError) as refused:
        read(data)
    assert where in refused.value.what
