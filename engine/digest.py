"""SHA-256 of what a run reads and writes, mostly a few kilobytes.

The notable thing: `hashlib` loads OpenSSL, which takes three milliseconds, and pays only from some hundred kilobytes
on. The interpreter has the same function built in, under a name that differs by version and is not promised; where it
is missing, `hashlib` does it all.
"""

from __future__ import annotations

import sys

_BUILT_IN = "_sha2" if sys.version_info >= (3, 12) else "_sha256"
#: Bytes from which on loading OpenSSL pays.
_THRESHOLD = 1 << 19


def sha256(data: bytes) -> str:
    """The SHA-256 of `data`, in hexadecimal."""
    if len(data) < _THRESHOLD:
        try:
            return str(__import__(_BUILT_IN).sha256(data).hexdigest())
        except ImportError:
            pass
    import hashlib

    return hashlib.sha256(data).hexdigest()
