"""What a case runs in: a good bundle around one static busybox, and what is looked at on the host."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Sequence
from typing import Any

from engine.errors import EngineError, Reason
from engine.survey.busybox import BUSYBOX_PATHS, is_static

CGROUPS = "/sys/fs/cgroup"

_APPLETS = (
    *("sh", "cat", "chrt", "cut", "dd", "env", "grep", "head", "hostname", "id", "ls", "mkdir", "mknod"),
    *("readlink", "seq", "sleep", "stat", "timeout", "touch", "true", "umask", "uname"),
)
_CAPABILITIES = [f"CAP_{name}" for name in ("CHOWN", "DAC_OVERRIDE", "KILL", "MKNOD", "SETGID", "SETUID")]


class SurveyError(EngineError):
    """The survey cannot be made here."""

    step = "survey"


def find_busybox(chosen: str | None) -> str:
    """The busybox to put into containers. Raises `SurveyError` where none is static."""
    for path in (chosen,) if chosen else BUSYBOX_PATHS:
        if os.path.isfile(path) and is_static(path):
            return path
    raise SurveyError(
        f"no static busybox at {chosen or ', '.join(BUSYBOX_PATHS)}",
        reason=Reason.UNAVAILABLE,
        hint="install the package busybox-static, or give one with --busybox PATH",
    )


class World:
    """The directory of a survey: a root file system, a directory to share, and one bundle that is written anew.

    `cgroup`: the name of the cgroup of its containers. `is_root`: whether root makes the survey.
    """

    def __init__(self, directory: str, busybox: str) -> None:
        self.directory = directory
        self.bundle = os.path.join(directory, "bundle")
        self.shared = os.path.join(directory, "shared")
        self.marker = os.path.join(self.shared, "marker")
        self.cgroup = f"engine-survey-{os.getpid()}"
        self.is_root = os.geteuid() == 0
        rootfs = os.path.join(self.bundle, "rootfs")
        for name in ("bin", "data", "dev", "etc", "m", "mnt", "proc", "sys", "tmp"):
            os.makedirs(os.path.join(rootfs, name), mode=0o755)
        with open(busybox, "rb") as source, open(os.path.join(rootfs, "bin", "busybox"), "wb") as target:
            target.write(source.read())
        os.chmod(os.path.join(rootfs, "bin", "busybox"), 0o755)  # noqa: S103 (the container's users execute it)
        for applet in _APPLETS:
            os.symlink("busybox", os.path.join(rootfs, "bin", applet))
        for path, text in (
            ("data/file", "data"),
            ("secret", "secret"),
            ("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
        ):
            with open(os.path.join(rootfs, path), "w", encoding="ascii") as file:
                file.write(text)
        self._fill_shared()

    def _fill_shared(self) -> None:
        os.mkdir(self.shared)
        os.chmod(self.shared, 0o777)  # noqa: S103 (in a directory of mode 0700)
        with open(os.path.join(self.shared, "file"), "w", encoding="ascii") as file:
            file.write("shared")
        os.symlink("file", os.path.join(self.shared, "link"))
        if self.is_root:
            os.mknod(os.path.join(self.shared, "null"), 0o20666, os.makedev(1, 3))

    def config(self) -> dict[str, Any]:
        """A good config.json whose every part is done as asked."""
        return copy.deepcopy(
            {
                "ociVersion": "1.0.2",
                "process": {
                    "args": ["/bin/true"],
                    "cwd": "/",
                    "env": ["PATH=/bin", "HOME=/"],
                    "user": {"uid": 0, "gid": 0},
                    "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
                },
                "root": {"path": "rootfs", "readonly": True},
                "mounts": [
                    {"destination": "/proc", "type": "proc", "source": "proc"},
                    {
                        "destination": "/tmp",  # noqa: S108 (the container's)
                        "type": "tmpfs",
                        "source": "tmpfs",
                        "options": ["size=8m", "mode=1777"],
                    },
                    {"destination": "/m", "type": "bind", "source": self.shared, "options": ["rbind"]},
                ],
                "linux": {
                    "cgroupsPath": f"/{self.cgroup}",
                    "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
                },
            }
        )

    def of_cgroup(self, name: str) -> str | None:
        """The content of the file `name` of the container's cgroup, of any controller; None if there is none."""
        for place in ("", name.partition(".")[0], "blkio"):
            try:
                with open(os.path.join(CGROUPS, place, self.cgroup, name), encoding="ascii") as file:
                    return file.read().strip()
            except OSError:
                continue
        return None

    def clean(self) -> None:
        """Remove the cgroups that a start that failed has left, and the marker of a hook."""
        for place in ("", *_controllers()):
            with contextlib.suppress(OSError):  # most are not there
                os.rmdir(os.path.join(CGROUPS, place, self.cgroup))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.marker)


def _controllers() -> Sequence[str]:
    try:
        return sorted(os.listdir(CGROUPS))
    except OSError:
        return ()
