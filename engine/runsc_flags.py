"""The flags of runsc that may be passed on: an allowlist, each judged for what it opens to the container.

Not on it, and refused: what weakens the sandbox or is for tests only (`TESTONLY-*`, `allow-flag-override`,
`profile`), what has runsc write or execute more of the host (`reproduce-nat`, `overlay2` with `dir=`,
`metric-server`), and what the engine itself sets. Source: gVisor's runsc/config/flags.go, of 2022-12 to 2026-08.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from engine.errors import Reason, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Final


_NOTHING: Mapping[str, str] = {}


class RunscFlag:
    """One flag. `wanted`: its values, in words; `accepts`: whether a text is one of them.

    `opens`: by value, the code in `engine.bundle.grant_codes` of what it opens.
    """

    def __init__(
        self,
        wanted: str,
        accepts: Callable[[str], bool],
        opens: Mapping[str, str] = _NOTHING,
        *,
        is_switch: bool = False,
        is_directory: bool = False,
    ) -> None:
        self.wanted: Final = wanted
        self.accepts: Final = accepts
        self.opens: Final = opens
        self.is_switch: Final = is_switch
        self.is_directory: Final = is_directory


def _one_of(*values: str, **opens: str) -> RunscFlag:
    """One of `values`; `opens` has the codes of those that open something."""
    return RunscFlag(f"one of {', '.join(values)}", frozenset(values).__contains__, opens)


def _switch(code: str | None = None) -> RunscFlag:
    """`code`: what it opens where it is on."""
    return RunscFlag(
        "true or false",
        frozenset({"true", "false"}).__contains__,
        _NOTHING if code is None else {"true": code},
        is_switch=True,
    )


#: Characters of a number, at most; int(3) refuses thousands of digits.
_MAX_DIGITS = 11


def _number(low: int) -> RunscFlag:
    """A whole number from `low`."""
    return RunscFlag(
        f"a whole number from {low}",
        lambda text: (
            len(text) <= _MAX_DIGITS
            and text.removeprefix("-").isdecimal()
            and text == str(int(text))
            and low <= int(text) < 1 << 31
        ),
    )


def _word(characters: str) -> RunscFlag:
    allowed = frozenset(characters)
    return RunscFlag(
        "a name or a list of names", lambda text: 0 < len(text) <= 1024 and allowed.issuperset(text)
    )


_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
#: In the order in which runsc is given them.
FLAGS: dict[str, RunscFlag] = {
    # Whether writes stay in the sandbox; without an overlay those to the root reach the bundle's files.
    "overlay2": _one_of("none", "root:self", "root:memory", "all:self", "all:memory", none="root_on_host"),
    # Sockets and FIFOs in mounts are the host's: whoever has the other end gets what the container writes.
    "host-uds": _one_of("none", "open", "create", "all", open="host_uds", create="host_uds", all="host_uds"),
    "host-fifo": _one_of("none", "open", open="host_fifo"),
    # How soon a change by the host is seen; what can be reached is the same.
    "file-access": _one_of("exclusive", "shared"),
    "file-access-mounts": _one_of("exclusive", "shared"),
    "directfs": _switch(),
    "net-raw": _switch("raw_sockets"),
    # ioctl(2) calls reach the host's driver, beyond the Sentry.
    "nvproxy": _switch("device_proxy"),
    "nvproxy-driver-version": _word(f"{_LETTERS}."),
    "tpuproxy": _switch("device_proxy"),
    # Logs. What a program reads and writes is in them only with these three.
    "debug": _switch(),
    "debug-log": RunscFlag(
        "an absolute path of a directory, with / at its end",
        lambda text: text.startswith("/") and text.endswith("/") and "%" not in text and "\0" not in text,
        is_directory=True,
    ),
    "debug-log-format": _one_of("text", "json", "json-k8s"),
    "strace": _switch("logs_data"),
    "strace-syscalls": _word(f"{_LETTERS}_,"),
    "strace-log-size": _number(0),
    "log-packets": _switch("logs_data"),
    # Stricter, or only slower or faster.
    "oci-seccomp": _switch(),
    "enable-core-tags": _switch(),
    "watchdog-action": _one_of("log", "panic"),
    "cpu-num-from-quota": _switch(),
    "app-huge-pages": _switch(),
    "dcache": _number(-1),
    "fdlimit": _number(-1),
    "num-network-channels": _number(1),
    "gso": _switch(),
    "software-gso": _switch(),
    "tx-checksum-offload": _switch(),
    "rx-checksum-offload": _switch(),
    "qdisc": _one_of("none", "fifo"),
}


#: All that flags can open, by code.
OPENABLE = frozenset(code for flag in FLAGS.values() for code in flag.opens.values())
#: What the Sentry does, or does not, by its own flags, whatever a member of its pod is started with.
_OF_SENTRY = frozenset(
    f"--{name}=true" for name in ("oci-seccomp", "nvproxy", "tpuproxy", "strace", "log-packets")
)


def of_sentry(flags: Sequence[str]) -> frozenset[str]:
    """Those of runsc's `flags` that count for all containers of a sandbox, and are those of its first one."""
    return _OF_SENTRY.intersection(flags)


def parse(given: Sequence[str]) -> tuple[str, ...]:
    """The flags as runsc gets them, `--name=value` in the order of `FLAGS`; of one given twice the last counts.

    `given`: `name=value`, or `name` for a switch that is on; dashes before it are ignored. Raises `UsageError` for what
    is not on the list.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.lstrip("-").partition("=")
        if (flag := FLAGS.get(name)) is None:
            raise UsageError(
                f"the flag {name!r} of runsc is not passed on",
                reason=Reason.UNSUPPORTED,
                hint=f"leave it out; these are: {', '.join(FLAGS)}",
            )
        if flag.is_switch and not equals:
            value = "true"
        if flag.is_directory and value:
            value = f"{os.path.abspath(value).rstrip('/')}/"
        if not flag.accepts(value):
            raise UsageError(
                f"the flag {name!r} of runsc is {value!r}, wanted {flag.wanted}",
                reason=Reason.USAGE,
                hint="correct it",
            )
        found[name] = value
    return tuple(f"--{name}={found[name]}" for name in FLAGS if name in found)


def are_passed(flags: Sequence[str]) -> bool:
    """Whether `parse` can return `flags`."""
    try:
        return parse(flags) == tuple(flags)
    except UsageError:
        return False


def opened_by(flags: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What `flags`, of `parse`, open: the code, and the flag."""
    for flag in flags:
        name, _, value = flag.removeprefix("--").partition("=")
        if (code := FLAGS[name].opens.get(value)) is not None:
            yield code, flag


def directories_of(flags: Sequence[str]) -> list[str]:
    """The directories of the host that `flags`, of `parse`, have runsc write to."""
    parts = (flag.removeprefix("--").partition("=") for flag in flags)
    return [value for name, _, value in parts if FLAGS[name].is_directory]


def tags_of(flags: Sequence[str]) -> dict[bytes, str]:
    """By what a build that has it contains, a tag of a field in runsc's `Config`: each of `flags`, of `parse`."""
    return {f'flag:"{flag.removeprefix("--").partition("=")[0]}"'.encode(): flag for flag in flags}
