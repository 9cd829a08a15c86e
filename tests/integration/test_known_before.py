"""What the engine refuses before the hand-off is what runsc fails at after it, and nothing that runsc can start."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Reason
from tests.integration.oci_runtime import Oci
from tests.support.bare import bare_flags
from tests.support.bundles import program_bytes, put_program
from tests.support.harness import Engine, listing

#: The exit code of a runsc that could not start the container.
FAILED = 128


@dataclass
class Case:
    """What a root file system gets, the program's name in it, and what the engine says: 0 where it says nothing."""

    name: str
    code: int
    fill: Callable[[Path], object] = field(default=lambda root: None)
    #: What runsc ends with.
    runsc: int = FAILED
    arguments: tuple[str, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)


def _program(content: bytes, mode: int = 0o755) -> Callable[[Path], object]:
    return lambda root: put_program(root / "x", content, mode)


def _shell(name: str, mode: int = 0o755) -> Callable[[Path], object]:
    """A working program by another name, which must begin with busybox for it to work."""
    return lambda root: put_program(root / name, (root / "bin/busybox").read_bytes(), mode)


def _link(target: str, name: str = "x") -> Callable[[Path], object]:
    return lambda root: (root / name).symlink_to(target)


_SETS = ("bounding", "effective", "permitted")
_PATHS = {"process": {"env": ["PATH=/none:bin:/bin"]}}

CASES = (
    Case("missing", 127, arguments=("/x",)),
    Case("not in PATH", 127, arguments=("x",)),
    Case("no PATH", 127, arguments=("true",), changes={"process": {"env": []}}),
    Case("relative PATH", 127, arguments=("true",), changes={"process": {"env": ["PATH=bin"]}}),
    Case("PATH", 0, runsc=0, arguments=("true",), changes=_PATHS),
    Case("relative", 0, runsc=0, arguments=("./bin/true",)),
    Case("relative through what is not there", 0, runsc=0, arguments=("none/../bin/true",)),
    Case("beneath a file", 127, _shell("x"), arguments=("/x/y",)),
    Case("directory", 126, lambda root: (root / "x").mkdir(), arguments=("/x",)),
    Case("FIFO", 126, lambda root: os.mkfifo(root / "x", 0o755), arguments=("/x",)),
    Case("no execute bit", 126, _shell("x", 0o644), arguments=("/x",)),
    Case(
        "no execute bit, in PATH",
        126,
        _shell("x", 0o644),
        arguments=("x",),
        changes={"process": {"env": ["PATH=/"]}},
    ),
    Case("no execute bit of root's own", 126, _shell("busybox-x", 0o611), arguments=("/busybox-x", "true")),
    Case(
        "any execute bit, with the capability",
        0,
        _shell("busybox-x", 0o611),
        runsc=0,
        arguments=("/busybox-x", "true"),
        changes={"process": {"capabilities": {name: ["CAP_DAC_OVERRIDE"] for name in _SETS}}},
    ),
    Case("loop", 127, _link("x"), arguments=("/x",)),
    Case("link", 0, _link("/../bin/true", "true"), runsc=0, arguments=("/true",)),
    Case("link out of the root", 127, _link("../../../../../../../../usr/bin/env"), arguments=("/x",)),
    Case("empty", 126, _program(b""), arguments=("/x",)),
    Case("text", 126, _program(b"echo hello\n"), arguments=("/x",)),
    Case("32-bit", 126, _program(program_bytes(bits=32)), arguments=("/x",)),
    Case("other machine", 126, _program(program_bytes(machine=8)), arguments=("/x",)),
    Case("no loader", 127, _program(program_bytes(loader=b"/lib64/none.so")), arguments=("/x",)),
    Case("no interpreter", 127, _program(b"#!/usr/bin/none\n"), arguments=("/x",)),
    Case("script", 0, _program(b"#! /bin/sh\nexit 5\n"), runsc=5, arguments=("/x",)),
    Case("script of a script", 0, _program(b"#!/y\n"), runsc=5, arguments=("/x",)),
    Case("script with CR", 127, _program(b"#!/bin/sh\r\nexit 5\r\n"), arguments=("/x",)),
    Case("script without a newline", 0, _program(b"#!/bin/true"), runsc=0, arguments=("/x",)),
    Case("relative interpreter", 0, _program(b"#!bin/true\n"), runsc=0, arguments=("/x",)),
    Case("interpreter that is a directory", 126, _program(b"#!/bin\n"), arguments=("/x",)),
    Case("empty name", 127, arguments=("",)),
)


