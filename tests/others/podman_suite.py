"""Makes a place ready for podman's own tests: its settings, with the runtime that is compared, and the image they use.

The notable thing: the image is made of the static busybox and has the name that the tests are told, so none is fetched.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from engine.survey.busybox import static_busybox
from tests.managers.arena import Arena
from tools import SetupError
from tools.make_rootfs import make_rootfs

#: What podman's helpers.bash calls the image, without a registry's name.
IMAGE = {
    "PODMAN_TEST_IMAGE_REGISTRY": "localhost",
    "PODMAN_TEST_IMAGE_USER": "libpod",
    "PODMAN_TEST_IMAGE_NAME": "testimage",
    "PODMAN_TEST_IMAGE_TAG": "20220615",
}

#: With it, how many seconds a command and a test may take: most need one.
ENVIRONMENT = IMAGE | {"PODMAN_TIMEOUT": "20", "BATS_TEST_TIMEOUT": "90"}

#: Those about what a runtime does. The others are about images, registries, networks, copies, Kubernetes' files, remote
#: clients, systemd and podman's own options.
FILES = (
    "030-run",
    "032-sig-proxy",
    "035-logs",
    "040-ps",
    "045-start",
    "050-stop",
    "055-rm",
    "060-mount",
    "075-exec",
    "080-pause",
    "130-kill",
    "140-diff",
    "160-volumes",
    "190-run-ipcns",
    "200-pod",
    "220-healthcheck",
    "400-unprivileged-access",
    "420-cgroups",
    "450-interactive",
    "520-checkpoint",
)

#: podman passes runtimes of this name the options for runsc; so both are called that.
_SETTINGS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runsc"
[engine.runtimes]
runsc = ["{runtime}"]
"""

_ARCHIVE = "rootfs.tar"

_PRINTENV = """#!/bin/sh
for name; do eval "echo \\"\\$$name\\""; done
[ $# -gt 0 ] || exec env
"""

_PAUSE = """#!/bin/sh
echo Confirmed: testimage pause invoked as $0
while :; do sleep 0.1; done
"""


def make_ready(arena: Arena, runtime: str) -> None:
    """Give podman in `arena` its settings, and make what the image is made of. Raises `SetupError`."""
    settings = arena.directory / "containers.conf"
    settings.write_text(_SETTINGS.format(runtime=_named_by_an_absolute_path(arena, runtime)))
    own = arena.directory / "etc-containers"
    subprocess.run(["cp", "-R", "/etc/containers", own], check=True)
    settings.rename(own / "containers.conf")
    arena.run("mount", "--bind", own, "/etc/containers").ok()
    _make_archive(arena)


def _named_by_an_absolute_path(arena: Arena, runtime: str) -> Path | str:
    """One of the tests copies the runtime: a script of ours would not find what is beside it any more."""
    if Path(runtime).suffix != ".sh":
        return runtime
    called = arena.directory / "runtime"
    called.write_text(f'#!/bin/sh\nexec {runtime} "$@"\n')
    called.chmod(0o755)
    return called


def _make_archive(arena: Arena) -> None:
    rootfs = arena.directory / "rootfs"
    busybox = static_busybox()
    if busybox is None:
        raise SetupError("no static busybox; ./just oci-suites installs it")
    make_rootfs(str(rootfs), busybox)
    home = rootfs / "home" / "podman"
    home.mkdir(parents=True)
    for directory in ("root", "run", "usr", "usr/bin", "var", "var/tmp", "home", "mnt"):
        (rootfs / directory).mkdir(exist_ok=True)
    (rootfs / "etc" / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
    )
    (rootfs / "etc" / "group").write_text("root:x:0:root\nnobody:x:65534:\n")
    (rootfs / "etc" / "os-release").write_text("NAME=test\n")
    printenv = rootfs / "bin" / "printenv"  # which Debian's busybox has not
    if not printenv.exists():
        printenv.write_text(_PRINTENV)
        printenv.chmod(0o755)
    (home / "testimage-id").write_text(f"{IMAGE['PODMAN_TEST_IMAGE_TAG']}\n")
    (home / "pause").write_text(_PAUSE)
    (home / "pause").chmod(0o755)
    subprocess.run(["touch", "--date=@1600000000", home / "testimage-id"], check=True)
    subprocess.run(["tar", "-C", rootfs, "-cf", arena.directory / _ARCHIVE, "."], check=True)


def bring_image(arena: Arena) -> None:
    """Bring the image, which a file of tests may have removed."""
    registry, user, name, tag = IMAGE.values()
    image = f"{registry}/{user}/{name}:{tag}"
    if arena.run("podman", "image", "exists", image).code == 0:
        return
    says = 'CMD ["/bin/echo", "This container is intended for podman CI testing"]'
    changes = ["--change", "WORKDIR /home/podman", "--change", says, "--change", "LABEL created_by=tests"]
    arena.run("podman", "import", *changes, arena.directory / _ARCHIVE, image).ok()
