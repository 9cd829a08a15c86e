"""What is known not to start is refused before anything is made; what only runsc can know is left to it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.bundle.bundle import Bundle, open_bundle, starts_as_usual
from engine.bundle.program import check
from engine.errors import (
    BundleError,
    EngineError,
    PrivilegeError,
    ProgramAbsentError,
    ProgramNotExecutableError,
    Reason,
    UsageError,
)
from engine.options import Network, RunOptions
from tests.support.bundles import make_bundle, program_bytes, put_program
from tests.support.refusals import refuses

ABSENT, NOT_EXECUTABLE = 127, 126
KINDS: dict[int, tuple[type[BundleError], str]] = {
    ABSENT: (ProgramAbsentError, Reason.PROGRAM_ABSENT),
    NOT_EXECUTABLE: (ProgramNotExecutableError, Reason.PROGRAM_NOT_EXECUTABLE),
}
PATH = ["PATH=/usr/local/bin:relative:/usr/bin:/bin"]


_IDS = [{"containerID": 0, "hostID": 1000, "size": 1}]
NEW_USERS = {"namespaces": [{"type": "user"}], "uidMappings": _IDS, "gidMappings": _IDS}


def check_start(
    bundle: Bundle, options: RunOptions, *, with_program: bool = True, has_terminal: bool | None = None
) -> None:
    """As a run does."""
    if not starts_as_usual(bundle, options):
        check(bundle, options, with_program=with_program, has_terminal=has_terminal)


class Box:
    """A bundle whose root file system a test fills."""

    def __init__(self, private: Path) -> None:
        self.bundle = private / "bundle"
        self.root = self.bundle / "rootfs"

    def check(
        self, *arguments: str, rootless: bool = False, with_program: bool = True, **changes: Any
    ) -> None:
        process = {"args": list(arguments) or ["/bin/true"], "env": PATH} | changes.pop("process", {})
        make_bundle(self.bundle, process=process, **changes)
        options = RunOptions("tested", rootless=rootless)
        with open_bundle(str(self.bundle)) as bundle:
            check_start(bundle, options, with_program=with_program)

    def refused(
        self, code: int, *facts: object, arguments: tuple[str, ...] = (), **changes: Any
    ) -> BundleError:
        kind, reason = KINDS[code]
        with refuses(kind, reason, *facts) as caught:
            self.check(*arguments, **changes)
        assert caught.value.exit_code == code
        return caught.value


@pytest.fixture
def box(private: Path) -> Box:
    return Box(private)


@pytest.fixture(autouse=True)
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's privilege has a test of its own."""
    monkeypatch.setattr("os.geteuid", lambda: 0)


# --- It is there ----------------------------------------------------------------------------------------------


def test_program_by_path_is_accepted(box: Box) -> None:
    box.check("/bin/true")


def test_program_by_name_is_searched_in_the_bundles_path(box: Box) -> None:
    box.check("true")
    box.refused(
        ABSENT, '"true": executable file not found in $PATH', arguments=("true",), process={"env": []}
    )
    box.refused(ABSENT, "$PATH", arguments=("true",), process={"env": ["PATH=bin:/usr/bin"]})


def test_a_refusal_shows_the_begin_of_a_long_name(box: Box) -> None:
    for name in ("x" * (1 << 20), f"/{'x' * (1 << 20)}"):
        with pytest.raises(BundleError) as caught:
            box.check(name)
        assert len(str(caught.value)) < 1000


def test_first_path_counts_where_the_environment_has_two(box: Box) -> None:
    box.check("true", process={"env": ["PATH=/bin", "PATH=/"]})
    box.refused(ABSENT, "$PATH", arguments=("true",), process={"env": ["PATH=/", "PATH=/bin"]})


def test_search_goes_on_after_a_file_that_may_not_be_executed(box: Box) -> None:
    put_program(box.root / "usr/bin/true", mode=0o644)
    box.check("true")


def test_relative_program_is_beneath_the_working_directory(box: Box) -> None:
    box.check("bin/true")
    box.check("./true", process={"cwd": "/bin"})
    box.check("../bin/true", process={"cwd": "/nowhere"})  # runsc joins both as text
    box.refused(ABSENT, "bin/true", arguments=("bin/true",), process={"cwd": "/bin"})


