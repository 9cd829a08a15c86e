"""What may be chosen for a run: an id is a plain name or it is refused."""

from __future__ import annotations

import pytest

from engine.errors import Reason, UsageError
from engine.options import MAX_CONTAINER_ID, RunOptions
from tests.support.refusals import refuses


@pytest.mark.parametrize("container_id", ["web", "a", "_x", "0", "a.b-c+d_e", "A" * MAX_CONTAINER_ID])
def test_a_plain_name_is_an_id(container_id: str) -> None:
    assert RunOptions(container_id).container_id == container_id


@pytest.mark.parametrize(
    "container_id",
    [
        *("", ".", "..", "../x", "/x", "a/b", "a b", " ", "-x", "--help", "+x", ".hidden"),
        *("a\0b", "a\n", "\n", "a\tb", "é", "\u0661", "a\u202eb", "\ud800", "a:b", "a@b"),
        "x" * (MAX_CONTAINER_ID + 1),
        "x" * 300,
    ],
)
def test_anything_else_is_refused_in_one_printable_line(container_id: str) -> None:
    with refuses(UsageError, Reason.USAGE) as refusal:
        RunOptions(container_id)
    assert refusal.value.exit_code == 2
    assert len(str(refusal.value)) < 250
