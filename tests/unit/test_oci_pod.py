"""Where a pod's container belongs, and who still needs a sandbox's directory: told from annotations and records."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.bundle.pods import of_sandbox
from engine.errors import Reason, SecureRootError
from engine.lifecycle.resolve import Resolved
from engine.linux.files import PrivateDirectory
from engine.linux.regular_files import Identity
from engine.oci import pod
from engine.options import Network, Platform, RunOptions
from engine.state import record
from engine.state.base import open_base
from engine.state.cleanup import forget
from engine.state.container import component, open_container
from engine.state.oci_lifecycle import Status
from engine.state.record import Program, Record, Sandbox
from engine.state.status import in_use_reason, members
from tests.support.objects import changed, values
from tests.support.refusals import refuses

TYPE, NAME = "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"
CRIO_TYPE, CRIO_NAME = "io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"
PROGRAM = Program("runsc-root/exec-allow/stage-1/runsc", "ab" * 32, 1, 2, 3, 4)
POD = Record("pod", "/bundle", "1f", (1, 1), "2026-01-01T00:00:00Z", "1.0.2", {}, program=PROGRAM)
MEMBER = changed(POD, id="member", creation="2f", sandbox=Sandbox("pod", "1f", PROGRAM), waiter=(1, 2))


@pytest.fixture
def base(private: Path) -> PrivateDirectory:
    return open_base(str(private / "base"))


def keep(base: PrivateDirectory, noted: Record) -> PrivateDirectory:
    container, lock = open_container(base, component(noted.id))
    assert lock is not None
    os.close(lock)
    record.write(container, noted)
    return container


@pytest.mark.parametrize(
    ("annotations", "sandbox"),
    [
        ({}, None),
        ({TYPE: "sandbox", NAME: "pod"}, None),
        ({NAME: "pod"}, None),
        ({TYPE: "container", NAME: "pod"}, "pod"),
        ({CRIO_TYPE: "container", CRIO_NAME: "pod"}, "pod"),
        ({TYPE: "sandbox", CRIO_TYPE: "container", CRIO_NAME: "pod"}, None),
        ({TYPE: "container", NAME: "pod", CRIO_NAME: "other"}, "pod"),
    ],
)
def test_a_container_belongs_where_runsc_would_put_it(
    annotations: dict[str, str], sandbox: str | None
) -> None:
    assert pod.sandbox_of({"annotations": annotations}) == sandbox


@pytest.mark.parametrize(
    ("annotations", "sandbox"),
    [
        ({CRIO_NAME: "pod"}, "pod"),
        ({CRIO_NAME: "no-container"}, None),
        ({CRIO_NAME: "m"}, None),  # its own
        ({CRIO_NAME: "member"}, None),  # no sandbox
        ({CRIO_NAME: "alone"}, None),  # of no pod, so nobody's sandbox
        ({CRIO_NAME: ""}, None),
        ({NAME: "pod"}, None),
        ({NAME: "other", CRIO_NAME: "pod"}, None),
        ({CRIO_NAME: "pod", CRIO_TYPE: "sandbox"}, None),
        ({}, None),
    ],
)
def test_a_container_that_only_names_a_sandbox_joins_it_if_it_is_there(
    base: PrivateDirectory, annotations: dict[str, str], sandbox: str | None
) -> None:
    """As podman 5 annotates."""
    keep(base, changed(POD, annotations={CRIO_NAME: "of-the-pod"}))
    keep(base, changed(POD, id="alone"))
    keep(base, changed(MEMBER, annotations={CRIO_NAME: "pod"}))
    assert pod.named_sandbox({"annotations": annotations}, base.path, "m") == sandbox
    assert pod.named_sandbox({"annotations": annotations}, f"{base.path}/absent", "m") is None


@pytest.mark.parametrize(
    ("path", "parent"),
    [
        ("/kubepods/besteffort/pod1f-2/abc", "/kubepods/besteffort/pod1f-2"),
        ("kubepods/pod7/abc", "kubepods/pod7"),
        ("/pods/pod7/podlike/abc", "/pods/pod7/podlike"),
        ("/pods/others/abc", None),  # out of what the manager gave it
        ("pod7", None),
        ("/pod7", None),
        ("/kubepods/pod7", None),  # its own already
        ("/machine.slice/abc", None),
        ("kubepods-pod7.slice:cri-containerd:abc", None),
        ("/kubepods/pod7/../abc", None),
        (None, None),
    ],
)
def test_a_sandbox_lies_in_its_pods_cgroup(path: str | None, parent: str | None) -> None:
    linux = {} if path is None else {"linux": {"cgroupsPath": path}}
    expected = {} if parent is None else {"dev.gvisor.spec.cgroup-parent": parent}
    assert of_sandbox({"annotations": {TYPE: "sandbox"}, **linux}) == expected
    assert of_sandbox({"annotations": {CRIO_TYPE: "sandbox"}, **linux}) == expected
    for others in ({}, {TYPE: "container"}, {TYPE: "container", CRIO_TYPE: "sandbox"}):
        assert of_sandbox({"annotations": others, **linux}) == {}


@pytest.mark.parametrize(
    ("resources", "is_moved"),
    [
        ({"cpu": {"shares": 2}}, True),  # a pause container's
        ({"memory": {"limit": -1}, "pids": {"limit": 0}, "cpu": {"quota": -1, "cpus": "0"}}, True),
        ({"memory": {"limit": 1 << 20}}, False),
        ({"pids": {"limit": 5}}, False),
        ({"cpu": {"quota": 1000}}, False),
    ],
)
def test_a_sandbox_stays_where_its_own_limits_hold(resources: dict[str, Any], is_moved: bool) -> None:
    linux = {"cgroupsPath": "/kubepods/pod7/abc", "resources": resources}
    assert bool(of_sandbox({"annotations": {TYPE: "sandbox"}, "linux": linux})) is is_moved


def test_a_bundle_without_annotations_has_a_sandbox_of_its_own() -> None:
    assert pod.sandbox_of({}) is None


@pytest.mark.parametrize(
    "annotations", [{TYPE: "pod"}, {TYPE: "container"}, {TYPE: "container", NAME: ""}, {CRIO_TYPE: ""}]
)
def test_annotations_that_say_nothing_are_refused(annotations: dict[str, str]) -> None:
    with refuses(pod.PodError, Reason.POD_ANNOTATION, "io.kubernetes.cri"):
        pod.sandbox_of({"annotations": annotations})


@pytest.mark.parametrize("is_chosen", [False, True])
def test_member_finds_the_file_that_its_sandbox_was_made_from(
    base: PrivateDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_chosen: bool
) -> None:
    """The sandbox's copy is another file after each link, and lies where a user namespace trusts nobody."""
    installed = tmp_path / "runsc"
    installed.write_bytes(b"as it was")
    installed.chmod(0o755)
    monkeypatch.setattr("engine.oci.pod.resolve", lambda *_: Resolved(str(installed), "trusted path"))
    made_from = Identity.of(installed.stat()).facts()
    chosen = str(installed) if is_chosen else None
    noted = changed(
        POD, flags=("--network", "none"), program=changed(PROGRAM, chosen=chosen, made_from=made_from)
    )
    container = keep(base, noted)

    def found() -> str | None:
        return pod.as_in_sandbox(RunOptions("m"), {}, base.path, "pod", network_is_chosen=False)[0].runsc

    assert found() == chosen
    installed.write_bytes(b"upgraded")
    assert found() == os.path.join(container.path, PROGRAM.path)


