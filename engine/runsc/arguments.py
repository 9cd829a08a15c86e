"""runsc's arguments, and its environment, which contains nothing of the caller's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

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


def kill_arguments(argv: Sequence[str]) -> list[str]:
    """The arguments of runsc to signal the container that `argv` (of `build_argv`) started, but for its id."""
    end = argv.index("--platform") + 2
    passed_on = itertools.takewhile(lambda flag: flag.startswith("--") and "=" in flag, argv[end:])
    return [*argv[:end], *passed_on, "kill"]


def build_global_flags(runsc_root: str, options: RunOptions, platform: Platform) -> tuple[str, ...]:
    """The global flags of every command about the container."""
    network = str(options.network)
    return tuple(
        global_flags(
            runsc_root,
            network,
            str(platform),
            options.rootless,
            options.ignore_cgroups,
            options.runsc_flags,
        )
    )


def global_flags(
    runsc_root: str,
    network: str,
    platform: str,
    rootless: bool,
    ignore_cgroups: bool,
    runsc_flags: Sequence[str] = (),
) -> list[str]:
    """As `build_global_flags`, from what a trace records of the options."""
    flags = ["--root", runsc_root]
    if rootless:
        flags.append("--rootless")
    if ignore_cgroups:
        flags.append("--ignore-cgroups")
    return [*flags, "--network", network, "--platform", platform, *runsc_flags]


def with_network(flags: Sequence[str], network: str) -> tuple[str, ...]:
    """The global `flags` with another network."""
    value = flags.index("--network") + 1
    return (*flags[:value], str(network), *flags[value + 1 :])


def are_creation_arguments(given: list[str], bundle: str, container_id: str) -> bool:
    """Whether `build_argv` can have `given` after the global flags, for what `engine run` or engine-oci asks.

    `bundle` and `container_id` are those of the run. Flags are in the order in which engine-oci passes them on.
    """
    if given == [RUN.verb, "--bundle", bundle, container_id]:
        return True
    waiting = given[::-1]
    _skip(waiting, "--log", bool)
    _skip(waiting, "--log-format", ("text", "json").__contains__)
    _skip(waiting, "--systemd-cgroup")
    verb = waiting.pop() if waiting else ""
    if verb not in ("create", "run", "restore") or waiting[-2:] != [bundle, "--bundle"]:
        return False
    del waiting[-2:]
    _skip(waiting, "--pid-file", _is_absolute)
    _skip(waiting, "--console-socket", _is_absolute)
    if verb == "restore":
        if waiting[-1:] != ["--image-path"]:
            return False
        _skip(waiting, "--image-path", _is_absolute)
    if verb != "create":
        _skip(waiting, "--detach")
    number = 3
    while verb == "run" and waiting[-1:] == [f"--pass-fd={number}:{number}"]:
        waiting.pop()
        number += 1
    return waiting == [container_id]


def _skip(waiting: list[str], flag: str, accepts: Callable[[str], bool] | None = None) -> None:
    """Take `flag` from the end of `waiting`, where the next one is, with a value that `accepts`, if it has one."""
    if waiting[-1:] == [flag]:
        if accepts is None:
            waiting.pop()
        elif len(waiting) > 1 and accepts(waiting[-2]):
            del waiting[-2:]


def _is_absolute(path: str) -> bool:
    return path.startswith("/")


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
