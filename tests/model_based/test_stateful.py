"""The real lifecycle, driven call by call against an adversary, failures, signals, gc and other runs.

Hypothesis chooses what happens and when; `held_engine.Engine` is a real process that stops before every system call
its steps make; `world.World` is the file system around it. What is judged is read from the world: the bytes the
kernel executes, who owns what at the hand-off, what is left, who holds the lock. docs/stateful-tests.md has more.
"""

from __future__ import annotations

import ast
import errno
import fcntl
import inspect
import itertools
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import engine
from engine.errors import Reason
from engine.lifecycle.machine import OUT_OF_PLACE
from engine.lifecycle.runner import NO_TRACE
from engine.lifecycle.spec_graph import spec_graph
from engine.state.chain import CHAIN
from engine.state.container import LOCK, TRACES, component
from engine.state.store import STORE
from engine.traces.move import State, Trigger
from engine.verify.faults import FaultCode
from engine.verify.trace_check import Verdict
from tests.model_based.held_engine import CLEAN_UP, NOT_STOPPED_AT, OS_CALLS, WAITS, Engine, ForkServer
from tests.model_based.promises import BrokenError, Promise, broken, hold
from tests.model_based.sabotage import SABOTAGES
from tests.model_based.spec_coverage import PROPERTY, Tally
from tests.model_based.spec_path import FAILURE, edge, edge_of, reason, step_of, taken, why_no_path
from tests.model_based.two_steps import KERNELS, POLICIES, STAGED_PROGRAM, outcome_of_policy
from tests.model_based.world import (
    BINARY_MOVES,
    BUNDLE_MOVES,
    DIRECTORY_MOVES,
    FORGERIES,
    HANDED_OVER,
    KEPT_MOVES,
    LEVELS,
    RECORD_MOVES,
    Identity,
    World,
    identity,
)

#: Without the profile `deep`, which says how many it takes.
EXAMPLES = 2_000
#: Registered in tests/conftest.py.
DEEP = "deep"

#: What a failing call fails with. ENOENT is no failure but a statement, so only calls that look up a name make it.
ERRORS = (errno.EIO, errno.ENOSPC, errno.EINTR, errno.EACCES, errno.EMFILE, errno.ENOENT)
SOON = (1, 1, 2, 3, 5, 8, 13, 21, 34)
_LOOK_UPS = ("open", "mkdir", "unlink", "rmdir", "readlink", "openat2", "mkfifo", "link", "replace")
#: What goes on failing once it has begun: with what, and which calls.
LASTING: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "full disk": (errno.ENOSPC, ("write", "mkdir", "mkfifo", "link", "copy_file_range", "sendfile")),
    "read-only disk": (
        errno.EROFS,
        ("write", "mkdir", "mkfifo", "unlink", "rmdir", "fchmod", "ftruncate", "link", "replace"),
    ),
    "dying disk": (
        errno.EIO,
        (
            "read",
            "pread",
            "preadv",
            "write",
            "fstat",
            "unlink",
            "rmdir",
            "listdir",
            "ftruncate",
            "sendfile",
        ),
    ),
    "no descriptors": (errno.EMFILE, ("open", "openat2", "listdir", "scandir")),
    "no leases": (errno.EINVAL, ("fcntl",)),
    "no copying within the file system": (errno.EXDEV, ("copy_file_range", "link")),
}
CALLS = (*(call for call in OS_CALLS if call != "execve"), "flock", "fcntl", "openat2", "execve")

#: Before its lifecycle an engine looks for its own files; what is wrong with them is no run's to refuse.
NOT_OF_A_RUN = (("start", "stat"),)

#: Those triggers that are steps.
STEPS = tuple(trigger for trigger in Trigger if trigger not in (Trigger.END, Trigger.REFUSE))

Line = dict[str, Any]

_TRACE = re.compile(r"/traces/(\d+|[^/]+-\d{8}T\d{6}Z-[0-9a-f]{8})\.jsonl( \(deleted\))?$")


# -- a run and what is known of it --------------------------------------------------------------------------------


