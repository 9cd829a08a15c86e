"""The libraries of the extra `audit`, which only reports need: one line when they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from engine.errors import EngineError, Reason


class ExtraMissingError(EngineError):
    """A library that this needs is not installed."""

    step = "audit"


def require(module: str, purpose: str) -> Any:
    """The library `module`. `purpose` ends the sentence "... is needed to". Raises `ExtraMissingError`."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ExtraMissingError(
            f"{error.name} is needed to {purpose}, and is not installed",
            reason=Reason.UNAVAILABLE,
            hint="pip install 'gvisor-engine[audit]'",
        ) from None
