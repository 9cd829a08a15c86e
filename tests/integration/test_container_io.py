"""What passes between the caller and the container: output, exit code, input, signals, the terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from tests.support.harness import TIMEOUT, Engine, Finished, processes_about, wait_for


@pytest.mark.parametrize("code", [0, 1, 42])
def test_output_and_exit_code_are_the_containers(engine: Engine, platform: str, code: int) -> None:
    script = rf"printf 'out \377\0 put\r\n'; printf 'err \001\n' >&2; exit {code}"
    finished = engine.run(engine.shell(script), "--platform", platform)
    assert finished.stdout == b"out \xff\0 put\r\n"
    assert finished.said_by_container == "err \x01\n"
    assert finished.code == code


def test_a_process_that_kills_itself_is_exit_code_137(engine: Engine, platform: str) -> None:
    finished = engine.run(engine.shell("echo alive; kill -9 $$; echo never"), "--platform", platform)
    assert (finished.code, finished.stdout, finished.said_by_container) == (137, b"alive\n", "")


def test_the_kernel_in_the_container_is_gvisors(engine: Engine, platform: str) -> None:
    finished = engine.run(engine.bundle("/bin/dmesg"), "--platform", platform)
    assert finished.code == 0
    assert b"Starting gVisor" in finished.stdout.splitlines()[0]


def test_stdin_reaches_the_container_to_its_last_byte(engine: Engine) -> None:
    given = bytes(range(256)) * 4096
    finished = engine.finish(engine.start_run(engine.bundle("/bin/cat"), stdin=subprocess.PIPE), given)
    assert finished.code == 0
    assert finished.stdout == given


def test_an_absent_stdin_is_an_empty_one(engine: Engine) -> None:
    assert engine.run(engine.shell("read line || echo nothing")).stdout == b"nothing\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_process_ends_the_container(engine: Engine, number: signal.Signals) -> None:
    """Without a terminal runsc does not pass signals on: it dies of them, and takes the container along."""
    bundle = engine.shell("echo ready; while :; do sleep 1; done")
    process = engine.start_waiting(engine.new_id(), bundle=bundle)
    process.send_signal(number)
    finished = engine.finish(process)
    assert finished.stdout == b""
    assert finished.code == -number
    wait_for("the end of every process of the container", lambda: not processes_about(engine.directory))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signal_with_a_terminal_reaches_the_containers_process(
    engine: Engine, number: signal.Signals
) -> None:
    name = number.name.removeprefix("SIG")
    finished = _in_a_terminal(engine, _bundle_that_waits_for(engine, name), "ready", number)
    assert finished.stdout.endswith(f"got {name}\r\n".encode())
    assert finished.code == 7


def test_interrupt_at_the_terminal_reaches_the_container(engine: Engine) -> None:
    finished = _in_a_terminal(engine, _bundle_that_waits_for(engine, "INT"), "ready", "\x03")
    assert finished.stdout.endswith(b"got INT\r\n")
    assert finished.code == 7


def _bundle_that_waits_for(engine: Engine, name: str) -> Path:
    """Its process is ready a while after its start: only then runsc passes signals on, and nothing tells when."""
    script = f"trap 'echo got {name}; exit 7' {name}; sleep 1; while :; do echo ready; sleep 0.5; done"
    return engine.shell(script, process={"terminal": True})


def test_a_terminal_is_the_containers_with_its_size_and_its_keys(engine: Engine) -> None:
    script = "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo terminal; stty size; read line; echo got $line"
    finished = _in_a_terminal(engine, engine.shell(script, process={"terminal": True}), "113", "typed\n")
    lines = finished.stdout.decode().replace("\r\n", "\n").splitlines()
    assert lines[-4:] == ["terminal", "37 113", "typed", "got typed"]
    assert finished.code == 0


def test_without_a_terminal_the_container_has_none(engine: Engine) -> None:
    finished = engine.run(engine.shell("[ -t 0 ] || [ -t 1 ] || [ -t 2 ] || echo none"))
    assert finished.stdout == b"none\n"


def _in_a_terminal(engine: Engine, bundle: Path, text: str, answer: str | signal.Signals) -> Finished:
    """Run the bundle on a terminal of 37 rows and 113 columns. As often as `text` is shown, type or send `answer`."""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 37, 113, 0, 0))
        os.fchown(theirs, engine.caller.uid, engine.caller.gid)
        # setsid(1) makes the terminal the controlling one and is then replaced by the engine.
        command = ["setsid", "--ctty", *engine.run_command(bundle)]
        process = engine.start(command, stdin=theirs, stdout=theirs, stderr=theirs)
    finally:
        os.close(theirs)
    shown, answered = b"", 0
    # The read fails with EIO when the last process that has the terminal open is gone.
    with contextlib.suppress(OSError), open(ours, "r+b", buffering=0) as terminal:
        while select.select([terminal], [], [], TIMEOUT)[0]:
            shown += terminal.read(4096)
            while answered < shown.count(text.encode()):
                answered += 1
                if isinstance(answer, str):
                    terminal.write(answer.encode())
                else:
                    process.send_signal(answer)
    wait_for(f"the end of the process, which showed {shown!r}", lambda: process.poll() is not None)
    return Finished(process.returncode, shown, "")
