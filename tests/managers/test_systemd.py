"""Services of a systemd that was booted: `engine run --detach`, and the example's unit for bundles."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.cli.detach import unit_name
from engine.state.container import component
from engine.survey.busybox import static_busybox
from tests.managers.arena import Done, eventually
from tests.managers.booted import SYSTEMD, USER, Booted, boot, why_not
from tests.support.bundles import write_config
from tools.make_rootfs import make_rootfs

UNIT = Path(__file__).parents[2] / "examples" / "systemd" / "engine@.service"
#: Where the example's unit looks for bundles, and where containers of it and others leave what they leave.
BUNDLES = Path("/var/lib/gvisor-engine")
BASE = "/run/gvisor-engine"
TRACES = "/var/lib/gvisor-engine/traces"
ENGINE = Path(sys.executable).with_name("engine")


@pytest.fixture(scope="module")
def machine() -> Iterator[Booted]:
    """A systemd that knows the example's unit as it is."""
    if lacks := why_not():
        pytest.skip(lacks)
    if not SYSTEMD.exists():
        pytest.fail(f"no {SYSTEMD}; ./just setup installs it")
    with tempfile.TemporaryDirectory(prefix="ge-booted-") as directory, contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(boot(Path(directory), [UNIT]))
        except RuntimeError as why:
            pytest.skip(f"no namespaces in which a systemd could be booted: {why}")
        yield made


@pytest.fixture
def booted(machine: Booted) -> Iterator[Booted]:
    """The same, in which nothing runs after a test, is mounted or has a cgroup that was not there before."""
    before = _state(machine)
    yield machine
    try:
        eventually("the end of what a service left", lambda: _state(machine) <= before, patience=10)
    except TimeoutError:
        pytest.fail(f"left behind: {sorted(_state(machine) - before)}")


def _state(machine: Booted) -> set[str]:
    return machine.programs() | machine.mounts() | machine.cgroups()


def bundle(booted: Booted, name: str, script: str) -> Path:
    """A bundle in which a shell runs `script`, as it is called there."""
    here = booted.bundles / name
    here.mkdir()
    busybox = static_busybox()
    assert busybox is not None, "./just setup installs a static busybox"
    make_rootfs(str(here / "rootfs"), busybox)
    write_config(here, process={"args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"]})
    return BUNDLES / name


def detach(booted: Booted, path: Path, *options: str) -> Done:
    return booted.run(ENGINE, "run", path, "--detach", *options)


def said(booted: Booted, unit: str) -> list[str]:
    """What the unit's own processes have put into the journal."""
    return booted.journal(f"_SYSTEMD_UNIT={unit}", "--output=cat").splitlines()


def result(booted: Booted, unit: str) -> str | None:
    """The exit code that systemd noted for the unit's process, systemd.journal-fields(7); None while there is none."""
    for line in booted.journal(f"UNIT={unit}", "--output=json").splitlines():
        if (entry := json.loads(line)).get("EXIT_CODE") == "exited":
            return str(entry["EXIT_STATUS"])
    return None


def starts(booted: Booted, unit: str, line: str) -> None:
    """Wait until the container says `line`."""
    eventually(f"{unit} says {line!r}", lambda: line in said(booted, unit))


def stopped(booted: Booted, unit: str) -> None:
    booted.run("systemctl", "stop", unit).ok()
    assert booted.show(unit, "ActiveState") == "inactive"


def test_detached_run_is_an_active_unit_until_stopped(
    booted: Booted,
) -> None:
    path = bundle(booted, "stays", "echo to stdout; echo to stderr >&2; exec sleep 1000")
    started = detach(booted, path, "--id", "stays-1")
    assert started.ok() == "stays-1\n"
    unit = unit_name("stays-1")
    assert f"journalctl -t {unit.removesuffix('.service')}" in started.stderr
    assert booted.show(unit, "ActiveState") == "active"
    starts(booted, unit, "to stdout")
    starts(booted, unit, "to stderr")
    assert booted.root(BASE).is_dir()
    told = booted.run(*started.stderr.rpartition(": ")[2].split(), "--output=cat", "--no-pager").ok()
    assert {"to stdout", "to stderr"} <= set(told.splitlines())
    assert any(program.startswith("runsc-sandbox ") for program in booted.programs())
    stopped(booted, unit)


def test_a_detached_runs_exit_code_is_its_units_result(booted: Booted) -> None:
    path = bundle(booted, "ends", "echo on its way; exit 7")
    assert detach(booted, path, "--id", "ends").code == 0
    unit = unit_name("ends")
    assert eventually("the unit has a result", lambda: result(booted, unit)) == "7"
    assert "on its way" in said(booted, unit)


def test_a_stopped_unit_lets_its_program_clean_up(booted: Booted) -> None:
    script = "trap 'echo cleaned; exit 7' TERM; echo lives; while :; do sleep 0.1; done"
    path = bundle(booted, "cleans", script)
    name = detach(booted, path).ok().strip()
    starts(booted, unit_name(name), "lives")
    stopped(booted, unit_name(name))
    assert "cleaned" in said(booted, unit_name(name))
    (trace,) = (booted.root(TRACES)).glob(f"{name}-*.jsonl")
    end = json.loads(trace.read_text().splitlines()[-1])
    assert (end["next"], end["facts"]["exit_code"]) == ("ended", 7)


