"""What the execute policy keeps executable of a program of several files, and what it makes read-only.

runsc starts its sidecars by path, so each gets a mount of its own: of the staged file, at its staged path. runsc gets
one, too, because it looks for them beside its own path.

The same inodes have other names, in the store and in other containers' stages, and the supervisor is their owner. After
the start no process executes the prewarmer, so the kernel would let it be written by such a name. So the directories
with these names become read-only, on every mount that leads to them. What runsc writes (`written_trees.of_runsc`) stays
writable and noexec.
"""

from __future__ import annotations

import os

from engine.lifecycle.stage import Staged
from engine.linux.locked_mounts import Tree
from engine.linux.mounts import other_paths


def program_trees(staged: Staged) -> list[Tree]:
    """The trees of the staged files, an outer one before its inner ones. Raises `OSError`.

    A program of one file needs none: it is executed by descriptor, and by its children as /proc/self/exe.
    """
    directories = [staged.root.base, staged.exec_allow]
    aliases = [path for directory in directories for path in other_paths(directory.path)]
    return [
        *(Tree.of(path, os.stat(path), read_only=True, executable=False) for path in aliases),
        *(
            Tree.of(directory.path, os.fstat(directory.descriptor), read_only=True, executable=False)
            for directory in directories
        ),
        *(Tree.of(file.path, os.fstat(file.descriptor), read_only=True) for file in staged.files),
    ]