class Actor:
    """An engine process with its history. `marks` has the world's time at each step it came to."""

    def __init__(self, world: World, engine: Engine, job: Mapping[str, Any]) -> None:
        self.world = world
        self.engine = engine
        self.id: str = job["id"]
        self.is_run = job["what"] == "run"
        self.job = job
        self.started = world.clock
        self.before = world.everything_in_base()
        self.descriptors = engine.descriptors()
        self.bundle = world.bundle_state(self.id) if self.is_run else None
        self.marks: list[tuple[int, str, str]] = []
        self.faults: set[tuple[str, str, int]] = set()
        self.swallowed: set[tuple[str, str, int]] = set()
        self.failed_twice_in_a_step = False
        self.signals: list[str] = []
        self.was_killed = False
        self.has_company = False
        self.is_alone = True
        self.lasting_fault = False
        self.wrote_half = False
        self.restricted: list[str] | None = None
        self.is_confined_in_part = False
        self.executed: bytes | None = None
        self.held: set[Identity] = set()
        self.own: dict[str, Identity] = {}
        self.judged = False
        self._trace: int | None = None

    @property
    def phase(self) -> str:
        return str(self.engine.at["phase"]) if self.engine.at else "over"

    @property
    def is_going(self) -> bool:
        """Whether it is an engine that still has calls to make."""
        return self.engine.at is not None and self.engine.ended is None

    @property
    def waits(self) -> bool:
        """Whether it waits for a lock that another has."""
        return self.engine.at is not None and self.engine.at.get("mark") == WAITS

    @property
    def is_container(self) -> bool:
        return self.engine.became_runsc and self.engine.exit_code is None

    def time_of(self, phase: str, mark: str = "begin") -> int | None:
        """The world's time when it came there; None when it did not."""
        return next((when for when, *where in self.marks if where == [phase, mark]), None)

    @property
    def failed(self) -> bool:
        """Whether a call of it was made to fail."""
        return bool(self.faults) or self.lasting_fault

    def failed_in(self, state: str) -> bool:
        """Whether a call of the step that leaves `state` was made to fail."""
        return state in spec_graph().edges and any(phase == step_of(state) for phase, _, _ in self.faults)

    def owns(self) -> bool:
        """Whether it has its container to itself: from `secure_root` to its end, or to that of what it became."""
        if not self.is_run or self.time_of("stage") is None:
            return False
        return self.is_container or (self.phase in STEPS and self.time_of(CLEAN_UP, "failed") is None)

    def heard(self) -> None:
        """Note what the engine has just asked."""
        at = self.engine.at
        if at is None:
            return
        self.faults = {(phase, call, number) for phase, call, number in at["faults"]}
        needed = Counter(tuple(fault) for fault in at["faults"])
        self.swallowed = {*(needed - Counter(tuple(fault) for fault in at["done_without"]))}
        self.failed_twice_in_a_step = len({phase for phase, _, _ in at["faults"]}) < len(at["faults"])
        if at.get("call") == "execve":
            self.held = self.engine.held()
            self.watch_trace()
        mark = at.get("mark")
        if mark and mark != WAITS:
            if self._trace is None or mark == "last line":
                self.watch_trace()
            self.marks.append((self.world.clock, at["phase"], mark))
            if mark == "restrict":
                self.restricted = at["allowed"]
            self.is_confined_in_part |= mark == "in part"
            if (at["phase"], mark) == ("stage", "begin"):
                for level in HANDED_OVER[1:]:
                    path = self.world.directory(level, self.id)
                    if path is not None and os.path.lexists(path):
                        self.own[level] = identity(path)

    def directories_moved_since(self, when: int) -> bool:
        return bool(self.world.moves_since(when, self.id, (*LEVELS, "copy")))

    def moved_ever(self, *what: str) -> bool:
        """Whether the adversary has been at one of these, before this run or during it."""
        return bool(self.world.moves_since(0, self.id, what))

    @property
    def searches_path(self) -> bool:
        """Whether nothing but PATH leads to its runsc."""
        return self.job["options"]["runsc"] is None and not self.job["trusted_paths"]

    def staged_program(self) -> bytes | None:
        """What the kernel would be given to execute, byte for byte; None while nothing is open for that."""
        for number, name in self.engine.descriptors().items():
            if STAGED_PROGRAM.search(name):
                with open(f"/proc/{self.engine.pid}/fd/{number}", "rb") as program:
                    return program.read()
        return None

    def watch_trace(self) -> None:
        """Hold on to the trace that the engine has open, so that it can be read whatever becomes of its name."""
        for number, name in self.engine.descriptors().items():
            if _TRACE.search(name):
                self.forget_trace()
                self._trace = os.open(f"/proc/{self.engine.pid}/fd/{number}", os.O_RDONLY)
                return

    def forget_trace(self) -> None:
        """Let go of it."""
        if self._trace is not None:
            os.close(self._trace)
            self._trace = None

    def whole_lines(self) -> bytes:
        """Its trace, without a last line that is torn: only where a write was made to fail or fall short may one be."""
        content = b""
        while self._trace is not None and (piece := os.pread(self._trace, 1 << 20, len(content))):
            content += piece
        whole, newline, torn = content.rpartition(b"\n")
        assert not torn or self.failed or self.wrote_half, "the last line of the trace is torn"
        return whole + newline

    def lines(self) -> list[Line]:
        return [json.loads(line) for line in self.whole_lines().splitlines()]

    def check_path(self, *, ended: bool) -> None:
        """Each run's trace is a path of TLC's graph."""
        trace = self.whole_lines()
        if trace or ended:
            found = why_no_path(trace, ended=ended)
            if found is not None:
                code = found.fault.code if found.fault is not None else found.verdict
                raise BrokenError(Promise.TRACE_IS_A_PATH, str(found), {"state": found.state, "code": code})

    def end_of(self, step: str) -> int:
        """The world's time at the next place it came to after it had begun that step, or now."""
        place = next(n for n, (_, *where) in enumerate(self.marks) if where == [step, "begin"])
        return next((when for when, *_ in self.marks[place + 1 :]), self.world.clock)

    def digest_is_hearsay(self, staged: Mapping[str, Any]) -> bool:
        """What a record says that others could have written, and did: the run says that it has not hashed the bytes."""
        return bool(
            self.job["anothers"]
            and staged["compared"]
            and not staged["hashed"]
            and self.moved_ever(STORE, "kept")
        )

    def validated(self) -> list[bytes]:
        """The trusted programs, one of which is what it pinned."""
        began = self.time_of("validate")
        assert began is not None
        return self.world.executable_during(began, self.end_of("validate"))


# -- the machine --------------------------------------------------------------------------------------------------


#: What there is to choose for a run.
CHOICES: dict[str, Any] = {
    "which": st.integers(0, 1),
    "rootless": st.booleans(),
    "required": st.sampled_from((False, False, False, True)),
    "policy": st.sampled_from(POLICIES),
    "kernel": st.sampled_from(KERNELS),
    "settled": st.sampled_from((True, True, True, False)),
    "found_by": st.sampled_from(("option", "option", "option", "trusted path", "PATH")),
    "trace": st.booleans(),
    "to": st.sampled_from((None, *STEPS)),
}


