"""The runner: every failure is a recorded refusal, nothing half-made stays, and only a whole walk hands off."""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import json
import os
import resource
import signal
import stat
import threading
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from engine.bundle.bundle import Bundle, open_bundle
from engine.enforcement.judge import Unenforced
from engine.errors import EngineError, Reason
from engine.lifecycle import policy, runner
from engine.lifecycle import stage as stage_step
from engine.lifecycle.given_config import give_config
from engine.lifecycle.plan import plan
from engine.lifecycle.resolve import Resolved, resolve
from engine.lifecycle.runner import NO_TRACE, run
from engine.lifecycle.secure_root import PodSandbox, StateDirs, secure_root
from engine.lifecycle.stage import Staged
from engine.linux.boot import boot_id, login_user
from engine.linux.files import PrivateDirectory, open_private_directory
from engine.options import ExecPolicy, Network, Platform, RunOptions
from engine.runsc import execute
from engine.runsc.arguments import RUN, RunscArguments, build_argv, build_environment
from engine.state.container import component, open_runsc_root
from engine.traces.chained import ChainedRun
from engine.traces.writer import Trace, options_facts
from engine.verify.trace_check import verify
from tests.support.bundles import make_bundle, write_config
from tests.support.refusals import check, refuses

COMPONENT = component("web")


class HandedOffError(BaseException):
    """Stands for the process that runsc replaced."""


class Manager:
    """Whoever starts the container: notes what the run tells it and takes back what it recorded."""

    def __init__(
        self, world: World, *, runsc_arguments: RunscArguments = RUN, sandbox: str | None = None
    ) -> None:
        self.runsc_arguments = runsc_arguments
        self._world = world
        self._sandbox = sandbox
        self.told: list[Any] = []
        self.closed = False

    @property
    def joins_a_pod(self) -> bool:
        return self._sandbox is not None

    def keep_trace(self, trace: Trace) -> ChainedRun | None:
        trace.create(str(self._world.trace))
        self.told.append("trace")
        return None

    def learned(self, found: Sequence[Unenforced]) -> None:
        self.told.append(("learned", [each.name for each in found]))

    def join(self, base: PrivateDirectory) -> PodSandbox | None:
        self.told.append(("join", base.path))
        if self._sandbox is None:
            return None
        container = open_private_directory(base.descriptor, base.path, component(self._sandbox))
        digest = hashlib.sha256(self._world.binary.read_bytes()).hexdigest()
        return PodSandbox(self._sandbox, container, open_runsc_root(container), digest)

    def secured(self, root: StateDirs, trace: str | None) -> Manager:
        self.told.append(("secured", root.container.path, trace))
        return self

    def about_to_hand_off(self, root: StateDirs, staged: Staged, platform: Platform) -> None:
        self.told.append(("hand off", root.container.path, staged.runsc.path, platform))

    def discard(self) -> list[str]:
        return ["the record"]

    def close(self) -> None:
        self.closed = True


class World:
    """A bundle, a binary and an artifact base, and what a run did to them."""

    def __init__(self, private: Path, binary: Path) -> None:
        self.binary = binary
        self.base = private / "base"
        self.trace = private / "trace.jsonl"
        self.bundle = make_bundle(private / "bundle")
        self.warnings: list[str] = []
        self.environment = {"ENGINE_ARTIFACT_BASE": str(self.base)}

    def run(self, *, trace: bool = True, manager: Manager | None = None, **options: Any) -> None:
        chosen = RunOptions("web", **{"runsc": str(self.binary), **options})
        path = str(self.trace) if trace else None
        with open_bundle(str(self.bundle)) as bundle:
            warn = self.warnings.append
            run(bundle, chosen, self.environment, trace_path=path, manager=manager, warn=warn)

    def refused(self, **options: Any) -> tuple[EngineError, list[dict[str, Any]]]:
        before = sorted(os.listdir("/proc/self/fd"))
        with pytest.raises(EngineError) as refusal:
            self.run(**options)
        assert sorted(os.listdir("/proc/self/fd")) == before, "a refused run left a descriptor open"
        return refusal.value, self.lines()

    def lines(self) -> list[dict[str, Any]]:
        path = self.trace if self.trace.exists() else next((self.base / "traces").glob("web-*"))
        return [json.loads(line) for line in path.read_text().splitlines()]

    def nothing_is_left(self) -> bool:
        return not self.base.exists() or {path.name for path in self.base.rglob("*")} <= {"traces", "chain"}


