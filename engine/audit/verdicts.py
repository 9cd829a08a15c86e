"""Texts about a trace: its conformance, its signature, and the model checking of its spec."""

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
    """A verdict for the page: CSS class, a word, a sentence."""

    kind: str
    text: str
    detail: str
    more: Mapping[str, Any] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        """The values for the template."""
        return {**self.more, "kind": self.kind, "text": self.text, "detail": self.detail}


def conformance_of(evidence: Evidence, graph: SpecGraph) -> Said:
    """Whether the trace conforms to the spec."""
    result = evidence.result
    detail = {
        Verdict.CONFORMS: f"All {result.records} lines conform to the spec and the machine's guards.",
        Verdict.INCOMPLETE: f"All {result.records} lines conform, but the run did not finish.",
        Verdict.DIFFERS: f"{result.records} lines conform; the next does not.",
        Verdict.OTHER_SPEC: f"Not checked: this engine's spec is {graph.spec}. Use the engine that made the trace.",
        Verdict.UNREADABLE: f"{result.why}",
    }[result.verdict]
    more: dict[str, Any] = {"fault": None}
    if result.fault is not None:
        more["fault"] = {
            "first bad line": str(result.fault.line),
            "found": result.fault.what,
            "allowed by the spec": result.fault.allowed or "not specified",
        }
    return Said(VERDICT_KINDS[result.verdict], result.verdict, detail, more)


def signature_of(evidence: Evidence, signature: Signature) -> Said:
    """The state of the trace's signature."""
    kind, detail = {
        Standing.VERIFIED: ("good", f"The trace is byte for byte what {signature.signer} signed."),
        Standing.BAD: ("bad", f"{signature.why}."),
        Standing.UNSIGNED: ("warn", "Nothing shows that the trace is unchanged."),
        Standing.UNCHECKED: ("warn", "There is a signature; give --key or --signers to check it."),
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
        facts["key named in it"] = signature.key
    if signature.standing in {Standing.VERIFIED, Standing.UNCHECKED}:
        principal = "IDENTITY"
        facts["to check it with stock OpenSSH"] = (
            f"ssh-keygen -Y verify -f ALLOWED_SIGNERS -I {principal} -n {NAMESPACE} "
            f"-s {shlex.quote(signature.path)} < {shlex.quote(evidence.path)}"
        )
    verified, not_verified = [], []
    if signature.standing is Standing.VERIFIED:
        verified.append(
            f"The signature over the whole file by {signature.key}: no byte was changed, added or removed since."
        )
    else:
        not_verified.append("That the file is complete and unchanged: its owner could have rewritten it.")
    if evidence.judged and evidence.header is not None:
        verified.append("The hash chain: each line carries the SHA-256 of the line before it.")
    else:
        not_verified.append("The hash chain to the end: see the first bad line above.")
    not_verified.append(
        "When the signature was made, and whether the signer observed the run: a signature has no trusted time."
    )
    return Said(
        kind, signature.standing, detail, {"facts": facts, "verified": verified, "not_verified": not_verified}
    )


def model_of(evidence: Evidence, check: ModelCheck | None) -> Said:
    """The model checker's result for the trace's spec, if one was given."""
    none: dict[str, Any] = {"check": None}
    if evidence.header is None:
        return Said("warn", "not verified", "The trace does not name its spec.", none)
    spec = evidence.header.spec
    if check is None:
        how = "No result was given; save one with engine check --mutants --json > check.json, and give it with --check."
        return Said("warn", "not verified", how, none)
    if check.said.spec != spec:
        other = f"is of the spec {check.said.spec}" if check.said.spec else "does not name its spec"
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
            "mutants": f"{check.killed} of {len(said.mutants)} caught" if said.mutants else "none were tried",
            "checker": f"{said.tlc}, {said.java}",
            "SHA-256 of tla2tools.jar": said.jar.sha256,
            "result, not checked again, from": f"{check.path}, SHA-256 {check.sha256}",
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
        return Said("bad", "not verified", f"Of this spec, but: {shortfalls[0]}.", more)
    detail = (
        f"Of this spec: {len(check.properties)} properties hold in {check.distinct:,} distinct states; "
        f"all {len(said.mutants)} mutants are caught."
    )
    return Said("good", "verified", detail, more)


def _coverage(check: ModelCheck) -> str:
    if check.said.gaps is None:
        return "not checked: only some models were run"
    if check.said.gaps:
        return f"{len(check.said.gaps)} parts of the spec were never reached"
    return f"every part of {len(check.actions)} actions was reached"
