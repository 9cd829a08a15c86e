"""What is installed on this system, what each part enables, and a hint if one is missing.

What can be tried is tried. Each Sentry platform runs a real container, with a time limit, because a /dev/kvm that
exists can still hang. Nothing is left behind.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from engine.doctor import kernel, places
from engine.doctor.part import Part, Status
from engine.doctor.platforms import PLATFORM_TIMEOUT, describe, name_faults, try_platform, usable_runsc
from engine.doctor.trial import try_program
from engine.lifecycle.validate import Validated
from engine.options import Platform
from engine.spec.errors import JarError
from engine.spec.java import find_jar


def examine(
    *, platform_limit: float = PLATFORM_TIMEOUT, progress: Callable[[str], None] = lambda _: None
) -> list[Part]:
    """Examine every part, within the time limits; `progress` is told what takes long.

    A missing part is a result, not an error.
    """

    def platform_part(name: Platform, binary: Validated | None) -> Part:
        progress(f"a container on the platform {name}, at most {platform_limit:.0f} s")
        return try_platform(name, binary, platform_limit)

    with _ended_by_signals_cleanly(), contextlib.ExitStack() as held:
        found = usable_runsc()
        if isinstance(found, Part):
            binary, first = None, found
        else:
            held.callback(found.discard)
            binary, first = found, describe(found)
        return [
            first,
            name_faults(first),
            *(platform_part(name, binary) for name in Platform if name is not Platform.AUTO),
            places.where_state_lies(os.environ),
            places.where_programs_lie(os.environ),
            kernel.try_cgroups(),
            kernel.try_user_namespaces(),
            kernel.try_subordinate_ids(),
            kernel.try_locked_mounts(),
            _java(),
            _tla2tools(),
            _graphviz(),
            Part("Python", Status.OK, f"{platform.python_version()} at {sys.executable}", "the engine itself"),
            try_program(
                "podman", ["podman", "--version"], r"version (\S+)", "the engine as podman's runtime (optional)",
                "install podman if you want that",
            ),
            try_program(
                "containerd", ["containerd", "--version"], r"containerd\S* (\S+)",
                "the engine as containerd's runtime (optional)", "install containerd if you want that",
            ),
        ]  # fmt: skip


@contextlib.contextmanager
def _ended_by_signals_cleanly() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise, as Ctrl-C does: their default would leave a hanging runsc behind.

    A signal that the caller ignores stays ignored. Only the main thread can set handlers, signal(3).
    """

    def unwind(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    before = {
        number: handler for number in numbers if (handler := signal.getsignal(number)) != signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, unwind)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def can_run(parts: Sequence[Part]) -> bool:
    """Whether a container can run: with a usable runsc, a place for its files, and a platform that works."""
    statuses = {part.name: part.status for part in parts}
    works = any(status is Status.OK for name, status in statuses.items() if name.startswith("platform "))
    placed = Status.MISSING not in (statuses["state"], statuses["programs"])
    return statuses["runsc"] is Status.OK and placed and works


def _graphviz() -> Part:
    """The program `dot`, and the Python package that writes its language."""
    name, enables = "graphviz", "diagrams and reports"
    program = try_program(name, ["dot", "-V"], r"version (\S+)", enables, "install graphviz")
    if program.status is not Status.OK or importlib.util.find_spec("graphviz") is not None:
        return program
    found = f"{program.found}, without the Python package graphviz"
    return Part(name, Status.DEGRADED, found, enables, "pip install 'gvisor-engine[audit]'", program.detail)


def _java() -> Part:
    hint = "install a JRE (default-jre-headless)"
    return try_program("Java", ["java", "-version"], r'version "([^"]+)"', "the model checker TLC", hint)


def _tla2tools() -> Part:
    """The jar that `engine check` would use."""
    name, enables = "tla2tools", "the model checker TLC"
    try:
        jar = find_jar()
    except JarError as error:
        return Part(name, Status.MISSING, error.what, enables, error.hint)
    detail = {"path": jar.path, "sha256": jar.sha256}
    return Part(name, Status.OK, f"{jar.path} (from {jar.source})", enables, detail=detail)
