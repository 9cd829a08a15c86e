"""Installs packages with apt, as root or through sudo, on Debian and its relatives.

The notable thing: Debian 12's runsc predates the systrap platform, so there Debian 13's package is taken,
from the mirror that is already configured and pinned so that nothing else of Debian 13 can be installed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tools import SetupError, say

#: How long to wait for another apt or dpkg, in seconds.
LOCK_PATIENCE = 120

_GVISOR_INSTALL = "https://gvisor.dev/docs/user_guide/install/"

#: The release whose runsc is too old, and the one whose is not.
OLD, NEW = "bookworm", "trixie"
ETC_APT = "/etc/apt"
SOURCE = f"{ETC_APT}/sources.list.d/gvisor-engine-{NEW}.sources"
PIN = f"{ETC_APT}/preferences.d/gvisor-engine"
_NEW_KEYS = f"/usr/share/keyrings/debian-archive-{NEW}-stable.gpg"

#: apt_preferences(5): a negative priority is never installed, and the entry for one package goes before `*`.
PIN_TEXT = f"""\
# Written by gvisor-engine: of Debian {NEW} nothing but runsc may be installed here.
# Before upgrading this system to {NEW}, remove this file and {SOURCE}.
Package: *
Pin: release n={NEW}
Pin-Priority: -1

Package: runsc
Pin: release n={NEW}
Pin-Priority: 990
"""

#: One apt source, its field names those of deb822 written as `str.title` does.
Fields = dict[str, str]


def install(wanted: Mapping[str, str], *, upgrade_runsc: bool) -> None:
    """Install the packages `wanted`, name to why, saying so; `upgrade_runsc` where there is a newer one.

    Raises `SetupError`.
    """
    upgrade_runsc = upgrade_runsc and _codename() == OLD
    if not wanted and not upgrade_runsc:
        return
    names = ", ".join([*wanted, *["a runsc with systrap"] * upgrade_runsc])
    if not shutil.which("apt-get"):
        raise SetupError(
            f"{names}: missing, and this system has no apt-get; install gVisor as {_GVISOR_INSTALL} says, "
            "and the rest with this system's package manager"
        )
    try:
        apt = Apt(_way_to_root(names))
    except SetupError as refused:
        if wanted:
            raise
        say(f"{refused}; going on with the old one, which has only ptrace and kvm")
        return
    for package, why in wanted.items():
        say(f"installing {package}: {why}")
    if upgrade_runsc:
        say("upgrading runsc: this one is too old to have the systrap platform")
    packages = [package for package in wanted if package != "runsc"]
    if upgrade_runsc or ("runsc" in wanted and _codename() == OLD):
        _open_newer_release(apt)
        packages.append(f"runsc/{NEW}")
    else:
        packages = list(wanted)
        _update(apt, packages)
    apt.install(packages)


def extract_old_runsc(target: str) -> None:
    """Put the runsc of Debian 12, which the newer one replaced there, at `target`; it is not installed.

    Raises `SetupError`.
    """
    if f" {OLD}/" not in _versions("runsc"):
        _update(Apt(_way_to_root("the lists of packages")), [])
    with tempfile.TemporaryDirectory() as directory:
        commands = (
            ["apt-get", "-q", "download", f"runsc/{OLD}"],
            ["sh", "-c", "exec dpkg-deb -x runsc_*.deb tree"],
        )
        for command in commands:
            done = _call(command, directory)
            if done.returncode != 0:
                raise SetupError(f"{command[0]} failed: {_last_line(done.stdout)}")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        half = f"{target}.new"
        shutil.copyfile(f"{directory}/tree/usr/bin/runsc", half)
        os.chmod(half, 0o755)  # noqa: S103
        os.replace(half, target)


def is_old() -> bool:
    """Whether this is the Debian whose own runsc is too old."""
    return _codename() == OLD


def _codename() -> str | None:
    """The release's name on Debian itself, None elsewhere; os-release(5)."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return None
    return release.get("VERSION_CODENAME") if release.get("ID") == "debian" else None


