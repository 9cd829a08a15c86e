"""An execute allowlist by mount flags: every mount `noexec,nosuid` except a few trees, irreversibly.

A child makes two user and mount namespaces, one in the other, and the engine joins it. In the first, every mount gets
the flags; the second, which is less privileged, gets a copy whose flags the kernel has locked, mount_namespaces(7).
runsc can still call mount(2), which a Landlock domain would forbid, and no privilege is needed.

A descriptor keeps the mount that it was opened on. So a program opened before can still be executed, but nothing else
of its directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Generator, Sequence
from functools import partial
from os.path import realpath

from engine.linux import namespaces, seccomp
from engine.linux.child import Helper
from engine.linux.mounts import (
    MountFlag,
    attach_tree,
    clear_flags,
    clone_tree,
    make_kernel_file_systems_writable,
    set_flags,
    set_flags_everywhere,
)
from engine.linux.namespaces import IdMaps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Self

_LOCKED = MountFlag.NO_EXEC | MountFlag.NO_SUID


class Tree:
    """A directory or file whose mount keeps its flags, or is also made `read_only`.

    If not `executable` it gets the flags of all other mounts: it is listed to be read-only, or to be writable inside
    of a read-only one. `identity`: the device and inode that its path must lead to.
    """

    def __init__(
        self, path: str, identity: tuple[int, int], read_only: bool, executable: bool = True
    ) -> None:
        self.path: Final = path
        self.identity: Final = identity
        self.read_only: Final = read_only
        self.executable: Final = executable

    @classmethod
    def of(cls, path: str, status: os.stat_result, *, read_only: bool, executable: bool = True) -> Self:
        """Of what is at `path` by its `status`."""
        return cls(path, (status.st_dev, status.st_ino), read_only, executable)

    @property
    def flags(self) -> MountFlag:
        """What its mount is given."""
        return (MountFlag.READ_ONLY if self.read_only else MountFlag(0)) | (
            MountFlag(0) if self.executable else _LOCKED
        )


class UnusableError(Exception):
    """This kernel, or its configuration, does not let this process confine itself: why, and a hint."""

    def __init__(self, why: str, hint: str) -> None:
        super().__init__(why)
        self.why = why
        self.hint = hint


class Confinement:
    """User and mount namespaces with locked mounts, not entered yet, and what waits in and outside of them.

    `process` is in them; its parent, the `outside`, is where the caller is, and does there what it is asked for. `ids`:
    those of the namespaces. A context manager: at its end both processes end, and what nobody has entered is gone.
    """

    def __init__(self, ids: IdMaps, outside: Helper, process: int) -> None:
        self.ids = ids
        self.outside = outside
        self._process = process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.outside.end()

    def enter(self) -> None:
        """Join the process, setns(2): into both namespaces or into none. Raises `OSError`."""
        try:
            directory = os.getcwd()
        except OSError:  # removed, or not accessible by its path
            directory = "/"
        namespaces.join(self._process)
        # On what is mounted now: below a read-only tree everything would else still be writable.
        with contextlib.suppress(OSError):
            os.chdir(directory)


def _nothing() -> bytes:
    return b""


def prepare(
    maps: IdMaps, trees: Sequence[Tree], *, sealed: bool, outside: Callable[[], bytes] = _nothing
) -> Confinement:
    """In a child, make the namespaces, with the ids of `maps`, and try to undo what was done there. Raises `OSError`.

    Nothing can be executed by path in them that is not in an executable one of `trees`. With `sealed`, nothing can be
    written by path either, except in those of `trees` that are not read-only: a program may have other names than those
    in its tree. It is also tried to forbid executable mounts. `outside`: what the process outside does when asked.
    """
    helper = Helper(partial(_outside, maps, trees, outside, sealed=sealed), disowned=True)
    try:
        return Confinement(maps, helper, int(helper.ask()))
    except BaseException:
        helper.end()
        raise


def _outside(
    maps: IdMaps, trees: Sequence[Tree], act: Callable[[], bytes], *, sealed: bool
) -> Generator[bytes]:
    """Answer with the number of the process inside, then with what `act` returns."""
    inside = Helper(partial(_inside, maps, trees, sealed=sealed))
    try:
        inside.ask()
        yield b"%d" % inside.pid
        while True:
            yield act()
    finally:
        inside.end()


def _inside(maps: IdMaps, trees: Sequence[Tree], *, sealed: bool) -> Generator[bytes]:
    _try(maps, trees, sealed=sealed)
    yield b""


def probe(trees: Sequence[Tree], *, sealed: bool, outside: Callable[[], bytes] = _nothing) -> Confinement:
    """`prepare` with the most ids that can be had. Raises `UnusableError`."""
    try:
        *better, last = namespaces.possible_maps()
        for maps in better:
            with contextlib.suppress(OSError):
                return prepare(maps, trees, sealed=sealed, outside=outside)
        return prepare(last, trees, sealed=sealed, outside=outside)
    except OSError as error:
        raise explain(error) from None


def confine(found: Confinement, *, sealed: bool) -> None:
    """Confine this process and its children as the one inside `found` is.

    With `sealed`, also forbid them to mount anything executable. Irreversible. Raises `OSError`; the process may then
    be confined in part.
    """
    found.enter()
    _forbid_more(sealed=sealed)


def _lock(maps: IdMaps, trees: Sequence[Tree], *, sealed: bool) -> None:
    namespaces.enter(maps)
    with contextlib.ExitStack() as opened:
        cloned = []
        for tree in sorted(trees, key=lambda tree: realpath(tree.path).count("/")):  # outer trees first
            place = _open(tree)
            opened.callback(os.close, place)
            clone = clone_tree(place, tree.path)
            opened.callback(os.close, clone)
            if tree.flags:
                set_flags(clone, tree.flags, tree.path)
            cloned.append((clone, tree))
        set_flags_everywhere(_LOCKED | MountFlag.READ_ONLY if sealed else _LOCKED)
        if sealed:
            make_kernel_file_systems_writable()
        for clone, tree in cloned:
            place = _open(tree)  # again: a tree mounted before may contain it
            opened.callback(os.close, place)
            attach_tree(clone, place, tree.path)
    namespaces.enter(namespaces.possible_maps()[0])


def _open(tree: Tree) -> int:
    """Open the tree on a mount of the present namespace."""
    place = os.open(tree.path, os.O_PATH)
    status = os.fstat(place)
    if (status.st_dev, status.st_ino) != tree.identity:
        os.close(place)
        raise OSError(errno.ESTALE, "it was replaced", tree.path)
    return place


def _try(maps: IdMaps, trees: Sequence[Tree], *, sealed: bool) -> None:
    """In the child: confine, and try to undo it. Raises `OSError`."""
    _lock(maps, trees, sealed=sealed)
    locked = os.ST_NOEXEC | (os.ST_RDONLY if sealed else 0)
    for flag in (MountFlag.NO_EXEC, *((MountFlag.READ_ONLY,) if sealed else ())):
        with contextlib.suppress(OSError):
            clear_flags("/", flag)
    if os.statvfs("/").f_flag & locked != locked:
        raise OSError(errno.EOPNOTSUPP, "this kernel does not lock the flags of mounts", "/")
    _forbid_more(sealed=sealed)


def _forbid_more(*, sealed: bool) -> None:
    seccomp.set_no_new_privileges()
    if seccomp.is_known_machine():
        seccomp.forbid_terminal_input()
    if sealed:
        seccomp.forbid_executable_mounts()


def explain(error: OSError) -> UnusableError:
    """The kernel's error in words, and the hint."""
    what = f"{error.filename}: {error.strerror}"
    if error.errno == errno.ENOSYS:
        return UnusableError(f"{what}; it needs Linux 5.12", "boot a newer kernel")
    if error.errno == errno.EINVAL and error.filename == "a new user namespace":
        return UnusableError(f"{what}: this process has threads", "start the run from a process of its own")
    for name, value, hint in namespaces.BANS:
        if namespaces.sysctl(name) == value:
            return UnusableError(f"user namespaces are forbidden by {name} = {value} ({what})", hint)
    return UnusableError(
        what, "allow user namespaces and mounts in them where this system is confined (seccomp, a container)"
    )
