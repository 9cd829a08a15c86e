"""Step `apply_policy`: what is enforced is enforced by the kernel, what is not is said, and required is required."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.bundle import Bundle, open_bundle
from engine.errors import PolicyError
from engine.lifecycle import policy as policy_step
from engine.lifecycle.executable import executable_trees
from engine.lifecycle.machine import PolicyOutcome
from engine.lifecycle.policy import BACKENDS, Strength, apply_policy
from engine.linux import landlock, locked_mounts
from engine.linux.landlock import Landlock
from engine.linux.locked_mounts import Tree, UnusableError
from engine.linux.namespaces import IdMaps, Range
from engine.options import ExecPolicy, RunOptions
from tests.in_a_child import in_a_child

SINGLE = IdMaps((Range(0, 1000, 1),), (Range(0, 1000, 1),), "single")


def options(
    *, policy: ExecPolicy = ExecPolicy.AUTO, rootless: bool = True, required: bool = False
) -> RunOptions:
    return RunOptions("web", rootless=rootless, exec_policy=policy, require_exec_policy=required)


def make_bundle(private: Path, **changes: Any) -> Bundle:
    """A bundle with a read-only root, into which nothing is mounted."""
    directory = private / "bundle"
    (directory / "rootfs").mkdir(parents=True)
    config = {
        "ociVersion": "1.0.2",
        "process": {"cwd": "/", "args": ["/bin/true"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs", "readonly": True},
        **changes,
    }
    (directory / "config.json").write_text(json.dumps(config))
    return open_bundle(str(directory))


@pytest.fixture
def bundle(private: Path) -> Bundle:
    return make_bundle(private)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of a kernel that can do everything, and does nothing."""
    asked: list[Any] = []
    monkeypatch.setattr(landlock, "probe", lambda: Landlock.USABLE)
    monkeypatch.setattr(landlock, "restrict_execute", asked.append)
    monkeypatch.setattr(locked_mounts, "probe", lambda trees, *, sealed: SINGLE)
    monkeypatch.setattr(
        locked_mounts, "confine", lambda maps, trees, *, sealed: asked.append((maps, trees, sealed))
    )
    monkeypatch.setattr(policy_step, "sysctl", {"vm.memfd_noexec": "0"}.get)
    monkeypatch.setattr(policy_step, "_open_standard_files", lambda: iter(()))
    return asked


def test_it_concerns_rootless_runs_only(bundle: Bundle, kernel: list[Any]) -> None:
    for chosen in ExecPolicy:
        settled = apply_policy(options(rootless=False, policy=chosen), bundle, "/allow")
        assert settled.facts() == {
            "outcome": "not_applicable",
            "mechanism": None,
            "strength": None,
            "allowed": [],
            "open": [],
            "ids": None,
            "reason": "it applies to --rootless runs",
        }
        assert settled.remedy == "add --rootless, or do not require it"
    assert kernel == []


def test_every_policy_that_can_be_chosen_has_its_backend() -> None:
    assert set(BACKENDS) == set(ExecPolicy)
    assert BACKENDS[ExecPolicy.AUTO] is BACKENDS[ExecPolicy.LOCKED_MOUNTS]


def test_auto_locks_the_mounts_and_leaves_the_bundles_root_executable(
    bundle: Bundle, kernel: list[Any]
) -> None:
    settled = apply_policy(options(required=True), bundle, "/allow")
    [(maps, [tree], sealed)] = kernel
    assert (maps, sealed) == (SINGLE, True)
    assert (tree.path, tree.identity, tree.read_only) == (bundle.rootfs, bundle.rootfs_identity, True)
    assert settled.facts() == {
        "outcome": "enforced",
        "mechanism": "locked-mounts",
        "strength": "sealed",
        "allowed": [bundle.rootfs],
        "open": ["memfd"],
        "ids": "single",
        "reason": None,
    }


def test_a_root_that_the_container_may_write_is_not_sealed_and_that_is_said(
    private: Path, kernel: list[Any]
) -> None:
    settled = apply_policy(options(), make_bundle(private, root={"path": "rootfs"}), "/allow")
    [(_, [tree], sealed)] = kernel
    assert (tree.read_only, sealed) == (False, False)
    assert (settled.strength, settled.open) == (Strength.HOST, ("memfd", "allowed", "mount"))


def test_landlock_allows_the_staging_directory_alone(bundle: Bundle, kernel: list[Any]) -> None:
    settled = apply_policy(options(policy=ExecPolicy.LANDLOCK, required=True), bundle, "/allow")
    assert kernel == [["/allow"]]
    assert settled.facts() == {
        "outcome": "enforced",
        "mechanism": "landlock",
        "strength": "host",
        "allowed": ["/allow"],
        "open": ["memfd", "allowed"],
        "ids": None,
        "reason": None,
    }


def test_landlock_that_was_asked_for_is_applied_for_a_runsc_that_does_not_mount(
    bundle: Bundle, kernel: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, "probe", lambda: Landlock.FORBIDS_MOUNT)
    chosen = options(policy=ExecPolicy.LANDLOCK)
    assert apply_policy(chosen, bundle, "/allow").outcome is PolicyOutcome.ENFORCED
    assert kernel == [["/allow"]]