def test_links_are_followed_inside_the_root_only(box: Box, private: Path) -> None:
    put_program(private / "outside")
    box.root.mkdir(parents=True)
    (box.root / "absolute").symlink_to("/bin/true")
    (box.root / "up").symlink_to("../../../../bin/true")
    (box.root / "out").symlink_to("../../outside")
    box.check("/absolute")
    box.check("/up")
    box.check("/../../bin/true")
    box.refused(ABSENT, "no such file or directory", arguments=("/out",))
    box.refused(ABSENT, "no such file or directory", arguments=("/../../outside",))


def test_script_and_loader_are_accepted_where_what_they_need_is_there(box: Box) -> None:
    put_program(box.root / "lib/ld.so")
    put_program(box.root / "dynamic", program_bytes(loader=b"/lib/ld.so"))
    put_program(box.root / "script", b"#! /dynamic -x\n")
    put_program(box.root / "of-script", b"#!script\n")
    for name in ("/dynamic", "/script", "/of-script"):
        box.check(name)


# --- It is not there, or may not be executed ------------------------------------------------------------------


def test_missing_program_is_127_in_the_words_that_managers_read(box: Box) -> None:
    refusal = box.refused(ABSENT, 'exec: "/bin/fals"', "no such file or directory", arguments=("/bin/fals",))
    assert refusal.member == "$.process.args[0]"
    box.refused(ABSENT, 'exec: "fals"', "executable file not found in $PATH", arguments=("fals",))
    box.refused(ABSENT, "not a directory", arguments=("/bin/true/x",))
    box.refused(ABSENT, "executable file not found in $PATH", arguments=("",))
    box.refused(ABSENT, 'exec: "a\\"b\\n"', arguments=('a"b\n',))


def test_loop_of_links_is_127(box: Box) -> None:
    box.root.mkdir(parents=True)
    (box.root / "a").symlink_to("b")
    (box.root / "b").symlink_to("a")
    box.refused(ABSENT, os.strerror(40).lower(), arguments=("/a",))


def _fifo(path: Path) -> None:
    os.mkfifo(path, 0o755)


def _socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o755)  # bind(2) takes 107 bytes of path


@pytest.mark.parametrize("make", [Path.mkdir, _fifo, _socket, lambda path: put_program(path, mode=0o644)])
def test_what_may_not_be_executed_is_126(box: Box, make: Callable[[Path], object]) -> None:
    (box.root / "bin").mkdir(parents=True)
    make(box.root / "bin/x")
    box.refused(NOT_EXECUTABLE, 'exec: "/bin/x": permission denied', arguments=("/bin/x",))
    box.refused(NOT_EXECUTABLE, 'exec: "x": permission denied', arguments=("x",))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (program_bytes(bits=32), "32-bit"),
        (program_bytes(machine=8), "another machine"),
        (b"echo hello\n", "neither an ELF file nor a script"),
        (b"", "neither an ELF file nor a script"),
    ],
)
def test_what_this_machine_cannot_execute_is_126(box: Box, content: bytes, what: str) -> None:
    put_program(box.root / "x", content)
    box.refused(NOT_EXECUTABLE, 'exec: "/x": exec format error', what, arguments=("/x",))


def test_missing_loader_or_interpreter_is_127_and_named(box: Box) -> None:
    put_program(box.root / "dynamic", program_bytes(loader=b"/lib64/ld-linux.so.2"))
    put_program(box.root / "script", b"#!/usr/bin/perl -w\n")
    put_program(box.root / "windows", b"#!/bin/true\r\n")
    put_program(box.root / "of-script", b"#!/script\n")
    put_program(box.root / "no-program", b"#!/bin\n")
    box.refused(ABSENT, "/lib64/ld-linux.so.2: no such file or directory", arguments=("/dynamic",))
    box.refused(ABSENT, "/usr/bin/perl: no such file or directory", arguments=("/script",))
    box.refused(ABSENT, "/bin/true\\r: no such file or directory", arguments=("/windows",))
    box.refused(ABSENT, "/usr/bin/perl", arguments=("/of-script",))
    box.refused(NOT_EXECUTABLE, "/bin: permission denied", arguments=("/no-program",))


