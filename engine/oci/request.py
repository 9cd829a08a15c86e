"""One command of a manager: its arguments and its answer."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence

from engine.errors import EngineError, Reason, SecureRootError, UsageError, hint_for
from engine.linux.files import UntrustedPathError
from engine.oci.flags import Flags
from engine.state.base import VARIABLE, chosen_base, default_base, reach_base

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_BASE_HINT = "with --root, give a directory whose parents only root or you can write"


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

    def report(self, error: EngineError) -> None:
        """Print the error on stderr and write it to the manager's log in its format; JSON also has the `reason`."""
        self._log("error", str(error), error.reason)
        say(f"engine-oci: {error}")

    def _log(self, level: str, message: str, reason: str) -> None:
        log = self.common.value("log")
        if not log:
            return
        from datetime import UTC, datetime

        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        if self.common.value("log-format") == "json":
            line = json.dumps(
                {"msg": message, "level": level, "time": now, "reason": reason}, separators=(",", ":")
            )
        else:
            line = f"time={json.dumps(now)} level={level} msg={json.dumps(message)}"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
            descriptor = os.open(log, flags, 0o600)
            try:
                os.write(descriptor, line.encode() + b"\n")
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as failure:
            say(f"engine-oci: the log {log!r} cannot be written: {failure}")


def say(line: str) -> None:
    """Print it on stderr; ignore a closed stderr."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)