def test_a_record_of_a_member_is_read_as_it_was_written(base: PrivateDirectory) -> None:
    assert values(record.read(keep(base, MEMBER))) == values(MEMBER)
    assert MEMBER.state_file == "member_sandbox:pod.state"
    assert POD.state_file == "pod_sandbox:pod.state"


def test_members_are_those_of_this_very_sandbox(base: PrivateDirectory) -> None:
    for noted in (POD, MEMBER, changed(MEMBER, id="later", sandbox=Sandbox("pod", "3f", PROGRAM))):
        keep(base, noted)
    assert members(base, POD) == ["member"]
    assert members(base, changed(POD, creation="3f")) == ["later"]
    assert members(base, MEMBER) == []


def test_deleted_sandbox_stays_until_its_last_member_goes(base: PrivateDirectory) -> None:
    container = keep(base, POD)
    members = [keep(base, changed(MEMBER, id=name)) for name in ("a", "b")]
    assert in_use_reason(base, container) == "is gone, and containers of its sandbox are not: 'a', 'b'"
    assert forget(base, members[0])
    assert Path(container.path).exists()
    assert forget(base, members[1])
    assert not Path(container.path).exists()


@pytest.mark.parametrize("changes", [{"creation": "3f"}, {"sandbox": Sandbox("other", "4f", PROGRAM)}])
def test_a_member_takes_away_no_other_sandbox(base: PrivateDirectory, changes: dict[str, Any]) -> None:
    container = keep(base, changed(POD, **changes))
    keep(base, changed(MEMBER, id="else", sandbox=Sandbox("pod", "3f", PROGRAM)))
    forget(base, keep(base, MEMBER))
    assert Path(container.path).exists() == (changes.get("creation") == "3f")


