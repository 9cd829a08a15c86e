"""A Landlock domain that handles `execute` and nothing else, landlock(7).

The notable thing: any domain that handles the file system makes mount(2) and pivot_root(2) fail with EPERM,
even one that only handles `execute`. `probe` finds that out in a child instead of assuming it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from enum import StrEnum


class Landlock(StrEnum):
    """What this kernel lets a Landlock execute allowlist do for the calling process."""

    UNAVAILABLE = "the kernel has no Landlock"
    FORBIDDEN = "this process may not restrict itself without no_new_privs (it needs CAP_SYS_ADMIN)"
    FORBIDS_MOUNT = "a Landlock domain forbids mount(2), which a stock runsc needs"
    USABLE = "usable"


def abi_version() -> int:
    """The kernel's Landlock ABI, 0 where it has none."""
    import landlockpy

    return landlockpy.abi_version()


def restrict_execute(allowed: Sequence[str]) -> None:
    """From here on this process and what it starts may execute only what lies beneath `allowed`.

    `no_new_privs` stays unset, as runsc may need file capabilities of its helpers. Irreversible.
    Raises `OSError` (EPERM without CAP_SYS_ADMIN in the user namespace, EOPNOTSUPP or ENOSYS without Landlock).
    """
    import landlockpy

    execute = landlockpy.AccessFS.EXECUTE
    with landlockpy.Ruleset(
        handled_fs=execute, handled_net=landlockpy.AccessNet.NONE, best_effort=False
    ) as ruleset:
        for path in allowed:
            ruleset.allow_path(path, execute)
        ruleset.restrict(no_new_privs=False)


def probe() -> Landlock:
    """Try, in a child that is thrown away, whether a process in such a domain can still mount.

    The child takes a mount namespace of its own, so nothing it mounts is seen by anybody.
    Raises `OSError` when the trial itself fails in a way that says nothing about Landlock.
    """
    if abi_version() == 0:
        return Landlock.UNAVAILABLE
    child = os.fork()
    if child == 0:
        answer = 255
        try:
            answer = _try_to_mount_in_a_domain()
        finally:
            os._exit(answer)
    _, status = os.waitpid(child, 0)
    answer = os.waitstatus_to_exitcode(status)
    if answer not in _ANSWERS:
        raise OSError(errno.EIO, "the Landlock trial ended without an answer")
    return _ANSWERS[answer]


_ANSWERS = {0: Landlock.USABLE, 1: Landlock.FORBIDDEN, 2: Landlock.FORBIDS_MOUNT}
_NO_ANSWER = 3


def _try_to_mount_in_a_domain() -> int:
    """The key into `_ANSWERS`, or `_NO_ANSWER` when it could not be found out."""
    import ctypes

    new_mount_namespace, private_recursive = 0x00020000, 0x00040000 | 0x4000
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        restrict_execute(["/"])
    except OSError as error:
        return 1 if error.errno == errno.EPERM else _NO_ANSWER
    if libc.unshare(new_mount_namespace) != 0:
        return _NO_ANSWER
    if libc.mount(None, b"/", None, private_recursive, None) == 0:
        return 0
    return 2 if ctypes.get_errno() == errno.EPERM else _NO_ANSWER