def _ids(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", CASES, ids=_ids)
def test_engine_refuses_what_runsc_cannot_start(root_engine: Engine, runsc: Path, case: Case) -> None:
    bundle = root_engine.bundle(*case.arguments, **case.changes)
    put_program(bundle / "rootfs/y", b"#!/bin/sh\nexit 5\n")
    case.fill(bundle / "rootfs")
    bare = _bare(root_engine, runsc, bundle)
    assert bare.returncode == case.runsc, bare
    before = listing(root_engine.directory)
    trace = root_engine.directory / "trace"
    if case.code == 0:
        assert root_engine.run(bundle, "--trace", trace).code == case.runsc
        return
    line = root_engine.run(bundle, "--trace", trace).refusal(case.code)
    assert line.startswith("engine: bundle: exec: ")
    assert listing(root_engine.directory) == before


def _bare(engine: Engine, runsc: Path, bundle: Path) -> subprocess.CompletedProcess[str]:
    root = engine.make_directory("bare")
    flags = ["--root", str(root), "--network=none", "--ignore-cgroups", *bare_flags(runsc)]
    try:
        return subprocess.run(
            [runsc, *flags, "run", "--bundle", bundle, engine.new_id()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        shutil.rmtree(root)


def test_user_of_the_bundle_needs_an_execute_bit_of_his_own(root_engine: Engine, runsc: Path) -> None:
    bundle = root_engine.bundle("/busybox-x", "true", process={"user": {"uid": 7, "gid": 8}})
    _shell("busybox-x", 0o744)(bundle / "rootfs")
    assert _bare(root_engine, runsc, bundle).returncode == FAILED
    assert "permission denied" in root_engine.run(bundle).refusal(126)
    os.chown(bundle / "rootfs/busybox-x", 7, 0)
    assert root_engine.run(bundle).code == 0


def test_program_that_a_mount_brings_is_run(engine: Engine) -> None:
    bundle = engine.bundle("/data/busybox", "true")
    config = json.loads((bundle / "config.json").read_text())
    data = engine.make_directory("data")
    engine.owned(put_program(data / "busybox", (bundle / "rootfs/bin/busybox").read_bytes()))
    engine.owned(_made(bundle / "rootfs/data"))
    assert "/data/busybox" in engine.run(bundle).refusal(127)
    config["mounts"].append(
        {"destination": "/data", "type": "bind", "source": str(data), "options": ["bind"]}
    )
    (bundle / "config.json").write_text(json.dumps(config))
    assert engine.run(bundle).code == 0
    config["mounts"][-1] |= {"source": str(data / "gone")}
    (bundle / "config.json").write_text(json.dumps(config))
    engine.run(bundle, "--json").refused(Reason.SOURCE_ABSENT, data / "gone")


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def test_rootless_with_the_sandbox_network_is_wrong_usage(unprivileged_engine: Engine) -> None:
    finished = unprivileged_engine.run(unprivileged_engine.bundle(), "--network", "sandbox", "--json")
    finished.refused(Reason.UNSUPPORTED, "--network", "--rootless", code=2)
    assert not unprivileged_engine.base.exists()


def test_ordinary_user_is_told_to_use_rootless(unprivileged_engine: Engine) -> None:
    finished = unprivileged_engine.call("run", unprivileged_engine.bundle(), "--ignore-cgroups", "--json")
    finished.refused(Reason.NO_PRIVILEGE, unprivileged_engine.caller.uid)
    assert not unprivileged_engine.base.exists()


@pytest.mark.parametrize("verb", ["create", "run"])
@pytest.mark.parametrize(
    ("name", "code", "reason", "said"),
    [
        ("/none", 127, Reason.PROGRAM_ABSENT, 'exec: "/none": stat /none: no such file or directory'),
        ("none", 127, Reason.PROGRAM_ABSENT, 'exec: "none": executable file not found in $PATH'),
        ("/bin", 126, Reason.PROGRAM_NOT_EXECUTABLE, 'exec: "/bin": permission denied'),
    ],
)
def test_engine_oci_says_what_managers_read_and_leaves_nothing(
    root_engine: Engine, verb: str, name: str, code: int, reason: str, said: str
) -> None:
    oci, container_id = Oci(root_engine), root_engine.new_id()
    oci.refused(code, reason, verb, "--bundle", root_engine.bundle(name), container_id, facts=[said])
    assert oci.state(container_id) is None
    assert json.loads(oci.ok("list", "--format", "json")) in (None, [])
    assert not root_engine.container(container_id).exists()
