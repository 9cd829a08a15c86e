"""What has to be done before any test is collected.

Hypothesis's profiles, who sums up the stateful tests, mounts of our own, and the runsc that is tested.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest

_NEW_MOUNT_NAMESPACE, _RECURSIVE, _PRIVATE = 0x20000, 0x4000, 1 << 18  # unshare(2), mount(2)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--profile", metavar="NAME", help="short for --hypothesis-profile")


@pytest.hookimpl(tryfirst=True)  # before Hypothesis's plugin loads what --hypothesis-profile names
def pytest_configure(config: pytest.Config) -> None:
    if profile := config.getoption("--profile") or config.getoption("--hypothesis-profile", None):
        from hypothesis import settings  # a tenth of a second, which most runs of few tests can do without

        settings.register_profile("deep", max_examples=20_000, deadline=None, print_blob=True)
        settings.load_profile(profile)
    from tests.model_based.spec_coverage import SpecCoverage

    config.pluginmanager.register(SpecCoverage())
    _leave_the_mounts_of_others()
    if chosen := os.environ.get("ENGINE_TEST_RUNSC"):
        from tests.support.chosen_runsc import put_in_place

        try:
            put_in_place(Path(chosen))
        except (OSError, ValueError) as error:
            raise pytest.UsageError(f"ENGINE_TEST_RUNSC: {error}") from None


def _leave_the_mounts_of_others() -> None:
    """Give this process mounts of its own, where it may: what others mount or unmount meanwhile changes no test."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)  # not by the engine, which may be a mutant
    done = libc.unshare(_NEW_MOUNT_NAMESPACE) or libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None)
    if done != 0 and ctypes.get_errno() != errno.EPERM:  # as in a container without CAP_SYS_ADMIN
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
