"""What runsc leaves mounted in its `--root` when its containers are over."""

from __future__ import annotations

import os

from engine.linux.mounts import unmount_namespace

#: runsc since July 2026 binds an empty network namespace to this file, and starts each gofer of that root in it.
_NULL_NETNS = "null-netns"


def unmount_null_netns(root: int, path: str) -> bool:
    """Unmount it in the open `--root` at `path`, which is absolute and free of links, and say whether it was there.

    Any other mount stays. Raises `OSError`.
    """
    return unmount_namespace(root, os.path.join(path, _NULL_NETNS))
