"""Step `apply_policy`: what is enforced is enforced by the kernel, what is not is said, and required is required."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from engine.errors import PolicyError
from engine.lifecycle.machine import PolicyOutcome
from engine.lifecycle.policy import apply_policy
from engine.linux import landlock
from engine.linux.landlock import Landlock
from engine.options import ExecPolicy, RunOptions


def options(
    *, policy: ExecPolicy = ExecPolicy.AUTO, rootless: bool = True, required: bool = False
) -> RunOptions:
    return RunOptions("web", rootless=rootless, exec_policy=policy, require_exec_policy=required)


class Kernel:
    """Answers as a kernel would, and notes what was asked of it."""

    def __init__(self, answer: Landlock = Landlock.USABLE, error: OSError | None = None) -> None:
        self.answer = answer
        self.error = error
        self.restricted: list[list[str]] = []

    def probe(self) -> Landlock:
        return self.answer

    def restrict(self, allowed: Sequence[str]) -> None:
        if self.error is not None:
            raise self.error
        self.restricted.append(list(allowed))


def settle(kernel: Kernel, chosen: RunOptions) -> tuple[PolicyOutcome, str | None]:
    policy = apply_policy(chosen, ["/allow"], probe=kernel.probe, restrict=kernel.restrict)
    return policy.outcome, policy.reason


def test_it_concerns_rootless_runs_only() -> None:
    kernel = Kernel()
    assert settle(kernel, options(rootless=False))[0] is PolicyOutcome.NOT_APPLICABLE
    assert (
        settle(kernel, options(rootless=False, policy=ExecPolicy.LANDLOCK))[0] is PolicyOutcome.NOT_APPLICABLE
    )
    assert kernel.restricted == []


def test_a_usable_landlock_is_enforced_on_the_staging_directory_alone() -> None:
    kernel = Kernel()
    policy = apply_policy(options(required=True), ["/allow"], probe=kernel.probe, restrict=kernel.restrict)
    assert kernel.restricted == [["/allow"]]
    assert policy.facts() == {
        "outcome": "enforced",
        "mechanism": "landlock",
        "allowed": ["/allow"],
        "reason": None,
    }


@pytest.mark.parametrize("answer", [Landlock.UNAVAILABLE, Landlock.FORBIDDEN, Landlock.FORBIDS_MOUNT])
def test_auto_leaves_out_a_landlock_that_would_stop_runsc_and_says_why(answer: Landlock) -> None:
    kernel = Kernel(answer)
    assert settle(kernel, options()) == (PolicyOutcome.UNAVAILABLE, answer.value)
    assert kernel.restricted == []
    with pytest.raises(PolicyError, match="required execute policy is not enforced"):
        settle(kernel, options(required=True))


def test_landlock_that_was_asked_for_is_applied_for_a_runsc_that_does_not_mount() -> None:
    kernel = Kernel(Landlock.FORBIDS_MOUNT)
    assert settle(kernel, options(policy=ExecPolicy.LANDLOCK))[0] is PolicyOutcome.ENFORCED
    assert kernel.restricted == [["/allow"]]


@pytest.mark.parametrize("policy", [ExecPolicy.AUTO, ExecPolicy.LANDLOCK])
def test_a_kernel_that_refuses_the_domain_makes_it_unavailable_and_a_required_one_fatal(
    policy: ExecPolicy,
) -> None:
    kernel = Kernel(error=PermissionError(1, "Operation not permitted"))
    assert settle(kernel, options(policy=policy)) == (
        PolicyOutcome.UNAVAILABLE,
        "Landlock: Operation not permitted",
    )
    with pytest.raises(PolicyError, match="Operation not permitted"):
        settle(kernel, options(policy=policy, required=True))


def test_off_is_off_and_contradicts_required() -> None:
    assert settle(Kernel(), options(policy=ExecPolicy.OFF))[0] is PolicyOutcome.UNAVAILABLE
    with pytest.raises(PolicyError, match="turned off"):
        settle(Kernel(), options(policy=ExecPolicy.OFF, required=True))


def test_required_without_rootless_is_refused_as_nothing_would_be_enforced() -> None:
    with pytest.raises(PolicyError, match="--rootless"):
        settle(Kernel(), options(rootless=False, required=True))


def in_a_child(act: Callable[[], int]) -> int:
    """What `act` answers in a child, where an irreversible restriction stays."""
    child = os.fork()
    if child == 0:
        answer = 99
        try:
            answer = act()
        finally:
            os._exit(answer)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def can_run(program: str) -> int:
    try:
        return os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(program, [program], {}), 0)[1])
    except PermissionError:
        return 13


@pytest.fixture
def _needs_landlock_and_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: Landlock without no_new_privs takes CAP_SYS_ADMIN")
    if landlock.abi_version() == 0:
        pytest.skip("needs a kernel with Landlock")


@pytest.mark.usefixtures("_needs_landlock_and_root")
class TestRealKernel:
    def test_only_what_lies_beneath_the_allowed_directory_can_be_executed(self, private: Path) -> None:
        busybox = shutil.which("busybox")
        if busybox is None:
            pytest.skip("needs busybox-static: a program that loads no other file")
        (private / "allow").mkdir()
        (private / "other").mkdir()
        for place in ("allow", "other"):
            shutil.copy(busybox, private / place / "true")

        def act() -> int:
            chosen = options(policy=ExecPolicy.LANDLOCK, required=True)
            assert apply_policy(chosen, [str(private / "allow")]).outcome is PolicyOutcome.ENFORCED
            assert can_run("/bin/true") == 13
            assert can_run(str(private / "other" / "true")) == 13
            assert "NoNewPrivs:\t0" in Path("/proc/self/status").read_text()
            return can_run(str(private / "allow" / "true"))

        assert in_a_child(act) == 0

    def test_the_probe_agrees_with_a_mount_tried_under_the_domain(self) -> None:
        import ctypes

        def act() -> int:
            libc = ctypes.CDLL(None, use_errno=True)
            landlock.restrict_execute(["/"])
            assert libc.unshare(0x00020000) == 0
            return 0 if libc.mount(None, b"/", None, 0x44000, None) == 0 else 1

        expected = Landlock.USABLE if in_a_child(act) == 0 else Landlock.FORBIDS_MOUNT
        assert landlock.probe() is expected

    def test_the_probe_leaves_the_caller_free(self) -> None:
        landlock.probe()
        assert can_run("/bin/true") == 0

    def test_without_the_capability_the_probe_says_so(self) -> None:
        def act() -> int:
            os.setgroups([])
            os.setresgid(4242, 4242, 4242)
            os.setresuid(4242, 4242, 4242)
            return 0 if landlock.probe() is Landlock.FORBIDDEN else 1

        assert in_a_child(act) == 0
