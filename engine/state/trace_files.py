"""Find the traces that are kept on this host for this user: by container, by run, or all of them."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from engine.errors import EngineError, Reason, hint_for
from engine.linux.files import PrivateDirectory, UntrustedPathError, open_private_directory
from engine.linux.regular_files import open_own
from engine.state import elsewhere, evidence
from engine.state.base import VARIABLE, chosen_base, open_existing_base
from engine.state.container import TRACES, is_component
from engine.state.legacy import other_bases
from engine.state.retention import NAME_IN_CONTAINER, NAME_IN_PLACE, SIGNATURE

#: Bytes of a line; the engine writes at most some 16 KiB.
_MAX_LINE = 1 << 20


class TraceFilesError(EngineError):
    """The traces cannot be looked for, or there is none of that name."""

    step = "trace"


@dataclass(frozen=True, slots=True)
class TraceFile:
    """A trace at `path`: of a `container`, and which `run` of it. `is_signed`: whether a signature lies beside it.

    `first` and `last`: its first and its last whole line; None where that is no JSON object.
    """

    path: str
    container: str
    run: str
    is_signed: bool
    first: Mapping[str, object] | None
    last: Mapping[str, object] | None

    @property
    def started(self) -> str | None:
        """When the run began, as the trace has it."""
        time = self.first.get("time") if self.first else None
        return time if isinstance(time, str) else None

    @property
    def state(self) -> str | None:
        """The state after its last line; None where that says none."""
        state = self.last.get("next", "start") if self.last else None
        return state if isinstance(state, str) else None

    @property
    def end(self) -> str:
        """How it ended, in words, as its last line has it; nothing of it is verified."""
        state, last = self.state, self.last or {}
        if state is None or self.started is None:
            return "unreadable"
        if state == "ended":
            facts = last.get("facts")
            code, signal = (
                (facts.get("exit_code"), facts.get("signal")) if isinstance(facts, dict) else (None, None)
            )
            return f"exit code {code}" if signal is None else f"ended by {signal}"
        if state == "refused":
            error = last.get("error")
            return f"refused: {error.get('reason', '')}" if isinstance(error, dict) else "refused"
        return "handed off, end unknown" if state == "handed_off" else "unfinished"


def places(environment: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The directories in which traces of this user may lie, and the bases of this user. Raises `TraceFilesError`."""
    try:
        base = chosen_base(environment)
        bases = [base, *other_bases(environment)]
        if not environment.get(VARIABLE):
            bases += elsewhere.bases()
        return [*evidence.places(base, environment), *(os.path.join(each, TRACES) for each in bases)], bases
    except UntrustedPathError as error:
        raise TraceFilesError(
            str(error), reason=Reason.ROOT_NOT_PRIVATE, hint="find out who can write there"
        ) from None
    except OSError as error:
        raise TraceFilesError(
            f"{error.filename!r}: {error.strerror}", reason=Reason.FAILURE, hint=hint_for(error, "look there")
        ) from None


def find(environment: Mapping[str, str], doubt: Callable[[str], None]) -> list[TraceFile]:
    """All traces of this user, the oldest first; `doubt` gets a line about a directory that cannot be read.

    Raises `TraceFilesError`.
    """
    with_traces, bases = places(environment)
    found: dict[str, TraceFile] = {}
    for path in dict.fromkeys((*with_traces, *bases)):
        try:
            if (directory := open_existing_base(path)) is not None:
                with contextlib.closing(directory):
                    for one in _in_place(directory) if path in with_traces else _in_containers(directory):
                        found[one.path] = one
        except (OSError, UntrustedPathError) as error:
            doubt(f"traces in {path!r} are left out: {error}")
    return sorted(found.values(), key=lambda one: (one.started or "", one.run))


def choose(
    environment: Mapping[str, str], name: str, doubt: Callable[[str], None], *, last: bool = False
) -> TraceFile:
    """The trace of the container or of the run `name`; of several runs of a container the `last`, if that is asked for.

    Raises `TraceFilesError` where there is none, and where there are several.
    """
    found = [one for one in find(environment, doubt) if name in (one.container, one.run)]
    if not found:
        raise TraceFilesError(
            f"there is no trace of {name!r}",
            reason=Reason.NO_SUCH,
            hint="give the id of a container, or a run: engine trace list",
        )
    if len(found) > 1 and not last:
        shown = ", ".join(one.run for one in found[-3:])
        raise TraceFilesError(
            f"there are {len(found)} traces of {name!r}",
            reason=Reason.USAGE,
            hint=f"give --last, or one of its runs; the latest are {shown}",
        )
    return found[-1]


def _in_place(place: PrivateDirectory) -> Iterator[TraceFile]:
    names = set(os.listdir(place.descriptor))
    for name in names:
        if match := re.fullmatch(NAME_IN_PLACE, name):
            yield _read(place, name, match[1], match[2], is_signed=name + SIGNATURE in names)


def _in_containers(base: PrivateDirectory) -> Iterator[TraceFile]:
    """Those of older engines, whose names do not have the container's id."""
    for component in filter(is_component, os.listdir(base.descriptor)):
        with contextlib.suppress(OSError, UntrustedPathError), contextlib.ExitStack() as held:
            container = open_private_directory(base.descriptor, base.path, component)
            held.callback(container.close)
            names = set(os.listdir(container.descriptor))
            for name in names:
                if match := re.fullmatch(NAME_IN_CONTAINER, name):
                    yield _read(container, name, None, match[1], is_signed=name + SIGNATURE in names)


def _read(
    directory: PrivateDirectory, name: str, container: str | None, run: str, *, is_signed: bool
) -> TraceFile:
    first = last = None
    with contextlib.suppress(OSError, UntrustedPathError):
        with open(open_own(directory, name), "rb") as file:
            lines = [line for line in iter(lambda: file.readline(_MAX_LINE), b"") if line.endswith(b"\n")]
        first, last = (_object(lines[0]), _object(lines[-1])) if lines else (None, None)
    if container is None:
        told = first.get("container") if first else None
        container = told if isinstance(told, str) else ""
    return TraceFile(os.path.join(directory.path, name), container, run, is_signed, first, last)


def _object(line: bytes) -> Mapping[str, object] | None:
    try:
        read = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None
