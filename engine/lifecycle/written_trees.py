"""What stays writable where all else, or all around it, is read-only: above all under a sealed policy.

A program in a read-only tree may have other names: a hard link beside the tree, another mount of it. Whoever can write
by such a name can bring new code to execution. So only what runsc has to write stays writable: its own directories,
what the container may write, and the place of a pid file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from itertools import pairwise

from engine.bundle import executable
from engine.bundle.bundle import Bundle
from engine.lifecycle.stage import Staged
from engine.linux.locked_mounts import Tree
from engine.runsc.arguments import RunscArguments


def of_runsc(staged: Staged) -> list[Tree]:
    """runsc's own directories, into which nobody but the engine has put anything. Raises `OSError`."""
    root = staged.root
    own = [root.runsc_root] if root.sandbox is None else [root.runsc_root, root.used_root]
    return [
        Tree.of(directory.path, os.fstat(directory.descriptor), read_only=False, executable=False)
        for directory in own
    ]


def of_the_container(bundle: Bundle, runsc_arguments: RunscArguments) -> list[Tree]:
    """What the container may write, and the directory of a pid file. Raises `OSError`."""
    places = _directories_of_pid_files(runsc_arguments.flags)
    return [
        *executable.written_trees(bundle),
        *(Tree.of(path, os.stat(path), read_only=False, executable=False) for path in places),
    ]


def may_hold_programs_of(trees: Sequence[Tree], written: Sequence[Tree]) -> bool:
    """Whether a file in the executable `trees` may have another name in what is `written`. Raises `OSError`."""
    devices = {tree.identity[0] for tree in trees}
    for tree in written:
        status = os.stat(tree.path)
        if status.st_dev in devices and (stat.S_ISDIR(status.st_mode) or status.st_nlink > 1):
            return True
    return False


def reach_the_engines_own(trees: Sequence[Tree], staged: Staged) -> bool:
    """Whether one of the `trees` is in the base, or where programs lie, or contains one of the two, by any mount.

    There lie the records of other containers, and the programs that later commands execute outside of the policy.
    Raises `OSError`.
    """
    if not trees:
        return False
    from engine.linux.mounts import other_paths

    root = staged.root
    directories = [root.base.path, *([root.programs.path] if root.programs else [])]
    own = [*directories, *(path for directory in directories for path in other_paths(directory))]
    paths = [os.path.realpath(tree.path) for tree in trees]
    return any(os.path.commonpath([path, each]) in (path, each) for path in paths for each in own)


def _directories_of_pid_files(flags: Sequence[str]) -> list[str]:
    return [os.path.dirname(path) for flag, path in pairwise(flags) if flag == "--pid-file"]
