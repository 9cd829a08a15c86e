"""Engines spoiled on purpose, one way each, to show that the stateful tests notice.

Each is applied in the engine's own process, before the tests' stops are put in; the names are those of the
mistakes somebody might make.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from typing import Any

from engine.errors import EngineError, FailedError, PolicyError, TraceError
from engine.lifecycle import resolve, runner, secure_root, stage, staged_file, validate
from engine.lifecycle.stage import Staged
from engine.linux.files import Opened
from engine.runsc import installation
from engine.runsc.installation import PinnedFile
from engine.state import store
from engine.state.store import CacheEntry
from engine.traces.move import Trigger
from engine.traces.writer import Trace
from tests.support.objects import changed


def stage_is_triggered_before_validate() -> None:
    def walk(run: Any) -> None:
        found = run._lifecycle.perform(
            Trigger.RESOLVE, lambda: resolve.resolve(run._options.runsc, run._environment)
        )

        def copy() -> Staged:
            binary = run._keep(validate.validate(found, run._options.platform))
            return stage.stage(binary, run._secure_root())

        run._lifecycle.perform(Trigger.STAGE, lambda: run._keep(copy()))

    _spoil(runner._Run, "_walk", walk)


def validation_is_moved_after_staging() -> None:
    """The edges stay as they are: what validate records is made up, and the file is judged once it was copied."""
    judge, copy = installation._judge, staged_file._copy
    postponed: list[Callable[[], None]] = []

    def later(name: str, opened: Opened, status: os.stat_result, owners: Collection[int]) -> None:
        postponed.append(lambda: judge(name, opened, status, owners))

    def validated(found: Any, platform: Any) -> validate.Validated:
        made = real_validate(found, platform)
        return changed(made, runsc=changed(made.runsc, mode=0o755, owner=0))

    def copy_and_judge(*given: Any) -> CacheEntry:
        copied = copy(*given)
        try:
            for judged in postponed:
                judged()
        except EngineError:
            os.close(copied.descriptor)
            raise
        return copied

    real_validate = validate.validate
    _spoil(installation, "_judge", later)
    _spoil(runner, "validate", validated)
    _spoil(staged_file, "_copy", copy_and_judge)


def stage_reopens_the_pinned_binary_by_its_path() -> None:
    copy, copy_bytes = staged_file._copy, staged_file._copy_bytes
    paths: list[str] = []

    def remember(file: PinnedFile, *directories: Any) -> CacheEntry:
        paths.append(file.path)
        return copy(file, *directories)

    def copy_what_is_there_now(_pinned: int, target: int) -> int:
        source = os.open(paths[-1], os.O_RDONLY | os.O_CLOEXEC)
        try:
            return copy_bytes(source, target)
        finally:
            os.close(source)

    _spoil(staged_file, "_copy", remember)
    _spoil(staged_file, "_copy_bytes", copy_what_is_there_now)


def a_refused_run_is_handed_off_all_the_same() -> None:
    def go(run: Any) -> None:
        try:
            run._walk()
        except (EngineError, OSError) as failure:
            error = failure if isinstance(failure, EngineError) else FailedError(run._step, failure)
            copies = [os.dup(made.runsc.descriptor) for made in run._made if isinstance(made, Staged)]
            run._refuse(error)
            if copies:
                os.execve(copies[0], ["runsc"], {})
            raise error from None

    _spoil(runner._Run, "go", go)


def a_trace_that_cannot_be_written_is_passed_over() -> None:
    append = Trace._append

    def append_if_possible(trace: Trace, fields: Any) -> None:
        with contextlib.suppress(TraceError):
            append(trace, fields)

    _spoil(Trace, "_append", append_if_possible)


def the_lock_is_not_kept() -> None:
    real = secure_root.StateDirs.facts

    def facts(root: Any) -> Any:
        os.dup2(os.open("/dev/null", os.O_RDONLY), root.lock)
        return real(root)

    _spoil(secure_root.StateDirs, "facts", facts)


def a_kept_copy_is_linked_unread() -> None:
    """What its record says is taken for what it is."""

    def believe(directory: Any, identity: Any, descriptor: int, _pinned: int | None) -> CacheEntry | None:
        record = store._read_record(directory, identity)
        return None if record is None else CacheEntry(descriptor, identity, record[0], hashed=False)

    _spoil(store, "_judge", believe)


def a_record_of_anothers_is_believed() -> None:
    """And said to have been compared, which takes the place of hashing."""
    real = store.get

    def get(directory: Any, identity: Any, _pinned: int | None) -> CacheEntry | None:
        kept = real(directory, identity, None)
        return None if kept is None else changed(kept, hashed=False, compared=True)

    _spoil(store, "get", get)


def a_kept_copy_is_not_held() -> None:
    """It was judged, and may be written between that and execve."""
    _spoil(store, "take_lease", lambda _descriptor: True)
    _spoil(staged_file, "has_lease", lambda _descriptor: True)


def a_refusal_leaves_the_copy() -> None:
    _spoil(Staged, "discard", lambda _staged: [])


def a_refusal_blames_another_step() -> None:
    _spoil(PolicyError, "step", "stage")


def _spoil(where: Any, name: str, how: Any) -> None:
    if not hasattr(where, name):
        raise AttributeError(f"the engine no longer has {where!r}.{name}: this sabotage would change nothing")
    setattr(where, name, how)


#: All of them, by name.
SABOTAGES: dict[str, Callable[[], None]] = {
    spoil.__name__: spoil
    for spoil in (
        stage_is_triggered_before_validate,
        validation_is_moved_after_staging,
        stage_reopens_the_pinned_binary_by_its_path,
        a_refused_run_is_handed_off_all_the_same,
        a_trace_that_cannot_be_written_is_passed_over,
        the_lock_is_not_kept,
        a_kept_copy_is_linked_unread,
        a_record_of_anothers_is_believed,
        a_kept_copy_is_not_held,
        a_refusal_leaves_the_copy,
        a_refusal_blames_another_step,
    )
}