def _way_to_root(names: str) -> list[str]:
    """What to put before a command that needs root: nothing, or sudo. Raises `SetupError`."""
    remedy = "run this as root, or have root run `./just setup` here once"
    if os.geteuid() == 0:
        return []
    if not shutil.which("sudo"):
        raise SetupError(f"{names}: only root can install this, and there is no sudo; {remedy}")
    silent = subprocess.run(["sudo", "-n", "true"], capture_output=True, text=True, check=False)  # noqa: S607
    if silent.returncode != 0 and not sys.stdin.isatty():
        why = _last_line(silent.stderr)
        raise SetupError(f"{names}: only root can install this, and without a terminal {why}; {remedy}")
    return ["sudo"]


class Apt:
    """apt-get and the files under /etc/apt, each command behind `prefix`."""

    def __init__(self, prefix: Sequence[str]) -> None:
        self._prefix = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"]

    def update(self) -> None:
        """Refresh the package lists; any source that cannot be read is a `SetupError`."""
        self._get("update", "-o", "APT::Update::Error-Mode=any")

    def install(self, packages: Sequence[str]) -> None:
        """Install `packages`, and remove nothing for them but the busybox that the static one replaces.

        Raises `SetupError`.
        """
        arguments = ("install", "--no-install-recommends", *packages)
        plan = self._get(*arguments, "--simulate").splitlines()
        removed = {line.split()[1] for line in plan if line.startswith("Remv ")}
        if removed - {"busybox"}:
            unwanted = ", ".join(sorted(removed))
            raise SetupError(f"installing {', '.join(packages)} would remove {unwanted}; install it by hand")
        if removed:
            say("busybox-static replaces busybox: the same programs, needing no libraries")
        self._get(*arguments)

    def write(self, path: str, text: str) -> None:
        """Put `text` at `path`, readable by all. Raises `SetupError`."""
        self._do(["install", "-D", "-m", "0644", "/dev/stdin", path], text)

    def remove(self, *paths: str) -> None:
        """Remove `paths` where they exist. Raises `SetupError`."""
        self._do(["rm", "-f", *paths])

    def _get(self, *arguments: str) -> str:
        """The output of `apt-get`, after waiting for another apt's lock. Raises `SetupError`.

        `apt-get update` does not honour DPkg::Lock::Timeout, so every lock is waited for here.
        """
        deadline = time.monotonic() + LOCK_PATIENCE
        waiting = False
        while True:
            done = _call([*self._prefix, "apt-get", "-q", "-y", *arguments])
            if done.returncode == 0:
                return done.stdout
            if "Could not get lock" not in done.stdout or time.monotonic() > deadline:
                raise SetupError(f"apt-get {arguments[0]} failed: {_last_line(done.stdout)}")
            if not waiting:
                say(f"waiting up to {LOCK_PATIENCE} s for another apt to finish")
                waiting = True
            time.sleep(1)

    def _do(self, command: Sequence[str], text: str = "") -> None:
        done = subprocess.run(  # noqa: S603
            [*self._prefix, *command], input=text, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise SetupError(f"{' '.join(command)} failed: {_last_line(done.stderr)}")


def _call(command: Sequence[str], directory: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run `command` without input; all that it says is in `stdout`."""
    return subprocess.run(  # noqa: S603
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def _last_line(output: str) -> str:
    """apt's own last error, or the last line of any kind."""
    lines = [line for line in output.splitlines() if line.strip()] or ["(it said nothing)"]
    return next((line for line in reversed(lines) if line.startswith("E:")), lines[-1])


def _versions(package: str) -> str:
    """What apt knows of `package`: a line for each version and archive, as `apt-cache madison` prints."""
    return subprocess.run(  # noqa: S603
        ["apt-cache", "madison", package],  # noqa: S607
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    ).stdout


def _update(apt: Apt, packages: Sequence[str]) -> None:
    """Refresh apt's lists. One broken source is no obstacle as long as the packages are known."""
    failure = ""
    try:
        apt.update()
    except SetupError as error:
        failure = str(error)
    unknown = [package for package in packages if not _versions(package)]
    if unknown and failure:
        raise SetupError(f"{failure}; check the network and the sources under /etc/apt")
    if "runsc" in unknown:
        raise SetupError(
            f"the configured archives have no runsc (Ubuntu's universe has); install gVisor as {_GVISOR_INSTALL} says"
        )
    if unknown:
        raise SetupError(
            f"the configured archives have no {', '.join(unknown)} (Ubuntu: universe); install it by other means"
        )
    if failure:
        say(f"note: {failure}; going on, for what is needed is known")


def _open_newer_release(apt: Apt) -> None:
    """Let apt see the newer release for runsc alone: the pin first, so that it is never seen without."""
    sources = list(configured_sources(Path(ETC_APT)))
    if any(NEW in fields.get("Suites", "").split() for fields in sources):
        apt.update()  # whoever configured it has decided what of it may come in
        return
    source = derived_source(sources)
    if not os.path.exists(_NEW_KEYS):
        say(f"upgrading debian-archive-keyring: it brings the keys that sign {NEW}")
        apt.update()
        apt.install(["debian-archive-keyring"])
    say(f"taking runsc from Debian {NEW} ({SOURCE}); {PIN} keeps everything else of it out")
    apt.write(PIN, PIN_TEXT)
    apt.write(SOURCE, source)
    failure = ""
    try:
        apt.update()
    except SetupError as error:
        failure = f"{error}; "
    if f" {NEW}/" not in _versions("runsc"):
        apt.remove(SOURCE, PIN)
        raise SetupError(f"{failure}the configured mirror gives no runsc of {NEW}; check network and mirror")


def configured_sources(etc_apt: Path) -> Iterator[Fields]:
    """Every apt source configured under `etc_apt` but our own; sources.list(5) has both styles."""
    for path in [etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*"))]:
        if not path.is_file() or path.name == os.path.basename(SOURCE):
            continue
        text = path.read_text(errors="replace")
        if path.suffix == ".sources":
            yield from _stanzas(text)
        elif path.suffix == ".list":
            yield from _one_liners(text)


def _stanzas(text: str) -> Iterator[Fields]:
    """deb822(5) stanzas; a line that starts with a space goes on with the field before it."""
    lines = [line if line.strip() else "" for line in text.splitlines() if not line.startswith("#")]
    for stanza in "\n".join(lines).split("\n\n"):
        fields: Fields = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1].isspace() and name:
                fields[name] += f"\n{line}"
            elif ":" in line:
                name, value = (part.strip() for part in line.split(":", 1))
                name = name.title()
                fields[name] = value
        if fields and fields.get("Enabled", "yes").lower() not in ("no", "false", "0"):
            yield fields


def _one_liners(text: str) -> Iterator[Fields]:
    """`deb [option=value,value ...] uri suite component...` lines."""
    # The three options whose deb822 field has another name, sources.list(5).
    renamed = {"arch": "Architectures", "lang": "Languages", "target": "Targets"}
    for line in text.splitlines():
        found = re.match(r"\s*(deb|deb-src)\s+(?:\[([^]]*)\]\s*)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if not found:
            continue
        kind, options, uri, suite, components = found.groups()
        fields = {"Types": kind, "Uris": uri, "Suites": suite, "Components": components.strip()}
        for option in (options or "").split():
            name, _, value = option.partition("=")
            fields[renamed.get(name.lower(), name.title())] = value.replace(",", " ")
        yield fields


def derived_source(sources: Iterable[Fields]) -> str:
    """The deb822 text of a source for the newer release, at the mirror and with the keys of `sources`.

    Raises `SetupError` when no source of the running release is configured.
    """
    for fields in sources:
        if (
            "deb" in fields.get("Types", "").split()
            and OLD in fields.get("Suites", "").split()
            and "main" in fields.get("Components", "").split()
            and not fields.get("Uris", "").startswith("cdrom:")
        ):
            kept = {
                name: value for name, value in fields.items() if name not in ("Enabled", "X-Repolib-Name")
            }
            kept |= {"Types": "deb", "Suites": NEW, "Components": "main"}
            lines = [f"# Written by gvisor-engine for runsc alone; {PIN} keeps everything else out."]
            lines += [f"{name}: {value}" for name, value in kept.items()]
            return "\n".join(lines) + "\n"
    raise SetupError(
        f"no apt source with suite {OLD} and component main is configured, so none can be derived for "
        f"{NEW}'s runsc; add one under /etc/apt/sources.list.d, or install gVisor as {_GVISOR_INSTALL} says"
    )
