"""What users of podman rely on, with podman driving the runtime under test."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from engine.lifecycle.resolve import TRUSTED_PATHS
from engine.runsc.installation import SIDECARS
from tests.managers.arena import TIMEOUT, Arena, said_on_a_terminal
from tests.managers.conftest import Refuse, verify_traces
from tests.managers.image import NAME
from tests.managers.podman import Podman

#: Runs until it is told to stop, then says so.
OBEDIENT = "trap 'echo stopping; exit 7' TERM; echo ready; while :; do sleep 0.1; done"

#: Without it podman marks a pod's container as one inside the pod's sandbox.
SANDBOX_EACH = "--annotation=io.kubernetes.cri-o.ContainerType=sandbox"


def test_run_gives_output_errors_and_the_exit_code(podman: Podman) -> None:
    done = podman.run("sh", "-c", "echo out; echo err >&2; exit 42", options=["--rm"])
    assert (done.code, done.stdout, done.stderr) == (42, "out\n", "err\n")


def test_run_rm_leaves_no_container(podman: Podman) -> None:
    podman.run("true", options=["--rm"]).ok()
    assert podman("ps", "--all", "--quiet").ok() == ""


def test_the_kernel_inside_is_gvisors(podman: Podman, is_gvisor: bool) -> None:
    said = podman.run("dmesg", options=["--rm"])
    assert ("Starting gVisor" in said.stdout) is is_gvisor


def test_stdin_reaches_the_container(podman: Podman) -> None:
    assert podman.run("cat", options=["--rm", "--interactive"], given="a line\n").ok() == "a line\n"


def test_logs_keep_both_streams(podman: Podman) -> None:
    container = podman.shell("echo out; echo err >&2")
    podman("wait", container).ok()
    logs = podman("logs", container)
    assert (logs.stdout, logs.stderr) == ("out\n", "err\n")


def test_exec_runs_beside_the_first_process(podman: Podman) -> None:
    container = podman.shell(OBEDIENT)
    said = podman(
        "exec", "--env=GIVEN=x", "--workdir=/tmp", container, "sh", "-c", "echo $GIVEN $(pwd); exit 5"
    )
    assert (said.code, said.stdout) == (5, "x /tmp\n")
    assert podman("exec", "--interactive", container, "cat", given="in\n").ok() == "in\n"
    assert podman("exec", "--user=1000:1000", container, "id", "-u").ok() == "1000\n"
    assert podman.status(container) == "running"


def test_exec_of_what_is_not_there_fails_alone(podman: Podman) -> None:
    container = podman.shell(OBEDIENT)
    done = podman("exec", container, "/no-such-program")
    assert done.code in {126, 127}, done
    assert podman.status(container) == "running"


def test_a_detached_exec_runs(podman: Podman) -> None:
    container = podman.shell("while [ ! -e /tmp/done ]; do sleep 0.1; done; exit 3")
    podman("exec", "--detach", container, "touch", "/tmp/done").ok()
    assert podman("wait", container).ok() == "3\n"


def test_stop_lets_the_container_end_itself(podman: Podman) -> None:
    container = podman.shell(OBEDIENT)
    podman.wait_for_log(container, "ready")
    podman("stop", "--time=30", container).ok()
    assert podman.inspect(container)["State"]["ExitCode"] == 7
    assert podman("logs", container).ok() == "ready\nstopping\n"


def test_stop_kills_one_that_does_not_listen(podman: Podman) -> None:
    container = podman.shell("trap '' TERM; echo ready; while :; do sleep 0.1; done")
    podman.wait_for_log(container, "ready")
    podman("stop", "--time=1", container).ok()
    assert podman.inspect(container)["State"]["ExitCode"] == 137


def test_kill_sends_the_signal_that_was_asked_for(podman: Podman) -> None:
    container = podman.shell(
        "trap 'echo hup' HUP; trap 'exit 4' USR1; echo ready; while :; do sleep 0.1; done"
    )
    podman.wait_for_log(container, "ready")
    podman("kill", "--signal=HUP", container).ok()
    podman.wait_for_log(container, "hup")
    podman("kill", "--signal=USR1", container).ok()
    assert podman("wait", container).ok() == "4\n"


def test_kill_of_one_that_has_ended_is_refused(podman: Podman) -> None:
    container = podman.shell("exit 0")
    podman("wait", container).ok()
    assert podman("kill", container).code != 0


def test_rm_refuses_a_running_one_and_forced_removes_it(podman: Podman) -> None:
    container = podman.shell(OBEDIENT)
    assert podman("rm", container).code != 0
    assert podman.status(container) == "running"
    podman("rm", "--force", "--time=0", container).ok()
    assert podman("ps", "--all", "--quiet").ok() == ""


def test_create_then_start(podman: Podman) -> None:
    arguments = podman.of_container("--network=none")
    container = podman("create", *arguments, NAME, "echo", "started").ok().strip()
    assert podman.status(container) == "created"
    assert podman("start", "--attach", container).ok() == "started\n"
    assert podman.status(container) == "exited"


def test_init_without_start_waits(podman: Podman) -> None:
    arguments = podman.of_container("--network=none")
    container = podman("create", *arguments, NAME, "echo", "started").ok().strip()
    podman("init", container).ok()
    assert podman.status(container) == "initialized"
    assert podman("logs", container).ok() == ""
    assert podman("start", "--attach", container).ok() == "started\n"


def test_restart_runs_it_again(podman: Podman) -> None:
    container = podman.shell(OBEDIENT)
    podman.wait_for_log(container, "ready")
    podman("restart", "--time=10", container).ok()
    assert podman.status(container) == "running"
    podman("stop", "--time=10", container).ok()


def test_pause_and_unpause(podman: Podman) -> None:
    container = podman.shell(OBEDIENT)
    podman.wait_for_log(container, "ready")
    podman("pause", container).ok()
    assert podman.status(container) == "paused"
    podman("unpause", container).ok()
    assert podman.status(container) == "running"
    podman("stop", "--time=30", container).ok()
    assert podman.inspect(container)["State"]["ExitCode"] == 7


def test_missing_program_is_refused_and_leaves_nothing(podman: Podman) -> None:
    for name, said in (
        ("/no-such-program", "no such file or directory"),
        ("nothing", "executable file not found in $PATH"),
    ):
        done = podman.run(name, options=["--rm"])
        assert done.code == 127, done
        assert said in done.stderr
    assert podman("ps", "--all", "--quiet").ok() == ""


def test_a_program_that_cannot_be_executed_is_126(podman: Podman) -> None:
    done = podman.run("/etc", options=["--rm"])
    assert done.code == 126, done
    assert podman("ps", "--all", "--quiet").ok() == ""


def test_volumes_are_the_hosts_directories(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("from the host\n")
    tmp_path.chmod(0o755)
    volume = f"--volume={tmp_path}:/data"
    assert podman.run("cat", "/data/given", options=["--rm", volume]).ok() == "from the host\n"
    podman.run("sh", "-c", "echo back >/data/written", options=["--rm", volume]).ok()
    assert (tmp_path / "written").read_text() == "back\n"


def test_a_read_only_volume_cannot_be_written(podman: Podman, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    done = podman.run("touch", "/data/x", options=["--rm", f"--volume={tmp_path}:/data:ro"])
    assert done.code != 0
    assert list(tmp_path.iterdir()) == []


def test_a_named_volume_outlives_its_containers(podman: Podman) -> None:
    podman("volume", "create", "kept").ok()
    try:
        podman.run("sh", "-c", "echo kept >/data/x", options=["--rm", "--volume=kept:/data"]).ok()
        assert podman.run("cat", "/data/x", options=["--rm", "--volume=kept:/data"]).ok() == "kept\n"
    finally:
        podman("volume", "rm", "kept").ok()


def test_tmpfs_and_a_read_only_root(podman: Podman) -> None:
    script = "touch /root-is-writable 2>/dev/null || echo read-only; echo x >/scratch/y && cat /scratch/y"
    options = ["--rm", "--read-only", "--tmpfs=/scratch"]
    assert podman.run("sh", "-c", script, options=options).ok() == "read-only\nx\n"


def test_user_hostname_environment_and_directory(podman: Podman) -> None:
    options = ["--rm", "--user=1000:1001", "--hostname=named", "--env=GIVEN=x y", "--workdir=/tmp"]
    said = podman.run("sh", "-c", "id -u; id -g; hostname; echo $GIVEN; pwd", options=options)
    assert said.ok().split("\n") == ["1000", "1001", "named", "x y", "/tmp", ""]


def test_a_user_namespace_need_not_map_root(podman: Podman) -> None:
    mapped = ["--uidmap=0:100000:65536", "--gidmap=0:100000:65536"]
    done = podman.run("id", "-u", options=["--rm", *mapped])
    runsc = next(path for path in map(Path, TRUSTED_PATHS) if path.exists())
    if (
        runsc.resolve().parent / SIDECARS
    ).is_dir():  # a sidecar is executed by its path, which root alone can pass
        assert done.code == 126
    else:
        assert done.ok() == "0\n"


def test_capabilities_can_be_dropped(podman: Podman) -> None:
    script = "chown 1000 /tmp && echo could || echo could not"
    assert podman.run("sh", "-c", script, options=["--rm"]).ok() == "could\n"
    done = podman.run("sh", "-c", script, options=["--rm", "--cap-drop=all"])
    assert done.stdout == "could not\n"


def test_limits_reach_the_cgroup(podman: Podman, arena: Arena) -> None:
    container = podman.shell(OBEDIENT, "--memory=256m", "--pids-limit=500")
    files = {"memory.limit_in_bytes", "memory.max"}
    limits = {
        (cgroup / name).read_text().strip()
        for cgroup in arena.cgroups()
        for name in files
        if container in str(cgroup) and (cgroup / name).exists()
    }
    assert str(256 * 1024 * 1024) in limits


def test_a_terminal_is_one(podman: Podman) -> None:
    run = podman.of_container("--network=none", "--rm", "--interactive", "--tty")
    command = ("run", *run, NAME, "sh", "-c", "[ -t 0 ] && echo a terminal")
    said = said_on_a_terminal(
        lambda terminal: podman.start(*command, stdin=terminal, stdout=terminal, stderr=terminal)
    )
    assert said == b"a terminal\r\n"


def test_descriptors_are_passed_on(podman: Podman, arena: Arena, gvisor_cannot: Refuse) -> None:
    gvisor_cannot("`runsc create` passes no descriptors on")
    given, giving = os.pipe()
    os.write(giving, b"by descriptor\n")
    os.close(giving)
    run = podman.command(
        "run", *podman.of_container("--network=none", "--rm", "--preserve-fds=1"), NAME, "sh", "-c", "cat <&3"
    )
    done = subprocess.run(
        arena.inside("bash", "-c", f'exec "$@" 3<&{given} {given}<&-', "bash", *run),
        check=False,
        pass_fds=[given],
        env=dict(arena.environment),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        stdin=subprocess.DEVNULL,
    )
    os.close(given)
    assert (done.returncode, done.stdout) == (0, "by descriptor\n"), done


def test_health_is_what_the_check_finds(podman: Podman) -> None:
    options = ["--health-cmd=test -e /tmp/healthy", "--health-interval=disable", "--health-retries=1"]
    container = podman.shell(OBEDIENT, *options)
    assert podman("healthcheck", "run", container).code == 1
    podman("exec", container, "touch", "/tmp/healthy").ok()
    podman("healthcheck", "run", container).ok()
    state = podman.inspect(container)["State"]
    assert state.get("Health", state.get("Healthcheck"))["Status"] == "healthy"


def test_top_and_stats_see_the_container(podman: Podman) -> None:
    container = podman.shell(OBEDIENT)
    podman.wait_for_log(container, "ready")
    stats = json.loads(podman("stats", "--no-stream", "--format=json", container).ok())
    assert [one["id"] for one in stats] == [container[:12]]
    assert "sh" in podman("exec", container, "ps").ok()


def test_files_are_copied_into_one_that_does_not_run_yet(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("copied\n")
    container = podman("create", *podman.of_container("--network=none"), NAME, "cat", "/in").ok().strip()
    podman("cp", tmp_path / "in", f"{container}:/in").ok()
    assert podman("start", "--attach", container).ok() == "copied\n"


def test_build_runs_its_steps_in_the_runtime(podman: Podman, tmp_path: Path, gvisor_cannot: Refuse) -> None:
    gvisor_cannot("runsc's delete waits for the sandbox to be reaped, which buildah does later")
    (tmp_path / "Containerfile").write_text(
        f'FROM {NAME}\nRUN echo built >/made\nENTRYPOINT ["cat", "/made"]\n'
    )
    limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--network=none"]
    podman("build", *limits, "--tag=localhost/built", tmp_path).ok()
    try:
        run = podman.of_container("--rm", "--network=none")
        assert podman("run", *run, "localhost/built").ok() == "built\n"
    finally:
        podman("rmi", "localhost/built").ok()


def test_a_pod_starts_and_stops_as_one(podman: Podman, arena: Arena, is_ours: bool) -> None:
    infra = [f"--infra-image={NAME}", "--infra-command=sleep 1000", f"--cgroup-parent=/{podman.arena.name}"]
    podman("pod", "create", "--name=together", "--network=none", "--share=ipc,uts,net", *infra).ok()
    first = podman.shell(OBEDIENT, "--pod=together")
    second = podman.shell(OBEDIENT, "--pod=together")
    members = podman("ps", "--filter=pod=together", "--quiet", "--no-trunc").ok().split()
    assert len(members) == 3
    if is_ours:
        verify_traces(arena, "/var/lib/gvisor-engine/traces", *members)
    for container in (first, second):
        podman.wait_for_log(container, "ready")
        said = podman("exec", container, "sh", "-c", "echo inside; exit 4")
        assert (said.code, said.stdout) == (4, "inside\n")
    # podman stops the containers of a pod all at once, and with the first one the sandbox ends.
    for container in (first, second):
        podman("stop", "--time=30", container).ok()
        assert podman.inspect(container)["State"]["ExitCode"] == 7
        assert podman("logs", container).ok() == "ready\nstopping\n"
    podman("pod", "stop", "--time=5", "together").ok()
    podman("pod", "start", "together").ok()
    for container in (first, second):
        podman.wait_for(container, "running")
    podman("pod", "rm", "--force", "--time=0", "together").ok()
    assert podman("pod", "ps", "--quiet").ok() == ""


@pytest.mark.parametrize("infra", ["with infra", "without infra"])
def test_a_pod_of_a_sandbox_for_each_starts_and_stops_as_one(podman: Podman, infra: str) -> None:
    options = ["--infra=false"]
    network = ["--network=none"]
    if infra == "with infra":
        options = [
            f"--infra-image={NAME}",
            "--infra-command=sleep 1000",
            "--network=none",
            "--share=ipc,uts,net",
        ]
        network = []
    podman("pod", "create", "--name=together", f"--cgroup-parent=/{podman.arena.name}", *options).ok()
    containers = [podman.shell(OBEDIENT, "--pod=together", SANDBOX_EACH, *network) for _ in range(2)]
    for container in containers:
        podman.wait_for_log(container, "ready")
    podman("pod", "stop", "--time=5", "together").ok()
    assert {podman.inspect(one)["State"]["ExitCode"] for one in containers} == {7}
    podman("pod", "rm", "together").ok()
    assert podman("pod", "ps", "--quiet").ok() == ""


def test_a_bridge_connects_containers_and_a_port_is_published(
    podman: Podman, kernel_has_bridges: None
) -> None:
    serve = "mkdir -p /www && echo served >/www/index.html && exec httpd -f -p 80 -h /www"
    server = podman.shell(serve, "--network=bridge", "--publish=127.0.0.1:18080:80")
    address = podman.inspect(server)["NetworkSettings"]["IPAddress"]
    fetch = "for i in 1 2 3 4 5 6 7 8 9; do wget -qO- http://$1/ && exit; sleep 0.3; done; exit 1"
    inside = podman.run("sh", "-c", fetch, "sh", address, options=["--rm", "--network=bridge"])
    assert inside.ok() == "served\n"
    outside = podman.arena.run("busybox", "sh", "-c", fetch, "sh", "127.0.0.1:18080")
    assert outside.ok() == "served\n"


def test_many_at_once(podman: Podman) -> None:
    run = podman.of_container("--network=none", "--rm")
    started = [
        podman.start("run", *run, NAME, "echo", str(number), stdout=subprocess.PIPE) for number in range(4)
    ]
    assert [process.communicate(timeout=TIMEOUT)[0] for process in started] == ["0\n", "1\n", "2\n", "3\n"]


@pytest.mark.parametrize("name", ["same"])
def test_a_name_is_free_again_after_rm(podman: Podman, name: str) -> None:
    for _ in range(2):
        podman.run("true", options=[f"--name={name}", "--rm"]).ok()


def test_every_container_leaves_a_trace_that_verifies(podman: Podman, arena: Arena, is_ours: bool) -> None:
    if not is_ours:
        pytest.skip("only the engine writes traces")
    container = podman.shell("echo traced")
    podman("wait", container).ok()
    podman("rm", container).ok()
    verify_traces(arena, "/var/lib/gvisor-engine/traces", container)
