"""An in-toto Statement about a run, made of its trace alone: the same bytes always make the same statement.

https://github.com/in-toto/attestation, Statement v1, predicate `runtime-trace` v0.2. Every whole number becomes text,
as protobuf's JSON does with int64: its `Struct`, in which others read a predicate, has floats only, and would change
a time in nanoseconds. Half surrogates, which a path may have and protobuf refuses, become escapes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from hashlib import sha256
from typing import Any
from urllib.parse import quote
from uuid import UUID

from engine.bundle.bundle import CONFIG_NAME
from engine.bundle.strict_json import read
from engine.lifecycle.spec_files import LIFECYCLE_SPEC
from engine.traces.move import State, Trigger
from engine.verify.evidence import Evidence, given_copy, programs

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/runtime-trace/v0.2"
#: A package URL: it names the engine, whose docs say what its log has, and claims no host.
ENGINE_TYPE = "pkg:generic/gvisor-engine"
#: The kind of process that was watched: a start through the lifecycle.
PROCESS_TYPE = f"{ENGINE_TYPE}#docs/lifecycle.md"

#: The names of subjects. `GIVEN`: the copy of config.json that runsc was given, where it differs from the caller's.
TRACE, RUNSC, GIVEN = "trace.jsonl", "runsc", f"given/{CONFIG_NAME}"


def statement(evidence: Evidence, content: bytes) -> dict[str, Any]:
    """The statement about the run whose trace has the bytes `content` and conforms."""
    lines = [line + b"\n" for line in content.split(b"\n")[:-1]]
    header, *moves = (read(line, any_text=True) for line in lines)
    boot = header["host"].get("boot")
    metadata = {"buildStartedOn": header["time"]}
    if evidence.result.state in {State.ENDED, State.REFUSED}:
        metadata["buildFinishedOn"] = moves[-1]["time"]
    files = list(_files(header, moves))
    said = {
        "_type": STATEMENT_TYPE,
        "subject": [
            *(_resource(name, digest) for name, _, digest in files),
            _resource(TRACE, evidence.sha256),
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "monitor": {
                "type": f"{ENGINE_TYPE}@{quote(header['engine'], safe='')}",
                "configSource": _resource(LIFECYCLE_SPEC, header["spec"]),
                "tracePolicy": header["options"],
            },
            "monitoredProcess": {
                "hostID": UUID(boot or "0" * 32).urn,
                "type": PROCESS_TYPE,
                "event": f"{header['container']}@sha256:{sha256(lines[0]).hexdigest()}",
            },
            "monitorLog": {
                "process": [header, *moves],
                "fileAccess": [_resource(path, digest) for _, path, digest in files],
            },
            "metadata": metadata,
        },
    }
    portable: dict[str, Any] = _portable(said)
    return portable


def encoded(said: dict[str, Any]) -> bytes:
    """A statement as the bytes that are signed."""
    return json.dumps(said, separators=(",", ":")).encode()


def _files(header: dict[str, Any], moves: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """The files that the run hands to runsc, and runsc's own: subject, path and SHA-256."""
    bundle = header["bundle"]
    yield CONFIG_NAME, os.path.join(bundle["path"], CONFIG_NAME), bundle["sha256"]
    facts = {move["trigger"]: move["facts"] for move in moves}
    if (staged := facts.get(Trigger.STAGE)) is None:
        return
    yield from programs(facts[Trigger.VALIDATE], staged)
    if (given := given_copy(bundle, facts.get(Trigger.EXEC))) is not None:
        yield GIVEN, *given


def _resource(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest}}


def _portable(value: Any) -> Any:
    """As every reader of JSON and protobuf has it."""
    if isinstance(value, dict):
        return {_portable(name): _portable(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_portable(member) for member in value]
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def difference(given: Any, wanted: Any, where: str = "") -> str | None:
    """The path of the first member in which two statements differ; None if they are the same."""
    if isinstance(given, dict) and isinstance(wanted, dict):
        names = sorted(given.keys() | wanted.keys())
        pairs = [(given.get(name, ...), wanted.get(name, ...), f".{name}") for name in names]
    elif isinstance(given, list) and isinstance(wanted, list) and len(given) == len(wanted):
        pairs = [(one, other, f"[{at}]") for at, (one, other) in enumerate(zip(given, wanted, strict=True))]
    else:
        return None if type(given) is type(wanted) and given == wanted else where.lstrip(".")
    found = (difference(one, other, where + step) for one, other, step in pairs)
    return next((path for path in found if path is not None), None)
