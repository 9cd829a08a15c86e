"""A place apart on this machine where container managers can be used for real, and of which nothing stays.

It is a process that holds a mount, a network and a process namespace. Bridges, firewall rules, sockets, locks and
mounts that a manager makes exist only there. The notable thing: what is still there at the end is looked at before
the namespaces go, so they hide no leak.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

#: Seconds that one command of a manager may take, on two cores that are busy.
TIMEOUT = 60.0

#: Where managers and runtimes keep what must not be found by, or mixed with, the machine's own.
_PRIVATE = ("/dev/shm", "/var/lib/cni", "/var/lib/containers", "/etc/cni/net.d")

#: `$1` tells whether runsc must be kept from seeing `rmem_default`, the rest are directories to make private.
#: Adopted processes are reaped by the kernel, as SIGCHLD is ignored.
_HOLDER = """
set -eu
hide=$1; shift
ip link set lo up
mkdir -p /var/lib/cni  # network plugins make it, and it must be private before they do
mkdir -p /var/lib/gvisor-engine  # so does the engine
mount -t tmpfs -o mode=0711 none /var/lib/gvisor-engine
# As initramfs-tools mounts it on every Debian and Ubuntu: small, and nothing can be executed there.
mount -t tmpfs -o nodev,noexec,nosuid,size=64m,mode=0755 none /run
for private; do [ ! -d "$private" ] || mount -t tmpfs -o mode=0755 none "$private"; done
mkdir -p /run/lock /run/netns
mount --bind /run/netns /run/netns  # podman would mount it for its first bridge and leave it, which is no leak
if [ "$hide" = yes ]; then
    mkdir /run/net
    mount --bind /proc/sys/net /run/net
    mount -t tmpfs none /proc/sys/net
    mkdir /proc/sys/net/core
    cat /run/net/core/somaxconn >/proc/sys/net/core/somaxconn
    for part in ipv4 ipv6 netfilter; do
        [ ! -d /run/net/$part ] || { mkdir /proc/sys/net/$part; mount --bind /run/net/$part /proc/sys/net/$part; }
    done
    umount /run/net
    rmdir /run/net
fi
echo ready
exec env --ignore-signal=CHLD cat >/dev/null
"""


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code and what it said."""

    command: Sequence[str]
    code: int
    stdout: str
    stderr: str

    def ok(self) -> str:
        """stdout of a command that succeeded."""
        assert self.code == 0, self
        return self.stdout


