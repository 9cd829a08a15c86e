"""Installs the system parts that a run or the tests need, by Debian package name, when they are missing.

The notable thing: the look whether anything is missing is part of every `./just run`, so this module costs
no more than Python itself; what installs is imported only when there is something to install.

usage: python tools/system_parts.py run|test|oci-suites
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from engine.runsc.binary import platform_package, texts_in
from engine.survey.busybox import static_busybox
from tools import SetupError, say

#: Where the engine looks for runsc, in its order; a unit test holds the two together.
RUNSC_PATHS = ("/usr/local/bin/runsc", "/usr/bin/runsc", "/opt/gvisor/runsc")

#: Where Debian's package puts it.
PACKAGED_RUNSC = "/usr/bin/runsc"

#: What a Go program exits with after a panic.
PANIC = 2

#: Debian 12's own runsc, of 2022, beside the newer one: the tests run containers with both.
OLD_RUNSC = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), ".venv", "old", "runsc")


def find_runsc() -> str | None:
    """The runsc that the engine would take from the trusted paths."""
    return next((path for path in RUNSC_PATHS if os.path.isfile(path)), None)


def has_systrap(path: str) -> bool:
    """Whether the runsc at `path` knows the systrap platform."""
    with open(path, "rb") as file:
        return bool(texts_in(file.fileno(), [platform_package("systrap")]))


def on_path(*programs: str) -> bool:
    """Whether each of `programs` is on PATH and executable."""
    return all(
        any(os.access(os.path.join(where, program), os.X_OK) for where in os.get_exec_path())
        for program in programs
    )


def is_there(path: str) -> bool:
    """Whether there is something at `path`."""
    return os.path.exists(path)


#: Where Debian's packages of Go libraries put them.
_GO = "/usr/share/gocode/src"

#: The official schema of config.json, which refers to others beside it.
OCI_SCHEMA = f"{_GO}/github.com/opencontainers/runtime-spec/schema/config-schema.json"

#: A package, why it is needed, and whether what it brings is there.
Part = tuple[str, str, Callable[[], bool]]

RUN_PARTS: tuple[Part, ...] = (
    ("runsc", "gVisor's runtime: it runs the container", lambda: find_runsc() is not None),
    ("busybox-static", "the programs inside the example's container", lambda: static_busybox() is not None),
)
TEST_PARTS: tuple[Part, ...] = (
    *RUN_PARTS,
    ("default-jre-headless", "Java, for the model checker TLC", lambda: on_path("java")),
    ("graphviz", "draws the state diagrams", lambda: on_path("dot")),
    ("chromium", "the browser in which the reports are tested", lambda: on_path("chromium")),
    (
        "systemd",
        "services are tested with one that is booted for it",
        lambda: on_path("systemd-analyze", "systemd-run") and is_there("/usr/lib/systemd/systemd"),
    ),
    ("uidmap", "maps subordinate ids for rootless containers", lambda: on_path("newuidmap", "newgidmap")),
    ("podman", "a manager that the OCI runtime is tested with", lambda: on_path("podman")),
    ("netavark", "podman's networks", lambda: is_there("/usr/lib/podman/netavark")),
    ("iptables", "the firewall rules of podman's networks", lambda: is_there("/usr/sbin/iptables")),
    ("nftables", "the same, where netavark is 1.14 or newer", lambda: is_there("/usr/sbin/nft")),
    ("iproute2", "sets up the networks in which managers are tested", lambda: on_path("ip")),
    ("binutils", "builds the tests' stand-in for a newer runsc", lambda: on_path("as", "ld")),
    ("openssh-client", "ssh-keygen, which signs traces", lambda: on_path("ssh-keygen")),
    ("containerd", "another manager, the one of Kubernetes", lambda: on_path("containerd", "ctr")),
    ("bash-static", "the shell in the images of Kubernetes' tests", lambda: is_there("/bin/bash-static")),
    (
        "containernetworking-plugins",
        "the networks of containerd's pods",
        lambda: is_there("/usr/lib/cni/ptp"),
    ),
    ("openssl", "keys and signatures that attestations are tested with", lambda: on_path("openssl")),
    ("golang-go", "builds another implementation's check of attestations", lambda: on_path("go")),
    (
        "golang-github-opencontainers-specs-dev",
        "the official schema of config.json",
        lambda: is_there(OCI_SCHEMA),
    ),
)
#: Beside the tests' parts, what fetches and builds the OCI suites of others.
SUITE_PARTS: tuple[Part, ...] = (
    *TEST_PARTS,
    ("gcc", "builds the program inside crun's tests", lambda: on_path("gcc")),
    ("libc6-dev", "what C programs are linked with", lambda: is_there("/usr/include/stdlib.h")),
    ("bats", "runs podman's tests", lambda: on_path("bats")),
    ("jq", "what podman's tests read answers with", lambda: on_path("jq")),
    ("catatonit", "what holds podman's pods", lambda: on_path("catatonit")),
    ("socat", "the terminals of podman's tests", lambda: on_path("socat")),
    ("dpkg-dev", "reads Debian's source packages", lambda: on_path("dpkg-source")),
    *(
        (
            f"golang-{package}-dev",
            "a library of the runtime-tools",
            lambda where=where: is_there(f"{_GO}/{where}"),
        )
        for package, where in (
            ("github-blang-semver", "github.com/blang/semver"),
            ("github-google-uuid", "github.com/google/uuid"),
            ("github-hashicorp-go-multierror", "github.com/hashicorp/go-multierror"),
            ("github-mrunalp-fileutils", "github.com/mrunalp/fileutils"),
            ("github-opencontainers-selinux", "github.com/opencontainers/selinux"),
            ("github-sirupsen-logrus", "github.com/sirupsen/logrus"),
            ("github-urfave-cli", "github.com/urfave/cli"),
            ("github-xeipuuv-gojsonschema", "github.com/xeipuuv/gojsonschema"),
            ("gocapability", "github.com/syndtr/gocapability"),
            ("golang-x-sys", "golang.org/x/sys"),
        )
    ),
)
GOALS = {"run": RUN_PARTS, "test": TEST_PARTS, "oci-suites": SUITE_PARTS}


def missing(goal: str) -> dict[str, str]:
    """The packages that `goal` lacks, each with why it is needed."""
    return {package: why for package, why, is_there in GOALS[goal] if not is_there()}


def install_missing(goal: str) -> None:
    """Install what `goal` lacks, saying what and why. Raises `SetupError`."""
    wanted = missing(goal)
    too_old = find_runsc() == PACKAGED_RUNSC and not has_systrap(PACKAGED_RUNSC)
    if not wanted and not too_old:
        return

    from tools import debian

    debian.install(wanted, upgrade_runsc=too_old)
    if still := missing(goal):
        raise SetupError(f"apt-get installed {', '.join(still)}, but what it should bring is not there")
    in_use = find_runsc()
    if "runsc" not in wanted or in_use is None:
        return
    if in_use == PACKAGED_RUNSC and dies():
        debian.replace_runsc()
        if dies():
            raise SetupError(f"{in_use} ends with an error soon after its start, as engine doctor shows")
    if not has_systrap(in_use):
        say(f"note: this system's {in_use} has no systrap; containers run on ptrace or kvm")


def dies() -> bool:
    """Whether the runsc in use ends as a Go program that panics, in a container that lives for two seconds.

    Debian's build of July 2024 with a newer Go than it knows does.
    """
    from contextlib import closing

    from engine.doctor.platforms import PLATFORM_TIMEOUT, try_platform
    from engine.lifecycle.trusted_runsc import find_runsc as pinned

    with closing(pinned(None, {})) as binary:
        part = try_platform(binary.platform, binary, PLATFORM_TIMEOUT)
    return part.detail.get("exit_code") == PANIC


def keep_old_runsc() -> None:
    """Bring `OLD_RUNSC`. Where it is not to be had, the tests that want it are skipped, and say so."""
    if os.path.exists(OLD_RUNSC):
        return

    from tools import debian

    if debian.is_old():
        say("extracting Debian 12's own runsc beside the newer one: the tests run containers with both")
        try:
            debian.extract_old_runsc(OLD_RUNSC)
        except SetupError as error:
            say(f"note: {error}; going on without it")


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in GOALS:
        print(f"usage: system_parts.py {'|'.join(GOALS)}", file=sys.stderr)
        return 2
    try:
        install_missing(arguments[0])
        if arguments[0] == "test":
            keep_old_runsc()
    except SetupError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
