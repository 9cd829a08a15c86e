"""How long it takes to check and to report on up to ten million records: `./just bench-fleet`.

Writes benchmarks/fleet.json, and from that docs/fleet.md. It needs 5 GB of disk and, where one core does 200,000
records a second, a quarter of an hour.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.fleet_engine import resident
from benchmarks.pages import FLEET, FLEET_PAGE, fleet_page
from benchmarks.sampling import machine
from engine.lifecycle.resolve import TRUSTED_PATHS
from tests.support.stories import Story

ROOT = Path(__file__).parents[1]
#: Of a thousand runs; the others are handed off.
REFUSED, KILLED, EDITED = 20, 5, 1
#: How many records the curve has, and of these how many the ways to share it out are compared on.
RECORDS = (100_000, 1_000_000, 10_000_000)
MIDDLE = RECORDS[1]


def archive(path: Path, records: int) -> int:
    """Write so many records, or a few more, of whole runs: how many of those it has."""
    with tempfile.TemporaryDirectory() as place:
        good = Story().write(Path(place, "good")).read_bytes()
        refused = [
            Story(steps=steps, end="refused").write(Path(place, f"refused-{steps}")).read_bytes()
            for steps in range(6)
        ]
        killed = Story(steps=3, end="killed").write(Path(place, "killed")).read_bytes()
    block = [good] * (1000 - REFUSED - KILLED - EDITED)
    for number in range(REFUSED):
        block.insert(number * 41, refused[number % 6])
    block += [killed] * KILLED + [good.replace(b'"0755"', b'"0777"')] * EDITED
    content = b"".join(block)
    lines, runs = content.count(b"\n"), 0
    with path.open("wb") as file:
        while runs // len(block) * lines < records:
            file.write(content)
            runs += len(block)
    return runs


def measured(command: Sequence[str]) -> dict[str, float]:
    """Seconds, and the most KiB that all its processes held together, as seen ten times a second."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True, cwd=ROOT)
    most, over = 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not over.wait(0.1):
            most = max(most, resident(process.pid))

    watching = threading.Thread(target=look)
    watching.start()
    code = process.wait()
    took = time.perf_counter() - began
    over.set()
    watching.join()
    if code not in (0, 1):  # 1: some of the traces differ, as they should
        raise RuntimeError(f"{' '.join(command)}: exit code {code}")
    return {"seconds": round(took, 2), "kib": most}


def curve(place: Path) -> list[dict[str, Any]]:
    points = []
    cores = str(os.cpu_count())
    for records in RECORDS:
        path = place / f"{records}.jsonl"
        runs = archive(path, records)
        engine = [sys.executable, "-P", "-m", "engine"]
        for what, command in (
            ("verify, 1 process", [*engine, "trace", "verify", "--runs", str(path)]),
            (
                f"verify, {cores} processes",
                [*engine, "trace", "verify", "--runs", "--jobs", cores, str(path)],
            ),
            (
                f"report, {cores} processes",
                [
                    *engine,
                    "report",
                    "--runs",
                    "--jobs",
                    cores,
                    str(path),
                    "--output",
                    str(place / "page.html"),
                ],
            ),
        ):
            points.append({"records": records, "runs": runs, "what": what, **measured(command)})
            print(f"bench: {points[-1]}", file=sys.stderr)
        if records > MIDDLE:
            path.unlink()
    return points


def engines(file: Path, place: Path) -> dict[str, Any]:
    """The same work by what could share it out, each installed into an environment of its own."""
    found: dict[str, Any] = {}
    for name, packages in (("processes", []), ("dask", ["distributed"]), ("ray", ["ray"])):
        home = place / name
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        python = str(home / "bin/python")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "-e", str(ROOT)], check=True)
        before = _size(home)
        if packages:
            subprocess.run([*install, *packages], check=True)
        installed = _size(home) - before
        done = subprocess.run(
            [python, "-m", "benchmarks.fleet_engine", name, str(file), str(os.cpu_count())],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            start_new_session=True,
            cwd=ROOT,
        )
        found[name] = {
            **json.loads(done.stdout.splitlines()[-1]),
            "installed_mb": installed / 1e6,
            "records": MIDDLE,
        }
        print(f"bench: {name}: {found[name]}", file=sys.stderr)
    digests = {name: each.pop("digest") for name, each in found.items()}
    for name, digest in digests.items():
        found[name]["same"] = digest == digests["processes"]
    return found


def _size(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file())


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as place:
        found: dict[str, Any] = {
            "measured": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": machine(next(path for path in TRUSTED_PATHS if os.path.isfile(path))),
            "curve": curve(Path(place)),
            "engines": engines(Path(place, f"{MIDDLE}.jsonl"), Path(place)),
        }
    FLEET.write_text(json.dumps(found, indent=1) + "\n")
    FLEET_PAGE.write_text(fleet_page(found))
    print(f"bench: written: {FLEET} and {FLEET_PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
