"""What a bare runsc needs to be told, to be compared with the engine."""

from __future__ import annotations

import os
from pathlib import Path

from engine.runsc.capabilities import capabilities


def bare_flags(runsc: Path) -> tuple[str, ...]:
    """What keeps a bare runsc from leaving a mount behind."""
    descriptor = os.open(runsc, os.O_RDONLY)
    try:
        return capabilities(descriptor).creation_flags()
    finally:
        os.close(descriptor)
