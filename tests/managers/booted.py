"""A systemd that was booted: the first process of namespaces of its own, on a root made of this machine's programs.

The notable thing: `/proc/sys` and `/sys` are read-only there and only a journal is started, so what a boot does to a
kernel is not done to the one that the machine shares.

Sources: systemd's container interface (CONTAINER_INTERFACE.md), systemd(1), pivot_root(8), cgroup_namespaces(7).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.managers.arena import TIMEOUT, Done, cgroups_named, eventually, remove_cgroup

SYSTEMD = Path("/usr/lib/systemd/systemd")

#: The ordinary user that there is, whose manager is `user@UID.service`.
USER = 4242

#: Of the system's own units those that are wanted; the rest would set up devices, clocks and the kernel.
_UNITS = (
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-journald-dev-log.socket",
    "basic.target",
    "network.target",
    "shutdown.target",
    "umount.target",
)
_OWN_UNITS = {
    "sysinit.target": f"[Unit]\nWants={' '.join(_UNITS[:3])}\n",
    "user@.service": f"""
[Service]
User=%i
Slice=user-%i.slice
Type=notify
ExecStart={SYSTEMD} --user
Delegate=yes
Environment=XDG_RUNTIME_DIR=/run/user/%i
RuntimeDirectory=user/%i
RuntimeDirectoryMode=0700
""",
    "default.target": "[Unit]\nRequires=sysinit.target basic.target\nAfter=sysinit.target basic.target\n",
}

#: `$1` is where the root is made, `$2` the cgroup, `$3` has the directories `units`, `bin` (what `/usr/local/bin` has
#: beside the machine's own) and `bundles`, `$4` is an ordinary user; the rest are directories that it has read-only.
#: "ready" is said when nothing but systemd itself is missing.
_BOOT = """
set -eu
root=$1 cgroup=$2 given=$3 user=$4; shift 4
mount -t tmpfs -o mode=0755 root "$root"
cd "$root"
mkdir -p proc sys dev run tmp etc/systemd root var/lib var/log var/tmp old
for name in bin sbin lib lib64; do [ ! -L /$name ] || ln -s "$(readlink /$name)" $name; done
for shared; do
    mkdir -p ".$shared"
    mount --bind "$shared" ".$shared"
    mount -o remount,bind,ro ".$shared"
