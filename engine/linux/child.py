"""Runs a function in a forked child, for what a process cannot undo: entering a namespace, confining itself."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Generator

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
                    tell.write(_framed(function))
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
        _reap(self._pid)
        return _content(told[: _LENGTH + 1], told[_LENGTH + 1 :])


class Helper:
    """A forked child, `pid`, that answers whenever it is asked: what the generator `answers` yields. Raises `OSError`.

    It ends with its parent, at its execve(2), or at `end`; then the generator is closed. A `disowned` one has no `pid`
    here, and is reaped by init: a program that this process becomes is not left with a child that it does not know.
    """

    def __init__(self, answers: Callable[[], Generator[bytes]], *, disowned: bool = False) -> None:
        self._disowned = disowned
        with contextlib.ExitStack() as undo:
            asked, self._ask = _pipe(undo)
            self._answer, told = _pipe(undo)
            self.pid = os.fork()
            if self.pid == 0:
                try:
                    if not disowned or os.fork() == 0:
                        os.close(self._ask)
                        _serve(answers(), asked, told)
                finally:
                    os._exit(0)  # as above
            undo.pop_all()
        os.close(asked)
        os.close(told)
        if disowned:
            _reap(self.pid)

    def ask(self) -> bytes:
        """The next answer. Raises as `Child.answer`; then it has ended, or soon will."""
        with contextlib.suppress(BrokenPipeError):  # it has ended: there is no answer
            os.write(self._ask, b"?")
        head = _read(self._answer, _LENGTH + 1)
        return _content(head, _read(self._answer, int.from_bytes(head[:_LENGTH], "little")))

    def end(self) -> None:
        """End it, and wait for that. Call it once."""
        os.close(self._ask)
        while os.read(self._answer, 1 << 10):
            pass
        os.close(self._answer)
        if not self._disowned:
            _reap(self.pid)


def _serve(answers: Generator[bytes], asked: int, told: int) -> None:
    with open(told, "wb") as tell, contextlib.closing(answers):
        while os.read(asked, 1):
            tell.write(_framed(lambda: next(answers)))
            tell.flush()


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    made = os.pipe()
    for descriptor in made:
        undo.callback(os.close, descriptor)
    return made


def _read(descriptor: int, length: int) -> bytes:
    read = b""
    while len(read) < length and (piece := os.read(descriptor, length - len(read))):
        read += piece
    return read


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):  # with SIGCHLD ignored it was reaped already, wait(2)
        os.waitpid(pid, 0)


def _framed(function: Callable[[], bytes | None]) -> bytes:
    kind, content = _outcome(function)
    return len(content).to_bytes(_LENGTH, "little") + kind + content


def _content(head: bytes, content: bytes) -> bytes:
    kind = head[_LENGTH:]
    if not kind or len(content) != int.from_bytes(head[:_LENGTH], "little"):
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
