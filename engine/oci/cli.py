"""The OCI command line, compatible with runc's as podman, containerd and people use it.

Exit codes: the container's own from `run` and `exec`, runsc's own from delegated verbs, 125 if the engine refuses to
create (127 and 126 if the bundle's program cannot be found or executed), 1 if another verb fails, 2 for wrong usage.
Errors are one line on stderr, and one in the file of `--log`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from engine import __version__
from engine.errors import EngineError, Reason, UsageError, as_refusal, stdout_refusal
from engine.oci.flags import Flags, Kind, Table, parse
from engine.oci.request import Request, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from engine.linux.streams import Stdout

VERBS = {
    "create": "create a container from a bundle",
    "start": "start a created container",
    "run": "create and start a container, and wait for it",
    "state": "print a container's state",
    "kill": "send a signal to a container",
    "delete": "remove a container",
    "exec": "run another process in a container",
    "ps": "list the processes in a container",
    "list": "list the containers",
    "pause": "stop all processes of a container",
    "resume": "continue a paused container",
    "events": "print resource usage",
    "checkpoint": "save a container to a directory",
    "restore": "create a container from a checkpoint",
    "update": "change a container's resource limits",
    "spec": "write a template config.json",
    "features": "print this runtime's features",
}

#: As in `engine.runsc_flags`, which is imported only where one is given.
RUNSC_SWITCHES = (
    *("directfs", "net-raw", "nvproxy", "tpuproxy", "strace", "log-packets", "oci-seccomp"),
    *("enable-core-tags", "cpu-num-from-quota", "app-huge-pages", "gso", "software-gso"),
    *("tx-checksum-offload", "rx-checksum-offload"),
)
RUNSC_VALUES = (
    *("overlay2", "host-uds", "host-fifo", "file-access", "file-access-mounts"),
    *("nvproxy-driver-version", "debug-log", "debug-log-format", "strace-syscalls", "strace-log-size"),
    *("watchdog-action", "dcache", "fdlimit", "num-network-channels", "qdisc"),
)
COMMON: Table = {
    **dict.fromkeys(RUNSC_SWITCHES, Kind.CHOICE),
    **dict.fromkeys(RUNSC_VALUES, Kind.VALUE),
    "runsc-flag": Kind.VALUES,
    "root": Kind.VALUE,
    "log": Kind.VALUE,
    "log-format": Kind.VALUE,
    "log-level": Kind.IGNORED_VALUE,
    "debug": Kind.SWITCH,
    "systemd-cgroup": Kind.SWITCH,
    "cgroup-manager": Kind.VALUE,
    "rootless": Kind.CHOICE,
    "criu": Kind.IGNORED_VALUE,
    "network": Kind.VALUE,
    "platform": Kind.VALUE,
    "ignore-cgroups": Kind.SWITCH,
    "exec-policy": Kind.VALUE,
    "require-exec-policy": Kind.SWITCH,
    "require-strict-bundle": Kind.SWITCH,
    "require-enforced": Kind.SWITCH,
    "runsc": Kind.VALUE,
    "version": Kind.SWITCH,
    "help": Kind.SWITCH,
}
_SHORT = {"v": "version", "h": "help"}
#: Verbs whose arguments end with another program's command line.
_COMMAND_FOLLOWS = frozenset({"exec", "spec"})
_PRINTING = frozenset({"state", "list", "features", "help"})
_REFUSING = frozenset({"create", "run", "restore"})

_USAGE = """usage: engine-oci [--root DIR] [--log FILE] [--log-format text|json] [--debug]
                  [--systemd-cgroup] [--cgroup-manager cgroupfs|systemd|disabled] [--ignore-cgroups]
                  [--network auto|sandbox|none|host] [--platform auto|systrap|kvm|ptrace]
                  [--rootless true|false|auto] [--exec-policy auto|locked-mounts|off] [--require-exec-policy]
                  [--require-strict-bundle] [--require-enforced] [--runsc PATH] [--version] [--help]
                  VERB [FLAG...] [CONTAINER] [...]