def test_detached_run_leaves_only_its_trace(booted: Booted) -> None:
    for how in ("SIGTERM", "SIGKILL"):
        path = bundle(booted, f"ended-by-{how}", "echo lives; exec sleep 1000")
        name = detach(booted, path).ok().strip()
        unit = unit_name(name)
        starts(booted, unit, "lives")
        booted.run("systemctl", "kill", f"--signal={how}", unit).ok()
        eventually("its end", lambda unit=unit: booted.show(unit, "ActiveState") == "inactive")  # type: ignore[misc]
        kept = [str(path) for path in booted.root(BASE).rglob("*") if not path.is_dir()]
        assert kept == []
        assert len(list(booted.root(TRACES).glob(f"{name}-*.jsonl"))) == 1


def test_an_id_that_is_alive_is_not_taken_again(booted: Booted) -> None:
    path = bundle(booted, "twice", "echo lives; exec sleep 1000")
    assert detach(booted, path, "--id", "twice").code == 0
    starts(booted, unit_name("twice"), "lives")
    second = detach(booted, path, "--id", "twice")
    assert (second.code, second.stdout) == (125, "")
    assert "engine: detach: systemd refused it" in second.stderr
    stopped(booted, unit_name("twice"))


def test_a_path_reaches_a_detached_run_as_it_is(booted: Booted) -> None:
    path = bundle(booted, "odd $PATH ${HOME} $$ %n %% \\x20 'q' \"d\"", "echo found; exit 3")
    done = detach(booted, path, "--id", "odd")
    assert done.code == 0, done
    assert eventually("the unit has a result", lambda: result(booted, unit_name("odd"))) == "3"
    assert "found" in said(booted, unit_name("odd"))


def test_refusal_of_a_detached_run_is_in_the_journal(booted: Booted) -> None:
    path = bundle(booted, "refused", "true")
    assert detach(booted, path, "--id", "refused", "--runsc", "/nowhere/runsc").code == 0
    assert eventually("the unit has a result", lambda: result(booted, unit_name("refused"))) == "125"
    assert any("engine: resolve: " in line for line in said(booted, unit_name("refused")))


def test_example_unit_starts_and_stops_and_leaves_only_a_trace(booted: Booted) -> None:
    bundle(booted, "web", "echo serving; exec sleep 1000")
    booted.run("systemctl", "start", "engine@web").ok()
    starts(booted, "engine@web.service", "serving")
    assert booted.show("engine@web", "ActiveState") == "active"
    stopped(booted, "engine@web")
    assert not (booted.root(BASE) / component("service-web")).exists()
    assert len(list(booted.root(TRACES).glob("service-web-*.jsonl"))) == 1


def test_example_unit_restarts_a_failure_but_no_refusal(booted: Booted) -> None:
    bundle(booted, "fails", "exit 9")
    bundle(booted, "bad", "true")
    (booted.bundles / "bad" / "config.json").write_text("{}")
    booted.run("systemctl", "start", "engine@fails")
    booted.run("systemctl", "start", "engine@bad")
    eventually("it is refused", lambda: booted.show("engine@bad", "ActiveState") == "failed")
    assert booted.show("engine@bad", "ExecMainStatus") == "125"
    eventually("it is started again", lambda: int(booted.show("engine@fails", "NRestarts")) > 0)
    assert result(booted, "engine@fails.service") == "9"
    booted.run("systemctl", "stop", "engine@fails")
    assert booted.show("engine@bad", "NRestarts") == "0"
    booted.run("systemctl", "reset-failed").ok()


def test_the_examples_unit_of_no_bundle_starts_nothing(booted: Booted) -> None:
    booted.run("systemctl", "start", "engine@missing").ok()
    assert booted.show("engine@missing", "ConditionResult") == "no"
    assert booted.show("engine@missing", "ActiveState") == "inactive"


@pytest.fixture
def users_manager(booted: Booted) -> Iterator[Booted]:
    """The same with the systemd of an ordinary user."""
    unit = f"user@{USER}"
    booted.run("systemctl", "start", unit).ok()
    yield booted
    booted.run("systemctl", "stop", unit).ok()


def test_users_detached_run_is_a_unit_of_the_users_systemd(users_manager: Booted) -> None:
    booted = users_manager
    path = bundle(booted, "users", "echo mine; exec sleep 1000")
    for part in (booted.bundles / "users", *(booted.bundles / "users").rglob("*")):
        os.chown(part, USER, USER, follow_symlinks=False)
    rootless = ("--rootless", "--ignore-cgroups")
    started = booted.run_as_user(ENGINE, "run", path, "--detach", "--id", "users", *rootless)
    assert started.ok() == "users\n"
    assert "journalctl --user -t engine-users" in started.stderr
    mine = f"_SYSTEMD_USER_UNIT={unit_name('users')}"
    eventually("its output is in the journal", lambda: "mine" in booted.journal(mine, "--output=cat"))
    state = ["systemctl", "--user", "show", "--value", "--property=ActiveState", unit_name("users")]
    assert booted.run_as_user(*state).ok() == "active\n"
    again = booted.run_as_user(ENGINE, "run", path, "--detach", "--id", "users", *rootless)
    assert again.code == 125
    assert "see systemctl --user status engine-users.service" in again.stderr
    booted.run_as_user("systemctl", "--user", "stop", unit_name("users")).ok()
    assert booted.run_as_user(*state).ok() == "inactive\n"
    assert list(booted.root(f"/run/user/{USER}/gvisor-engine").iterdir()) == []
    (trace,) = booted.run_as_user(ENGINE, "trace", "list", "--json").ok().splitlines()
    assert json.loads(trace)["container"] == "users"