class Runs(RuleBasedStateMachine):
    """What every machine can do: start runs, let them go on for a while, to a step, or to their end."""

    fork_server: ClassVar[ForkServer]
    #: Where the worlds are, and whether it is a small file system of their own: not where this process may not mount.
    worlds: ClassVar[Path]
    can_be_filled: ClassVar[bool]
    tally: ClassVar[Tally]
    sabotage: ClassVar[str | None] = None
    most_actors: ClassVar[int] = 1
    ids: ClassVar[tuple[str, ...]] = ("web",)

    def __init__(self, *, anothers: bool = False) -> None:
        super().__init__()
        #: The binary is another user's, so that whoever owns the store is not to be believed.
        self.anothers = anothers
        self.top = Path(tempfile.mkdtemp(dir=self.worlds))
        self.world = World(self.top / "world")
        for container_id in self.ids:
            self.world.bundle(container_id)
        self.outside = self.world.outside()
        self.actors: list[Actor] = []
        self.number = 0

    # -- rules ----------------------------------------------------------------------------------------------------

    @initialize(anothers=st.sampled_from((False, False, True)), **CHOICES)
    def start_the_first(self, anothers: bool, **chosen: Any) -> None:
        """No example goes without a run."""
        self.anothers = anothers
        self._start_a_run(**chosen)

    @precondition(lambda self: sum(actor.is_going for actor in self.actors) < self.most_actors)
    @rule(**CHOICES)
    def start(self, **chosen: Any) -> None:
        """A run, and how far it goes at first."""
        self._start_a_run(**chosen)

    def _start_a_run(
        self,
        which: int,
        rootless: bool,
        required: bool,
        policy: str,
        kernel: str,
        settled: bool,
        found_by: str,
        trace: bool,
        to: str | None,
    ) -> None:
        self.number += 1
        binary = str(self.world.binary)
        actor = self._start(
            {
                "what": "run",
                "id": self.ids[which % len(self.ids)],
                "bundle": str(self.world.bundle(self.ids[which % len(self.ids)])),
                "options": {
                    "rootless": rootless,
                    "require_exec_policy": required,
                    "exec_policy": policy,
                    "runsc": binary if found_by == "option" else None,
                },
                "trusted_paths": [binary] if found_by == "trusted path" else [],
                "kernel": kernel,
                "settled": settled,
                "anothers": self.anothers,
                "trace": str(self.world.traces / f"{self.number}.jsonl") if trace else None,
            }
        )
        if to is not None:
            self._go_to(actor, to)

    @precondition(lambda self: self._going())
    @rule(which=st.integers(0, 2), calls=st.integers(1, 40))
    def go_on(self, which: int, calls: int) -> None:
        """So many calls further."""
        self._go_on(self._one(which), calls)

    def _go_on(self, actor: Actor, calls: int) -> None:
        while calls > 0 and actor.is_going:
            assert actor.engine.at is not None
            before = actor.engine.at["calls"]
            self._go(actor, calls)
            calls -= actor.engine.at["calls"] - before if actor.engine.at else calls

    @precondition(lambda self: self._going())
    @rule(which=st.integers(0, 2), step=st.sampled_from(STEPS))
    def go_to(self, which: int, step: str) -> None:
        """Up to a step, or to the end if it is past that."""
        self._go_to(self._one(which), step)

    @precondition(lambda self: self._going())
    @rule(which=st.integers(0, 2))
    def finish(self, which: int) -> None:
        """To the end."""
        self._finish(self._one(which))

    # -- how --------------------------------------------------------------------------------------------------------

    def _start(self, job: dict[str, Any]) -> Actor:
        job = {**job, "environment": self.world.environment(), "bait": str(self.world.canary / "precious")}
        job["sabotage"] = self.sabotage
        actor = Actor(self.world, self.fork_server.start(job), job)
        for other in self.actors:
            if other.is_going:
                other.is_alone = actor.is_alone = False
            if (other.is_going or other.is_container) and (
                other.id == actor.id or not (other.is_run and actor.is_run)
            ):
                other.has_company = actor.has_company = True
        self.actors.append(actor)
        actor.lasting_fault = self.world.is_full
        actor.heard()
        return actor

    def _going(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.is_going]

    def _one(self, which: int) -> Actor:
        going = self._going()
        return going[which % len(going)]

    def _go(self, actor: Actor, calls: int, **order: Any) -> None:
        actor.engine.go(calls, **order)
        actor.heard()
        assert self.world.outside() == self.outside, "the engine changed what is not its own"
        self._judge_moment(actor)
        if not actor.is_going and not actor.judged:
            actor.judged = True
            self._judge(actor)

    def _go_to(self, actor: Actor, step: str) -> None:
        while actor.is_going and actor.time_of(step) is None:
            self._go_far(actor)

    def _finish(self, actor: Actor) -> None:
        while actor.is_going:
            self._go_far(actor)

    def _go_far(self, actor: Actor) -> None:
        """To its next place; those for whom it may be waiting come to their end first."""
        self._go(actor, 1_000_000)
        if actor.waits:
            for other in self._going():
                if not other.waits:
                    self._finish(other)

    def _befell(self, what: str) -> None:
        """Note what happened, and to runs in which phase."""
        self.outside = self.world.outside()
        for actor in self._going():
            self.tally.befell[what, actor.phase] += 1

    # -- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def no_two_have_one_container(self) -> None:
        owners = [actor for actor in self.actors if actor.owns()]
        for actor in owners:
            for other in owners:
                if actor is not other and actor.id == other.id:
                    assert actor.directories_moved_since(min(actor.started, other.started)), (
                        f"two runs have the container {actor.id} at once"
                    )

    @invariant()
    def what_would_be_executed_is_what_was_validated(self) -> None:
        for actor in self.actors:
            if actor.is_run and actor.is_going and actor.time_of("apply_policy") is not None:
                program = actor.staged_program()
                hold(
                    Promise.WHAT_WOULD_BE_EXECUTED,
                    program is None or program in actor.validated(),
                    "what would be executed is not what was validated",
                    trigger=Trigger.STAGE,
                )

    @invariant()
    def what_a_container_is_executed_from_stays_as_it_is(self) -> None:
        for actor in self.actors:
            if actor.is_container:
                executed = Path(f"/proc/{actor.engine.pid}/exe").read_bytes()
                assert executed == actor.executed, "a program was changed while it was executed"

    @invariant()
    def the_living_keep_theirs(self) -> None:
        for actor in self.actors:
            secured = actor.time_of("secure_root")
            if secured is None or not actor.owns() or actor.directories_moved_since(secured):
                continue
            for level, was in actor.own.items():
                path = self.world.directory(level, actor.id)
                assert path is not None
                assert identity(path) == was, f"{level} of a live container was taken from it"
                status = path.lstat()
                assert status.st_uid == os.geteuid(), f"{level} of a live container is somebody else's"
                assert stat.S_IMODE(status.st_mode) == 0o700, f"{level} of a live container is not private"
            assert not self._lock_is_free(actor.id), "nobody holds the lock of a live container"
            if actor.is_container:
                stage = self.world.directory("stage", actor.id)
                assert stage is not None, "the copy of a live container was removed"

    def _lock_is_free(self, container_id: str) -> bool:
        container = self.world.directory("container", container_id)
        assert container is not None
        lock = os.open(container / LOCK, os.O_RDONLY | os.O_NONBLOCK)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return True

    def _judge(self, actor: Actor) -> None:
        if actor.engine.became_runsc:
            self._judge_hand_off(actor)
        elif actor.engine.ended is not None:
            self._judge_end(actor, actor.engine.ended)
        else:
            self._judge_death(actor)
        if actor.is_run:
            self.tally.runs += 1
            wanted = actor.job["options"]["exec_policy"] != "off"
            for line in actor.lines()[1:]:
                self._judge_edge(actor, line)
                self.tally.edges.update(taken(line, failed=actor.failed_in(line["state"]), wanted=wanted))

    def _judge_edge(self, actor: Actor, line: Line) -> None:
        """What an edge that was taken promises, held against what lay where at that time."""
        facts, options = line["facts"], actor.job["options"]
        taken = f"{edge(line)} was taken, and"
        if line["trigger"] == Trigger.VALIDATE:
            hold(
                Promise.TRUSTED_PROGRAM,
                actor.validated(),
                "there was no program to be trusted",
                trigger=Trigger.VALIDATE,
            )
        elif line["trigger"] == Trigger.STAGE:
            digests = {sha256(program).hexdigest() for program in actor.validated()}
            hold(
                Promise.COPY_IS_WHAT_WAS_VALIDATED,
                facts["sha256"] in digests or actor.digest_is_hearsay(facts),
                "the digest that was recorded is not of what was validated",
                trigger=Trigger.STAGE,
            )
        elif line["trigger"] == Trigger.APPLY_POLICY:
            assert actor.restricted or not options["require_exec_policy"], f"{taken} nothing is enforced"
            assert not actor.is_confined_in_part, f"{taken} the process is confined in part"
            self._judge_policy(actor, facts["outcome"], taken)
        elif line["trigger"] == Trigger.REFUSE:
            steps = {step_of(line["state"]), "trace"}
            hold(
                Promise.STEP_IS_BLAMED,
                line["error"]["step"] in steps,
                str(line["error"]),
                state=line["state"],
                blamed=line["error"]["step"],
            )
            # A directory may be loosened between its making and the look that is recorded: that, the guard finds.
            assert line["error"]["reason"] not in OUT_OF_PLACE or actor.moved_ever(*LEVELS), (
                f"{edge_of(step_of(line['state']))} is not what the machine permits: {line['error']['what']}"
            )
            why = reason(line, failed=actor.failed_in(line["state"]))
            assert self._is_so(actor, why), f"{edge(line)} ({why}) has no cause: {line['error']}"

    def _judge_policy(self, actor: Actor, outcome: str, taken: str) -> None:
        assert (outcome == "enforced") == (actor.restricted is not None), (
            f"{taken} {outcome} is not what is so"
        )
        wanted = outcome_of_policy(actor.job["options"], actor.job["kernel"])
        disturbed = actor.failed_in("staged") or actor.lasting_fault or actor.moved_ever("bundle")
        excused = disturbed and outcome == "unavailable"
        assert outcome == wanted or excused, f"{taken} {outcome} was to be {wanted}"

    def _is_so(self, actor: Actor, why: str) -> bool:
        """Whether the world, or what was done to the run, is a cause to refuse for the spec's reason `why`."""
        moved = actor.moved_ever
        options = actor.job["options"]
        cause: dict[str, Callable[[], object]] = {
            FAILURE: lambda: (
                actor.signals
                or actor.has_company
                or moved(*LEVELS, STORE, "copy", "kept", "binary", "bundle")
            ),
            # As root a trusted path that leads nowhere any more is told in the same words.
            "path_searched_as_root": lambda: os.geteuid() == 0 and (actor.searches_path or moved("binary")),
            "not_found": lambda: moved("binary"),
            "not_trusted": lambda: moved("binary"),
            "alive": lambda: actor.has_company,
            "root_not_private": lambda: moved(*LEVELS),
            "stage_not_own": lambda: moved(*LEVELS, STORE),
            "not_what_was_pinned": lambda: moved("binary", "copy", *LEVELS),
            "policy_not_enforced": lambda: options["require_exec_policy"] and actor.restricted is None,
            "policy_in_part": lambda: actor.is_confined_in_part,
            "bundle_changed": lambda: moved("bundle"),
            "root_changed": lambda: actor.has_company or moved(*LEVELS),
            "copy_changed": lambda: moved("copy", "kept", STORE, *LEVELS),
        }
        return bool(actor.failed or cause[why]())

    def _judge_given(self, actor: Actor, lines: list[Line], taken: str) -> None:
        """What lies where runsc reads it, unless somebody reached into the container's directories."""
        if actor.directories_moved_since(actor.started):
            return
        argv, said = lines[-1]["facts"]["argv"], lines[-1]["facts"]["config"]
        given = (Path(argv[argv.index("--bundle") + 1]) / "config.json").read_bytes()
        assert sha256(given).hexdigest() == said["sha256"], f"{taken}, and the trace says another config.json"
        assert actor.bundle is not None
        judged = json.loads(actor.bundle[2])
        judged["root"]["path"] = lines[0]["bundle"]["rootfs"]
        assert json.loads(given) == judged, f"{taken} with a config.json that nobody judged"

    def _judge_moment(self, actor: Actor) -> None:
        """What is on the disk when a step has just been taken, unless somebody else was at it meanwhile."""
        place, secured = (actor.engine.at or {}).get("mark"), actor.time_of("secure_root")
        if place != "begin" or secured is None or actor.directories_moved_since(secured):
            return
        if actor.phase == "stage":
            taken = f"{edge_of('secure_root')} was taken"
            self._judge_directories(actor, actor.engine.held(), taken)
            hold(
                Promise.LOCK_IS_HELD,
                not self._lock_is_free(actor.id),
                "nobody holds the lock",
                trigger=Trigger.SECURE_ROOT,
            )
        if actor.phase == "apply_policy":
            taken = f"{edge_of('stage')} was taken"
            stage = self.world.directory("stage", actor.id)
            assert stage is not None, f"{taken}, and there is no copy"
            assert stage.stat().st_uid == os.geteuid(), (
                f"{taken}, and the copy's directory is somebody else's"
            )
            assert stat.S_IMODE(stage.stat().st_mode) == 0o700, f"{taken}, and the copy is not private"
            copy = stage / "runsc"
            assert copy.stat().st_uid == os.geteuid(), f"{taken}, and the copy is somebody else's"
            # The store's owner may loosen the file that it shares with the store after the engine looked.
            if not actor.moved_ever(STORE, "kept"):
                assert stat.S_IMODE(copy.stat().st_mode) == 0o555, f"{taken}, and the copy's mode is loose"
            hold(
                Promise.COPY_IS_WHAT_WAS_VALIDATED,
                copy.read_bytes() in actor.validated(),
                "the copy's bytes are not what was validated",
                trigger=Trigger.STAGE,
            )

    def _judge_death(self, actor: Actor) -> None:
        code = actor.engine.exit_code
        # From the last step on signals are held back by the kernel and act once they are let go.
        signalled = code == -signal.SIGTERM and any(phase in ("exec", CLEAN_UP) for phase in actor.signals)
        assert actor.was_killed or signalled, f"the engine died ({code}) and said nothing"
        if actor.is_run:
            actor.check_path(ended=False)

    def _judge_hand_off(self, actor: Actor) -> None:
        world, pid = self.world, actor.engine.pid
        executed = actor.executed = Path(f"/proc/{pid}/exe").read_bytes()
        lines = actor.lines()
        last = lines[-1].get("trigger")
        hold(
            Promise.EXECUTED_BY_EXEC_ONLY,
            last == Trigger.EXEC,
            f"something was executed after {lines[-1]}",
            trigger=last,
        )
        actor.check_path(ended=True)

        exec_, look = actor.time_of("exec"), actor.time_of("exec", "look")
        assert exec_ is not None
        assert look is not None, f"{edge(lines[-1])} was taken without a last look"
        taken = f"{edge(lines[-1])} was taken"
        hold(
            Promise.WHAT_WAS_EXECUTED,
            executed in actor.validated(),
            "what was executed is not what was validated",
            trigger=Trigger.EXEC,
        )
        staged = lines[4]["facts"]
        assert staged["sha256"] == sha256(executed).hexdigest() or actor.digest_is_hearsay(staged)

        # No check can close the gap behind the last look: what moved then is not the engine's fault.
        if not actor.directories_moved_since(look):
            self._judge_directories(actor, actor.held, taken)
        if not world.moves_since(exec_, actor.id, ("bundle",)):
            assert actor.bundle is not None
            assert world.bundle_state(actor.id)[:2] == actor.bundle[:2], (
                f"{taken} with a root file system that nobody validated"
            )
        self._judge_given(actor, lines, taken)

        assert not actor.job["options"]["require_exec_policy"] or actor.restricted is not None

        early = [phase for phase in actor.signals if phase not in ("exec", CLEAN_UP)]
        assert not early, f"{taken}, and a signal in {early} was forgotten"
        # A directory or lock that is gone when it is looked for is made anew: gc may have been at it.
        made_anew = (
            ("secure_root", "open"),
            ("secure_root", "stat"),
            ("secure_root", "mkfifo"),
            ("stage", "open"),
        )
        swallowed = [
            fault for fault in actor.swallowed if fault[2] != errno.ENOENT or fault[:2] not in made_anew
        ]
        hold(
            Promise.NO_FAILURE_IS_FORGOTTEN,
            not swallowed,
            f"it was handed off, though these had failed: {swallowed}",
            trigger=Trigger.EXEC,
            calls={call for _, call, _ in swallowed},
        )
        self._judge_process(actor, lines[-1]["facts"])

    def _judge_directories(self, actor: Actor, held: set[Identity], taken: str) -> None:
        for level in HANDED_OVER:
            path = self.world.directory(level, actor.id)
            assert path is not None
            status = path.lstat()
            assert stat.S_ISDIR(status.st_mode), f"{taken}, and {level} is no directory"
            assert status.st_uid == os.geteuid(), f"{taken}, and {level} is somebody else's"
            if level == "above":
                assert not status.st_mode & 0o022, f"{taken}, and others can rewrite what is above the base"
                continue
            assert stat.S_IMODE(status.st_mode) == 0o700, f"{taken}, and {level} is not private"
            assert identity(path) in held, f"{taken}, and {level} is not what was secured"

    def _judge_process(self, actor: Actor, given: Mapping[str, Any]) -> None:
        """The process that runsc found itself in: its arguments, environment, descriptors and signals."""
        process = Path(f"/proc/{actor.engine.pid}")
        assert process.joinpath("cmdline").read_bytes().split(b"\0")[:-1] == [
            word.encode() for word in given["argv"]
        ]
        environment = dict(
            entry.split("=", 1) for entry in process.joinpath("environ").read_text().split("\0") if entry
        )
        assert environment == given["environment"]
        open_in_it = actor.engine.descriptors()
        assert len(open_in_it) == 4, f"runsc was given {open_in_it}"
        [lock] = set(open_in_it) - {0, 1, 2}
        assert open_in_it[lock].endswith(f"/{LOCK}")
        status = dict(line.split(":\t", 1) for line in process.joinpath("status").read_text().splitlines())
        assert int(status["SigBlk"], 16) == 0, "runsc was given blocked signals"
        ignored = int(status["SigIgn"], 16)
        assert ignored == self.fork_server.ignored, (
            "runsc was given other ignored signals than its caller had"
        )

    def _judge_end(self, actor: Actor, ended: Mapping[str, Any]) -> None:
        assert "raised" not in ended, f"no refusal but {ended.get('raised')}:\n{ended.get('traceback')}"
        leaked = [
            name for number, name in actor.engine.descriptors().items() if number not in actor.descriptors
        ]
        assert not leaked, f"left open after a refusal: {leaked}"
        if actor.is_run:
            self._judge_record(actor, ended)
            self._judge_leftovers(actor)
            self._judge_reason(actor, ended)

    def _judge_record(self, actor: Actor, ended: Mapping[str, Any]) -> None:
        """Every refusal is in a trace that ends with it, or it is said that there is none."""
        unsafe = actor.directories_moved_since(0) or actor.has_company
        lines = actor.lines()
        if any(said.startswith(NO_TRACE) for said in ended["said"]):
            assert actor.failed or (unsafe and not actor.job["trace"]), "a trace was given up without need"
            actor.check_path(ended=False)
            return
        if not lines:
            gone = unsafe and not actor.job["trace"]
            assert gone or ended["refused"] == "trace", "the run was refused and no trace of it was kept"
            return
        actor.check_path(ended=True)
        assert lines[-1]["trigger"] == Trigger.REFUSE
        assert lines[-1]["error"]["step"] == ended["refused"]
        assert lines[-1]["error"]["reason"] == ended["why"]

    def _judge_leftovers(self, actor: Actor) -> None:
        """Nothing but the trace and the base stays, unless somebody else was at it or its removal failed."""
        # In a clean-up; or one told that what it had just made was not there, and so not its own to remove.
        in_clean_up = any(phase not in STEPS or number == errno.ENOENT for phase, _, number in actor.faults)
        if (
            actor.has_company
            or in_clean_up
            or actor.failed_twice_in_a_step  # the second time while it took back what it had made
            or actor.lasting_fault
            or actor.directories_moved_since(actor.started)
        ):
            return
        container = f"base/{component(actor.id)}"
        allowed: set[str] = set()
        if container in actor.before:
            allowed |= {container, f"{container}/{LOCK}"}
        left = self.world.everything_in_base() - actor.before - allowed
        # A lock that could not be taken may be another's by now, so it is nobody's to remove.
        locking = {("secure_root", call) for call in ("open", "flock", "fstat", "stat")}
        if any((phase, call) in locking for phase, call, _ in actor.faults) and f"{container}/{LOCK}" in left:
            allowed |= {container, f"{container}/{LOCK}"}
            left -= allowed
        mine = [container]
        if actor.is_alone and not actor.failed and not actor.moved_ever(STORE, "kept"):
            mine.append(f"base/{STORE}")
        left = {path for path in left if path.startswith(tuple(mine)) and not _TRACE.search(path)}
        hold(
            Promise.NOTHING_IS_LEFT,
            not left,
            f"left behind by a refused run: {sorted(left)}",
            a_copy=any(STAGED_PROGRAM.search(path) for path in left),
        )

    def _judge_reason(self, actor: Actor, ended: Mapping[str, Any]) -> None:
        """Refusing everything would be safe, too: where nobody did anything, what the options allow is done."""
        options = actor.job["options"]
        outcome = outcome_of_policy(options, actor.job["kernel"])
        permitted = outcome == "enforced" or (outcome is not None and not options["require_exec_policy"])
        permissible = permitted and not (actor.searches_path and os.geteuid() == 0)
        troubled = self.world.moves or actor.failed or actor.signals or actor.has_company
        hold(
            Promise.GOOD_RUN_STARTS,
            troubled or not permissible,
            str(ended),
            step=ended["refused"],
            reason=ended["why"],
        )

    # -- the end ------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:  # else that is what is to be told
                self._come_to_an_end()
                self.tally.examples += 1
        finally:
            for actor in self.actors:
                actor.forget_trace()
                if actor.engine.exit_code is None:
                    actor.engine.signal(signal.SIGKILL)
            shutil.rmtree(self.top)

    def _come_to_an_end(self) -> None:
        for actor in self._going():
            self._finish(actor)
        for actor in self.actors:
            if actor.is_container:
                self._end(actor)
        self._collect_all()

    def _end(self, actor: Actor) -> None:
        actor.engine.dismiss()
        assert actor.engine.exit_code == 0
        self.world.note("ended", actor.id)
        if not actor.directories_moved_since(0) and not any(
            other.owns() and other.id == actor.id for other in self.actors
        ):
            assert self._lock_is_free(actor.id), "the lock of a container that is over is held"

    def _collect_all(self) -> None:
        """With nobody left, gc removes everything but traces; what others put there it names."""
        gc = self._start({"what": "gc", "id": "gc"})
        gc.has_company = False
        self._finish(gc)
        ended = gc.engine.ended
        assert ended is not None
        moved = any(move.what in (*LEVELS, STORE, "copy", "kept") for move in self.world.moves)
        if "refused" in ended:
            assert moved, f"gc refused the base: {ended['why']}"
            return
        assert ended["alive"] == []
        if not moved:
            left = {path for path in self.world.everything_in_base() if not _TRACE.search(path)}
            assert left <= {"base", f"base/{TRACES}", f"base/{TRACES}/{CHAIN}"}, (
                "gc left something of runs that are over"
            )
        elif self.world.base.is_dir():
            named = {*ended["foreign"], *(path for path, _ in ended["failed"])}
            left = {str(path) for path in self.world.base.iterdir() if path.name != TRACES}
            if self.world.is_store_in_use():  # by what was moved away
                left -= {str(self.world.base / STORE)}
            assert left <= named, f"gc left {sorted(left - named)} and did not say so"


