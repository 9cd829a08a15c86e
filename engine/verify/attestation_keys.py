"""Keys of attestations: Ed25519 or ECDSA, in PEM as OpenSSL makes them, or as OpenSSH does.

These are the kinds that every implementation of DSSE signs with the same hash.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from engine.errors import Reason
from engine.verify.ssh_keygen import SignatureError
from engine.verify.user_files import MAX_SIZE, open_private_key, read_given

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
    PublicKey = Ed25519PublicKey | EllipticCurvePublicKey

_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_HOW = "make one with openssl genpkey -algorithm ed25519 -out KEY, and openssl pkey -in KEY -pubout -out PUB"


def private_key(path: str) -> PrivateKey:
    """The private key in `path`, which only its owner may read. Raises `SignatureError`."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    with open_private_key(path) as file:
        content = file.read(MAX_SIZE)
    load = load_ssh_private_key if b"BEGIN OPENSSH PRIVATE KEY" in content else load_pem_private_key
    key = _load(path, "private", lambda: load(content, None))
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return key
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    raise _unsupported(path)


def public_key(path: str) -> PublicKey:
    """The public key in `path`. Raises `SignatureError`."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

    content = read_given(path)
    load = load_pem_public_key if content.lstrip().startswith(b"-----") else load_ssh_public_key
    key = _load(path, "public", lambda: load(content))
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise _unsupported(path)


def fingerprint(key: PublicKey) -> str:
    """As `ssh-keygen -l` shows it. It is the key id: Go's implementation of DSSE skips signatures with another one."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    content = b64decode(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])
    return f"SHA256:{b64encode(sha256(content).digest()).decode().rstrip('=')}"


def _load(path: str, half: str, load: Callable[[], Any]) -> Any:
    """What `load` makes of the file. Raises `SignatureError`."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return load()
    except TypeError:  # it wants a passphrase
        raise SignatureError(
            f"the key {path!r} is encrypted, and no passphrase is asked for here",
            reason=Reason.UNSUPPORTED,
            hint="write it without one to a file that only you can read: openssl pkey -in KEY -out FILE",
        ) from None
    except UnsupportedAlgorithm:
        raise _unsupported(path) from None
    except ValueError:
        raise SignatureError(
            f"{path!r} holds no {half} key in the form of OpenSSL or OpenSSH",
            reason=Reason.MALFORMED,
            hint=_HOW,
        ) from None


def _unsupported(path: str) -> SignatureError:
    return SignatureError(
        f"the key {path!r} is neither Ed25519 nor ECDSA on P-256, P-384 or P-521",
        reason=Reason.UNSUPPORTED,
        hint=_HOW,
    )
