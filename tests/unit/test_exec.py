"""Step `exec`: value for value what the reference hands to runsc, and nothing of the caller's."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import pytest

from engine.errors import ExecError, Reason
from engine.lifecycle.exec import HandOff, hand_off
from engine.options import Network, Platform, RunOptions
from engine.runsc.arguments import RunscArguments, build_argv, build_environment
from engine.runsc.execute import SignalGuard
from engine.traces.header_schema import Bundle
from tests.support.refusals import refuses


@pytest.mark.parametrize(
    ("rootless", "ignore_cgroups", "network", "platform"),
    list(
        itertools.product(
            [False, True], [False, True], Network, [Platform.SYSTRAP, Platform.KVM, Platform.PTRACE]
        )
    ),
)
def test_global_flags_precede_the_verb_in_fixed_order(
    rootless: bool, ignore_cgroups: bool, network: Network, platform: Platform
) -> None:
    options = RunOptions("web", rootless=rootless, ignore_cgroups=ignore_cgroups, network=network)
    argv = build_argv("/stage/runsc", "/root-dir", options, platform, "/bundle")
    expected = ["/stage/runsc", "--root", "/root-dir"]
    if rootless:
        expected.append("--rootless")
    if ignore_cgroups:
        expected.append("--ignore-cgroups")
    expected += [
        "--network",
        network.value,
        "--platform",
        platform.value,
        "run",
        "--bundle",
        "/bundle",
        "web",
    ]
    assert list(argv) == expected


def test_the_defaults_share_nothing() -> None:
    argv = build_argv("/s", "/r", RunOptions("web"), Platform.SYSTRAP, "/b")
    assert list(argv) == [
        *("/s", "--root", "/r", "--network", "none", "--platform", "systrap"),
        *("run", "--bundle", "/b", "web"),
    ]


def test_what_a_manager_asks_for_has_its_place_around_the_verb() -> None:
    asked = RunscArguments("create", ("--pid-file", "/p"), ("--log", "/l"))
    argv = build_argv("/s", "/r", RunOptions("web"), Platform.SYSTRAP, "/b", asked)
    assert list(argv) == [
        *("/s", "--root", "/r", "--network", "none", "--platform", "systrap"),
        *("--log", "/l", "create", "--bundle", "/b", "--pid-file", "/p", "web"),
    ]


def test_environment_is_constant_whatever_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/tmp/evil/bin")
    monkeypatch.setenv("HOME", "/tmp/evil")
    monkeypatch.setenv("LD_PRELOAD", "/tmp/evil.so")
    assert build_environment("/private/runtime") == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "TMPDIR": "/private/runtime",
        "XDG_RUNTIME_DIR": "/private/runtime",
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
    }


def test_hand_off_refused_by_the_kernel_is_an_exec_error(private: Path) -> None:
    path = private / "runsc"
    path.write_bytes(b"of no format the kernel knows")
    path.chmod(0o555)
    bundle: Bundle = {"path": "/b", "sha256": "ab" * 32, "rootfs": "/b/rootfs", "hooks": 0}
    given = partial(
        HandOff,
        argv=("/stage/runsc", "run"),
        environment={},
        kept=frozenset(),
        bundle=bundle,
        config={"sha256": "ab" * 32},
    )
    refused = refuses(ExecError, Reason.EXECVE_REFUSED, "'/stage/runsc': Exec format error")
    with path.open("rb") as program, SignalGuard() as process, refused as refusal:
        hand_off(given(program.fileno()), process)
    assert refusal.value.exit_code == 125
