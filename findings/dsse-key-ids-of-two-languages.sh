#!/bin/sh
# The Secure Systems Lab's two implementations of DSSE do not verify each other's envelopes. DSSE calls `keyid`
# an optional hint, which must not decide anything. Python's securesystemslib 1.6.0 writes the digest of its own form
# of the key and accepts only signatures with that id; Go's go-securesystemslib v0.8.0 skips a signature whose id is
# not the fingerprint of OpenSSH. Go tries a signature without an id; Python refuses it. So there is no id with which
# both take the same envelope.
# Seen, for one good signature: id of Python's own: Python yes, Go no. Empty: Python no, Go yes. The fingerprint: Python
# no, Go yes. None: Python KeyError, Go yes.
# Needs go and python3.
set -eu
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
export GOPATH="$tmp/go" GOFLAGS=-mod=mod GOCACHE="$tmp/cache"
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check securesystemslib==1.6.0 cryptography==50.0.2
mkdir "$tmp/check" && cd "$tmp/check"
cat > main.go <<'GO'
package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

type verifier struct{ key ed25519.PublicKey }

func (v verifier) Verify(_ context.Context, data, sig []byte) error {
	if !ed25519.Verify(v.key, data, sig) {
		return errors.New("bad signature")
	}
	return nil
}
func (v verifier) KeyID() (string, error)   { return "", nil }
func (v verifier) Public() crypto.PublicKey { return v.key }

func main() {
	key, _ := hex.DecodeString(os.Args[1])
	content, _ := os.ReadFile(os.Args[2])
	var envelope dsse.Envelope
	if err := json.Unmarshal(content, &envelope); err != nil {
		panic(err)
	}
	checks, _ := dsse.NewEnvelopeVerifier(verifier{key})
	_, err := checks.Verify(context.Background(), &envelope)
	fmt.Println(err == nil)
}
GO
cat > go.mod <<'GO'
module check

go 1.20

require github.com/secure-systems-lab/go-securesystemslib v0.8.0
GO
go build -o check . 2>"$tmp/go.log" || { cat "$tmp/go.log"; exit 1; }
"$tmp/venv/bin/python" - <<'END'
import copy
import json
import subprocess
from base64 import b64decode, b64encode
from hashlib import sha256

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

signer = CryptoSigner.generate_ed25519()
key = signer.public_key
envelope = Envelope(b"{}", "application/json", {})
envelope.sign(signer)
made = envelope.to_dict()
public = key._crypto_key()
wire = b64decode(public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])
fingerprint = "SHA256:" + b64encode(sha256(wire).digest()).decode().rstrip("=")


def python(given: dict) -> str:
    try:
        Envelope.from_dict(copy.deepcopy(given)).verify([key], 1)
    except Exception as error:
        return type(error).__name__
    return "good"


def go(given: dict) -> str:
    with open("envelope", "w") as file:
        json.dump(given, file)
    done = subprocess.run(["./check", key.keyval["public"], "envelope"], capture_output=True, text=True, check=True)
    return "good" if done.stdout == "true\n" else "not good"


seen = {}
for name, keyid in {"its own": key.keyid, "empty": "", "fingerprint": fingerprint, "none": None}.items():
    given = copy.deepcopy(made)
    given["signatures"][0]["keyid"] = keyid
    if keyid is None:
        del given["signatures"][0]["keyid"]
    seen[name] = (python(given), go(given))
    print(f"key id {name}: Python {seen[name][0]}, Go {seen[name][1]}")
assert seen == {
    "its own": ("good", "not good"),
    "empty": ("VerificationError", "good"),
    "fingerprint": ("VerificationError", "good"),
    "none": ("KeyError", "good"),
}, "changed"
END
