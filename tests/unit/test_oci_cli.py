"""The OCI command line as managers write it, and what they read: exit codes, one line on stderr, one in the log."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from engine import __version__
from engine.errors import Reason, UsageError
from engine.oci import network
from engine.oci.cli import COMMON, VERBS, main
from engine.oci.events import whole_seconds
from engine.oci.flags import Kind, parse
from engine.options import ExecPolicy, Network, Platform, RunOptions
from engine.runsc.arguments import build_global_flags
from engine.runsc.binary import platform_package
from engine.runsc.capabilities import NEW_NETWORK_SIGN, OLD_NETWORK_SIGN
from engine.state import cgroups, record
from engine.state import oci_lifecycle as machine
from engine.state.base import open_base
from engine.state.container import component, open_container
from engine.state.oci_lifecycle import NotPermittedError, Status, Verb, require
from engine.state.record import Record
from tests.support.refusals import one_line, refuses


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A base that is there and has nothing in it."""
    path = tmp_path / "root"
    path.mkdir(mode=0o700)
    return path


def at(root: Path, *arguments: str) -> int:
    return main([f"--root={root}", *arguments])


# -- flags


TABLE = {
    "all": Kind.SWITCH,
    "bundle": Kind.VALUE,
    "env": Kind.VALUES,
    "rootless": Kind.CHOICE,
    "no-pivot": Kind.IGNORED_SWITCH,
    "preserve-fds": Kind.VALUE,
}


@pytest.mark.parametrize(
    "given", ["--bundle=/b", "-bundle=/b", "--bundle /b", "-bundle /b", "-b /b", "-b=/b"]
)
def test_a_flag_is_written_in_gos_way_or_gnus(given: str) -> None:
    flags, rest = parse([*given.split(), "id"], TABLE, {"b": "bundle"}, among_arguments=False)
    assert (flags.value("bundle"), rest) == ("/b", ["id"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [("--all", True), ("--all=true", True), ("--all=false", False), ("--all --all=0", False)],
)
def test_a_switch_takes_no_value_but_after_an_equals_sign(given: str, expected: bool) -> None:
    flags, rest = parse([*given.split(), "id"], TABLE, {}, among_arguments=False)
    assert (flags.has("all"), rest) == (expected, ["id"])


@pytest.mark.parametrize(
    ("given", "value", "rest"),
    [
        ("--rootless create", "true", ["create"]),
        ("--rootless auto create", "auto", ["create"]),
        ("--rootless=false x", "false", ["x"]),
    ],
)
def test_rootless_is_runcs_and_runscs(given: str, value: str, rest: list[str]) -> None:
    flags, left = parse(given.split(), TABLE, {}, among_arguments=False)
    assert (flags.value("rootless"), left) == (value, rest)


def test_flags_may_follow_the_id_but_not_a_command() -> None:
    assert parse(["id", "--all", "9"], TABLE, {}, among_arguments=True)[1] == ["id", "9"]
    flags, rest = parse(["--env", "A=1", "--env=B=2", "id", "ls", "--all"], TABLE, {}, among_arguments=False)
    assert (flags.lists["env"], flags.has("all"), rest) == (("A=1", "B=2"), False, ["id", "ls", "--all"])
    assert parse(["id", "--", "--all"], TABLE, {}, among_arguments=True)[1] == ["id", "--all"]


@pytest.mark.parametrize(
    ("given", "fact"), [("--nonsense", "--nonsense"), ("--all=maybe", "'maybe'"), ("--bundle", "--bundle")]
)
def test_a_flag_that_is_not_known_or_not_whole_is_refused(given: str, fact: str) -> None:
    with refuses(UsageError, Reason.USAGE, fact):
        parse([given], TABLE, {}, among_arguments=False)


def test_a_number_is_one(tmp_path: Path) -> None:
    flags, _ = parse(["--preserve-fds", "-1"], TABLE, {}, among_arguments=False)
    with refuses(UsageError, Reason.USAGE):
        flags.number("preserve-fds")


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        *(("5", 5), ("5s", 5), ("1m", 60), ("1m30s", 90), ("1.5s", 2), ("500ms", 1), ("1h0.5s", 3601)),
        *((".5s", 1), ("1ns", 1), ("2000ms", 2), ("0.1s0.2s", 1), ("7us", 1), ("7µs", 1)),
    ],
)
def test_an_interval_is_gos_and_rounded_up(given: str, seconds: int) -> None:
    assert whole_seconds(given) == seconds


# -- answers


