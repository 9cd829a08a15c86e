"""Step `exec`: the argument vector and the environment that runsc is given, and the hand-off itself.

execve(2) is given the descriptor of the staged copy, not its path, so what runs is what was staged. Nothing
of the caller's environment is passed on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from engine.bundle import Bundle
from engine.errors import ExecError, remedy_for
from engine.lifecycle.secure_root import SecuredRoot
from engine.lifecycle.stage import Staged
from engine.linux.process import HeldProcess, keep_only_descriptors, replace_process
from engine.options import Platform, RunOptions
from engine.records import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from typing import Any

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Asked:
    """What runsc is asked for: the verb that starts the container, its flags, and global ones.

    The descriptors from 3 on of which there are `preserved` are the container's.
    """

    verb: str = "run"
    flags: tuple[str, ...] = ()
    global_flags: tuple[str, ...] = ()
    preserved: int = 0


#: A run of a container that nobody else manages.
RUN = Asked()


@dataclass(frozen=True, slots=True)
class HandOff:
    """What execve is given: the open `program`, `argv` and `environment`; `kept` stay open in runsc."""

    program: int
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    kept: frozenset[int]
    bundle: Mapping[str, str]

    def facts(self) -> dict[str, Any]:
        return {
            "argv": list(self.argv),
            "environment": dict(self.environment),
            "bundle": dict(self.bundle),
        }


def build_argv(
    program: str, runsc_root: str, options: RunOptions, platform: Platform, bundle: str, asked: Asked = RUN
) -> tuple[str, ...]:
    """runsc's arguments: its global flags come before the verb, as its flag parser wants them."""
    return (
        program,
        *build_global_flags(runsc_root, options, platform),
        *asked.global_flags,
        asked.verb,
        "--bundle",
        bundle,
        *asked.flags,
        options.container_id,
    )


def build_global_flags(runsc_root: str, options: RunOptions, platform: Platform) -> tuple[str, ...]:
    """Those that every command about the container is given, from its creation to its end."""
    return (
        "--root",
        runsc_root,
        *(("--rootless",) if options.rootless else ()),
        *(("--ignore-cgroups",) if options.ignore_cgroups else ()),
        "--network",
        str(options.network),
        "--platform",
        str(platform),
    )


def build_environment(runtime_directory: str) -> dict[str, str]:
    """The whole environment of runsc: constants and its own private runtime directory."""
    return {
        "PATH": _PATH,
        "TMPDIR": runtime_directory,
        "XDG_RUNTIME_DIR": runtime_directory,
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
    }


def prepare(
    bundle: Bundle,
    root: SecuredRoot,
    staged: Staged,
    options: RunOptions,
    platform: Platform,
    asked: Asked = RUN,
) -> HandOff:
    """Look once more at what runsc will read by path, and put together what it is given.

    Raises `ExecError` when the bundle, a state directory or the staged copy is no longer what was checked.
    """
    if what := bundle.changed():
        raise ExecError(f"the bundle changed since it was validated: {what}", remedy="run the bundle again")
    if what := root.changed():
        raise ExecError(
            f"the state directories changed since they were secured: {what}", remedy="run it again"
        )
    if what := staged.changed():
        raise ExecError(
            f"the staged copy may have changed: {what}", remedy="find out who writes there, and run it again"
        )
    return HandOff(
        program=staged.descriptor,
        argv=build_argv(staged.path, root.used_root.path, options, platform, bundle.path, asked),
        environment=build_environment(root.runtime.path),
        kept=frozenset({root.lock, *range(3, 3 + asked.preserved)}),
        bundle=bundle.facts(),
    )


def hand_off(given: HandOff, process: HeldProcess) -> None:
    """Become runsc. Returns only by raising `ExecError`: the kernel refused, and this process is still ours."""
    try:
        keep_only_descriptors(given.kept)
    except OSError as error:
        raise ExecError(
            f"the caller's descriptors could not be kept from runsc: {error.strerror}",
            remedy=remedy_for(error, "mount /proc"),
        ) from None
    try:
        process.release()
        replace_process(given.program, given.argv, given.environment)
    except OSError as error:
        process.retake()
        for descriptor in given.kept:
            os.set_inheritable(descriptor, False)
        raise ExecError(
            f"the kernel refused to execute {given.argv[0]!r}: {error.strerror}",
            remedy=remedy_for(error, "check that this runsc is built for this machine"),
        ) from None
