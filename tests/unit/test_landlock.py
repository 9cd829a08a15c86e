"""Landlock: what a domain is asked for, and a trial that never takes silence for yes and touches nothing."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from engine.linux import landlock
from engine.linux.landlock import Landlock
from engine.linux.syscall import library_call
from tests.unit.forked import become_ordinary, can_run, failure, in_a_child
from tests.unit.old_kernel import forget, skip_if_it_cannot_be_made

NEW_MOUNT_NAMESPACE, RECURSIVE, SHARED = 0x00020000, 0x4000, 1 << 20
CREATE_RULESET = 444


def test_the_domain_handles_execution_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    import landlockpy

    told: list[Any] = []

    class Ruleset:
        def __init__(self, **handled: Any) -> None:
            told.append(handled)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            told.append("closed")

        def allow_path(self, *allowed: Any) -> None:
            told.append(allowed)

        def restrict(self, **how: Any) -> None:
            told.append(how)

    monkeypatch.setattr(landlockpy, "Ruleset", Ruleset)
    landlock.restrict_execute(["/a", "/b"])
    execute = landlockpy.AccessFS.EXECUTE
    assert told == [
        {"handled_fs": execute, "handled_net": landlockpy.AccessNet.NONE, "best_effort": False},
        ("/a", execute),
        ("/b", execute),
        {"no_new_privs": False},
        "closed",
    ]


def test_a_kernel_without_landlock_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi_version", lambda: 0)
    monkeypatch.setattr(landlock, "_try_to_mount_in_a_domain", lambda: 0)
    assert landlock.probe() is Landlock.UNAVAILABLE


@pytest.mark.parametrize(
    ("answer", "found"), [(0, Landlock.USABLE), (1, Landlock.FORBIDDEN), (2, Landlock.FORBIDS_MOUNT)]
)
def test_the_childs_answer_is_the_probes(
    monkeypatch: pytest.MonkeyPatch, answer: int, found: Landlock
) -> None:
    monkeypatch.setattr(landlock, "abi_version", lambda: 1)
    monkeypatch.setattr(landlock, "_try_to_mount_in_a_domain", lambda: answer)
    assert landlock.probe() is found


def _fails() -> int:
    raise RuntimeError("of something else")


@pytest.mark.parametrize(
    "act", [lambda: 3, _fails, lambda: os.kill(os.getpid(), signal.SIGKILL)], ids=["other", "fails", "dies"]
)
def test_a_trial_without_an_answer_says_nothing_about_landlock(
    monkeypatch: pytest.MonkeyPatch, act: Any
) -> None:
    monkeypatch.setattr(landlock, "abi_version", lambda: 1)
    monkeypatch.setattr(landlock, "_try_to_mount_in_a_domain", act)
    assert failure(landlock.probe) == (errno.EIO, "the Landlock trial ended without an answer", None)


@pytest.mark.parametrize(
    ("refused", "unshared", "mounted", "number", "answer"),
    [
        (None, 0, 0, 0, 0),
        (errno.EPERM, 0, 0, 0, 1),
        (errno.ENOSYS, 0, 0, 0, 3),
        (None, -1, 0, errno.EPERM, 3),
        (None, 0, -1, errno.EPERM, 2),
        (None, 0, -1, errno.EINVAL, 3),
    ],
)
def test_the_trial_tells_a_mount_that_is_forbidden_from_all_else(
    monkeypatch: pytest.MonkeyPatch,
    refused: int | None,
    unshared: int,
    mounted: int,
    number: int,
    answer: int,
) -> None:
    import ctypes

    asked: list[Any] = []

    def tell(result: int) -> Any:
        def call(*arguments: Any) -> int:
            asked.append(arguments)
            return result

        return call

    def restrict(allowed: Any) -> None:
        asked.append(allowed)
        if refused is not None:
            raise OSError(refused, "refused")

    def library(name: Any, *, use_errno: bool) -> Any:
        assert (name, use_errno) == (None, True)
        return SimpleNamespace(unshare=tell(unshared), mount=tell(mounted))

    monkeypatch.setattr(landlock, "restrict_execute", restrict)
    monkeypatch.setattr(ctypes, "CDLL", library)
    monkeypatch.setattr(ctypes, "get_errno", lambda: number)
    assert landlock._try_to_mount_in_a_domain() == answer
    calls = [["/"], (0x00020000,), (None, b"/", None, 0x44000, None)]
    assert asked == calls[: 1 if refused else 2 if unshared else 3]


# --- The real kernel ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("needs_landlock")
def test_the_probe_agrees_with_a_mount_tried_under_the_domain() -> None:
    import ctypes

    def act() -> bool:
        libc = ctypes.CDLL(None, use_errno=True)
        landlock.restrict_execute(["/"])
        assert libc.unshare(0x00020000) == 0
        return bool(libc.mount(None, b"/", None, 0x44000, None) == 0)

    expected = Landlock.USABLE if in_a_child(act) else Landlock.FORBIDS_MOUNT
    assert landlock.probe() is expected


@pytest.mark.usefixtures("needs_landlock", "no_child_left")
def test_the_probe_leaves_the_caller_free_and_no_child_behind() -> None:
    landlock.probe()
    assert can_run("/bin/true") == 0


@pytest.mark.usefixtures("needs_landlock")
def test_without_the_capability_the_probe_says_so() -> None:
    def act() -> str:
        become_ordinary()
        return landlock.probe()

    assert in_a_child(act) == Landlock.FORBIDDEN


@pytest.mark.usefixtures("needs_root")
def test_where_a_domain_lets_mount_it_is_usable_and_the_trial_changes_no_mount_of_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Instead of the domain nothing: what a kernel would do whose domains do not forbid to mount."""
    monkeypatch.setattr(landlock, "abi_version", lambda: 1)
    monkeypatch.setattr(landlock, "restrict_execute", lambda _: None)

    def act() -> tuple[Landlock, bool]:
        library_call("unshare", NEW_MOUNT_NAMESPACE)
        library_call("mount", b"", b"/", b"", SHARED | RECURSIVE, 0)
        before = Path("/proc/self/mountinfo").read_text()
        return landlock.probe(), Path("/proc/self/mountinfo").read_text() == before

    assert in_a_child(act) == (Landlock.USABLE, True)


@pytest.mark.usefixtures("needs_root")
def test_on_a_kernel_without_landlock_nobody_is_told_that_it_is_enforced() -> None:
    skip_if_it_cannot_be_made()

    def act() -> int | None:
        landlock.abi_version()  # imported while it can be
        forget(CREATE_RULESET)
        return failure(lambda: landlock.restrict_execute(["/"]))[0]

    assert in_a_child(act) in {errno.ENOSYS, errno.EOPNOTSUPP}
