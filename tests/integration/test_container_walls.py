"""What the container cannot do: write to a read-only root, reach a network it was not given."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bare import bare_flags
from tests.support.harness import Engine, listing


def test_a_read_only_root_cannot_be_written(engine: Engine, platform: str) -> None:
    bundle = engine.shell("touch /new; echo more >>/bin/busybox; rm /bin/ls; mkdir /tmp/new && echo tmp")
    before = listing(bundle)
    finished = engine.run(bundle, "--platform", platform)
    assert finished.said_by_container.count("Read-only file system") == 3
    assert finished.stdout == b"tmp\n"
    assert listing(bundle) == before


def test_without_a_network_there_is_only_loopback_and_no_route(engine: Engine, platform: str) -> None:
    script = "tail -n +3 /proc/net/dev | cut -d: -f1; echo routes; tail -n +2 /proc/net/route"
    finished = engine.run(engine.shell(script), "--platform", platform)
    assert finished.stdout.split() == [b"lo", b"routes"]
    assert finished.code == 0


@pytest.fixture
def port() -> Iterator[int]:
    """A port on the host's loopback where whoever connects is told `from the host`."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"from the host\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_network_none_keeps_the_hosts_loopback_out_of_reach(engine: Engine, port: int) -> None:
    finished = engine.run(_bundle_that_connects_to(engine, port), "--network", "none")
    assert finished.stdout == b""
    assert "Connection refused" in finished.said_by_container
    assert finished.code == 1


def test_network_host_reaches_what_the_host_reaches(engine: Engine, port: int) -> None:
    finished = engine.run(_bundle_that_connects_to(engine, port), "--network", "host")
    assert finished.stdout == b"from the host\n"


def _bundle_that_connects_to(engine: Engine, port: int) -> Path:
    """It asks for no network namespace of its own, so the host's network is the one around it."""
    namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    return engine.shell(f"nc -w 5 127.0.0.1 {port} </dev/null", linux={"namespaces": namespaces})


def test_network_sandbox_is_what_a_bare_runsc_makes_of_it(engine: Engine, runsc: Path) -> None:
    """Whether it works depends on runsc and kernel: rootless it never does, nor where runsc misreads the kernel."""
    bundle = engine.shell("tail -n +3 /proc/net/dev | cut -d: -f1")
    root = engine.make_directory("bare-root", 0o700)
    flags = [f"--root={root}", "--network=sandbox", "--platform=ptrace", *bare_flags(runsc)]
    flags += engine.caller.options
    bare = engine.finish(
        engine.start([str(runsc), *flags, "run", f"--bundle={bundle}", container_id := engine.new_id()])
    )
    ours = engine.run(bundle, "--network", "sandbox", "--platform", "ptrace", "--id", container_id)
    if "--rootless" in engine.caller.options:  # known before the hand-off
        assert (ours.code, ours.stdout, bare.code) == (2, b"", 128)
        return
    assert (ours.code, ours.stdout) == (bare.code, bare.stdout)
    assert _without_numbers(ours.said_by_container) == _without_numbers(bare.stderr)


def _without_numbers(text: str) -> str:
    return "".join(character for character in text if not character.isdigit())