class Adversary(Runs):
    """Swaps, loosens, removes and plants, at any moment."""

    @rule(kind=st.sampled_from(BINARY_MOVES))
    def swap_binary(self, kind: str) -> None:
        if self.world.swap_binary(kind):
            self._befell("binary")

    @rule(
        level=st.sampled_from((*LEVELS, *HANDED_OVER)),
        kind=st.sampled_from(DIRECTORY_MOVES),
        which=st.integers(0, 1),
    )
    def move_directory(self, level: str, kind: str, which: int) -> None:
        if self.world.move_directory(level, kind, self.ids[which % len(self.ids)]):
            self._befell("directory")

    @rule(kind=st.sampled_from(DIRECTORY_MOVES))
    def move_store(self, kind: str) -> None:
        if self.world.move_directory(STORE, kind, self.ids[0]):
            self._befell("store")

    @rule(kind=st.sampled_from((*KEPT_MOVES, *RECORD_MOVES, *FORGERIES)))
    def spoil_kept(self, kind: str) -> None:
        if (self.anothers or kind not in FORGERIES) and self.world.spoil_kept(kind):
            self._befell("kept copy")

    @rule(which=st.integers(0, 1))
    def replace_copy(self, which: int) -> None:
        if self.world.replace_copy(self.ids[which % len(self.ids)]):
            self._befell("copy")

    @rule(kind=st.sampled_from(BUNDLE_MOVES), which=st.integers(0, 1))
    def change_bundle(self, kind: str, which: int) -> None:
        self.world.change_bundle(self.ids[which % len(self.ids)], kind)
        self._befell("bundle")


