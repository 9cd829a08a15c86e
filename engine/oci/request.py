"""One command of a manager: its arguments and its answer."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import sys
import time
from collections.abc import Mapping, Sequence

from engine.errors import EngineError, Reason, SecureRootError, UsageError, hint_for, printable
from engine.linux.files import UntrustedPathError
from engine.oci.flags import Flags
from engine.state.base import VARIABLE, chosen_base, default_base, reach_base

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enum import StrEnum
    from typing import Final

#: Seconds to wait for a FIFO's reader: to open it, and to take what is written.
_READER_TIMEOUT = 2.0
_BASE_HINT = "with --root, give a directory whose parents only root or you can write"


class LogError(UsageError):
    """The file of `--log` cannot be used."""


class Request:
    """`common`: flags before the verb. `flags`: flags after it. `arguments`: the rest."""

    def __init__(
        self, environment: Mapping[str, str], common: Flags, verb: str, flags: Flags, arguments: Sequence[str]
    ) -> None:
        self.environment: Final = environment
        self.common: Final = common
        self.verb: Final = verb
        self.flags: Final = flags
        self.arguments: Final = arguments

    def container_id(self) -> str:
        """The only argument. Raises `UsageError`."""
        if len(self.arguments) != 1:
            raise UsageError(
                f"{self.verb} takes one container id, not {len(self.arguments)} arguments",
                reason=Reason.USAGE,
                hint="see engine-oci --help",
            )
        return self.arguments[0]

    def choice(self, name: str, kind: type[StrEnum], default: str) -> str:
        """The value of the flag `--name`, one of `kind`; `default` for auto and where it is not given.

        Raises `UsageError`.
        """
        value = self.common.value(name)
        if value is None or value == "auto":
            return default
        if value not in list(kind):
            raise UsageError(
                f"--{name} is {value!r}",
                reason=Reason.USAGE,
                hint=f"give one of {', '.join(dict.fromkeys(('auto', *kind)))}",
            )
        return value

    def warn(self, text: str) -> None:
        """Print a warning on stderr and write it to the manager's log in its format."""
        self._log("warning", text, None)
        say(f"engine-oci: warning: {printable(text)}")

    def base(self, *, make: bool = False) -> str:
        """The directory with the containers; with `make` its parents are created. Raises `EngineError`.

        It is `--root`, else the engine's default. Raises `FileNotFoundError` if there is none yet.
        """
        try:
            root = self.common.value("root")
            if root is None:
                return chosen_base(self.environment)
            return reach_base(os.path.abspath(root), make=make)
        except UntrustedPathError as error:
            raise SecureRootError(str(error), reason=Reason.ROOT_NOT_PRIVATE, hint=_BASE_HINT) from None
        except FileNotFoundError:
            raise
        except OSError as error:
            raise SecureRootError(
                f"{error.filename!r}: {error.strerror}",
                reason=Reason.FAILURE,
                hint=hint_for(error, _BASE_HINT),
            ) from None

    def other_bases(self) -> tuple[str, ...]:
        """Other bases that may have containers, unless the user chose one. Raises `OSError`."""
        if self.common.value("root") is not None:
            return ()
        from engine.state import elsewhere
        from engine.state.legacy import other_bases

        if self.environment.get(VARIABLE):
            return default_base(), *elsewhere.bases()
        return *other_bases(self.environment), *elsewhere.bases()

    def log_flags(self) -> tuple[str, ...]:
        """The flags that make runsc write its errors where the manager reads them."""
        log, form = self.common.value("log"), self.common.value("log-format")
        return (*(("--log", log) if log else ()), *(("--log-format", form) if form else ()))

    def hold_log(self) -> int | None:
        """Open the `--log` if it is a FIFO: runsc's own open then does not wait for a reader, fifo(7).

        None for anything else. The descriptor stays open until runsc has opened it. Raises `LogError` where nobody
        reads it in time.
        """
        log = self.common.value("log")
        if not log or not _is_fifo(log):
            return None
        end = time.monotonic() + _READER_TIMEOUT
        while True:
            try:
                return os.open(log, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != errno.ENXIO or time.monotonic() > end:
                    raise LogError(
                        f"the log {log!r} is a FIFO that nobody reads",
                        reason=Reason.USAGE,
                        hint="read it from before, or give a regular file",
                    ) from None
            time.sleep(0.01)

    def report(self, error: EngineError) -> None:
        """Print the error on stderr and write it to the manager's log in its format; JSON also has the `reason`."""
        unwritten = self._log("error", str(error), error.reason)
        say(f"engine-oci: {error}")
        if unwritten is not None and not (unwritten.errno == errno.ENXIO and isinstance(error, LogError)):
            say(f"engine-oci: the log {self.common.value('log')!r} cannot be written: {unwritten.strerror}")

    def _log(self, level: str, message: str, reason: str | None) -> OSError | None:
        """Write to the manager's log, if there is one. Returns why it could not be written."""
        log = self.common.value("log")
        if not log:
            return None
        from datetime import UTC, datetime

        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        if self.common.value("log-format") == "json":
            said = {"msg": message, "level": level, "time": now}
            line = json.dumps(said if reason is None else {**said, "reason": reason}, separators=(",", ":"))
        else:
            line = f"time={json.dumps(now)} level={level} msg={json.dumps(message)}"
        flags = (
            os.O_WRONLY
            | os.O_CREAT
            | os.O_APPEND
            | os.O_NONBLOCK
            | os.O_NOFOLLOW
            | os.O_NOCTTY
            | os.O_CLOEXEC
        )
        try:
            descriptor = os.open(log, flags, 0o600)
            try:
                _write_in_time(descriptor, line.encode() + b"\n")
            finally:
                os.close(descriptor)
        except OSError as failure:
            return failure
        except ValueError as failure:  # a NUL
            return OSError(errno.EINVAL, str(failure))
        return None


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _write_in_time(descriptor: int, data: bytes) -> None:
    """Write all of it to a file that does not block. Raises `OSError`, EAGAIN where a reader is too slow."""
    end = time.monotonic() + _READER_TIMEOUT
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def say(line: str) -> None:
    """Print it on stderr; ignore a closed stderr."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)
