"""A container's output to a regular file: it is all there, in order, with what the caller writes before and after."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.integration.oci_runtime import Oci
from tests.support.harness import TIMEOUT, Engine, wait_for

SAYS = "echo out; echo err >&2; sleep 0.1; echo more"


def _between(engine: Engine, command: Sequence[str], redirection: str) -> str:
    """What is in the file after a shell has written a line to it, run `command`, and written another."""
    log = engine.owned(engine.directory) / "log"
    script = f"(echo before; {shlex.join(command)}; echo after) {redirection.format(log)}"
    subprocess.run(
        ["/bin/sh", "-c", script],
        env=engine.environment(),
        cwd=engine.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=TIMEOUT,
        check=True,
        **engine.caller.identity,
    )
    lines = log.read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("engine: warning: "))


@pytest.mark.parametrize(
    ("redirection", "expected"),
    [
        ("> {}", "before\nout\nmore\nafter\n"),
        (">> {}", "before\nout\nmore\nafter\n"),
        ("2> {} >&2", "before\nout\nerr\nmore\nafter\n"),
        ("> {} 2>&1", "before\nout\nerr\nmore\nafter\n"),
        ("1<> {} 2>&1", "before\nout\nerr\nmore\nafter\n"),
    ],
)
def test_output_to_a_file_is_whole_and_in_order(engine: Engine, redirection: str, expected: str) -> None:
    command = engine.run_command(engine.shell(SAYS))
    assert _between(engine, command, redirection) == expected


def test_output_of_two_containers_to_one_file_is_whole(engine: Engine) -> None:
    (one, two) = (engine.run_command(engine.shell(SAYS, name=name)) for name in ("one", "two"))
    told = _between(engine, ["/bin/sh", "-c", f"{shlex.join(one)}; {shlex.join(two)}"], "> {} 2>&1")
    assert told.splitlines() == ["before", "out", "err", "more", "out", "err", "more", "after"]


def test_output_of_an_oci_run_to_a_file_is_whole(root_engine: Engine) -> None:
    command = Oci(root_engine).command("run", "--bundle", root_engine.shell(SAYS), root_engine.new_id())
    assert _between(root_engine, command, "> {} 2>&1") == "before\nout\nerr\nmore\nafter\n"


def test_output_of_a_detached_oci_run_to_a_file_is_whole(root_engine: Engine) -> None:
    oci, container_id, log = Oci(root_engine), root_engine.new_id(), root_engine.directory / "log"
    bundle = root_engine.shell(SAYS)
    _between(root_engine, oci.command("run", "--detach", "--bundle", bundle, container_id), "> {} 2>&1")
    wait_for("all output", lambda: len(log.read_text().splitlines()) == 5)
    wait_for("its end", lambda: json.loads(oci.ok("state", container_id))["status"] == "stopped")
    assert sorted(log.read_text().splitlines()) == ["after", "before", "err", "more", "out"]
    assert log.read_text().startswith("before\n")
    oci.ok("delete", container_id)


def test_output_of_a_created_container_and_of_exec_to_a_file_is_whole(root_engine: Engine) -> None:
    oci, container_id, log = Oci(root_engine), root_engine.new_id(), root_engine.directory / "created.log"
    with log.open("wb", buffering=0) as output:
        output.write(b"before\n")
        bundle = root_engine.shell(f"{SAYS}; while :; do sleep 1000; done")
        created = oci.start("create", "--bundle", bundle, container_id, stdout=output, stderr=output)
        assert created.wait(timeout=TIMEOUT) == 0
        oci.ok("start", container_id)
        wait_for("the container's output", lambda: b"more\n" in log.read_bytes())
        command = oci.command("exec", container_id, "/bin/sh", "-c", "echo one; echo two >&2")
        told = _between(root_engine, command, "> {} 2>&1")
        output.write(b"after\n")
    assert told == "before\none\ntwo\nafter\n"
    assert log.read_bytes() == b"before\nout\nerr\nmore\nafter\n"
    oci.ok("delete", "--force", container_id)


def test_a_file_that_is_only_read_keeps_its_flags(engine: Engine) -> None:
    given = engine.write(engine.directory / "given", b"a line\n")
    with given.open("rb", buffering=0) as stdin:
        finished = engine.finish(engine.start_run(engine.bundle("/bin/cat"), stdin=stdin))
        assert (finished.code, finished.stdout) == (0, b"a line\n")
        assert not fcntl.fcntl(stdin, fcntl.F_GETFL) & os.O_APPEND


def test_a_refused_run_leaves_the_callers_file_as_it_is(engine: Engine, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb", buffering=0) as log:
        process = engine.start_run(engine.shell(SAYS), "--runsc", "/nonexistent/runsc", stdout=log)
        assert engine.finish(process).code == 125
        assert not fcntl.fcntl(log, fcntl.F_GETFL) & os.O_APPEND
