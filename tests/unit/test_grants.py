"""What of a bundle deserves a word: each code is found where it should be, warned of, recorded and shown."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.bundle import grants
from engine.bundle.bundle import open_bundle
from engine.bundle.grant_codes import CODES
from engine.errors import BundleError, Reason
from engine.options import Network, RunOptions
from engine.traces.reader import read_header
from engine.traces.schema import Header
from engine.traces.writer import Trace, header
from engine.verify.asked import contradiction
from tests.support.bundles import make_bundle
from tests.support.refusals import refusal_of, refuses

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
OTHER = 65533


def codes(private: Path, **config: Any) -> list[str]:
    """The codes of such a bundle; what the header says of it goes together."""
    with open_bundle(str(make_bundle(private / "bundle", **config))) as bundle:
        facts = header("1", "ab" * 32, RunOptions("web"), bundle)
    found = [grant.code for grant in bundle.grants]
    assert facts["bundle"].get("grants", []) == found
    assert ("grants" in facts["bundle"]) == bool(found)
    assert contradiction(as_read(facts)) is None
    return found


def as_read(facts: dict[str, Any]) -> Header:
    """The header with these facts, written and read again."""
    return read_header(Trace("web", facts)._waiting[0][:-1])


def bind(source: str | Path, destination: str = "/data", **more: Any) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), **more}


def test_a_plain_bundle_grants_nothing(private: Path) -> None:
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/sys", "type": "sysfs", "source": "/sys"},
        {"destination": "/bin", "type": "tmpfs", "source": "tmpfs"},
        bind(private),
        bind("/usr/share", "/usr/share", options=["ro"]),
        bind("/usr/share", "/lib/modules", options=["rw", "ro"]),
    ]
    hook = {"path": "/bin/true", "env": ["PATH=/bin", "A_LD_PRELOAD=x"]}
    assert codes(private, mounts=mounts, hooks={"prestart": [hook]}) == []


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("/", "binds_host"),
        ("/proc", "binds_proc"),
        ("/proc/sys", "binds_proc"),
        ("/sys", "binds_sys"),
        ("/sys/fs/cgroup", "binds_sys"),
        ("/etc", "binds_etc"),
        ("/etc/passwd", "binds_etc"),
        ("/root", "binds_root_home"),
        ("//root/../etc/", "binds_etc"),
    ],
)
@pytest.mark.parametrize("kind", [{}, {"type": "none", "options": ["rbind", "ro"]}])
def test_a_bind_of_the_host_is_named(private: Path, source: str, code: str, kind: dict[str, Any]) -> None:
    writable = [] if "ro" in kind.get("options", ()) else ["writable_system"]
    assert codes(private, mounts=[{**bind(source), **kind}]) == [code, *writable]


def test_a_relative_source_and_a_link_are_followed(private: Path) -> None:
    bundle = make_bundle(private / "bundle")
    (bundle / "link").symlink_to("/etc")
    assert codes(private, mounts=[bind("link")]) == ["binds_etc", "writable_system"]


def test_a_name_that_only_begins_so_is_not_named(private: Path) -> None:
    assert codes(private, mounts=[bind("/etcetera"), bind("/procedures", "/binary")]) == []


def test_a_socket_and_the_folder_of_a_known_one_are_named(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = private / "run" / "daemon.sock"
    place.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(os.path.relpath(place))
        assert codes(private, mounts=[bind(place)]) == ["binds_socket"]
        assert codes(private, mounts=[bind(place.parent)]) == []
        monkeypatch.setattr(grants, "_SOCKETS", (str(place),))
        assert codes(private, mounts=[bind(place.parent)]) == ["binds_socket"]
        place.unlink()
        assert codes(private, mounts=[bind(place.parent)]) == []


@pytest.mark.parametrize(
    "destination", ["/bin", "/bin/sh", "/usr/local/sbin/x", "/usr", "/", "/lib64", "//usr/lib/"]
)
def test_a_mount_over_programs_is_named(private: Path, destination: str) -> None:
    assert codes(private, mounts=[bind(private, destination)]) == ["over_programs"]


@pytest.mark.parametrize("entry", ["LD_PRELOAD=/x.so", "LD_AUDIT=/x", "BASH_ENV=/x", "PYTHONPATH=/x"])
def test_a_variable_that_loads_code_is_named_for_a_hook_of_the_host(private: Path, entry: str) -> None:
    hook = {"path": "/bin/true", "env": ["A=b", entry]}
    assert codes(private, hooks={"poststop": [hook]}) == ["hook_environment"]
    assert codes(private, hooks={"startContainer": [hook]}) == []
    assert codes(private, process={"env": [entry]}) == []


@pytest.mark.parametrize("share", ["container", "pod"])
def test_a_hint_by_which_runsc_writes_to_the_host_is_named(private: Path, share: str) -> None:
    def hinted(mount: dict[str, Any], **changes: str) -> list[str]:
        volume = {"source": str(private), "type": "tmpfs", "share": share, **changes}
        annotations = {f"dev.gvisor.spec.mount.a.{field}": value for field, value in volume.items()}
        return codes(private, mounts=[mount], annotations=annotations)

    assert hinted(bind(private, options=["ro"])) == ["filestore_on_host"]
    assert hinted({**bind(private), "type": "tmpfs"}) == []
    assert hinted(bind(private), source="/other") == []
    assert hinted(bind(private), type="bind") == []
    assert hinted(bind(private), share="shared") == []


def test_each_code_is_named_once_with_every_place(private: Path) -> None:
    mounts = [bind("/etc"), bind(private), bind("/proc", "/bin"), bind("/etc/passwd", "/b")]
    with open_bundle(str(make_bundle(private / "bundle", mounts=mounts))) as bundle:
        found = {grant.code: grant.where for grant in bundle.grants}
    assert found == {
        "binds_proc": "$.mounts[2]",
        "binds_etc": "$.mounts[0], $.mounts[3]",
        "writable_system": "$.mounts[0], $.mounts[2], $.mounts[3]",
        "over_programs": "$.mounts[2]",
    }


@pytest.mark.parametrize(
    ("source", "options", "expected"),
    [
        ("/usr/lib", [], ["writable_system"]),
        ("/usr/lib", ["rw"], ["writable_system"]),
        ("/usr/lib", ["ro", "rw"], ["writable_system"]),
        ("/usr/lib", ["rw", "ro"], []),
        ("/var", [], ["writable_system"]),
        ("/var/tmp", [], []),
        ("/dev", ["ro"], ["devices"]),
        ("/dev/pts", ["ro"], ["devices"]),
        ("/dev/null", [], []),
        ("/dev/shm", [], []),
        ("/dev", [], ["writable_system", "devices"]),
    ],
)
def test_what_can_be_written_and_devices_are_named(
    private: Path, source: str, options: list[str], expected: list[str]
) -> None:
    assert codes(private, mounts=[bind(source, options=options)]) == expected


@needs_root
def test_a_device_node_anywhere_is_named_and_null_is_not(private: Path) -> None:
    for name, number, expected in (("loop", (7, 0), ["devices"]), ("null", (1, 3), [])):
        os.mknod(
            private / name, 0o600 | (stat.S_IFBLK if name == "loop" else stat.S_IFCHR), os.makedev(*number)
        )
        assert codes(private, mounts=[bind(private / name)]) == expected


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ({"type": "c", "major": 1, "minor": 3}, []),
        ({"type": "p"}, []),
        ({"type": "b", "major": 1, "minor": 3}, ["devices"]),
        ({"type": "c", "major": 10, "minor": 200}, ["devices"]),
    ],
)
def test_a_device_that_not_any_container_has_is_named(
    private: Path, device: dict[str, Any], expected: list[str]
) -> None:
    assert codes(private, linux={"devices": [{"path": "/dev/x", **device}]}) == expected


@pytest.mark.parametrize("kind", ["bounding", "effective", "permitted", "inheritable", "ambient"])
def test_a_capability_of_an_administrator_is_named_in_any_set(private: Path, kind: str) -> None:
    def having(*names: str) -> list[str]:
        return codes(private, process={"capabilities": {kind: list(names)}})

    assert having("CAP_CHOWN", "CAP_SYS_ADMIN") == ["capabilities"]
    assert having(*DEFAULT_CAPABILITIES) == []


#: Docker's, of which podman's and containerd's are a part.
DEFAULT_CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE"),
        *("NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    )
]


def test_what_runtimes_give_by_default_is_no_grant(private: Path) -> None:
    for name in ("runsc-spec", "podman"):
        config = json.loads((Path(__file__).parent / "configs" / f"{name}.json").read_text())
        parts = {key: config[key] for key in ("process", "mounts", "linux") if key in config}
        assert codes(private, **parts) == []


def test_the_host_network_is_a_grant_of_the_run(private: Path) -> None:
    with open_bundle(str(make_bundle(private / "bundle"))) as bundle:
        facts = header("1", "ab" * 32, RunOptions("web", network=Network.HOST), bundle)
    assert facts["bundle"]["grants"] == ["host_network"]
    assert contradiction(as_read(facts)) is None
    with refuses(BundleError, Reason.GRANTED) as refusal:
        RunOptions("web", network=Network.HOST, require_strict_bundle=True)
    assert refusal.value.exit_code == 125


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({"mounts": [bind("/", options=["ro"])]}, "$.mounts[0]"),
        ({"process": {"capabilities": {"bounding": ["CAP_SYS_ADMIN"]}}}, "CAP_SYS_ADMIN"),
        (
            {"linux": {"devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]}},
            "devices[0]",
        ),
    ],
)
def test_a_grant_is_refused_where_strict_is_required(
    private: Path, config: dict[str, Any], where: str
) -> None:
    bundle = make_bundle(private / "bundle", **config)
    for options, code in (((), None), (("--network", "host"), None), (("--require-strict-bundle",), 125)):
        command = ("-m", "engine", "run", "--dry-run", "--json", *options, str(bundle))
        done = subprocess.run([sys.executable, "-P", *command], capture_output=True, text=True, check=False)
        if code is not None:
            assert done.returncode == code
            refusal_of(done.stderr, Reason.GRANTED, where)
        else:
            assert Reason.GRANTED not in done.stderr


def test_a_strict_run_refuses_the_host_network(private: Path) -> None:
    command = ("-m", "engine", "run", "--json", "--require-strict-bundle", "--network", "host")
    bundle = make_bundle(private / "bundle")
    done = subprocess.run(
        [sys.executable, "-P", *command, str(bundle)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 125
    refusal_of(done.stderr, Reason.GRANTED, "--network host")


# --- A bundle that others can change ------------------------------------------------------------------------------


def loosened(private: Path, how: str) -> list[str]:
    """The codes of a bundle that others can change in this way."""
    bundle = make_bundle(private / "above" / "bundle")
    if how.startswith("config"):
        (bundle / "config.json").chmod(0o666 if how == "config" else 0o660)
    elif how == "of another":
        os.chown(bundle / "config.json", OTHER, -1)
    elif how == "bundle of another":
        os.chown(bundle, OTHER, -1)
    elif how == "link":
        (private / "link").symlink_to(bundle)
        os.chown(private / "link", OTHER, -1, follow_symlinks=False)
        bundle = private / "link"
    else:
        (bundle if how == "bundle" else bundle.parent).chmod(0o777)
    with open_bundle(str(bundle)) as opened:
        found = [grant.code for grant in opened.grants]
    with refuses(BundleError, Reason.BUNDLE_WRITABLE) as caught:
        open_bundle(str(bundle), require_strict=True)
    assert caught.value.exit_code == 125
    return found


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("config", "writable_config"),
        ("config of a group", "writable_config"),
        ("bundle", "writable_bundle"),
        ("above", "writable_bundle"),
        pytest.param("of another", "writable_config", marks=needs_root),
        pytest.param("bundle of another", "writable_bundle", marks=needs_root),
        pytest.param("link", "writable_bundle", marks=needs_root),
    ],
)
def test_a_bundle_that_others_can_change_is_named_or_refused(private: Path, how: str, code: str) -> None:
    assert loosened(private, how) == [code]


@pytest.mark.parametrize("verb", ["run", "create", "restore"])
def test_every_verb_of_the_oci_runtime_refuses_where_strict_is_required(private: Path, verb: str) -> None:
    bundle, log = make_bundle(private / "bundle"), private / "log"
    bundle.chmod(0o777)
    image = ("--image-path", str(private)) if verb == "restore" else ()
    given = ("--root", str(private / "base"), "--log", str(log), "--log-format", "json")
    command = (
        "-m",
        "engine.oci",
        *given,
        "--require-strict-bundle",
        verb,
        "--bundle",
        str(bundle),
        *image,
        "a",
    )
    assert (
        subprocess.run([sys.executable, "-P", *command], capture_output=True, check=False).returncode == 125
    )
    assert json.loads(log.read_text())["reason"] == Reason.BUNDLE_WRITABLE


def test_run_refuses_where_strict_is_required(private: Path) -> None:
    bundle = make_bundle(private / "bundle")
    bundle.chmod(0o777)
    command = ("-m", "engine", "run", "--json", "--require-strict-bundle", str(bundle))
    done = subprocess.run(
        [sys.executable, "-P", *command], capture_output=True, text=True, check=False, env={}
    )
    assert done.returncode == 125
    refusal_of(done.stderr, Reason.BUNDLE_WRITABLE, bundle, "0777")


def test_a_strict_bundle_is_accepted(private: Path) -> None:
    (private / "tmp").mkdir(mode=0o1777)
    (private / "tmp").chmod(0o1777)
    bundle = make_bundle(private / "tmp" / "bundle")
    (private / "link").symlink_to(bundle)
    for path in (bundle, private / "link"):
        with open_bundle(str(path), require_strict=True) as opened:
            assert opened.grants == ()


def test_every_code_has_its_own_sentence() -> None:
    assert len(set(CODES.values())) == len(CODES)
    assert all(str(grants.Grant(code, "$.x")).isprintable() for code in CODES)
