"""Hooks on the host are judged like runsc: nobody else may be able to change what is executed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.bundle.bundle import open_bundle
from engine.bundle.oci_config import HOOKS_ON_HOST
from engine.errors import BundleError, Reason
from tests.support.bundles import make_bundle
from tests.support.refusals import refuses

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
OTHER = 65533


@pytest.fixture
def hook(private: Path) -> Path:
    """A program that only we can change."""
    path = private / "hooks" / "hook"
    path.parent.mkdir(mode=0o755)
    shutil.copy("/bin/true", path)
    path.chmod(0o755)
    return path


def opened(private: Path, path: str | Path, kind: str = "prestart") -> None:
    """Open a bundle with that hook."""
    hooks = {"poststop": [{"path": "/bin/true"}], kind: [{"path": "/bin/true"}, {"path": str(path)}]}
    with open_bundle(str(make_bundle(private / "bundle", hooks=hooks))):
        pass


def refused(private: Path, path: str | Path, *facts: object) -> None:
    with refuses(BundleError, Reason.HOOK_UNSAFE, path, *facts) as caught:
        opened(private, path)
    assert caught.value.member == "$.hooks.prestart[1].path"
    assert caught.value.exit_code == 125


@pytest.mark.parametrize("path", ["/bin/true", "/usr/bin/../bin/true", "/usr/bin/env"])
def test_a_program_of_the_system_is_accepted(private: Path, path: str) -> None:
    opened(private, path)


@pytest.mark.parametrize("mode", [0o755, 0o700, 0o555, 0o644])
def test_a_program_of_ours_is_accepted(private: Path, hook: Path, mode: int) -> None:
    hook.chmod(mode)
    opened(private, hook)


@pytest.mark.parametrize("kind", HOOKS_ON_HOST)
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_a_program_that_others_can_write_is_refused(private: Path, hook: Path, mode: int, kind: str) -> None:
    hook.chmod(mode)
    with refuses(BundleError, Reason.HOOK_UNSAFE, hook, f"{mode:04o}") as caught:
        opened(private, hook, kind)
    assert str(caught.value.member).startswith(f"$.hooks.{kind}[")


def test_a_start_container_hook_is_of_the_container(private: Path, hook: Path) -> None:
    hook.chmod(0o777)
    opened(private, hook, "startContainer")


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_directory_that_others_can_write_is_refused(private: Path, hook: Path, mode: int) -> None:
    hook.parent.chmod(mode)
    refused(private, hook, hook.parent)


def test_a_sticky_directory_is_accepted_but_not_what_is_missing_there(private: Path, hook: Path) -> None:
    hook.parent.chmod(0o1777)
    opened(private, hook)
    hook.unlink()
    refused(private, hook)


@needs_root
@pytest.mark.parametrize("part", ["hook", "hooks"])
def test_a_program_or_directory_of_another_user_is_refused(private: Path, hook: Path, part: str) -> None:
    os.chown(hook if part == "hook" else hook.parent, OTHER, -1)
    refused(private, hook, OTHER)


def test_a_link_is_followed_and_what_it_leads_to_is_judged(private: Path, hook: Path) -> None:
    link = private / "link"
    link.symlink_to(hook)
    opened(private, link)
    hook.chmod(0o777)
    refused(private, link, hook)


@needs_root
def test_a_link_of_another_user_is_refused(private: Path, hook: Path) -> None:
    link = private / "link"
    link.symlink_to(hook)
    os.chown(link, OTHER, -1, follow_symlinks=False)
    refused(private, link, OTHER)


def test_a_directory_is_refused(private: Path, hook: Path) -> None:
    refused(private, hook.parent)


@pytest.mark.parametrize("depth", [1, 3])
def test_the_interpreter_of_a_script_is_judged(private: Path, hook: Path, depth: int) -> None:
    script = hook
    for number in range(depth):
        above, script = script, hook.parent / f"script-{number}"
        script.write_text(f"#! {above} -x\n")
        script.chmod(0o755)
    opened(private, script)
    hook.chmod(0o777)
    refused(private, script, hook)


def test_a_relative_interpreter_is_refused(private: Path, hook: Path) -> None:
    hook.write_text("#!bin/sh\n")
    refused(private, hook)


@pytest.mark.parametrize("text", ["", "#!", "#!\n", "no script\n", "#!/bin/sh"])
def test_other_files_name_no_interpreter(private: Path, hook: Path, text: str) -> None:
    hook.write_text(text)
    opened(private, hook)


# --- By a process, as docker names its own program ---------------------------------------------------------------


def test_the_program_of_a_process_is_judged(private: Path, hook: Path) -> None:
    sleep = private / "hooks" / "sleep"
    shutil.copy("/bin/sleep", sleep)
    sleep.chmod(0o755)
    with subprocess.Popen([sleep, "60"]) as process:
        try:
            path = f"/proc/{process.pid}/exe"
            opened(private, path)
            sleep.parent.chmod(0o777)  # what others put there is not what the link leads to
            opened(private, path)
            sleep.chmod(0o777)
            refused(private, path, "0777")
        finally:
            process.kill()


@needs_root
def test_the_program_of_another_users_process_is_refused(private: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "60"], user=OTHER) as process:
        try:
            refused(private, f"/proc/{process.pid}/exe", OTHER)
        finally:
            process.kill()


@pytest.mark.parametrize(
    "path",
    [
        "/proc/self/exe",
        "/proc/thread-self/exe",
        "/proc/PID/root/bin/true",
        "/proc/PID/cwd",
        "/proc/PID/exe/",
        "/proc/999999999/exe",
        "//proc/PID/exe",
        "/usr/../proc/self/exe",
    ],
)
def test_any_other_way_through_proc_is_refused(private: Path, path: str) -> None:
    path = path.replace("PID", str(os.getpid()))
    refused(private, path)


def test_a_link_to_the_program_of_a_process_is_refused(private: Path) -> None:
    link = private / "link"
    link.symlink_to(f"/proc/{os.getpid()}/exe")
    refused(private, link)


def test_an_unreadable_program_is_accepted(private: Path, hook: Path) -> None:
    hook.chmod(0o111)
    opened(private, hook)


def test_no_hooks_cost_no_import(private: Path) -> None:
    bundle = make_bundle(private / "bundle", hooks={})
    code = f"import sys; from engine.bundle import bundle; bundle.open_bundle({str(bundle)!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "engine.bundle.hooks" not in done.stdout.split()
