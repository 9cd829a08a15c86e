"""Tries what cannot be undone, such as a namespace, in a child, and answers with what came of it."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def in_a_child(act: Callable[[], Answer]) -> Answer:
    """What `act` answers in a child. What it raises there fails the test, and so do two answers or none."""
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
        answered: tuple[Answer, str | None] | None = pickle.load(file) if file.peek() else None
        more = file.read()
    os.waitpid(child, 0)
    assert answered is not None, "the child ended without an answer"
    assert answered[1] is None, f"in a child: {answered[1]}"
    assert not more, "a child of the child went on as if it were the child"
    return answered[0]
