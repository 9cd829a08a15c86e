"""A registry of container images on the loopback: nothing is fetched from another machine.

usage: python registry.py PORT DIRECTORY

It only answers pulls, and finds an image by the last part of its name, whichever registry it was asked of.
Source: OCI distribution specification, "Pull".
"""

from __future__ import annotations

import json
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT = 5000

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def keep(directory: Path, name: str, manifest: str, blobs: dict[str, bytes]) -> None:
    """Store an image as `name`, NAME:TAG, with the SHA-256 of its manifest and all its blobs by theirs."""
    directory.mkdir(exist_ok=True)
    for digest, content in blobs.items():
        (directory / digest).write_bytes(content)
    listed = directory / "names.json"
    names = json.loads(listed.read_text()) if listed.exists() else {}
    listed.write_text(json.dumps({**names, name: manifest}))


class _Pulls(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: what is pulled is in the log of whoever pulls."""

    def _answer(self, *, with_body: bool) -> None:
        directory: Path = self.server.directory  # type: ignore[attr-defined]
        repository, kind, wanted = "", "", ""
        for kind in ("manifests", "blobs"):
            path = self.path.partition("?")[0]
            repository, found, wanted = path.rpartition(f"/{kind}/")
            if found:
                break
        if kind == "manifests" and not wanted.startswith("sha256:"):
            names = json.loads((directory / "names.json").read_text())
            name = f"{repository.rpartition('/')[2]}:{wanted}"
            wanted = f"sha256:{names.get(name)}"
        file = directory / wanted.removeprefix("sha256:")
        if not wanted or "/" in wanted or not file.is_file():
            self.send_response(HTTPStatus.NOT_FOUND)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = file.read_bytes()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _MANIFEST if kind == "manifests" else "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Docker-Content-Digest", wanted)
        self.end_headers()
        if with_body:
            self.wfile.write(content)


def serve(port: int, directory: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", port), _Pulls)
    server.directory = directory  # type: ignore[attr-defined]
    server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
