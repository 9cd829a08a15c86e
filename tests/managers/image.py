"""A container image made of one static busybox, as an OCI archive: nothing is fetched from a registry.

Sources: OCI image specification, image-layout.md, manifest.md, config.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: How managers know it.
NAME = "localhost/tested:latest"

#: What the first container of a Kubernetes pod is made of: it only waits.
PAUSE = "localhost/pause:latest"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_image(rootfs: Path, archive: Path, name: str = NAME, command: Sequence[str] = ("/bin/sh",)) -> None:
    """Write the OCI archive of an image whose only layer is `rootfs`, and which runs `command` by itself."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(rootfs, arcname=".")
    blobs: dict[str, bytes] = {}

    def blob(kind: str, content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": f"sha256:{digest}",
            "size": len(content),
        }

    layers = [blob("layer.v1.tar", layer.getvalue())]
    config = {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": [*command]},
        "rootfs": {"type": "layers", "diff_ids": [layers[0]["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", json.dumps(config).encode()),
        "layers": layers,
    }
    listed = blob("manifest.v1+json", json.dumps(manifest).encode())
    # Both names: containerd's own annotation, and the specification's, which podman reads.
    listed["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name,
    }
    files = {f"blobs/sha256/{digest}": content for digest, content in blobs.items()}
    files["oci-layout"] = json.dumps({"imageLayoutVersion": "1.0.0"}).encode()
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [listed]}).encode()
    with tarfile.open(archive, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
