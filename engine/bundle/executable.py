"""Find the host directories that must stay executable for the bundle, and which of them can be read-only.

The Sentry maps a program's text from the host's file, and mmap(2) with PROT_EXEC fails (EPERM) on a `noexec` mount: the
container's first program would die of SIGSEGV. So the root file system and the bind mounts into it keep their flags,
unless the bundle says `noexec`. runsc alone needs nothing: it is executed by descriptor, and by its children as
/proc/self/exe.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence

from engine.bundle.bundle import Bundle
from engine.bundle.oci_config import is_bind
from engine.linux.locked_mounts import Tree
from engine.linux.openat2 import RESOLVE_IN_ROOT, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def executable_trees(bundle: Bundle) -> list[Tree]:
    """The bundle's root file system and the sources of its bind mounts.

    A missing source is skipped; runsc reports it. Raises `OSError`.
    """
    trees = {bundle.rootfs: Tree(bundle.rootfs, bundle.rootfs_identity, _root_can_be_read_only(bundle))}
    for path, options, status in _sources(bundle, without="noexec"):
        if _is_no_program(status):
            continue
        known = trees.get(path)
        read_only = "ro" in options and (known is None or known.read_only)
        trees[path] = Tree.of(path, status, read_only=read_only)
    return list(trees.values())


def written_trees(bundle: Bundle) -> list[Tree]:
    """The sources of bind mounts in which the container may write, but from which nothing is executed.

    A missing source is skipped. Raises `OSError`.
    """
    trees = {
        path: Tree.of(path, status, read_only=False, executable=False)
        for path, options, status in _sources(bundle, without="ro")
        if "noexec" in options or _is_no_program(status)
    }
    return list(trees.values())


def _sources(bundle: Bundle, *, without: str) -> Iterator[tuple[str, Sequence[str], os.stat_result]]:
    """The source of each bind mount that lacks the option `without`, its options, and what is there, if anything."""
    for mount in _bind_mounts(bundle):
        options = mount.get("options", [])
        if without in options:
            continue
        path = os.path.normpath(os.path.join(bundle.path, mount["source"]))
        try:
            status = os.stat(path)
        except FileNotFoundError:
            continue
        yield path, options, status


def _is_no_program(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and not status.st_mode & 0o111


def bound_without_inner_mounts(bundle: Bundle, trees: Sequence[Tree]) -> str | None:
    """A host directory that the bundle binds without inner mounts although one of the `trees` is beneath it; or None.

    The kernel refuses such a bind mount, because the inner mounts are locked, mount_namespaces(7).
    """
    for mount in _bind_mounts(bundle):
        path = os.path.realpath(os.path.join(bundle.path, mount["source"]))
        if "rbind" not in mount.get("options", []) and any(
            tree.path.startswith(f"{path}/") for tree in trees
        ):
            return path
    return None


def _bind_mounts(bundle: Bundle) -> Iterator[Mapping[str, Any]]:
    return filter(is_bind, bundle.config.get("mounts", []))


def _root_can_be_read_only(bundle: Bundle) -> bool:
    """Whether nobody writes there: runsc creates missing mount points and a missing cwd."""
    if not bundle.config["root"].get("readonly"):
        return False
    places = [mount["destination"] for mount in _bind_mounts(bundle)]
    places.append(bundle.config["process"]["cwd"])
    return all(_is_there(bundle.rootfs_directory, place) for place in places)


def _is_there(root: int, path: str) -> bool:
    try:
        os.close(openat2(root, path, os.O_PATH, resolve=RESOLVE_IN_ROOT))
    except OSError:
        return False
    return True