@pytest.mark.parametrize(
    ("mode", "ids", "may"),
    [
        (0o100, (7, 8, ()), True),
        (0o011, (7, 8, ()), False),
        (0o010, (9, 8, ()), True),
        (0o101, (9, 8, ()), False),
        (0o010, (9, 9, (8,)), True),
        (0o001, (9, 9, ()), True),
        (0o110, (9, 9, ()), False),
        (0o001, (0, 0, ()), True),
        (0o110, (0, 0, ()), False),
        (0o000, (0, 0, ()), False),
    ],
)
def test_execute_bit_is_that_of_the_bundles_user(
    box: Box, monkeypatch: pytest.MonkeyPatch, mode: int, ids: tuple[int, int, tuple[int, ...]], may: bool
) -> None:
    put_program(box.root / "x", mode=mode)
    real = os.fstat

    def owned(descriptor: int) -> os.stat_result:
        status = list(real(descriptor))
        status[4:6] = 7, 8
        return os.stat_result(status)

    monkeypatch.setattr("os.fstat", owned)
    user = {"uid": ids[0], "gid": ids[1], "additionalGids": list(ids[2])}
    if may:
        box.check("/x", process={"user": user})
        return
    box.refused(NOT_EXECUTABLE, "permission denied", arguments=("/x",), process={"user": user})
    if mode:  # any bit is enough where the ids are not those of the files, or do not matter
        able = {"effective": ["CAP_DAC_OVERRIDE"]}
        box.check("/x", process={"user": user, "capabilities": able})
        box.check("/x", process={"user": user}, rootless=True)
        box.check("/x", process={"user": user}, linux=NEW_USERS)


# --- What may bring it is left to runsc -----------------------------------------------------------------------


@pytest.mark.parametrize("destination", ["/", "/opt", "/opt/bin/x", "/opt/bin/", "/link", "/opt/../opt"])
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_program_under_a_mount_is_left_to_runsc(box: Box, private: Path, destination: str, kind: str) -> None:
    box.root.mkdir(parents=True)
    (box.root / "opt").mkdir()
    (box.root / "link").symlink_to("/opt")
    mount = {"destination": destination, "type": kind, "source": str(private)}
    box.check("/opt/bin/x", mounts=[mount])
    box.check("x", mounts=[mount], process={"env": ["PATH=/bin:/opt/bin"]})
    box.refused(ABSENT, arguments=("/opt2/x",), mounts=[mount]) if destination != "/" else None


def test_link_or_loader_under_a_mount_is_left_to_runsc(box: Box) -> None:
    put_program(box.root / "x", program_bytes(loader=b"/lib64/ld.so"))
    (box.root / "y").symlink_to("/data/y")
    for name in ("/x", "/y"):
        box.refused(ABSENT, arguments=(name,))
        box.check(name, mounts=[{"destination": at, "type": "tmpfs"} for at in ("/lib64", "/data")])


@pytest.mark.parametrize("place", ["/proc/self/exe", "/dev/init", "/tmp/x", "/sys/x"])
def test_what_runsc_mounts_itself_is_left_to_it(box: Box, place: str) -> None:
    box.check(place)


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer"])
def test_hook_may_bring_the_program_and_the_source(box: Box, kind: str) -> None:
    mount = {"destination": "/data", "type": "bind", "source": "/nowhere/at/all"}
    box.check("/missing", hooks={kind: [{"path": "/bin/true"}]}, mounts=[mount])


@pytest.mark.parametrize("kind", ["poststart", "poststop"])
def test_hook_that_comes_later_brings_nothing(box: Box, kind: str) -> None:
    box.refused(ABSENT, arguments=("/missing",), hooks={kind: [{"path": "/bin/true"}]})


def test_what_a_checkpoint_brings_is_left_to_runsc(box: Box) -> None:
    box.check("/missing", with_program=False)


