"""All that the stateful tests know of how `stage` and `apply_policy` do what they promise.

The two steps that depend most on the kernel and on what is cheap: whoever changes how a program is staged, or what
enforces a policy, changes this file, and the tests' promises stay.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from engine.options import ExecPolicy


class EveryPath:
    """In the place of the trusted paths: a test has its binary elsewhere."""

    def __contains__(self, _: object) -> bool:
        return True


# -- what a trace shows ------------------------------------------------------------------------------------------------

#: The engine's moves that leave it in its state, and whether a line of a trace shows that the run made one: what the
#: line says cannot be had without. Told with it: the spec's reason of a refusal, and whether a policy was asked for.
INNER_MOVES: Mapping[str, Callable[[Mapping[str, Any], str | None, bool], bool]] = {
    "OpenLock": lambda line, why, _: line["trigger"] == "secure_root" or why == "alive",
    "Copy": lambda line, why, _: line["trigger"] == "stage" and not line["facts"]["from_store"],
    "Link": lambda line, why, _: line["trigger"] == "stage" and line["facts"]["from_store"],
    "Keep": lambda line, why, _: (
        line["trigger"] == "stage" and line["facts"]["shared"] and not line["facts"]["from_store"]
    ),
    "Probe": lambda line, why, wanted: (
        (line["trigger"] == "apply_policy" and _was_probed(line, wanted)) or why == "policy_in_part"
    ),
    "Confine": lambda line, why, _: (
        (line["trigger"] == "apply_policy" and line["facts"]["outcome"] == "enforced")
        or why == "policy_in_part"
    ),
    "WriteConfig": lambda line, why, _: line["trigger"] == "exec",
    "LastLook": lambda line, why, _: line["trigger"] == "exec",
}


def _was_probed(line: Mapping[str, Any], wanted: bool) -> bool:
    outcome = line["facts"]["outcome"]
    return bool(outcome == "enforced" or (outcome == "unavailable" and wanted))


#: Where the engine can do without a call: in which function of which module one that fails, with one of these errors
#: or (None) with any, is answered by another way to the same promise, or by saying that there is less.
DISPENSABLE: Mapping[tuple[str, str], Collection[int] | None] = {
    # Without the store, or its record, or a lease, or a further name for the file, a run has a copy of its own.
    ("engine.state.store", "take_lease"): None,
    ("engine.state.store", "add"): None,
    ("engine.state.store", "update"): None,
    ("engine.state.store", "_read_record"): None,
    ("engine.state.store", "opened"): {errno.ENOENT},
    ("engine.state.store", "_remove"): {errno.ENOENT},
    ("engine.lifecycle.staged_file", "_link"): {errno.ENOENT, errno.EXDEV, errno.EPERM, errno.EMLINK},
    ("engine.lifecycle.staged_file", "_copy_bytes"): {errno.EXDEV},
    # On the way out of a refusal, which must stay what is said.
    ("engine.lifecycle.stage", "_empty_the_store"): None,
    ("engine.lifecycle.stage", "_remove_what_can_be"): None,
    # Whether a cgroup remains is then looked at: one that may is not taken off the list, and the run is refused.
    ("engine.state.cgroups", "_rmdir"): None,
    # A kernel without cgroups has no such file.
    ("engine.state.cgroups", "_memberships"): {errno.ENOENT},
    # A policy that cannot be had is `unavailable`, unless it is required.
    ("engine.lifecycle.policy", "_locked_mounts"): None,
}


def can_be_done_without(number: int, frame: FrameType | None) -> bool:
    """Whether the engine may go on though the call made in `frame` fails with this error."""
    while frame is not None:
        where = str(frame.f_globals.get("__name__")), frame.f_code.co_name
        if where in DISPENSABLE and ((numbers := DISPENSABLE[where]) is None or number in numbers):
            return True
        frame = frame.f_back
    return False


# -- stage --------------------------------------------------------------------------------------------------------

#: The name of a staged program's open file, /proc/PID/fd: what the kernel will be given to execute.
STAGED_PROGRAM = re.compile(r"/(stage-[^/]*/runsc|staged/[0-9a-f-]+)( \(deleted\))?$")
_KEY = re.compile(r"[0-9a-f]+(-[0-9a-f]+)+")
#: Bytes copied at once. runsc is copied by the megabyte; the binary here is small and takes several goes too.
CHUNK = 4096


def stage_directory(exec_allow: Path) -> Path | None:
    """The directory in `exec_allow` in which a run has its program; None when there is none."""
    return next(iter(sorted(exec_allow.glob("stage-*"))), None)


def kept_copy(store: Path) -> Path | None:
    """The copy in the `store` that was used last; None when there is none."""
    kept = [
        path for path in store.glob("*-*") if _KEY.fullmatch(path.name) and stat.S_ISREG(path.lstat().st_mode)
    ]
    return max(kept, key=lambda path: path.lstat().st_ctime_ns, default=None)


def make_staging_small(replace: Callable[..., None], *, settled: bool) -> None:
    """In the engine's process: have it copy in several goes, and keep copies of a binary if it is `settled`.

    That takes two seconds in which nobody writes it; here it is as the test says, and the world sees to it that no two
    versions of a file bear one time. Nor does a run wait for another that has the store, which here stands still.
    """
    from engine.lifecycle import staged_file
    from engine.runsc import binary
    from engine.state import store

    replace(binary, "_CHUNK", CHUNK)
    replace(staged_file, "_CHUNK", CHUNK)
    replace(store, "_CHUNK", CHUNK)
    replace(store, "SETTLED_NS", 0 if settled else 1 << 62)
    replace(store, "TIMEOUT", 0.0)


def make_the_binary_anothers(replace: Callable[..., None]) -> None:
    """In the engine's process: take the binary for one that is trusted and another user's: no record is believed."""
    from engine.lifecycle import runner
    from tests.support.objects import changed

    real = vars(runner)["validate"]

    def validate(resolved: Any, platform: Any) -> Any:
        pinned = real(resolved, platform)
        owner = pinned.runsc.owner + 1
        runsc = changed(pinned.runsc, owner=owner)
        return changed(pinned, runsc=runsc, trusted_owners=(*pinned.trusted_owners, owner))

    replace(runner, "validate", validate)


# -- apply_policy -------------------------------------------------------------------------------------------------

#: What `--exec-policy` may be.
POLICIES = tuple(str(policy) for policy in ExecPolicy)
#: What the kernel answers: that it can confine a process; that it cannot; and that it can, and then it cannot.
KERNELS = ("can", "cannot", "changes")


def outcome_of_policy(options: Mapping[str, Any], kernel: str) -> str | None:
    """What must come of the policy of a run with these options; None where it must be refused as applied in part."""
    policy = options["exec_policy"]
    if not options["rootless"]:
        return "not_applicable"
    if policy == ExecPolicy.OFF or kernel == "cannot":
        return "unavailable"
    return None if kernel == "changes" else "enforced"


def choose_the_kernel(
    replace: Callable[..., None],
    *,
    kernel: str,
    restricted: Callable[[Sequence[str]], None],
    in_part: Callable[[], None],
) -> None:
    """In the engine's process: have the kernel answer as `kernel` says, and tell what was asked of it.

    `restricted` is told what may still be executed, `in_part` that confining failed half-way. So each kernel can be had
    on any machine. What the policies forbid is tried in tests/unit/test_policy.py and tests/integration.
    """
    from engine.linux import locked_mounts
    from engine.linux.locked_mounts import Confinement, Tree, UnusableError
    from tests.support.confinement import Pretended

    executable: list[str] = []

    def probe(trees: Sequence[Tree], *, sealed: bool, outside: object) -> Confinement:
        if kernel == "cannot":
            raise UnusableError("this kernel was told not to", "tell it otherwise")
        executable.extend(tree.path for tree in trees)
        return Pretended()

    def confine(_found: Confinement, *, sealed: bool) -> None:
        if kernel == "changes":
            in_part()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a new user namespace")
        restricted(executable)

    replace(locked_mounts, "probe", probe)
    replace(locked_mounts, "confine", confine)
