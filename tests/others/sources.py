"""Fetches the tests of others from Debian's archive and builds them under `build/others/`; none of it is kept in git.

The notable thing: apt is given lists of its own, so that the system's sources stay as they are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools import SetupError, debian, say

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "others"
_HERE = Path(__file__).resolve().parent

#: What Go finds its libraries in, as Debian packages them.
_DEBIAN_GO = "/usr/share/gocode"
_GO_PACKAGE = "src/github.com/opencontainers/runtime-tools"


@dataclass(frozen=True)
class Suites:
    """Where the built suites are, and which versions they have."""

    crun: Path
    runtime_tools: Path
    podman: Path
    versions: dict[str, str]


def prepare() -> Suites:
    """Fetch and build what is not there yet. Raises `SetupError`."""
    BUILD.mkdir(parents=True, exist_ok=True)
    crun = _unpacked("crun", debian.OLD)
    tools = _unpacked("golang-github-opencontainers-runtime-tools", debian.NEW)
    init = crun / "tests" / "init"
    if not init.exists():
        (
            crun / "tests" / "config.h"
        ).touch()  # what ./configure would find out is only for a program that we have no use for
        _do(["gcc", "-static", f"-I{crun / 'tests'}", "-o", init, crun / "tests" / "init.c"], crun)
    _build_runtime_tools(tools)
    podman = _unpacked("libpod", debian.OLD)
    names = {"crun": crun, "runtime-tools": tools, "podman": podman}
    return Suites(crun, tools, podman, {name: path.name.rpartition("-")[2] for name, path in names.items()})


def _unpacked(package: str, suite: str) -> Path:
    """The upstream source of Debian's `package`."""
    kept = BUILD / package
    if kept.exists():
        (source,) = kept.iterdir()
        return source
    say(f"fetching the source of {package} from Debian {suite}")
    work = BUILD / f".{package}"
    shutil.rmtree(work, ignore_errors=True)
    for part in ("lists/partial", "cache/archives/partial", "unpacked"):
        (work / part).mkdir(parents=True)
    signed = f"signed-by={debian.KEYS.format(suite)}"
    (work / "sources.list").write_text(f"deb-src [{signed}] {debian.mirror()} {suite} main\n")
    options = {
        "Dir::Etc::SourceList": work / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": work / "lists",
        "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-q", "-y", *(f"-o{name}={value}" for name, value in options.items())]
    _do([*apt, "update"], work)
    _do([*apt, "source", "--download-only", "--tar-only", package], work)
    (tar,) = work.glob("*.orig.tar.*[!c]")
    _do(["tar", "-xf", tar, "-C", work / "unpacked"], work)
    (work / "unpacked").rename(kept)
    shutil.rmtree(work)
    (source,) = kept.iterdir()
    return source


def _build_runtime_tools(source: Path) -> None:
    """`runtimetest`, which runs inside, and each program of `validation/` as NAME.t beside it."""
    stamp = source / "built"
    if stamp.exists():
        return
    gopath = BUILD / "go"
    linked = gopath / _GO_PACKAGE
    tap = gopath / "src/github.com/mndrix/tap-go"
    for directory in (linked.parent, tap):
        directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(_HERE / "tap.go", tap)
    if not linked.is_symlink():
        linked.symlink_to(source)
    environment = {
        "GOPATH": f"{gopath}:{_DEBIAN_GO}",
        "GO111MODULE": "off",
        "GOCACHE": str(BUILD / "go-cache"),
    }
    static = ["-tags", "netgo osusergo", "-ldflags", "-extldflags -static"]
    _do(["go", "build", *static, "-o", "runtimetest", "./cmd/runtimetest"], linked, environment)
    for program in sorted(source.glob("validation/*/*.go")):
        if program.parent.name != "util":
            name = program.relative_to(source)
            say(f"building {name}")
            _do(["go", "build", "-o", f"{program.stem}.t", f"./{name}"], linked, environment)
    stamp.touch()


def _do(command: Sequence[str | Path], where: Path, environment: dict[str, str] | None = None) -> None:
    text = [str(word) for word in command]
    try:
        # Go finds the package by the path in GOPATH that it is called in, not by the one that a link leads to.
        paths = {**os.environ, "PWD": str(where), **(environment or {})}
        done = subprocess.run(text, cwd=where, env=paths, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SetupError(f"no {text[0]}; `./just oci-suites` installs it") from None
    if done.returncode != 0:
        output = (done.stderr or done.stdout).strip().splitlines() or ["(it said nothing)"]
        raise SetupError(f"{' '.join(text[:3])} failed: {output[-1]}")
