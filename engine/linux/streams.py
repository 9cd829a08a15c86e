"""Standard streams that are closed, full or slow.

A closed one becomes /dev/null, as in Go's programs: else the next file that is opened would get its number, and Python
has no object for it. Where a reader is slow and its pipe does not block, a write waits, and nothing is lost. A write
to stdout that fails is remembered: argparse ignores it, and Python discards what does not fit its buffer.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys

TYPE_CHECKING = False

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_REFUSED = 125


def mend() -> None:
    """Mend each standard stream that needs it. Ends the process with 125 where there is no /dev/null."""
    try:
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            stream = getattr(sys, name)
            if stream is None:
                setattr(sys, name, _opened(number))
            elif number > 0 and not os.get_blocking(number):
                setattr(sys, name, _buffered(_Waiting(number, "w", closefd=False), stream))
    except OSError as error:
        with contextlib.suppress(OSError, AttributeError):
            sys.stderr.write(
                f"engine: a standard stream is closed, and {error.filename!r}: {error.strerror}\n"
            )
        sys.exit(_REFUSED)


def _opened(number: int) -> io.TextIOWrapper:
    """/dev/null in the place of the standard descriptor `number`, which is closed."""
    opened = os.open(os.devnull, os.O_WRONLY if number else os.O_RDONLY)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    os.set_inheritable(number, True)
    return open(number, "w" if number else "r", encoding="utf-8", errors="surrogateescape", closefd=False)


class _Waiting(io.FileIO):
    """A file that waits, if it does not block, until it takes some of what is written."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            while (written := super().write(data)) is None:
                import select

                select.select((), (self,), ())
        except OSError as error:
            self.failure = error
            raise
        return written


def _buffered(raw: _Waiting, stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """In the place of `stream`: what the encoding does not have is escaped."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering or stream.write_through,
    )


class Stdout:
    """stdout, as long as a command prints to it."""

    def __init__(self) -> None:
        self._raw: _Waiting | None = None
        with contextlib.suppress(OSError, ValueError):  # a test's, for example
            if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.fileno() == 1:
                self._raw = _Waiting(1, "w", closefd=False)
                sys.stdout = _buffered(self._raw, sys.stdout)

    def failure(self) -> OSError | None:
        """Flush it: why not all that was printed was written; None if it was."""
        try:
            sys.stdout.flush()
        except OSError as error:
            return error
        return self._raw.failure if self._raw is not None else None


def forget_unwritten() -> None:
    """Discard what stdout and stderr did not take: the interpreter's last flush would fail, with exit code 120."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
