"""Tries what cannot be undone, such as a namespace, in a child, and answers with what came of it."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def in_a_child(act: Callable[[], Answer]) -> Answer:
    """What `act` answers in a child. What it raises fails the test, with the child's traceback."""
    answer, told = os.pipe()
    child = os.fork()
    if child == 0:
        outcome: tuple[object, str | None]
        try:
            outcome = act(), None
        except BaseException:
            outcome = None, traceback.format_exc()
        try:
            os.write(told, pickle.dumps(outcome))
        finally:
            os._exit(0)
    os.close(told)
    with open(answer, "rb") as file:
        text = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert text, f"the child ended with {status} and no answer"
    found: Answer
    found, failure = pickle.loads(text)
    assert failure is None, f"in a child: {failure}"
    return found
