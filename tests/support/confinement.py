"""Namespaces that nobody made, for a test in which the kernel is not asked."""

from __future__ import annotations

from engine.linux.locked_mounts import Confinement
from engine.linux.namespaces import IdMaps

#: The ids that they would have.
SINGLE = IdMaps(((0, 1000, 1),), ((0, 1000, 1),), "single")


class Pretended(Confinement):
    """Without a child that waits in them."""

    def __init__(self) -> None:
        self.ids = SINGLE

    def __exit__(self, *_: object) -> None:
        return
