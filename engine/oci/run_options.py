"""What create, run and restore ask of a run: its options, and runsc's flags."""

from __future__ import annotations

import os

from engine.oci.request import Request
from engine.options import ExecPolicy, Network, Platform, RunOptions, exec_policy_name, runsc_flags
from engine.runsc.arguments import RunscArguments


def creation_flags(request: Request) -> tuple[str, ...]:
    """The flags of runsc's verb that name files."""
    given: list[str] = []
    for name in ("pid-file", "console-socket"):
        if value := request.flags.value(name):
            given += [f"--{name}", os.path.abspath(value)]
    return tuple(given)


def without_pid_file(given: RunscArguments) -> RunscArguments:
    """Drop --pid-file: runsc would write the sandbox's pid."""
    if "--pid-file" not in given.flags:
        return given
    at = given.flags.index("--pid-file")
    flags = (*given.flags[:at], *given.flags[at + 2 :])
    return RunscArguments(given.verb, flags, given.global_flags, given.preserved)


def passed_on(request: Request) -> tuple[str, ...]:
    """The flags that are passed on to runsc. Raises `UsageError`."""
    return runsc_flags(request.common.lists.get("runsc-flag", ()))


def options_of(request: Request) -> RunOptions:
    """The options of the run. Raises `UsageError`."""
    common = request.common
    runsc_flags = passed_on(request)
    exec_policy_name(common.value("exec-policy") or ExecPolicy.AUTO)
    return RunOptions(
        container_id=request.container_id(),
        network=Network(request.choice("network", Network, Network.NONE)),
        platform=Platform(request.choice("platform", Platform, Platform.AUTO)),
        rootless=common.value("rootless") == "true",
        ignore_cgroups=common.has("ignore-cgroups"),
        exec_policy=ExecPolicy(request.choice("exec-policy", ExecPolicy, ExecPolicy.AUTO)),
        require_exec_policy=common.has("require-exec-policy"),
        runsc=common.value("runsc"),
        require_strict_bundle=common.has("require-strict-bundle"),
        runsc_flags=runsc_flags,
        require_enforced=common.has("require-enforced"),
    )
