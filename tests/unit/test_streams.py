"""Standard streams that are closed, full, slow or broken: the exit code is as documented, and there is no traceback."""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.bundles import make_bundle
from tests.support.stories import Story

ENGINE = f"{sys.executable} -P -m engine"
OCI = f"{sys.executable} -P -m engine.oci"

#: Commands that print something, and their exit codes. {0} is a trace, {1} a directory to write to, {2} a bundle.
PRINTING = {
    f"{ENGINE} --version": 0,
    f"{ENGINE} --help": 0,
    f"{ENGINE} run --help": 0,
    f"{ENGINE} run {{2}} --dry-run": 0,
    f"{ENGINE} run {{2}} --dry-run --json": 0,
    f"{ENGINE} gc --json": 0,
    f"{ENGINE} trace verify {{0}}": 0,
    f"{ENGINE} trace verify --json {{0}}": 0,
    f"{ENGINE} trace verify --jobs 2 {{0}} {{0}}": 0,
    f"{ENGINE} report {{0}} --output {{1}}/report.html": 0,
    f"{ENGINE} diagram --format dot": 0,
    f"{ENGINE} diagram --format mermaid --trace {{0}}": 0,
    f"{OCI} --version": 0,
    f"{OCI} --help": 0,
    f"{OCI} state --help": 0,
    f"{OCI} --root {{1}} list": 0,
    f"{OCI} --root {{1}} list -f json": 0,
    f"{OCI} features": 0,
}
#: Commands that say something on stderr only.
SAYING = {
    f"{ENGINE} fly": 2,
    f"{ENGINE} run {{1}}/none": 125,
    f"{ENGINE} check none": 3,
    f"{ENGINE} trace sign {{0}} --key {{1}}/none": 125,
    f"{OCI} fly": 2,
    f"{OCI} --root {{1}} state none": 1,
    f"{OCI} --root {{1}} delete --force none": 0,
    f"{OCI} --root {{1}} create --bundle {{1}}/none c": 125,
    f"{OCI} --root {{1}} run --bundle {{1}}/none c": 125,
    f"{OCI} --root {{1}} kill none KILL": 1,
}


@pytest.fixture
def filled(private: Path) -> tuple[str, str, str]:
    """A trace, a directory, and a bundle."""
    return str(Story().write(private / "trace.jsonl")), str(private), str(make_bundle(private / "bundle"))


