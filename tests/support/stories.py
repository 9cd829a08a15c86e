"""Traces to judge: good ones, written by the real machine and trace, and ways in which a trace can be wrong."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from engine.bundle.given import given_config
from engine.bundle.oci_config import parse
from engine.enforcement.asks import asks
from engine.enforcement.judge import judge
from engine.enforcement.recorded import config_of
from engine.lifecycle.machine import Lifecycle
from engine.lifecycle.spec_graph import spec_graph
from engine.runsc.arguments import build_environment
from engine.runsc.capabilities import Capabilities
from engine.state.container import component
from engine.traces.move import PolicyOutcome, Trigger
from engine.traces.writer import Trace

Line = dict[str, Any]

STEPS = tuple(trigger for trigger in Trigger if trigger not in (Trigger.END, Trigger.REFUSE))
#: What else a path may have in it: nothing of it may confuse a reader of lines.
_NAMES = (
    "base",
    "with space",
    "ünïcödé",
    'quote"d',
    "new\nline",
    "back\\slash",
    '","next":"refused',
    "\udcff\udcfe",
)


def asked() -> Line:
    """What a bundle asks for that grants nothing in particular."""
    names = ["CAP_CHOWN", "CAP_KILL"]
    return {
        "argv": ["/bin/app", "--serve"],
        "cwd": "/srv",
        "terminal": False,
        "environment": ["PATH", "HOME"],
        "user": {"uid": 999, "gid": 998, "additional_gids": [5]},
        "no_new_privileges": True,
        "capabilities": {"bounding": names, "effective": names},
        "rlimits": {"RLIMIT_NOFILE": {"soft": 1024, "hard": 4096}},
        "apparmor": "containers-default",
        "seccomp": {"default_action": "SCMP_ACT_ERRNO", "rules": 14},
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "writable": True},
            {"destination": "/data", "type": "bind", "source": "/srv/data", "writable": True},
        ],
        "masked_paths": 2,
        "readonly_paths": 1,
        "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/a"}, {"type": "ipc"}],
        "device_rules": ["deny a *:* rwm", "allow c 1:3 rwm"],
        "limits": {"memory.limit": 536870912, "pids.limit": 100},
        "sysctls": {"net.ipv4.ip_forward": "0"},
    }


#: A config.json that asks for it.
CONFIG = json.dumps(
    {
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/bin/app", "--serve"],
            "cwd": "/srv",
            "env": ["PATH=/bin", "HOME=/"],
            "user": {"uid": 999, "gid": 998, "additionalGids": [5]},
            "noNewPrivileges": True,
            "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN", "CAP_KILL"]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}],
            "apparmorProfile": "containers-default",
        },
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "type": "bind", "source": "/srv/data"},
        ],
        "linux": {
            "maskedPaths": ["/proc/a", "/proc/b"],
            "readonlyPaths": ["/proc/c"],
            "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/a"}, {"type": "ipc"}],
            "resources": {
                "devices": [
                    {"allow": False, "access": "rwm"},
                    {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                ],
                "memory": {"limit": 536870912},
                "pids": {"limit": 100},
            },
            "sysctl": {"net.ipv4.ip_forward": "0"},
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{"names": [f"call{n}"], "action": "SCMP_ACT_ALLOW"} for n in range(14)],
            },
        },
    }
).encode()


def with_unenforced(lines: list[Line], config: bytes) -> None:
    """As if the run had told what runsc does not do of that config.json as asked."""
    validated = [line["facts"] for line in lines if line.get("trigger") == Trigger.VALIDATE]
    joins = any("sandbox" in line.get("facts", ()) for line in lines)
    options = lines[0]["options"]
    kinds = {number: mount.get("kind") for number, mount in enumerate(lines[0]["asked"]["mounts"])}
    for facts in validated:
        able = Capabilities(tuple(facts["platforms"]), gofer_namespace=bool(facts["creation_flags"]))
        asked_for = asks(parse(config), kinds, options["network"], joins)
        found = judge(asked_for, able.generation, has_cgroups=not options["rootless"])
        facts["unenforced"] = [{"name": each.name, "becomes": each.becomes} for each in found]


def retold(lines: list[Line]) -> list[Line]:
    """As if the run had told what runsc does not do of what is recorded as asked; its header was changed."""
    header = lines[0]
    kinds = {number: mount.get("kind") for number, mount in enumerate(header["asked"]["mounts"])}
    options = header["options"]
    cgroups = not (options["rootless"] or options["ignore_cgroups"])
    for facts in (line["facts"] for line in lines if line.get("trigger") == Trigger.VALIDATE):
        able = Capabilities(tuple(facts["platforms"]), gofer_namespace=bool(facts["creation_flags"]))
        words = asks(config_of(header["asked"]), kinds, options["network"], False)
        found = judge(words, able.generation, has_cgroups=cgroups)
        facts["unenforced"] = [{"name": each.name, "becomes": each.becomes} for each in found]
    return lines


@cache
def _told(rootless: bool) -> tuple[tuple[str, str], ...]:
    able = Capabilities(("systrap", "kvm", "ptrace"))
    found = judge(asks(parse(CONFIG), {}, "none", False), able.generation, has_cgroups=not rootless)
    return tuple((each.name, each.becomes) for each in found)


def _unenforced(rootless: bool) -> list[Line]:
    return [{"name": name, "becomes": becomes} for name, becomes in _told(rootless)]


def given_facts(config: bytes, bundle: str, added: dict[str, str] | None = None) -> Line:
    """What is recorded of what runsc is given for the config.json with these bytes, of the bundle at that path."""
    try:
        bundle.encode()
    except UnicodeEncodeError:  # the paths in config.json are absolute, or the engine refuses it
        return {"sha256": sha256(config).hexdigest()}
    given = given_config(config, json.loads(config), bundle, annotations=added)
    return {"sha256": given.digest, **({"changes": dict(given.changes)} if given.changes else {})}


@dataclass
class Established:
    recorded: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        return self.recorded


class KernelRefusesError(Exception):
    """Stands for an execve that fails."""


@dataclass(frozen=True)
class Story:
    """What was asked for and how it went: after `steps` of the six, the run was `killed`, `refused` or went on.

    A `supervised` one that went on may have `ended`, by itself or by a `signal`.

    An execve is the last step; `refused` after it means that the kernel refused it.
    """

    steps: int = 6
    end: str = "handed_off"
    rootless: bool = False
    required: bool = False
    wanted: bool = True
    enforced: bool = False
    user: int = 0
    found_by: str = "option"
    name: str = "base"
    supervised: bool = False
    signal: str | None = None

    @classmethod
    def draw(cls, rng: random.Random) -> Story:
        """Some story that the spec allows."""
        rootless, required, wanted = (rng.random() < 0.5 for _ in range(3))
        enforced = rootless and wanted and rng.random() < 0.5
        user = rng.choice((0, 1000))
        found_by = rng.choice(("option", "trusted path", "PATH"))
        steps = rng.choice((0, 1, 2, 3, 4, 5, 6, 6, 6, 6))
        if found_by == "PATH" and user == 0:
            steps = 0
        if required and not enforced:
            steps = min(steps, 4)
        end = rng.choice(
            ("refused", "killed", "handed_off", "ended") if steps == 6 else ("refused", "refused", "killed")
        )
        name = rng.choice(_NAMES)
        supervised = end == "ended" or rng.random() < 0.3
        signal = rng.choice((None, "SIGKILL"))
        return cls(
            *(steps, end, rootless, required, wanted, enforced, user, found_by, name),
            supervised=supervised,
            signal=signal,
        )

    def header(self) -> Line:
        return {
            "engine": "0.1.0",
            "spec": spec_graph().spec,
            "options": {
                "network": "none",
                "platform": "auto",
                "rootless": self.rootless,
                "ignore_cgroups": False,
                "exec_policy": "auto" if self.wanted else "off",
                "require_exec_policy": self.required,
                "runsc": "/usr/bin/runsc" if self.found_by == "option" else None,
                **({"supervise": True} if self.supervised else {}),
            },
            "bundle": self.bundle(),
            "host": {
                "kernel": "6.18.0",
                "machine": "x86_64",
                "user": self.user,
                "name": "node7",
                "boot": "0f" * 16,
                "login_user": 1000,
            },
            "asked": {**asked(), "root": {**asked()["root"], "path": self._root()}},
        }

    def _root(self) -> str:
        """`root.path` in config.json. Below a bundle whose path is not UTF-8 the engine takes no relative one."""
        try:
            self.name.encode()
        except UnicodeEncodeError:
            return "/srv/rootfs"
        return "rootfs"

    def bundle(self) -> Line:
        return {
            "path": f"/{self.name}/b",
            "sha256": sha256(CONFIG).hexdigest(),
            "rootfs": os.path.join(f"/{self.name}/b", self._root()),
            "hooks": 0,
        }

    def facts(self, trigger: str) -> Line:
        """What the step records where nothing is wrong."""
        container = f"/var/{self.name}/{component('web')}"
        root = f"{container}/runsc-root"
        copy = f"{root}/exec-allow/stage-1-2/runsc"
        identity = {
            "device": 65024,
            "inode": 217,
            "size": 30308048,
            "mtime_ns": 175061726,
            "ctime_ns": 179547699,
        }
        directories = [f"/var/{self.name}", container, root, f"{root}/runtime"]
        outcome = PolicyOutcome.UNAVAILABLE if self.rootless else PolicyOutcome.NOT_APPLICABLE
        if self.enforced:
            outcome = PolicyOutcome.ENFORCED
        every: dict[str, Line] = {
            Trigger.RESOLVE: {"path": "/usr/bin/runsc", "found_by": self.found_by},
            Trigger.VALIDATE: {
                "path": "/usr/bin/runsc",
                "wrapper": None,
                "identity": identity,
                "owner": 0,
                "mode": "0755",
                "trusted_owners": sorted({0, self.user}),
                "immutable_store": False,
                "platforms": ["systrap", "kvm", "ptrace"],
                "platform": "systrap",
                "creation_flags": [],
                "starts_sidecars": False,
                "unenforced": _unenforced(self.rootless),
            },
            Trigger.SECURE_ROOT: {
                "user": self.user,
                "directories": [
                    {"path": path, "owner": self.user, "mode": "0700", "created": True}
                    for path in directories
                ],
                "lock": f"{container}/lock",
                "cleaned": [],
            },
            Trigger.STAGE: {
                "path": copy,
                "sha256": "cd" * 32,
                "size": identity["size"],
                "mode": "0555",
                "pinned": dict(identity),
                "from_store": False,
                "made_from": dict(identity),
                "shared": True,
                "hashed": True,
                "compared": False,
                "version": "release-20260914.0",
            },
            Trigger.APPLY_POLICY: {
                "outcome": str(outcome),
                "mechanism": "locked-mounts" if self.enforced else None,
                "strength": "host" if self.enforced else None,
                "allowed": [self.bundle()["rootfs"]] if self.enforced else [],
                "open": ["memfd", "allowed", "mount"] if self.enforced else [],
                "ids": "single" if self.enforced else None,
                "reason": None if self.enforced else "it does not apply",
            },
            Trigger.EXEC: {
                "argv": [
                    *(copy, "--root", root),
                    *(["--rootless"] if self.rootless else []),
                    *("--network", "none", "--platform", "systrap"),
                    *("run", "--bundle", f"{root}/bundle", "web"),
                ],
                "environment": build_environment(f"{root}/runtime"),
                "bundle": self.bundle(),
                "config": given_facts(CONFIG, f"/{self.name}/b"),
            },
            Trigger.END: {
                "exit_code": None if self.signal else 3,
                "signal": self.signal,
                "oom": "killed",
                "oom_counter": "/sys/fs/cgroup/memory/web/memory.oom_control",
                "duration_ns": 0,
                "resources": {"user_us": 1, "system_us": 0, "max_rss_kib": 2},
            },
            Trigger.REFUSE: {
                "cleaned": [copy] if self.steps >= STEPS.index(Trigger.STAGE) + 1 else [],
                "left": [],
            },
        }
        return every[trigger]

    def error(self) -> Line:
        step = str(STEPS[min(self.steps, len(STEPS) - 1)])
        return {"step": step, "reason": "failure", "what": f"{self.name!r} is full", "hint": "free space"}

    def write(self, path: Path) -> Path:
        """Have the real machine live through it and the real trace record it."""
        header = self.header()
        trace = Trace("web", header)
        trace.create(str(path))
        lifecycle = Lifecycle({**header, "container": "web"}, trace.move)

        def refused_by_the_kernel(_: Established) -> None:
            raise KernelRefusesError

        for trigger in STEPS[: self.steps]:
            commit = refused_by_the_kernel if trigger is Trigger.EXEC and self.end == "refused" else None
            try:
                lifecycle.perform(trigger, partial(Established, self.facts(trigger)), commit)
            except KernelRefusesError:
                break
        if self.end == "ended":
            lifecycle.perform(Trigger.END, partial(Established, self.facts(Trigger.END)))
        if self.end == "refused":
            facts = {**self.facts(Trigger.REFUSE), "error": self.error()}
            lifecycle.perform(Trigger.REFUSE, lambda: Established(facts))
        return path

    def lines(self, path: Path) -> list[Line]:
        return read(self.write(path))


def read(path: Path) -> list[Line]:
    """The objects in the file, none of which has a name with a newline that is not escaped."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def as_they_are(lines: list[Line]) -> list[bytes]:
    return [_compact(line) for line in lines]


