"""Builds programs of Kubernetes' from their Go modules, and keeps them in the user's cache; none is kept in git.

usage: python -m tests.kubernetes.modules NAME...     (critest, kubelet, containerd)

The notable thing: each module has the checksum that is written here, whatever proxy it comes from; those that it
needs itself have theirs in its `go.sum`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools import SetupError, say

_VERSION = re.compile(r"go(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True)
class Program:
    """What is built from one module: its checksum, as `go.sum` has them, the Go that it needs, and calls of `go`.

    `staging` is the version of those modules that lie in the same repository and are left out of the module.
    """

    module: str
    version: str
    checksum: str
    go: tuple[int, int, int]
    build: Sequence[Sequence[str]]
    minutes: int
    staging: str | None = None

    def needs(self) -> str:
        return f"Go {'.'.join(map(str, self.go))} or newer"


PROGRAMS: Mapping[str, Program] = {
    "critest": Program(
        "sigs.k8s.io/cri-tools",
        "v1.37.0",
        "h1:BmTImEoTX3KPXCLwmIU9mfCC8umUqF4R8WibY9eVU9Y=",
        (1, 26, 6),
        (
            ("test", "-c", "-vet=off", "-o", "{output}/critest", "./cmd/critest"),
            # It runs critest's specs several at a time.
            ("build", "-o", "{output}/ginkgo", "github.com/onsi/ginkgo/v2/ginkgo"),
        ),
        4,
    ),
    "kubelet": Program(
        "k8s.io/kubernetes",
        "v1.37.2",
        "h1:A2VDEiObzkYqFTKhSsn0ZEb0RlLEXpHWj93gi2HqEwE=",
        (1, 26, 0),
        (("build", "-o", "{output}/kubelet", "./cmd/kubelet"),),
        16,
        staging="v0.37.2",
    ),
    "containerd": Program(
        "github.com/containerd/containerd/v2",
        "v2.1.9",
        "h1:lOQQ3qVEtauZCHKh8S2Xph5fGXFX2uZxMHmaslOZtW0=",
        (1, 24, 2),
        tuple(
            ("build", "-tags=no_btrfs no_devmapper no_zfs", "-o", f"{{output}}/{name}", f"./cmd/{name}")
            for name in ("containerd", "containerd-shim-runc-v2", "ctr")
        ),
        4,
    ),
}


def cache() -> Path:
    """The directory of what was built; basedir-spec: `XDG_CACHE_HOME`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gvisor-engine"


def built(name: str) -> Path | None:
    """The directory of what was built of it, if it has been."""
    path = _target(name)
    return path if path.exists() else None


def _target(name: str) -> Path:
    return cache() / f"{name}-{PROGRAMS[name].version}"


def why_not(name: str) -> str | None:
    """Why this machine cannot build it, in one line; None if it can."""
    program = PROGRAMS[name]
    try:
        said = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return f"building {name} needs {program.needs()}, and there is no go"
    found = _VERSION.match(said)
    if found is None or tuple(int(part or 0) for part in found.groups()) < program.go:
        return f"building {name} needs {program.needs()}, and this is {said.strip()}"
    return None


def build(name: str) -> Path:
    """Build it, unless that has been done, and answer its directory. Raises `SetupError`."""
    target = _target(name)
    if target.exists():
        return target
    if why := why_not(name):
        raise SetupError(why)
    program = PROGRAMS[name]
    say(f"building {name} {program.version} from its Go module, {program.minutes} minutes of one processor")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        source = work / "source"
        shutil.copytree(
            _fetched(program, target.parent),
            source,
            ignore=shutil.ignore_patterns(
                "vendor", "go.work*", "CHANGELOG", "test" if program.staging else ""
            ),
        )
        _make_writable(source)
        if program.staging:
            _replace_staging(source / "go.mod", program.staging)
        output = work / "built"
        output.mkdir()
        for call in program.build:
            _go([word.format(output=output) for word in call], source)
        output.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _fetched(program: Program, where: Path) -> Path:
    """The module's directory in Go's own cache, whose checksum is the one that is expected."""
    answer = json.loads(_go(["mod", "download", "-json", f"{program.module}@{program.version}"], where))
    if answer.get("Sum") != program.checksum:
        raise SetupError(
            f"{program.module}@{program.version} has the checksum {answer.get('Sum')}, not {program.checksum}"
        )
    return Path(answer["Dir"])


def _make_writable(source: Path) -> None:
    """Files in Go's cache are read-only, and so are their copies."""
    for directory, _, files in os.walk(source):
        os.chmod(directory, 0o755)
        for file in files:
            os.chmod(os.path.join(directory, file), 0o644)


def _replace_staging(mod: Path, version: str) -> None:
    text, count = re.subn(r"=> \./staging/src/(\S+)", rf"=> \1 {version}", mod.read_text())
    if not count:
        raise SetupError(f"{mod.name} of kubernetes names no module below staging/")
    mod.write_text(text)


def _go(arguments: Sequence[str], where: Path) -> str:
    """What it printed. Flags of the caller's own GOFLAGS, such as -p, count."""
    flags = f"{os.environ.get('GOFLAGS', '')} -mod=mod -buildvcs=false -trimpath".strip()
    environment = {**os.environ, "GOFLAGS": flags, "GOWORK": "off", "CGO_ENABLED": "0"}
    done = subprocess.run(
        ["go", *arguments], cwd=where, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["(it said nothing)"]
        raise SetupError(f"go {arguments[0]} of {where.parent.name} failed: {said[-1]}")
    return done.stdout


def main(names: Sequence[str]) -> int:
    if unknown := [name for name in names if name not in PROGRAMS]:
        say(f"{unknown[0]}: no such program; there are {', '.join(PROGRAMS)}")
        return 2
    try:
        for name in names:
            print(build(name))
    except SetupError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
