#!/bin/sh
# The official JSON schema of OCI runtime-spec 1.3.0 cannot judge a `vm.hwConfig` with `irqs`: `ArrayOfUint32` in
# schema/defs.json refers to "#definitions/uint32", without the slash, which names nothing. A validator that resolves
# references when it needs them (jsonschema 4.26.0) accepts the rest of `hwConfig` and stops with an error at `irqs`,
# whatever numbers it has; it is neither valid nor invalid.
# Seen: hwConfig with vcpus: valid. With "irqs": [11, 22]: _WrappedReferencingError.
# Needs go and python3.
set -eu
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
export GOPATH="$tmp/go" GOFLAGS=-mod=mod
cd "$tmp"
go mod download github.com/opencontainers/runtime-spec@v1.3.0
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check jsonschema==4.26.0 referencing==0.37.0
"$tmp/venv/bin/python" - "$GOPATH/pkg/mod/github.com/opencontainers/runtime-spec@v1.3.0/schema" <<'END'
import json
import sys
from pathlib import Path

from jsonschema import Draft4Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

files = {path.name: json.loads(path.read_text()) for path in Path(sys.argv[1]).glob("*.json")}
for content in files.values():
    content.pop("id", None)  # so that a file is known by its name alone
registry = Registry().with_resources((name, Resource(content, DRAFT4)) for name, content in files.items())
validator = Draft4Validator({"$ref": "config-schema.json"}, registry=registry)


def verdict(hardware: dict) -> str:
    config = {
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "vm": {"kernel": {"path": "/vmlinuz"}, "hwConfig": hardware},
    }
    try:
        return "valid" if validator.is_valid(config) else "invalid"
    except Exception as error:
        return type(error).__name__


for hardware in ({"vcpus": 1}, {"vcpus": 1, "irqs": [11, 22]}):
    print(hardware, verdict(hardware))
assert verdict({"vcpus": 1}) == "valid"
assert verdict({"vcpus": 1, "irqs": [11, 22]}) not in {"valid", "invalid"}, "changed: irqs can be judged"
END
