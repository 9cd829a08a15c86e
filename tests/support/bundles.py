"""The smallest good bundle, which tests change where it matters to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: What containers mostly have besides.
PROC = {"destination": "/proc", "type": "proc", "source": "proc"}
NAMESPACES = {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]}


def base_config(**changes: Any) -> dict[str, Any]:
    """A new config.json with only what the engine requires.

    `changes` are its members. Those of `process` are laid over the default ones, any other replaces the default.
    """
    process = {"cwd": "/", "args": ["/bin/true"], "user": {"uid": 0, "gid": 0}} | changes.pop("process", {})
    return {"ociVersion": "1.0.2", "process": process, "root": {"path": "rootfs"}, **changes}


def write_config(bundle: Path, **changes: Any) -> dict[str, Any]:
    """Write `base_config` to `bundle` and return it."""
    config = base_config(**changes)
    (bundle / "config.json").write_text(json.dumps(config))
    return config


def make_bundle(bundle: Path, **changes: Any) -> Path:
    """Make a bundle of `base_config` and an empty rootfs in the directory `bundle`, which may exist."""
    (bundle / "rootfs").mkdir(parents=True, exist_ok=True)
    write_config(bundle, **changes)
    return bundle
