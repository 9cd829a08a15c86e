"""`events`: print resource usage, once or at an interval."""

from __future__ import annotations

import math
import re

from engine.errors import Reason, UsageError
from engine.oci.flags import Kind, Table
from engine.oci.lookup import delegate
from engine.oci.request import Request
from engine.state.oci_lifecycle import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

FLAGS: Table = {"stats": Kind.SWITCH, "interval": Kind.VALUE}
SHORT: dict[str, str] = {}


#: Seconds in each unit of Go's time.ParseDuration.
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
#: Seconds; runsc's own interval is an int of Go, in nanoseconds.
_MAX = 1 << 33


def main(request: Request) -> NoReturn:
    """Become `runsc events`. `--interval` is `5s`, `1m30s` or `500ms` as in runc, or `5`, in seconds."""
    flags: list[str] = ["--stats"] if request.flags.has("stats") else []
    if (interval := request.flags.value("interval")) is not None:
        flags += ["--interval", str(whole_seconds(interval))]
    delegate(request, Verb.EVENTS, request.container_id(), flags)


def whole_seconds(text: str) -> int:
    """The duration in whole seconds, rounded up: runsc waits for no less than one. Raises `UsageError`."""
    if text.isascii() and text.isdigit():
        seconds = float(text)
    else:
        parts = _PART.findall(text)
        is_whole = text != "" and "".join(number + unit for number, unit in parts) == text
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts) if is_whole else 0.0
    if not 0 < seconds <= _MAX:
        raise UsageError(
            f"--interval is {text!r}", reason=Reason.USAGE, hint="give a duration, such as 5s or 500ms"
        )
    return max(1, math.ceil(seconds - 1e-9))
