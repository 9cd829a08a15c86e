"""A container that says all the time that it goes on, and a verb that is done to it: that tells what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.oci_runtime import Oci
from tests.support.harness import wait_for

SCRIPT = "trap : USR1; while :; do echo tick; sleep 0.05; done"
#: Seconds in which something that goes on has said so.
A_WHILE = 0.3

#: By verb: what is given besides the id, and where the container is before.
VERBS = {
    "start": ((), "created"),
    "pause": ((), "running"),
    "resume": ((), "paused"),
    "kill": (("USR1",), "running"),
    "exec": (("/bin/true",), "running"),
    "ps": ((), "running"),
    "events": (("--stats",), "running"),
    "checkpoint": (("--leave-running",), "running"),
    "state": ((), "running"),
    "list": ((), "running"),
}


@dataclass
class Subject:
    """A container that says all the time that it goes on."""

    oci: Oci
    id: str
    said: Path

    def goes_on(self) -> bool:
        before = self.said.stat().st_size
        end = time.monotonic() + A_WHILE
        while time.monotonic() < end:
            if self.said.stat().st_size > before:
                return True
            time.sleep(0.01)
        return False

    def settled(self) -> str:
        """What `state` says, once the container does just that: a message may be on its way when its sender dies."""

        def agreed() -> str | None:
            status = self.oci.status(self.id)
            return status if status and self.goes_on() == (status == "running") else None

        return wait_for(f"{self.id} does what its state says", agreed)

    def bring(self, wanted: str) -> None:
        status = self.oci.status(self.id)
        moves = {("created", "running"): ("start",), ("created", "paused"): ("start", "pause")}
        moves |= {("running", "paused"): ("pause",), ("paused", "running"): ("resume",)}
        for verb in moves.get((status or "", wanted), ()):
            self.oci.ok(verb, self.id)


@dataclass
class Trial:
    """One verb, done again and again on such a container."""

    oci: Oci
    verb: str
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(10_000)))

    def subject(self) -> Subject:
        container_id = self.oci.engine.new_id()
        said = self.oci.engine.directory / f"said-{container_id}"
        bundle = self.oci.engine.directory / "ticking"
        if not bundle.exists():
            self.oci.engine.shell(SCRIPT, name="ticking")
        with said.open("wb") as out:
            create = self.oci.start("create", "--bundle", bundle, container_id, stdout=out, stderr=out)
            assert create.wait(timeout=60) == 0, said.read_text()
        subject = Subject(self.oci, container_id, said)
        subject.bring(VERBS[self.verb][1])
        return subject

    def arguments(self, subject: Subject) -> list[str]:
        more = list(VERBS[self.verb][0])
        if self.verb == "list":
            return ["list"]
        flags = [word for word in more if word.startswith("--")]
        if self.verb == "checkpoint":
            flags.append(f"--image-path={self.oci.engine.directory / f'image-{next(self.numbers)}'}")
        return [self.verb, *flags, subject.id, *(word for word in more if not word.startswith("--"))]
