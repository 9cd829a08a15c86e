"""What becomes of the process that the caller started: it is runsc, and has nothing but what runsc was meant to get."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from engine.lifecycle.resolve import TRUSTED_PATHS
from engine.options import MAX_CONTAINER_ID
from engine.state.container import component
from tests.support.harness import (
    Engine,
    argv,
    descriptors,
    environment_of,
    executable,
    listing,
    signals,
    status_of,
)

#: Where each run has a name of its own, this stands in what --dry-run prints.
ANY_STAGE = "stage-*"


def test_the_process_that_was_started_is_the_staged_runsc(engine: Engine) -> None:
    container_id = engine.new_id()
    process = engine.start_waiting(container_id)
    (copy,) = engine.container(container_id).glob("runsc-root/exec-allow/stage-*/runsc")
    assert executable(process.pid) == str(copy)
    assert argv(process.pid)[0] == str(copy)
    assert (copy.stat().st_mode & 0o7777, copy.stat().st_uid) == (0o555, engine.caller.uid)
    assert engine.finish(process, b"\n").code == 9


@pytest.mark.parametrize(
    "options", [(), ("--network", "host", "--platform", "ptrace", "--ignore-cgroups", "--rootless")]
)
def test_a_dry_run_prints_exactly_what_a_run_then_uses(engine: Engine, options: tuple[str, ...]) -> None:
    container_id = engine.new_id()
    bundle = engine.shell("echo ready; read line; exit 9")
    dry = engine.run(bundle, "--id", container_id, "--dry-run", *options)
    as_json = engine.run(bundle, "--id", container_id, "--dry-run", "--json", *options)
    process = engine.start_waiting(container_id, *options, bundle=bundle)
    (stage,) = engine.container(container_id).glob("runsc-root/exec-allow/stage-*")
    used_argv = [part.replace(stage.name, ANY_STAGE) for part in argv(process.pid)]
    used_environment = environment_of(process.pid)
    assert engine.finish(process, b"\n").code == 9

    *settings, command = dry.stdout.decode().splitlines()
    assert shlex.split(command) == used_argv
    assert [shlex.split(setting) for setting in settings] == [[setting] for setting in used_environment]
    planned = json.loads(as_json.stdout)
    assert planned["argv"] == used_argv
    assert [f"{name}={value}" for name, value in planned["environment"].items()] == used_environment
    assert {dry.code, as_json.code} == {0}
    assert {dry.stderr, as_json.stderr} == {""}


def test_a_dry_run_touches_nothing(idle_engine: Engine) -> None:
    bundle = idle_engine.bundle()
    before = listing(idle_engine.directory)
    assert idle_engine.run(bundle, "--dry-run").code == 0
    assert listing(idle_engine.directory) == before


def test_root_keeps_state_in_run_whatever_the_environment(root_engine: Engine) -> None:
    environment = {
        "ENGINE_ARTIFACT_BASE": "",
        "XDG_RUNTIME_DIR": str(root_engine.directory),
        "TMPDIR": "/tmp",
    }
    dry = root_engine.run(root_engine.bundle(), "--dry-run", "--json", environment=environment)
    program, _, root, *_ = json.loads(dry.stdout)["argv"]
    assert Path(root).parts[:3] == ("/", "run", "gvisor-engine")
    assert program == "/var/lib/gvisor-engine/programs/stage-*/runsc"


def test_artifact_base_variable_also_places_programs(engine: Engine) -> None:
    assert engine.run(engine.shell("exit 42")).code == 42
    assert any("/runsc " in left for left in engine.leftovers())


def test_the_published_engines_variable_chooses_nothing(engine: Engine) -> None:
    environment = {"NUCLEUS_GVISOR_ARTIFACT_BASE": str(engine.directory / "elsewhere")}
    assert engine.run(engine.shell("exit 42"), environment=environment).code == 42
    assert engine.leftovers()
    assert not (engine.directory / "elsewhere").exists()


def test_users_state_lies_by_uid_whatever_the_environment(
    unprivileged_engine: Engine,
) -> None:
    engine = unprivileged_engine
    misleading = {
        "ENGINE_ARTIFACT_BASE": "",
        **{name: str(engine.directory) for name in ("XDG_RUNTIME_DIR", "TMPDIR", "HOME")},
    }
    session = Path(f"/run/user/{engine.caller.uid}")
    own = session / "gvisor-engine"
    base = own if session.is_dir() else Path(f"/tmp/gvisor-engine-{engine.caller.uid}")
    is_new = not base.exists()
    try:
        container = engine.new_id()
        done = engine.run(engine.shell("exit 42"), "--id", container, environment=misleading)
        assert done.code == 42, done
        assert (base / component(container)).is_dir()
        if is_new:
            assert engine.call("gc", environment=misleading).code == 0
            assert [path.name for path in base.iterdir()] == ["traces"]  # this user has no home
    finally:
        if is_new:
            shutil.rmtree(base, ignore_errors=True)


def test_runsc_gets_the_hardened_environment(engine: Engine) -> None:
    hostile = {
        "LD_PRELOAD": "libm.so.6",
        "LD_BIND_NOW": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONHASHSEED": "7",
        "PATH": f"{engine.directory}:.",
        "HOME": "/nonexistent",
        "USER": "mallory",
        "TMPDIR": str(engine.directory),
        "XDG_RUNTIME_DIR": str(engine.directory),
        "GODEBUG": "netdns=go",
        "RUNSC_DEBUG": "1",
        "BASH_ENV": "/nonexistent",
        "IFS": "x",
        "line": "a\nb",
    }
    container_id = engine.new_id()
    process = engine.start_waiting(container_id, environment=hostile)
    runtime = engine.container(container_id) / "runsc-root" / "runtime"
    assert environment_of(process.pid) == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        f"TMPDIR={runtime}",
        f"XDG_RUNTIME_DIR={runtime}",
        "HOME=/root",
        "USER=root",
        "LOGNAME=root",
    ]
    assert engine.finish(process, b"\n").code == 9


def _started(
    engine: Engine, waiting_runsc: Path, shell: str = ":", **more: Any
) -> tuple[subprocess.Popen[bytes], str]:
    """A process that became the program in the place of runsc, after `shell` was done in it; and the container's id."""
    container_id = engine.new_id()
    command = engine.run_command(engine.bundle(), "--id", container_id, "--runsc", waiting_runsc)
    process = engine.start(["sh", "-c", f'{shell}; exec "$@"', "sh", *command], **more)
    engine.wait_until_it_is_runsc(process, container_id)
    return process, container_id