@pytest.mark.parametrize("answer", [Landlock.UNAVAILABLE, Landlock.FORBIDDEN])
def test_a_landlock_that_cannot_be_had_is_unavailable_and_a_required_one_is_refused(
    bundle: Bundle, kernel: list[Any], monkeypatch: pytest.MonkeyPatch, answer: Landlock
) -> None:
    monkeypatch.setattr(landlock, "probe", lambda: answer)
    settled = apply_policy(options(policy=ExecPolicy.LANDLOCK), bundle, "/allow")
    assert (settled.outcome, settled.reason) == (PolicyOutcome.UNAVAILABLE, answer.value)
    with pytest.raises(PolicyError, match="required execute policy is not enforced"):
        apply_policy(options(policy=ExecPolicy.LANDLOCK, required=True), bundle, "/allow")
    assert kernel == []


def test_a_kernel_that_refuses_the_domain_makes_landlock_unavailable(
    bundle: Bundle, kernel: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def restrict_execute(_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(landlock, "restrict_execute", restrict_execute)
    settled = apply_policy(options(policy=ExecPolicy.LANDLOCK), bundle, "/allow")
    assert settled.reason == "Landlock: Operation not permitted"
    assert settled.remedy == "leave --exec-policy at auto"


@pytest.mark.parametrize("chosen", [ExecPolicy.AUTO, ExecPolicy.LOCKED_MOUNTS])
def test_namespaces_that_are_forbidden_are_named_with_the_remedy(
    bundle: Bundle, kernel: list[Any], monkeypatch: pytest.MonkeyPatch, chosen: ExecPolicy
) -> None:
    def probe(trees: object, *, sealed: bool) -> IdMaps:
        raise UnusableError("user namespaces are forbidden by x = 0", "sysctl x=1")

    monkeypatch.setattr(locked_mounts, "probe", probe)
    settled = apply_policy(options(policy=chosen), bundle, "/allow")
    assert (settled.outcome, settled.reason) == (
        PolicyOutcome.UNAVAILABLE,
        "user namespaces are forbidden by x = 0",
    )
    with pytest.raises(PolicyError) as refusal:
        apply_policy(options(policy=chosen, required=True), bundle, "/allow")
    assert refusal.value.remedy == "sysctl x=1"
    assert kernel == []


def test_a_policy_that_was_applied_in_part_is_refused_required_or_not(
    bundle: Bundle, kernel: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is in other namespaces by then: there is no way back to a run without a policy."""

    def confine(maps: object, trees: object, *, sealed: bool) -> None:
        raise OSError(28, "No space left on device", "a new user namespace")

    monkeypatch.setattr(locked_mounts, "confine", confine)
    with pytest.raises(PolicyError, match="applied in part only: a new user namespace: No space left"):
        apply_policy(options(), bundle, "/allow")


def test_off_is_off_and_contradicts_required(bundle: Bundle, kernel: list[Any]) -> None:
    chosen = options(policy=ExecPolicy.OFF)
    assert apply_policy(chosen, bundle, "/allow").facts() == {
        "outcome": "unavailable",
        "mechanism": None,
        "strength": None,
        "allowed": [],
        "open": [],
        "ids": None,
        "reason": "it was turned off with --exec-policy off",
    }
    with pytest.raises(PolicyError, match="turned off") as refusal:
        apply_policy(options(policy=ExecPolicy.OFF, required=True), bundle, "/allow")
    assert refusal.value.remedy == "leave --exec-policy at auto"
    assert kernel == []


def test_required_without_rootless_is_refused_as_nothing_would_be_enforced(bundle: Bundle) -> None:
    with pytest.raises(PolicyError, match="--rootless"):
        apply_policy(options(rootless=False, required=True), bundle, "/allow")


def test_a_bundle_that_takes_the_hosts_root_cannot_be_confined_and_that_is_said(
    private: Path, kernel: list[Any]
) -> None:
    mounts = [{"destination": "/host", "type": "bind", "source": "/", "options": ["ro"]}]
    settled = apply_policy(options(), make_bundle(private, mounts=mounts), "/allow")
    assert settled.outcome is PolicyOutcome.UNAVAILABLE
    assert settled.reason == (
        "the bundle uses the host's / as files of the container, so all of it must stay executable"
    )
    assert settled.remedy == "bind-mount less of the host"
    assert kernel == []


def test_files_that_cannot_be_looked_at_make_it_unavailable_and_are_named(
    bundle: Bundle, kernel: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def executable_trees(_: object) -> list[Tree]:
        raise PermissionError(13, "Permission denied", "/there")

    monkeypatch.setattr(policy_step, "executable_trees", executable_trees)
    settled = apply_policy(options(), bundle, "/allow")
    assert settled.outcome is PolicyOutcome.UNAVAILABLE
    assert (settled.reason, settled.remedy) == ("/there: Permission denied", "look at what it names")
    assert kernel == []


def test_what_is_tried_is_what_is_then_applied(
    private: Path, bundle: Bundle, kernel: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Any] = []

    def probe(trees: object, *, sealed: bool) -> IdMaps:
        tried.append((SINGLE, trees, sealed))
        return SINGLE

    monkeypatch.setattr(locked_mounts, "probe", probe)
    apply_policy(options(), bundle, "/allow")
    assert tried == kernel
    assert tried[0][1:] == (executable_trees(bundle), True)


def test_memfd_is_closed_where_the_system_forbids_to_execute_one(
    bundle: Bundle, kernel: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_step, "sysctl", {"vm.memfd_noexec": "2"}.get)
    assert apply_policy(options(), bundle, "/allow").open == ()


def test_a_regular_file_as_standard_input_is_a_way_left_open(private: Path) -> None:
    """Its descriptor has the caller's mount, which is not noexec."""

    def act() -> int:
        for descriptor in range(3):
            os.dup2(os.open("/dev/null", os.O_RDWR), descriptor)
        none = list(policy_step._open_standard_files())
        os.dup2(os.open(private / "file", os.O_RDWR | os.O_CREAT), 0)
        os.dup2(os.open(private, os.O_RDONLY), 2)
        some = list(policy_step._open_standard_files())
        os.dup2(2, 1)
        os.close(0)
        rest = list(policy_step._open_standard_files())
        return 0 if (none, some, rest) == ([], ["stdin", "stderr"], ["stdout", "stderr"]) else 1

    assert in_a_child(act) == 0


# --- What stays executable ------------------------------------------------------------------------------------


def trees_of(bundle: Bundle) -> dict[str, bool]:
    """Each path that stays executable, and whether it is made read-only."""
    return {tree.path: tree.read_only for tree in executable_trees(bundle)}


def test_bind_mounts_stay_executable_unless_they_are_noexec_or_hold_no_program(private: Path) -> None:
    for name in ("data", "tools", "quiet", "bundle"):
        (private / name).mkdir()
    (private / "plain").touch(0o644)
    (private / "program").touch(0o755)
    sources = [
        ("data", ["rbind"]),
        ("tools", ["bind", "ro"]),
        ("quiet", ["bind", "noexec"]),
        ("plain", ["bind"]),
        ("program", ["bind", "ro"]),
        ("absent", ["bind"]),
        ("bundle/beside", ["bind", "ro"]),
    ]
    (private / "bundle" / "beside").mkdir()
    (private / "bundle" / "rootfs").mkdir()
    mounts: list[dict[str, Any]] = [
        {"destination": f"/{name}", "source": str(private / name), "options": how} for name, how in sources
    ]
    mounts[-1]["source"] = "beside"
    mounts.append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})
    (private / "bundle" / "rootfs").rmdir()
    shutil.rmtree(private / "bundle")
    bundle = make_bundle(private, mounts=mounts)
    (private / "bundle" / "beside").mkdir()
    assert trees_of(bundle) == {
        bundle.rootfs: False,  # runsc has to make the places of the mounts in it
        str(private / "data"): False,
        str(private / "tools"): True,
        str(private / "program"): True,
        str(private / "bundle" / "beside"): True,
    }


@pytest.mark.parametrize(
    ("made", "cwd", "read_only"),
    [
        (["data", "work"], "/work", True),
        (["data"], "/work", False),
        (["work"], "/work", False),
        (["data"], "/", True),
    ],
)
def test_a_root_is_made_read_only_where_runsc_has_nothing_to_make_in_it(
    private: Path, made: list[str], cwd: str, read_only: bool
) -> None:
    (private / "source").mkdir()
    mounts = [{"destination": "/data", "type": "bind", "source": str(private / "source"), "options": ["ro"]}]
    process = {"cwd": cwd, "args": ["/bin/true"], "user": {"uid": 0, "gid": 0}}
    bundle = make_bundle(private, mounts=mounts, process=process)
    for name in made:
        (private / "bundle" / "rootfs" / name).mkdir()
    assert trees_of(bundle)[bundle.rootfs] is read_only


def test_a_source_that_is_mounted_twice_is_read_only_only_if_it_is_so_both_times(private: Path) -> None:
    (private / "source").mkdir()
    mounts = [
        {"destination": place, "type": "bind", "source": str(private / "source"), "options": how}
        for place, how in (("/a", ["rw"]), ("/b", ["ro"]))
    ]
    assert trees_of(make_bundle(private, mounts=mounts))[str(private / "source")] is False


# --- The real kernel ------------------------------------------------------------------------------------------


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
class TestLandlock:
    def test_only_what_lies_beneath_the_allowed_directory_can_be_executed(self, private: Path) -> None:
        busybox = shutil.which("busybox")
        if busybox is None:
            pytest.skip("needs busybox-static: a program that loads no other file")
        (private / "allow").mkdir()
        (private / "other").mkdir()
        for place in ("allow", "other"):
            shutil.copy(busybox, private / place / "true")

        bundle = make_bundle(private)

        def act() -> int:
            chosen = options(policy=ExecPolicy.LANDLOCK, required=True)
            settled = apply_policy(chosen, bundle, str(private / "allow"))
            assert settled.outcome is PolicyOutcome.ENFORCED
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
