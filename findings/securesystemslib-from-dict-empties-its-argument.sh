#!/bin/sh
# securesystemslib 1.6.0: `Envelope.from_dict(data)` takes the members out of its argument: afterwards each of
# `data["signatures"]` is empty. Written out or read a second time, the envelope has lost its signatures. An error on
# the way leaves some changed: `sig` is then in hexadecimal, no longer in base64.
# Seen: [{"keyid": ..., "sig": ...}] is [{}] after from_dict; a second from_dict of the same dictionary: KeyError 'sig'.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check securesystemslib==1.6.0 cryptography==50.0.2
"$tmp/venv/bin/python" - <<'END'
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

signer = CryptoSigner.generate_ed25519()
envelope = Envelope(b"{}", "application/json", {})
envelope.sign(signer)
data = envelope.to_dict()
print("before:", sorted(data["signatures"][0]))
Envelope.from_dict(data).verify([signer.public_key], 1)
print("after:", data["signatures"])
assert data["signatures"] == [{}], "changed: from_dict leaves its argument alone"
try:
    Envelope.from_dict(data)
    raise SystemExit("changed: the same dictionary can be read twice")
except KeyError as error:
    print("again: KeyError", error)
END
