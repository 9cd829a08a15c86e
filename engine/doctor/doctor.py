"""What is installed on this system, what each part enables, and the remedy where one is missing.

The notable thing: nothing is believed that can be tried. Each Sentry platform runs a real container, with a
time limit, because a /dev/kvm that is present can still hang; whatever happens, nothing is left behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

from engine.errors import ResolveError, StepError
from engine.lifecycle.trusted_runsc import find_runsc
from engine.lifecycle.validate import Validated
from engine.linux import landlock, locked_mounts
from engine.linux.namespaces import BANS, subordinate_ids, sysctl
from engine.options import Platform
from engine.runsc.command import RunscError, version
from engine.spec.errors import JarError
from engine.spec.tlc import find_jar

#: How long one platform may take to run a container, in seconds; a healthy one takes a fifth of one.
PLATFORM_LIMIT = 10.0

#: How long a program may take to tell its version, in seconds. Java on a busy machine is the slowest.
VERSION_LIMIT = 10.0


class Status(StrEnum):
    """`missing` is not there; `degraded` is there and of limited or no use."""

    OK = "ok"
    MISSING = "missing"
    DEGRADED = "degraded"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the system. `found` is for people, `detail` for programs (plain JSON values).

    `remedy` is empty exactly when `status` is ok.
    """

    name: str
    status: Status
    found: str
    enables: str
    remedy: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


def examine(*, platform_limit: float = PLATFORM_LIMIT) -> list[Part]:
    """Look at every part, trying what can be tried. Ends within the limits above and raises nothing for
    what is missing: that is the answer.
    """
    with _ended_by_signals_cleanly(), contextlib.ExitStack() as held:
        found = _runsc()
        if isinstance(found, Part):
            binary, first = None, found
        else:
            held.callback(found.discard)
            binary, first = found, _describe(found)
        return [
            first,
            *(try_platform(name, binary, platform_limit) for name in Platform if name is not Platform.AUTO),
            _cgroups(),
            _user_namespaces(),
            _subordinate_ids(),
            _locked_mounts(),
            _landlock(),
            _java(),
            _tla2tools(),
            _program(
                "graphviz", ["dot", "-V"], r"version (\S+)", "state diagrams as pictures", "install graphviz"
            ),
            Part("Python", Status.OK, f"{platform.python_version()} at {sys.executable}", "the engine itself"),
            _program(
                "podman", ["podman", "--version"], r"version (\S+)", "the engine as podman's runtime (optional)",
                "install podman if you want that",
            ),
            _program(
                "containerd", ["containerd", "--version"], r"containerd\S* (\S+)",
                "the engine as containerd's runtime (optional)", "install containerd if you want that",
            ),
        ]  # fmt: skip


