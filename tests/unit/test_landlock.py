"""The Landlock trial: it says what it found, touches nothing of the caller's, and never takes silence for yes."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.linux import landlock
from engine.linux.landlock import Landlock
from engine.linux.syscall import library_call
from tests.in_a_child import in_a_child
from tests.old_kernel import forget, skip_if_it_cannot_be_made

NEW_MOUNT_NAMESPACE, RECURSIVE, SHARED = 0x00020000, 0x4000, 1 << 20
CREATE_RULESET = 444

pytestmark = pytest.mark.usefixtures("needs_root")


def nothing(*_: Any) -> None:
    """Instead of the domain: what a kernel would do whose domains do not forbid to mount."""


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(*_: Any) -> None:
    raise RuntimeError("a fault")


def forbid(*_: Any) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


def know_nothing_of_it(*_: Any) -> None:
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


def test_a_kernel_without_it_is_not_even_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi_version", lambda: 0)
    monkeypatch.setattr(landlock, "restrict_execute", fail)
    assert landlock.probe() is Landlock.UNAVAILABLE


@pytest.mark.parametrize("abi", [1, 7])
def test_a_process_that_may_not_restrict_itself_is_told(monkeypatch: pytest.MonkeyPatch, abi: int) -> None:
    monkeypatch.setattr(landlock, "abi_version", lambda: abi)
    monkeypatch.setattr(landlock, "restrict_execute", forbid)
    assert landlock.probe() is Landlock.FORBIDDEN


def test_where_a_domain_lets_mount_it_is_usable_and_the_trial_changes_no_mount_of_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(landlock, "abi_version", lambda: 1)
    monkeypatch.setattr(landlock, "restrict_execute", nothing)

    def act() -> tuple[Landlock, bool]:
        library_call("unshare", NEW_MOUNT_NAMESPACE)
        library_call("mount", b"", b"/", b"", SHARED | RECURSIVE, 0)
        before = Path("/proc/self/mountinfo").read_text()
        return landlock.probe(), Path("/proc/self/mountinfo").read_text() == before

    assert in_a_child(act) == (Landlock.USABLE, True)


def test_a_mount_that_fails_for_another_reason_says_nothing_about_landlock(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, "abi_version", lambda: 1)
    monkeypatch.setattr(landlock, "restrict_execute", lambda _: os.chroot(private))  # where / is no mount
    with pytest.raises(OSError, match="ended without an answer"):
        landlock.probe()


@pytest.mark.parametrize("end", [die, fail, know_nothing_of_it])
def test_a_trial_that_ends_without_an_answer_is_no_success(
    monkeypatch: pytest.MonkeyPatch, end: Callable[..., None]
) -> None:
    monkeypatch.setattr(landlock, "abi_version", lambda: 1)
    monkeypatch.setattr(landlock, "restrict_execute", end)
    with pytest.raises(OSError, match=r"Landlock trial") as failure:
        landlock.probe()
    assert (failure.value.errno, failure.value.strerror) == (
        errno.EIO,
        "the Landlock trial ended without an answer",
    )


def test_on_a_kernel_without_landlock_nobody_is_told_that_it_is_enforced() -> None:
    skip_if_it_cannot_be_made()

    def act() -> int | None:
        landlock.abi_version()  # imported while it can be
        forget(CREATE_RULESET)
        try:
            landlock.restrict_execute(["/"])
        except OSError as error:
            return error.errno
        return 0

    assert in_a_child(act) in {errno.ENOSYS, errno.EOPNOTSUPP}
