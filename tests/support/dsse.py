"""DSSE read by its specification alone, v1.0, and signatures judged by OpenSSL: nothing of the libraries that we use.

https://github.com/secure-systems-lab/dsse/blob/master/protocol.md: SIGNATURE = Sign(PAE(UTF8(PAYLOAD_TYPE),
SERIALIZED_BODY)), PAE(type, body) = "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body, lengths in decimal, in bytes.
"""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any


def openssl(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["openssl", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )


def new_key(path: Path, kind: str = "ed25519") -> Path:
    """A private key in PEM at `path`, its public half beside it in `path`.pub; `kind`: or the name of a curve."""
    curve = [] if kind == "ed25519" else ["-pkeyopt", f"ec_paramgen_curve:{kind}"]
    made = openssl("genpkey", "-algorithm", "ed25519" if kind == "ed25519" else "EC", *curve, "-out", path)
    assert made.returncode == 0, made.stderr
    path.chmod(0o600)
    made = openssl("pkey", "-in", path, "-pubout", "-out", f"{path}.pub")
    assert made.returncode == 0, made.stderr
    return path


def pre_authentication(kind: str, body: bytes) -> bytes:
    name = kind.encode()
    return b" ".join([b"DSSEv1", str(len(name)).encode(), name, str(len(body)).encode(), body])


def signed(kind: str, body: bytes, key: Path, digest: str | None = None) -> dict[str, Any]:
    """An envelope that OpenSSL signed; `digest`: of an ECDSA key's curve."""
    text = key.with_suffix(".signed")
    text.write_bytes(pre_authentication(kind, body))
    how = ["-rawin"] if digest is None else ["-rawin", "-digest", digest]
    made = openssl("pkeyutl", "-sign", "-inkey", key, *how, "-in", text)
    assert made.returncode == 0, made.stderr
    return {
        "payloadType": kind,
        "payload": base64.b64encode(body).decode(),
        "signatures": [{"sig": base64.b64encode(made.stdout).decode()}],
    }


def opened(envelope: Path, public: Path, digest: str | None = None) -> tuple[str, Any]:
    """The payload's type and the payload of an envelope with one signature, which OpenSSL must take as the key's."""
    said = json.loads(envelope.read_bytes())
    body, (signature,) = base64.b64decode(said["payload"], validate=True), said["signatures"]
    text, beside = public.with_suffix(".text"), public.with_suffix(".sig")
    text.write_bytes(pre_authentication(said["payloadType"], body))
    beside.write_bytes(base64.b64decode(signature["sig"], validate=True))
    how = ["-rawin"] if digest is None else ["-rawin", "-digest", digest]
    judged = openssl("pkeyutl", "-verify", "-pubin", "-inkey", public, *how, "-in", text, "-sigfile", beside)
    assert judged.returncode == 0, judged.stderr
    return said["payloadType"], json.loads(body)
