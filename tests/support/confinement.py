"""Namespaces that nobody made, for a test in which the kernel is not asked."""

from __future__ import annotations

from typing import cast

from engine.linux.child import Helper
from engine.linux.locked_mounts import Confinement
from engine.linux.namespaces import IdMaps

#: The ids that they would have.
SINGLE = IdMaps(((0, 1000, 1),), ((0, 1000, 1),), "single")


class Pretended(Confinement):
    """Without a process in them, and none outside."""

    def __init__(self) -> None:
        self.ids = SINGLE
        self.outside = cast(Helper, None)

    def __exit__(self, *_: object) -> None:
        return