done
mount -t overlay -o "lowerdir=$given/bin:/usr/local/bin" programs usr/local/bin
mkdir var/lib/gvisor-engine
mount --bind "$given/bundles" var/lib/gvisor-engine
cp -R "$given/units" etc/systemd/system
cp /etc/ld.so.cache /etc/passwd /etc/group /etc/nsswitch.conf etc/
echo "somebody:x:$user:$user::/tmp:/bin/sh" >>etc/passwd
echo "somebody:x:$user:" >>etc/group
tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs -o mode=0755 cgroup sys/fs/cgroup
    for hierarchy in /sys/fs/cgroup/*/"$cgroup"; do
        name=$(basename "$(dirname "$hierarchy")")
        mkdir "sys/fs/cgroup/$name"
        case $name in
            unified) mount -t cgroup2 cgroup2 sys/fs/cgroup/unified ;;
            systemd) mount -t cgroup -o none,name=systemd,xattr cgroup sys/fs/cgroup/systemd ;;
            *) mount -t cgroup -o "$name" cgroup "sys/fs/cgroup/$name" ;;
        esac
    done
fi
mount -t tmpfs -o mode=0755 dev dev
for device in null zero full random urandom tty; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o nodev,noexec,nosuid,size=64m,mode=0755 run run  # as initramfs-tools does
chmod 1777 tmp var/tmp
pivot_root . old
umount -l /old
rmdir /old
echo ready
exec env -i container=gvisor-engine-test PATH=/usr/sbin:/usr/bin SYSTEMD_UNIT_PATH=/etc/systemd/system \\
    /usr/lib/systemd/systemd --system --show-status=no
"""


@dataclass
class Booted:
    """The namespaces of a systemd, and its cgroups."""

    holder: subprocess.Popen[bytes]
    cgroup: str
    #: What the boot and systemd's own log said.
    log: Path
    #: Is `/var/lib/gvisor-engine` there.
    bundles: Path

    @property
    def init(self) -> int:
        """systemd's process id as this machine has it."""
        children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()
        assert len(children) == 1, (children, self.log.read_text())
        return int(children[0])

    def run(self, *command: str | Path, environment: Sequence[str] = ()) -> Done:
        """Run `command` there to its end."""
        enter = [
            "nsenter",
            f"--target={self.init}",
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--cgroup",
        ]
        given = ["env", "-i", "PATH=/usr/sbin:/usr/bin", *environment]
        asked = [*enter, "--", *given, *map(str, command)]
        done = subprocess.run(
            asked, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT
        )
        return Done(asked, done.returncode, done.stdout, done.stderr)

    def run_as_user(self, *command: str | Path) -> Done:
        """Run it as `USER`, in whose session that user's systemd is found."""
        ids = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        return self.run(
            "setpriv", *ids, *command, environment=[f"XDG_RUNTIME_DIR=/run/user/{USER}", "HOME=/tmp"]
        )

    def show(self, unit: str, what: str) -> str:
        """One property of a unit, systemctl(1)."""
        return self.run("systemctl", "show", "--value", f"--property={what}", unit).ok().strip()

    def journal(self, *what: str) -> str:
        return self.run("journalctl", "--no-pager", "--quiet", *what).ok()

    def root(self, path: str | Path) -> Path:
        """Where this machine sees a path of there."""
        return Path(f"/proc/{self.init}/root{path}")

    def programs(self) -> set[str]:
        """What is executed there, beside systemd's own."""
        found = set()
        for directory in self.root("/proc").iterdir():
            if directory.name.isdigit():
                with contextlib.suppress(OSError):
                    command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                    if command and not command.startswith(("/usr/lib/systemd/", "/lib/systemd/", "(sd-pam)")):
                        found.add(command)
        return found

    def mounts(self) -> set[str]:
        lines = Path(f"/proc/{self.init}/mountinfo").read_text().splitlines()
        return {line.split()[4] for line in lines}

    def cgroups(self) -> set[str]:
        """Those of services and containers; a slice that systemd makes for a template's services is its own."""
        return {str(path) for path in cgroups_named(self.cgroup) if path.suffix != ".slice"}


def why_not() -> str | None:
    """Why no systemd can be booted by this user or on this kernel; None where one can."""
    if os.geteuid() != 0:
        return "needs root, to make namespaces and cgroups"
    top = Path("/sys/fs/cgroup")
    if not (top / "cgroup.controllers").exists() and not (top / "systemd").is_dir():
        return f"no cgroup hierarchy that systemd could use: {top} is not cgroup2 and has no systemd beneath"
    return None


@contextlib.contextmanager
def boot(directory: Path, units: Sequence[Path]) -> Iterator[Booted]:
    """Boot a systemd that also knows these `units`; at the end nothing is left of it.

    Raises `RuntimeError` with what the system said where it cannot be had.
    """
    known = directory / "units"
    for made in (directory / "root", known, directory / "bin", directory / "bundles"):
        made.mkdir()
    (directory / "bin" / "engine").symlink_to(Path(sys.prefix) / "bin" / "engine")
    for unit in _UNITS:
        (known / unit).symlink_to(SYSTEMD.parent / "system" / unit)
    for name, text in _OWN_UNITS.items():
        (known / name).write_text(text)
    for path in units:
        shutil.copy(path, known)
    cgroup = f"ge-booted-{os.urandom(4).hex()}"
    namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork", "--kill-child"]
    script = [_BOOT, "sh", str(directory / "root"), cgroup, str(directory), str(USER), *_shared()]
    log = directory / "console"
    into = [path / cgroup for path in _hierarchies()]
    for path in into:
        path.mkdir()
    try:
        with log.open("wb") as console:
            holder = subprocess.Popen(
                [
                    "sh",
                    "-c",
                    _ENTER,
                    "sh",
                    *map(str, into),
                    "--",
                    "unshare",
                    *namespaces,
                    "sh",
                    "-c",
                    *script,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=console,
            )
        try:
            assert holder.stdout is not None
            if holder.stdout.readline() != b"ready\n":
                raise RuntimeError(log.read_text().strip())
            booted = Booted(holder, cgroup, log, directory / "bundles")
            eventually("systemd has booted", lambda: booted.run("systemctl", "is-system-running").code == 0)
            yield booted
        finally:
            holder.kill()  # and with it, by --kill-child, systemd and all beneath
            holder.communicate(timeout=TIMEOUT)
    finally:
        for left in cgroups_named(cgroup):
            eventually(f"the end of {left}", lambda left=left: remove_cgroup(left))  # type: ignore[misc]


#: Enters the cgroups that are named before `--`, which a cgroup namespace then has as its roots, and becomes the rest.
_ENTER = """
set -eu
while [ "$1" != -- ]; do
    for part in cpuset.cpus cpuset.mems; do [ ! -e "$1/$part" ] || cat "$1/../$part" >"$1/$part" || true; done
    echo $$ >"$1/cgroup.procs"
    shift
done
shift
exec "$@"
"""


def _hierarchies() -> list[Path]:
    """The mount points of cgroup hierarchies, cgroups(7)."""
    top = Path("/sys/fs/cgroup")
    if (top / "cgroup.controllers").exists():
        return [top]
    return [path for path in top.iterdir() if path.is_dir() and not path.is_symlink()]


def _shared() -> list[str]:
    """What a boot's root has of this machine: the system's programs, and this checkout with its Python."""
    wanted = [Path("/usr"), Path(__file__).resolve().parents[2], Path(sys.prefix), Path(sys.base_prefix)]
    kept: list[Path] = []
    for path in sorted({path.resolve() for path in wanted}):
        if not any(path.is_relative_to(above) for above in kept):
            kept.append(path)
    return [str(path) for path in kept]
