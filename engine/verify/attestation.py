"""Attestations: an in-toto Statement about a run in a DSSE envelope, in a new file beside its trace.

Made and checked with `securesystemslib` (DSSE) and `in-toto-attestation`, of the extra `attest`. Neither looks at
digests, so this does: the statement must be the one that the trace makes, and given files must have its digests.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from engine.bundle.bundle import CONFIG_NAME
from engine.bundle.strict_json import MismatchError, NotJsonError, read
from engine.errors import Reason, printable
from engine.lifecycle.spec_graph import spec_graph
from engine.runsc.installation import SIDECARS
from engine.verify import evidence
from engine.verify.ssh_keygen import SignatureError
from engine.verify.statement import RUNSC, difference, encoded, statement
from engine.verify.user_files import read_optional, unreadable, write_new
from engine.verify.with_bundle import differs, read_config

if TYPE_CHECKING:
    from engine.verify.attestation_keys import PublicKey

#: As a file of in-toto attestations is named, one a line.
SUFFIX = ".intoto.jsonl"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
#: Bytes of an envelope for each of its trace's: base64 of a statement in which each character is an escape; and some.
_SIZE_FACTOR, _SOME = 16, 1 << 20
#: Each signature that is tried costs a reading of the payload.
_MAX_SIGNATURES = 64
#: `securesystemslib` only tries a signature whose key id is the key's. DSSE's is a hint that nobody has to give.
_KEY_ID = "key"


@dataclass(frozen=True, slots=True)
class Attestation:
    """What came of checking the attestation beside the trace `path`.

    `why` says what speaks against it; None if nothing does. `unread`: the trace could not be read at all. `files`:
    those of the host that were compared as well.
    """

    path: str
    why: str | None = None
    signer: str | None = None
    unread: bool = False
    files: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        return self.why is None

    def as_data(self) -> dict[str, Any]:
        return {
            "path": printable(self.path),
            "good": self.is_good,
            "why": self.why,
            "signer": self.signer,
            "files": list(map(printable, self.files)),
        }

    def __str__(self) -> str:
        """One line, safe for a terminal."""
        if self.why is not None:
            return printable(f"{self.path}: {'unreadable' if self.unread else 'not attested'}: {self.why}")
        files = f"; as attested: {', '.join(self.files)}" if self.files else ""
        return printable(f"{self.path}: attested: by {self.signer}{files}")


def attest(path: str, key_path: str) -> str:
    """Write the attestation of the run whose trace is `path`, signed with the private key in `key_path`.

    Returns the path of the new file; none is ever overwritten. Raises `SignatureError`, `ReportError` and
    `SpecGraphError`.
    """
    _require()
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer._crypto_signer import CryptoSigner
    from securesystemslib.signer._key import SSlibKey

    from engine.verify.attestation_keys import fingerprint, private_key

    key = private_key(key_path)
    found, content = evidence.read(path, spec_graph())
    if not found.conforms:
        raise SignatureError(
            f"{path!r} is {found.result.verdict}: only a trace that conforms is attested",
            reason=Reason.MALFORMED,
            hint="see what engine trace verify says of it",
        )
    payload = encoded(statement(found, content))
    _check_form(payload)
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    public = key.public_key()
    envelope.sign(CryptoSigner(key, SSlibKey.from_crypto(public, keyid=fingerprint(public))))
    # It holds all of the trace, which only its owner can read.
    write_new(path + SUFFIX, json.dumps(envelope.to_dict()).encode() + b"\n", mode=0o600)
    return path + SUFFIX


def verify(
    paths: Sequence[str], key_path: str, *, bundle: str | None = None, runsc: str | None = None
) -> Iterator[Attestation]:
    """Check the attestation beside each trace against the trace, and against the public key in `key_path`.

    `bundle`: compare config.json in that directory, too. `runsc`: compare that file, and those that the run used of
    `gvisor-bin/` beside it. Raises `SignatureError` if the key or one of these files cannot be read, and
    `SpecGraphError`.
    """
    _require()
    from engine.verify.attestation_keys import public_key

    key, graph = public_key(key_path), spec_graph()
    for path in paths:
        try:
            trace, content = evidence.read(path, graph)
            digests = _digests(_verified(path, key, trace, content))
            files = tuple(_compared(digests, bundle, runsc))
            if bundle is not None:
                _require_asked_for(trace, bundle)
        except evidence.ReportError as error:
            yield Attestation(path, why=error.what, unread=True)
        except _RejectedError as error:
            yield Attestation(path, why=str(error))
        else:
            yield Attestation(path, signer=f"the holder of {key_path}", files=files)


class _RejectedError(Exception):
    """What speaks against an attestation, in one phrase."""


def _verified(path: str, key: PublicKey, found: evidence.Evidence, content: bytes) -> dict[str, Any]:
    """The statement of the attestation beside the trace `path`, which it holds. Raises `_RejectedError`."""
    try:
        envelope = read_optional(path + SUFFIX, _SIZE_FACTOR * len(content) + _SOME)
    except SignatureError as error:
        raise _RejectedError(error.what) from None
    if envelope is None:
        raise _RejectedError(f"there is no {path + SUFFIX!r}")
    payload = _signed(_parsed(envelope, "the envelope"), key)
    if not found.conforms:
        raise _RejectedError(f"the trace is not one that is attested: {found.result}")
    given = _parsed(payload, "the statement")
    try:
        _check_form(payload)
    except SignatureError as error:
        raise _RejectedError(error.what) from None
    if (where := difference(given, statement(found, content))) is not None:
        raise _RejectedError(f"it is not of this trace, or says something else than it: {where}")
    return given


def _parsed(content: bytes, what: str) -> dict[str, Any]:
    """A JSON object that no two parsers read differently. Raises `_RejectedError`."""
    try:
        parsed = read(content, any_text=True)
    except (NotJsonError, MismatchError) as error:
        raise _RejectedError(f"{what}: {error}") from None
    if not isinstance(parsed, dict):
        raise _RejectedError(f"{what} is no JSON object")
    return parsed


def _signed(envelope: Mapping[str, Any], key: PublicKey) -> bytes:
    """The payload, if one of its signatures is by `key`. Raises `_RejectedError`."""
    payload, kind = envelope.get("payload"), envelope.get("payloadType")
    signatures = envelope.get("signatures")
    if not (isinstance(payload, str) and isinstance(signatures, list)):
        raise _RejectedError("it is no DSSE envelope: it has no payload or no signatures")
    if kind != PAYLOAD_TYPE:
        raise _RejectedError(f"its payload is {str(kind)!r:.80}, and no {PAYLOAD_TYPE}")
    if len(signatures) > _MAX_SIGNATURES:
        raise _RejectedError(f"it has {len(signatures)} signatures, and at most {_MAX_SIGNATURES} are tried")
    for signature in signatures:
        text = signature.get("sig") if isinstance(signature, dict) else None
        if isinstance(text, str) and (content := _payload_signed_by(key, payload, text)) is not None:
            return content
    raise _RejectedError("no signature of it is by this key")


def _payload_signed_by(key: PublicKey, payload: str, signature: str) -> bytes | None:
    """The decoded payload, if the signature is one over it by `key`. The signature's own key id is ignored."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import UnverifiedSignatureError
    from securesystemslib.signer._key import SSlibKey

    one = {
        "payload": payload,
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": _KEY_ID, "sig": signature}],
    }
    try:
        envelope = Envelope.from_dict(one)  # which empties it
        envelope.verify([SSlibKey.from_crypto(key, keyid=_KEY_ID)], 1)
    except (ValueError, UnverifiedSignatureError):  # ValueError: no base64
        return None
    return envelope.payload