@contextlib.contextmanager
def _ended_by_signals_cleanly() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind like Ctrl-C does: the default action would leave a hanging runsc behind.

    A signal that the caller ignores stays ignored; outside the main thread nothing can be set, signal(3).
    """

    def unwind(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    before = {
        number: handler for number in numbers if (handler := signal.getsignal(number)) != signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, unwind)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# runsc and its platforms

_RUNSC_ENABLES = "everything: it is what runs the container"


def _runsc() -> Validated | Part:
    """The runsc that `engine run` would take, pinned, or why it would take none."""
    try:
        return find_runsc(None, os.environ)
    except StepError as error:
        status = Status.MISSING if isinstance(error, ResolveError) else Status.DEGRADED
        return Part("runsc", status, error.what, _RUNSC_ENABLES, error.remedy)


def _describe(binary: Validated) -> Part:
    with open(binary.descriptor, "rb", closefd=False) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    detail = {"path": binary.path, "sha256": digest, "platforms": [str(name) for name in binary.platforms]}
    try:
        told = version(binary.descriptor, binary.path)
    except RunscError as error:
        return Part("runsc", Status.DEGRADED, error.what, _RUNSC_ENABLES, error.remedy, detail)
    detail["version"] = told
    name = told.splitlines()[0].removeprefix("runsc version ") if told else "(no version)"
    found = f"{name} at {binary.path}, SHA-256 {digest[:12]}…"
    return Part("runsc", Status.OK, found, _RUNSC_ENABLES, detail=detail)


_PLATFORM_ENABLES = {
    Platform.SYSTRAP: "the fastest platform that needs no virtualisation; `auto` takes it",
    Platform.KVM: "hardware virtualisation, where the host has it",
    Platform.PTRACE: "the slowest platform, for runsc or kernels without the others",
}


def try_platform(name: Platform, binary: Validated | None, limit: float) -> Part:
    """Run a container on one platform and say how that went. `limit` is in seconds."""
    title, enables = f"platform {name}", _PLATFORM_ENABLES[name]
    if binary is None:
        return Part(title, Status.MISSING, "not tried: no usable runsc", enables, "see runsc above")
    if obstacle := _obstacle(name, binary):
        return Part(title, Status.MISSING, obstacle[0], enables, obstacle[1])
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="engine-doctor-") as private:
        try:
            outcome = run_limited(_container(private, name, binary.path), limit, _environment(private))
        finally:
            _kill_all_that_name(private)
    seconds = round(time.monotonic() - started, 3)
    detail = {"seconds": seconds, "exit_code": outcome.code}
    if outcome.code == 0 and "runsc version" in outcome.output:
        return Part(title, Status.OK, f"ran a container in {seconds:.2f} s", enables, detail=detail)
    if outcome.code is None:
        found = f"no answer in {limit:g} s, and was killed"
        return Part(title, Status.DEGRADED, found, enables, "use another platform", detail)
    return Part(title, Status.DEGRADED, outcome.summary(), enables, "use another platform", detail)


def _obstacle(name: Platform, binary: Validated) -> tuple[str, str] | None:
    """Why a platform need not be tried, and the remedy."""
    if binary.platforms and name not in binary.platforms:
        newer = "install a newer runsc (systrap came in 2023)"
        return "not built into this runsc", newer if name is Platform.SYSTRAP else "use another platform"
    if name is Platform.KVM and not os.path.exists("/dev/kvm"):
        return "no /dev/kvm", "use systrap, or a host that has KVM"
    if name is Platform.KVM and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "no access to /dev/kvm", "join the group that owns /dev/kvm, or use systrap"
    return None


def _container(private: str, name: Platform, binary: str) -> list[str]:
    """Make a bundle under `private` and answer with the command that runs it.

    The program in it is runsc itself: a static binary that is here for sure, mounted instead of copied.
    """
    rootfs = os.path.join(private, "bundle", "rootfs")
    for directory in ("dev", "proc", "sys", "tmp"):
        os.makedirs(os.path.join(rootfs, directory))
    open(os.path.join(rootfs, "probe"), "x").close()
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/probe", "--version"],
            "env": ["PATH=/"],
            "cwd": "/",
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [{"destination": "/probe", "type": "bind", "source": binary, "options": ["bind", "ro"]}],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
    }
    with open(os.path.join(private, "bundle", "config.json"), "x") as file:
        json.dump(config, file)
    rootless = ["--rootless"] if os.geteuid() != 0 else []
    return [
        binary, "--root", os.path.join(private, "root"), "--network", "none", "--platform", str(name),
        "--ignore-cgroups", *rootless, "run", "--bundle", os.path.join(private, "bundle"), "doctor",
    ]  # fmt: skip


def _environment(private: str) -> dict[str, str]:
    return {"PATH": os.defpath, "HOME": private, "TMPDIR": private, "XDG_RUNTIME_DIR": private}


def _kill_all_that_name(private: str, patience: float = 5.0) -> None:
    """Kill every process with the path `private`, which no other has, in its arguments, and see it gone.

    The sandbox and the gofer are sessions of their own, so killing runsc's process group misses them.
    `patience` is in seconds.
    """
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found = False
        for process in list(_processes_that_name(private)):
            found = True
            with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
                signal.pidfd_send_signal(process, signal.SIGKILL)
            os.close(process)
        if not found:
            return
        time.sleep(0.01)


def _processes_that_name(private: str) -> Iterator[int]:
    """A pidfd, the caller's to close, for each: it cannot come to mean another process, pidfd_open(2)."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            process = os.pidfd_open(int(entry))
        except OSError:
            continue  # ended since the listing
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                is_ours = os.fsencode(private) in file.read()
        except OSError:
            is_ours = False  # ended, or hidden from us and so not ours
        if is_ours:
            yield process
        else:
            os.close(process)


