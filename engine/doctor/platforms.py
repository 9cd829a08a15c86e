"""runsc, and each of its Sentry platforms, tried by a run of the engine with a time limit."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sys
import tempfile
import time

from engine.doctor.part import Part, Status
from engine.doctor.probe import SAYS, probe
from engine.doctor.trial import kill_all_that_name, run_limited
from engine.errors import ResolveError, StepError
from engine.lifecycle.trusted_runsc import find_runsc
from engine.lifecycle.validate import Validated
from engine.options import Platform
from engine.runsc.command import RunscError, version
from engine.runsc.faults import INSTALL_PAGE, fault_line, faults_of, parse_version
from engine.runsc.left_behind import unmount_null_netns
from engine.state.container import RUNSC_ROOT

#: Seconds for a platform to run a container; usually 2.3 s, of which the program inside sleeps 2.
PLATFORM_TIMEOUT = 12.0

#: What tries a platform: the engine itself, as a user would start it.
ENGINE: tuple[str, ...] = (sys.executable, "-P", "-m", "engine")


_RUNSC_ENABLES = "everything: it is what runs the container"


def usable_runsc() -> Validated | Part:
    """The runsc that `engine run` would use, pinned, or why there is none."""
    try:
        return find_runsc(None, os.environ)
    except StepError as error:
        status = Status.MISSING if isinstance(error, ResolveError) else Status.DEGRADED
        return Part("runsc", status, error.what, _RUNSC_ENABLES, error.hint)


def describe(binary: Validated) -> Part:
    """The version, path and digest of that runsc."""
    with open(binary.runsc.descriptor, "rb", closefd=False) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    detail = {
        "path": binary.runsc.path,
        "sha256": digest,
        "platforms": [str(name) for name in binary.capabilities.platforms],
    }
    try:
        told = version(binary.runsc.descriptor, binary.runsc.path)
    except RunscError as error:
        return Part("runsc", Status.DEGRADED, error.what, _RUNSC_ENABLES, error.hint, detail)
    detail["version"] = told
    name = told.splitlines()[0].removeprefix("runsc version ") if told else "(no version)"
    found = f"{name} at {binary.runsc.path}, SHA-256 {digest[:12]}…"
    return Part("runsc", Status.OK, found, _RUNSC_ENABLES, detail=detail)


#: Debian 12's runsc is of 2022 and Debian 13's of 2024; none of Debian or Ubuntu is newer.
_GET_CURRENT = (
    f"Debian's and Ubuntu's own is of 2024 or older. gVisor's apt repository has today's: {INSTALL_PAGE}"
)


def name_faults(runsc: Part) -> Part:
    """The known faults of the version that `describe` found."""
    name, enables = "known faults", "a sandbox without the faults that are public (the list is the engine's)"
    told = str(runsc.detail.get("version", ""))
    found = parse_version(told)
    if found is None:
        return Part(name, Status.MISSING, fault_line(told), enables, _GET_CURRENT)
    faults = faults_of(found)
    detail = {"faults": [{"name": each.name, "what": each.what, "source": each.source} for each in faults]}
    if not faults:
        return Part(name, Status.OK, fault_line(told), enables, detail=detail)
    return Part(name, Status.DEGRADED, fault_line(told), enables, _GET_CURRENT, detail)


_PLATFORM_ENABLES = {
    Platform.SYSTRAP: "the fastest platform that needs no virtualisation; `auto` takes it",
    Platform.KVM: "hardware virtualisation, where the host has it",
    Platform.PTRACE: "the slowest platform, for runsc or kernels without the others",
}


def try_platform(name: Platform, binary: Validated | None, limit: float) -> Part:
    """Run a container on one platform: the result. `limit` is in seconds."""
    title, enables = f"platform {name}", _PLATFORM_ENABLES[name]
    if binary is None:
        return Part(title, Status.MISSING, "not tried: no usable runsc", enables, "see runsc above")
    if obstacle := _obstacle(name, binary):
        return Part(title, Status.MISSING, obstacle[0], enables, obstacle[1])
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="engine-doctor-") as made:
        private = os.path.realpath(made)  # the path in mountinfo
        try:
            outcome = run_limited(_run(private, name, binary.runsc.path), limit, _environment(private))
        finally:
            kill_all_that_name(private)
            _unmount_what_runsc_left(private)
    seconds = round(time.monotonic() - started, 3)
    detail = {"seconds": seconds, "exit_code": outcome.code}
    if outcome.code == 0 and SAYS in outcome.output:
        return Part(title, Status.OK, f"ran a container in {seconds:.2f} s", enables, detail=detail)
    if outcome.code is None:
        found = f"no answer in {limit:g} s, and was killed"
        return Part(title, Status.DEGRADED, found, enables, "use another platform", detail)
    return Part(title, Status.DEGRADED, outcome.summary(), enables, "use another platform", detail)


def _unmount_what_runsc_left(private: str) -> None:
    """Unmount what a killed runsc that knows no better left in its `--root`."""
    for path in glob.glob(os.path.join(glob.escape(private), "base", "*", RUNSC_ROOT)):
        root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            unmount_null_netns(root, path)
        finally:
            os.close(root)


def _obstacle(name: Platform, binary: Validated) -> tuple[str, str] | None:
    """Why a platform cannot work, and the hint; None if it is to be tried."""
    if binary.capabilities.platforms and name not in binary.capabilities.platforms:
        newer = f"install a newer runsc (systrap came in 2023). {_GET_CURRENT}"
        return "not built into this runsc", newer if name is Platform.SYSTRAP else "use another platform"
    if name is Platform.KVM and not os.path.exists("/dev/kvm"):
        return "no /dev/kvm", "use systrap, or a host that has KVM"
    if name is Platform.KVM and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "no access to /dev/kvm", "join the group that owns /dev/kvm, or use systrap"
    return None


def _run(private: str, name: Platform, runsc: str) -> list[str]:
    """Make a bundle under `private`; returns the command that runs it."""
    bundle = os.path.join(private, "bundle")
    for directory in ("dev", "proc", "sys", "tmp"):
        os.makedirs(os.path.join(bundle, "rootfs", directory))
    with open(os.path.join(bundle, "rootfs", "probe"), "xb") as program:
        program.write(probe())
        os.fchmod(program.fileno(), 0o755)
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/probe"],
            "env": ["PATH=/"],
            "cwd": "/",
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
    }
    with open(os.path.join(bundle, "config.json"), "x") as file:
        json.dump(config, file)
    rootless = ["--rootless"] if os.geteuid() != 0 else []
    return [
        *ENGINE, "run", bundle, "--id", "doctor", "--runsc", runsc, "--network", "none", "--platform", str(name),
        "--ignore-cgroups", *rootless,
    ]  # fmt: skip


def _environment(private: str) -> dict[str, str]:
    """Everything that the run makes is under `private`."""
    return {
        "PATH": os.defpath,
        "HOME": private,
        "TMPDIR": private,
        "ENGINE_ARTIFACT_BASE": os.path.join(private, "base"),
    }
