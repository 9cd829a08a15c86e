"""Who runs the engine in these tests, where, and that nothing is left of it afterwards."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from engine.survey.busybox import BUSYBOX_PATHS, static_busybox
from tests.support.bare import bare_flags
from tests.support.harness import (
    TIMEOUT,
    Caller,
    Engine,
    cgroups_of,
    processes_about,
    unprivileged_user,
    wait_for,
    waiting_program,
    whoever_runs_the_suite,
)
from tests.support.standin import PACKAGED, Installation, build
from tools.make_rootfs import make_rootfs
from tools.system_parts import OLD_RUNSC

CALLERS = ("root", "unprivileged")

#: Where directories of temporary use lie, in the order in which they are tried.
_TEMPORARY = ("/tmp", "/var/tmp", "/run", "/dev/shm")


#: What the containers of these tests use. It is copied for each bundle, so it is no more than that.
_APPLETS = {"cat", "cut", "dmesg", "ls", "mkdir", "nc", "rm", "sh", "sleep", "stty", "tail", "touch", "true"}


@pytest.fixture(scope="session", autouse=True)
def ordinary_signals() -> Iterator[None]:
    """What started the suite may ignore SIGINT or SIGHUP (`&`, nohup), and every process here would inherit that."""
    kept_from_us = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
    ignored = [number for number in kept_from_us if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session")
def arena() -> Iterator[Path]:
    """A directory of our own that everyone can enter, on a path that nobody else can rewrite."""
    for place in _TEMPORARY:
        if os.path.isdir(place) and not os.statvfs(place).f_flag & os.ST_NOEXEC:
            break
    else:
        pytest.fail(f"none of {', '.join(_TEMPORARY)} is a directory in which programs can be executed")
    directory = Path(tempfile.mkdtemp(prefix="ge-", dir=os.path.realpath(place)))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)
    assert str(directory) not in Path("/proc/self/mountinfo").read_text()


@pytest.fixture(scope="session")
def caller_named(arena: Path) -> Callable[[str], Caller]:
    """Callers by name, each made when it is first asked for."""

    @cache
    def make(name: str) -> Caller:
        if name == "unprivileged" and os.geteuid() == 0:
            home = arena / "home"
            user = unprivileged_user(arena, home)
            home.mkdir(mode=0o700)
            os.chown(home, user.uid, user.gid)
            return user
        return whoever_runs_the_suite(arena)

    return make


@pytest.fixture(params=CALLERS)
def who(request: pytest.FixtureRequest) -> str:
    """The kind of caller. A suite that is not run by root has one kind only."""
    name: str = request.param
    if name == "root" and os.geteuid() != 0:
        pytest.skip("needs root")
    return name


@pytest.fixture
def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(scope="session")
def runsc() -> Path:
    """The runsc that the engine finds by itself."""
    from engine.lifecycle.resolve import TRUSTED_PATHS

    for path in map(Path, TRUSTED_PATHS):
        if os.access(path, os.X_OK):
            return path.resolve()
    pytest.fail(f"no runsc at {', '.join(TRUSTED_PATHS)}; ./just setup installs it")


@pytest.fixture(scope="session")
def old_runsc(arena: Path) -> Path:
    """The runsc of Debian 12, where every caller may execute it."""
    if not os.path.exists(OLD_RUNSC):
        pytest.skip("needs Debian 12's own runsc, which ./just setup brings on a Debian 12")
    path = arena / "runsc-of-debian-12"
    shutil.copyfile(OLD_RUNSC, path)
    path.chmod(0o755)
    return path


@pytest.fixture(scope="session")
def standin(arena: Path) -> Installation:
    """An installation in the layout of 2026, made of Debian's runsc, where every caller may execute it."""
    if not PACKAGED.exists() or os.uname().machine != "x86_64":
        pytest.skip(f"needs {PACKAGED} for x86-64, of which a stand-in is made")
    return build(arena / "standin")


