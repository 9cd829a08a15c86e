"""Runs what cannot be undone in a child, and brings back what it answered.

The notable thing: what the engine imports when it is needed may lie where an ordinary user cannot go, and can no longer
be loaded by a process that has confined itself. So it is imported here, before.
"""

from __future__ import annotations

import ctypes  # noqa: F401
import encodings.ascii  # noqa: F401
import json
import os
import pwd  # noqa: F401
import traceback
from collections.abc import Callable
from typing import Any

from engine.linux.syscall import library_call


def in_a_child(act: Callable[[], Any]) -> Any:
    """What `act` answers in a forked child, as JSON has it. Raises `AssertionError` with what it raised there."""
    answer, told = os.pipe()
    child = os.fork()
    if child == 0:
        said: dict[str, Any] = {"fault": "no answer"}
        try:
            said = {"answer": act()}
        except BaseException:
            said = {"fault": traceback.format_exc()}
        finally:
            os.write(told, json.dumps(said).encode())
            os._exit(0)
    os.close(told)
    with open(answer, "rb") as file:
        found = json.loads(file.read() or b'{"fault": "the child said nothing"}')
    os.waitpid(child, 0)
    assert "fault" not in found, found["fault"]
    return found["answer"]


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
