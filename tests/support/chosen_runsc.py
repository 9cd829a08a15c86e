"""Has the suite test another runsc: `ENGINE_TEST_RUNSC=PATH`, with `gvisor-bin/` beside it where it has one.

The notable thing: it is mounted where the engine looks first, in the suite's own mount namespace. So every test, every
user and every manager finds it as an installed one, and nothing of it is left on the machine.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from tools.system_parts import RUNSC_PATHS

SIDECARS = "gvisor-bin"


def put_in_place(chosen: Path) -> None:
    """Mount the `chosen` runsc, and what is beside it, at the first of the trusted paths.

    What else is in that directory stays there. This process is root, with a mount namespace of its own.
    Raises `ValueError` where there is no such runsc or this process may not mount, and `OSError`.
    """
    chosen = chosen.resolve()
    if chosen.name != "runsc" or not chosen.is_file():
        raise ValueError(f"no file named runsc at {str(chosen)!r}")
    if os.geteuid() != 0:
        raise ValueError("only root can put another runsc in the place of the installed one")
    place = Path(RUNSC_PATHS[0]).parent
    with tempfile.TemporaryDirectory() as temporary:
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", temporary)
        shown = {path.name: path for path in place.iterdir() if path.name not in ("runsc", SIDECARS)}
        shown["runsc"] = chosen
        if (sidecars := chosen.parent / SIDECARS).is_dir():
            shown[SIDECARS] = sidecars
        for name, path in shown.items():
            _show(path, Path(temporary) / name)
        _mount("--move", temporary, place)


def _show(path: Path, target: Path) -> None:
    if path.is_symlink():
        target.symlink_to(path.readlink())
        return
    if path.is_dir():
        target.mkdir()
    else:
        target.touch()
    _mount("--rbind", path, target)


def _mount(*arguments: str | Path) -> None:
    done = subprocess.run(["mount", *arguments], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise ValueError(done.stderr.strip())