def _compact(line: Line) -> bytes:
    return json.dumps(line, separators=(",", ":")).encode()


def written(lines: list[Line], dump: Callable[[Line], bytes] = _compact) -> list[bytes]:
    """The lines as the engine would write them: each with the digest of the one before it, a header with none."""
    found: list[bytes] = []
    for line in lines:
        above = sha256(found[-1] + b"\n").hexdigest() if found and "format" not in line else None
        found.append(dump({**line, "previous": above}))
    return found


def save(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


# -- Ways to be wrong: each takes lines, of which there is at least one move, and gives others -----------------------


def _drop(lines: list[Line], rng: random.Random, _: Story) -> None:
    del lines[rng.randrange(1, len(lines))]


def _duplicate(lines: list[Line], rng: random.Random, _: Story) -> None:
    at = rng.randrange(1, len(lines))
    lines.insert(at, json.loads(json.dumps(lines[at])))


def _swap(lines: list[Line], rng: random.Random, _: Story) -> None:
    at = rng.randrange(1, len(lines))
    other = rng.randrange(1, len(lines))
    lines[at], lines[other] = lines[other], lines[at]


def _edit(name: str) -> Callable[[list[Line], random.Random, Story], None]:
    def edit(lines: list[Line], rng: random.Random, _: Story) -> None:
        rng.choice(lines[1:])[name] = rng.choice([*spec_graph().edges, "elsewhere"])

    return edit


def _other_trigger(lines: list[Line], rng: random.Random, story: Story) -> None:
    line = rng.choice(lines[1:])
    line["trigger"] = rng.choice(list(Trigger))
    line["facts"] = story.facts(line["trigger"])
    line["error"] = story.error() if line["trigger"] == Trigger.REFUSE else None


def _forge(trigger: str, *keys: str | int, values: tuple[Any, ...]) -> Callable[..., None]:
    def forge(lines: list[Line], rng: random.Random, _: Story) -> None:
        for line in lines[1:]:
            if line["trigger"] == trigger:
                place = line["facts"]
                for key in keys[:-1]:
                    place = place[key]
                place[keys[-1]] = rng.choice(values)

    return forge


MUTATIONS: tuple[Callable[[list[Line], random.Random, Story], None], ...] = (
    _drop,
    _duplicate,
    _swap,
    _edit("state"),
    _edit("next"),
    _other_trigger,
    _forge("resolve", "path", values=("", "runsc", "/elsewhere/runsc")),
    _forge("resolve", "found_by", values=("PATH", "trusted path")),
    _forge("validate", "mode", values=("0777", "0775", "0644", "0555")),
    _forge("validate", "owner", values=(1000, 12345)),
    _forge("secure_root", "directories", 2, "mode", values=("0755", "0700")),
    _forge("secure_root", "directories", 3, "owner", values=(12345,)),
    _forge("stage", "pinned", "ctime_ns", values=(1,)),
    _forge("stage", "made_from", "inode", values=(1,)),
    _forge("stage", "from_store", values=(True,)),
    _forge("stage", "path", values=("/elsewhere/runsc",)),
    _forge("apply_policy", "outcome", values=tuple(map(str, PolicyOutcome))),
    _forge("exec", "bundle", "sha256", values=("00" * 32,)),
    _forge("exec", "argv", 0, values=("/usr/bin/runsc",)),
    _forge("end", "exit_code", values=(0, None, 256, -1)),
    _forge("end", "signal", values=("SIGTERM", None)),
    _forge("end", "oom", values=("none", "unknown")),
    _forge("end", "oom_counter", values=(None,)),
    _forge("end", "duration_ns", values=(-1,)),
    _forge("end", "resources", "user_us", values=(-1,)),
)


def mutate(lines: list[Line], rng: random.Random, story: Story) -> list[bytes]:
    """`lines` with one thing wrong, perhaps by a forger who numbers, dates and chains them anew."""
    mutated: list[Line] = json.loads(json.dumps(lines))
    rng.choice(MUTATIONS)(mutated, rng, story)
    if rng.random() < 0.3:
        return as_they_are(mutated)
    times = sorted(line["time"] for line in mutated)
    for number, line in enumerate(mutated):
        line["seq"], line["time"] = number, times[number]
    return written(mutated)