# Running a program that may hang


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended: its exit code (negative for a signal), None when the limit ended it."""

    code: int | None
    output: str

    def summary(self) -> str:
        """Its last words, for people."""
        if self.code is None:
            return "no answer in time"
        lines = [line for line in self.output.splitlines() if line.strip()]
        return f"exit code {self.code}: {lines[-1].strip()}" if lines else f"exit code {self.code}"


def run_limited(argv: Sequence[str], limit: float, environment: Mapping[str, str] | None = None) -> Outcome:
    """Run `argv` in a session of its own; after `limit` seconds its whole process group is killed.

    Output goes through a file: a pipe would stay open for as long as any descendant holds it.
    """
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(  # noqa: S603 (a list, and no shell)
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(126, f"{argv[0]}: {error.strerror}")
        code: int | None = None
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if code is None:  # not waited for yet, so the number is still that of this group
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        return Outcome(code, output.read().decode("utf-8", "replace"))


def _program(name: str, argv: Sequence[str], pattern: str, enables: str, remedy: str) -> Part:
    """A program that tells its version in something that `pattern` finds."""
    path = shutil.which(argv[0])
    if path is None:
        return Part(name, Status.MISSING, f"no {argv[0]} on PATH", enables, remedy)
    told = run_limited([path, *argv[1:]], VERSION_LIMIT)
    version = re.search(pattern, told.output)
    if told.code != 0 or version is None:
        return Part(name, Status.DEGRADED, f"{path}: {told.summary()}", enables, remedy, {"path": path})
    detail = {"path": path, "version": version[1]}
    return Part(name, Status.OK, f"{version[1]} at {path}", enables, detail=detail)


# The kernel


def _cgroups(root: str = "/sys/fs/cgroup", proc: str = "/proc/self") -> Part:
    """Which cgroup versions are mounted and whether our own group in them may have children, cgroups(7)."""
    enables = "limits on a container's memory, CPU time and processes"
    mounted = {}
    with open(f"{proc}/mounts") as file:
        for line in file:
            _, target, kind, options, *_ = line.split()
            if kind in ("cgroup", "cgroup2") and (target + "/").startswith(root + "/"):
                mounted[target] = (kind, options.split(","))
    kinds = {kind for kind, _ in mounted.values()}
    version = {
        frozenset(): "none",
        frozenset({"cgroup"}): "v1",
        frozenset({"cgroup2"}): "v2",
    }.get(frozenset(kinds), "hybrid")
    if not mounted:
        remedy = f"mount cgroup2 at {root}, or run with --ignore-cgroups"
        return Part("cgroups", Status.MISSING, f"none mounted at {root}", enables, remedy)
    own = _own_cgroups(f"{proc}/cgroup")
    read_only = [
        target
        for target, (kind, options) in mounted.items()
        if not os.access(
            target + own.get("" if kind == "cgroup2" else _controller(options, own), "/"), os.W_OK
        )
    ]
    detail = {"version": version, "mounted": sorted(mounted), "read_only": sorted(read_only)}
    if read_only:
        found = f"{version}, {len(read_only)} of {len(mounted)} hierarchies not writable"
        remedy = "run with --ignore-cgroups, as root, or in a delegated group (systemd-run --user --scope)"
        return Part("cgroups", Status.DEGRADED, found, enables, remedy, detail)
    return Part("cgroups", Status.OK, f"{version}, writable", enables, detail=detail)


def _controller(options: Sequence[str], own: Mapping[str, str]) -> str:
    """A controller of the v1 hierarchy mounted with `options`: they name it, among other things."""
    return next((option for option in options if option in own), "")


def _own_cgroups(path: str) -> dict[str, str]:
    """Controller to the path of our group in its hierarchy; the empty name is that of cgroup2."""
    own = {}
    with open(path) as file:
        for line in file:
            _, controllers, where = line.rstrip("\n").split(":", 2)
            own.update(dict.fromkeys(controllers.split(","), where))
    return own


def _user_namespaces() -> Part:
    """Make a user namespace, map ourselves to its root, and use the power that gives to make a second one.

    Where AppArmor restricts them the first succeeds and gives no power: only the second shows that.
    """
    name, enables = "user namespaces", "rootless containers (--rootless)"
    bans = [(key, remedy) for key, value, remedy in BANS if sysctl(key) == value]
    detail = {key: sysctl(key) for key, _, _ in BANS}
    tried = run_limited(["unshare", "--user", "--map-root-user", "--mount", "true"], VERSION_LIMIT)
    if tried.code == 0:
        others = f"; but {', '.join(key for key, _ in bans)} forbids them to others" if bans else ""
        return Part(name, Status.OK, f"made one{others}", enables, detail=detail)
    if bans:
        key, remedy = bans[0]
        return Part(name, Status.MISSING, f"forbidden by {key} = {detail[key]}", enables, remedy, detail)
    remedy = "allow them where this system is confined (container runtime, seccomp), or run as root"
    return Part(name, Status.MISSING, tried.summary(), enables, remedy, detail)


def _subordinate_ids() -> Part:
    """newuidmap(1), newgidmap(1), and what subuid(5) and subgid(5) give this user to map with them."""
    name, enables = "subordinate ids", "rootless containers with more than one user id"
    paths = {program: shutil.which(program) for program in ("newuidmap", "newgidmap")}
    if absent := [program for program, path in paths.items() if path is None]:
        found = f"no {' and no '.join(absent)} on PATH"
        return Part(name, Status.MISSING, found, enables, "install the package uidmap")
    powerless = [path for path in paths.values() if path is not None and not _may_set_ids(path)]
    if powerless:
        found = f"{' and '.join(powerless)} neither setuid root nor with file capabilities"
        return Part(name, Status.DEGRADED, found, enables, "install the package uidmap anew")
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    counts = {
        kind: sum(count for _, count in subordinate_ids(f"/etc/{kind}", os.getuid()))
        for kind in ("subuid", "subgid")
    }
    detail: dict[str, Any] = {"user": user, **paths, **counts}
    if all(counts.values()):
        found = f"{counts['subuid']} uids and {counts['subgid']} gids for {user}"
        return Part(name, Status.OK, found, enables, detail=detail)
    if os.geteuid() == 0:
        return Part(name, Status.OK, "newuidmap and newgidmap; root needs no ranges", enables, detail=detail)
    remedy = f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
    return Part(
        name, Status.DEGRADED, f"no range for {user} in /etc/subuid, /etc/subgid", enables, remedy, detail
    )


def _may_set_ids(path: str) -> bool:
    status = os.stat(path)
    if status.st_uid == 0 and status.st_mode & stat.S_ISUID:
        return True
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def _locked_mounts() -> Part:
    name, enables = "locked mounts", "the rootless execute policy (--exec-policy locked-mounts)"
    try:
        maps = locked_mounts.probe([], sealed=False)
    except locked_mounts.UnusableError as error:
        return Part(name, Status.MISSING, error.why, enables, error.remedy)
    return Part(name, Status.OK, f"tried, with ids: {maps.kind}", enables)


def _landlock() -> Part:
    enables = "the execute allowlist for a runsc that does not mount (--exec-policy landlock)"
    version = landlock.abi_version()
    if version == 0:
        remedy = "boot a kernel >= 5.13 with landlock among its lsm="
        return Part("Landlock", Status.MISSING, "not in this kernel", enables, remedy)
    detail: dict[str, Any] = {"abi": version}
    try:
        use = landlock.probe()
    except OSError as error:
        detail["probe"] = str(error)
        found = f"ABI {version}; {error.strerror}"
        return Part("Landlock", Status.DEGRADED, found, enables, "leave --exec-policy at auto", detail)
    detail["probe"] = str(use)
    if use is landlock.Landlock.USABLE:
        return Part("Landlock", Status.OK, f"ABI {version}", enables, detail=detail)
    found = f"ABI {version}; {use}"
    return Part("Landlock", Status.DEGRADED, found, enables, "leave --exec-policy at auto", detail)


# The model checker


def _java() -> Part:
    remedy = "install a JRE (default-jre-headless)"
    return _program("Java", ["java", "-version"], r'version "([^"]+)"', "the model checker TLC", remedy)


def _tla2tools() -> Part:
    """The jar that `engine check` would use."""
    name, enables = "tla2tools", "the model checker TLC"
    try:
        jar = find_jar()
    except JarError as error:
        return Part(name, Status.MISSING, error.what, enables, error.remedy)
    detail = {"path": jar.path, "sha256": jar.sha256}
    return Part(name, Status.OK, f"{jar.path} (from {jar.source})", enables, detail=detail)
