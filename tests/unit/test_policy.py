"""Step `apply_policy`: what is enforced is enforced by the kernel, what is not is said, and required is required."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.bundle import executable
from engine.bundle.bundle import Bundle, open_bundle
from engine.bundle.executable import executable_trees
from engine.errors import PolicyError, Reason
from engine.lifecycle import policy as policy_step
from engine.lifecycle import program_trees, written_trees
from engine.lifecycle.policy import BACKENDS, Policy, apply_policy
from engine.lifecycle.stage import Staged
from engine.linux import locked_mounts, seccomp
from engine.linux.locked_mounts import Confinement, UnusableError
from engine.options import ExecPolicy, RunOptions
from engine.runsc.arguments import RUN
from engine.traces.move import PolicyOutcome, Strength
from tests.support.bundles import make_bundle
from tests.support.confinement import Pretended
from tests.support.forked import failure, in_a_child
from tests.support.refusals import refuses

#: A staged program of one file, of which the policy needs nothing.
ALONE = cast(
    Staged,
    SimpleNamespace(
        sidecars=(),
        root=SimpleNamespace(
            base=SimpleNamespace(path="/proc/self"),
            programs=None,
            sandbox=None,
            runsc_root=SimpleNamespace(path="/", descriptor=os.open("/", os.O_PATH)),
        ),
    ),
)


def identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def options(
    *, policy: ExecPolicy = ExecPolicy.AUTO, rootless: bool = True, required: bool = False
) -> RunOptions:
    return RunOptions("web", rootless=rootless, exec_policy=policy, require_exec_policy=required)


def opened(private: Path, **changes: Any) -> Bundle:
    """A bundle with a read-only root, into which nothing is mounted."""
    changes = {"root": {"path": "rootfs", "readonly": True}} | changes
    return open_bundle(str(make_bundle(private / "bundle", **changes)))


@pytest.fixture
def bundle(private: Path) -> Bundle:
    return opened(private)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of a kernel that can do everything, and does nothing."""
    asked: list[Any] = []
    tried: list[Any] = []

    def probe(trees: Any, *, sealed: bool, outside: object) -> Confinement:
        tried.append((trees, sealed))
        return Pretended()

    def confine(_: Confinement, *, sealed: bool) -> None:
        assert [sealed] == [each for _, each in tried]  # as was tried
        asked.append(tried.pop())

    monkeypatch.setattr(locked_mounts, "probe", probe)
    monkeypatch.setattr(locked_mounts, "confine", confine)
    monkeypatch.setattr(policy_step, "sysctl", {"vm.memfd_noexec": "0"}.get)
    monkeypatch.setattr(policy_step, "_open_files", lambda _: iter(()))
    return asked


def refused(bundle: Bundle, chosen: RunOptions, *facts: str, hint: str = "") -> None:
    """A required policy that is not enforced is refused, in a line that names the `facts`."""
    with refuses(PolicyError, Reason.POLICY_NOT_ENFORCED, *facts) as refusal:
        apply_policy(chosen, bundle, ALONE)
    assert hint in refusal.value.hint


def nothing(outcome: str, reason: str) -> dict[str, Any]:
    """The facts of a policy that is not enforced."""
    return {
        "outcome": outcome,
        "mechanism": None,
        "strength": None,
        "allowed": [],
        "open": [],
        "ids": None,
        "reason": reason,
    }


def test_it_concerns_rootless_runs_only(bundle: Bundle, kernel: list[Any]) -> None:
    for chosen in ExecPolicy:
        settled = apply_policy(options(rootless=False, policy=chosen), bundle, ALONE)
        assert settled.facts() == nothing("not_applicable", "it applies to --rootless runs")
    assert kernel == []


def test_the_chosen_backend_is_given_the_bundle(bundle: Bundle) -> None:
    enforced = Policy(PolicyOutcome.ENFORCED)

    def backend(*given: Any) -> Policy:
        assert given[:3] == (bundle, ALONE, RUN)
        return enforced

    chosen = options(policy=ExecPolicy.LOCKED_MOUNTS, required=True)
    assert apply_policy(chosen, bundle, ALONE, backends={ExecPolicy.LOCKED_MOUNTS: backend}) is enforced


