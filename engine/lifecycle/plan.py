"""What a run would execute: what `engine run --dry-run` prints."""

from __future__ import annotations

import os
from collections.abc import Mapping

from engine.errors import Reason, SecureRootError
from engine.lifecycle.resolve import resolve
from engine.lifecycle.validate import Validated, validate
from engine.linux.files import UntrustedPathError
from engine.options import RunOptions
from engine.runsc.arguments import build_argv, build_environment
from engine.state.base import chosen_base
from engine.state.container import EXEC_ALLOW, GIVEN_BUNDLE, RUNSC_ROOT, RUNTIME, component
from engine.state.programs import PROGRAM, foresee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final


class Plan:
    """What a run would execute; `argv[0]` has a `*` in the place of each run's own name."""

    def __init__(self, runsc: Validated, argv: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self.runsc: Final = runsc
        self.argv: Final = argv
        self.environment: Final = environment


def plan(options: RunOptions, environment: Mapping[str, str]) -> Plan:
    """What `run` would do, by resolving and validating only: nothing is made. Raises `EngineError`."""
    try:
        base = chosen_base(environment)
        place = foresee(base)
    except UntrustedPathError as error:
        raise SecureRootError(
            str(error),
            reason=Reason.ROOT_NOT_PRIVATE,
            hint="make it a directory of your own with mode 0700, or choose another base: ENGINE_ARTIFACT_BASE",
        ) from None
    except OSError as error:
        raise SecureRootError(
            f"{error.filename!r}: {error.strerror}", reason=Reason.FAILURE, hint="give an absolute base"
        ) from None
    binary = validate(resolve(options.runsc, environment), options.platform)
    container = os.path.join(base, component(options.container_id))
    root = os.path.join(container, RUNSC_ROOT)
    program = os.path.join(place or os.path.join(root, EXEC_ALLOW), "stage-*", PROGRAM)
    return Plan(
        binary,
        build_argv(
            program,
            root,
            options,
            binary.platform,
            os.path.join(root, GIVEN_BUNDLE),
            creation_flags=binary.capabilities.creation_flags(),
        ),
        build_environment(os.path.join(root, RUNTIME)),
    )
