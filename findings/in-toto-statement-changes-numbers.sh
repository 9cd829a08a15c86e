#!/bin/sh
# in-toto-attestation 0.9.3 keeps a predicate in protobuf's `Struct`, whose only number is a double: written out again,
# 1 is 1.0, and an integer above 2^53 (an inode, a time in nanoseconds) is another one, without an error. A signature
# over what comes out is good for a statement that nobody made. `validate()` takes any text for a SHA-256.
# Seen: {"a": 1, "b": 9007199254740993} becomes {"a": 1.0, "b": 9007199254740992.0}; the digest "zz" is valid.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check in-toto-attestation==0.9.3 protobuf==6.33.6
"$tmp/venv/bin/python" - <<'END'
import json

from google.protobuf import json_format
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement

subject = ResourceDescriptor(name="a file", digest={"sha256": "zz"})
given = {"a": 1, "b": 2**53 + 1}
made = Statement([subject.pb], "https://example.com/predicate", given)
made.validate()
text = json_format.MessageToJson(made.pb, indent=None)
print(text)
written = json.loads(text)["predicate"]
assert isinstance(written["a"], float), "changed: whole numbers stay whole"
assert int(written["b"]) != given["b"], "changed: large integers are kept"
END
