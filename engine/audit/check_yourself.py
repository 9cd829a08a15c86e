"""What an auditor needs to check a report without trusting it: the files themselves, commands, and what they print."""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from typing import NamedTuple

from engine.bundle.bundle import CONFIG_NAME
from engine.errors import shell_word
from engine.lifecycle.spec_files import LIFECYCLE_SPEC
from engine.traces.move import Trigger
from engine.verify import attestation, signature
from engine.verify.evidence import Evidence, given_copy, programs
from engine.verify.ssh_keygen import SignatureError
from engine.verify.trace_file import SUFFIX
from engine.verify.user_files import read_optional

#: The name of the trace when it is saved from the page, and with it those of the files beside it.
_TRACE = "trace.jsonl"
#: The largest file in bytes that a page carries.
_MAX_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class Carried:
    """A file in the page: a link that saves it as `name`. `link` is None if it is too large."""

    name: str
    path: str
    size: str
    sha256: str
    link: str | None


class Check(NamedTuple):
    """A command, and what it must say."""

    what: str
    command: str
    expected: str


def carried(evidence: Evidence, content: bytes) -> list[Carried]:
    """The trace that was judged, and the signature and the attestation beside it, if any."""
    files = [_carried(_TRACE, evidence.path, content)]
    for suffix in (SUFFIX, attestation.SUFFIX):
        try:
            beside = read_optional(evidence.path + suffix)
        except SignatureError:
            continue  # what speaks against it stands with the signature
        if beside is not None:
            files.append(_carried(_TRACE + suffix, evidence.path + suffix, beside))
    return files


def _carried(name: str, path: str, content: bytes) -> Carried:
    link = None
    if len(content) <= _MAX_SIZE:
        link = f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"
    return Carried(name, path, f"{len(content):,} bytes", hashlib.sha256(content).hexdigest(), link)


def checks(evidence: Evidence, files: list[Carried]) -> list[Check]:
    """The commands for this run, in the order in which one needs them."""
    names = {file.name for file in files}
    found = [
        Check("The trace is the one of this report.", f"sha256sum {_TRACE}", evidence.sha256),
        Check(
            "Its lines are what an engine writes.",
            f"engine trace verify {_TRACE}",
            str(evidence.result.verdict),
        ),
    ]
    if _TRACE + SUFFIX in names:
        command = f"ssh-keygen -Y verify -f ALLOWED_SIGNERS -I IDENTITY -n {signature.NAMESPACE}"
        found.append(
            Check(
                "It is signed, whoever made the page.",
                f"{command} -s {_TRACE}{SUFFIX} < {_TRACE}",
                'Good "trace@gvisor-engine" signature',
            )
        )
    if _TRACE + attestation.SUFFIX in names:
        found.append(
            Check("It is attested.", f"engine trace verify-attestation {_TRACE} --key PUB", "attested")
        )
    if (header := evidence.header) is None:
        return found
    if evidence.moments:
        found.append(
            Check(
                "The chain, with nothing of ours: line 2 has this as `previous`, and so on.",
                f"head -n 1 {_TRACE} | sha256sum",
                evidence.moments[0].record.previous,
            )
        )
    bundle = header.bundle["path"]
    config = shell_word(os.path.join(bundle, CONFIG_NAME))
    found += [
        Check("The bundle is still the one that ran.", f"sha256sum {config}", header.bundle["sha256"]),
        Check(
            "It asks for what is recorded, and makes what runsc was given.",
            f"engine trace verify {_TRACE} --bundle {shell_word(bundle)}",
            str(evidence.result.verdict),
        ),
    ]
    validated, staged = (evidence.facts.get(trigger) for trigger in (Trigger.VALIDATE, Trigger.STAGE))
    if validated is not None and staged is not None:
        found += [
            Check(f"{name} is still the one that ran.", f"sha256sum {shell_word(path)}", digest)
            for name, path, digest in programs(validated, staged)
        ]
    if (given := given_copy(header.bundle, evidence.facts.get(Trigger.EXEC))) is not None:
        path, digest = given
        found.append(
            Check(
                "While the container is there: what runsc was given.", f"sha256sum {shell_word(path)}", digest
            )
        )
    found.append(
        Check("The spec is the one it was run against.", f"sha256sum specs/{LIFECYCLE_SPEC}", header.spec)
    )
    return found