def _check_form(payload: bytes) -> None:
    """Whether it is a Statement v1 for the ecosystem's own library. Raises `SignatureError`."""
    from google.protobuf import json_format
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Message

    try:
        Statement.copy_from_pb(json_format.Parse(payload, Message())).validate()
    except (ValueError, json_format.ParseError) as error:
        raise SignatureError(
            f"it is no in-toto Statement v1: {error}",
            reason=Reason.MALFORMED,
            hint="make one with engine trace attest",
        ) from None


def _digests(said: Mapping[str, Any]) -> dict[str, str]:
    return {each["name"]: each["digest"]["sha256"] for each in said["subject"]}


def _compared(digests: Mapping[str, str], bundle: str | None, runsc: str | None) -> Iterator[str]:
    """The paths of the files that were given, each with its attested digest. Raises `_RejectedError`."""
    given: list[tuple[str, str]] = []
    if bundle is not None:
        given.append((CONFIG_NAME, os.path.join(bundle, CONFIG_NAME)))
    if runsc is not None:
        if RUNSC not in digests:
            raise _RejectedError("the run was refused before it had a runsc to compare")
        beside = os.path.join(os.path.dirname(os.path.realpath(runsc)), "")
        given.append((RUNSC, runsc))
        given += [(name, beside + name) for name in digests if name.startswith(f"{SIDECARS}/")]
    for name, path in given:
        try:
            with evidence.open_regular(path) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError) as error:
            raise unreadable(path, error, "give files that you can read") from None
        if digest != digests[name]:
            raise _RejectedError(f"{path!r} has another digest than the run's {name}")
        yield path


def _require_asked_for(trace: evidence.Evidence, bundle: str) -> None:
    """Whether config.json there asks for what is recorded, and makes what runsc was given. Raises `_RejectedError`."""
    if trace.header is not None:
        what = differs(trace.header, read_config(bundle), [moment.record for moment in trace.moments])
        if what is not None:
            raise _RejectedError(what)


def _require() -> None:
    """Raises `SignatureError` where the extra is not installed."""
    for module in ("cryptography", "in_toto_attestation.v1.statement", "securesystemslib.dsse"):
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            raise SignatureError(
                f"{error.name} is needed for attestations, and is not installed",
                reason=Reason.UNAVAILABLE,
                hint="pip install 'gvisor-engine[attest]'",
            ) from None
