"""An execute allowlist out of mount flags: everything `noexec,nosuid` but a few trees, and no way to take it back.

Two user and mount namespaces, one in the other. In the first, every mount is given the flags; the second, being less
privileged, gets a copy whose flags the kernel has locked, mount_namespaces(7). This leaves
mount(2) to runsc, which a Landlock domain would take away, and it needs no privilege.

What was opened before keeps the mount it was opened on, which is how a program can still be executed from a
descriptor that was opened in time, and nothing else of where it lies.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from functools import partial

from engine.linux import namespaces, seccomp
from engine.linux.child import ask_child
from engine.linux.mounts import (
    MountFlag,
    attach_tree,
    clear_flags,
    clone_tree,
    set_flags,
    set_flags_everywhere,
)
from engine.linux.namespaces import IdMaps
from engine.records import dataclass

_LOCKED = MountFlag.NO_EXEC | MountFlag.NO_SUID


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory or file that keeps what flags its mount has, or is made `read_only` as well.

    `identity` is the device and inode that its path must lead to.
    """

    path: str
    identity: tuple[int, int]
    read_only: bool


class UnusableError(Exception):
    """This kernel, or its configuration, does not let this process confine itself: why, and what would help."""

    def __init__(self, why: str, hint: str) -> None:
        super().__init__(why)
        self.why = why
        self.hint = hint


def probe(trees: Sequence[Tree], *, sealed: bool) -> IdMaps:
    """Try it in a child that is thrown away, and try there to undo it. Answers with the ids that can be mapped.

    Raises `UnusableError`.
    """
    try:
        *better, last = namespaces.possible_maps()
        for maps in better:
            with contextlib.suppress(OSError):
                ask_child(partial(_try, maps, trees, sealed=sealed))
                return maps
        ask_child(partial(_try, last, trees, sealed=sealed))
    except OSError as error:
        raise explain(error) from None
    return last


def confine(maps: IdMaps, trees: Sequence[Tree], *, sealed: bool) -> None:
    """From here on this process and its children execute nothing by path but what lies in `trees`.

    With `sealed`, nor do they mount anything to execute from. Irreversible. Raises `OSError`; the process may be
    confined in part by then.
    """
    _lock(maps, trees)
    _forbid_more(sealed=sealed)


def _lock(maps: IdMaps, trees: Sequence[Tree]) -> None:
    namespaces.enter(maps)
    with contextlib.ExitStack() as opened:
        cloned = []
        for tree in sorted(
            trees, key=lambda tree: tree.path.count("/")
        ):  # what is inside another comes after it
            place = _open(tree)
            opened.callback(os.close, place)
            clone = clone_tree(place, tree.path)
            opened.callback(os.close, clone)
            if tree.read_only:
                set_flags(clone, MountFlag.READ_ONLY, tree.path)
            cloned.append((clone, tree))
        set_flags_everywhere(_LOCKED)
        for clone, tree in cloned:
            place = _open(tree)  # anew: what was mounted before may hold it
            opened.callback(os.close, place)
            attach_tree(clone, place, tree.path)
    namespaces.enter(namespaces.possible_maps()[0])


def _open(tree: Tree) -> int:
    """Open the tree on a mount of the namespace that this process is in by now."""
    place = os.open(tree.path, os.O_PATH)
    status = os.fstat(place)
    if (status.st_dev, status.st_ino) != tree.identity:
        os.close(place)
        raise OSError(errno.ESTALE, "it was replaced meanwhile", tree.path)
    return place


def _try(maps: IdMaps, trees: Sequence[Tree], *, sealed: bool) -> None:
    """In a child: do what `confine` does, and try to undo it. Raises `OSError`."""
    _lock(maps, trees)
    with contextlib.suppress(OSError):
        clear_flags("/", MountFlag.NO_EXEC)
    if not os.statvfs("/").f_flag & os.ST_NOEXEC:
        raise OSError(errno.EOPNOTSUPP, "this kernel does not lock the flags of mounts", "/")
    _forbid_more(sealed=sealed)


def _forbid_more(*, sealed: bool) -> None:
    seccomp.set_no_new_privileges()
    if sealed:
        seccomp.forbid_executable_mounts()


def explain(error: OSError) -> UnusableError:
    """What the kernel meant, and the hint."""
    what = f"{error.filename}: {error.strerror}"
    if error.errno == errno.ENOSYS:
        return UnusableError(f"{what}; it takes Linux 5.12", "boot a newer kernel")
    if error.errno == errno.EINVAL and error.filename == "a new user namespace":
        return UnusableError(f"{what}: this process has threads", "start the run from a process of its own")
    for name, value, hint in namespaces.BANS:
        if namespaces.sysctl(name) == value:
            return UnusableError(f"user namespaces are forbidden by {name} = {value} ({what})", hint)
    return UnusableError(
        what, "allow user namespaces and mounts in them where this system is confined (seccomp, a container)"
    )
