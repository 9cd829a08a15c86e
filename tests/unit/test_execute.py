"""Becoming runsc: what of this process it is left with, and what is as it was where the kernel refuses."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.runsc.execute import (
    SignalGuard,
    append_output,
    become_runsc,
    keep_only_descriptors,
    restore_flags,
)
from tests.support.forked import failure, in_a_child


def test_standard_descriptors_and_the_kept_one_survive_execve(tmp_path: Path) -> None:
    code = (
        "import os\n"
        "from engine.runsc.execute import keep_only_descriptors\n"
        "leaked = os.dup2(0, 57); os.set_inheritable(57, True)\n"
        "kept = os.open('/', os.O_RDONLY)\n"
        "keep_only_descriptors({kept})\n"
        "os.execv('/bin/ls', ['ls', '/proc/self/fd'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    open_in_ls = {int(name) for name in done.stdout.split()}
    assert {0, 1, 2} <= open_in_ls
    assert 57 not in open_in_ls
    assert len(open_in_ls) == 5  # the three, the kept one, and the listing's own


def test_other_inheritable_descriptors_close_on_execve(
    tmp_path: Path,
) -> None:
    leaked, kept = os.open("/", os.O_RDONLY), os.open("/", os.O_RDONLY)
    try:
        for descriptor in (3, leaked):  # 3 is open by now: the lowest free one is taken
            os.set_inheritable(descriptor, True)
        keep_only_descriptors({kept})
        inheritable = [os.get_inheritable(descriptor) for descriptor in (0, 1, 2, 3, leaked, kept)]
    finally:
        os.close(leaked)
        os.close(kept)
    assert inheritable == [True, True, True, False, False, True]


def test_a_kept_descriptor_that_is_not_open_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.listdir", lambda _: ["0", "65432"])
    refused = failure(lambda: keep_only_descriptors({65432}))
    assert refused == (errno.EBADF, "Bad file descriptor", "descriptor 65432")
    monkeypatch.undo()


def test_execve_restores_ignored_signals_and_the_umask() -> None:
    code = (
        "import os\n"
        "from engine.runsc.execute import SignalGuard\n"
        "os.umask(0o027)\n"
        "with SignalGuard() as process:\n"
        "    assert os.umask(0o077) == 0o077\n"
        "    process.release()\n"
        "    os.execv('/bin/grep', ['grep', '-E', 'SigIgn|Umask', '/proc/self/status'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    umask, ignored = (line.split()[1] for line in done.stdout.splitlines())
    assert umask == "0027"
    assert not int(ignored, 16) & (1 << (signal.SIGPIPE - 1))
    assert not int(ignored, 16) & (1 << (signal.SIGXFSZ - 1))


class TestSignalGuard:
    def test_a_signal_is_noted_instead_of_acted_on(self) -> None:
        with SignalGuard() as held:
            assert held.arrived is None
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            assert held.arrived == "SIGTERM"

    def test_a_blocked_signal_is_pending_until_it_is_released(self) -> None:
        code = (
            "import os, signal\nfrom engine.runsc.execute import SignalGuard\n"
            "with SignalGuard() as held:\n"
            "    held.block()\n"
            "    os.kill(os.getpid(), signal.SIGTERM)\n"
            "    assert held.arrived == 'SIGTERM'\n"
            "    print('alive', flush=True)\n"
            "    held.release()\n"
            "    print('never', flush=True)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.stdout, done.returncode) == ("alive\n", -signal.SIGTERM)

    def test_what_the_caller_ignores_stays_ignored(self) -> None:
        old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with SignalGuard() as held:
                os.kill(os.getpid(), signal.SIGHUP)
                assert held.arrived is None
                held.release()
                assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGHUP, old)

    def test_held_signal_reaches_the_caller_at_the_end(self) -> None:
        signals: set[int] = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM}

        def now() -> tuple[set[int], bool, bool, int]:
            """Which of them are blocked, whether they and SIGPIPE would act by default, and the umask."""
            umask = os.umask(0o077)
            os.umask(umask)
            blocked = signals.intersection(signal.pthread_sigmask(signal.SIG_BLOCK, []))
            default = {number for number in signals if signal.getsignal(number) is signal.SIG_DFL}
            assert default in (set(), signals)
            return blocked, bool(default), signal.getsignal(signal.SIGPIPE) is signal.SIG_DFL, umask

        came: list[int] = []
        handlers = {
            number: signal.signal(number, lambda number, _: came.append(number)) for number in signals
        }
        before = os.umask(0o027)
        try:
            with SignalGuard() as held:
                assert now() == (set(), False, False, 0o077)
                held.block()
                assert now() == (signals, False, False, 0o077)
                held.release()
                assert now() == (set(), True, True, 0o027)
                held.retake()
                assert now() == (signals, False, False, 0o077)
                signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # no other thread may take it
                assert held.arrived == "SIGTERM"
            assert now() == (set(), False, False, 0o027)
        finally:
            os.umask(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        assert came == [signal.SIGTERM]

    def test_handlers_and_mask_are_given_back(self) -> None:
        handlers = [signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)]
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        with SignalGuard() as held:
            held.block()
            held.block()
        assert [
            signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
        ] == handlers
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask

    def test_after_an_execve_that_failed_signals_are_held_again(self) -> None:
        code = (
            "import os, signal\nfrom engine.runsc.execute import SignalGuard\n"
            "with SignalGuard() as held:\n"
            "    held.block()\n"
            "    held.release()\n"
            "    held.retake()\n"
            "    os.kill(os.getpid(), signal.SIGTERM)\n"
            "    assert held.arrived == 'SIGTERM'\n"
            "    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN\n"
            "    assert os.umask(0o077) == 0o077\n"
            "    print('alive', flush=True)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.stdout, done.returncode) == ("alive\n", -signal.SIGTERM)


class TestBecomeRunsc:
    """What the kernel refuses here, and what it runs in a child."""

    @pytest.fixture
    def kept(self) -> Iterator[int]:
        descriptor = os.open("/", os.O_RDONLY)
        yield descriptor
        os.close(descriptor)

    def test_failed_execve_leaves_signals_as_they_were_held(self, private: Path, kept: int) -> None:
        path = private / "runsc"
        path.write_bytes(b"of no format the kernel knows")
        path.chmod(0o555)
        with path.open("rb") as program, SignalGuard() as process:
            process.block()
            refused = failure(lambda: become_runsc(program.fileno(), ("/s/runsc",), {}, process, {kept}))
        assert refused == (errno.ENOEXEC, "Exec format error", "/s/runsc")
        assert not os.get_inheritable(kept)

    def test_signal_after_a_failed_execve_is_noted(self, kept: int) -> None:
        with SignalGuard() as process:
            assert failure(lambda: become_runsc(kept, ("/",), {}, process)) == (
                *(errno.EACCES, "Permission denied", "/"),
            )
            # No other thread of the tests may take it: its handler could run when it is given back, signal(7).
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            assert process.arrived == "SIGTERM"
            signal.sigtimedwait([signal.SIGTERM], 0)  # it would end this process when its mask is given back

    def test_output_to_a_file_is_appended_and_shared_so(self, kept: int, tmp_path: Path) -> None:
        """The program's pwrite(2) at 0, and the caller's next write, both end up at the end of the file."""
        log = tmp_path / "log"
        program = os.open(sys.executable, os.O_RDONLY)
        with log.open("wb", buffering=0) as output:
            output.write(b"before\n")
            child = os.fork()
            if child == 0:
                try:
                    os.dup2(output.fileno(), 1)
                    code = "import os; os.pwrite(1, b'out\\n', 0)"
                    with SignalGuard() as process:
                        become_runsc(program, (sys.executable, "-Ic", code), {}, process, has_output=True)
                finally:
                    os._exit(99)
            assert os.waitpid(child, 0)[1] == 0
            output.write(b"after\n")
        os.close(program)
        assert log.read_bytes() == b"before\nout\nafter\n"

    def test_after_a_failed_execve_output_has_its_flags_again(self, kept: int, tmp_path: Path) -> None:
        def act() -> list[bool]:
            answers = []
            with (tmp_path / "log").open("wb") as log, SignalGuard() as process:
                os.dup2(log.fileno(), 1)
                before = append_output()
                answers.append(list(before) == [1])
                answers.append(bool(fcntl.fcntl(log, fcntl.F_GETFL) & os.O_APPEND))
                restore_flags(before)
                failure(lambda: become_runsc(kept, ("/",), {}, process, has_output=True))
                answers.append(not fcntl.fcntl(log, fcntl.F_GETFL) & os.O_APPEND)
            return answers

        assert in_a_child(act) == [True, True, True]

    def test_only_regular_files_open_for_writing_are_appended_to(self, tmp_path: Path) -> None:
        (tmp_path / "given").write_bytes(b"")

        def act() -> dict[int, int]:
            os.dup2(os.open(tmp_path / "given", os.O_RDONLY), 0)
            os.dup2(os.pipe()[1], 1)
            os.close(2)
            return append_output()

        assert in_a_child(act) == {}

    def test_nothing_is_executed_without_a_free_descriptor(self, kept: int) -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        with SignalGuard() as process:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
            try:
                refused = failure(lambda: become_runsc(kept, ("/s/runsc",), {}, process, {kept}))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert os.umask(0o077) == 0o077
        assert refused == (errno.EMFILE, "Too many open files", "/proc/self/fd")

    def test_a_refusal_is_told_also_where_what_to_keep_is_not_open(self, kept: int) -> None:
        with SignalGuard() as process:
            refused = failure(lambda: become_runsc(kept, ("/s/runsc",), {}, process, {65432, kept}))
        assert refused == (errno.EACCES, "Permission denied", "/s/runsc")
        assert not os.get_inheritable(kept)

    @pytest.mark.parametrize("command", ["env", "ls"])
    def test_program_gets_the_environment_and_the_kept_descriptor(self, kept: int, command: str) -> None:
        path = shutil.which(command)
        assert path is not None
        program = os.open(path, os.O_RDONLY)
        leaked = os.dup(kept)
        os.set_inheritable(leaked, True)
        argv = (command, "/proc/self/fd") if command == "ls" else (command,)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.dup2(writing, 1)
                with SignalGuard() as process:
                    become_runsc(program, argv, {"HOME": "/root"}, process, {kept})
            finally:
                os._exit(99)
        for descriptor in (writing, leaked, program):
            os.close(descriptor)
        with os.fdopen(reading) as output:
            said = output.read().splitlines()
        assert os.waitpid(child, 0)[1] == 0
        if command == "env":
            assert said == ["HOME=/root"]
        else:
            survived = {int(number) for number in said}
            assert {0, 1, 2, kept} < survived
            assert len(survived) == 5  # and the listing's own
