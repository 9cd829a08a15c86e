"""What runsc is given: its arguments, and an environment that holds nothing of the caller's."""

from __future__ import annotations

from engine.options import Platform, RunOptions
from engine.records import dataclass

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class RunscArguments:
    """What runsc is asked for: the verb that starts the container, its flags, and global ones.

    `preserved`: number of descriptors from 3 that are passed to the container.
    """

    verb: str = "run"
    flags: tuple[str, ...] = ()
    global_flags: tuple[str, ...] = ()
    preserved: int = 0


#: A run of a container that nobody else manages.
RUN = RunscArguments()


def build_argv(
    program: str,
    runsc_root: str,
    options: RunOptions,
    platform: Platform,
    bundle: str,
    runsc_arguments: RunscArguments = RUN,
) -> tuple[str, ...]:
    """runsc's arguments: its global flags come before the verb, as its flag parser wants them."""
    return (
        program,
        *build_global_flags(runsc_root, options, platform),
        *runsc_arguments.global_flags,
        runsc_arguments.verb,
        "--bundle",
        bundle,
        *runsc_arguments.flags,
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
