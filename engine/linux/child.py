"""Runs a function in a forked child, for what a process cannot undo: entering a namespace, confining itself."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable

#: Bytes before an answer, for its length: a truncated answer is refused.
_LENGTH = 8
_ANSWERED, _FAILED = b"=", b"!"


class Child:
    """A forked child that runs `function`. Raises `OSError`."""

    def __init__(self, function: Callable[[], bytes | None]) -> None:
        answer, told = os.pipe()
        with open(told, "wb") as tell:
            self._answer = open(answer, "rb")  # noqa: SIM115 (closed by `answer`)
            try:
                self._pid = os.fork()
            except OSError:
                self._answer.close()
                raise
            if self._pid == 0:
                try:
                    kind, content = _outcome(function)
                    tell.write(len(content).to_bytes(_LENGTH, "little") + kind + content)
                    tell.flush()
                finally:
                    os._exit(0)  # after any exception: the child must not continue as its parent

    def answer(self) -> bytes:
        """Wait for the child's end; what the function returned. Call it once.

        Raises the `OSError` that the function raised, and EIO if the child ended without an answer, because it was
        killed or raised something else.
        """
        with self._answer:
            told = self._answer.read()
        with contextlib.suppress(ChildProcessError):  # with SIGCHLD ignored it was reaped already, wait(2)
            os.waitpid(self._pid, 0)
        kind, content = told[_LENGTH : _LENGTH + 1], told[_LENGTH + 1 :]
        if not kind or len(content) != int.from_bytes(told[:_LENGTH], "little"):
            raise OSError(errno.EIO, "it ended without an answer", "a child process")
        if kind == _ANSWERED:
            return content
        number, about, text = content.decode(errors="surrogateescape").split("\0", 2)
        raise OSError(int(number), text, about or None)


def ask_child(function: Callable[[], bytes | None]) -> bytes:
    """What `function` returns in a forked child. Raises as `Child.answer`, and `OSError` if the fork fails."""
    return Child(function).answer()


def _outcome(function: Callable[[], bytes | None]) -> tuple[bytes, bytes]:
    try:
        return _ANSWERED, function() or b""
    except OSError as error:
        text = f"{error.errno or errno.EIO}\0{error.filename or ''}\0{error.strerror or error}"
        return _FAILED, text.encode(errors="surrogateescape")