def test_runsc_gets_standard_descriptors_and_the_lock_only(idle_engine: Engine, waiting_runsc: Path) -> None:
    secret = idle_engine.write(idle_engine.directory / "secret", b"")
    opened = [os.open(secret, os.O_RDONLY), *os.pipe()]
    opened.append(fcntl.fcntl(opened[0], fcntl.F_DUPFD_CLOEXEC, 512))  # the first free one from there on
    try:
        process, container_id = _started(idle_engine, waiting_runsc, pass_fds=opened)
    finally:
        for descriptor in opened:
            os.close(descriptor)
    found = descriptors(process.pid)
    assert found.keys() >= {0, 1, 2}
    lock = idle_engine.container(container_id) / "lock"
    assert [target for number, target in found.items() if number > 2] == [str(lock)]


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1, 2)])
def test_lock_is_held_with_standard_descriptors_closed(
    idle_engine: Engine, waiting_runsc: Path, closed: tuple[int, ...]
) -> None:
    closing = "exec " + " ".join(f"{number}>&-" for number in closed)
    process, container_id = _started(idle_engine, waiting_runsc, closing)
    container = idle_engine.container(container_id)
    found = descriptors(process.pid)
    # What took the number of a closed descriptor in the meantime is not handed on in its place.
    assert all(found.get(number, os.devnull) == os.devnull for number in closed)
    assert str(container / "lock") in found.values()
    alive = idle_engine.call("gc")
    assert alive.stdout.decode() == f"alive, left: {container}\n"


def test_signals_are_as_a_fresh_process_has_them(idle_engine: Engine, waiting_runsc: Path) -> None:
    """Python ignores SIGPIPE and SIGXFSZ, and the engine holds four signals: nothing of that is handed on."""
    process, _ = _started(idle_engine, waiting_runsc)
    for mask in ("SigIgn", "SigBlk", "SigCgt", "SigPnd", "ShdPnd"):
        assert signals(process.pid, mask) == set(), mask
    process.terminate()
    assert idle_engine.finish(process).code == -signal.SIGTERM


def test_a_signal_that_the_caller_ignores_stays_ignored(idle_engine: Engine, waiting_runsc: Path) -> None:
    process, _ = _started(idle_engine, waiting_runsc, "trap '' HUP INT")
    assert signals(process.pid, "SigIgn") == {signal.SIGHUP, signal.SIGINT}


@pytest.mark.parametrize("mask", ["0000", "0027", "0777"])
def test_the_umask_is_handed_on(idle_engine: Engine, waiting_runsc: Path, mask: str) -> None:
    process, _ = _started(idle_engine, waiting_runsc, f"umask {mask}")
    assert status_of(process.pid, "Umask") == mask


