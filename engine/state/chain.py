"""The chain over the runs of a host: `<place>/chain`, beside the traces. Every run appends to it under a lock.

    {"seq":0,"previous":null,"time":…,"event":"start","runs":1,"container":"web","trace":"web-….jsonl","header":…}
    {"seq":1,"previous":…,"time":…,"event":"end","runs":1,"run":1,"lines":8,"digest":…}

Each entry has the digest of the one before, so none can be changed, removed or moved alone. A `start` is written before
the trace is made, both under the lock, flock(2), which the kernel releases when its holder is killed. So only the last
entry can be of a trace that was not made, and the next entry says that it was `lost`. `gc` says which trace it has
`removed`, and then removes it. In specs/HostChain.tla.

No fsync, as for traces: a killed process loses nothing, a power cut may.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time

from engine.digest import sha256
from engine.errors import Reason, TraceError, hint_for
from engine.linux.files import PrivateDirectory
from engine.linux.locks import lock
from engine.linux.regular_files import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Final

CHAIN = "chain"
START, END, LOST, REMOVED = "start", "end", "lost", "removed"
#: Seconds to wait for the lock; an entry takes a fraction of a millisecond.
_TIMEOUT = 5.0
#: Bytes, at most, of an entry; one has some 300.
MAX_ENTRY = 8192


class HostChain:
    """The chain of the traces in a directory. Entries are appended under its lock."""

    def __init__(self, place: PrivateDirectory, *, make: bool = True) -> None:
        """Open the chain, or `make` it. Raises `TraceError`; `FileNotFoundError` where there is none to open."""
        self.path: Final = os.path.join(place.path, CHAIN)
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self.descriptor: Final = os.open(
                CHAIN, flags | (os.O_CREAT if make else 0), 0o600, dir_fd=place.descriptor
            )
        except FileNotFoundError:
            if not make:
                raise
            raise self._failed("the directory is gone") from None
        except OSError as error:
            raise self._failed(error) from None
        try:
            status = os.fstat(self.descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                raise self._failed("it is no regular file of this user")
            self._place: Final = os.dup(place.descriptor)
        except OSError as error:
            os.close(self.descriptor)
            raise self._failed(error) from None
        except TraceError:
            os.close(self.descriptor)
            raise

    def close(self) -> None:
        """Close the file, and the directory. Raises `OSError` if the system could not keep what was written."""
        os.close(self._place)
        os.close(self.descriptor)

    def begin(self, container: str, header: str, trace: str, make: Callable[[], None]) -> Start:
        """Append the start of a run, and `make` its trace.

        `header`: the digest of the first line. `trace`: its name in the directory, or the absolute path of one that is
        made already. Raises `TraceError`.
        """
        with self._locked() as last:
            run = last.runs + 1
            offset = os.fstat(self.descriptor).st_size
            entry = self._append(last, START, runs=run, container=container, trace=trace, header=header)
            make()
        return Start(run, offset, entry.digest or "")

    def end(self, start: Start, lines: int, digest: str) -> None:
        """Append how many lines the trace of the run that began so has, and the `digest` of the last one.

        Raises `TraceError`; also where the chain was begun anew since: there, the number is another run's, or none's.
        """
        with self._locked() as last:
            if not self._has(start):
                raise self._failed("it was begun anew since the start of this run")
            self._append(last, END, runs=last.runs, run=start.run, lines=lines, digest=digest)

    def _has(self, start: Start) -> bool:
        line = os.pread(self.descriptor, MAX_ENTRY, start.offset)
        return sha256(line[: line.find(b"\n") + 1]) == start.digest

    def removed(self, trace: str) -> None:
        """Append that the `trace` is removed. Raises `TraceError`."""
        with self._locked() as last:
            self._append(last, REMOVED, runs=last.runs, trace=trace)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[_Last]:
        """Hold the lock; the last entry, after what a killed process left was dealt with."""
        try:
            if not lock(self.descriptor, time.monotonic() + _TIMEOUT):
                raise self._failed(f"another process has had its lock for {_TIMEOUT:.0f} s")
            try:
                last = self._read_last()
                if last.unmade is not None and not self._is_made(last.unmade):
                    last = self._append(last, LOST, runs=last.runs, run=last.runs)
                yield last
            finally:
                fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        except OSError as error:
            raise self._failed(error) from None

    def _is_made(self, trace: str) -> bool:
        """Whether the trace has its first line, which is written at once."""
        try:
            return os.stat(trace, dir_fd=self._place, follow_symlinks=False).st_size > 0
        except FileNotFoundError:
            return False

    def _read_last(self) -> _Last:
        """The last entry. One that a killed process wrote in part is cut off first."""
        size = os.fstat(self.descriptor).st_size
        piece = os.pread(self.descriptor, MAX_ENTRY, max(0, size - MAX_ENTRY))
        if (torn := len(piece) - piece.rfind(b"\n") - 1) > 0:
            if torn == len(piece) and size > torn:
                raise self._failed("its last entry is too long")
            os.ftruncate(self.descriptor, size - torn)
            piece = piece[: len(piece) - torn]
        if not piece:
            return _Last(-1, None, 0, None)
        line = piece[piece.rfind(b"\n", 0, -1) + 1 :]
        try:
            entry = json.loads(line)
            # One elsewhere is made before its start is written. Others may change what leads to it, or let nobody by.
            is_unmade = entry["event"] == START and not entry["trace"].startswith("/")
            unmade = entry["trace"] if is_unmade else None
            return _Last(int(entry["seq"]), sha256(line), int(entry["runs"]), unmade)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise self._failed("its last entry is none of an engine's") from None

    def _append(self, last: _Last, event: str, **facts: Any) -> _Last:
        entry = {
            "seq": last.seq + 1,
            "previous": last.digest,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "event": event,
            **facts,
        }
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        if len(line) > MAX_ENTRY:  # nobody could read it, or append to it
            raise TraceError(
                f"the path of the trace is too long for {self.path!r}, the chain over the runs",
                reason=Reason.TOO_LARGE,
                hint="give a shorter one with --trace FILE",
            )
        size = os.fstat(self.descriptor).st_size
        try:
            write_all(self.descriptor, line)
        except OSError:
            with contextlib.suppress(OSError):  # the next entry cuts it, too
                os.ftruncate(self.descriptor, size)
            raise
        return _Last(last.seq + 1, sha256(line), facts["runs"], facts["trace"] if event == START else None)

    def _failed(self, error: OSError | str) -> TraceError:
        why = error.strerror if isinstance(error, OSError) else error
        hint = "find out who changed it; a chain that is moved away begins anew"
        return TraceError(
            f"{self.path!r}, the chain over the runs: {why}",
            reason=Reason.FAILURE,
            hint=hint_for(error, hint) if isinstance(error, OSError) else hint,
        )


class Start:
    """The number of a `run`, and its start in the chain: the `offset` of its first byte, and the entry's `digest`."""

    def __init__(self, run: int, offset: int, digest: str) -> None:
        self.run: Final = run
        self.offset: Final = offset
        self.digest: Final = digest


class _Last:
    """The last entry: its number and digest, how many runs there are, and of which trace it is the start, if any."""

    def __init__(self, seq: int, digest: str | None, runs: int, unmade: str | None) -> None:
        self.seq: Final = seq
        self.digest: Final = digest
        self.runs: Final = runs
        self.unmade: Final = unmade
