"""docs/performance.md and docs/fleet.md, each made from the figures beside this module; a test says when one is stale.

usage: python benchmarks/pages.py
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.sampling import ratios

HERE = Path(__file__).parent
STARTS, FLEET = HERE / "starts.json", HERE / "fleet.json"
DOCS = HERE.parent / "docs"
PERFORMANCE, FLEET_PAGE = DOCS / "performance.md", DOCS / "fleet.md"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    align = ("left", *["right"] * (len(head) - 1))
    return tabulate(list(rows), head, tablefmt="github", colalign=align, disable_numparse=True)


def _median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


def _spread(samples: Sequence[float]) -> str:
    low, _, high = statistics.quantiles(samples, n=4)
    return f"{low:.0f}-{high:.0f}"


def _mib(kib: float) -> str:
    return f"{kib / 1024:.1f} MiB"


def _machine(found: Mapping[str, Any]) -> str:
    when = f"{found['measured']}, on " if "measured" in found else ""
    return f"Measured {when}" + ", ".join(f"{name} {value}" for name, value in found["machine"].items()) + "."


_HOW = (
    "`sudo ./just bench` measures this again and writes this page, in 12 minutes; with `--quick` it makes few rounds "
    "and only prints. It installs podman and PyPI's `gvisor` to compare with. Times are of whole processes, started in "
    "turn (A B C, B C A, ...). A ratio is the median of the ratios within a round. The bundle runs `/bin/true` of "
    "busybox, without a network, on systrap; the base directory is on disk."
)


def performance_page(found: Mapping[str, Any]) -> str:
    """The page of what `benchmarks.starts` has measured."""
    parts = [
        "# Performance\n\n<!-- made by benchmarks/pages.py from benchmarks/starts.json: ./just bench -->",
        _HOW,
        _machine(found),
        _starts(found["starts"]),
        *([_installations(found["installations"]["each"])] if "installations" in found else []),
        _remaining(found),
        _memory(found),
        _growth(found),
        _throughput(found["throughput"]),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _baseline(key: str) -> str:
    return "runsc-rootless" if "rootless" in key else "runsc"


def _starts(starts: Mapping[str, Any]) -> str:
    samples = starts["samples"]
    rows = [
        (
            label,
            f"{_median(samples[key]):.0f} ms",
            _spread(samples[key]),
            f"{ratios(samples[key], samples[_baseline(key)]):.2f}",
        )
        for key, label in starts["labels"].items()
    ]
    text = "## A start\n\n" + _table(("what", "median", "middle half, ms", "to bare runsc"), rows)
    text += f"\n\n{len(next(iter(samples.values())))} rounds. The rootless rows are of an ordinary user."
    if "podman" in samples:
        text += (
            f" podman takes {ratios(samples['podman'], samples['engine']):.1f} times as long as the engine, and "
            f"{ratios(samples['podman'], samples['runsc']):.1f} times as long as the bare runsc that both end up "
            "running; it also makes the container's storage, runs conmon and removes the container."
        )
    if "bindings" in samples:
        text += (
            " PyPI's `gvisor` runs no OCI bundle: it makes one from the host's `/usr`, starts `sleep infinity` in it, "
            "and runs the program with `runsc exec`."
        )
    for label, why in starts["cannot"].items():
        text += f"\n\n{label}: did not run here: {why}"
    return text


def _installations(each: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            one["version"],
            str(one["files"]),
            one["who"],
            f"{_median(one['bare']):.0f} ms",
            f"{_median(one['ours']):.0f} ms",
            f"{ratios(one['ours'], one['bare']):.2f}",
            f"{_median([ours - bare for ours, bare in zip(one['ours'], one['bare'], strict=True)]):.0f} ms",
            f"{one['steps']['stage'] + one['steps']['apply_policy']:.1f} ms",
        )
        for one in each
    ]
    head = (
        *("runsc", "files", "who", "bare", "`engine run`", "ratio", "more"),
        "`stage` and `apply_policy`",
    )
    return (
        "## By runsc\n\n"
        + _table(head, rows)
        + f"\n\n{len(each[0]['bare'])} rounds of each pair, bare and under the engine in turn, measured on its own."
    )


def _remaining(found: Mapping[str, Any]) -> str:
    """Where the engine's own time goes."""
    alone, imports, steps = found["alone"]["samples"], found["imports"], found["starts"]["steps"]
    whole, interpreter = _median(alone["plain"]), _median(alone["interpreter"])
    rows = [
        ("start of the interpreter", f"{interpreter:.1f} ms"),
        (
            f"imports: {imports['modules']} modules, {imports['of_engine']} of them of the engine",
            f"{imports['ms']:.1f} ms",
        ),
        *((f"step `{step}`", f"{took:.2f} ms") for step, took in steps.items()),
    ]
    groups = ", ".join(f"`{name}` {took:.1f}" for name, took in imports["groups"].items())
    return (
        "## Where the time goes\n\n"
        f"With a program of the same size in runsc's place that ends at once, the engine takes {whole:.0f} ms as root."
        "\n\n"
        + _table(("part", "median"), rows)
        + "\n\nSteps: by the times in the traces of the runs above. Imports: with `-X importtime`, which makes them "
        f"slower; the fastest of ten. By package, in milliseconds: {groups}.\n\n{_next(interpreter, steps)}"
    )


