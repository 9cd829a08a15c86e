"""The runsc that a run would use, for commands that only ask it something."""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import StepError
from engine.lifecycle.resolve import resolve
from engine.lifecycle.validate import Validated, validate
from engine.options import Platform


def find_runsc(chosen: str | None, environment: Mapping[str, str]) -> Validated:
    """The runsc that a run would use, pinned. Raises `ResolveError` and `ValidateError`."""
    return validate(resolve(chosen, environment), Platform.AUTO)


def is_available(environment: Mapping[str, str]) -> bool:
    """Whether a run would find a runsc that it trusts."""
    try:
        find_runsc(None, environment).close()
    except StepError:
        return False
    return True
