"""What has to be known before any test is collected: Hypothesis's profiles, and who sums up the stateful tests."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("deep", max_examples=20_000, deadline=None, print_blob=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--profile", metavar="NAME", help="short for --hypothesis-profile")


def pytest_configure(config: pytest.Config) -> None:
    if profile := config.getoption("--profile"):
        settings.load_profile(profile)
    from tests.model_based.spec_coverage import SpecCoverage

    config.pluginmanager.register(SpecCoverage())