def _next(interpreter: float, steps: Mapping[str, float]) -> str:
    slowest = max(steps, key=lambda step: steps[step])
    return (
        f"The slowest step is `{slowest}`, {steps[slowest]:.1f} ms. The interpreter's {interpreter:.0f} ms are the "
        "floor in Python."
    )


def _memory(found: Mapping[str, Any]) -> str:
    peak = {key: _median(values) for key, values in found["alone"]["peak_kib"].items()}
    rows = [
        (f"`{each['program']}`, {each['role']}", _mib(each["pss_kib"]))
        for each in found["resident"]["processes"]
    ]
    ours = sum("python" in each["program"] for each in found["resident"]["processes"])
    runs = [f"{used / 1e6:.1f} MB" for used in found["disk"]["runs"]]
    return (
        "## Memory and disk\n\n"
        f"The engine's process takes at most {_mib(peak['plain'])} before the hand-off (an interpreter that does "
        f"nothing: {_mib(peak['interpreter'])}). After it, {ours or 'none'} of the processes "
        f"{'are' if ours != 1 else 'is'} the engine's:\n\n"
        + _table(("process, while the container runs", "its share of memory"), rows)
        + f"\n\nDisk used by runs in a row, each with its own id: {', '.join(runs)}. `engine gc` frees it."
    )


def _growth(found: Mapping[str, Any]) -> str:
    alone, crowded = found["alone"], found["crowded"]
    samples, peak = alone["samples"], alone["peak_kib"]
    rows = [
        (
            f"{label} ({alone['bytes'][key] / 1e6:.2g} MB)",
            f"{_median(samples[key]):.0f} ms",
            f"{_median(samples[key]) - _median(samples['plain']):.0f} ms",
            _mib(_median(peak[key])),
        )
        for key, label in (("plain", "the bundle above"), ("mounts", "10,000 mounts"), ("large", "5 MB"))
    ]
    ratio = ratios(crowded["samples"]["full"], crowded["samples"]["empty"])
    return (
        "## Large bundles, many containers\n\nThe engine alone, by the size of `config.json`:\n\n"
        + _table(("config.json", "median", "more", "peak memory"), rows)
        + f"\n\nWith {crowded['containers']:,} finished containers in the base directory a start takes "
        f"{_median(crowded['samples']['full']):.0f} ms, with none {_median(crowded['samples']['empty']):.0f} ms "
        f"(ratio {ratio:.2f}). `engine gc` then takes {crowded['gc_seconds']} s for all of them."
    )


def _throughput(levels: Mapping[str, Any]) -> str:
    rows = [
        (
            level,
            f"{_median(rates['runsc']):.1f}",
            f"{_median(rates['engine']):.1f}",
            f"{_median(rates['engine']) / _median(rates['runsc']):.2f}",
        )
        for level, rates in levels.items()
    ]
    return (
        "## Many at once\n\n"
        + _table(("at once", "`runsc run`, starts/s", "engine, starts/s", "engine to runsc"), rows)
        + "\n\nAs root; medians of batches of 32 containers or more, in turn."
    )


def fleet_page(found: Mapping[str, Any]) -> str:
    """The page of what `benchmarks.fleet` has measured."""
    curve = [
        (
            f"{point['records']:,}",
            f"{point['runs']:,}",
            point["what"],
            f"{point['seconds']:.1f} s",
            f"{point['records'] / point['seconds'] / 1000:,.0f}",
            _mib(point["kib"]),
        )
        for point in found["curve"]
    ]
    engines = [
        (
            name,
            each["version"],
            f"{each['installed_mb']:.0f} MB",
            f"{each['start_seconds']:.1f} s",
            f"{each['records'] / each['seconds'] / 1000:,.0f}",
            f"{each['memory_mb']:.0f} MB",
            "yes" if each["same"] else "no",
        )
        for name, each in found["engines"].items()
    ]
    template = (HERE / "fleet.md.in").read_text()
    head = ("records", "runs", "what", "time", "1,000 records/s", "memory")
    of_engines = ("engine", "version", "installed", "start", "1,000 records/s", "memory", "same answer")
    return (
        template.replace("@MACHINE@", _machine(found))
        .replace("@CURVE@", _table(head, curve))
        .replace("@ENGINES@", _table(of_engines, engines))
    )


def main() -> int:
    PERFORMANCE.write_text(performance_page(json.loads(STARTS.read_text())))
    FLEET_PAGE.write_text(fleet_page(json.loads(FLEET.read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
