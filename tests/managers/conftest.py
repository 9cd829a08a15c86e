"""Which runtime the managers drive, and that nothing is left of what they did.

The runtime is ours unless `OCI_RUNTIME` names another executable, such as runsc itself or runc: what another
runtime cannot do either, no engine around it can.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.survey.busybox import BUSYBOX_PATHS, static_busybox
from tests.managers.arena import Arena, eventually, open_arena
from tests.managers.containerd import SOCKET, Containerd
from tests.managers.image import NAME, PAUSE, write_image
from tests.managers.kubelet import NAMESPACE, Kubelet
from tests.managers.podman import Podman
from tools.make_rootfs import make_rootfs


@pytest.fixture(scope="session")
def runtime() -> Path:
    """The OCI runtime under test."""
    chosen = os.environ.get("OCI_RUNTIME") or Path(sys.executable).parent / "engine-oci"
    path = Path(chosen)
    if not os.access(path, os.X_OK):
        pytest.fail(f"{path} is not an executable; ./just setup makes it, or OCI_RUNTIME names another")
    return path


@pytest.fixture(scope="session")
def is_gvisor(runtime: Path) -> bool:
    """Whether containers have gVisor's kernel, so that what it lacks is not expected."""
    return runtime.name not in {"runc", "crun"}


#: Says that gVisor cannot do what follows, and why.
Refuse = Callable[[str], None]


@pytest.fixture
def gvisor_cannot(is_gvisor: bool) -> Refuse:
    """Skips what a bare runsc cannot do either, unless `OCI_TRY_ALL` is set: then it is tried all the same."""

    def refuse(why: str) -> None:
        if is_gvisor and "OCI_TRY_ALL" not in os.environ:
            pytest.skip(f"not with gVisor: {why}")

    return refuse


@pytest.fixture(scope="session")
def is_ours(runtime: Path) -> bool:
    """Whether containers go through the engine, so that each has a trace."""
    return runtime.name == "engine-oci"


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """A directory on a path that nobody else can rewrite."""
    with tempfile.TemporaryDirectory(prefix="ge-managers-") as made:
        yield Path(made)


@pytest.fixture(scope="session")
def image(directory: Path) -> Path:
    """The OCI archive of the image that every container here is made of."""
    busybox = static_busybox()
    if busybox is None:
        pytest.fail(f"no static busybox among {', '.join(BUSYBOX_PATHS)}; ./just setup installs it")
    rootfs = directory / "rootfs"
    make_rootfs(str(rootfs), busybox)
    write_image(rootfs, directory / "image.tar")
    write_image(rootfs, directory / "pause.tar", PAUSE, ["/bin/sleep", "2147483647"])
    return directory / "image.tar"


@pytest.fixture(scope="session")
def arena(directory: Path) -> Iterator[Arena]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to make namespaces and cgroups for managers")
    needs("unshare", "nsenter", "ip")
    try:
        made = open_arena(directory)
    except RuntimeError as why:
        pytest.skip(f"no namespaces in which managers could be used: {why}")
    yield made
    left = made.processes()
    made.close()
    assert not left


@pytest.fixture(scope="session")
def podman_store(arena: Arena, runtime: Path, image: Path) -> Iterator[Podman]:
    """podman with a store, networks and events of its own, and the image."""
    needs("podman", "iptables", "nft")
    podman = Podman(arena, runtime, arena.directory / "podman")
    podman("load", "--input", image).ok()
    yield podman
    podman("system", "reset", "--force").ok()


@pytest.fixture
def podman(podman_store: Podman, arena: Arena) -> Iterator[Podman]:
    """podman, whose containers and pods are removed after the test, whereupon nothing of them is left."""
    before = arena.mounts()
    yield podman_store
    podman_store("pod", "rm", "--all", "--force", "--time=0").ok()
    podman_store("rm", "--all", "--force", "--time=0", "--volumes").ok()
    nothing_is_left(arena, before)