def test_every_policy_that_can_be_chosen_has_its_backend() -> None:
    assert set(BACKENDS) == set(ExecPolicy)
    assert BACKENDS[ExecPolicy.AUTO] is BACKENDS[ExecPolicy.LOCKED_MOUNTS]


def test_auto_locks_mounts_but_not_the_bundles_root(bundle: Bundle, kernel: list[Any]) -> None:
    settled = apply_policy(options(required=True), bundle, ALONE)
    [([tree, *_], sealed)] = kernel
    assert sealed
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


def test_writable_root_is_not_sealed_and_is_reported(private: Path, kernel: list[Any]) -> None:
    settled = apply_policy(options(), opened(private, root={"path": "rootfs"}), ALONE)
    [([tree, *_], sealed)] = kernel
    assert (tree.read_only, sealed) == (False, False)
    assert (settled.strength, settled.bypasses) == (Strength.HOST, ("memfd", "allowed", "mount"))


@pytest.mark.parametrize("chosen", [ExecPolicy.AUTO, ExecPolicy.LOCKED_MOUNTS])
def test_namespaces_that_are_forbidden_are_named_with_the_hint(
    bundle: Bundle, kernel: list[Any], monkeypatch: pytest.MonkeyPatch, chosen: ExecPolicy
) -> None:
    def probe(trees: object, *, sealed: bool, outside: object) -> Confinement:
        raise UnusableError("user namespaces are forbidden by x = 0", "sysctl x=1")

    monkeypatch.setattr(locked_mounts, "probe", probe)
    settled = apply_policy(options(policy=chosen), bundle, ALONE)
    assert settled.facts() == nothing("unavailable", "user namespaces are forbidden by x = 0")
    required = options(policy=chosen, required=True)
    refused(bundle, required, "user namespaces are forbidden by x = 0", hint="sysctl x=1")
    assert kernel == []


