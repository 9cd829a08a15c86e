"""The smallest good bundle, which tests change where it matters to them."""

from __future__ import annotations

import json
import os
import struct
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


def program_bytes(*, bits: int = 64, machine: int | None = None, loader: bytes | None = None) -> bytes:
    """An ELF file that the engine can judge and nothing can run: a header, and a segment that names `loader`."""
    number = machine if machine is not None else {"x86_64": 62, "aarch64": 183}[os.uname().machine]
    identification = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1, 1]) + bytes(9)
    count = 0 if loader is None else 1
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", identification, 2, number, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0
    )
    if loader is None:
        return header
    name = loader + b"\0"
    return header + struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(name), len(name), 1) + name


def put_program(path: Path, content: bytes | None = None, mode: int = 0o755) -> Path:
    """Write a program, by default that of `program_bytes`, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(program_bytes() if content is None else content)
    path.chmod(mode)
    return path


def make_bundle(bundle: Path, **changes: Any) -> Path:
    """Make a bundle of `base_config`, with its program alone in the rootfs, in `bundle`, which may exist."""
    put_program(bundle / "rootfs" / "bin" / "true")
    write_config(bundle, **changes)
    return bundle
