"""Clean-up from outside of the execute policy.

A confined process cannot remove what is mounted for it, nor write what is read-only for it. So a process that stays
where the caller is does it. It ends with the hand-off.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.linux.child import Helper

#: What was removed, and what could not be, each in words.
Cleaned = tuple[list[str], list[str]]


class Outside:
    """Does `clean`, by a `helper` outside once there is one."""

    def __init__(self, clean: Callable[[], Cleaned]) -> None:
        self._clean = clean
        self.helper: Helper | None = None

    def clean(self) -> Cleaned:
        """What was removed and what was not."""
        if self.helper is not None:
            with contextlib.suppress(OSError):  # it was killed: what can be done here is done
                cleaned, left = json.loads(self.helper.ask())
                return cleaned, left
        return self._clean()

    def serve(self) -> bytes:
        """In the helper: clean, and tell of it."""
        return json.dumps(self._clean()).encode()

    def end(self) -> None:
        """End the helper, if there is one."""
        if self.helper is not None:
            self.helper.end()
            self.helper = None