@pytest.fixture
def world(private: Path, binary: Path) -> World:
    return World(private, binary)


@pytest.fixture(autouse=True)
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[str], dict[str, str]]]:
    """What execve was given; the process lives on, also where a test expects a refusal and there is none."""
    seen: list[tuple[int, list[str], dict[str, str]]] = []

    def execve(program: int, argv: list[str], environment: dict[str, str]) -> None:
        seen.append((program, list(argv), dict(environment)))
        raise HandedOffError

    monkeypatch.setattr("os.execve", execve)
    monkeypatch.setattr(execute, "keep_only_descriptors", lambda _: None)
    return seen


def test_what_deserves_a_word_is_warned_of_and_recorded_twice(world: World) -> None:
    mounts = [{"destination": "/bin", "type": "bind", "source": "/etc"}]
    make_bundle(world.bundle, mounts=mounts, annotations={"dev.gvisor.spec.mount.a.share": "pod"})
    with pytest.raises(HandedOffError):
        world.run(network=Network.HOST)
    assert len(world.warnings) == 4
    header, *_, executed = world.lines()
    assert header["bundle"]["grants"] == ["binds_etc", "writable_system", "over_programs", "host_network"]
    assert header["bundle"]["hints"] == {"dev.gvisor.spec.mount.a.share": "pod"}
    assert executed["facts"]["bundle"] == header["bundle"]
    (result,) = verify([str(world.trace)])
    assert result.verdict.is_good, result


def test_good_run_records_six_moves_and_execs_the_staged_copy(
    world: World, given: list[tuple[int, list[str], dict[str, str]]]
) -> None:
    content = world.binary.read_bytes()
    with pytest.raises(HandedOffError):
        world.run()
    lines = world.lines()
    assert [line["seq"] for line in lines] == list(range(7))
    assert [line["trigger"] for line in lines[1:]] == [
        *("resolve", "validate", "secure_root", "stage", "apply_policy", "exec")
    ]
    assert lines[-1]["next"] == "handed_off"
    [(program, argv, environment)] = given
    assert os.pread(program, len(content) + 1, 0) == content
    root = world.base / COMPONENT / "runsc-root"
    assert argv == list(
        build_argv(argv[0], str(root), RunOptions("web"), Platform.SYSTRAP, str(root / "bundle"))
    )
    assert argv[0].startswith(str(root / "exec-allow" / "stage-"))
    assert environment == build_environment(str(root / "runtime"))
    assert (lines[-1]["facts"]["argv"], lines[-1]["facts"]["environment"]) == (argv, environment)


def test_header_names_options_engine_and_bundle(
    world: World, given: list[tuple[int, list[str], dict[str, str]]]
) -> None:
    chosen: dict[str, Any] = {"rootless": True, "exec_policy": ExecPolicy.OFF, "runsc": str(world.binary)}
    with pytest.raises(HandedOffError):
        world.run(**chosen)
    assert given
    header = world.lines()[0]
    assert header["options"] == options_facts(RunOptions("web", **chosen))
    assert header["bundle"]["path"] == str(world.bundle)
    assert len(header["spec"]) == len(header["bundle"]["sha256"]) == 64
    host = os.uname()
    assert header["host"] == {
        "kernel": host.release,
        "machine": host.machine,
        "user": os.geteuid(),
        "name": host.nodename,
        "boot": boot_id(),
        "login_user": login_user(),
    }
    assert header["container"] == "web"
    assert set(header) == {
        *(
            "seq",
            "time",
            "monotonic_ns",
            "container",
            "previous",
            "format",
            "engine",
            "spec",
            "options",
            "bundle",
            "host",
            "asked",
        )
    }