@pytest.mark.parametrize(
    ("noted", "fact"),
    [
        (None, "'pod'"),
        (changed(POD, id="another"), "'pod'"),
        (changed(POD, program=None), "'pod'"),
        (POD, "'pod'"),
        (changed(POD, sandbox=Sandbox("other", "4f", PROGRAM)), "'other'"),
    ],
    ids=["nothing", "another", "never handed off", "deleted", "a member"],
)
def test_what_is_no_live_sandbox_is_not_joined(
    base: PrivateDirectory, noted: Record | None, fact: str
) -> None:
    if noted is not None:
        os.rename(keep(base, noted).path, os.path.join(base.path, component("pod")))
    with refuses(SecureRootError, Reason.NO_SANDBOX, fact):
        pod.join(base, "pod", RunOptions("m"))


@pytest.mark.parametrize(
    ("theirs", "ours", "fact"),
    [
        ([], {"runsc_flags": ("--oci-seccomp=true",)}, "--oci-seccomp"),
        (["--strace=true"], {}, "--strace"),
        (["--nvproxy=true"], {"runsc_flags": ("--tpuproxy=true",)}, "--tpuproxy"),
        (["--oci-seccomp=true"], {"runsc_flags": ("--oci-seccomp=false",)}, "--oci-seccomp"),
        ([], {"network": Network.NONE}, "--network none"),
        ([], {"network": Network.HOST}, "--network host"),
        ([], {"platform": Platform.KVM}, "--platform kvm"),
        (["--oci-seccomp=true"], {"runsc_flags": ("--debug=true", "--oci-seccomp=true")}, None),
        (["--strace=false", "--host-uds=open"], {"runsc_flags": ("--net-raw=true",)}, None),
        ([], {"platform": Platform.SYSTRAP}, None),
        ([], {}, None),
    ],
)
def test_a_member_has_what_its_sandbox_has(
    base: PrivateDirectory,
    monkeypatch: pytest.MonkeyPatch,
    theirs: list[str],
    ours: dict[str, Any],
    fact: str | None,
) -> None:
    """Else its trace would say what is not so: what the Sentry does is not what a member is started with."""
    flags = ("--root", "/r=1", "--network", "sandbox", "--platform", "systrap", *theirs)
    keep(base, changed(POD, flags=flags))
    alive = SimpleNamespace(status=Status.RUNNING)
    monkeypatch.setattr("engine.oci.pod.inspect", lambda *_: alive)
    os.mkdir(os.path.join(base.path, component("pod"), "runsc-root"), 0o700)
    options = RunOptions("m", **{"network": Network.SANDBOX, **ours})
    before = len(os.listdir("/proc/self/fd"))
    if fact is not None:
        with refuses(SecureRootError, Reason.NO_SANDBOX, fact, "'pod'"):
            pod.join(base, "pod", options)
        assert len(os.listdir("/proc/self/fd")) == before
        return
    joined, _, lock = pod.join(base, "pod", options)
    os.close(lock)
    joined.container.close()
    joined.runsc_root.close()


def test_a_member_takes_its_sandboxs_network_and_platform(
    base: PrivateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.oci.pod._runsc_of", lambda *_: None)
    keep(base, changed(POD, flags=("--root", "/r", "--network", "sandbox", "--platform", "kvm")))
    options, _ = pod.as_in_sandbox(RunOptions("m"), {}, base.path, "pod", network_is_chosen=False)
    assert (options.network, options.platform) == (Network.SANDBOX, Platform.KVM)
    chosen = RunOptions("m", platform=Platform.PTRACE)
    options, _ = pod.as_in_sandbox(chosen, {}, base.path, "pod", network_is_chosen=True)
    assert (options.network, options.platform) == (Network.NONE, Platform.PTRACE)


@pytest.mark.usefixtures("needs_root")
def test_a_foreign_sandbox_is_not_joined(base: PrivateDirectory) -> None:
    os.chown(keep(base, POD).path, 12345, 12345)
    with pytest.raises(Exception, match="is owned by uid 12345"):
        pod.join(base, "pod", RunOptions("m"))
