"""Nothing is signalled that is not the container's: its processes have ended, and others have their pids by now.

The pids are really given again, by /proc/sys/kernel/ns_last_pid, pid_namespaces(7). ENGINE_TEST_EVERY_STEP=1 tries
each verb 20 times.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.integration.oci_runtime import Oci
from tests.support.harness import Engine, cgroups_of, wait_for

TIMES = 20 if os.environ.get("ENGINE_TEST_EVERY_STEP") else 2
FOREVER = "while :; do sleep 1000; done"
#: It starts a process with the pid that it is given, says so, and ends with it.
TAKE = """
import os, sys, time
wanted = int(sys.argv[1])
end = time.monotonic() + 30  # another program may have it for a while
while time.monotonic() < end:
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(wanted - 1))
    child = os.fork()
    if child == 0:
        if os.getpid() != wanted:
            os._exit(0)
        os.execvp("sleep", ["sleep", "1000"])
    if child == wanted:
        break
    os.waitpid(child, 0)
else:
    sys.exit("the pid is not free")
print(child, flush=True)
os.waitpid(child, 0)
"""


@pytest.fixture
def oci(root_engine: Engine) -> Oci:
    if not os.access("/proc/sys/kernel/ns_last_pid", os.W_OK):
        pytest.skip("needs a kernel where root chooses pids")
    return Oci(root_engine)


class TakenError(Exception):
    """A program of this machine has the pid, and keeps it."""


def is_free(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


@contextmanager
def given_to_others(pids: list[int]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Other processes with these `pids`, each with the process that has started it and ends with it."""
    with ExitStack() as ends:
        others = []
        for pid in pids:
            wait_for(f"{pid} is free", partial(is_free, pid))
            other = ends.enter_context(
                subprocess.Popen([sys.executable, "-I", "-c", TAKE, str(pid)], stdout=subprocess.PIPE)
            )
            assert other.stdout is not None
            if not (said := other.stdout.readline()):
                raise TakenError
            assert said == b"%d\n" % pid
            ends.callback(end, other, pid)
            others.append(other)
        yield others


def end(other: subprocess.Popen[bytes], pid: int) -> None:
    if other.poll() is None:
        os.kill(pid, signal.SIGKILL)


def runscs_file(oci: Oci, container_id: str) -> dict[str, Any] | None:
    """What runsc's file about the container says, once the container runs."""
    (path,) = (oci.engine.container(container_id) / "runsc-root").glob("*.state") or (None,)
    try:
        said: dict[str, Any] = json.loads(path.read_text()) if path else {}
    except ValueError:  # being written
        return None
    return said if said.get("status") == "running" else None


def killed(oci: Oci, bundle: Path, *, managed: bool) -> tuple[str, list[int]]:
    """The id of a container that was killed with all its processes, and the pids that runsc's file names."""
    if managed:
        container_id = oci.running(bundle)
        run = None
    else:
        container_id = oci.engine.new_id()
        run = oci.engine.start_run(bundle, "--id", container_id, stdout=subprocess.DEVNULL)
        wait_for(
            "runsc's root", lambda: list((oci.engine.container(container_id) / "runsc-root").glob("*.state"))
        )
    said = wait_for("it runs", lambda: runscs_file(oci, container_id))
    pids = [said["sandbox"]["pid"], said["goferPid"]]
    if run is not None:
        run.kill()
        run.wait()
    for pid in pids:
        if os.path.exists(f"/proc/{pid}"):
            os.kill(pid, signal.SIGKILL)
    return container_id, pids


VERBS = {
    "delete": (True, 0),
    "delete --force": (True, 0),
    "kill": (True, 1),
    "pause": (True, 1),
    "ps": (True, 1),
    "exec": (True, 1),
    "start": (True, 1),
    "resume": (True, 1),
    "events --stats": (True, 1),
    "checkpoint --image-path=image": (True, 1),
    "update --memory=100000000": (True, 1),
    "state": (True, 0),
    "create": (False, 0),
    "gc": (False, 0),
    "run": (False, 0),
}


def do(oci: Oci, verb: str, container_id: str, bundle: Path) -> int:
    if verb == "gc":
        return oci.engine.call("gc").code
    if verb == "run":
        return oci.engine.run(bundle, "--id", container_id).code
    if verb == "create":
        return oci("create", "--bundle", bundle, container_id).code
    return oci(*verb.split(), container_id, *(["/bin/true"] if verb == "exec" else [])).code


@pytest.mark.parametrize("verb", VERBS)
def test_reused_pid_is_not_signalled(oci: Oci, verb: str) -> None:
    managed, code = VERBS[verb]
    bundle = oci.engine.shell(FOREVER)
    short = oci.engine.bundle("/bin/true", name="short")
    tried = taken = 0
    while tried < TIMES:
        container_id, pids = killed(oci, bundle, managed=managed)
        with ExitStack() as held:
            try:
                others = held.enter_context(given_to_others(pids))
            except (TakenError, TimeoutError):
                taken += 1
                assert taken < 3, f"others have {pids}"
                oci("delete", "--force", container_id)
                oci.engine.call("gc")
                continue
            tried += 1
            assert do(oci, verb, container_id, short) == code
            assert [other.poll() for other in others] == [None, None]
            oci("delete", "--force", container_id)
            oci.engine.call("gc")
            assert [other.poll() for other in others] == [None, None]
        assert cgroups_of(container_id) == []
        assert oci.left(container_id) == []
