"""A run in the chain over the runs of its host, from its first line to its last."""

from __future__ import annotations

import os

from engine.linux.files import PrivateDirectory
from engine.state.chain import HostChain
from engine.traces.writer import Trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final


class ChainedRun:
    """The run of `trace`: its `start` in the chain of the directory `place`."""

    def __init__(self, place: PrivateDirectory, trace: Trace, container_id: str) -> None:
        """Give the run its number, and the trace a file in `place` unless it has one. Raises `TraceError`."""
        self.place: Final = place.path
        self._chain: Final = HostChain(place)
        name = os.path.abspath(trace.path) if trace.path else trace.new_name()
        # One that was asked for there is looked for there, as all others.
        if os.path.dirname(name) == place.path:
            name = os.path.basename(name)
        try:
            self.start: Final = self._chain.begin(
                container_id, trace.header_digest, name, lambda: trace.create_in(place, name)
            )
        except BaseException:
            self._chain.close()
            raise

    def end(self, trace: Trace) -> None:
        """Note the last line of the trace, as it is now. Raises `TraceError`."""
        lines, last, _ = trace.position()
        self._chain.end(self.start, lines, last or "")

    def close(self) -> None:
        """Close the chain."""
        self._chain.close()
