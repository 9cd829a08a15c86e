"""The stand-in for a runsc of 2026 does what the tests take it for: run without the engine, as its callers see it."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.lifecycle.resolve import TRUSTED_PATHS, resolve
from tests.support.chosen_runsc import put_in_place
from tests.support.forked import in_a_child
from tests.support.harness import (
    WAIT,
    Engine,
    Finished,
    argv,
    environment_of,
    executable,
    processes_about,
    wait_for,
    waiting_program,
)
from tests.support.standin import RELEASE, SENTRY, Installation, build

#: As gVisor's own does where it lacks a sidecar.
FAILED = 128


@pytest.fixture
def own(standin: Installation, idle_engine: Engine) -> Installation:
    """A stand-in of the test's own, which may spoil it."""
    directory = idle_engine.directory / "own"
    subprocess.run(["cp", "-a", standin.directory, directory], check=True)
    idle_engine.directory.chmod(0o755)
    return Installation(directory)


def command(engine: Engine, runsc: Path, *, verb: tuple[str, ...]) -> list[str]:
    """A command of the bare runsc, which has values behind flags as well as in them."""
    root = engine.directory / "bare-root"
    if not root.exists():
        engine.make_directory("bare-root", 0o700)
    flags = ["--gofer-network-namespace", "new", "--sidecar-release-enforcement-policy=ALWAYS"]
    flags += ["--root", str(root), "--network", "none", "--platform=systrap", *engine.caller.options]
    return [str(runsc), *flags, *verb]


def run_bare(engine: Engine, runsc: Path, bundle: Path) -> Finished:
    verb = ("run", "--bundle", str(bundle), engine.new_id())
    return engine.finish(engine.start(command(engine, runsc, verb=verb)))


def test_bare_standin_runs_a_container(engine: Engine, standin: Installation) -> None:
    finished = run_bare(engine, standin.runsc, engine.shell("echo hello; exit 42"))
    assert (finished.code, finished.stdout) == (42, b"hello\n"), finished


def test_root_may_run_it_rootless(root_engine: Engine, standin: Installation) -> None:
    verb = ("--rootless", "run", f"--bundle={root_engine.shell('exit 42')}", root_engine.new_id())
    assert root_engine.finish(root_engine.start(command(root_engine, standin.runsc, verb=verb))).code == 42


