"""Redraws what is stale in `diagrams/`: the spec's fold, traces of example runs, the pictures.

The traces are of real runs, so this needs root and runsc where they are to be recorded again; they stay as long as
they hold against the spec. The kernel's release is cut to its number, as the rest of it names somebody's machine.

usage: python tools/make_diagrams.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from engine.audit.diagram import Subject, picture
from engine.audit.lifecycle_picture import lifecycle
from engine.audit.picture import Format, Picture, write
from engine.audit.walk import read_walk
from engine.errors import EngineError
from engine.spec.errors import CheckError
from engine.spec.fold import is_current, load_fold, make_fold, write_fold

ROOT = Path(__file__).resolve().parents[1]
DIAGRAMS = ROOT / "diagrams"
#: The pictures whose DOT text is written by hand: the title, and in words what it shows.
BY_HAND = {
    "trust-boundaries": (
        "Trust boundaries",
        (
            "Other users of the host are not trusted: they can attack runsc on disk, the state directories and the "
            "bundle. The engine reads these, writes the trace, and becomes runsc, the supervisor, which starts the "
            "gofer and the Sentry. The container's programs are not trusted: they call the Sentry. Behind it are the "
            "host's programs and its kernel. The trace goes to the auditor."
        ),
    ),
}
#: The runs that are shown, and what is done to the engine so that they end so; RUNSC is one that others can write.
RUNS = {
    "run-handed-off": "",
    "run-refused": "sys.argv += ['--runsc', RUNSC]",
    "run-killed": "import engine.lifecycle.runner as r; r.stage = lambda *_: os.kill(os.getpid(), 9)",
}
_ENGINE = """
import os, re, sys
u = os.uname()
plain = os.uname_result((u.sysname, u.nodename, re.match(r"[0-9.]+", u.release)[0], u.version, u.machine))
os.uname = lambda: plain
RUNSC = sys.argv.pop()
{change}
from engine.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def pictures() -> dict[str, Picture]:
    """Everything that `diagrams/` shows, by file name. Raises `EngineError`."""
    found = {str(subject): picture(subject) for subject in Subject}
    for name, (title, description) in BY_HAND.items():
        found[name] = Picture(name, title, description, (DIAGRAMS / f"{name}.dot").read_text())
    return found | {name: lifecycle(read_walk(str(DIAGRAMS / f"{name}.jsonl")), name=name) for name in RUNS}


def main() -> int:
    DIAGRAMS.mkdir(exist_ok=True)
    try:
        if not _fold_is_current():
            write_fold(make_fold())
        for name, change in RUNS.items():
            _record(DIAGRAMS / f"{name}.jsonl", change)
        for name, drawn in pictures().items():
            stale = [form for form in _forms(drawn) if not _shows(DIAGRAMS / f"{name}.{form}", drawn, form)]
            for form in stale:
                write(drawn.render(form), str(DIAGRAMS / f"{name}.{form}"))
            print(f"{name}: {', '.join(stale) or 'as it was'}")
    except (EngineError, OSError) as error:
        print(f"diagrams: {error}", file=sys.stderr)
        return 1
    return 0


def _forms(drawn: Picture) -> list[Format]:
    return [Format.DOT, Format.SVG, Format.PNG] + ([Format.MERMAID] if drawn.mermaid else [])


def _shows(path: Path, drawn: Picture, form: Format) -> bool:
    """Whether the file is of this picture: another Graphviz lays it out otherwise, which is no reason to change it."""
    if not path.exists():
        return False
    if form in {Format.DOT, Format.MERMAID}:
        return path.read_bytes() == drawn.render(form)
    return drawn.digest.encode() in path.read_bytes()


def _fold_is_current() -> bool:
    try:
        return is_current(load_fold())
    except CheckError:
        return False


def _record(trace: Path, change: str) -> None:
    """Run the example once, unless its trace still holds. Raises `CalledProcessError` when none was written."""
    if trace.exists() and read_walk(str(trace)).doubt is None:
        return
    trace.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="engine-example-") as directory:
        bundle = Path(directory) / "hello"
        shutil.copytree(ROOT / "examples" / "hello", bundle, symlinks=True)
        loose = Path(directory) / "runsc"
        shutil.copy("/bin/true", loose)
        loose.chmod(0o777)
        code = _ENGINE.format(change=change)
        arguments = ["run", str(bundle), "--id", trace.stem, "--trace", str(trace), str(loose)]
        subprocess.run(  # noqa: S603
            [sys.executable, "-c", code, *arguments], cwd=ROOT, check=False, stdin=subprocess.DEVNULL
        )
        os.chmod(trace, 0o644)


if __name__ == "__main__":
    sys.exit(main())