class Failures(Runs):
    """Calls that fail once or from now on, writes that fall short, signals, and the end without a word."""

    @precondition(lambda self: self._going())
    @rule(
        which=st.integers(0, 2),
        name=st.sampled_from(CALLS),
        number=st.sampled_from(ERRORS),
        skip=st.integers(0, 6),
    )
    def fail(self, which: int, name: str, number: int, skip: int) -> None:
        """The next call of that name but `skip` fails."""
        actor = self._one(which)
        if number == errno.ENOENT and name not in _LOOK_UPS:
            number = errno.EIO
        if self._go_to_call(actor, name, skip):
            self._fail(actor, number)

    @precondition(lambda self: self._going())
    @rule(which=st.integers(0, 2), calls=st.sampled_from(SOON), number=st.sampled_from(ERRORS))
    def fail_soon(self, which: int, calls: int, number: int) -> None:
        """So many calls further, whichever call that is fails."""
        actor = self._one(which)
        self._go_on(actor, calls)
        if not actor.is_going or actor.engine.at is None or "call" not in actor.engine.at:
            return
        name = actor.engine.at["call"]
        if (actor.phase, name) not in NOT_OF_A_RUN:
            self._fail(actor, errno.EIO if number == errno.ENOENT and name not in _LOOK_UPS else number)

    def _fail(self, actor: Actor, number: int) -> None:
        self._befell(errno.errorcode[number])
        self._go(actor, 1, fail=number)

    @precondition(lambda self: self._going())
    @rule(which=st.integers(0, 2), how=st.sampled_from(sorted(LASTING)))
    def break_down(self, which: int, how: str) -> None:
        """From here on all calls of a kind fail."""
        actor = self._one(which)
        if actor.engine.at is None or "call" not in actor.engine.at:
            self._go(actor, 1)
        if actor.engine.at is None or "call" not in actor.engine.at:
            return
        number, names = LASTING[how]
        actor.lasting_fault = True
        self._befell(how)
        self._go(actor, 1, fail_from_now=dict.fromkeys(names, number))

    @precondition(lambda self: self.can_be_filled)
    @rule(pages=st.integers(0, 5))
    def fill_disk(self, pages: int) -> None:
        """From here on there is room for so many pages; the copy of runsc takes three."""
        self.world.fill_disk(pages)
        for actor in self._going():
            actor.lasting_fault = True
        self._befell("full disk (really)")

    @precondition(lambda self: self.world.is_full)
    @rule()
    def free_disk(self) -> None:
        self.world.free_disk()

    @precondition(lambda self: self._going())
    @rule(which=st.integers(0, 2), skip=st.integers(0, 6))
    def write_half(self, which: int, skip: int) -> None:
        """A write takes only half of what it was given, which is no failure."""
        actor = self._one(which)
        if self._go_to_call(actor, "write", skip):
            actor.wrote_half = True
            self._befell("short write")
            self._go(actor, 1, short=True)

    @precondition(lambda self: self._going())
    @rule(which=st.integers(0, 2))
    def terminate(self, which: int) -> None:
        """SIGTERM, which is a refusal until the last step has begun."""
        actor = self._one(which)
        if not actor.is_run or actor.time_of("resolve") is None:
            return
        last = actor.time_of("exec") is not None
        actor.signals.append("exec" if last else actor.phase)
        self._befell("signal")
        actor.engine.signal(signal.SIGTERM)
        self._go(actor, 1)

    @precondition(lambda self: self._going())
    @rule(which=st.integers(0, 2))
    def kill(self, which: int) -> None:
        self._befell("kill")
        actor = self._one(which)
        actor.was_killed = actor.judged = True
        actor.watch_trace()
        actor.engine.signal(signal.SIGKILL)
        self._judge(actor)

    def _go_to_call(self, actor: Actor, name: str, skip: int) -> bool:
        """Let it go on to before a call of that name; False when it comes to its end, or makes none for long."""
        for _ in range(40):
            if not actor.is_going or actor.engine.at is None:
                return False
            if actor.engine.at.get("call") == name and (actor.phase, name) not in NOT_OF_A_RUN:
                if skip == 0:
                    return True
                skip -= 1
            self._go(actor, 60, until=name)
        return False


