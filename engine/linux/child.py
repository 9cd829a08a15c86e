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
    """A forked child, `pid`, that runs `function`. Raises `OSError`.

    One that `stays` lives on after its answer, for its namespaces, until `end` or the parent's end.
    """

    def __init__(self, function: Callable[[], bytes | None], *, stays: bool = False) -> None:
        with contextlib.ExitStack() as undo:
            self._stay = _pipe(undo) if stays else None
            answer, told = _pipe(undo)
            self.pid = os.fork()
            if self.pid == 0:
                try:
                    if self._stay is not None:
                        os.close(self._stay[1])
                    with open(told, "wb") as tell:
                        kind, content = _outcome(function)
                        tell.write(len(content).to_bytes(_LENGTH, "little") + kind + content)
                    if self._stay is not None:
                        os.read(self._stay[0], 1)
                finally:
                    os._exit(0)  # after any exception: the child must not continue as its parent
            undo.pop_all()
        os.close(told)
        self._answer = answer

    def answer(self) -> bytes:
        """Wait for the child's end, or the answer of one that stays; what the function returned. Call it once.

        Raises the `OSError` that the function raised, and EIO if the child ended without an answer, because it was
        killed or raised something else. Then it has ended.
        """
        try:
            return self._take_answer()
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """End the child that stays, if it has not ended."""
        if self._stay is not None:
            for descriptor in self._stay:
                os.close(descriptor)
            self._stay = None
            self._reap()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):  # with SIGCHLD ignored it was reaped already, wait(2)
            os.waitpid(self.pid, 0)

    def _take_answer(self) -> bytes:
        with open(self._answer, "rb") as answer:
            told = answer.read()
        if self._stay is None:
            self._reap()
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


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    made = os.pipe()
    for descriptor in made:
        undo.callback(os.close, descriptor)
    return made


def _outcome(function: Callable[[], bytes | None]) -> tuple[bytes, bytes]:
    try:
        return _ANSWERED, function() or b""
    except OSError as error:
        text = f"{error.errno or errno.EIO}\0{error.filename or ''}\0{error.strerror or error}"
        return _FAILED, text.encode(errors="surrogateescape")