passed on to runsc, also as --runsc-flag NAME=VALUE:
{passed}
accepted and ignored: --log-level LEVEL, --criu PATH"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; `arguments` are those after the program's name. Returns the exit code."""
    try:
        return _main(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        return 130
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            from engine.linux.streams import forget_unwritten

            forget_unwritten()


def _main(given: list[str]) -> int:
    request = Request(os.environ, Flags(), "engine-oci", Flags(), ())
    answer, error = 0, None
    stdout: Stdout | None = None
    try:
        try:
            common, rest = parse(given, COMMON, _SHORT, among_arguments=False)
        except UsageError:
            request = Request(os.environ, _log_flags(given), "engine-oci", Flags(), ())
            raise
        request = Request(os.environ, common, "engine-oci", Flags(), ())
        stdout = _stdout([] if common.has("version") or common.has("help") else rest)
        if common.has("version"):
            print(f"engine-oci version {__version__}\nspec: 1.3.0")
        elif common.has("help") or rest in ([], ["help"]):
            print(_help())
            answer = 0 if given else 2
        else:
            module, flags, left = _parsed(rest)
            if flags.has("help"):
                known = " ".join(
                    f"[--{name}]" for name, kind in module.FLAGS.items() if isinstance(kind, Kind)
                )
                print(f"usage: engine-oci {rest[0]} {known} ...: {VERBS[rest[0]]}")
            else:
                request = Request(os.environ, _judged(common), rest[0], flags, left)
                answer = module.main(request)
    except Exception as raised:  # a bug of ours must not reach the user as a traceback
        error = raised
    if error is None or isinstance(error, OSError):
        failure = stdout.failure() if stdout is not None else None
        if isinstance(failure, BrokenPipeError):
            return 1
        error = error if failure is None else stdout_refusal(failure)
    if error is None:
        return answer
    refusal = as_refusal(error)
    request.report(refusal)
    if request.common.has("debug"):
        import traceback

        say("".join(traceback.format_exception(refusal)).rstrip("\n"))
    if refusal.exit_code == EngineError.exit_code and request.verb not in _REFUSING:
        return 1
    return refusal.exit_code


def _stdout(rest: Sequence[str]) -> Stdout | None:
    """stdout for what prints; other verbs leave it to runsc, and start sooner without."""
    if rest and rest[0] not in _PRINTING and not {"-h", "--help", "-help"}.intersection(rest):
        return None
    from engine.linux.streams import Stdout

    return Stdout()


def _parsed(rest: list[str]) -> tuple[Any, Flags, list[str]]:
    """The verb's module, its flags and its arguments. Raises `UsageError`."""
    verb = rest[0]
    if verb not in VERBS:
        raise UsageError(f"unknown verb {verb!r}", reason=Reason.USAGE, hint="see engine-oci --help")
    if verb in _REFUSING:  # these import the lifecycle
        from engine.quick import import_transitions

        import_transitions()
    module = importlib.import_module(f"engine.oci.{verb}")
    table = {**module.FLAGS, "help": Kind.SWITCH}
    flags, left = parse(
        rest[1:], table, {**module.SHORT, "h": "help"}, among_arguments=verb not in _COMMAND_FOLLOWS
    )
    return module, flags, left


def _log_flags(given: Sequence[str]) -> Flags:
    """The flags about the manager's log before the verb, where another flag there is wrong."""
    values = {}
    for index, argument in enumerate(given):
        if argument in VERBS:
            break
        name, equals, text = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name in ("log", "log-format"):
            values[name] = text if equals else "".join(given[index + 1 : index + 2])
    return Flags(values=values)


def _judged(common: Flags) -> Flags:
    """Validate the flags before the verb, with runc's and crun's aliases. Raises `UsageError`."""
    switches, values = set(common.switches), dict(common.values)
    form = values.setdefault("log-format", "text")
    if form not in ("text", "json"):
        raise UsageError(f"--log-format is {form!r}", reason=Reason.USAGE, hint="give text or json")
    rootless = values.pop("rootless", "false")
    if rootless not in ("true", "false", "auto"):
        raise UsageError(f"--rootless is {rootless!r}", reason=Reason.USAGE, hint="give true, false or auto")
    values["rootless"] = str(rootless == "true" or (rootless == "auto" and os.geteuid() != 0)).lower()
    match values.pop("cgroup-manager", None):
        case None | "cgroupfs":
            pass
        case "systemd":
            switches.add("systemd-cgroup")
        case "disabled":
            switches.add("ignore-cgroups")
        case other:
            raise UsageError(
                f"--cgroup-manager is {other!r}",
                reason=Reason.USAGE,
                hint="give cgroupfs, systemd or disabled",
            )
    given = [f"{name}={values[name]}" for name in (*RUNSC_SWITCHES, *RUNSC_VALUES) if name in values]
    given += common.lists.get("runsc-flag", ())
    if given and "debug" in switches and "debug-log" in values:
        given.append("debug")
    return Flags(frozenset(switches), values, {**common.lists, "runsc-flag": tuple(given)})


def _help() -> str:
    import textwrap

    width = max(map(len, VERBS))
    names = " ".join(f"--{name}" for name in (*RUNSC_SWITCHES, *RUNSC_VALUES))
    passed = textwrap.fill(names, 110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(
        (_USAGE.format(passed=passed), "", *(f"  {verb:<{width}}  {what}" for verb, what in VERBS.items()))
    )