class Company(Runs):
    """Several runs, of one container or two, gc at any moment, and containers that end."""

    most_actors = 3
    ids = ("web", "db")

    @precondition(lambda self: len(self._going()) < self.most_actors)
    @rule(calls=st.integers(0, 30))
    def start_gc(self, calls: int) -> None:
        actor = self._start({"what": "gc", "id": "gc"})
        self._befell("gc")
        if calls:
            self._go(actor, calls)

    @precondition(lambda self: any(actor.is_container for actor in self.actors))
    @rule(which=st.integers(0, 2))
    def end_container(self, which: int) -> None:
        containers = [actor for actor in self.actors if actor.is_container]
        self._end(containers[which % len(containers)])
        self._befell("end of a container")


class Everything(Adversary, Failures, Company):
    """All of it at once."""


MACHINES = {Adversary: 30, Failures: 25, Company: 15, Everything: 30}


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> Iterator[None]:
    """The process that all engines of this module are forked from."""
    Runs.fork_server = ForkServer()
    yield
    Runs.fork_server.close()


@pytest.fixture(scope="module", autouse=True)
def disk() -> Iterator[None]:
    """A small tmpfs for the worlds, which can be filled; without the right to mount they lie in /tmp.

    It is always as deep: the calls of a walk count, and the same examples are to be met again however pytest is run.
    """
    where = tempfile.mkdtemp(prefix="engine-worlds-")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "worlds", where], check=False, capture_output=True
    )
    Runs.worlds, Runs.can_be_filled = Path(where), made.returncode == 0
    yield
    if Runs.can_be_filled:
        subprocess.run(["umount", where], check=True)
    shutil.rmtree(where)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.__name__.lower())
