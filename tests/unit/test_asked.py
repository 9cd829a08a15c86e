"""What was asked is in the header: every field, no secret, within its size; and what no engine writes is refused."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.audit.report import run_page
from engine.bundle.bundle import open_bundle
from engine.errors import BundleError, Reason
from engine.linux import boot
from engine.options import RunOptions
from engine.traces.asked import KEPT, asked_facts
from engine.traces.move import FORMAT
from engine.traces.reader import BadLineError, read_header
from engine.traces.writer import Trace, header
from engine.verify.asked import contradiction
from engine.verify.faults import FaultCode
from engine.verify.trace_check import Verdict, verify
from tests.support.bundles import NAMESPACES, PROC, make_bundle
from tests.support.refusals import refuses
from tests.support.stories import Line, Story, save, written
from tests.unit.test_grants import DEFAULT_CAPABILITIES, bind

CONFIGS = Path(__file__).parent / "configs"
SECRET = "hunter2-of-the-database"


def asked_of(private: Path, **config: Any) -> dict[str, Any]:
    """What the header says of such a bundle, written and read again."""
    return json.loads(line_of(private, **config))["asked"]  # type: ignore[no-any-return]


def line_of(private: Path, **config: Any) -> bytes:
    with open_bundle(str(make_bundle(private / "bundle", **config))) as bundle:
        line = Trace("web", header("1", "ab" * 32, RunOptions("web"), bundle))._waiting[0][:-1]
    read = read_header(line)
    assert contradiction(read) is None
    assert msgspec.json.encode(read) == line, "the careful reading is for what no engine writes"
    return line


# -- what is recorded


def test_the_smallest_bundle_asks_for_little(private: Path) -> None:
    assert asked_of(private) == {
        "argv": ["/bin/true"],
        "cwd": "/",
        "terminal": False,
        "environment": [],
        "user": {"uid": 0, "gid": 0},
        "no_new_privileges": False,
        "capabilities": {},
        "root": {"path": "rootfs", "readonly": False},
        "mounts": [],
        "masked_paths": 0,
        "readonly_paths": 0,
        "namespaces": [],
    }


def test_everything_that_can_be_asked_for_is_recorded(private: Path) -> None:
    config = json.loads((CONFIGS / "full.json").read_text())
    config["hooks"] = {
        kind: [{**hook, "path": "/bin/true"} for hook in hooks] for kind, hooks in config["hooks"].items()
    }
    asked = asked_of(private, **{key: config[key] for key in ("process", "root", "mounts", "hooks", "linux")})
    assert asked["argv"] == ["/bin/app", "--flag", ""]
    assert asked["environment"] == ["PATH", "EMPTY", "TWO"]
    assert asked["user"] == {"uid": 1000, "gid": 1000, "additional_gids": [5, 6]}
    assert (asked["terminal"], asked["no_new_privileges"], asked["cwd"]) == (True, True, "/srv/app")
    assert asked["capabilities"]["bounding"] == ["CAP_KILL", "CAP_CHECKPOINT_RESTORE"]
    assert asked["rlimits"]["RLIMIT_CORE"] == {"soft": 0, "hard": 2**64 - 1}
    assert asked["apparmor"] == "containers-default"
    assert asked["root"] == {"path": "rootfs", "readonly": True}
    assert asked["mounts"] == [
        {"destination": "/proc", "type": "proc", "writable": True},
        {"destination": "/data", "type": "none", "source": str(private / "bundle/data"), "writable": False},
    ]
    assert asked["namespaces"][1] == {"type": "network", "path": "/run/netns/a"}
    assert len(asked["hooks"]) == 6
    assert asked["hooks"][0] == {"kind": "prestart", "path": "/bin/true"}
    linux = config["linux"]
    assert asked["seccomp"]["rules"] == len(linux["seccomp"]["syscalls"])
    assert len(asked["devices"]) == len(linux["devices"])
    assert len(asked["device_rules"]) == len(linux["resources"]["devices"])
    assert asked["sysctls"] == linux["sysctl"]
    assert asked["mount_label"] == linux["mountLabel"]
    memory = linux["resources"]["memory"]
    assert asked["limits"]["memory.limit"] == memory["limit"]
    assert asked["limits"]["pids.limit"] == linux["resources"]["pids"]["limit"]


@pytest.mark.parametrize(
    ("options", "writable"),
    [([], True), (["ro"], False), (["ro", "rw"], True), (["rw", "rbind", "ro"], False)],
)
def test_a_mount_says_where_from_and_whether_it_can_be_written(
    private: Path, options: list[str], writable: bool
) -> None:
    (private / "data").mkdir()
    (private / "link").symlink_to(private / "data")
    [mount] = asked_of(private, mounts=[bind(private / "link", options=[*options, "rshared"])])["mounts"]
    assert mount == {
        "destination": "/data",
        "type": "bind",
        "source": str(private / "link"),
        "leads_to": str(private / "data"),
        "writable": writable,
        "shared": True,
    }


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"allow": False, "access": "rwm"}, "deny a *:* rwm"),
        ({"allow": True, "type": "c", "major": 1, "minor": 3}, "allow c 1:3"),
        ({"allow": True, "type": "b", "major": 8, "minor": -1, "access": "r"}, "allow b 8:* r"),
        ({"allow": True, "type": "c", "major": -12, "minor": -1}, "allow c -12:*"),
    ],
)
def test_a_device_rule_is_one_short_text(private: Path, rule: dict[str, Any], text: str) -> None:
    assert asked_of(private, linux={"resources": {"devices": [rule]}})["device_rules"] == [text]


def test_a_capability_is_recorded_once(private: Path) -> None:
    repeated = {"bounding": ["CAP_KILL", "CAP_CHOWN"] * 50_000}
    assert asked_of(private, process={"capabilities": repeated})["capabilities"] == {
        "bounding": ["CAP_KILL", "CAP_CHOWN"]
    }


def test_what_is_never_cut_is_short(private: Path) -> None:
    longest = "x" * 4095
    process = {"cwd": f"/{longest[1:]}", "apparmorProfile": longest}
    asked = asked_of(private, process=process, linux={"mountLabel": longest})
    assert (asked["cwd"], asked["apparmor"], asked["mount_label"]) == (process["cwd"], longest, longest)
    for config in (
        {"process": {"cwd": f"/{longest}"}},
        {"process": {"apparmorProfile": f"{longest}x"}},
        {"linux": {"mountLabel": f"{longest}x"}},
    ):
        with refuses(BundleError, Reason.CONFIG_INVALID):
            asked_of(private, **config)


def test_no_value_of_a_variable_is_recorded_anywhere(private: Path) -> None:
    """But `argv` is recorded as it is: who gives a secret there gives it to every ps(1), too."""
    hook = {"path": "/bin/true", "env": [f"TOKEN={SECRET}"], "args": ["true", SECRET]}
    line = line_of(
        private,
        process={"env": [f"PASSWORD={SECRET}"], "args": ["/bin/true", "in the open"]},
        hooks={"poststop": [hook]},
        annotations={"org.example.token": SECRET},
        mounts=[{"destination": "/n", "type": "nfs", "source": SECRET, "options": [f"password={SECRET}"]}],
    )
    trace = save(private / "trace", [line])
    for content in (line, run_page(str(trace), check=None, signers=None)):
        assert SECRET.encode() not in content
        assert b"PASSWORD" in content
        assert b"in the open" in content


def test_host_boot_and_login_are_recorded(private: Path) -> None:
    host = json.loads(line_of(private))["host"]
    assert host["name"] == os.uname().nodename
    assert host["boot"] == boot.boot_id()
    assert host["login_user"] == boot.login_user()


@pytest.mark.parametrize(
    ("text", "uid"), [("1000", 1000), ("4294967295", -1), ("x", -1), ("", -1), ("-5", -1)]
)
def test_a_login_that_is_not_known_is_minus_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, uid: int
) -> None:
    real, file = open, tmp_path / "loginuid"
    file.write_text(text)
    monkeypatch.setattr("builtins.open", lambda _path, *args, **more: real(file, *args, **more))
    assert boot.login_user() == uid
    file.unlink()
    assert boot.login_user() == -1


# -- its size


def default_config(manager: str) -> dict[str, Any]:
    """About what a manager gives a container by default, with its long seccomp profile and masked paths."""
    names = [f"syscall_{number}" for number in range(400)]
    where = "/var/lib/containers/storage/overlay-containers/" + "0" * 64 + "/userdata"
    binds = [
        bind(f"{where}/{name}", f"/etc/{name}", options=["bind", "rprivate"])
        for name in ("resolv.conf", "hosts", "hostname")
    ]
    masked = ["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/sys/firmware"]
    return {
        "process": {
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
                "HOME=/root",
            ],
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), DEFAULT_CAPABILITIES),
            "rlimits": [
                {"type": f"RLIMIT_{kind}", "soft": 2**20, "hard": 2**20} for kind in ("NOFILE", "NPROC")
            ],
            "apparmorProfile": f"{manager}-default",
        },
        "mounts": [
            PROC,
            *({"destination": f"/dev/{name}", "type": name} for name in ("pts", "mqueue", "shm")),
            {"destination": "/sys", "type": "sysfs", "options": ["ro", "nosuid"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]},
            *binds,
        ],
        "linux": {
            **NAMESPACES,
            "maskedPaths": masked,
            "readonlyPaths": masked,
            "resources": {
                "pids": {"limit": 2048},
                "memory": {"limit": 2**30},
                "devices": [{"allow": False, "access": "rwm"}]
                + [{"allow": True, "type": "c", "major": 1, "minor": n, "access": "rwm"} for n in range(10)],
            },
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}] * 20,
            },
        },
    }


@pytest.mark.parametrize("manager", ["containers", "cri-containerd.apparmor.d"])
def test_a_managers_bundle_has_a_short_header_that_is_not_cut(private: Path, manager: str) -> None:
    line = line_of(private, **default_config(manager))
    assert len(line) < 8 * 1024
    assert "cut" not in json.loads(line)["asked"]


def huge() -> dict[str, Any]:
    """A bundle of which every list is too long to be recorded whole."""
    many, config = range(2000), default_config("huge")
    config["process"] |= {
        "args": ["/bin/true", *(f"--option={number}" for number in many)],
        "env": [f"VARIABLE_{number}={SECRET}" for number in many],
        "user": {"uid": 0, "gid": 0, "additionalGids": list(many)},
    }
    config["mounts"] = [bind("/srv", f"/mnt/{number}") for number in many]
    config["hooks"] = {"prestart": [{"path": "/bin/true"} for _ in many]}
    config["linux"]["sysctl"] = {f"net.x{number}": "0" for number in many}
    config["linux"]["devices"] = [
        {"path": f"/dev/{number}", "type": "c", "major": 1, "minor": 3} for number in many
    ]
    config["linux"]["resources"]["devices"] = [{"allow": True, "access": "r"} for _ in many]
    config["linux"]["resources"]["unified"] = {f"x.{number}": "1" for number in many}
    config["linux"]["namespaces"] = [{"type": "pid", "path": "/" + "n" * 2000}]
    return config


def test_what_is_too_long_is_cut_with_its_number_and_digest(private: Path) -> None:
    config = huge()
    line = line_of(private, **config)
    asked = json.loads(line)["asked"]
    assert len(line) < 32 * 1024
    assert asked["cut"].keys() == KEPT.keys() - {"rlimits"}
    assert SECRET.encode() not in line
    for name, whole in (("argv", config["process"]["args"]), ("sysctls", config["linux"]["sysctl"])):
        digest = sha256(json.dumps(whole, separators=(",", ":")).encode()).hexdigest()
        assert asked["cut"][name] == {"count": len(whole), "sha256": digest}
        kept = asked[name]
        assert kept == (
            whole[: len(kept)] if isinstance(whole, list) else dict(list(whole.items())[: len(kept)])
        )
        assert KEPT[name] - 40 < len(json.dumps(kept, separators=(",", ":"))) <= KEPT[name]
    assert asked["namespaces"] == []


def test_a_list_that_just_fits_is_not_cut(private: Path) -> None:
    room = KEPT["argv"] - len('["/bin/true",""]')
    for length, is_cut in ((room, False), (room + 1, True)):
        asked = asked_of(private, process={"args": ["/bin/true", "x" * length]})
        assert (len(asked["argv"]), "cut" in asked) == ((1, True) if is_cut else (2, False))


# -- what no engine writes


def changed(private: Path, change: Callable[[Line], object], lines: list[Line] | None = None) -> str | None:
    """The code of the fault that a trace has when its header is changed so, and chained anew."""
    lines = lines or Story().lines(private / "good")
    change(lines[0])
    [result] = verify([str(save(private / "forged", written(lines)))])
    if result.fault is None:
        assert result.verdict.is_good
        return None
    assert result.verdict is Verdict.DIFFERS
    assert result.fault.line == 1
    return result.fault.code


def put(path: str, value: Any) -> Callable[[Line], None]:
    def change(header: Line) -> None:
        line: Any = header
        *way, last = path.split(".")
        for key in way:
            line = line[int(key)] if isinstance(line, list) else line[key]
        line[int(last) if isinstance(line, list) else last] = value

    return change


def without(*path: str) -> Callable[[Line], None]:
    def change(line: Line) -> None:
        for key in path[:-1]:
            line = line[key]
        del line[path[-1]]

    return change


def test_an_older_trace_that_says_nothing_of_it_conforms(private: Path) -> None:
    def older(line: Line) -> None:
        line["format"] = 1
        del line["asked"]
        for name in ("name", "boot", "login_user"):
            del line["host"][name]

    lines = Story().lines(private / "good")
    lines[2]["facts"].pop("unenforced")
    lines[4]["facts"]["mode"] = "0500"
    lines[6]["facts"].pop("config")
    lines[6]["facts"]["argv"][lines[6]["facts"]["argv"].index("--bundle") + 1] = "/base/b"
    assert changed(private, older, lines) is None
    for form in (2, 3):
        assert changed(private, put("format", form), lines) == CONTRADICTS


CONTRADICTS, FORM, KEY = FaultCode.HEADER_CONTRADICTS, FaultCode.NOT_OF_SCHEMA, FaultCode.UNKNOWN_KEY
BIND = {"destination": "/d", "type": "bind", "source": "/etc", "writable": False}
CUT = {"count": 3, "sha256": "ab" * 32}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (without("asked"), CONTRADICTS),
        (without("host", "name"), CONTRADICTS),
        (without("host", "login_user"), CONTRADICTS),
        (put("host.boot", None), None),
        (put("host.boot", "0F" * 16), FORM),
        (put("host.boot", ""), FORM),
        (put("host.login_user", -1), None),
        (put("host.login_user", -2), FORM),
        (put("host.login_user", 2**32 - 1), FORM),
        (put("asked.argv", []), CONTRADICTS),
        (put("asked.argv", [5]), FORM),
        (put("asked.argv", ["x" * 3000]), CONTRADICTS),
        (put("asked.argv", ["ü" * 340]), None),
        (put("asked.argv", ["ü" * 342]), CONTRADICTS),
        (put("asked.argv", ["\udcff" * 340]), None),
        (put("asked.argv", ["\udcff" * 342]), CONTRADICTS),
        (put("asked.environment", ["A=b"]), CONTRADICTS),
        (put("asked.environment", [""]), CONTRADICTS),
        (put("asked.cwd", "srv"), FORM),
        (put("asked.user.uid", -1), FORM),
        (put("asked.user.gid", 2**32), FORM),
        (put("asked.user.additional_gids", [-1]), FORM),
        (put("asked.user.name", "root"), KEY),
        (put("asked.secret", "x"), KEY),
        (put("asked.capabilities.bounding", ["CAP_KILL", "CAP_OF_NOBODY"]), FORM),
        (put("asked.capabilities.ambient", ["CAP_SYS_ADMIN"]), CONTRADICTS),
        (put("asked.capabilities.ambient", ["CAP_SETUID"]), None),
        (put("asked.rlimits.RLIMIT_NOTHING", {"soft": 1, "hard": 1}), FORM),
        (put("asked.seccomp.default_action", "SCMP_ACT_NOTHING"), FORM),
        (put("asked.seccomp.rules", -1), FORM),
        (put("asked.root.path", "other"), CONTRADICTS),
        (put("asked.root.path", "/elsewhere"), CONTRADICTS),
        (put("asked.root.sha256", "ab" * 32), CONTRADICTS),
        (put("asked.root.sha256", "AB" * 32), FORM),
        (put("options.root_digest", True), CONTRADICTS),
        (put("bundle.sha256", "AB" * 32), FORM),
        (put("bundle.hooks", 1), CONTRADICTS),
        (put("asked.hooks", [{"kind": "prestart", "path": "/x"}]), CONTRADICTS),
        (put("asked.mounts.1.source", "srv/data"), FORM),
        (put("asked.mounts.1.source", "/srv/../data"), CONTRADICTS),
        (put("asked.mounts.1.source", "/etc"), CONTRADICTS),
        (put("asked.mounts.1.leads_to", "/etc"), CONTRADICTS),
        (put("asked.mounts.1.leads_to", "/srv/data"), CONTRADICTS),
        (put("asked.mounts.1.leads_to", "/mnt/data"), None),
        (put("asked.mounts.1.kind", "socket"), CONTRADICTS),
        (put("asked.mounts.1.kind", "device"), CONTRADICTS),
        (put("asked.mounts.1.kind", "file"), FORM),
        (put("asked.mounts.1.shared", False), CONTRADICTS),
        (put("asked.mounts.1.destination", "data"), FORM),
        (put("asked.mounts.1.destination", "/usr/bin"), CONTRADICTS),
        (put("asked.mounts.0.kind", "device"), CONTRADICTS),
        (put("asked.namespaces", [{"type": "pid"}, {"type": "pid"}]), CONTRADICTS),
        (put("asked.namespaces", [{"type": "mind"}]), FORM),
        (put("asked.devices", [{"path": "/dev/x", "type": "c", "major": 10, "minor": 1}]), CONTRADICTS),
        (put("asked.devices", [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}]), None),
        *(
            (put("asked.device_rules", [rule]), CONTRADICTS)
            for rule in (
                "",
                "allow",
                "allow x 1:3 r",
                "may c 1:3",
                "allow c 1 r",
                "allow c 1:3 rx",
                "allow c a:b r",
            )
        ),
        (put("asked.uid_mappings", 0), CONTRADICTS),
        (put("asked.cut", {}), CONTRADICTS),
        (put("asked.cut", {"argv": {**CUT, "count": 2}}), CONTRADICTS),
        (put("asked.cut", {"argv": {**CUT, "sha256": "x"}}), FORM),
        (put("asked.cut", {"cwd": CUT}), CONTRADICTS),
        (put("asked.cut", {"hooks": CUT}), CONTRADICTS),
        *(
            (put("bundle.grants", [code]), CONTRADICTS)
            for code in (
                *("binds_host", "binds_proc", "binds_sys", "binds_etc", "binds_root_home", "writable_system"),
                *("devices", "capabilities", "over_programs", "host_network", "hook_environment"),
                "filestore_on_host",
            )
        ),
        (put("bundle.grants", ["nothing"]), FORM),
        (put("options.network", "host"), CONTRADICTS),
        (put("options.require_strict_bundle", True), None),
    ],
)
def test_a_header_that_no_engine_writes_is_refused(
    private: Path, change: Callable[[Line], object], code: str | None
) -> None:
    assert changed(private, change, Story().lines(private / "good")[:1]) == code


def test_mounts_that_were_cut_may_hide_a_grant_and_not_another(private: Path) -> None:
    def cut(line: Line) -> None:
        line["asked"]["cut"] = {"mounts": CUT}
        line["bundle"]["grants"] = ["binds_etc"]

    assert changed(private, cut, Story().lines(private / "one")[:1]) is None

    def cut_for_capabilities(line: Line) -> None:
        cut(line)
        line["bundle"]["grants"] = ["capabilities"]

    assert changed(private, cut_for_capabilities, Story().lines(private / "two")[:1]) == CONTRADICTS


def test_a_socket_deserves_its_word(private: Path) -> None:
    def of_a_socket(line: Line) -> None:
        line["asked"]["mounts"][1] |= {"kind": "socket"}
        line["bundle"]["grants"] = ["binds_socket"]

    lines = Story().lines(private / "one")[:1]
    assert changed(private, of_a_socket, lines) is None
    assert changed(private, put("options.require_strict_bundle", True), lines) == CONTRADICTS


def test_an_older_reader_of_the_line_is_not_misled(private: Path) -> None:
    """The format does not tell: who does not know `asked` refuses the key, and does not read it as another."""
    line = json.loads(line_of(private))
    assert line["format"] == FORMAT
    line["future"] = 1
    with pytest.raises(BadLineError) as refusal:
        read_header(json.dumps(line).encode())
    assert refusal.value.code in (FaultCode.UNKNOWN_KEY, FaultCode.NOT_OF_SCHEMA)


def test_a_root_that_is_opened_by_link_is_recorded_as_it_is_named(private: Path) -> None:
    bundle = make_bundle(private / "bundle")
    (bundle / "rootfs").rename(bundle / "real")
    (bundle / "rootfs").symlink_to("real")
    with open_bundle(str(bundle)) as opened:
        assert asked_facts(opened)["root"] == {"path": "rootfs", "readonly": False}


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a device node")
def test_kinds_of_sources_are_recorded(private: Path) -> None:
    os.mknod(private / "loop", 0o600 | stat.S_IFBLK, os.makedev(7, 0))
    os.mkfifo(private / "pipe")
    mounts = [bind(private / name, f"/{name}") for name in ("loop", "pipe", "absent")]
    found = asked_of(private, mounts=mounts)["mounts"]
    assert [mount.get("kind") for mount in found] == ["device", None, None]