def test_unreadable_program_is_left_to_runsc(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    put_program(box.root / "x", b"no program", mode=0o111)
    real = os.open

    def denied(path: Any, flags: int, *more: Any, **given: Any) -> int:
        if str(path).startswith("/proc/self/fd/"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags, *more, **given)

    monkeypatch.setattr("os.open", denied)
    box.check("/x")


# --- Mounts, the network, the user ----------------------------------------------------------------------------


def test_missing_source_of_a_bind_mount_is_refused(box: Box, private: Path) -> None:
    there = {"destination": "/a", "type": "bind", "source": str(private)}
    for source in (str(private / "gone"), "gone", str(private / "bundle/config.json/x")):
        mount = {"destination": "/b", "type": "bind", "source": source, "options": ["rbind"]}
        with refuses(BundleError, Reason.SOURCE_ABSENT, source, "$.mounts[1].source") as caught:
            box.check(mounts=[there, mount])
        assert caught.value.exit_code == EngineError.exit_code
    box.check(mounts=[there, {"destination": "/b", "type": "tmpfs", "source": "gone"}])
    box.check(mounts=[there, {"destination": "/b", "type": "bind", "source": "/proc/self/fd/77"}])


def test_source_is_relative_to_the_bundle(box: Box) -> None:
    (box.bundle / "data").mkdir(parents=True)
    box.check(mounts=[{"destination": "/b", "type": "bind", "source": "data"}])


def test_sandbox_network_is_refused_with_rootless(box: Box) -> None:
    make_bundle(box.bundle)
    with open_bundle(str(box.bundle)) as bundle:
        for network in (Network.NONE, Network.HOST):
            check_start(bundle, RunOptions("tested", rootless=True, network=network))
        check_start(bundle, RunOptions("tested", network=Network.SANDBOX))
        with refuses(UsageError, Reason.UNSUPPORTED, "--network", "--rootless"):
            check_start(bundle, RunOptions("tested", rootless=True, network=Network.SANDBOX))


@pytest.mark.parametrize("capabilities", ["0000000000000000", "0000000000200000"])
def test_ordinary_user_without_rootless_is_refused(
    box: Box, private: Path, monkeypatch: pytest.MonkeyPatch, capabilities: str
) -> None:
    status = private / "status"
    status.write_text(f"Name:\tx\nCapEff:\t{capabilities}\nCapBnd:\t0000000000000000\n")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("engine.bundle.program._STATUS", str(status))
    if int(capabilities, 16):
        box.check()
        return
    with refuses(PrivilegeError, Reason.NO_PRIVILEGE, 1000):
        box.check()
    box.check(rootless=True)
    box.check(linux=NEW_USERS)
    with refuses(BundleError, Reason.UNSUPPORTED, "$.linux.namespaces[0]"):
        box.check(linux=NEW_USERS, rootless=True)


@pytest.mark.parametrize("lacking", ["uidMappings", "gidMappings"])
def test_a_new_user_namespace_without_mappings_is_refused(box: Box, lacking: str) -> None:
    linux = {name: member for name, member in NEW_USERS.items() if name != lacking}
    for rootless in (False, True):
        with refuses(BundleError, Reason.UNSUPPORTED, "$.linux.namespaces[0]", "uidMappings"):
            box.check(linux=linux, rootless=rootless)
    box.check(linux={"namespaces": [{"type": "user", "path": "/proc/self/ns/user"}]})


@pytest.mark.parametrize("has_terminal", [None, False, True])
def test_a_terminal_is_refused_where_there_is_none(box: Box, has_terminal: bool | None) -> None:
    make_bundle(box.bundle, process={"terminal": True})
    own, other = os.openpty()
    stdin = os.dup(0)
    try:
        for descriptor in (own, os.open(os.devnull, os.O_RDONLY)):
            os.dup2(descriptor, 0)
            with open_bundle(str(box.bundle)) as bundle:
                assert not starts_as_usual(bundle, RunOptions("tested"))
                check_start(bundle, RunOptions("tested"), with_program=False, has_terminal=has_terminal)
                if has_terminal or (has_terminal is None and descriptor == own):
                    check_start(bundle, RunOptions("tested"), has_terminal=has_terminal)
                    continue
                with refuses(BundleError, Reason.UNSUPPORTED, "$.process.terminal"):
                    check_start(bundle, RunOptions("tested"), has_terminal=has_terminal)
    finally:
        os.dup2(stdin, 0)
        for descriptor in (stdin, own, other):
            os.close(descriptor)