def test_only_what_was_validated_runs_and_failures_are_recorded(
    machine: type[Runs], record_property: Callable[[str, object], None]
) -> None:
    machine.tally = Tally(machine.__name__, len(MACHINES))
    wanted = drive(machine, MACHINES[machine])
    assert machine.tally.examples >= wanted, f"Hypothesis ran {machine.tally.examples} of {wanted} examples"
    if not machine.can_be_filled and issubclass(machine, Failures):
        machine.tally.left_out = "filling a tmpfs, which takes the right to mount one"
    record_property(PROPERTY, machine.tally.to_json())


def drive(machine: type[Runs], percent: int, phases: Sequence[Phase] = (Phase.generate, Phase.shrink)) -> int:
    """Run so many of the examples, and say how many: the same ones each time, others with the profile `deep`."""
    deep = settings.get_current_profile_name() == DEEP
    wanted = (settings.get_profile(DEEP).max_examples if deep else EXAMPLES) * percent // 100
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=wanted,
            derandomize=not deep,
            database=None,
            deadline=None,
            stateful_step_count=12,
            suppress_health_check=[
                HealthCheck.too_slow
            ],  # what is counted is examples, and time is no verdict
            print_blob=True,
            report_multiple_bugs=False,
            phases=phases,
        ),
    )
    return wanted


# -- every call, one after the other ------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "which": 0,
    "rootless": True,
    "required": False,
    "policy": "auto",
    "kernel": "can",
    "settled": True,
    "found_by": "option",
    "trace": False,
    "to": None,
}


@pytest.fixture
def runs(request: pytest.FixtureRequest) -> Iterator[Everything]:
    """A world and its rules, to be called one by one."""
    Everything.tally = Tally(request.node.name)
    runs = Everything()
    yield runs
    runs.teardown()


def to_call(runs: Runs, nth: int, **chosen: Any) -> Actor | None:
    """A new run, before the `nth` call that it makes; None if it makes fewer."""
    runs._start_a_run(**{**GOOD, **chosen})
    actor = runs.actors[-1]
    while actor.is_going and actor.engine.at is not None:
        if "call" in actor.engine.at and actor.engine.at["calls"] >= nth:
            return actor
        runs._go(actor, nth - actor.engine.at["calls"])
    assert actor.is_container, "a run that nobody touched was not handed off"
    return None


def forget(runs: Runs, actor: Actor) -> None:
    """Be done with a run that is over."""
    if actor.is_container:
        runs._end(actor)
    elif actor.engine.ended is not None:
        actor.engine.dismiss()
    actor.forget_trace()
    runs.actors.remove(actor)
    for trace in runs.world.base.glob("traces/*.jsonl"):
        trace.unlink()


def nothing_is_there(runs: Runs) -> dict[str, Any]:
    """No run was here before, so the run makes all of it; and its trace is elsewhere, so nothing of it may stay."""
    shutil.rmtree(runs.world.base, ignore_errors=True)
    return {"trace": True, "rootless": False, "found_by": "trusted path"}


def a_container_has_ended(runs: Runs) -> dict[str, Any]:
    """What an earlier run left is there to be removed, and the copy that it kept to be linked."""
    runs._start_a_run(**GOOD)
    runs._finish(runs.actors[-1])
    forget(runs, runs.actors[-1])
    return {}


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EINTR], ids=errno.errorcode.get)
@pytest.mark.parametrize("before", [nothing_is_there, a_container_has_ended])
def test_whichever_call_fails_the_run_is_refused(
    runs: Everything,
    before: Callable[[Runs], dict[str, Any]],
    number: int,
    record_property: Callable[[str, object], None],
) -> None:
    failed: set[tuple[str, str]] = set()
    for nth in itertools.count(1):
        actor = to_call(runs, nth, **before(runs))
        if actor is None:
            break
        assert actor.engine.at is not None
        call = actor.phase, str(actor.engine.at["call"])
        if call in NOT_OF_A_RUN:
            actor.engine.signal(signal.SIGKILL)
            forget(runs, actor)
            continue
        runs._go(actor, 1, fail=number)
        can_do_without = not actor.swallowed
        runs._finish(actor)
        hold_all(runs)
        if not (can_do_without and actor.is_container):
            assert actor.engine.ended is not None, f"the run went on after its call {nth}, {call}, had failed"
            assert "refused" in actor.engine.ended
        failed.add(call)
        forget(runs, actor)
    # Of these, apply_policy makes none but the kernel's own for a policy.
    assert {phase for phase, _ in failed} >= {*STEPS} - {Trigger.APPLY_POLICY}
    record_property(PROPERTY, runs.tally.to_json())


def two_versions_are_kept(runs: Runs) -> None:
    """A run of the binary as it was kept a copy, and one as it is now keeps another."""
    a_container_has_ended(runs)
    runs.world.swap_binary("rewrite")
    runs._befell("binary")
    a_container_has_ended(runs)


def hold_all(runs: Runs) -> None:
    """What must hold after each rule."""
    runs.what_would_be_executed_is_what_was_validated()
    runs.what_a_container_is_executed_from_stays_as_it_is()
    runs.the_living_keep_theirs()


#: The kept copy of a binary that is another user's.
KEPT_OF_ANOTHERS = "kept of another's"


def between_two_steps(machine: type[Runs], what: str) -> None:
    """Each of the adversary's moves on `what`, before each step of a run, and after it another run."""
    kinds = {
        "binary": BINARY_MOVES,
        "bundle": BUNDLE_MOVES,
        "kept": (*KEPT_MOVES, *RECORD_MOVES),
        KEPT_OF_ANOTHERS: (*KEPT_MOVES, *RECORD_MOVES, *FORGERIES),
    }.get(what, DIRECTORY_MOVES)
    anothers = what == KEPT_OF_ANOTHERS
    what = "kept" if anothers else what
    for kind, step in itertools.product(kinds, STEPS):
        runs = machine(anothers=anothers)
        try:
            if what in ("kept", STORE):
                two_versions_are_kept(runs)
            runs._start_a_run(**{**GOOD, "trace": True, "to": step})
            if what == "binary":
                runs.world.swap_binary(kind)
            elif what == "bundle":
                runs.world.change_bundle(runs.ids[0], kind)
            elif what == "kept":
                assert runs.world.spoil_kept(kind), "no copy is kept"
            else:
                runs.world.move_directory(what, kind, runs.ids[0])
            runs._befell("directory" if what in LEVELS else what)
            runs._finish(runs.actors[-1])
            hold_all(runs)
            if what in ("kept", STORE):
                forget(runs, runs.actors[-1])
                runs._start_a_run(**{**GOOD, "trace": True})
                runs._finish(runs.actors[-1])
                hold_all(runs)
                assert what == STORE or runs.actors[-1].is_container, (
                    f"no run starts after {kind} of the kept copy: {runs.actors[-1].engine.ended}"
                )
        finally:
            runs.teardown()