@pytest.fixture(scope="session")
def containerd_service(arena: Arena, runtime: Path, image: Path) -> Iterator[Containerd]:
    """containerd with directories and a socket of its own, and the image."""
    needs("containerd", "ctr")
    containerd = Containerd(arena, runtime, arena.directory / "containerd")
    containerd.serve()
    containerd("images", "import", image).ok()
    yield containerd
    containerd("images", "rm", NAME).ok()
    containerd.stop()


@pytest.fixture
def containerd(containerd_service: Containerd, arena: Arena) -> Iterator[Containerd]:
    """containerd, whose containers are removed after the test, whereupon nothing of them is left."""
    before = arena.mounts()
    yield containerd_service
    for container in containerd_service("containers", "ls", "--quiet").ok().split():
        containerd_service.remove(container)
    nothing_is_left(arena, before)


@pytest.fixture(scope="session")
def kubelet_service(containerd_service: Containerd, kernel_has_bridges: None) -> Kubelet:
    """A client of containerd's Kubernetes interface, which has the images."""
    arena = containerd_service.arena
    for archive in ("image.tar", "pause.tar"):
        images = ["ctr", f"--address={SOCKET}", f"--namespace={NAMESPACE}", "images", "import"]
        arena.run(*images, "--snapshotter=native", arena.directory / archive).ok()
    kubelet = Kubelet(containerd_service)
    eventually("the network is ready", kubelet.is_ready)
    return kubelet


@pytest.fixture
def kubelet(kubelet_service: Kubelet, arena: Arena) -> Iterator[Kubelet]:
    """The kubelet's part, whose pods are removed after the test, whereupon nothing of them is left."""
    before = arena.mounts()
    yield kubelet_service
    for pod in kubelet_service("ListPodSandbox")["items"]:
        kubelet_service.remove_pod(pod["id"])
    nothing_is_left(arena, before)


def nothing_is_left(arena: Arena, mounts: set[str]) -> None:
    """Hold that no process, mount or cgroup of a container outlives it by more than a moment."""
    service = arena.directory / "containerd"

    def strays() -> list[str]:
        return [
            command
            for command in arena.processes().values()
            if not command.startswith(f"containerd --config {service}")
        ]

    def left() -> list[str]:
        # Those of podman's monitors and pods are podman's own, and stay empty in hierarchies without controllers.
        podmans = re.compile(rf"{arena.name}|conmon|[0-9a-f]{{64}}")
        cgroups = [str(path) for path in arena.cgroups() if not podmans.fullmatch(path.name)]
        return [*strays(), *sorted(arena.mounts() - mounts), *cgroups]

    try:
        eventually("the end of what containers left", lambda: not left(), patience=10)
    except TimeoutError:
        pytest.fail(f"left behind: {left()}")


def verify_traces(arena: Arena, directory: str, *containers: str) -> None:
    """Hold that each container left one trace below `directory`, and that it conforms, to the hand-off."""
    names = [path.name for path in Path(f"/proc/{arena.init}/root{directory}").iterdir()]
    for container in containers:
        (trace,) = (name for name in names if name.startswith(container))
        verified = arena.run("engine", "trace", "verify", "--complete", f"{directory}/{trace}")
        assert "conforms" in verified.ok()
        assert "handed_off" in verified.ok()


def needs(*programs: str) -> None:
    """Fail without one of these: a machine that lacks what `./just setup` installs must not look tested."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.fail(f"no {program}; ./just setup installs it")


@pytest.fixture(scope="session")
def kernel_has_bridges(arena: Arena) -> None:
    done = arena.run("ip", "link", "add", "probe0", "type", "bridge")
    if done.code != 0:
        pytest.skip(f"this kernel has no bridges: {done.stderr.strip()}")
    subprocess.run(arena.inside("ip", "link", "del", "probe0"), check=True)
