"""What is known of a trace, put into words: its conformance, its signature, and the model checking of its spec."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.audit.model_check import ModelCheck
from engine.lifecycle.spec_graph import SpecGraph
from engine.verify.evidence import Evidence
from engine.verify.signature import NAMESPACE, Signature, Standing
from engine.verify.trace_check import Verdict

VERDICT_KINDS: Mapping[Verdict, str] = {
    Verdict.CONFORMS: "good",
    Verdict.INCOMPLETE: "warn",
    Verdict.DIFFERS: "bad",
    Verdict.OTHER_SPEC: "warn",
    Verdict.UNREADABLE: "bad",
}


@dataclass(frozen=True, slots=True)
class Said:
    """A verdict as it is shown: how it looks, in a word, in a sentence."""

    kind: str
    text: str
    detail: str
    more: Mapping[str, Any] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        """As the template takes it."""
        return {**self.more, "kind": self.kind, "text": self.text, "detail": self.detail}


def conformance_of(evidence: Evidence, graph: SpecGraph) -> Said:
    """What the spec says of the trace."""
    result = evidence.result
    detail = {
        Verdict.CONFORMS: f"All {result.records} lines are as the spec and the machine's guards want them.",
        Verdict.INCOMPLETE: f"All {result.records} lines are as they must be, but the run did not come to its end.",
        Verdict.DIFFERS: f"{result.records} lines are as they must be; the next is not.",
        Verdict.OTHER_SPEC: f"Not judged: this engine's spec is {graph.spec}. Use the engine that made the trace.",
        Verdict.UNREADABLE: f"{result.why}",
    }[result.verdict]
    more: dict[str, Any] = {"fault": None}
    if result.fault is not None:
        more["fault"] = {
            "first bad line": str(result.fault.line),
            "what is there": result.fault.what,
            "what the spec allows there": result.fault.allowed or "not told",
        }
    return Said(VERDICT_KINDS[result.verdict], result.verdict, detail, more)


def signature_of(evidence: Evidence, signature: Signature) -> Said:
    """What the signature says of the trace."""
    kind, detail = {
        Standing.VERIFIED: ("good", f"Every byte of the trace is as {signature.signer} signed it."),
        Standing.BAD: ("bad", f"{signature.why}."),
        Standing.UNSIGNED: ("warn", "Nothing shows that the trace is as the engine wrote it."),
        Standing.UNCHECKED: ("warn", "There is a signature; give --key or --signers to have it checked."),
    }[signature.standing]
    facts = {
        "trace": evidence.path,
        "SHA-256 of the trace": evidence.sha256,
        "size": f"{evidence.size:,} bytes",
        "signature": signature.path
        if signature.standing is not Standing.UNSIGNED
        else "none beside the trace",
    }
    if signature.key:
        facts["key that it names"] = signature.key
    if signature.standing in {Standing.VERIFIED, Standing.UNCHECKED}:
        principal = "IDENTITY"
        facts["to check it with stock OpenSSH"] = (
            f"ssh-keygen -Y verify -f ALLOWED_SIGNERS -I {principal} -n {NAMESPACE} "
            f"-s {shlex.quote(signature.path)} < {shlex.quote(evidence.path)}"
        )
    verified, not_verified = [], []
    if signature.standing is Standing.VERIFIED:
        verified.append(
            f"The signature over the whole file by {signature.key}: no byte was changed, added or cut off since."
        )
    else:
        not_verified.append(
            "That the file is whole and unchanged: an owner of the trace could have written it anew."
        )
    if evidence.judged and evidence.header is not None:
        verified.append("The hash chain: each line carries the SHA-256 of the line before it.")
    else:
        not_verified.append("The hash chain to the end: see the first bad line above.")
    not_verified.append(
        "When the signature was made, and that the signer saw the run: a signature has no trusted time."
    )
    return Said(
        kind, signature.standing, detail, {"facts": facts, "verified": verified, "not_verified": not_verified}
    )


def model_of(evidence: Evidence, check: ModelCheck | None) -> Said:
    """What the model checker said of the spec that the trace names, if its result was given."""
    none: dict[str, Any] = {"check": None}
    if evidence.header is None:
        return Said("warn", "not verified", "The trace does not say by which spec it was run.", none)
    spec = evidence.header.spec
    if check is None:
        how = "No result was given; save one with engine check --mutants --json > check.json, and give it with --check."
        return Said("warn", "not verified", how, none)
    if check.said.spec != spec:
        other = f"is of the spec {check.said.spec}" if check.said.spec else "does not say of which spec it is"
        return Said(
            "warn", "not verified", f"The result in {check.path} {other}, not of this trace's {spec}.", none
        )
    said, shortfalls = check.said, check.shortfalls
    more = {
        "check": check,
        "shortfalls": shortfalls,
        "facts": {
            "SHA-256 of the spec": spec,
            "distinct states": f"{check.distinct:,} in {len(said.models)} models",
            "deepest search": f"{max((model.stateDepth for model in said.models), default=0)} steps",
            "properties": f"{check.holding} of {len(check.properties)} hold",
            "coverage": _coverage(check),
            "mutants": f"{check.killed} of {len(said.mutants)} noticed"
            if said.mutants
            else "none were tried",
            "checker": f"{said.tlc}, {said.java}",
            "SHA-256 of tla2tools.jar": said.jar.sha256,
            "result taken at its word from": f"{check.path}, SHA-256 {check.sha256}",
        },
        "models": [
            (
                model.name,
                model.says,
                "every property holds" if model.must_hold else f"a {model.expected}, found",
                f"{model.distinctStates:,}",
                f"{model.totalStates:,}",
                model.stateDepth,
                "; ".join(model.surprises) or "as expected",
            )
            for model in said.models
        ],
        "properties": list(check.properties.items()),
        "actions": [(name, f"{times:,}" if times else "never") for name, times in check.actions.items()],
        "mutants": [
            (
                mutant.name,
                mutant.says,
                mutant.breaks,
                f"yes, in {mutant.steps} steps" if mutant.killed else "NO: it survived",
            )
            for mutant in said.mutants
        ],
    }
    if shortfalls:
        return Said("bad", "not verified", f"Of this very spec, but not all is well: {shortfalls[0]}.", more)
    detail = (
        f"Of this very spec: {len(check.properties)} properties hold in {check.distinct:,} distinct states; "
        f"all {len(said.mutants)} mutants are noticed."
    )
    return Said("good", "verified", detail, more)


def _coverage(check: ModelCheck) -> str:
    if check.said.gaps is None:
        return "not judged: only some models were checked"
    if check.said.gaps:
        return f"{len(check.said.gaps)} parts of the spec were never reached"
    return f"every part of {len(check.actions)} actions was reached"