@pytest.mark.parametrize("what", ["binary", "bundle", *LEVELS, STORE, "kept", KEPT_OF_ANOTHERS])
def test_whatever_is_done_between_two_steps_no_promise_is_broken(
    what: str, record_property: Callable[[str, object], None]
) -> None:
    Adversary.tally = Tally(f"between two steps: {what}")
    between_two_steps(Adversary, what)
    record_property(PROPERTY, Adversary.tally.to_json())


@pytest.mark.parametrize("before", [nothing_is_there, a_container_has_ended])
def test_wherever_it_is_killed_the_next_run_starts_clean(
    runs: Everything, before: Callable[[Runs], dict[str, Any]]
) -> None:
    for nth in itertools.count(1):
        actor = to_call(runs, nth, **before(runs))
        if actor is None:
            break
        actor.was_killed = actor.judged = True
        actor.watch_trace()
        actor.engine.signal(signal.SIGKILL)
        runs._judge(actor)
        forget(runs, actor)
        runs._start_a_run(**GOOD)
        following = runs.actors[-1]
        runs._finish(following)
        assert following.is_container, f"after one was killed at its call {nth}: {following.engine.ended}"
        runs.the_living_keep_theirs()
        forget(runs, following)


def test_wherever_a_gc_stands_a_run_beside_it_is_handed_off(runs: Everything) -> None:
    waited = False
    for nth in itertools.count(1):
        a_container_has_ended(runs)
        gc = runs._start({"what": "gc", "id": "gc"})
        runs._go_on(gc, nth)
        if not gc.is_going:
            break
        runs._start_a_run(**GOOD)
        run = runs.actors[-1]
        while run.is_going and not run.waits:
            runs._go(run, 1_000_000)
        waited |= run.waits
        runs._finish(run)
        runs._finish(gc)
        assert run.is_container, f"refused beside a gc before its call {nth}: {run.engine.ended}"
        forget(runs, run)
        forget(runs, gc)
    assert waited, "gc held nothing that a run waits for"


def test_no_call_of_the_steps_goes_without_a_stop() -> None:
    package = Path(engine.__file__).parent
    state = [
        package / "state" / f"{name}.py"
        for name in ("base", "cgroups", "container", "cleanup", "gc", "store")
    ]
    others = ("bundle/bundle.py", "traces/writer.py", "runsc/binary.py", "runsc/execute.py")
    steps = [*state, *map(package.joinpath, others)]
    for path in (
        *steps,
        *package.joinpath("lifecycle").glob("*.py"),
        *package.joinpath("linux").glob("*.py"),
    ):
        called = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
            if inspect.isroutine(getattr(os, node.attr)) and inspect.isbuiltin(getattr(os, node.attr))
        }
        assert called <= {*OS_CALLS, *NOT_STOPPED_AT}, path


# -- what would be noticed ----------------------------------------------------------------------------------------

#: What is recorded of a copy, and what lies there, is judged by one name; either may be found first.
_ANOTHER_COPY = broken(Promise.COPY_IS_WHAT_WAS_VALIDATED, trigger=Trigger.STAGE)

#: By sabotage: who notices (a machine, or what the adversary moves between two steps), and which promise is broken:
#: one of these, with the step or the state that is to be named.
NOTICED: dict[str, tuple[type[Runs] | str, tuple[Mapping[str, object], ...]]] = {
    "stage_is_triggered_before_validate": (
        Runs,
        (broken(Promise.GOOD_RUN_STARTS, step=Trigger.STAGE, reason=Reason.NOT_IN_SPEC),),
    ),
    "validation_is_moved_after_staging": (
        Adversary,
        (
            broken(Promise.TRUSTED_PROGRAM, trigger=Trigger.VALIDATE),
            broken(Promise.TRACE_IS_A_PATH, state=State.ROOT_SECURED, code=FaultCode.REASON_OF_ANOTHER_STATE),
        ),
    ),
    "stage_reopens_the_pinned_binary_by_its_path": ("binary", (_ANOTHER_COPY,)),
    "a_refused_run_is_handed_off_all_the_same": (
        Failures,
        (broken(Promise.EXECUTED_BY_EXEC_ONLY, trigger=Trigger.REFUSE),),
    ),
    "a_trace_that_cannot_be_written_is_passed_over": (
        Failures,
        (
            broken(Promise.EXECUTED_BY_EXEC_ONLY),
            broken(Promise.TRACE_IS_A_PATH, code=Verdict.INCOMPLETE),
            broken(Promise.NO_FAILURE_IS_FORGOTTEN, trigger=Trigger.EXEC, calls={"write"}),
        ),
    ),
    "the_lock_is_not_kept": (Runs, (broken(Promise.LOCK_IS_HELD, trigger=Trigger.SECURE_ROOT),)),
    "a_kept_copy_is_linked_unread": ("kept", (_ANOTHER_COPY,)),
    "a_record_of_anothers_is_believed": (KEPT_OF_ANOTHERS, (_ANOTHER_COPY,)),
    "a_kept_copy_is_not_held": (
        "kept",
        (
            broken(Promise.WHAT_WOULD_BE_EXECUTED, trigger=Trigger.STAGE),
            broken(Promise.WHAT_WAS_EXECUTED, trigger=Trigger.EXEC),
        ),
    ),
    "a_refusal_leaves_the_copy": (Failures, (broken(Promise.NOTHING_IS_LEFT, a_copy=True),)),
    "a_refusal_blames_another_step": (
        Runs,
        (
            broken(Promise.STEP_IS_BLAMED, state=State.STAGED, blamed=Trigger.STAGE),
            broken(Promise.TRACE_IS_A_PATH, state=State.STAGED, code=FaultCode.STEP_OF_ANOTHER_STATE),
        ),
    ),
}


@pytest.mark.parametrize("sabotage", SABOTAGES)
def test_a_spoiled_engine_is_noticed_and_the_step_is_named(sabotage: str) -> None:
    noticed_by, signs = NOTICED[sabotage]
    machine = Adversary if isinstance(noticed_by, str) else noticed_by
    spoiled = type("Spoiled", (machine,), {"sabotage": sabotage, "tally": Tally("Spoiled")})
    play: Callable[[], object]
    if isinstance(noticed_by, str):
        play = partial(between_two_steps, spoiled, noticed_by)
    else:
        play = partial(drive, spoiled, 50, phases=[Phase.generate])
    with pytest.raises(BrokenError) as noticed:
        play()
    assert any(noticed.value.is_told_by(sign) for sign in signs), noticed.value