def test_the_policy_is_settled_for_the_runs_own_bundle(
    world: World, given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[Any] = []

    def apply_policy(options: RunOptions, bundle: Bundle, staged: Staged, *more: Any) -> Any:
        settled.append((options.container_id, bundle.path, Path(staged.runsc.path).name))
        return policy.apply_policy(options, bundle, staged, *more)

    monkeypatch.setattr("engine.lifecycle.runner.apply_policy", apply_policy)
    with pytest.raises(HandedOffError):
        world.run()
    assert settled == [("web", str(world.bundle), "runsc")]


def lose_the_binary(world: World) -> None:
    world.binary.unlink()


def loosen_the_binary(world: World) -> None:
    world.binary.chmod(0o777)


def put_a_file_in_the_place_of_a_directory(world: World) -> None:
    world.base.mkdir(mode=0o700)
    (world.base / COMPONENT).mkdir()
    (world.base / COMPONENT / "runsc-root").touch()


def nothing(_: World) -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "options", "step", "state"),
    [
        (lose_the_binary, {}, "resolve", "start"),
        (loosen_the_binary, {}, "validate", "resolved"),
        (put_a_file_in_the_place_of_a_directory, {}, "secure_root", "validated"),
        (nothing, {"require_exec_policy": True}, "apply_policy", "staged"),
    ],
)
def test_refusal_is_recorded_with_its_step_and_cleans_up(
    world: World, spoil: Callable[[World], None], options: dict[str, Any], step: str, state: str
) -> None:
    spoil(world)
    before = sorted(world.base.rglob("*"))
    error, lines = world.refused(**options)
    assert error.step == step
    assert (lines[-1]["state"], lines[-1]["trigger"], lines[-1]["next"]) == (state, "refuse", "refused")
    assert lines[-1]["error"] == {
        "step": step,
        "reason": error.reason,
        "what": error.what,
        "hint": error.hint,
    }
    assert "\n" not in str(error)
    left = [path for path in sorted(world.base.rglob("*")) if path.name not in ("lock", "traces", "chain")]
    assert left == before


def test_a_copy_that_the_kernel_stops_is_refused_and_taken_back(world: World) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        error, lines = world.refused()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (error.step, lines[-1]["state"]) == ("stage", "root_secured")
    assert "File too large" in error.what
    assert world.nothing_is_left()


def test_what_was_cleaned_up_is_recorded(world: World) -> None:
    _, lines = world.refused(require_exec_policy=True)
    cleaned = lines[-1]["facts"]["cleaned"]
    container = world.base / COMPONENT
    assert cleaned[-1] == str(container)
    assert any("stage-" in path for path in cleaned)
    assert not container.exists()


@pytest.mark.parametrize(
    "step",
    ["resolve", "validate", "secure_root", "stage", "apply_policy", "give_config", "prepare", "hand_off"],
)
def test_a_config_written_anew_does_not_reach_runsc(
    world: World, given: list[Any], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    written = json.loads((world.bundle / "config.json").read_bytes())
    act = getattr(runner, step)

    def swapped(*arguments: Any, **more: Any) -> Any:
        write_config(world.bundle, hostname="other")
        return act(*arguments, **more)

    monkeypatch.setattr(runner, step, swapped)
    with pytest.raises(HandedOffError):
        world.run()
    [(_, argv, _)] = given
    config = Path(argv[argv.index("--bundle") + 1]) / "config.json"
    written["root"]["path"] = str(world.bundle / "rootfs")
    assert json.loads(config.read_bytes()) == written
    facts = world.lines()[-1]["facts"]
    assert facts["config"]["sha256"] == sha256(config.read_bytes()).hexdigest() != facts["bundle"]["sha256"]
    assert facts["config"]["changes"] == {"root_path": str(world.bundle / "rootfs")}


def test_a_config_without_relative_paths_is_given_as_it_is(world: World, given: list[Any]) -> None:
    write_config(world.bundle, root={"path": str(world.bundle / "rootfs")})
    with pytest.raises(HandedOffError):
        world.run()
    [(_, argv, _)] = given
    config = Path(argv[argv.index("--bundle") + 1]) / "config.json"
    assert config.read_bytes() == (world.bundle / "config.json").read_bytes()
    assert (stat.S_IMODE(config.stat().st_mode), stat.S_IMODE(config.parent.stat().st_mode)) == (0o400, 0o700)
    facts = world.lines()[-1]["facts"]
    assert facts["config"] == {"sha256": facts["bundle"]["sha256"]}


def test_a_replaced_copy_of_the_config_is_refused_before_exec(
    world: World, given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def give(*arguments: Any) -> Any:
        written = give_config(*arguments)
        config = Path(written.path) / "config.json"
        config.rename(config.with_name("away"))
        config.write_bytes(written.config.data)
        config.with_name("away").unlink()
        return written

    monkeypatch.setattr("engine.lifecycle.runner.give_config", give)
    error, _ = world.refused()
    check(error, Reason.COPY_CHANGED, "config.json")
    assert given == []
    assert world.nothing_is_left()


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (lambda place: place.symlink_to("/tmp"), Reason.ROOT_CHANGED),
        (lambda place: place.write_text(""), Reason.ROOT_CHANGED),
        (lambda place: (place.mkdir(mode=0o700), (place / "config.json").write_text("{}")), Reason.FAILURE),
    ],
)
def test_what_lies_in_the_place_of_the_given_bundle_is_not_used(
    world: World, given: list[Any], monkeypatch: pytest.MonkeyPatch, plant: Any, reason: Reason
) -> None:
    def apply_policy(*arguments: Any) -> Any:
        plant(world.base / COMPONENT / "runsc-root" / "bundle")
        return policy.apply_policy(*arguments)

    monkeypatch.setattr("engine.lifecycle.runner.apply_policy", apply_policy)
    error, _ = world.refused()
    assert (error.step, error.reason) == ("exec", str(reason))
    assert given == []


