"""How long it takes to start a container, and what else it costs: `./just bench [--quick]`.

Writes benchmarks/starts.json, and from that docs/performance.md. Nothing here passes or fails. With `--only PART` the
figures of the other parts stay. With `--runsc PATH` the part `installations` measures that one as well.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.pages import PERFORMANCE, STARTS, performance_page
from benchmarks.sampling import Contender, at_once, in_turn, machine, new_id, peaks
from engine.lifecycle.resolve import TRUSTED_PATHS
from engine.options import ExecPolicy
from engine.state.container import component
from tests.support.bare import bare_flags
from tests.support.bundles import NAMESPACES, PROC, write_config
from tests.support.harness import Caller, unprivileged_user, waiting_program, whoever_runs_the_suite
from tests.support.standin import build
from tools.make_rootfs import main as make_rootfs
from tools.system_parts import OLD_RUNSC

NETWORK = ("--network", "none")
PARTS = ("starts", "installations", "alone", "imports", "resident", "disk", "throughput", "crowded")


class Bench:
    """What is measured, and where it lives: one directory, removed at the end."""

    def __init__(self, place: Path, *, quick: bool, more: Sequence[str]) -> None:
        self.place = place
        self.quick = quick
        self.more = more
        self.runsc = next(path for path in TRUSTED_PATHS if os.path.isfile(path))
        self.root = whoever_runs_the_suite(self._directory("home"))
        self.user = unprivileged_user(self._directory("user"), self._directory("user-home"))
        compileall.compile_dir(str(place / "user" / "library"), quiet=1)
        self.bundle = self._bundle("bundle", {})
        self.bases = 0

    def _directory(self, name: str, caller: Caller | None = None) -> Path:
        path = self.place / name
        path.mkdir(mode=0o755)
        if caller is not None:
            os.chown(path, caller.uid, caller.gid)
        return path

    def _bundle(self, name: str, changes: Mapping[str, Any]) -> Path:
        """A bundle of /bin/true in a busybox rootfs."""
        bundle = self._directory(name)
        make_rootfs([str(bundle / "rootfs")])
        default = {
            "process": {"env": ["PATH=/bin"]},
            "root": {"path": "rootfs", "readonly": True},
            "mounts": [PROC],
            "linux": NAMESPACES,
        }
        write_config(bundle, **{**default, **changes})
        return bundle

    # -- what starts it

    def engine(
        self,
        key: str,
        label: str,
        caller: Caller,
        *options: str,
        bundle: Path | None = None,
        base: Path | None = None,
        program: Sequence[str] | None = None,
    ) -> Contender:
        if base is None:
            self.bases += 1
            base = self._directory(f"base-{self.bases}", caller)
            base.chmod(0o700)
        start = program or (caller.python, "-P", "-m", "engine")
        return Contender(
            key,
            label,
            lambda name: [*start, "run", str(bundle or self.bundle), *NETWORK, *options, "--id", name],
            {**caller.environment, "ENGINE_ARTIFACT_BASE": str(base)},
            caller.identity,
        )

    def bare(
        self,
        key: str,
        label: str,
        caller: Caller,
        *options: str,
        bundle: Path | None = None,
        runsc: str | None = None,
        platform: str = "systrap",
    ) -> Contender:
        state = self._directory(f"state-{key}", caller)
        state.chmod(0o700)
        program = runsc or self.runsc
        return Contender(
            key,
            label,
            lambda name: [
                *(program, "--root", str(state), *options, *NETWORK, "--platform", platform),
                *bare_flags(Path(program)),
                *("run", "--bundle", str(bundle or self.bundle), name),
            ],
            caller.environment,
            caller.identity,
        )

    def podman(self) -> Contender:
        flags = ("--runtime-flag", "network=none", "--runtime-flag", "platform=systrap")
        return Contender(
            "podman",
            "`podman run --runtime runsc`, root",
            lambda name: [
                *("podman", "run", "--rm", "--name", name, "--runtime", self.runsc, *flags, *NETWORK),
                *("--rootfs", str(self.bundle / "rootfs"), "/bin/true"),
            ],
            self.root.environment,
        )

    def bindings(self) -> Contender:
        code = "from gvisor import Sandbox\nwith Sandbox() as box: box.exec('/bin/true')"
        return Contender(
            "bindings",
            "PyPI's `gvisor`, root",
            lambda _: [sys.executable, "-c", code],
            {**self.root.environment, "RUNSC_PATH": self.runsc},
        )

    def contenders(self) -> list[Contender]:
        rootless = ("--rootless", "--ignore-cgroups")
        policies = [str(policy) for policy in ExecPolicy if policy is not ExecPolicy.OFF]
        found = [
            self.bare("runsc", "`runsc run`, root", self.root),
            self.engine("engine", "`python -m engine run`, root", self.root),
            self.bare("runsc-rootless", "`runsc run`, rootless", self.user, *rootless),
            *(
                self.engine(
                    f"rootless-{policy}",
                    f"`python -m engine run`, rootless, policy `{policy}`",
                    self.user,
                    *(*rootless, "--exec-policy", policy),
                )
                for policy in [*policies, "off"]
            ),
            self.podman(),
            self.bindings(),
        ]
        script = Path(sys.executable).parent / "engine"
        if script.is_file():
            command = self.engine("script", "`engine run`, root", self.root, program=[str(script)])
            found.insert(2, command)
        return found

    # -- what is measured

    def starts(self) -> dict[str, Any]:
        tried, cannot = [], {}
        for contender in self.contenders():
            try:
                contender.once()
                tried.append(contender)
            except (RuntimeError, OSError) as error:
                cannot[contender.label] = " ".join(str(error).split())[:300]
        samples = in_turn(tried, 5 if self.quick else 40)
        return {
            "labels": {contender.key: contender.label for contender in tried},
            "samples": samples,
            "cannot": cannot,
            "steps": _steps(next(one for one in tried if one.key == "engine")),
        }

    def installations(self) -> dict[str, Any]:
        """Starts with each kind of runsc, bare and under the engine, as root and as an ordinary user.

        Debian 12's, of 2022, needs `--rootless`, and has the platform ptrace.
        """
        rootless = ("--rootless", "--ignore-cgroups")
        several = build(self.place / "several-files").runsc
        found: list[dict[str, Any]] = []
        for runsc, platform in (
            (str(OLD_RUNSC), "ptrace"),
            *((path, "systrap") for path in (self.runsc, str(several), *self.more)),
        ):
            kinds = [("an ordinary user", self.user, rootless), ("root", self.root, ())]
            for who, caller, options in kinds[: 1 if platform == "ptrace" else 2]:
                key = f"{len(found)}"
                more = (*options, "--platform", platform)
                pair = [
                    self.bare(f"bare-{key}", runsc, caller, *options, runsc=runsc, platform=platform),
                    self.engine(f"ours-{key}", runsc, caller, "--runsc", runsc, *more),
                ]
                samples = in_turn(pair, 5 if self.quick else 30)
                found.append(
                    {
                        "version": machine(runsc)["runsc"],
                        "files": 1 + len(list((Path(runsc).parent / "gvisor-bin").glob("*"))),
                        "who": who,
                        "bare": samples[pair[0].key],
                        "ours": samples[pair[1].key],
                        "steps": _steps(pair[1]),
                    }
                )
        return {"each": found}

    def stand_in(self) -> str:
        """A program that ends at once, with a runsc behind it: the engine alone is what then costs anything."""
        path = self.place / "stand-in"
        program = waiting_program()
        if program is None or os.uname().machine != "x86_64":
            raise RuntimeError("no stand-in for runsc is known for this machine")
        wait = bytes.fromhex("b8220000000f05")
        leave = bytes.fromhex("6a3c5831ff0f05")  # push 60; pop rax; xor edi, edi; syscall: exit(0)
        path.write_bytes(program.replace(wait, leave) + Path(self.runsc).read_bytes())
        path.chmod(0o755)
        return str(path)

    def alone(self) -> dict[str, Any]:
        """The engine up to the hand-off: its time, its memory, and how both grow with the bundle."""
        mounts = [
            {"destination": f"/m/{number}", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]}
            for number in range(10_000)
        ]
        bundles = {
            "plain": self.bundle,
            "mounts": self._bundle("mounts", {"mounts": mounts}),
            "large": self._bundle(
                "large", {"annotations": {f"org.example.{number}": "x" * 1000 for number in range(4_900)}}
            ),
        }
        stand_in = self.stand_in()
        contenders = [
            self.engine(key, key, self.root, "--runsc", stand_in, bundle=bundle)
            for key, bundle in bundles.items()
        ]
        interpreter = Contender(
            "interpreter", "the interpreter", lambda _: [self.root.python, "-c", ""], self.root.environment
        )
        return {
            "bytes": {key: (bundle / "config.json").stat().st_size for key, bundle in bundles.items()},
            "samples": in_turn([interpreter, *contenders], 5 if self.quick else 30),
            "peak_kib": {one.key: peaks(one, 3 if self.quick else 10) for one in [interpreter, *contenders]},
        }

    def imports(self) -> dict[str, Any]:
        """What a run imports, and the milliseconds each module took by itself, as `-X importtime` says."""
        contender = self.engine("imports", "imports", self.root)
        found = min(
            (_imported(self.root.python, contender) for _ in range(3 if self.quick else 10)),
            key=lambda lines: sum(int(own) for own, _ in lines),
        )
        alone = {name: int(own) / 1e3 for own, name in found}
        groups: dict[str, float] = {}
        for name, took in alone.items():
            top = name.split(".")[0]
            groups[top] = groups.get(top, 0) + took
        return {
            "modules": len(alone),
            "of_engine": sum(name.split(".")[0] == "engine" for name in alone),
            "ms": round(sum(alone.values()), 2),
            "groups": {
                name: round(took, 2) for name, took in sorted(groups.items(), key=lambda item: -item[1])[:12]
            },
        }

    def resident(self) -> dict[str, Any]:
        """Which programs run once the container does, and how much memory each holds for itself."""
        script = {
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/sleep", "60"], "env": [], "cwd": "/"}
        }
        contender = self.engine("resident", "resident", self.root, bundle=self._bundle("waits", script))
        process = contender.start(new_id(), start_new_session=True)
        found: list[dict[str, Any]] = []
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and process.poll() is None:
            found = [each for each in map(_process, _descendants(process.pid)) if each is not None]
            if len(found) >= 3 and not any("python" in each["program"] for each in found):
                time.sleep(0.5)
                found = [each for each in map(_process, _descendants(process.pid)) if each is not None]
                break
            time.sleep(0.05)
        process.terminate()
        process.communicate(timeout=30)
        return {"processes": found}

    def disk(self) -> dict[str, Any]:
        """Bytes that each of some runs in a row adds beneath the artifact base; a file with two names counts once."""
        base = self._directory("base-disk")
        base.chmod(0o700)
        contender = self.engine("disk", "disk", self.root, base=base)
        used = [_used(base)]
        for _ in range(4):
            contender.once()
            used.append(_used(base))
        return {"runs": [after - before for before, after in pairwise(used)]}

    def throughput(self) -> dict[str, Any]:
        found: dict[str, dict[str, list[float]]] = {}
        contenders = [
            self.bare("parallel-runsc", "runsc", self.root),
            self.engine("parallel-engine", "engine", self.root),
        ]
        for parallel in (1, 4) if self.quick else (1, 2, 4, 8, 16, 32):
            level: dict[str, list[float]] = {contender.label: [] for contender in contenders}
            for number in range(1 if self.quick else 3):
                for contender in contenders[:: -1 if number % 2 else 1]:
                    rate = at_once(contender, parallel, max(8 if self.quick else 32, parallel))
                    level[contender.label].append(round(rate, 2))
            found[str(parallel)] = level
            _collect(self.root.python, contenders[1])
        return found

    def crowded(self) -> dict[str, Any]:
        """Starts in a base that holds finished containers, in turn with starts in one that holds none; and gc."""
        number = 100 if self.quick else 1000
        full, empty = self._directory("base-full"), self._directory("base-empty")
        for base in (full, empty):
            base.chmod(0o700)
        contenders = [
            self.engine("empty", "an empty base", self.root, base=empty),
            self.engine("full", f"{number:,} finished containers", self.root, base=full),
        ]
        finished = new_id()
        subprocess.run(
            list(contenders[1].command(finished)),
            env=dict(contenders[1].environment),
            check=True,
            capture_output=True,
            cwd="/",
        )
        model = full / component(finished)
        for copy in range(number - 1):
            # The programs are linked: a copy of each would be 30 GB, and costs a start nothing.
            shutil.copytree(model, full / component(f"finished-{copy}"), copy_function=os.link, symlinks=True)
        for path in full.rglob("*"):
            if path.is_dir():
                path.chmod(0o700)
        samples = in_turn(contenders, 5 if self.quick else 30)
        gc_seconds = round(_collect(self.root.python, contenders[1]), 2)
        return {"containers": number, "samples": samples, "gc_seconds": gc_seconds}


def _imported(python: str, contender: Contender) -> list[tuple[str, str]]:
    """The microseconds that each module took by itself in one run, and its name."""
    said = subprocess.run(
        [python, "-X", "importtime", *list(contender.command(new_id()))[1:]],
        env=dict(contender.environment),
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    ).stderr
    return re.findall(r"import time:\s+(\d+) \|\s+\d+ \| *(\S+)", said)


def _collect(python: str, contender: Contender) -> float:
    """Have `engine gc` remove what the starts of an engine have left: the seconds it took."""
    began = time.perf_counter()
    subprocess.run(
        [python, "-P", "-m", "engine", "gc"],
        env=dict(contender.environment),
        check=True,
        capture_output=True,
        cwd="/",
    )
    return time.perf_counter() - began


def _steps(contender: Contender) -> dict[str, float]:
    """Milliseconds of each step: medians over the traces that all its starts have left."""
    steps: dict[str, list[float]] = {}
    for trace in Path(contender.environment["ENGINE_ARTIFACT_BASE"]).glob("*/trace-*.jsonl"):
        lines = [json.loads(line) for line in trace.read_text().splitlines()]
        for before, line in pairwise(lines):
            span = datetime.fromisoformat(line["time"]) - datetime.fromisoformat(before["time"])
            steps.setdefault(line["trigger"], []).append(span.total_seconds() * 1e3)
    return {step: round(statistics.median(times), 3) for step, times in steps.items()}


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _process(pid: int) -> dict[str, Any] | None:
    """Its program, and its share of memory: pages that several hold are divided among them, proc(5)."""
    try:
        program = os.readlink(f"/proc/{pid}/exe")
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    pss = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    role = next((word for word in ("gofer", "boot", "run") if word in arguments), "a process of the platform")
    return {"program": os.path.basename(program), "role": role, "pss_kib": pss}


def _used(directory: Path) -> int:
    blocks = {
        (status.st_dev, status.st_ino): status.st_blocks * 512
        for status in (path.lstat() for path in directory.rglob("*"))
    }
    return sum(blocks.values())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds; what comes of it is only printed")
    parser.add_argument("--only", choices=PARTS, help="measure this part anew, and keep the rest")
    parser.add_argument(
        "--runsc", metavar="PATH", action="append", default=[], help="measure this one as well"
    )
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("bench: run it as root: it compares starts as root with those of another user", file=sys.stderr)
        return 2
    found: dict[str, Any] = json.loads(STARTS.read_text()) if options.only else {}
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as place:
        Path(place).chmod(0o755)
        bench = Bench(Path(place), quick=options.quick, more=options.runsc)
        if not options.only:
            found["machine"] = machine(bench.runsc)
        parts: list[tuple[str, Callable[[], Any]]] = [
            (name, partial(getattr(bench, name))) for name in ([options.only] if options.only else PARTS)
        ]
        for name, measure in parts:
            began = time.monotonic()
            found[name] = measure()
            print(f"bench: {name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    if options.quick:
        print(performance_page(found))
        return 0
    if not options.only:
        found["measured"] = f"{datetime.now(UTC):%Y-%m-%d}"
    STARTS.write_text(json.dumps(found, indent=1) + "\n")
    PERFORMANCE.write_text(performance_page(found))
    print(f"bench: written: {STARTS} and {PERFORMANCE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
