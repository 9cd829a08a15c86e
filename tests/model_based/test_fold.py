"""The folded graph that the engine draws is the one that TLC finds."""

from __future__ import annotations

from engine.spec.fold import load_fold, make_fold
from engine.spec.models import load


def test_committed_fold_is_what_tlc_finds() -> None:
    fresh = make_fold()
    assert load_fold() == fresh, "engine/spec/spec_fold.json is stale: ./just diagrams"
    assert sum(fresh.states.values()) == load().model(fresh.name).distinct
