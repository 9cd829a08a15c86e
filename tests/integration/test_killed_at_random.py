"""Nothing stays: commands are killed at random moments, and then `engine gc` leaves no trace of their containers.

ENGINE_TEST_CHURN says how many are killed, and ENGINE_TEST_SEED when: a failure names both. The notable thing: the
directories in which a program could leave something have nothing else in them, and what outlives its parent becomes
this process's child. So all that stays is found, whatever it is called.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.oci_runtime import Oci
from tests.support.harness import Engine, listing, wait_for

#: How many commands of each kind are killed.
KILLS = int(os.environ.get("ENGINE_TEST_CHURN", "12"))
SEED = int(os.environ.get("ENGINE_TEST_SEED") or random.SystemRandom().randrange(10**6))
FOREVER = "echo ready; while :; do sleep 1000; done"
#: Where programs leave what no directory of their own is for; the one that this suite lies in is not watched.
PLACES = ("/dev/shm", "/run", "/tmp", "/var/tmp")
#: Seconds in which a command that lost one of its processes ends, or is killed as well.
END_TIMEOUT = 3.0
_SUBREAPER = 36  # prctl(2)

#: By verb: its arguments, `{}` for the id, and the status of the container that it is given.
VERBS = {
    "create": ("create --bundle={bundle} {}", None),
    "run": ("run --bundle={bundle} {}", None),
    "start": ("start {}", "created"),
    "kill": ("kill {} KILL", "running"),
    "kill created": ("kill {} KILL", "created"),
    "delete": ("delete {}", "created"),
    "delete --force": ("delete --force {}", "running"),
    "delete stopped": ("delete {}", "stopped"),
    "pause": ("pause {}", "running"),
    "resume": ("resume {}", "paused"),
    "exec": ("exec {} /bin/sleep 1", "running"),
    "state": ("state {}", "running"),
    "list": ("list", "running"),
    "ps": ("ps {}", "running"),
    "events": ("events --stats {}", "running"),
    "checkpoint": ("checkpoint --image-path={image} {}", "running"),
    "create again": ("create --bundle={bundle} {}", "killed"),
    "gc": ("", "killed"),
}
#: runsc has no create with --rootless, so a container of it begins with run, which has the lock: no pause or resume.
ROOTLESS = ("run", "kill", "delete --force", "exec", "state", "list", "ps", "events", "gc")


@pytest.fixture(scope="module", autouse=True)
def subreaper() -> Iterator[None]:
    libc = ctypes.CDLL(None)
    libc.prctl(_SUBREAPER, 1, 0, 0, 0)
    yield
    libc.prctl(_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture(scope="module", autouse=True)
def own_places(arena: Path) -> Iterator[tuple[str, ...]]:
    """The places, with nothing in them but the arena, in this process's mount namespace."""
    if os.geteuid() != 0:
        yield ()
        return
    held = os.open(arena, os.O_PATH)
    shown, places = [], [place for place in PLACES if not __file__.startswith(f"{place}/")]
    for place in places:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", place], check=True)
        shown.append(place)
        if str(arena).startswith(f"{place}/"):
            arena.mkdir()
            subprocess.run(["mount", "-c", "--bind", f"/proc/{os.getpid()}/fd/{held}", arena], check=True)
            shown.append(str(arena))
    yield tuple(places)
    for path in reversed(shown):
        subprocess.run(["umount", path], check=True)
    os.close(held)


@dataclass
class Machine:
    """What there is on the machine that a command of this engine could have left."""

    engine: Engine
    places: tuple[str, ...]
    arena: Path

    def there(self) -> set[str]:
        return {
            *self._cgroups(),
            *Path("/proc/self/mountinfo").read_text().splitlines(),
            *self._processes(),
            *self._files(),
        }

    def _cgroups(self) -> Iterator[str]:
        for path, _, _ in os.walk("/sys/fs/cgroup"):
            if any(each in path for each in self.engine.ids):
                yield f"cgroup {path}"

    def processes(self) -> set[str]:
        return set(self._processes())

    def _processes(self) -> Iterator[str]:
        for pid in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                if words[0] not in "ZX":
                    said = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                    yield f"process {pid} {said}"

    def _files(self) -> Iterator[str]:
        for line in listing(self.engine.directory):
            path = line.split(" ", 1)[0]
            if not path.startswith(f"{self.engine.base}/traces"):  # which gc keeps: they are evidence
                yield path
        for place in self.places:
            for directory, names, files in os.walk(place):
                names[:] = [name for name in names if Path(directory, name) != self.arena]
                yield from (str(Path(directory, name)) for name in (*names, *files))


def descendants(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


class Killer:
    """Starts commands, and kills them or what they have started, each at another moment."""

    def __init__(self, engine: Engine, machine: Machine) -> None:
        self.engine = engine
        self.machine = machine
        self.moments = random.Random(SEED)
        self.before: set[str] = set()

    def kill(self, process: subprocess.Popen[bytes], longest: float) -> None:
        """Kill the command, or one time in four another process of it, within the `longest` time that it takes."""
        time.sleep(self.moments.uniform(0, longest))
        others = descendants(process.pid)
        victim = self.moments.choice(others) if others and self.moments.random() < 0.25 else process.pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        try:
            process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def is_clean(self, number: int, what: str) -> None:
        """gc, and then there is what was there before. What lives when gc looks must end by itself."""
        collected = self.engine.call("gc")
        if b"alive" in collected.stdout:
            with contextlib.suppress(TimeoutError):
                wait_for("the end of what lives", lambda: not self.machine.processes() - self.before)
            collected = self.engine.call("gc")
        assert (collected.code, collected.stderr) == (0, ""), (SEED, number, what, collected)
        left: set[str] = set()

        def same() -> bool:
            left.clear()
            left.update(self.machine.there() ^ self.before)
            return not left

        with contextlib.suppress(TimeoutError):
            wait_for("what was there before", same)
        assert left == set(), f"ENGINE_TEST_SEED={SEED} kill {number} of {what}: {sorted(left)}"


@pytest.fixture
def killer(engine: Engine, own_places: tuple[str, ...], arena: Path) -> Killer:
    print(f"ENGINE_TEST_SEED={SEED}")
    return Killer(engine, Machine(engine, own_places, arena))


def changes(path: str | None) -> dict[str, object]:
    namespaces = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]
    return {"linux": {"namespaces": namespaces, **({"cgroupsPath": path} if path else {})}}


