"""What has to be known before any test is collected: Hypothesis's profiles, and who sums up the stateful tests."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("deep", max_examples=20_000, deadline=None, print_blob=True)


def pytest_configure(config: pytest.Config) -> None:
    from tests.model_based.spec_coverage import SpecCoverage

    config.pluginmanager.register(SpecCoverage())
