"""What the execute policy keeps executable of a program of several files, and what it makes read-only.

runsc starts its sidecars by path, so each gets a mount of its own: of the staged file, at its staged path. runsc gets
one, too, because it looks for them beside its own path.

The same inodes have other names, in the store and in other containers' stages, and the supervisor is their owner. After
the start no process executes the prewarmer, so the kernel would let it be written by such a name. So the directories
with these names become read-only, on every mount that leads to them. What runsc writes stays writable and noexec.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from engine.lifecycle.stage import Staged
from engine.linux.files import PrivateDirectory
from engine.linux.locked_mounts import Tree
from engine.linux.mounts import other_paths


def program_trees(staged: Staged) -> list[Tree]:
    """The trees of the staged files, an outer one before its inner ones. Raises `OSError`.

    A program of one file needs none: it is executed by descriptor, and by its children as /proc/self/exe.
    """
    root = staged.root
    read_only = [root.base, staged.exec_allow]
    writable = [root.runsc_root] if root.sandbox is None else [root.runsc_root, root.used_root]
    aliases = [path for directory in read_only for path in other_paths(directory.path)]
    return [
        *(Tree(path, _identity(os.stat(path)), read_only=True, executable=False) for path in aliases),
        *_trees([root.base], read_only=True),
        *_trees(writable, read_only=False),
        *_trees([staged.exec_allow], read_only=True),
        *(Tree(file.path, _identity(os.fstat(file.descriptor)), read_only=True) for file in staged.files),
    ]


def _trees(directories: list[PrivateDirectory], *, read_only: bool) -> Iterator[Tree]:
    for directory in directories:
        identity = _identity(os.fstat(directory.descriptor))
        yield Tree(directory.path, identity, read_only=read_only, executable=False)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