def test_runsc_keeps_working_directory_and_process_group(idle_engine: Engine, waiting_runsc: Path) -> None:
    process, _ = _started(idle_engine, waiting_runsc)
    assert os.readlink(f"/proc/{process.pid}/cwd") == str(idle_engine.directory)
    assert os.getpgid(process.pid) == os.getpgrp()


@pytest.mark.parametrize("mask", ["000", "077", "277", "777"])
def test_what_is_made_is_private_whatever_the_callers_umask(engine: Engine, mask: str) -> None:
    container_id = engine.new_id()
    command = engine.run_command(engine.shell("exit 42"), "--id", container_id)
    for _ in range(2):  # the second finds what the first made
        finished = engine.finish(engine.start(["sh", "-c", f'umask {mask}; exec "$@"', "sh", *command]))
        assert finished.code == 42, finished
    container = engine.container(container_id)
    root = container / "runsc-root"
    for directory in (engine.base, engine.base / "traces", container, root, root / "runtime"):
        assert directory.stat().st_mode & 0o7777 == 0o700
    for path in (container / "lock", *engine.traces(container_id)):
        assert path.stat().st_mode & 0o7777 & ~0o600 == 0


def test_an_id_as_long_as_is_accepted_can_be_run(engine: Engine) -> None:
    container_id = engine.new_id().ljust(MAX_CONTAINER_ID, "i")
    engine.ids.append(container_id)
    finished = engine.run(engine.shell("exit 42"), "--id", container_id)
    assert finished.code == 42, finished


def test_every_character_that_an_id_may_have_can_be_run(engine: Engine) -> None:
    container_id = f"_A.z+0-{engine.new_id()}"
    engine.ids.append(container_id)
    assert engine.run(engine.shell("exit 42"), "--id", container_id).code == 42


def test_a_deep_artifact_base_can_be_run_from(engine: Engine) -> None:
    for number in range(8):
        engine.base = engine.make_directory(
            f"{engine.base.parent.relative_to(engine.directory)}/{number:060}", 0o700
        )
        engine.base /= "base"
    assert len(str(engine.base)) > 480
    assert engine.run(engine.shell("exit 42")).code == 42


def test_path_search_finds_runsc_for_users_but_not_for_root(
    needs_root: None, engine: Engine, runsc: Path
) -> None:
    """In a mount namespace of its own, in which the system's runsc is hidden."""
    container_id = engine.new_id()
    binary = engine.own_runsc(runsc)
    hidden = [path for path in TRUSTED_PATHS if os.path.exists(path)]
    script = 'for path in $HIDDEN; do mount --bind /dev/null "$path" || exit; done; exec "$@"'
    become = ["setpriv", f"--reuid={engine.caller.uid}", f"--regid={engine.caller.gid}", "--clear-groups"]
    command = ["unshare", "--mount", "sh", "-c", script, "sh", *become]
    command += engine.run_command(engine.shell("exit 42"), "--id", container_id)
    path = f"relative:{binary.parent}:{engine.caller.environment['PATH']}"
    finished = engine.finish(
        engine.start(command, as_caller=False, environment={"HIDDEN": " ".join(hidden), "PATH": path})
    )
    if engine.caller.is_root:
        assert finished.refusal().startswith("engine: resolve: ")
        assert engine.trace(container_id)[-1]["error"]["reason"] == "path_searched_as_root"
    else:
        assert finished.code == 42
        resolved = engine.trace(container_id)[1]["facts"]
        assert resolved == {"path": str(binary), "found_by": "PATH"}


def test_bundle_with_nulls_and_without_a_user_runs(engine: Engine) -> None:
    """As some sandboxes write each bundle: runsc reads null as absent, and no user as 0."""
    bundle = engine.shell(
        "while read -r line; do case $line in Uid:*) echo $line;; esac; done < /proc/self/status"
    )
    config = json.loads((bundle / "config.json").read_text())
    del config["process"]["user"]
    config["process"] |= dict.fromkeys(("capabilities", "rlimits", "apparmorProfile", "consoleSize"))
    config |= dict.fromkeys(("hooks", "annotations", "domainname", "windows"))
    config["linux"] |= {"seccomp": None, "devices": None, "resources": {"pids": {}, "memory": None}}
    (bundle / "config.json").write_text(json.dumps(config))
    done = engine.run(bundle)
    assert (done.code, done.stdout) == (0, b"Uid: 0 0 0 0\n"), done