def test_killed_run_leaves_nothing(killer: Killer) -> None:
    engine = killer.engine
    long, short = engine.shell(FOREVER, name="long"), engine.shell("echo ready", name="short")
    start = time.monotonic()
    assert engine.run(short, "--id", engine.new_id()).code == 0
    whole = time.monotonic() - start
    engine.call("gc")
    killer.before = killer.machine.there()
    last = engine.new_id()
    for number in range(KILLS):
        bundle = killer.moments.choice([long, short])
        last = killer.moments.choice([last, engine.new_id()])  # or it is the next run of the same id
        options = killer.moments.choice([[], ["--supervise"]])
        process = engine.start_run(
            bundle, "--id", last, *options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        killer.kill(process, whole * 1.3)
        if killer.moments.random() < 0.8 or number == KILLS - 1:
            killer.is_clean(number, f"run {' '.join(options)} of {bundle.name}")


class Trials:
    """Containers of `engine-oci`, each brought to a status and given one verb."""

    def __init__(self, killer: Killer, *, rootless: bool) -> None:
        self.killer = killer
        self.rootless = rootless
        self.oci = Oci(killer.engine, ("--rootless", "--ignore-cgroups") if rootless else ())
        self.bundles = [killer.engine.shell(FOREVER, name="plain")]
        if not rootless:
            path = f"/{killer.engine.new_id()}-parent/child"
            self.bundles.append(killer.engine.shell(FOREVER, name="nested", **changes(path)))
        self.runs: list[subprocess.Popen[bytes]] = []
        self.longest: dict[str, float] = {}

    def quiet(self, *arguments: str) -> subprocess.Popen[bytes]:
        return self.oci.start(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def bring(self, container_id: str, bundle: Path, status: str | None) -> None:
        if status is None:
            return
        if self.rootless:
            self.runs.append(self.quiet("run", f"--bundle={bundle}", container_id))
            wait_for("it runs", lambda: self.oci.status(container_id) == "running", interval=0.05)
        else:
            self.oci.create(bundle, container_id)
            if status != "created":
                self.oci.ok("start", container_id)
        if status == "paused":
            self.oci.ok("pause", container_id)
        if status in ("stopped", "killed"):
            pids = [*(run.pid for run in self.runs), *self.processes(container_id)]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_for("it has ended", lambda: self.oci.status(container_id) in ("stopped", None))

    def processes(self, container_id: str) -> list[int]:
        state = self.oci.state(container_id)
        return [state["pid"]] if state and state["pid"] else []

    def arguments(self, verb: str, container_id: str, bundle: Path) -> list[str]:
        image = self.killer.engine.directory / "image"
        shutil.rmtree(image, ignore_errors=True)
        line = VERBS[verb][0].format(container_id, bundle=bundle, image=image)
        return line.split()

    def begin(self, verb: str, container_id: str, bundle: Path) -> subprocess.Popen[bytes]:
        if verb == "gc":
            return self.killer.engine.start(
                self.killer.engine.command("gc"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        return self.quiet(*self.arguments(verb, container_id, bundle))

    def measure(self, verb: str) -> float:
        """Seconds that it takes undisturbed; `run` ends by itself no more than its container does."""
        if verb not in self.longest:
            container_id = self.killer.engine.new_id()
            self.bring(container_id, self.bundles[0], VERBS[verb][1])
            start = time.monotonic()
            process = self.begin(verb, container_id, self.bundles[0])
            if verb == "run":
                wait_for("it runs", lambda: self.oci.status(container_id) == "running", interval=0.05)
            else:
                process.wait(60)
            self.longest[verb] = time.monotonic() - start
            self.end(container_id, 0.0)
            if verb == "run":
                process.wait(60)
        return self.longest[verb]

    def end(self, container_id: str, chance: float) -> None:
        if self.killer.moments.random() < chance:  # gc comes first: it leaves what lives
            self.killer.engine.call("gc")
        self.oci.ok("delete", "--force", container_id)
        for run in self.runs:
            run.wait(60)
        self.runs.clear()
        shutil.rmtree(self.killer.engine.directory / "image", ignore_errors=True)


def test_killed_verb_leaves_nothing(killer: Killer, who: str) -> None:
    trials = Trials(killer, rootless=who == "unprivileged")
    verbs = ROOTLESS if trials.rootless else tuple(VERBS)
    turn = killer.moments.sample(verbs, len(verbs))
    measured = turn[: max(1, min(KILLS, len(turn)))]
    for verb in measured:
        trials.measure(verb)
    killer.engine.call("gc")
    for name in ("stdout", "stderr"):
        (killer.engine.directory / name).touch()
    killer.before = killer.machine.there()
    for number in range(KILLS):
        verb = turn[number % len(turn)]
        container_id = killer.engine.new_id()
        bundle = killer.moments.choice(trials.bundles)
        trials.bring(container_id, bundle, VERBS[verb][1])
        killer.kill(trials.begin(verb, container_id, bundle), trials.longest[verb] * 1.2)
        trials.end(container_id, 0.3)
        killer.is_clean(number, f"{verb} of {bundle.name}")
