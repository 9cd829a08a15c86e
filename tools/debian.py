"""Installs packages with apt-get, as root or through sudo, on Debian and its relatives.

Debian 12's runsc has no systrap platform, and its runtime specification is 1.0. There the packages of Debian 13 are
fetched from the same mirror into a directory of our own and installed as files: nothing under /etc/apt changes.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools import SetupError, give_to_owner, say

#: Seconds to wait for another apt or dpkg.
LOCK_TIMEOUT = 120
#: The release whose `TOO_OLD` are too old, and the one whose are not.
OLD, NEW = "bookworm", "trixie"
#: Packages, each with what the old release's one lacks. None of them depends on another.
TOO_OLD = {
    "runsc": "the systrap platform",
    "golang-github-opencontainers-specs-dev": "versions 1.1 and 1.2 of the specification",
}
#: Debian's own keys, of the package debian-archive-keyring.
KEYS = "/usr/share/keyrings/debian-archive-{}-stable.gpg"

_GVISOR_INSTALL = "https://gvisor.dev/docs/user_guide/install/"
_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
_APT = ("apt-get", "-q", "-y", "-o", f"DPkg::Lock::Timeout={LOCK_TIMEOUT}")


def install(wanted: Mapping[str, str], *, upgrade_runsc: bool) -> None:
    """Install the packages `wanted`, name to why, saying so; `upgrade_runsc` where there is a newer one.

    Raises `SetupError`.
    """
    too_old = {*wanted, *["runsc"] * upgrade_runsc} if is_old() else set()
    newer = [package for package in TOO_OLD if package in too_old]
    packages = [package for package in wanted if package not in newer]
    if not packages and not newer:
        return
    names = ", ".join([*packages, *(f"a newer {package}" for package in newer)])
    if not shutil.which("apt-get"):
        raise SetupError(
            f"{names}: missing, and this system has no apt-get; install gVisor as {_GVISOR_INSTALL} says, "
            "and the rest with this system's package manager"
        )
    try:
        root = _way_to_root(names)
    except SetupError as refused:
        if wanted:
            raise
        say(f"{refused}; going on with the old one, which has only ptrace and kvm")
        return
    for package, why in wanted.items():
        say(f"installing {package}: {why}")
    if packages or not os.path.exists(KEYS.format(NEW)):
        _call([*root, *_APT, "update"])  # lists that are old may still do; where they do not, install says so
    with tempfile.TemporaryDirectory(prefix="engine-setup-") as directory:
        if newer:
            for package in newer:
                say(
                    f"taking {package} from Debian {NEW}: that of {OLD} is too old to have {TOO_OLD[package]}"
                )
            if not os.path.exists(KEYS.format(NEW)):
                _install(root, ["debian-archive-keyring"])
            packages += _download(NEW, newer, Path(directory))
        _install(root, packages)


def replace_runsc() -> None:
    """Install the runsc of Debian 13 in the place of this release's own. Raises `SetupError`."""
    root = _way_to_root("another runsc")
    say(f"taking runsc from Debian {NEW}: this release's own ends with an error soon after its start")
    if not os.path.exists(KEYS.format(NEW)):
        _install(root, ["debian-archive-keyring"])
    with tempfile.TemporaryDirectory(prefix="engine-setup-") as directory:
        _install(root, ["--allow-downgrades", *_download(NEW, ["runsc"], Path(directory))])


def extract_old_runsc(target: str) -> None:
    """Put the runsc of Debian 12, which the newer one replaced there, at `target`; it is not installed.

    Raises `SetupError`.
    """
    with tempfile.TemporaryDirectory(prefix="engine-setup-") as directory:
        (package,) = _download(OLD, ["runsc"], Path(directory))
        _need(_call(["dpkg-deb", "-x", package, f"{directory}/tree"]), "dpkg-deb")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        half = f"{target}.new"
        shutil.copyfile(f"{directory}/tree/usr/bin/runsc", half)
        os.chmod(half, 0o755)  # noqa: S103
        os.replace(half, target)
    give_to_owner(os.path.dirname(target))


