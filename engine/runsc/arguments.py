"""runsc's arguments, and its environment, which contains nothing of the caller's."""

from __future__ import annotations

from engine.options import Platform, RunOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class RunscArguments:
    """How runsc starts the container: the verb, its flags, and more global flags.

    `preserved`: number of descriptors from 3 that are passed to the container.
    """

    def __init__(
        self,
        verb: str = "run",
        flags: tuple[str, ...] = (),
        global_flags: tuple[str, ...] = (),
        preserved: int = 0,
    ) -> None:
        self.verb: Final = verb
        self.flags: Final = flags
        self.global_flags: Final = global_flags
        self.preserved: Final = preserved


#: A run without a manager.
RUN = RunscArguments()


def build_argv(
    program: str,
    runsc_root: str,
    options: RunOptions,
    platform: Platform,
    bundle: str,
    runsc_arguments: RunscArguments = RUN,
    *,
    creation_flags: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """runsc's arguments to create a container. Its flag parser wants global flags before the verb.

    `creation_flags`: the global flags that only this build has, `Capabilities.creation_flags`.
    """
    return (
        program,
        *build_global_flags(runsc_root, options, platform),
        *creation_flags,
        *runsc_arguments.global_flags,
        runsc_arguments.verb,
        "--bundle",
        bundle,
        *runsc_arguments.flags,
        options.container_id,
    )


def build_global_flags(runsc_root: str, options: RunOptions, platform: Platform) -> tuple[str, ...]:
    """The global flags of every command about the container."""
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
    """The whole environment of runsc: constants, and its private runtime directory."""
    return {
        "PATH": _PATH,
        "TMPDIR": runtime_directory,
        "XDG_RUNTIME_DIR": runtime_directory,
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
    }
