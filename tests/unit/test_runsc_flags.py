"""The flags of runsc that are passed on: which, with which values, and what they open."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from engine.bundle.bundle import open_bundle
from engine.bundle.grant_codes import CODES
from engine.errors import BundleError, Reason, UsageError, ValidateError
from engine.lifecycle.resolve import Resolved
from engine.lifecycle.validate import Validated, hold_against, validate
from engine.oci.cli import RUNSC_SWITCHES, RUNSC_VALUES
from engine.oci.flags import Flags
from engine.oci.request import Request
from engine.oci.run_options import options_of
from engine.options import Platform, RunOptions
from engine.runsc.arguments import build_argv, kill_arguments
from engine.runsc.binary import platform_package
from engine.runsc_flags import FLAGS, are_passed, directories_of, opened_by, parse
from engine.traces.writer import bundle_facts, options_facts
from tests.support.bundles import make_bundle
from tests.support.refusals import refuses

#: What each value opens, of all that are accepted for these.
OPENED = {
    "overlay2=none": "root_on_host",
    "host-uds=open": "host_uds",
    "host-uds=create": "host_uds",
    "host-uds=all": "host_uds",
    "host-fifo=open": "host_fifo",
    "net-raw": "raw_sockets",
    "nvproxy": "device_proxy",
    "tpuproxy": "device_proxy",
    "strace": "logs_data",
    "log-packets": "logs_data",
}
NOTHING_OPENED = (
    *("overlay2=root:self", "overlay2=root:memory", "overlay2=all:self", "overlay2=all:memory"),
    *("host-uds=none", "host-fifo=none", "net-raw=false", "nvproxy=false", "tpuproxy=false"),
    *("strace=false", "log-packets=false", "directfs=false", "directfs", "file-access=shared"),
    *("file-access-mounts=exclusive", "debug", "debug-log=/var/log/runsc/", "oci-seccomp"),
    *("nvproxy-driver-version=550.54.15", "nvproxy-driver-version=latest", "strace-syscalls=open,pread64"),
    *("strace-log-size=0", "dcache=-1", "fdlimit=1024", "num-network-channels=1", "qdisc=none"),
)


@pytest.mark.parametrize("given", [*OPENED, *NOTHING_OPENED])
@pytest.mark.parametrize("dashes", ["", "-", "--"])
def test_flag_on_the_list_is_passed_on_and_says_what_it_opens(given: str, dashes: str) -> None:
    (flag,) = parse([dashes + given])
    assert flag == "--" + (given if "=" in given else f"{given}=true")
    assert list(opened_by([flag])) == ([(OPENED[given], flag)] if given in OPENED else [])
    assert are_passed([flag])


def test_every_code_is_a_grant() -> None:
    assert set(OPENED.values()) <= set(CODES)


@pytest.mark.parametrize(
    "name",
    [
        *("TESTONLY-unsafe-nonroot", "allow-flag-override", "profile", "EXPERIMENTAL-xdp", "reproduce-nat"),
        *("root", "network", "platform", "rootless", "ignore-cgroups", "log", "platform_device_path"),
        *("metric-server", "pod-init-config", "debug-log-fd", "panic-log", "coverage-report", "", "nosuch"),
        *("fsgofer-host-uds", "overlay", "alsologtostderr", "host-settings", "allow-suid"),
    ],
)
@pytest.mark.parametrize("value", ["", "=true", "=/x"])
def test_other_flag_is_refused(name: str, value: str) -> None:
    with refuses(UsageError, Reason.UNSUPPORTED, repr(name)):
        parse([f"--{name}{value}"])


@pytest.mark.parametrize(
    "given",
    [
        *("overlay2", "overlay2=", "overlay2=dir=/x", "overlay2=root:dir=/x", "overlay2=all", "host-uds=yes"),
        *("nvproxy=1", "nvproxy=", "net-raw=True", "debug-log", "debug-log=", "debug-log=/x/%COMMAND%/"),
        *(
            "dcache=",
            "dcache=x",
            "dcache=01",
            "dcache=-2",
            "dcache=--1",
            "dcache=9999999999",
            "dcache=\u0661",
            pytest.param("dcache=" + "9" * 5000, id="more digits than int takes"),
        ),
        *("strace-syscalls=", "strace-syscalls=open write", "nvproxy-driver-version=5 --root=/"),
        *("num-network-channels=0", "qdisc=tbf", "file-access=both", "strace-syscalls=" + "a" * 1025),
    ],
)
def test_value_that_is_not_on_the_list_is_refused(given: str) -> None:
    with refuses(UsageError, Reason.USAGE, repr(given.partition("=")[0])):
        parse([given])


def test_flags_are_in_one_order_and_the_last_of_a_name_counts() -> None:
    given = ["strace", "overlay2=all:self", "strace=false", "overlay2=none", "debug"]
    assert parse(given) == ("--overlay2=none", "--debug=true", "--strace=false")
    assert not are_passed(["--strace=false", "--overlay2=none"])
    assert not are_passed(["--debug"])
    assert not are_passed(["--debug=true", "--debug=true"])
    assert are_passed([])
    assert not are_passed(["--fdlimit=" + "9" * 5000])


def test_directory_of_the_log_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for given in ("log", "log/", f"{tmp_path}/log", "./x/../log//"):
        flags = parse([f"debug-log={given}"])
        assert flags == (f"--debug-log={tmp_path}/log/",)
        assert directories_of(flags) == [f"{tmp_path}/log/"]


def test_argv_has_the_flags_of_every_verb_before_the_others() -> None:
    options = RunOptions("web", runsc_flags=parse(["overlay2=none", "debug"]))
    argv = build_argv("/s", "/r", options, Platform.SYSTRAP, "/b", creation_flags=("--new", "x"))
    own = ("--root", "/r", "--network", "none", "--platform", "systrap", "--overlay2=none", "--debug=true")
    assert argv == ("/s", *own, "--new", "x", "run", "--bundle", "/b", "web")
    assert kill_arguments(argv) == ["/s", *own, "kill"]


def test_header_says_which_and_what_they_open(private: Path) -> None:
    make_bundle(private / "bundle")
    options = RunOptions("web", runsc_flags=parse(["nvproxy", "strace", "log-packets", "debug"]))
    assert options_facts(options)["runsc_flags"] == list(options.runsc_flags)
    assert "runsc_flags" not in options_facts(RunOptions("web"))
    with open_bundle(str(private / "bundle")) as bundle:
        assert bundle_facts(bundle, options)["grants"] == ["device_proxy", "logs_data"]


def test_strict_bundle_refuses_what_opens_something() -> None:
    for given in OPENED:
        with refuses(BundleError, Reason.GRANTED, parse([given])[0]):
            RunOptions("web", require_strict_bundle=True, runsc_flags=parse([given]))
    RunOptions("web", require_strict_bundle=True, runsc_flags=parse(["overlay2=all:self", "debug"]))


def _held(private: Path, content: bytes, *flags: str) -> Validated:
    program = private / "runsc"
    program.write_bytes(b"\x7fELF" + platform_package("systrap") + content)
    program.chmod(0o755)
    make_bundle(private / "bundle")
    binary = validate(Resolved(str(program), "option"), Platform.AUTO)
    with open_bundle(str(private / "bundle")) as bundle:
        return hold_against(binary, bundle, RunOptions("web", runsc_flags=parse(flags)))


def test_runsc_without_the_flag_is_refused(private: Path) -> None:
    has = b'flag:"overlay2" flag:"debug"'
    with closing(_held(private, has, "overlay2=none", "debug")):
        pass
    with refuses(ValidateError, Reason.UNSUPPORTED, "--nvproxy=true"):
        _held(private, has, "overlay2=none", "nvproxy")
    with refuses(ValidateError, Reason.UNSUPPORTED, "--debug-log="):
        _held(private, b'flag:"debug-log-fd"', f"debug-log={private}")


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o775, 0o757, 0o1777, None])
def test_log_lies_where_nobody_else_can_write(private: Path, mode: int | None) -> None:
    place = private / "log"
    if mode is not None:
        place.mkdir()
        place.chmod(mode)
    if mode is not None and not mode & 0o022:
        with closing(_held(private, b'flag:"debug-log"', f"debug-log={place}")):
            return
    before = len(os.listdir("/proc/self/fd"))
    with refuses(ValidateError, Reason.UNSUPPORTED, str(place)):
        _held(private, b'flag:"debug-log"', f"debug-log={place}")
    assert len(os.listdir("/proc/self/fd")) == before


def test_engine_oci_takes_each_by_its_name() -> None:
    own = {"debug"}  # `engine-oci --debug` is the engine's; with --debug-log it is runsc's, too
    assert {*RUNSC_SWITCHES, *RUNSC_VALUES} == FLAGS.keys() - own
    assert {name for name, flag in FLAGS.items() if flag.is_switch} == {*RUNSC_SWITCHES, *own}


def test_engine_oci_gives_them_to_the_run() -> None:
    lists = {"runsc-flag": ("overlay2=none", "strace")}
    request = Request({}, Flags(lists=lists), "create", Flags(), ["web"])
    assert options_of(request).runsc_flags == ("--overlay2=none", "--strace=true")