@dataclass
class Arena:
    """The namespaces, a directory that is theirs, and the processes that were started in them."""

    directory: Path
    holder: subprocess.Popen[str]
    environment: Mapping[str, str]
    #: A name that nothing else on this machine has, for what cannot be put in a namespace: cgroups.
    name: str = field(default_factory=lambda: f"ge-managers-{os.urandom(4).hex()}")
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def init(self) -> int:
        """The process that every namespace hangs on: the only child of the `unshare` that was started."""
        children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()
        assert len(children) == 1, children
        return int(children[0])

    def inside(self, *command: str | Path) -> list[str]:
        """`command` as one that runs in these namespaces."""
        enter = ["nsenter", f"--target={self.init}", "--mount", "--net", "--pid", "--"]
        return [*enter, *map(str, command)]

    def run(self, *command: str | Path, given: str | None = None) -> Done:
        """Run to the end. What it leaves running in the background may hold its output open, so that goes to files."""
        with self._output() as out, self._output() as err:
            process = subprocess.run(
                self.inside(*command),
                check=False,
                input=given,
                stdin=subprocess.DEVNULL if given is None else None,
                stdout=out,
                stderr=err,
                env=dict(self.environment),
                cwd=self.directory,
                text=True,
                timeout=TIMEOUT,
            )
            return Done([*map(str, command)], process.returncode, _content(out), _content(err))

    def start(self, *command: str | Path, **streams: Any) -> subprocess.Popen[str]:
        """Start and go on."""
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(
            self.inside(*command),
            env=dict(self.environment),
            cwd=self.directory,
            text=True,
            **(quiet | streams),
        )
        self.started.append(process)
        return process

    def _output(self) -> IO[str]:
        name = self.directory / f"output-{time.monotonic_ns()}"
        file = name.open("w+", encoding="utf-8", errors="backslashreplace")
        name.unlink()
        return file

    def processes(self) -> dict[int, str]:
        """Every process here but the one that holds it, by its id here, with its command line."""
        found = {}
        for directory in Path(f"/proc/{self.init}/root/proc").iterdir():
            if directory.name.isdigit() and directory.name != "1":
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    command = (
                        (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    )
                    if command:  # one that has ended and is not reaped yet has none
                        found[int(directory.name)] = command.strip()
        return found

    def mounts(self) -> set[str]:
        """The mount points here."""
        lines = Path(f"/proc/{self.init}/mountinfo").read_text().splitlines()
        return {line.split()[4] for line in lines}

    def cgroups(self) -> list[Path]:
        """The cgroups beneath those that are named after this, deepest first."""
        return cgroups_named(self.name)

    def close(self) -> None:
        """End the holder, and so, as it is the first process of its namespace, everything here."""
        self.holder.communicate(timeout=TIMEOUT)
        for process in self.started:
            process.wait(timeout=TIMEOUT)
        for cgroup in self.cgroups():
            eventually("the end of a cgroup", lambda cgroup=cgroup: remove_cgroup(cgroup))  # type: ignore[misc]


def open_arena(directory: Path) -> Arena:
    """Make the namespaces. Raises `RuntimeError` with what the system said when it cannot."""
    hide = "yes" if _every_network_has_rmem_default() else "no"
    flags = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation=private"]
    holder = subprocess.Popen(
        ["unshare", *flags, "sh", "-c", _HOLDER, "sh", hide, *_PRIVATE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    if holder.stdout.readline() != "ready\n":
        raise RuntimeError(holder.communicate(timeout=TIMEOUT)[1].strip())
    path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return Arena(directory, holder, {"PATH": path, "HOME": str(directory), "TMPDIR": str(directory)})


def eventually(what: str, look: Callable[[], Any], patience: float = 20) -> Any:
    """What `look` finds, once it is true within `patience` seconds. Raises `TimeoutError`."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.05)
    raise TimeoutError(what)


def said_on_a_terminal(start: Callable[[int], subprocess.Popen[str]]) -> bytes:
    """What the program says that `start` gives a terminal as its standard files, and that then ends well."""
    ours, theirs = pty.openpty()
    try:
        process = start(theirs)
        os.close(theirs)
        said = b""
        try:
            while piece := os.read(ours, 4096):
                said += piece
        except OSError:  # EIO: the other side is closed, pty(7)
            pass
        assert process.wait(timeout=TIMEOUT) == 0, said
    finally:
        os.close(ours)
    return said


def _every_network_has_rmem_default() -> bool:
    """Whether this Linux has /proc/sys/net/core/rmem_default in every network namespace, as recent ones do.

    runsc before August 2024, as Debian has it, takes that file for the mark of the host's own network namespace and
    refuses to start in any.
    """
    look = ["unshare", "--net", "test", "-e", "/proc/sys/net/core/rmem_default"]
    return subprocess.run(look, check=False).returncode == 0


def _content(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def cgroups_named(name: str) -> list[Path]:
    """The cgroups of that name in every hierarchy and those beneath, deepest first; cgroups(7), v1 or v2."""
    root = Path("/sys/fs/cgroup")
    hierarchies = [root, *(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())]
    tops = [top for hierarchy in hierarchies if (top := hierarchy / name).is_dir()]
    return [Path(path) for top in tops for path, _, _ in os.walk(top, topdown=False)]


def remove_cgroup(cgroup: Path) -> bool:
    """Whether the cgroup is gone; False while something is in it."""
    try:
        cgroup.rmdir()
    except OSError as error:
        if error.errno == errno.ENOENT:
            return True
        if error.errno != errno.EBUSY:
            raise
        return False
    return True
