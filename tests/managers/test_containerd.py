"""What containerd asks of a runtime, driven by `ctr`, and so what Kubernetes asks."""

from __future__ import annotations

import subprocess

from tests.managers.arena import TIMEOUT, eventually, said_on_a_terminal
from tests.managers.conftest import Refuse
from tests.managers.containerd import Containerd

OBEDIENT = "trap 'exit 7' TERM; while :; do sleep 0.1; done"


def test_run_gives_output_and_the_exit_code(containerd: Containerd) -> None:
    done = containerd.run("first", "sh", "-c", "echo out; echo err >&2; exit 42", options=["--rm"])
    assert (done.code, done.stdout) == (42, "out\n")
    assert "err\n" in done.stderr


def test_run_rm_leaves_no_task_and_no_container(containerd: Containerd) -> None:
    containerd.run("gone", "true", options=["--rm"]).ok()
    assert containerd.tasks() == {}
    assert containerd("containers", "ls", "--quiet").ok() == ""


def test_a_task_is_listed_killed_and_deleted(containerd: Containerd) -> None:
    containerd.detached("detached", "sh", "-c", OBEDIENT)
    assert containerd.tasks() == {"detached": "RUNNING"}
    containerd("tasks", "kill", "--signal=SIGTERM", "detached").ok()
    containerd.wait_for("detached", "STOPPED")
    assert containerd.delete("detached") == 7
    assert containerd.tasks() == {}


def test_kill_ends_one_that_does_not_listen(containerd: Containerd) -> None:
    containerd.detached("deaf", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    containerd("tasks", "kill", "--signal=SIGKILL", "deaf").ok()
    containerd.wait_for("deaf", "STOPPED")
    assert containerd.delete("deaf") == 137


def test_exec_runs_beside_the_first_process(containerd: Containerd) -> None:
    containerd.detached("with-exec", "sh", "-c", OBEDIENT)
    done = containerd("tasks", "exec", "--exec-id=one", "--cwd=/tmp", "with-exec", "sh", "-c", "pwd; exit 5")
    assert (done.code, done.stdout) == (5, "/tmp\n")
    assert containerd.tasks() == {"with-exec": "RUNNING"}


def test_exec_that_is_killed_ends_inside(
    containerd: Containerd, is_gvisor: bool, is_ours: bool, gvisor_cannot: Refuse
) -> None:
    if is_gvisor and not is_ours:
        gvisor_cannot("runsc passes no signal to an exec on")
    containerd.detached("with-exec", "sleep", "2000")
    asked = containerd.start(
        "tasks", "exec", "--exec-id=one", "with-exec", "sleep", "1000", stdout=subprocess.PIPE
    )
    shown = ["tasks", "exec", "--exec-id=list", "with-exec", "ps", "-o", "args"]
    eventually("it runs", lambda: "sleep 1000" in containerd(*shown).ok())
    containerd("tasks", "kill", "--exec-id=one", "--signal=SIGKILL", "with-exec").ok()
    asked.communicate(timeout=TIMEOUT)
    assert asked.returncode == 137
    eventually("it has ended inside", lambda: "sleep 1000" not in containerd(*shown).ok())
    assert containerd.tasks() == {"with-exec": "RUNNING"}


def test_exec_of_what_is_not_there_fails_alone(containerd: Containerd) -> None:
    containerd.detached("with-exec", "sh", "-c", OBEDIENT)
    assert containerd("tasks", "exec", "--exec-id=none", "with-exec", "/no-such-program").code != 0
    assert containerd.tasks() == {"with-exec": "RUNNING"}


def test_pause_and_resume(containerd: Containerd) -> None:
    containerd.detached("paused", "sh", "-c", OBEDIENT)
    containerd("tasks", "pause", "paused").ok()
    assert containerd.tasks() == {"paused": "PAUSED"}
    containerd("tasks", "resume", "paused").ok()
    assert containerd.tasks() == {"paused": "RUNNING"}
    containerd("tasks", "kill", "--signal=SIGTERM", "paused").ok()
    containerd.wait_for("paused", "STOPPED")
    assert containerd.delete("paused") == 7


def test_the_processes_of_a_task_are_listed(containerd: Containerd) -> None:
    containerd.detached("listed", "sh", "-c", OBEDIENT)
    header, *processes = containerd("tasks", "ps", "listed").ok().splitlines()
    assert header.split()[0] == "PID"
    assert processes


def test_metrics_are_given(containerd: Containerd) -> None:
    containerd.detached("measured", "sh", "-c", OBEDIENT)
    assert "measured" in containerd("tasks", "metrics", "measured").ok()


def test_missing_program_is_refused_and_can_be_removed(containerd: Containerd) -> None:
    done = containerd.run("broken", "/no-such-program", options=["--rm"])
    assert done.code != 0
    assert "no such file or directory" in done.stderr, done
    # The creation is refused; `ctr` leaves what it has made of its own.
    containerd.remove("broken")
    assert containerd.tasks() == {}


def test_the_same_id_is_free_again(containerd: Containerd) -> None:
    for _ in range(2):
        assert containerd.run("again", "echo", "x", options=["--rm"]).ok() == "x\n"


def test_stdin_reaches_the_container(containerd: Containerd) -> None:
    process = containerd.start(
        *containerd.run_command("fed", "head", "-n1", options=["--rm"]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.communicate("a line\n", timeout=TIMEOUT)[0] == "a line\n"


def test_a_terminal_is_one(containerd: Containerd) -> None:
    command = containerd.run_command(
        "seen", "sh", "-c", "[ -t 0 ] && echo a terminal", options=["--rm", "--tty"]
    )
    said = said_on_a_terminal(
        lambda terminal: containerd.start(*command, stdin=terminal, stdout=terminal, stderr=terminal)
    )
    assert b"a terminal" in said


def test_a_pods_containers_share_a_sandbox(
    containerd: Containerd, is_gvisor: bool, is_ours: bool, gvisor_cannot: Refuse
) -> None:
    """As Kubernetes asks for it: the CRI plugin marks each container with its kind and its pod's sandbox."""
    if not is_ours:
        gvisor_cannot("a pod's second container is in the first one's sandbox, and no child of runc's shim")
    kind, sandbox = "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"
    containerd.detached("pause", "sh", "-c", OBEDIENT, options=[f"--annotation={kind}=sandbox"])
    member = [f"--annotation={kind}=container", f"--annotation={sandbox}=pause"]
    containerd.detached("member", "sh", "-c", OBEDIENT, options=member)
    if is_gvisor:
        # One kernel has started once, however many containers it has.
        boots = [
            containerd("tasks", "exec", "--exec-id=boot", name, "dmesg").ok() for name in ("pause", "member")
        ]
        assert boots[0] == boots[1]
    for name in ("member", "pause"):
        containerd("tasks", "kill", "--signal=SIGTERM", name).ok()
        containerd.wait_for(name, "STOPPED")
        assert containerd.delete(name) == 7
        containerd("containers", "rm", name).ok()


def test_containers_outlive_a_restart_of_containerd(containerd: Containerd) -> None:
    containerd.detached("survivor", "sh", "-c", OBEDIENT)
    containerd.stop()
    containerd.resume()
    assert containerd.tasks() == {"survivor": "RUNNING"}
    containerd("tasks", "kill", "--signal=SIGTERM", "survivor").ok()
    eventually("the end of the survivor", lambda: containerd.tasks() == {"survivor": "STOPPED"})
    assert containerd.delete("survivor") == 7
