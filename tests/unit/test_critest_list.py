"""The list of critest's specs that fail: what leaves it or enters it is told, and each entry says whose doing it is."""

from __future__ import annotations

import pytest

from tests.kubernetes.critest import Expected, Spec, differences, expected

_LISTED = {"known": Expected("gVisor", "it has no such thing")}


def _spec(name: str, state: str) -> Spec:
    return Spec(name, state, "what it said", 1.0)


@pytest.mark.parametrize("state", ["failed", "timedout", "panicked", "interrupted"])
def test_spec_that_fails_and_is_not_listed_is_told(state: str) -> None:
    (told,) = differences([_spec("new", state)], _LISTED)
    assert "new" in told
    assert "what it said" in told


def test_listed_spec_that_passes_is_told() -> None:
    (told,) = differences([_spec("known", "passed")], _LISTED)
    assert "known" in told


def test_what_is_as_listed_is_not_told() -> None:
    specs = [_spec("known", "failed"), _spec("good", "passed"), _spec("elsewhere", "skipped")]
    assert differences(specs, _LISTED) == []


@pytest.mark.parametrize("containerd", ["1.6", "2.1"])
def test_each_entry_says_whose_and_why(containerd: str) -> None:
    listed = expected(containerd)
    assert listed
    for name, entry in listed.items():
        assert entry.whose in {"gVisor", "ours", "containerd", "the images"}, name
        assert entry.why, name
        assert set(entry.containerd) <= {"1.6", "2.1"}, name