def is_old() -> bool:
    """Whether this is the Debian whose own runsc is too old, os-release(5)."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return False
    return (release.get("ID"), release.get("VERSION_CODENAME")) == ("debian", OLD)


def _install(root: Sequence[str], packages: Sequence[str]) -> None:
    """Install `packages`, and remove nothing for them but the busybox that the static one replaces."""
    command = [*_APT, "install", "--no-install-recommends", *packages]
    plan = _need(_call([*command, "--simulate"]), "apt-get install")
    removed = {line.split()[1] for line in plan.splitlines() if line.startswith("Remv ")}
    if removed - {"busybox"}:
        unwanted = ", ".join(sorted(removed))
        raise SetupError(f"installing {', '.join(packages)} would remove {unwanted}; install it by hand")
    if removed:
        say("busybox-static replaces busybox: the same programs, needing no libraries")
    _need(_call([*root, *command]), "apt-get install")


def _download(release: str, packages: Sequence[str], directory: Path) -> list[str]:
    """Fetch the `packages` of `release` into `directory`, from this system's mirror; answers with their paths.

    It needs no root: apt gets lists and a cache of its own, and only the one source.
    """
    directory.chmod(0o755)  # as root, apt fetches as the user _apt
    own = directory / "apt"
    (own / "lists" / "partial").mkdir(parents=True)
    source = own / "sources.list"
    source.write_text(f"deb [signed-by={KEYS.format(release)}] {mirror()} {release} main\n")
    apt = [*_APT, "-o", f"Dir::Etc::SourceList={source}", "-o", "Dir::Etc::SourceParts=/dev/null"]
    apt += ["-o", f"Dir::State::Lists={own / 'lists'}", "-o", f"Dir::Cache={own}"]
    _need(_call([*apt, "-o", "APT::Update::Error-Mode=any", "update"]), "apt-get update")
    wanted = [f"{package}/{release}" for package in packages]
    _need(_call([*apt, "download", *wanted], directory), f"apt-get download {' '.join(packages)}")
    return [str(path) for package in packages for path in directory.glob(f"{package}_*.deb")]


def mirror() -> str:
    """Where apt gets this release from."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    # Another release is asked for by its other name, of a suite; its one mirror of `main` has every release.
    release = [f"Release: {OLD}"] if is_old() else ["Origin: Debian"]
    found = _call([*command, "Component: main", *release]).stdout.split()
    uris = [uri for uri in found if not uri.startswith("cdrom:") and "-security" not in uri]
    if not uris:
        raise SetupError(
            f"no apt source with {release[0]!r} and component main is configured, so there is no mirror to ask for "
            f"other packages; add one under /etc/apt/sources.list.d, or install gVisor as {_GVISOR_INSTALL} says"
        )
    return uris[0]


def _way_to_root(names: str) -> list[str]:
    """What to put before a command that needs root: nothing, or sudo. Raises `SetupError`."""
    hint = "run this as root, or have root run `./just setup` here once"
    if os.geteuid() == 0:
        return []
    if not shutil.which("sudo"):
        raise SetupError(f"{names}: only root can install this, and there is no sudo; {hint}")
    silent = _call(["sudo", "-n", "true"])
    if silent.returncode != 0 and not sys.stdin.isatty():
        why = _last_line(silent.stdout)
        raise SetupError(f"{names}: only root can install this, and without a terminal {why}; {hint}")
    return ["sudo", *(f"{name}={value}" for name, value in _ENVIRONMENT.items())]


def _call(command: Sequence[str], directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `command` without input; all that it says is in `stdout`."""
    return subprocess.run(  # noqa: S603
        command,
        cwd=directory,
        env={**os.environ, **_ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def _need(done: subprocess.CompletedProcess[str], what: str) -> str:
    """What a command said that succeeded. Raises `SetupError` with apt's own words."""
    if done.returncode != 0:
        raise SetupError(
            f"{what} failed: {_last_line(done.stdout)}; check the network and the sources under /etc/apt "
            f"(Ubuntu: universe), or install it by other means (gVisor: {_GVISOR_INSTALL})"
        )
    return done.stdout


def _last_line(output: str) -> str:
    """apt's own last error, or the last line of any kind."""
    lines = [line for line in output.splitlines() if line.strip()] or ["(it said nothing)"]
    return next((line for line in reversed(lines) if line.startswith("E:")), lines[-1])