def _done(command: str, redirection: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["/bin/bash", "-c", f"{command} {redirection}"],
        env={**{n: v for n, v in os.environ.items() if n != "PYTHONUNBUFFERED"}, **environment},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done
    assert "unexpected" not in done.stderr, done
    return done


@pytest.mark.parametrize(
    ("command", "redirection"),
    [
        *(
            (command, redirection)
            for command in (*PRINTING, *SAYING)
            for redirection in (">&-", "<&- >&- 2>&-")
        ),
        *((command, redirection) for command in SAYING for redirection in ("<&-", "2>&-", "<&- >&-")),
    ],
)
def test_a_closed_stream_is_as_dev_null(filled: tuple[str, str, str], command: str, redirection: str) -> None:
    done = _done(command.format(*filled), redirection)
    assert done.returncode == {**PRINTING, **SAYING}[command], done
    assert bool(done.stderr) == (command in SAYING and "2>" not in redirection and "delete" not in command)


@pytest.mark.parametrize("command", PRINTING)
def test_a_full_stdout_is_told(filled: tuple[str, str, str], command: str) -> None:
    done = _done(command.format(*filled), ">/dev/full")
    assert done.returncode == (1 if "engine.oci" in command else 125), done
    assert len(done.stderr.splitlines()) == 1
    assert "stdout: No space left on device" in done.stderr


@pytest.mark.parametrize("command", [*PRINTING, *SAYING])
def test_a_full_stderr_changes_no_exit_code(filled: tuple[str, str, str], command: str) -> None:
    assert _done(command.format(*filled), "2>/dev/full").returncode == {**PRINTING, **SAYING}[command]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", PRINTING)
def test_a_stdout_that_nobody_reads_is_told_by_the_exit_code(
    filled: tuple[str, str, str], command: str, unbuffered: str
) -> None:
    """141 is not `trace verify`'s 1: no trace differs."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as stdout:
        done = subprocess.run(
            shlex.split(command.format(*filled)),
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1 if "engine.oci" in command else 141, b"")


@pytest.mark.parametrize("command", PRINTING)
def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_all(
    filled: tuple[str, str, str], command: str
) -> None:
    expected = _done(command.format(*filled), "").stdout
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    os.write(writing, b"x" * 4096)  # it is full
    process = subprocess.Popen(
        shlex.split(command.format(*filled)), stdout=writing, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    os.close(writing)
    time.sleep(0.2)
    with os.fdopen(reading, "rb") as reader:
        said = reader.read().removeprefix(b"x" * 4096).decode()
    assert process.wait(timeout=60) == PRINTING[command]
    assert len(said) == len(expected)
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


def test_what_the_locale_cannot_encode_is_escaped(filled: tuple[str, str, str], private: Path) -> None:
    name = private / "trace-of-\u00e9.jsonl"
    name.write_bytes(Path(filled[0]).read_bytes())
    done = _done(f"{ENGINE} trace verify {shlex.quote(str(name))}", "", PYTHONIOENCODING="ascii:strict")
    assert (done.returncode, "trace-of-\\xe9.jsonl" in done.stdout) == (0, True)


class TestLog:
    """`--log FIFO`."""

    @pytest.fixture
    def fifo(self, private: Path) -> Path:
        os.mkfifo(private / "log")
        return private / "log"

    @pytest.mark.parametrize(
        ("verb", "code"),
        [("state none", 1), ("fly", 2), ("run --bundle {0} c", 2), ("create --bundle {0} c", 2)],
    )
    def test_fifo_without_a_reader_ends_in_time(
        self, private: Path, fifo: Path, verb: str, code: int
    ) -> None:
        bundle = make_bundle(private / "bundle")
        base = private / "base"
        done = _done(f"{OCI} --root {base} --log {fifo} {verb.format(bundle)}", "")
        assert done.returncode == code
        assert "log" in done.stderr

    def test_fifo_with_a_reader_gets_the_line(self, private: Path, fifo: Path) -> None:
        reader = subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 10
        while Path(f"/proc/{reader.pid}/stat").read_text().split()[2] != "S":
            assert time.monotonic() < deadline
        assert _done(f"{OCI} --root {private} --log {fifo} fly", "").returncode == 2
        assert "unknown verb 'fly'" in reader.communicate(timeout=10)[0]

    def test_fifo_whose_reader_is_slow_is_given_up_in_time(self, private: Path, fifo: Path) -> None:
        reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        writing = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        size = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
        os.write(writing, b"x" * size)
        done = _done(f"{OCI} --root {private} --log {fifo} fly", "")
        os.close(reading)
        os.close(writing)
        assert (done.returncode, "cannot be written" in done.stderr) == (2, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (f"{ENGINE} run {{2}}", 125),
        (f"{ENGINE} run {{2}} --rootless", 125),
        (f"{ENGINE} run {{2}} --dry-run", 125),
        (f"{ENGINE} gc", 125),
        (f"{ENGINE} doctor", 125),
        (f"{OCI} --root {{1}}/base create --bundle {{2}} c", 125),
        (f"{OCI} --root {{1}}/base run --bundle {{2}} c", 125),
        (f"{OCI} create --bundle {{2}} c", 125),
        (f"{OCI} --root {{1}} list", 1),
        (f"{OCI} --root {{1}} state c", 1),
        (f"{OCI} --root {{1}} kill c KILL", 1),
        (f"{OCI} --root {{1}} delete c", 1),
        (f"{OCI} --root {{1}} delete --force c", 1),
        (f"{OCI} features", 1),
    ],
)
def test_without_proc_every_command_ends_and_says_so(
    filled: tuple[str, str, str], command: str, code: int
) -> None:
    script = shlex.quote(f"umount -l /proc && exec {command.format(*filled)}")
    done = _done(f"unshare --mount --propagation private sh -c {script}", "")
    assert done.returncode == code, done
    assert "/proc is not mounted" in done.stderr