def test_changed_bundle_is_refused_before_exec(
    world: World, given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:

    def apply_policy(*arguments: Any) -> Any:
        (world.bundle / "rootfs").rename(world.bundle / "away")
        (world.bundle / "rootfs").mkdir()
        return policy.apply_policy(*arguments)

    monkeypatch.setattr("engine.lifecycle.runner.apply_policy", apply_policy)
    error, lines = world.refused()
    assert (error.step, lines[-1]["state"]) == ("exec", "policy_settled")
    assert error.reason is Reason.BUNDLE_CHANGED
    assert given == []
    assert world.nothing_is_left()


def test_replaced_state_directory_is_refused_before_exec(
    world: World, given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:

    def apply_policy(*arguments: Any) -> Any:
        runtime = world.base / COMPONENT / "runsc-root" / "runtime"
        runtime.rmdir()
        runtime.symlink_to("/tmp")
        return policy.apply_policy(*arguments)

    monkeypatch.setattr("engine.lifecycle.runner.apply_policy", apply_policy)
    error, _ = world.refused()
    assert error.step == "exec"
    assert error.reason is Reason.ROOT_CHANGED
    assert given == []


@pytest.mark.parametrize("put_back", ["link", "file", "empty directory", "nothing"])
def test_failed_clean_up_does_not_hide_the_refusal(
    world: World, given: list[Any], monkeypatch: pytest.MonkeyPatch, private: Path, put_back: str
) -> None:
    def apply_policy(*arguments: Any) -> Any:
        container = world.base / COMPONENT
        container.rename(private / "moved")
        if put_back == "link":
            container.symlink_to(private / "moved")
        elif put_back == "file":
            container.touch()
        elif put_back == "empty directory":
            container.mkdir()
        return policy.apply_policy(*arguments)

    monkeypatch.setattr("engine.lifecycle.runner.apply_policy", apply_policy)
    error, lines = world.refused()
    assert error.reason is Reason.ROOT_CHANGED
    assert lines[-1]["next"] == "refused"
    assert given == []
    assert os.path.lexists(world.base / COMPONENT) is (put_back != "nothing")


def test_signal_before_the_hand_off_is_a_clean_refusal(
    world: World, given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:

    def stage(*arguments: Any) -> Any:
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        return stage_step.stage(*arguments)

    monkeypatch.setattr("engine.lifecycle.runner.stage", stage)
    error, lines = world.refused()
    assert error.step == "apply_policy"
    check(error, Reason.STOPPED, "SIGTERM")
    assert lines[-1]["next"] == "refused"
    assert given == []
    assert world.nothing_is_left()


def test_a_fault_of_the_engine_is_a_refusal_too(
    world: World, given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stage(*_: Any) -> Any:
        raise KeyError("secret")

    monkeypatch.setattr("engine.lifecycle.runner.stage", stage)
    error, lines = world.refused()
    check(error, Reason.UNEXPECTED, "KeyError", "stage")
    assert "secret" not in str(error)
    assert lines[-1]["error"]["what"] == error.what
    assert given == []
    assert world.nothing_is_left()


def test_unexpected_system_error_is_a_refusal_of_its_step(
    world: World, given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stage(*_: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/a/file")

    monkeypatch.setattr("engine.lifecycle.runner.stage", stage)
    error, lines = world.refused()
    assert error.step == "stage"
    check(error, Reason.FAILURE, "'/a/file': Too many open files")
    assert "ulimit" in error.hint
    assert lines[-1]["error"]["step"] == "stage"
    assert given == []
    assert world.nothing_is_left()


def test_early_refusal_is_recorded_in_the_usual_directory(world: World) -> None:
    world.binary.chmod(0o777)
    _, lines = world.refused(trace=False)
    assert [line.get("trigger") for line in lines] == [None, "resolve", "refuse"]
    secure_root("web", world.environment).close()  # its lock was let go of


def test_refusal_of_a_live_id_is_recorded_in_its_directory(world: World) -> None:
    alive = secure_root("web", world.environment)
    world.binary.chmod(0o777)
    _, lines = world.refused(trace=False)
    assert [line.get("trigger") for line in lines] == [None, "resolve", "refuse"]
    assert world.warnings == []
    alive.close()


def test_a_refusal_that_cannot_be_recorded_is_said(world: World) -> None:
    world.base.symlink_to(world.bundle)
    with refuses(EngineError, Reason.ROOT_NOT_PRIVATE):
        world.run(trace=False)
    [warning] = world.warnings
    assert repr(str(world.base)) in warning
    assert "--trace" in warning


def test_a_trace_that_somebody_removed_is_said_to_be_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stage(*_: Any) -> Any:
        world.trace.unlink()
        raise KeyError

    monkeypatch.setattr("engine.lifecycle.runner.stage", stage)
    with pytest.raises(EngineError) as refusal:
        world.run()
    check(refusal.value, Reason.UNEXPECTED, "KeyError")
    [warning] = world.warnings
    assert warning.startswith(NO_TRACE)


def test_failed_clean_up_is_recorded_and_the_rest_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = str(world.base / COMPONENT / "runsc-root" / "runtime")
    for failure, left in (
        (OSError(errno.EIO, os.strerror(errno.EIO)), "Staged: Input/output error"),
        (OSError(errno.EIO, os.strerror(errno.EIO), "/the/copy"), "/the/copy: Input/output error"),
    ):

        def discard(_: Staged, failure: OSError = failure) -> list[str]:
            raise failure

        monkeypatch.setattr(Staged, "discard", discard)
        _, lines = world.refused(require_exec_policy=True)
        assert lines[-1]["facts"] == {"cleaned": [runtime], "left": [left]}
        world.trace.unlink()


def test_runsc_keeps_only_the_lock_and_standard_descriptors(
    world: World, given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    monkeypatch.setattr(execute, "keep_only_descriptors", kept.extend)
    with pytest.raises(HandedOffError):
        world.run()
    assert given
    [lock] = kept
    assert os.path.samestat(os.fstat(lock), (world.base / COMPONENT / "lock").stat())


def test_an_execve_that_comes_back_is_not_taken_for_a_run(
    world: World, given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.execve", lambda *_: None)
    with pytest.raises(AssertionError, match=r"^unreachable: a run is handed off or raises$"):
        world.run()


def test_run_and_plan_search_the_callers_path(
    world: World, given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runsc_arguments: list[tuple[str | None, object]] = []

    def look(chosen: str | None, environment: dict[str, str]) -> Resolved:
        runsc_arguments.append((chosen, environment))
        return resolve(chosen, environment)

    for module in ("runner", "plan"):
        monkeypatch.setattr(f"engine.lifecycle.{module}.resolve", look)
    with pytest.raises(HandedOffError):
        world.run()
    with open_bundle(str(world.bundle)):
        plan(RunOptions("web", runsc=str(world.binary)), world.environment)
    assert runsc_arguments == [(str(world.binary), world.environment)] * 2


def test_plan_with_a_relative_base_and_no_directory_is_refused(
    world: World, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = private / "gone"
    gone.mkdir()
    with open_bundle(str(world.bundle)):
        monkeypatch.chdir(gone)
        gone.rmdir()
        with refuses(EngineError, Reason.FAILURE, "'base'") as refusal:
            plan(RunOptions("web", runsc=str(world.binary)), {"ENGINE_ARTIFACT_BASE": "base"})
    assert refusal.value.step == "secure_root"


def test_run_without_a_place_for_its_trace_takes_no_step(world: World, given: list[Any]) -> None:
    world.trace.write_text("precious")
    with refuses(EngineError, Reason.EXISTS):
        world.run()
    assert world.trace.read_text() == "precious"
    assert not world.base.exists()
    assert given == []


def test_a_chosen_base_has_the_traces_of_its_containers(world: World, given: list[Any]) -> None:
    with pytest.raises(HandedOffError):
        world.run(trace=False)
    assert given
    [path] = (world.base / "traces").glob("web-*.jsonl")
    assert path.stat().st_mode & 0o777 == 0o600


def test_platform_auto_says_when_it_falls_back_to_ptrace(world: World, given: list[Any]) -> None:
    with pytest.raises(HandedOffError):
        world.run()
    assert world.warnings == []
    content = world.binary.read_bytes().replace(b"platform/systrap", b"platform/-------")
    world.binary.write_bytes(content)
    world.trace.unlink()
    world.environment["ENGINE_ARTIFACT_BASE"] += "-2"  # the first run holds its container's lock
    with pytest.raises(HandedOffError):
        world.run()
    assert world.warnings == ["platform ptrace: this runsc has no systrap"]
    argv = given[-1][1]
    assert argv[argv.index("--platform") + 1] == "ptrace"


def test_a_rootless_run_without_a_policy_says_so(world: World, given: list[Any]) -> None:
    with pytest.raises(HandedOffError):
        world.run(rootless=True, exec_policy=ExecPolicy.OFF)
    assert given
    assert world.warnings == ["no execute policy: it was turned off with --exec-policy off"]


# --- A container that somebody manages ------------------------------------------------------------------------


def test_manager_is_told_of_each_stage_and_chooses_the_verb(
    world: World, given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[frozenset[int]] = []
    monkeypatch.setattr(execute, "keep_only_descriptors", kept.append)
    runsc_arguments = RunscArguments("create", ("--pid-file", "/p"), ("--log", "/l"), preserved=2)
    manager = Manager(world, runsc_arguments=runsc_arguments)
    with pytest.raises(HandedOffError):
        world.run(trace=False, manager=manager)
    [(_, argv, _)] = given
    container = world.base / COMPONENT
    assert manager.told == [
        "trace",
        ("learned", ["namespace-shared", "network-shared"]),
        ("join", str(world.base)),
        ("secured", str(container), str(world.trace)),
        ("hand off", str(container), argv[0], Platform.SYSTRAP),
    ]
    assert argv == list(
        build_argv(
            *(argv[0], str(container / "runsc-root"), RunOptions("web"), Platform.SYSTRAP),
            *(str(container / "runsc-root" / "bundle"), runsc_arguments),
        )
    )
    [numbers] = kept
    assert {3, 4} < numbers
    assert len(numbers) == 3  # and the lock


def test_member_gets_the_root_of_its_sandbox(world: World, given: list[Any]) -> None:
    secure_root("pod", world.environment).close()
    with pytest.raises(HandedOffError):
        world.run(trace=False, manager=Manager(world, sandbox="pod"))
    [(_, argv, environment)] = given
    pod, container = (world.base / component(name) for name in ("pod", "web"))
    assert argv[argv.index("--root") + 1] == str(pod / "runsc-root")
    assert argv[0].startswith(str(container / "runsc-root" / "exec-allow"))
    assert environment == build_environment(str(container / "runsc-root" / "runtime"))


def test_what_a_manager_recorded_is_taken_back_with_the_rest(world: World, given: list[Any]) -> None:
    class Impatient(Manager):
        def about_to_hand_off(self, *_: Any) -> None:
            (world.bundle / "rootfs").rename(world.bundle / "gone")

    manager = Impatient(world)
    error, lines = world.refused(trace=False, manager=manager)
    assert error.step == "exec"
    assert "the record" in lines[-1]["facts"]["cleaned"]
    assert manager.closed
    assert given == []


def test_shared_copy_opened_for_writing_is_not_executed(
    world: World, given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Staged, "changed", lambda _: "it was opened")
    error, _ = world.refused()
    assert error.step == "exec"
    check(error, Reason.COPY_CHANGED, "it was opened")
    assert given == []


def test_plan_returns_what_a_run_would_exec_and_touches_nothing(
    world: World, private: Path, given: list[tuple[int, list[str], dict[str, str]]]
) -> None:
    before = sorted((str(path), path.lstat().st_mtime_ns) for path in private.rglob("*"))
    with open_bundle(str(world.bundle)):
        planned = plan(RunOptions("web", runsc=str(world.binary)), world.environment)
    assert sorted((str(path), path.lstat().st_mtime_ns) for path in private.rglob("*")) == before
    with pytest.raises(HandedOffError):
        world.run()
    [(_, argv, environment)] = given
    assert dict(planned.environment) == environment
    assert list(planned.argv[1:]) == argv[1:]
    assert fnmatch.fnmatchcase(argv[0], planned.argv[0])
    nest = world.base / COMPONENT / "runsc-root" / "exec-allow"
    assert planned.argv[0] == str(nest / "stage-*" / "runsc")
    assert planned.runsc.runsc.path == str(world.binary)