def test_a_bundle_that_cannot_be_looked_at_is_named(
    bundle: Bundle, kernel: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def executable_trees(_: Bundle) -> list[Any]:
        raise PermissionError(13, "Permission denied", "/somewhere")

    monkeypatch.setattr(executable, "executable_trees", executable_trees)
    refused(bundle, options(required=True), "/somewhere: Permission denied")
    assert kernel == []


def test_on_a_machine_without_a_filter_nothing_is_sealed(
    bundle: Bundle, kernel: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seccomp, "is_known_machine", lambda: False)
    settled = apply_policy(options(required=True), bundle, ALONE)
    [([tree, *_], sealed)] = kernel
    assert (tree.read_only, sealed, settled.strength) == (True, False, Strength.HOST)


def test_what_is_found_open_is_said(
    bundle: Bundle, kernel: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_step, "_open_files", lambda _: iter(("stdin",)))
    assert apply_policy(options(), bundle, ALONE).bypasses == ("memfd", "stdin")
    assert len(kernel) == 1


def test_policy_applied_in_part_is_refused(
    bundle: Bundle, kernel: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is in other namespaces by then: there is no way back to a run without a policy."""

    def confine(_: Confinement, *, sealed: bool) -> None:
        raise OSError(38, "Function not implemented", "/")

    monkeypatch.setattr(locked_mounts, "confine", confine)
    with refuses(PolicyError, Reason.POLICY_IN_PART, "/: Function not implemented"):
        apply_policy(options(), bundle, ALONE)


def test_off_is_off_and_contradicts_required(bundle: Bundle, kernel: list[Any]) -> None:
    settled = apply_policy(options(policy=ExecPolicy.OFF), bundle, ALONE)
    assert settled.reason is not None
    assert settled.facts() == nothing("unavailable", settled.reason)
    refused(bundle, options(policy=ExecPolicy.OFF, required=True), settled.reason)
    assert kernel == []


def test_required_policy_without_rootless_is_refused(bundle: Bundle) -> None:
    refused(bundle, options(rootless=False, required=True), hint="--rootless")


def test_bundle_with_the_hosts_root_cannot_be_confined(private: Path, kernel: list[Any]) -> None:
    mounts = [{"destination": "/host", "type": "bind", "source": "/", "options": ["ro"]}]
    refused(opened(private, mounts=mounts), options(required=True))
    assert kernel == []


def test_memfd_is_closed_where_the_system_forbids_to_execute_one(
    bundle: Bundle, kernel: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_step, "sysctl", {"vm.memfd_noexec": "2"}.get)
    assert apply_policy(options(), bundle, ALONE).bypasses == ()


def test_a_regular_file_as_standard_input_is_a_way_left_open(private: Path) -> None:
    """Its descriptor has the caller's mount, which is not noexec."""

    def act() -> list[list[str]]:
        found = []
        for descriptor in range(3):
            os.dup2(os.open("/dev/null", os.O_RDWR), descriptor)
        found.append(list(policy_step._open_files(0)))
        os.dup2(os.open(private / "file", os.O_RDWR | os.O_CREAT), 0)
        os.dup2(os.open(private, os.O_RDONLY), 2)
        found.append(list(policy_step._open_files(0)))
        os.close(0)
        found.append(list(policy_step._open_files(0)))
        return found

    assert in_a_child(act) == [[], ["stdin", "stderr"], ["stderr"]]


@pytest.mark.parametrize(
    ("closed", "noexec", "left"),
    [
        ((), (), ["stdin", "stdout", "stderr"]),
        ((0,), (), ["stdout", "stderr"]),
        ((), (1,), ["stdin", "stderr"]),
        ((1,), (0,), ["stderr"]),
    ],
)
def test_closed_or_noexec_standard_file_is_no_bypass(
    private: Path,
    monkeypatch: pytest.MonkeyPatch,
    closed: tuple[int, ...],
    noexec: tuple[int, ...],
    left: list[str],
) -> None:
    status = os.stat(private)

    def fstat(descriptor: int) -> os.stat_result:
        if descriptor in closed:
            raise OSError(errno.EBADF, "Bad file descriptor")
        assert descriptor in range(3)
        return status

    def fstatvfs(descriptor: int) -> Any:
        return SimpleNamespace(f_flag=os.ST_NOSUID | (os.ST_NOEXEC if descriptor in noexec else 0))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", fstat)
        patched.setattr(os, "fstatvfs", fstatvfs)
        found = list(policy_step._open_files(0))
    assert found == left


# --- A program of several files -------------------------------------------------------------------------------


@dataclass
class Place:
    """As a directory of the engine's that is open."""

    path: str

    def __post_init__(self) -> None:
        Path(self.path).mkdir(parents=True, exist_ok=True)
        self.descriptor = os.open(self.path, os.O_RDONLY)


def staged_set(private: Path, *, apart: bool = True, sandbox: bool = False) -> Any:
    """What the policy looks at of a staged set of three files."""
    base, root = private / "base", private / "base" / "c" / "runsc-root"
    place = private / "programs" if apart else root / "exec-allow"
    (place / "stage-1" / "gvisor-bin").mkdir(parents=True)
    files = []
    for name in ("runsc", "gvisor-bin/gvisor_sentry", "gvisor-bin/gvisor-sentry-prewarmer"):
        path = place / "stage-1" / name
        path.touch(0o555)
        files.append(SimpleNamespace(path=str(path), descriptor=os.open(path, os.O_RDONLY)))
    own = Place(str(root))
    joined = Place(str(base / "pod" / "runsc-root"))
    state = SimpleNamespace(
        base=Place(str(base)),
        programs=Place(str(place)) if apart else None,
        runsc_root=own,
        used_root=joined if sandbox else own,
        sandbox=joined if sandbox else None,
    )
    return SimpleNamespace(
        runsc=files[0],
        sidecars=tuple(files[1:]),
        files=tuple(files),
        exec_allow=Place(str(place)),
        root=state,
    )


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("sandbox", [True, False])
def test_each_file_of_a_set_is_a_tree_in_what_is_read_only(
    private: Path, kernel: list[Any], bundle: Bundle, apart: bool, sandbox: bool
) -> None:
    staged = staged_set(private, apart=apart, sandbox=sandbox)
    settled = apply_policy(options(required=True), bundle, staged)
    [(trees, sealed)] = kernel
    files = [staged.runsc.path, *(sidecar.path for sidecar in staged.sidecars)]
    assert settled.allowed == (bundle.rootfs, *files)
    assert sealed
    by_path = {tree.path: (tree.read_only, tree.executable) for tree in trees}
    writable = {staged.root.runsc_root.path, *([staged.root.used_root.path] if sandbox else [])}
    assert by_path == {
        bundle.rootfs: (True, True),
        str(private / "base"): (True, False),
        staged.exec_allow.path: (True, False),
        **dict.fromkeys(writable, (False, False)),
        **dict.fromkeys(files, (True, True)),
    }
    for tree in trees:
        assert tree.identity == identity(tree.path)
    assert settled.program is not None
    assert os.path.samestat(os.fstat(settled.program), os.stat(staged.runsc.path))
    settled.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(settled.program)


def test_other_names_of_the_place_become_read_only_too(
    private: Path, kernel: list[Any], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = staged_set(private)
    (private / "seen").mkdir()
    seen = {staged.exec_allow.path: [str(private / "seen")]}
    monkeypatch.setattr(program_trees, "other_paths", lambda path: seen.get(path, []))
    apply_policy(options(), bundle, staged).close()
    [(trees, _)] = kernel
    (tree,) = (tree for tree in trees if tree.path == str(private / "seen"))
    assert (tree.read_only, tree.executable, tree.identity) == (True, False, identity(private / "seen"))


def test_runsc_that_was_replaced_under_the_policy_is_not_executed(
    private: Path, kernel: list[Any], bundle: Bundle
) -> None:
    staged = staged_set(private)
    Path(staged.runsc.path).unlink()
    Path(staged.runsc.path).touch()
    with refuses(PolicyError, Reason.POLICY_IN_PART, staged.runsc.path):
        apply_policy(options(), bundle, staged)


def test_a_link_to_the_staged_runsc_is_not_executed(private: Path, kernel: list[Any], bundle: Bundle) -> None:
    staged = staged_set(private)
    Path(staged.runsc.path).rename(private / "moved")
    Path(staged.runsc.path).symlink_to(private / "moved")
    with refuses(PolicyError, Reason.POLICY_IN_PART, staged.runsc.path, os.strerror(errno.ELOOP)):
        apply_policy(options(), bundle, staged)


@pytest.mark.parametrize("inside", ["programs", "programs/stage-1", "base", "base/bundle"])
def test_bundle_with_the_engines_own_directories_is_not_confined(
    private: Path, kernel: list[Any], inside: str
) -> None:
    staged = staged_set(private)
    (private / inside).mkdir(exist_ok=True)
    (private / "link").symlink_to(private / inside)
    for name in (inside, "link"):
        mount = {"destination": "/a", "type": "bind", "source": str(private / name), "options": ["rbind"]}
        chosen = open_bundle(str(make_bundle(private / "bundle", mounts=[mount])))
        settled = apply_policy(options(), chosen, staged)
        assert settled.reason is not None
        assert str(private / name) in settled.reason
        assert settled.hint
    assert kernel == []


@pytest.mark.parametrize("where", ["programs", "programs/staged", "base", "base/c", "link", "."])
@pytest.mark.parametrize("read_only", [True, False])
def test_policy_is_not_sealed_where_the_container_writes_the_engines_own(
    private: Path, kernel: list[Any], monkeypatch: pytest.MonkeyPatch, where: str, read_only: bool
) -> None:
    """What is written there could be executed by later commands, outside of the policy."""
    staged = staged_set(private)
    staged.sidecars = ()
    (private / "programs" / "staged").mkdir()
    (private / "link").symlink_to(private / "base")
    # Another file system, so that only the place decides.
    monkeypatch.setattr(written_trees, "may_hold_programs_of", lambda *_: False)
    how = ["rbind", "noexec", *(["ro"] if read_only else [])]
    mount = {"destination": "/tmp", "type": "bind", "source": str(private / where), "options": how}
    chosen = opened(private, mounts=[mount])
    (private / "bundle" / "rootfs" / "tmp").mkdir()
    settled = apply_policy(options(), chosen, staged)
    assert settled.strength is (Strength.SEALED if read_only else Strength.HOST)
    assert ("allowed" in settled.bypasses) == (not read_only)


@pytest.mark.parametrize(("how", "can_be"), [([], False), (["bind"], False), (["rbind", "ro"], True)])
def test_what_hides_the_files_of_the_set_cannot_be_bound(
    private: Path, kernel: list[Any], how: list[str], can_be: bool
) -> None:
    """The kernel would refuse that mount, and runsc would end with a word that tells nothing."""
    mounts = [{"destination": "/a", "type": "bind", "source": str(private), "options": how}]
    chosen = opened(private, mounts=mounts)
    if can_be:
        assert apply_policy(options(), chosen, staged_set(private)).outcome is PolicyOutcome.ENFORCED
    else:
        settled = apply_policy(options(), chosen, staged_set(private))
        assert settled.reason is not None
        assert str(private) in settled.reason
        assert "rbind" in settled.hint
        assert kernel == []
    assert apply_policy(options(), chosen, ALONE).outcome is PolicyOutcome.ENFORCED


# --- What stays executable ------------------------------------------------------------------------------------


def trees_of(bundle: Bundle) -> dict[str, bool]:
    """Each path that stays executable, and whether it is made read-only."""
    return {tree.path: tree.read_only for tree in executable_trees(bundle)}


def test_bind_mounts_with_programs_stay_executable(private: Path) -> None:
    for name in ("data", "tools", "quiet", "bundle"):
        (private / name).mkdir()
    (private / "plain").touch(0o644)
    (private / "program").touch(0o755)
    (private / "program").chmod(0o641)  # whoever may execute it
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
    bundle = opened(private, mounts=mounts)
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
def test_root_is_read_only_where_runsc_makes_nothing_in_it(
    private: Path, made: list[str], cwd: str, read_only: bool
) -> None:
    (private / "source").mkdir()
    mounts = [{"destination": "/data", "type": "bind", "source": str(private / "source"), "options": ["ro"]}]
    process = {"cwd": cwd, "args": ["/bin/true"], "user": {"uid": 0, "gid": 0}}
    bundle = opened(private, mounts=mounts, process=process)
    for name in made:
        (private / "bundle" / "rootfs" / name).mkdir()
    assert trees_of(bundle)[bundle.rootfs] is read_only


def test_bind_mounts_are_recognised_as_runsc_does(
    private: Path,
) -> None:
    for name in ("by-type", "bind", "rbind", "other"):
        (private / name).mkdir()
    mounts: list[dict[str, Any]] = [
        {"destination": "/a", "type": "bind", "source": str(private / "by-type")},
        {"destination": "/b", "source": str(private / "bind"), "options": ["bind"]},
        {
            "destination": "/c",
            "type": "none",
            "source": str(private / "x" / ".." / "rbind"),
            "options": ["rbind"],
        },
        {"destination": "/d", "type": "overlay", "source": str(private / "other"), "options": ["ro"]},
        {"destination": "/e", "type": "proc"},
    ]
    bundle = opened(private, mounts=mounts)
    found = [(tree.path, tree.identity, tree.read_only) for tree in executable_trees(bundle)]
    bound = [private / name for name in ("by-type", "bind", "rbind")]
    statuses = [(str(path), path.stat()) for path in bound]
    assert found == [
        (bundle.rootfs, bundle.rootfs_identity, False),
        *((path, (status.st_dev, status.st_ino), False) for path, status in statuses),
    ]


def test_root_and_source_of_one_place_are_one_tree(private: Path) -> None:
    mounts = [
        {"destination": "/again", "type": "bind", "source": "rootfs", "options": ["ro"]},
        {"destination": "/all", "type": "bind", "source": ".", "options": ["ro"]},
    ]
    bundle = opened(private, mounts=mounts)
    for name in ("again", "all"):
        (private / "bundle" / "rootfs" / name).mkdir()
    assert trees_of(bundle) == {bundle.rootfs: True, bundle.path: True}


def test_a_source_that_cannot_be_looked_at_is_an_error(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = [{"destination": "/a", "type": "bind", "source": str(private / "file" / "in")}]
    (private / "file").touch()
    bundle = opened(private, mounts=mounts)
    assert failure(lambda: executable_trees(bundle))[0] == errno.ENOTDIR


def test_source_mounted_twice_is_read_only_if_both_are(private: Path) -> None:
    (private / "source").mkdir()
    mounts = [
        {"destination": place, "type": "bind", "source": str(private / "source"), "options": how}
        for place, how in (("/a", ["rw"]), ("/b", ["ro"]))
    ]
    assert trees_of(opened(private, mounts=mounts))[str(private / "source")] is False
