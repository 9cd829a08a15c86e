"""Runs what cannot be undone in a child, and brings back what it answered.

The notable thing: what the engine imports when it is needed may lie where an ordinary user cannot go, and can no longer
be loaded by a process that has confined itself. So it is imported here, before.
"""

from __future__ import annotations

import ctypes  # noqa: F401
import encodings.ascii  # noqa: F401
import os
import pickle
import pwd  # noqa: F401
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from engine.linux.syscall import library_call

Answer = TypeVar("Answer")


def in_a_child(act: Callable[[], Answer]) -> Answer:
    """What `act` answers in a forked child.

    Raises `AssertionError` with what it raised there, and where none or more than one child answers.
    """
    answer, told = os.pipe()
    child = os.fork()
    if child == 0:
        outcome: tuple[object, str | None] = None, "no answer"
        try:
            outcome = act(), None
        except BaseException:
            outcome = None, traceback.format_exc()
        finally:
            os.write(told, pickle.dumps(outcome))
            os._exit(0)
    os.close(told)
    with open(answer, "rb") as file:
        answered: tuple[Answer, str | None] | None = pickle.load(file) if file.peek() else None
        more = file.read()
    os.waitpid(child, 0)
    assert answered is not None, "the child ended without an answer"
    assert answered[1] is None, f"in a child: {answered[1]}"
    assert not more, "a child of the child went on as if it were the child"
    return answered[0]


def become_ordinary(uid: int = 4242) -> None:
    """Turn this process, which is root's, into one of a user without an account."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    library_call("prctl", 4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: as after execve, its files in /proc are its own


def failure(act: Callable[[], Any]) -> tuple[int | None, str | None, Any]:
    """The number, the words and the name of the `OSError` that `act` raises."""
    try:
        act()
    except OSError as error:
        return error.errno, error.strerror, error.filename
    raise AssertionError("it did not fail")


def can_run(program: str) -> int:
    """The exit code of `program`, or 13 where it may not be executed."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(program, [program], {}), 0)[1])
    except PermissionError:
        return 13