@pytest.fixture(params=["one file", "several files"])
def of_each_layout(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Options by which engine-oci takes the runsc that it finds by itself, or the stand-in."""
    if request.param == "one file":
        return ()
    installation: Installation = request.getfixturevalue("standin")
    return (f"--runsc={installation.runsc}",)


@pytest.fixture(scope="session")
def rootfs(arena: Path) -> Path:
    """The root file system that bundles are given a copy of."""
    busybox = static_busybox()
    if busybox is None:
        pytest.fail(f"no static busybox among {', '.join(BUSYBOX_PATHS)}; ./just setup installs it")
    path = arena / "rootfs"
    make_rootfs(str(path), busybox)
    for applet in (path / "bin").iterdir():
        if applet.is_symlink() and applet.name not in _APPLETS:
            applet.unlink()
    return path


_numbers = itertools.count()


@pytest.fixture
def new_engine(
    arena: Path, rootfs: Path, caller_named: Callable[[str], Caller]
) -> Iterator[Callable[[str], Engine]]:
    """Makes an engine for the caller of that name. What it started is gone when the test is over."""
    made: list[Engine] = []

    def make(name: str) -> Engine:
        caller = caller_named(name)
        directory = arena / str(next(_numbers))
        directory.mkdir(mode=0o700)
        os.chown(directory, caller.uid, caller.gid)
        made.append(Engine(caller, directory, rootfs, base=directory / "base"))
        return made[-1]

    yield make
    for engine in made:
        for process in engine.processes:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=TIMEOUT)
        strays = _strays(engine.directory)
        _remove(engine.directory)
        assert not strays
        for container_id in engine.ids:
            # A killed runsc leaves its cgroups; that the engine removes them is a test of its own.
            wait_for(f"the end of the cgroups of {container_id}", lambda: _removed(cgroups_of(container_id)))  # noqa: B023


def _remove(directory: Path) -> None:
    """Remove the tree, also where its directories were made without the modes that it takes."""
    for path, _, _ in os.walk(directory):
        for entry in os.scandir(path):
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.path, 0o700)
    shutil.rmtree(directory)


def _removed(cgroups: list[Path]) -> bool:
    """Whether these could be removed: one in which something still ends cannot."""
    try:
        for cgroup in cgroups:
            cgroup.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def _strays(directory: Path) -> dict[int, str]:
    """The processes that outlive what they belong to by more than a moment."""
    end = time.monotonic() + TIMEOUT
    while (strays := processes_about(directory)) and time.monotonic() < end:
        time.sleep(0.01)
    return strays


@pytest.fixture
def idle_engine(new_engine: Callable[[str], Engine], who: str) -> Engine:
    """An engine for tests in which no container is run."""
    return new_engine(who)


@pytest.fixture(scope="session")
def why_no_user_namespace(caller_named: Callable[[str], Caller]) -> Callable[[], str | None]:
    """Why the unprivileged user may not make a user namespace, without which runsc cannot serve it."""
    return cache(lambda: caller_named("unprivileged").runs("unshare", "--map-root-user", "true"))


@pytest.fixture
def engine(idle_engine: Engine, who: str, why_no_user_namespace: Callable[[], str | None]) -> Engine:
    """An engine for tests that run containers."""
    if who == "unprivileged" and (why := why_no_user_namespace()):
        pytest.skip(f"no unprivileged user namespaces: {why}")
    return idle_engine


@pytest.fixture
def waiting_runsc(idle_engine: Engine) -> Path:
    """A program to run in the place of runsc that has nothing and does nothing of its own."""
    program = waiting_program()
    if program is None:
        pytest.skip(f"no program that waits is known for {os.uname().machine}")
    path = idle_engine.write(idle_engine.directory / "waiting", program)
    path.chmod(0o755)
    return path


@pytest.fixture
def root_engine(needs_root: None, new_engine: Callable[[str], Engine]) -> Engine:
    """root's, for what only root meets."""
    return new_engine("root")


@pytest.fixture
def unprivileged_engine(
    new_engine: Callable[[str], Engine], why_no_user_namespace: Callable[[], str | None]
) -> Engine:
    """An ordinary user's, for what root does not meet."""
    if why := why_no_user_namespace():
        pytest.skip(f"no unprivileged user namespaces: {why}")
    return new_engine("unprivileged")


@pytest.fixture(scope="session")
def why_no_platform() -> dict[tuple[str, str], str | None]:
    """What was found out about each caller and platform: why a bare runsc does not run; None when it does."""
    return {}


@pytest.fixture(params=("systrap", "ptrace"))
def platform(
    request: pytest.FixtureRequest,
    engine: Engine,
    who: str,
    runsc: Path,
    why_no_platform: dict[tuple[str, str], str | None],
) -> str:
    """A platform on which a bare runsc runs a container here."""
    name: str = request.param
    if (who, name) not in why_no_platform:
        why_no_platform[who, name] = _try_platform(engine, runsc, name)
    if why := why_no_platform[who, name]:
        pytest.skip(f"a bare runsc does not run on {name} here: {why}")
    return name


def _try_platform(engine: Engine, runsc: Path, name: str) -> str | None:
    root = engine.make_directory("bare-root", 0o700)
    flags = [
        f"--root={root}",
        f"--platform={name}",
        "--network=none",
        *bare_flags(runsc),
        *engine.caller.options,
    ]
    bundle = engine.bundle(name="bare-bundle")
    trial = engine.start([str(runsc), *flags, "run", f"--bundle={bundle}", engine.new_id()])
    try:
        finished = engine.finish(trial)
    except subprocess.TimeoutExpired:
        return f"it took more than {TIMEOUT:.0f} s"
    return None if finished.code == 0 else finished.stderr.strip() or f"exit code {finished.code}"


@pytest.fixture
def small_base(root_engine: Engine, runsc: Path) -> Iterator[Path]:
    """A base on a file system of its own, with room for two copies of runsc and of its sidecars."""
    root_engine.base.mkdir(mode=0o700)
    files = [runsc, *(runsc.parent / "gvisor-bin").glob("*")]
    size = 2 * sum(file.stat().st_size for file in files) + (20 << 20)
    options = f"size={size},mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", root_engine.base], check=True)
    yield root_engine.base
    subprocess.run(["umount", root_engine.base], check=True)
