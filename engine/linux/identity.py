"""What tells one version of one file from another, inode(7)."""

from __future__ import annotations

import os

from engine.records import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """Device, inode, size, and the times in nanoseconds: any write, chmod or link moves `ctime_ns`."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def facts(self) -> dict[str, int]:
        """The five by name, as they are recorded."""
        return {
            "device": self.device,
            "inode": self.inode,
            "size": self.size,
            "mtime_ns": self.mtime_ns,
            "ctime_ns": self.ctime_ns,
        }
