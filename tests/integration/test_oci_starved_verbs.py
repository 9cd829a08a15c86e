"""Each verb where the state directory has no room left, or cannot be written: nothing is lost, and `state` is truthful.

`create` and `delete` are in test_oci_faults.py.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.oci_runtime import Oci
from tests.integration.oci_subject import VERBS, Trial
from tests.support.harness import Engine

#: Where a verb that is done leaves the container; any other leaves it where it was.
DONE = {"start": "running", "pause": "paused", "resume": "running"}


@contextlib.contextmanager
def full(base: Path) -> Iterator[None]:
    """No byte is left, and no page of a file that is cut short is anybody else's."""
    filler = base / "filler"
    with filler.open("wb") as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            file.flush()
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(512)):
            pass
    yield
    filler.unlink()


@contextlib.contextmanager
def read_only(base: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", base], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", base], check=True)


@pytest.mark.parametrize("want", [full, read_only])
@pytest.mark.parametrize("verb", VERBS)
def test_starved_verb_is_done_or_refused_and_can_be_repeated(
    root_engine: Engine,
    small_base: Path,
    verb: str,
    want: Callable[[Path], contextlib.AbstractContextManager[None]],
) -> None:
    trial = Trial(Oci(root_engine), verb)
    subject = trial.subject()
    before = VERBS[verb][1]
    with want(small_base):
        starved = trial.oci(*trial.arguments(subject))
        expected = DONE.get(verb, before) if starved.code == 0 else before
        assert subject.settled() == expected, starved
    if starved.code != 0:
        assert len(starved.stderr.splitlines()) == 1, starved
        if want is read_only:
            assert "ead-only file system" in starved.stderr
        else:
            assert "o space left on device" in starved.stderr
    assert subject.settled() == expected
    if starved.code != 0 or verb not in DONE:
        trial.oci.ok(*trial.arguments(subject))
    assert subject.settled() == DONE.get(verb, before)
    trial.oci.is_gone_after_delete(subject.id)