def test_sandbox_executes_the_sentry_and_all_else_runsc(engine: Engine, standin: Installation) -> None:
    container_id = engine.new_id()
    verb = ("run", f"--bundle={engine.shell(WAIT)}", container_id)
    process = engine.start(command(engine, standin.runsc, verb=verb), stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    pids = processes_about(engine.directory)
    (sandbox,) = (pid for pid in pids if argv(pid)[0] == "runsc-sandbox")
    assert executable(sandbox) == str(standin.sentry)
    assert "boot" in argv(sandbox)
    # The supervisors, of which an ordinary user has two, and the gofer.
    assert {executable(pid) for pid in pids if pid != sandbox} == {str(standin.runsc)}
    engine.finish(engine.start(command(engine, standin.runsc, verb=("exec", container_id, "/bin/true"))))
    assert engine.finish(process, b"\n").code == 9


def test_prewarmer_is_executed_first_and_given_one_variable(root_engine: Engine, own: Installation) -> None:
    """A prewarmer that waits is still there when it is looked at."""
    program = waiting_program()
    assert program is not None
    own.prewarmer.unlink()
    own.prewarmer.write_bytes(program)
    own.prewarmer.chmod(0o755)
    verb = ("run", f"--bundle={root_engine.bundle()}", root_engine.new_id())
    process = root_engine.start(command(root_engine, own.runsc, verb=verb))

    def prewarming() -> int | None:
        about = processes_about(root_engine.directory)
        return next((pid for pid in about if executable(pid) == str(own.prewarmer)), None)

    pid = wait_for("the prewarmer", prewarming)
    assert argv(pid)[:3] == [str(own.prewarmer), str(own.sentry), "runsc-sandbox"]
    assert environment_of(pid) == [f"GVISOR_ENFORCE_RELEASE=SKIP:{RELEASE}"]
    os.kill(pid, 9)
    assert root_engine.finish(process).code == FAILED


def _remove_folder(own: Installation) -> None:
    own.sidecars.rename(own.directory / "elsewhere")


def _remove_sentry(own: Installation) -> None:
    own.sentry.unlink()


def _remove_prewarmer(own: Installation) -> None:
    own.prewarmer.unlink()


def _take_execute_bits(own: Installation) -> None:
    own.sentry.chmod(0o644)


@pytest.mark.parametrize("spoil", [_remove_folder, _remove_sentry, _remove_prewarmer, _take_execute_bits])
def test_it_refuses_without_a_usable_sidecar(
    engine: Engine, own: Installation, spoil: Callable[[Installation], None]
) -> None:
    spoil(own)
    finished = run_bare(engine, own.runsc, engine.shell("echo never"))
    missing = own.prewarmer if spoil is _remove_prewarmer else own.sentry
    assert (finished.code, finished.stdout) == (FAILED, b""), finished
    assert f"sidecar {missing} not usable" in finished.stderr


def test_folder_is_looked_for_beside_the_resolved_runsc(engine: Engine, own: Installation) -> None:
    link = engine.directory / "runsc"
    link.symlink_to(own.runsc)
    assert run_bare(engine, link, engine.shell("exit 42")).code == 42


def test_runsc_that_has_no_name_any_more_has_no_sidecars(root_engine: Engine, own: Installation) -> None:
    verb = ("run", f"--bundle={root_engine.bundle()}", root_engine.new_id())
    opened = os.open(own.runsc, os.O_RDONLY)
    own.runsc.unlink()
    asked = command(root_engine, Path(f"/proc/self/fd/{opened}"), verb=verb)
    finished = root_engine.finish(root_engine.start(asked, pass_fds=[opened]))
    os.close(opened)
    assert finished.code == FAILED
    assert "not usable" in finished.stderr


@pytest.mark.parametrize("namespace", ["null", "new", None])
@pytest.mark.parametrize("form", ["value in the flag", "value behind the flag"])
def test_root_leaves_a_network_namespace_unless_told_otherwise(
    root_engine: Engine, standin: Installation, namespace: str | None, form: str
) -> None:
    root, bundle = root_engine.directory / "made", root_engine.shell("exit 42")
    where = [f"--root={root}"] if form == "value in the flag" else ["--root", str(root)]
    given = [] if namespace is None else ["--gofer-network-namespace", namespace]
    if form == "value in the flag" and given:
        given = ["=".join(given)]
    for _ in range(2):
        flags = [*where, "--network=none", "--platform=systrap", *given]
        verb = ["run", f"--bundle={bundle}", root_engine.new_id()]
        assert root_engine.finish(root_engine.start([str(standin.runsc), *flags, *verb])).code == 42
    left = root / "null-netns"
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    if namespace == "new":
        assert not left.exists()
        return
    assert mounted.count(str(left)) == 1
    subprocess.run(["umount", left], check=True)
    assert stat.S_IMODE(left.stat().st_mode) == 0o444


def test_each_file_says_its_release(tmp_path: Path) -> None:
    made = build(tmp_path / "mixed", releases={SENTRY: "release-20261005.0"})

    def said(program: Path) -> str:
        return subprocess.check_output([program, "--version"], text=True).splitlines()[0]

    assert said(made.runsc) == f"runsc version {RELEASE}"
    assert said(made.sentry) == "runsc version release-20261005.0"
    assert RELEASE.encode() not in made.sentry.read_bytes()
    for text in (RELEASE, "gvisor-bin/gvisor_sentry", "gvisor-bin/gvisor-sentry-prewarmer"):
        assert text.encode() in made.runsc.read_bytes()
    for path in made.files[3:]:
        assert RELEASE.encode() in path.read_bytes()
        subprocess.run([path], check=True)


def test_no_standin_is_made_of_what_is_no_runsc(tmp_path: Path) -> None:
    other = tmp_path / "runsc"
    other.write_text("#!/bin/sh\necho runsc version 1\n")
    other.chmod(0o755)
    with pytest.raises(ValueError, match="ELF"):
        build(tmp_path / "made", original=other)
    with pytest.raises(ValueError, match="release"):
        build(tmp_path / "made", release='"\n')
    with pytest.raises(ValueError, match="prewarmer"):
        build(tmp_path / "made", releases={"prewarmer": RELEASE})


def test_chosen_runsc_is_what_the_engine_finds(needs_root: None, standin: Installation) -> None:
    def found() -> tuple[str, bool, bool, list[str]]:
        place = Path(TRUSTED_PATHS[0]).parent
        before = {path.name for path in place.iterdir()}
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(0x20000) == 0, ctypes.get_errno()
        put_in_place(standin.runsc)
        runsc = Path(resolve(None, {}).path)
        same = [os.path.samefile(runsc.parent / "gvisor-bin" / path.name, path) for path in standin.files[1:]]
        left = before - {path.name for path in place.iterdir()}
        return str(runsc), runsc.samefile(standin.runsc), all(same), sorted(left - {"gvisor-bin"})

    assert in_a_child(found) == (TRUSTED_PATHS[0], True, True, [])
