"""What runsc leaves mounted in its `--root` after its containers have ended."""

from __future__ import annotations

import os

from engine.linux.mounts import unmount_namespace

#: Since July 2026 runsc binds an empty network namespace to this file, and starts the gofers of that root in it.
_NULL_NETNS = "null-netns"


def unmount_null_netns(root: int, path: str) -> bool:
    """Unmount it in the open `--root` at `path`, which is absolute and free of links; whether it was mounted.

    Any other mount stays. Raises `OSError`.
    """
    return unmount_namespace(root, os.path.join(path, _NULL_NETNS))
