"""Each verb as a manager uses it, with the real runsc: what it answers, and which runsc does it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from engine.errors import Reason
from engine.lifecycle.trusted_runsc import find_runsc
from engine.oci.container import TIMEOUT
from engine.oci.network import ANNOTATION, settle
from engine.runsc.capabilities import has_verb
from engine.state.record import ENFORCEMENT
from engine.verify.trace_check import Verdict, verify
from tests.integration.oci_runtime import Oci
from tests.support.bundles import PROC
from tests.support.harness import REFUSED, Engine, executable, read_trace, wait_for

FOREVER = "while :; do sleep 1000; done"


@pytest.fixture
def oci(root_engine: Engine) -> Oci:
    return Oci(root_engine)


@pytest.fixture
def bundle(root_engine: Engine) -> Path:
    return root_engine.shell(FOREVER, annotations={"org.example.who": "me"})


def test_state_follows_a_containers_whole_life(oci: Oci, bundle: Path, root_engine: Engine) -> None:
    pid_file = root_engine.directory / "pid"
    container_id = root_engine.new_id()
    oci.ok("create", "--bundle", bundle, "--pid-file", pid_file, container_id)
    state = oci.state(container_id)
    assert state is not None
    assert state["pid"] == int(pid_file.read_text())
    assert {
        name: state[name] for name in ("ociVersion", "id", "status", "bundle", "annotations", "owner")
    } == {
        "ociVersion": "1.0.2",
        "id": container_id,
        "status": "created",
        "bundle": str(bundle),
        "annotations": {"org.example.who": "me"},
        "owner": "0",
    }
    oci.ok("start", container_id)
    assert oci.status(container_id) == "running"
    assert oci("start", container_id).code == 1
    assert oci("delete", container_id).code == 1
    assert oci("exec", container_id, "/bin/sh", "-c", "echo out; exit 7").code == 7
    assert oci.ok("exec", "--env", "A=b", container_id, "/bin/sh", "-c", "echo $A") == "b\n"
    assert "sleep" in oci.ok("ps", container_id)
    assert json.loads(oci.ok("events", "--stats", container_id))["id"] == container_id
    oci.ok("pause", container_id)
    assert oci.status(container_id) == "paused"
    oci.refused(1, Reason.WRONG_STATE, "kill", container_id, "KILL")
    oci.ok("resume", container_id)
    assert [entry["status"] for entry in json.loads(oci.ok("list", "-f", "json"))] == ["running"]
    assert oci.ok("list", "-q") == f"{container_id}\n"
    oci.ok("kill", container_id, "KILL")
    oci.wait_for(container_id, "stopped")
    refused = oci("kill", container_id, "KILL")
    assert (refused.code, "container not running" in refused.stderr) == (1, True)
    oci.ok("delete", container_id)
    assert oci.left(container_id) == []
    assert oci("delete", container_id).code == 1
    oci.ok("delete", "--force", container_id)
    (trace,) = oci.traces(container_id)
    (*_, last) = read_trace(trace)
    assert last["next"] == "handed_off"
    assert "create" in last["facts"]["argv"]


def test_limits_are_updated_where_runsc_can_and_else_refused(oci: Oci, root_engine: Engine) -> None:
    spaces = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]
    limited = {"namespaces": spaces, "resources": {"memory": {"limit": 1 << 28}}}
    container_id = oci.running(root_engine.shell(FOREVER, linux=limited))
    limits = root_engine.directory / "limits.json"
    limits.write_text('{"memory": {"limit": 134217728}}')
    with closing(find_runsc(None, os.environ)) as binary:
        can = has_verb(binary.runsc.descriptor, "update")
    if can:
        oci.ok("update", "--resources", limits, container_id)
        assert oci("update", "--memory", "much", container_id).code == 128
    else:
        oci.refused(2, Reason.USAGE, "update", "--resources", limits, container_id)
    assert oci.status(container_id) == "running"
    oci.ok("pause", container_id)
    oci.refused(1, Reason.WRONG_STATE, "update", "--memory", "134217728", container_id)
    oci.ok("delete", "--force", container_id)
    assert oci.left(container_id) == []


def test_nothing_is_mounted_in_runscs_root(oci: Oci, bundle: Path, root_engine: Engine) -> None:
    container_id = oci.running(bundle)
    assert str(root_engine.base) not in Path("/proc/self/mountinfo").read_text()
    oci.ok("delete", "--force", container_id)
    assert oci.left(container_id) == []


def test_run_ends_with_the_containers_exit_code_and_a_trace(oci: Oci, root_engine: Engine) -> None:
    container_id = root_engine.new_id()
    done = oci("run", "--bundle", root_engine.shell("echo out; echo err >&2; exit 42"), container_id)
    assert (done.code, done.stdout, done.stderr) == (42, b"out\n", "err\n")
    assert oci.left(container_id) == []
    (result,) = verify([str(path) for path in oci.traces(container_id)])
    assert result.verdict is Verdict.CONFORMS


def test_a_refused_creation_leaves_its_trace_and_nothing_else(oci: Oci, root_engine: Engine) -> None:
    container_id = root_engine.new_id()
    log = root_engine.directory / "log.json"
    log_flags = (f"--log={log}", "--log-format=json", "--runsc=/nonexistent/runsc")
    done = Oci(root_engine, log_flags)("create", "--bundle", root_engine.shell("true"), container_id)
    assert done.code == 125
    (line,) = map(json.loads, log.read_text().splitlines())
    assert (line["level"], line["msg"]) == ("error", done.stderr.removeprefix("engine-oci: ").rstrip("\n"))
    assert oci.left(container_id) == []
    (trace,) = oci.traces(container_id)
    assert read_trace(trace)[-1]["next"] == "refused"


def test_what_runsc_refuses_is_logged_and_removed(oci: Oci, root_engine: Engine) -> None:
    container_id = root_engine.new_id()
    log = root_engine.directory / "log.json"
    bundle = root_engine.bundle("/bin/none-such")
    done = Oci(root_engine, (f"--log={log}", "--log-format=json"))("run", "--bundle", bundle, container_id)
    assert done.code not in (0, 125)
    assert "none-such" in json.loads(log.read_text().splitlines()[-1])["msg"]
    assert oci.left(container_id) == []


def test_later_verbs_use_the_copy_that_created_the_container(
    root_engine: Engine, runsc: Path, bundle: Path
) -> None:
    own = root_engine.own_runsc(runsc)
    oci = Oci(root_engine, (f"--runsc={own}",))
    container_id = oci.create(bundle)
    own.unlink()
    own.write_text("#!/bin/sh\nexit 0\n")
    own.chmod(0o755)
    oci.ok("start", container_id)
    assert oci.status(container_id) == "running"
    copy = root_engine.staged(container_id)
    waiting = oci.start("exec", container_id, "/bin/sleep", "1000")
    wait_for("runsc exec", lambda: executable(waiting.pid) == str(copy) or None)
    waiting.kill()
    oci.ok("kill", container_id, "KILL")
    oci.is_gone_after_delete(container_id)


def test_changed_copy_is_not_executed_and_can_be_deleted(oci: Oci, bundle: Path, root_engine: Engine) -> None:
    container_id = oci.running(bundle)
    copy = root_engine.staged(container_id)
    marker = root_engine.directory / "was-here"
    copy.rename(copy.with_name("elsewhere"))
    copy.write_text(f"#!/bin/sh\ntouch {marker}\n")
    copy.chmod(0o555)
    for verb in ("kill", "pause", "ps"):
        oci.refused(1, Reason.OTHER_RUNSC, verb, container_id)
    assert oci.status(container_id) == "running"
    oci.ok("delete", "--force", container_id)
    assert not marker.exists()
    assert not root_engine.container(container_id).exists()


def test_a_record_that_is_a_link_or_anothers_is_not_believed(
    oci: Oci, bundle: Path, root_engine: Engine
) -> None:
    container_id, other = oci.create(bundle), oci.create(bundle)
    record = root_engine.container(container_id) / "oci.json"
    kept = record.read_bytes()
    record.unlink()
    record.symlink_to(root_engine.container(other) / "oci.json")
    oci.refused(1, Reason.ROOT_NOT_PRIVATE, "state", container_id)
    record.unlink()
    shutil.copyfile(root_engine.container(other) / "oci.json", record)
    oci.refused(1, Reason.OTHER_RECORD, "delete", "--force", container_id)
    record.write_bytes(b"{}")
    oci.refused(1, Reason.ROOT_NOT_PRIVATE, "state", container_id)
    record.write_bytes(kept)
    for one in (container_id, other):
        oci.is_gone_after_delete(one)


def test_ending_one_container_ends_no_other_of_the_same_runsc(oci: Oci, bundle: Path) -> None:
    first, second = oci.running(bundle), oci.running(bundle)
    oci.ok("delete", "--force", first)
    assert oci.status(second) == "running"
    oci.is_gone_after_delete(second)


def test_a_root_that_others_can_write_is_refused(oci: Oci, bundle: Path, root_engine: Engine) -> None:
    root_engine.base.mkdir(mode=0o700)
    root_engine.base.chmod(0o777)
    container_id = root_engine.new_id()
    oci.refused(125, Reason.ROOT_NOT_PRIVATE, "create", "--bundle", bundle, container_id, facts=["0777"])
    assert os.listdir(root_engine.base) == []


def test_a_root_deep_in_directories_that_are_missing_is_made(root_engine: Engine, bundle: Path) -> None:
    deep = Engine(
        root_engine.caller, root_engine.directory, root_engine.rootfs, root_engine.directory / "a/b/base"
    )
    oci = Oci(deep)
    container_id = oci.create(bundle, root_engine.new_id())
    modes = [(root_engine.directory / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/b/base")]
    assert not any(mode & 0o022 for mode in modes)
    assert modes[-1] == 0o700
    oci.is_gone_after_delete(container_id)


def test_the_engines_own_run_of_a_managers_id_is_refused(oci: Oci, bundle: Path, root_engine: Engine) -> None:
    container_id = oci.create(bundle)
    root_engine.run(bundle, "--id", container_id, "--json").refused(Reason.KEPT, repr(container_id))
    oci.is_gone_after_delete(container_id)


def test_ordinary_user_can_run_but_not_create(
    unprivileged_engine: Engine,
) -> None:
    oci = Oci(unprivileged_engine, ("--rootless", "--ignore-cgroups"))
    bundle, container_id = unprivileged_engine.shell("echo out; exit 9"), unprivileged_engine.new_id()
    oci.refused(2, Reason.UNSUPPORTED, "create", "--bundle", bundle, container_id)
    done = oci("run", "--bundle", bundle, container_id)
    assert (done.code, done.stdout) == (9, b"out\n"), done
    assert oci.left(container_id) == []
    (result,) = verify([str(path) for path in oci.traces(container_id)])
    assert result.verdict is Verdict.CONFORMS


def test_delete_by_force_ends_a_run_that_waits(engine: Engine, who: str) -> None:
    oci = Oci(engine, () if who == "root" else ("--rootless", "--ignore-cgroups"))
    container_id = engine.new_id()
    run = oci.start("run", "--bundle", engine.shell(f"echo ready; {FOREVER}"), container_id)
    assert run.stdout is not None
    assert run.stdout.readline() == b"ready\n"
    start = time.monotonic()
    oci.ok("delete", "--force", container_id)
    assert time.monotonic() - start < TIMEOUT
    assert run.wait(60) not in (0, REFUSED)
    assert oci.left(container_id) == []


def test_restore_goes_on_from_the_checkpoint(oci: Oci, bundle: Path, root_engine: Engine) -> None:
    first, second = oci.running(bundle), root_engine.new_id()
    image = root_engine.directory / "image"
    oci.ok("checkpoint", "--image-path", image, first)
    oci.wait_for(first, "stopped")
    oci.is_gone_after_delete(first)
    oci.ok("restore", "--detach", "--image-path", image, "--bundle", bundle, second)
    assert oci.status(second) == "running"
    assert "sleep" in oci.ok("ps", second)
    (trace,) = oci.traces(second)
    assert read_trace(trace)[-1]["next"] == "handed_off"
    oci.is_gone_after_delete(second)


def test_restore_continues_in_a_created_container(oci: Oci, bundle: Path, root_engine: Engine) -> None:
    first, second = oci.running(bundle), root_engine.new_id()
    image = root_engine.directory / "image"
    oci.ok("checkpoint", "--image-path", image, first)
    oci.wait_for(first, "stopped")
    oci.is_gone_after_delete(first)
    oci.ok("create", "--bundle", bundle, second)
    oci.ok("restore", "--detach", "--image-path", image, second)
    assert oci.status(second) == "running"
    assert "sleep" in oci.ok("ps", second)
    assert oci("restore", "--detach", "--image-path", image, "--bundle", bundle, second).code == REFUSED
    assert oci.status(second) == "running"
    oci.is_gone_after_delete(second)


def test_restore_into_a_created_container_ends_with_it(oci: Oci, bundle: Path, root_engine: Engine) -> None:
    first, second = oci.running(bundle), root_engine.new_id()
    image = root_engine.directory / "image"
    oci.ok("checkpoint", "--image-path", image, first)
    oci.ok("create", "--bundle", bundle, second)
    waiting = oci.start("restore", "--image-path", image, second)
    oci.wait_for(second, "running")
    oci.ok("pause", second)
    oci.ok("resume", second)
    assert waiting.poll() is None
    oci.ok("kill", second, "KILL")
    assert waiting.wait(60) == 128 + 9
    assert oci.status(second) == "stopped"
    for container_id in (first, second):
        oci.is_gone_after_delete(container_id)


@pytest.mark.parametrize("verb", ["create", "run", "exec"])
def test_pidfd_is_that_of_the_pid_in_the_pid_file(
    oci: Oci, bundle: Path, root_engine: Engine, verb: str
) -> None:
    path, pid_file = root_engine.directory / "pidfd.sock", root_engine.directory / "pid"
    container_id = oci.running(bundle) if verb == "exec" else root_engine.new_id()
    options = ("--pidfd-socket", path, "--pid-file", pid_file)
    rest = {
        "create": (*options, "--bundle", bundle, container_id),
        "run": (*options, "--detach", "--bundle", bundle, container_id),
        "exec": (*options, "--detach", container_id, "/bin/sh", "-c", FOREVER),
    }[verb]
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        oci.ok(verb, *rest)
        given, _ = listening.accept()
    with given:
        message, (held,), _, _ = socket.recv_fds(given, 100, 1)
    try:
        assert message == (b"setns" if verb == "exec" else b"standard")
        (told,) = (
            line for line in Path(f"/proc/self/fdinfo/{held}").read_text().splitlines() if "Pid:" in line
        )
        assert told.split() == ["Pid:", pid_file.read_text()]
    finally:
        os.close(held)
    path.unlink()
    if verb != "exec":
        other = root_engine.new_id()
        assert oci(verb, *rest[:-1], other).code == 2
        assert oci.status(other) is None
    oci.is_gone_after_delete(container_id)


def test_exec_takes_a_flag_for_paused_ones(oci: Oci, bundle: Path) -> None:
    container_id = oci.running(bundle)
    asked = ("exec", "--ignore-paused", container_id, "/bin/sh", "-c", "exit 7")
    assert oci(*asked).code == 7
    oci.ok("pause", container_id)
    assert oci(*asked).code == 1
    oci.ok("resume", container_id)
    oci.is_gone_after_delete(container_id)


def test_gc_removes_an_old_trace_only_after_delete(oci: Oci, root_engine: Engine, bundle: Path) -> None:
    container_id = oci.running(bundle)
    (trace,) = oci.traces(container_id)
    os.utime(trace, (0, 0))

    def collected() -> list[str]:
        done = root_engine.call("gc", "--traces-older-than=30d")
        assert done.code == 0, done
        return [line for line in done.stdout.decode().splitlines() if container_id in line]

    assert collected() == []
    oci.ok("kill", container_id, "KILL")
    oci.wait_for(container_id, "stopped")
    assert collected() == []
    assert trace.exists()
    oci.ok("delete", container_id)
    assert collected() == [f"removed: {trace}"]
    assert not trace.exists()


@pytest.fixture
def network_namespace() -> Iterator[str]:
    """The path of one that somebody set up."""
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo made; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        if holder.stdout.readline() != b"made\n":
            pytest.skip("no network namespace can be made here")
        yield f"/proc/{holder.pid}/ns/net"
        holder.communicate()


NEW_NETWORK = {"namespaces": [{"type": "network"}, {"type": "pid"}]}


def _devices(oci: Oci, container_id: str) -> set[str]:
    """The network devices that a program in the container sees."""
    shown = oci.ok(
        "exec", container_id, "/bin/sh", "-c", 'while read -r line; do echo "$line"; done </proc/net/dev'
    )
    return {line.split(":")[0].strip() for line in shown.splitlines() if ":" in line}


def test_network_that_is_set_up_after_create_is_the_containers(oci: Oci, root_engine: Engine) -> None:
    _, why = settle({"linux": NEW_NETWORK}, None, os.environ, rootless=False)
    container_id = oci.create(root_engine.shell(FOREVER, linux=NEW_NETWORK, mounts=[PROC]))
    created = oci.state(container_id)
    assert created is not None
    pid = str(created["pid"])
    inside = ["nsenter", f"--target={pid}", "--net", "ip"]
    for command in (
        ["ip", "link", "add", f"t{os.getpid()}", "type", "veth", "peer", "eth0", "netns", pid],
        [*inside, "address", "add", "10.213.7.2/24", "dev", "eth0"],
        [*inside, "link", "set", "eth0", "up"],
    ):
        subprocess.run(command, check=True)
    started = oci("start", container_id)
    assert started.code == 0, started
    assert (f"{container_id!r} has no network: {why}" in started.stderr) == (why is not None)
    assert _devices(oci, container_id) - {"lo"} == ({"eth0"} if why is None else set())
    running = oci.state(container_id)
    assert running is not None
    assert running["annotations"] == ({} if why is None else {ANNOTATION: why})
    oci.ok("delete", "--force", container_id)


def test_network_that_nobody_sets_up_is_a_loopback(oci: Oci, root_engine: Engine) -> None:
    container_id = oci.create(root_engine.shell(FOREVER, linux=NEW_NETWORK, mounts=[PROC]))
    started = oci("start", container_id)
    assert (started.code, started.stderr) == (0, "")
    assert _devices(oci, container_id) == {"lo"}
    state = oci.state(container_id)
    assert state is not None
    assert state["annotations"] == {}
    oci.ok("delete", "--force", container_id)


def test_container_without_network_says_why_in_state_and_log(
    oci: Oci, root_engine: Engine, network_namespace: str
) -> None:
    linux = {"namespaces": [{"type": "network", "path": network_namespace}, {"type": "pid"}]}
    _, why = settle({"linux": linux}, None, os.environ, rootless=False)
    if why is None:
        pytest.skip("this runsc has a network in a namespace of this kernel")
    container_id = root_engine.new_id()
    ran = oci("run", "--bundle", root_engine.shell("echo out", linux=linux, name="ends"), container_id)
    assert (ran.code, ran.stdout) == (0, b"out\n")
    assert f"engine-oci: warning: {container_id!r} has no network: {why}\n" in ran.stderr
    log = root_engine.directory / "log.json"
    bundle = root_engine.shell("echo err >&2", linux=linux)
    creating = Oci(root_engine, (f"--log={log}", "--log-format=json"))
    created = creating("create", "--bundle", bundle, container_id)
    assert (created.code, created.stderr) == (0, "")
    state = oci.state(container_id)
    assert state is not None
    assert state["annotations"] == {ANNOTATION: why, ENFORCEMENT: "network-joined otherwise"}
    assert not log.exists() or log.read_text() == ""
    oci.ok("delete", "--force", container_id)


def test_flags_of_runsc_are_those_of_every_verb(root_engine: Engine) -> None:
    """Without an overlay a write reaches the bundle; the log has a file for each verb."""
    log = root_engine.directory / "log"
    log.mkdir(mode=0o700)
    oci = Oci(root_engine, ("--overlay2=none", f"--debug-log={log}"))
    bundle = root_engine.shell(
        f"echo there > /written; {FOREVER}", root={"path": "rootfs", "readonly": False}
    )
    container_id = oci.running(bundle)
    written = bundle / "rootfs" / "written"
    wait_for("the file", written.exists)
    written.unlink()
    (trace,) = oci.traces(container_id)
    header, *_, exec_ = read_trace(trace)
    assert header["options"]["runsc_flags"] == ["--overlay2=none", f"--debug-log={log}/"]
    assert header["bundle"]["grants"] == ["root_on_host"]
    assert set(header["options"]["runsc_flags"]) <= set(exec_["facts"]["argv"])
    later = Oci(root_engine)  # no flag: what was recorded counts
    for verb in ("pause", "resume"):
        later.ok(verb, container_id)
    later.is_gone_after_delete(container_id)
    verbs = {path.name.split(".")[-2] for path in log.iterdir()}
    assert {"create", "start", "boot", "gofer", "pause", "resume"} <= verbs
