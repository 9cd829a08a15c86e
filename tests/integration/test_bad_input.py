"""What the engine refuses before it does anything: wrong usage, ids, bundles. One clear line, and nothing is made."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import Reason, UsageError
from engine.options import RunOptions
from tests.support.harness import Engine, listing
from tests.support.refusals import refuses

USAGE = 2


@pytest.fixture
def plain_engine(new_engine: Callable[[str], Engine]) -> Engine:
    """The suite's own user's: for what does not depend on who asks."""
    return new_engine("root" if os.geteuid() == 0 else "unprivileged")


# --- Usage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "COMMAND"),
        (("rum",), "rum"),
        (("run",), "BUNDLE"),
        (("run", "bundle", "more"), "more"),
        (("run", "bundle", "--nonsense"), "--nonsense"),
        (("run", "bundle", "--rootl"), "--rootl"),
        (("run", "bundle", "--network", "internet"), "internet"),
        (("run", "bundle", "--platform", "qemu"), "qemu"),
        (("run", "bundle", "--exec-policy", "maybe"), "maybe"),
        (("run", "bundle", "--id"), "--id"),
        (("run", "bundle", "--dry-run", "--trace", "file"), "--trace"),
        (("run", "bundle", "--platform", "\x1b[31mred\n"), "\\x1b[31mred\\n"),
        (("gc", "everything"), "everything"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_line_that_names_it(
    plain_engine: Engine, arguments: tuple[str, ...], named: str
) -> None:
    command = [plain_engine.caller.python, "-P", "-m", "engine", *arguments]
    assert named in plain_engine.finish(plain_engine.start(command)).refusal(USAGE)
    assert listing(plain_engine.directory) == []


@pytest.mark.parametrize(
    "container_id",
    [
        "../x",
        "..",
        ".",
        "",
        " ",
        "a b",
        "a\nb",
        "a/b",
        "/",
        "-x",
        "--rootless",
        "x" * 300,
        "naïve",
        "\u202ex",
        "\udcff",
        "a\x1b[2J",
        "$(reboot)",
    ],
)
def test_a_hostile_id_is_refused_and_nothing_is_made(plain_engine: Engine, container_id: str) -> None:
    bundle = plain_engine.bundle()
    before = listing(plain_engine.directory)
    said = plain_engine.run(bundle, f"--id={container_id}", "--json").refused(Reason.USAGE, code=USAGE)
    assert said["what"].isprintable()
    assert listing(plain_engine.directory) == before


def test_an_id_with_a_nul_is_refused_where_one_can_be_given() -> None:
    with refuses(UsageError, Reason.USAGE):
        RunOptions(container_id="a\0b")


# --- Bundles --------------------------------------------------------------------------------------------------


def _config(bundle: Path) -> Path:
    return bundle / "config.json"


def _missing(bundle: Path) -> None:
    _config(bundle).unlink()
    (bundle.rename(bundle.with_name("elsewhere"))).chmod(0o755)


def _a_file(bundle: Path) -> None:
    _missing(bundle)
    bundle.write_text("{}")


def _no_config(bundle: Path) -> None:
    _config(bundle).unlink()


def _a_directory(bundle: Path) -> None:
    _config(bundle).unlink()
    _config(bundle).mkdir()


def _a_fifo(bundle: Path) -> None:
    _config(bundle).unlink()
    os.mkfifo(_config(bundle))


def _a_socket(bundle: Path) -> None:
    _config(bundle).unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(_config(bundle)))


def _a_link(bundle: Path) -> None:
    _config(bundle).rename(bundle / "real.json")
    _config(bundle).symlink_to("real.json")


def _empty(bundle: Path) -> None:
    _config(bundle).write_bytes(b"")


def _not_utf8(bundle: Path) -> None:
    _config(bundle).write_bytes(b'{"ociVersion": "1.0.2\xff"}')


def _utf16(bundle: Path) -> None:
    _config(bundle).write_bytes(_config(bundle).read_text().encode("utf-16"))


def _huge(bundle: Path) -> None:
    os.truncate(_config(bundle), 100 << 20)


def _deep(bundle: Path) -> None:
    _config(bundle).write_text('{"a":' * 200_000 + "1" + "}" * 200_000)


def _cut(bundle: Path) -> None:
    os.truncate(_config(bundle), _config(bundle).stat().st_size // 2)


def _with_a_key_twice(bundle: Path) -> None:
    _config(bundle).write_text(_config(bundle).read_text().replace("{", '{"hostname": "other", ', 1))


def _changed(bundle: Path, change: Callable[[dict[str, object]], object]) -> None:
    config = json.loads(_config(bundle).read_text())
    change(config)
    _config(bundle).write_text(json.dumps(config))


def _with_a_nul(bundle: Path) -> None:
    _changed(bundle, lambda config: config.update(hostname="a\0b"))


def _of_another_kind(bundle: Path) -> None:
    _config(bundle).write_text("[1, 2]")


def _without_a_process(bundle: Path) -> None:
    _changed(bundle, lambda config: config.pop("process"))


def _with_a_relative_destination(bundle: Path) -> None:
    _changed(bundle, lambda config: config.update(mounts=[{"destination": "tmp", "type": "tmpfs"}]))


def _with_an_unknown_namespace(bundle: Path) -> None:
    _changed(bundle, lambda config: config.update(linux={"namespaces": [{"type": "moon"}]}))


def _without_a_rootfs(bundle: Path) -> None:
    (bundle / "rootfs").rename(bundle / "elsewhere")


def _rootfs_that_is_a_file(bundle: Path) -> None:
    _without_a_rootfs(bundle)
    (bundle / "rootfs").write_text("")


def _rootfs_that_escapes(bundle: Path) -> None:
    _without_a_rootfs(bundle)
    (bundle / "rootfs").symlink_to("/")


def _rootfs_that_escapes_on_the_way(bundle: Path) -> None:
    (bundle / "up").symlink_to("..")
    _changed(bundle, lambda config: config.update(root={"path": f"up/{bundle.name}/rootfs"}))


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (_missing, "No such file or directory"),
        (_a_file, "Not a directory"),
        (_no_config, "no config.json"),
        (_a_directory, "is a directory"),
        (_a_fifo, "a FIFO"),
        (_a_socket, "a socket"),
        (_a_link, "symbolic link"),
        (_empty, "empty"),
        (_not_utf8, "not UTF-8"),
        (_utf16, "not UTF-8"),
        (_huge, "larger than"),
        (_deep, "nested too deeply"),
        (_cut, "not JSON"),
        (_with_a_key_twice, "$.hostname is present more than once"),
        (_with_a_nul, "$.hostname holds a NUL"),
        (_of_another_kind, "array"),
        (_without_a_process, "process"),
        (_with_a_relative_destination, "$.mounts[0].destination"),
        (_with_an_unknown_namespace, "$.linux.namespaces[0].type"),
        (_without_a_rootfs, "does not exist"),
        (_rootfs_that_is_a_file, "not a directory"),
        (_rootfs_that_escapes, "leads out of the bundle"),
        (_rootfs_that_escapes_on_the_way, "leads out of the bundle"),
    ],
)
def test_bad_bundle_is_refused_before_any_step(
    idle_engine: Engine, spoil: Callable[[Path], None], named: str
) -> None:
    bundle = idle_engine.bundle()
    spoil(bundle)
    before = listing(idle_engine.directory)
    trace = idle_engine.directory / "trace"
    started = time.monotonic()
    line = idle_engine.run(bundle, "--trace", trace).refusal()
    assert time.monotonic() - started < 10
    assert line.startswith("engine: bundle: ")
    assert named in line
    assert line.isprintable()
    assert listing(idle_engine.directory) == before


def test_a_bundle_that_the_caller_may_not_read_is_refused(unprivileged_engine: Engine) -> None:
    bundle = unprivileged_engine.bundle()
    _config(bundle).chmod(0)
    assert "Permission denied" in unprivileged_engine.run(bundle).refusal()
    assert not unprivileged_engine.base.exists()


@pytest.mark.parametrize("path", ["", "a\nb"])
def test_a_hostile_path_of_a_bundle_is_refused_in_one_line(plain_engine: Engine, path: str) -> None:
    assert plain_engine.run(path).refusal().startswith("engine: bundle: ")


# --- How it is said -------------------------------------------------------------------------------------------


def test_with_json_a_refusal_is_one_object_on_stderr(plain_engine: Engine) -> None:
    finished = plain_engine.run("missing", "--json")
    assert (finished.code, finished.stdout) == (125, b"")
    (line,) = finished.stderr.splitlines()
    assert json.loads(line)["refused"]["step"] == "bundle"


def test_only_with_debug_is_there_a_traceback(plain_engine: Engine) -> None:
    process = plain_engine.start_run(Path("missing"), "--debug")
    _, stderr = process.communicate()
    assert b"Traceback" in stderr
    assert stderr.splitlines()[-1].startswith(b"engine: bundle: ")
    assert process.returncode == 125


def test_a_refusal_is_not_said_on_stdout_when_stderr_is_closed(plain_engine: Engine) -> None:
    command = plain_engine.run_command("missing")
    finished = plain_engine.finish(plain_engine.start(["sh", "-c", 'exec "$@" 2>&-', "sh", *command]))
    assert (finished.code, finished.stdout) == (125, b"")


@pytest.mark.parametrize("verb", ["run", "gc"])
def test_a_reader_that_has_left_is_no_reason_for_a_traceback(plain_engine: Engine, verb: str) -> None:
    arguments = (plain_engine.bundle(), "--dry-run") if verb == "run" else ("--json",)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        finished = plain_engine.call(verb, *arguments, stdout=writing)
    finally:
        os.close(writing)
    assert (finished.code, finished.stderr) == (141, "")


def test_interrupt_at_start_gives_no_traceback(plain_engine: Engine) -> None:
    """Python is made to tell of each import on a pipe that is not read further: so it stands still in the middle."""
    command = [plain_engine.caller.python, "-v", *plain_engine.run_command("missing")[1:]]
    process = plain_engine.start(command, stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    said = b""
    for line in process.stderr:
        said = line
        if b"engine/cli/main.py" in line:
            break
    assert b"engine/cli/main.py" in said, "it never imported engine.cli"
    process.send_signal(signal.SIGINT)
    assert b"Traceback" not in process.stderr.read()
    assert process.wait() in (130, -signal.SIGINT)