def test_the_version_names_the_engine_and_the_specification(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"engine-oci version {__version__}\nspec: 1.3.0\n"


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {verb} " in said for verb in VERBS)
    assert main([]) == 2
    for verb in VERBS:
        assert main([verb, "--help"]) == 0
        assert f"usage: engine-oci {verb} " in capsys.readouterr().out


def test_features_are_those_of_the_specification(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features"]) == 0
    features = json.loads(capsys.readouterr().out)
    assert (features["ociVersionMin"], features["ociVersionMax"]) == ("1.0.0", "1.3.0")
    assert features["linux"]["apparmor"] == {"enabled": False}
    assert features["linux"]["seccomp"] == {"enabled": False}
    assert not {"cgroup", "time"}.intersection(features["linux"]["namespaces"])


def test_features_have_seccomp_with_runscs_switch(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, enabled in (("--oci-seccomp", True), ("--oci-seccomp=false", False), ("--strace", False)):
        assert main([flag, "features"]) == 0
        assert json.loads(capsys.readouterr().out)["linux"]["seccomp"] == {"enabled": enabled}


@pytest.mark.parametrize("flag", [b"", b"systemd-cgroup"])
def test_features_name_systemd_where_this_runsc_has_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: bytes
) -> None:
    program = tmp_path / "runsc"
    program.write_bytes(b"\x7fELF" + platform_package("systrap") + flag)
    program.chmod(0o755)
    assert main([f"--runsc={program}", "features"]) == 0
    assert json.loads(capsys.readouterr().out)["linux"]["cgroup"]["systemd"] is bool(flag)


def test_help_names_every_common_flag_and_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for flag in COMMON:
        assert f"--{flag}" in said
    for value in (*ExecPolicy, *Network, *Platform, "auto", "cgroupfs", "systemd", "disabled"):
        assert value in said
    assert "--rootless true|false|auto" in said


def test_features_name_the_hooks_that_this_runsc_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everywhere = ["prestart", "createRuntime", "poststart", "poststop"]
    assert main(["--runsc=/nonexistent/runsc", "features"]) == 0
    assert json.loads(capsys.readouterr().out)["hooks"] == everywhere
    program = tmp_path / "runsc"
    program.write_bytes(b"\x7fELF" + platform_package("systrap") + b'flag:"gofer-network-namespace"')
    program.chmod(0o755)
    assert main([f"--runsc={program}", "features"]) == 0
    assert json.loads(capsys.readouterr().out)["hooks"] == [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ]


@pytest.mark.parametrize(
    "verb", ["state", "start", "kill", "delete", "pause", "resume", "ps", "events", "update"]
)
def test_missing_container_is_reported_as_managers_expect(
    root: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert at(root, verb, "web") == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == (
        "",
        f"engine-oci: {verb}: container 'web' does not exist; engine-oci list shows those that do\n",
    )
    assert main([f"--root={root}/not/made", verb, "web"]) == 1
    assert "container 'web' does not exist" in capsys.readouterr().err
    assert not (root / "not").exists()


def test_what_does_not_exist_is_deleted_by_force(root: Path) -> None:
    assert at(root, "delete", "--force", "web") == 0
    assert at(root, "delete", "web", "--force") == 0


def test_where_nothing_is_the_list_is_empty(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert at(root, "list", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert at(root, "list") == 0
    assert capsys.readouterr().out.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]


def test_error_is_a_json_line_in_a_json_log(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    for _ in range(2):
        at(root, "--log", str(log), "--log-format", "json", "state", "web")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [set(line) for line in lines] == [{"msg", "level", "time", "reason"}] * 2
    assert (lines[0]["level"], lines[0]["reason"]) == ("error", "no_such")
    assert "container 'web' does not exist" in lines[0]["msg"]


def test_an_error_is_a_line_of_text_in_the_log_else(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    at(root, "--log", str(log), "state", "web")
    assert " level=error msg=\"state: container 'web' does not exist" in log.read_text()


def test_a_log_that_is_a_link_is_not_written(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    at(root, "--log", str(tmp_path / "log"), "state", "web")
    assert not (tmp_path / "elsewhere").exists()
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["renew", "web"], "'renew'"),
        (["update"], "update"),
        (["state"], "state"),
        (["state", ".."], "'..'"),
        (["state", "--nonsense", "web"], "'--nonsense'"),
        (["--network", "all", "create", "web"], "'all'"),
        (["--log-format", "xml", "state", "web"], "'xml'"),
        (["--cgroup-manager", "mine", "state", "web"], "'mine'"),
        (["--rootless=perhaps", "state", "web"], "'perhaps'"),
        (["create", "--preserve-fds", "1", "web"], "create"),
        (["restore", "web"], "--image-path"),
        (["checkpoint", "web"], "--image-path"),
        (["exec", "web"], "exec"),
        (["exec", "--apparmor", "p", "web", "ls"], "--apparmor"),
        (["exec", "--cgroup", "/a", "web", "ls"], "--cgroup"),
        (["exec", "--no-new-privs", "web", "ls"], "--no-new-privs"),
        (["exec", "--pidfd-socket", "/s", "web", "ls"], "--detach"),
        (["run", "--pidfd-socket", "/s", "web"], "--detach"),
        (["create", "--pidfd-socket", "/nowhere/socket", "web"], "'/nowhere/socket'"),
        (["run", "--keep", "web"], "--keep"),
        (["checkpoint", "--pre-dump", "--image-path", "/i", "web"], "--pre-dump"),
        (["checkpoint", "--tcp-established", "--image-path", "/i", "web"], "--tcp-established"),
        *(
            (["events", "--interval", text, "web"], repr(text))
            for text in ("", "0", "0s", "-5s", "5x", "5s ", "1e3s", "s", "5 s", "999999999h")
        ),
        (["ps", "web", "-ef"], "'-ef'"),
        (["list", "web"], "list"),
        (["list", "--format", "xml"], "'xml'"),
    ],
)
def test_wrong_usage_is_one_line_and_changes_nothing(
    root: Path, arguments: list[str], fact: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert at(root, *arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert fact in one_line(said.err)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(("policy", "what"), [("landlock", "use locked-mounts"), ("apparmor", "'apparmor'")])
def test_a_policy_that_there_is_not_is_wrong_usage(
    root: Path, tmp_path: Path, policy: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert at(root, "--exec-policy", policy, "create", "--bundle", str(tmp_path), "web") == 2
    said = capsys.readouterr().err
    assert what in one_line(said)


# -- the table


@pytest.mark.parametrize(
    ("verb", "status", "words"),
    [
        (Verb.KILL, Status.STOPPED, "container not running: 'c' is stopped"),
        (Verb.DELETE, Status.RUNNING, "not stopped: 'c' is running"),
        (Verb.START, Status.DELETED, "container 'c' does not exist"),
        (Verb.RESUME, Status.RUNNING, "container not paused: 'c' is running"),
    ],
)
def test_a_verb_out_of_its_place_says_where_the_container_is(verb: Verb, status: Status, words: str) -> None:
    reason = Reason.NO_SUCH if status is Status.DELETED else Reason.WRONG_STATE
    with refuses(
        NotPermittedError, reason, words
    ) as refusal:  # the words are what podman and containerd look for
        require(verb, status, "c")
    assert refusal.value.exit_code == 1


def test_the_status_is_what_is_found() -> None:
    found = machine.status
    assert found(known="running", lives=True, is_being_created=False) is Status.RUNNING
    assert found(known="running", lives=False, is_being_created=False) is Status.STOPPED
    assert found(known=None, lives=True, is_being_created=False) is Status.CREATING
    assert found(known=None, lives=False, is_being_created=True) is Status.CREATING
    assert found(known=None, lives=False, is_being_created=False) is Status.DELETED


# -- network and cgroups


def spaces(*kinds: dict[str, str]) -> dict[str, Any]:
    return {"linux": {"namespaces": [{"type": "pid"}, *kinds]}}


HOOK = {"hooks": {"createRuntime": [{"path": "/usr/bin/set-up-the-network"}]}}


@pytest.mark.parametrize(
    ("more", "starts_at_once", "given"),
    [({}, True, Network.NONE), (HOOK, True, Network.SANDBOX), ({}, False, Network.SANDBOX)],
    ids=["nobody can set it up", "a hook may", "its manager may"],
)
def test_a_new_network_namespace_is_used_if_it_can_be_set_up(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], starts_at_once: bool, given: Network
) -> None:
    monkeypatch.setattr(network, "_shows_in_new_namespace", lambda _: False)
    config = {**spaces({"type": "network"}), **more}
    found = network.settle(config, None, {}, rootless=False, starts_at_once=starts_at_once)
    assert found == (given, None)


@pytest.mark.parametrize(("is_set_up", "used"), [(False, "none"), (True, "sandbox")])
def test_at_start_a_network_that_nobody_set_up_is_a_loopback(
    monkeypatch: pytest.MonkeyPatch, is_set_up: bool, used: str
) -> None:
    monkeypatch.setattr(network, "_is_set_up", lambda _: is_set_up)
    options = RunOptions(container_id="c", network=Network.SANDBOX)
    flags = build_global_flags("/root", options, Platform.SYSTRAP)
    noted = Record(
        id="c",
        bundle="/b",
        creation="1",
        creator=(1, 2),
        created="now",
        oci_version="1.0.2",
        annotations={},
        flags=flags,
        network_at_start="",
    )
    assert network.at_start(noted, os.getpid()) is None
    assert noted.flags == build_global_flags("/root", options.given(network=Network(used)), Platform.SYSTRAP)


def test_the_hosts_network_is_not_given_unasked() -> None:
    with refuses(network.NetworkError, Reason.HOST_NETWORK):
        network.settle(spaces(), None, {}, rootless=False)


@pytest.mark.parametrize(
    ("shows", "knows", "given"),
    [(False, False, Network.SANDBOX), (True, True, Network.SANDBOX), (True, False, Network.NONE)],
)
def test_prepared_network_is_gvisors_where_runsc_can(
    monkeypatch: pytest.MonkeyPatch, shows: bool, knows: bool, given: Network
) -> None:
    monkeypatch.setattr(network, "_shows_in_new_namespace", lambda _: shows)
    monkeypatch.setattr(network, "_tells_apart", lambda *_: knows)
    config = spaces({"type": "network", "path": "/run/netns/x"})
    found, why = network.settle(config, None, {}, rootless=False)
    assert (found, why is None) == (given, given is Network.SANDBOX)


@pytest.mark.parametrize(
    ("text", "knows"),
    [
        (OLD_NETWORK_SIGN, False),
        (NEW_NETWORK_SIGN, True),
        (OLD_NETWORK_SIGN + NEW_NETWORK_SIGN, True),
        ("", True),
    ],
)
def test_which_sign_a_runsc_looks_for_is_told_by_reading_it(tmp_path: Path, text: str, knows: bool) -> None:
    program = tmp_path / "runsc"
    program.write_bytes(
        b"\x7fELF" + platform_package("ptrace") + bytes((1 << 20) - 10) + text.encode() + bytes(9)
    )
    program.chmod(0o755)
    assert network._tells_apart(str(program), {}) == knows


def test_cgroups_that_are_there_are_their_managers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu" / "mine").mkdir(parents=True)
    monkeypatch.setattr(cgroups, "_hierarchies", lambda: iter([(str(tmp_path / "cpu"), "/mine")]))
    top = str(tmp_path / "cpu")
    absolute = {"linux": {"cgroupsPath": "/mine/pod/c"}}
    assert cgroups.missing(absolute, "c") == (f"{top}/mine/pod/c", f"{top}/mine/pod")
    assert cgroups.missing({"linux": {"cgroupsPath": "c"}}, "c") == (f"{top}/mine/c",)
    assert cgroups.missing({}, "c") == (f"{top}/c",)
    assert cgroups.missing({"linux": {"cgroupsPath": "a.slice:b:c"}}, "c") == ()
    assert cgroups.missing({"linux": {"cgroupsPath": "/../../etc"}}, "c") == ()
    made = cgroups.missing(absolute, "c")
    os.makedirs(made[0])
    assert cgroups.remove(made) == []
    assert os.path.isdir(f"{top}/mine")
    os.makedirs(f"{made[1]}/others")
    assert cgroups.remove(made) == [made[1]]


def test_list_escapes_what_a_terminal_would_take_for_its_own(
    private: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle's path with ESC, a newline or bytes that are no UTF-8 hides no other container."""
    base = open_base(str(private / "base"))
    paths = {"esc": "/a\x1b[2J", "line": "/a\nroot   1   running", "bytes": "/a\udcff", "plain": "/bundle"}
    for name, path in paths.items():
        container, lock = open_container(base, component(name))
        assert lock is not None
        noted = Record(name, path, "1f", (1, 1), "2026-01-01T00:00:00Z", "1.0.2", {})
        record.write(container, noted)
        root = Path(container.path, "runsc-root")
        root.mkdir(mode=0o700)
        (root / noted.state_file).write_text(json.dumps({"status": "stopped", "sandbox": {"pid": 0}}))
        for descriptor in (lock, container.descriptor):
            os.close(descriptor)
    base.close()
    assert main(["--root", str(private / "base"), "list"]) == 0
    said = capsys.readouterr().out
    assert len(said.splitlines()) == 1 + len(paths)
    assert all(line.isprintable() for line in said.splitlines())
    assert main(["--root", str(private / "base"), "list", "-f", "json"]) == 0
    said = capsys.readouterr().out
    assert said.rstrip("\n").isascii()
    assert {state["id"]: state["bundle"] for state in json.loads(said)} == paths


@pytest.mark.parametrize(
    "given",
    [
        "--log=LOG --log-format=json --nonsense create x",
        "--nonsense --log LOG --log-format json create x",
        "-nonsense value -log LOG -log-format=json create --log=OTHER x",
        "--log=LOG --log-format=json --debug=perhaps create x",
    ],
)
def test_wrong_flag_before_the_verb_is_in_the_log(
    given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    assert main(given.replace("LOG", str(log)).replace("OTHER", str(other)).split()) == 2
    line = json.loads(one_line(log.read_text()))
    assert (line["reason"], line["msg"]) == (
        Reason.USAGE,
        one_line(capsys.readouterr().err)[len("engine-oci: ") :],
    )
    assert not other.exists()
