"""All that the stateful tests know of how `stage` and `apply_policy` do what they promise.

The two steps that depend most on the kernel and on what is cheap: whoever changes how a program is staged, or what
enforces a policy, changes this file, and the tests' promises stay.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from engine.options import ExecPolicy

# -- the spec's words ---------------------------------------------------------------------------------------------

STAGE_REASONS: Mapping[str, str] = {
    "not_what_was_pinned": r"was changed after it was validated|bytes of .* were copied|"
    r"was changed while it was made",
    "stage_not_own": r"is a symbolic link|is not a directory|is owned by uid|has permissions",
}
POLICY_REASONS: Mapping[str, str] = {
    "policy_not_enforced": r"^the required execute policy is not enforced",
}

#: The engine's moves that leave it in its state, and whether a line of a trace, with the reason if it is a refusal,
#: shows that the run made one: what the line says cannot be had without.
INNER_MOVES: Mapping[str, Callable[[Mapping[str, Any], str | None], bool]] = {
    "OpenLock": lambda line, why: line["trigger"] == "secure_root" or why == "alive",
    "Copy": lambda line, why: line["trigger"] == "stage" or why == "not_what_was_pinned",
    "LastLook": lambda line, why: line["trigger"] == "exec",
}

# -- stage --------------------------------------------------------------------------------------------------------

#: The name of a staged program's open file, /proc/PID/fd: what the kernel will be given to execute.
STAGED_PROGRAM = re.compile(r"/stage-[^/]*/runsc( \(deleted\))?$")
#: Bytes copied at once. runsc is copied by the megabyte; the binary here is small and takes several goes too.
CHUNK = 4096


def stage_directory(exec_allow: Path) -> Path | None:
    """The directory in `exec_allow` in which a run has its program; None when there is none."""
    return next(iter(sorted(exec_allow.glob("stage-*"))), None)


def make_staging_small(replace: Callable[..., None]) -> None:
    """In the engine's process: have it copy in several goes."""
    from engine.lifecycle import stage, validate

    replace(validate, "_CHUNK", CHUNK)
    replace(stage, "_CHUNK", CHUNK)


# -- apply_policy -------------------------------------------------------------------------------------------------

#: What `--exec-policy` may be.
POLICIES = tuple(str(policy) for policy in ExecPolicy)


def is_to_be_enforced(options: Mapping[str, Any], *, enforceable: bool) -> bool:
    """Whether a run with these options has its policy enforced, on a kernel that can or cannot."""
    return bool(options["rootless"] and options["exec_policy"] != ExecPolicy.OFF and enforceable)


def choose_the_kernel(
    replace: Callable[..., None], *, enforceable: bool, restricted: Callable[[list[str]], None]
) -> None:
    """In the engine's process: have the kernel enforce policies, or not, and tell `restricted` what was asked of it.

    So either kernel can be had on any machine. What a policy forbids is tried in tests/unit/test_policy.py.
    """
    from engine.lifecycle import policy, runner
    from engine.linux.landlock import Landlock

    def probe() -> Landlock:
        return Landlock.USABLE if enforceable else Landlock.FORBIDS_MOUNT

    def restrict(allowed: Sequence[str]) -> None:
        if not enforceable:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        restricted(list(allowed))

    replace(runner, "apply_policy", partial(policy.apply_policy, probe=probe, restrict=restrict))
