"""The audit report of one run: what was run, which controls held, and the evidence for it.

The worst comes first: a trace that does not conform, a bad signature, then the reason of a refusal. The page says what
was not verified, and how to verify it.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from typing import Any

from engine.audit import html
from engine.audit.asked import all_of, asked_of, first, warnings
from engine.audit.asked_sections import asked_sections
from engine.audit.check_yourself import carried, checks
from engine.audit.controls import Status, controls, given_of
from engine.audit.guidance import CIS, NIST, Coverage, matrix, uncovered
from engine.audit.lifecycle_picture import lifecycle_svg
from engine.audit.model_check import ModelCheck
from engine.audit.verdicts import Said, conformance_of, model_of, signature_of
from engine.audit.walk import DiagramError, Leg, Walk
from engine.errors import EngineError
from engine.lifecycle.machine import LIFECYCLE
from engine.lifecycle.spec_graph import spec_graph
from engine.lifecycle.trusted_runsc import find_runsc
from engine.runsc.command import version
from engine.runsc.faults import fault_line
from engine.traces.move import Oom, State, Trigger
from engine.traces.schema import Refusal
from engine.verify.evidence import Evidence, Outcome, read
from engine.verify.signature import Signature, Signers, Standing, look
from engine.verify.trace_check import Verdict
from engine.verify.trace_file import SUFFIX

#: How many lines that are not evidence are shown, and how much of each.
_RAW_LINES, _RAW_CHARACTERS = 20, 2000

#: The CSS class of each status: `good`, `bad`, `warn` or `none`.
KINDS: Mapping[str, str] = {
    Status.HELD: "good",
    Status.NOT_ENFORCED: "warn",
    Status.NOT_APPLICABLE: "none",
    Status.REFUSED: "bad",
    Status.BROKEN: "bad",
    Status.NOT_REACHED: "none",
    Coverage.MET: "good",
    Coverage.PARTLY: "warn",
    Coverage.NOT_MET: "bad",
    Coverage.NOT_SHOWN: "none",
    Coverage.NOT_COVERED: "none",
}


def run_page(path: str, *, check: ModelCheck | None, signers: Signers | None) -> bytes:
    """The report of the run whose trace is the file `path`.

    `check`: result of the model checker, shown only if it is of the trace's spec. `signers`: trusted signers; without
    them the signature is not checked. Raises `ReportError` and `SpecGraphError`.
    """
    graph = spec_graph()
    evidence, content = read(path, graph)
    beside = path + SUFFIX
    signature = look(content, beside) if signers is None else signers.check(content, beside)
    found = controls(evidence)
    conformance, signed, model = (
        conformance_of(evidence, graph),
        signature_of(evidence, signature),
        model_of(evidence, check),
    )
    container = evidence.header.container if evidence.header is not None else "unknown container"
    has_asked = evidence.header is not None and asked_of(evidence.header) is not None
    files = carried(evidence, content)
    header, bad = evidence.header, evidence.first_bad_line is not None
    sections = sorted(
        [
            *matrix(evidence, found, is_signed=signature.standing is Standing.VERIFIED),
            *asked_sections(evidence),
        ],
        key=lambda section: [int(part) for part in section.section.split(".")],
    )
    return html.page(
        "run.html.j2",
        {
            "title": f"{evidence.result.verdict if bad else evidence.outcome}: {container} - audit report",
            "container": container,
            "notices": _notices(evidence, signature),
            "tiles": _tiles(evidence, conformance, signed, model),
            "first_heading": "What ran, and what it was given"
            if evidence.outcome is Outcome.HANDED_OFF
            else "What was to run, and what it was to be given",
            "first": {} if header is None else first(header, evidence.facts.get(Trigger.VALIDATE, {})),
            "warnings": [] if header is None else warnings(header),
            "subject": _subject(evidence),
            "steps": _steps(evidence),
            **_picture(evidence),
            "controls": found,
            "kinds": KINDS,
            "conformance": conformance.shown(),
            "rest": _rest(evidence),
            "signature": signed.shown(),
            "files": files,
            "checks": checks(evidence, files),
            "model": model.shown(),
            "guides": [
                {
                    "name": guide,
                    "about": about,
                    "sections": [section for section in sections if section.guide == guide],
                    "uncovered": list(uncovered(guide, asked_is_recorded=has_asked)),
                }
                for guide, about in _GUIDES
            ],
            "limits": _LIMITS,
        },
    )


_GUIDES = (
    (NIST, "Application Container Security Guide, September 2017: the countermeasures in chapter 4."),
    (CIS, "Written for Docker Engine, which is not used in a run. Only sections that apply here are mapped."),
)
_LIMITS = (
    "What happened inside the container; and how it ended, unless the run was supervised (--supervise).",
    "That the host, its kernel and its clock were honest: all times and facts come from the host.",
    "The content of the root file system, unless its digest was asked for (--root-digest).",
    "That runsc has no bugs. The trace has its digest.",
    "That there were no other runs: a run whose trace was removed leaves no gap here.",
)


def _refused(refusal: Refusal) -> str:
    reason = "" if refusal.reason is None else f": {refusal.reason}"
    return f"Refused in {refusal.step}{reason}"


def _notices(evidence: Evidence, signature: Signature) -> list[dict[str, str | None]]:
    """What the reader must know first, the worst first."""

    def notice(kind: str, title: str, what: str, hint: str | None = None) -> dict[str, str | None]:
        return {"kind": kind, "title": title, "what": what, "hint": hint}

    found = []
    result, refusal = evidence.result, evidence.refusal
    if result.verdict is Verdict.DIFFERS and result.fault is not None:
        found.append(
            notice(
                "bad",
                "This trace does not conform to the spec",
                f"Line {result.fault.line}: {result.fault.what}. Only the lines before it count as evidence below.",
            )
        )
    if signature.standing is Standing.BAD:
        found.append(notice("bad", "The signature does not verify", f"{signature.path}: {signature.why}."))
    if refusal is not None:
        found.append(notice("bad", _refused(refusal), refusal.what, refusal.hint))
    elif evidence.outcome is Outcome.HANDED_OFF:
        found.append(
            notice(
                "good" if evidence.conforms and not found else "warn",
                "Handed to runsc after every step",
                f"All six steps were recorded. {_ended(evidence)}",
            )
        )
    elif evidence.outcome is Outcome.UNFINISHED and not found:
        found.append(
            notice(
                "warn",
                f"The trace ends before {evidence.stopped_in}",
                "The engine was killed, or was still running: there is no record of how the run ended.",
            )
        )
    return found


def _ended(evidence: Evidence) -> str:
    """How the container ended, in a sentence."""
    if evidence.first_bad_line is not None:
        return f"How it went on is not known: line {evidence.first_bad_line} does not conform."
    end = evidence.ending
    if end is None:
        asked = evidence.header is not None and evidence.header.options.get("supervise")
        why = (
            "the engine that supervised it was killed, or it still ran"
            if asked
            else "nobody supervised the run"
        )
        return f"How it ended is not known: {why}."
    how = f"by signal {end['signal']}" if end["signal"] else f"with exit code {end['exit_code']}"
    memory = {
        Oom.KILLED: "the kernel killed a process of it for its memory limit",
        Oom.NONE: "nothing of it was killed for memory",
        Oom.UNKNOWN: "whether something of it was killed for memory is not known",
    }[Oom(end["oom"])]
    return f"It ended {how} after {html.duration(end['duration_ns'] / 1e9)}; {memory}."


def _tiles(evidence: Evidence, conformance: Said, signed: Said, model: Said) -> list[dict[str, str]]:
    outcome = {
        Outcome.HANDED_OFF: ("good", f"Every step of the lifecycle was recorded. {_ended(evidence)}"),
        Outcome.REFUSED: ("bad", f"in {evidence.stopped_in}, after {html.duration(evidence.seconds)}"),
        Outcome.UNFINISHED: ("warn", f"{evidence.stopped_in} was not recorded"),
        Outcome.UNKNOWN: ("bad", "The header is not reliable."),
    }[evidence.outcome]
    text: str = evidence.outcome
    if (line := evidence.first_bad_line) is not None:
        text, outcome = "not reliable", ("bad", f"From line {line} on, nothing that it says counts.")
    return [
        {
            "label": "Outcome",
            "anchor": "lifecycle",
            "kind": outcome[0],
            "text": text,
            "detail": outcome[1],
        },
        *(
            {"label": label, "anchor": anchor, "kind": said.kind, "text": said.text, "detail": said.detail}
            for label, anchor, said in (
                ("Conformance", "conformance", conformance),
                ("Signature", "tamper", signed),
                ("Model checking", "model", model),
            )
        ),
    ]


def _subject(evidence: Evidence) -> dict[str, dict[str, Any]]:
    if evidence.header is None:
        return {}
    header, facts = evidence.header, evidence.facts
    binary, staged = facts.get(Trigger.VALIDATE), facts.get(Trigger.STAGE)
    options = {name: _option(value) for name, value in header.options.items()}
    told = (
        (staged.get("version") or _version(staged["sha256"])) if staged else "not known: nothing was staged"
    )
    return {
        "Container": {
            "id": header.container,
            "started": html.when(header.time),
            "bundle": header.bundle["path"],
            "SHA-256 of config.json": header.bundle["sha256"],
            **given_of(facts.get(Trigger.EXEC)),
            "root file system": header.bundle["rootfs"],
            "hooks (run on the host)": str(header.bundle["hooks"]),
        },
        "What was asked": all_of(header),
        "runsc": {
            "path": binary["path"] if binary else "not validated",
            "SHA-256 of the staged copy": staged["sha256"] if staged else "not staged",
            "version": told,
            "known faults of that version": fault_line((binary and binary.get("release")) or told),
            "platform": f"{binary['platform']}, of {', '.join(binary['platforms'])}"
            if binary
            else "not chosen",
        },
        "Options": options,
        "Host and engine": {
            "host": header.host.get("name", "not recorded"),
            "boot": header.host.get("boot") or "not recorded",
            "kernel": f"{header.host['kernel']}, {header.host['machine']}",
            "effective user": f"uid {header.host['user']}",
            "login user": f"uid {login}" if (login := header.host.get("login_user", -1)) >= 0 else "unknown",
            "engine": f"gvisor-engine {header.engine}",
            "SHA-256 of the spec": header.spec,
        },
    }


def _option(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not given" if value is None else str(value)


def _version(digest: str) -> str:
    """The version of the runsc with that digest, if this machine's trusted runsc has it. No other is executed."""
    try:
        binary = find_runsc(None, os.environ)
    except EngineError:
        return "not recorded, and this machine has no trusted runsc to compare with; use the digest"
    try:
        with open(binary.runsc.descriptor, "rb", closefd=False) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return "not recorded, and this machine's runsc is a different one; use the digest"
        first = version(binary.runsc.descriptor, binary.runsc.path).splitlines()[0]
    except (EngineError, OSError, IndexError):
        return "not recorded, and this machine's runsc, with the same digest, does not print one"
    else:
        return f"{first} (from {binary.runsc.path} here, which has the same digest)"
    finally:
        binary.close()


def _steps(evidence: Evidence) -> list[list[str]]:
    moments = {moment.record.trigger: moment for moment in evidence.moments}
    rows = []
    for row in LIFECYCLE:
        if row.trigger is Trigger.REFUSE or (row.trigger is Trigger.END and row.trigger not in moments):
            continue
        moment = moments.get(row.trigger)
        came = "established: " + row.establishes if moment else "not reached"
        if evidence.refusal is not None and evidence.stopped_in is row.trigger:
            moment = moment or moments.get(Trigger.REFUSE)
            came = "REFUSED: " + evidence.refusal.what
        elif moment is None and evidence.stopped_in is row.trigger:
            line = evidence.first_bad_line
            came = (
                "not recorded from here on" if line is None else f"NOT RELIABLE: line {line} does not conform"
            )
        rows.append(
            [
                row.trigger,
                f"{row.sources[0]} → {row.target}",
                came,
                moment.record.time.strftime("%H:%M:%S.%f") if moment else "",
                html.duration(moment.seconds) if moment else "",
            ]
        )
    return rows


def _picture(evidence: Evidence) -> dict[str, str | None]:
    """The lifecycle with the run's path, as an image: nothing in it can become markup."""
    try:
        drawn = lifecycle_svg(_walk(evidence)).encode()
    except DiagramError as error:
        return {
            "picture": None,
            "no_picture": f"No picture: {error.what}. The table has the same content.",
        }
    return {
        "picture": f"data:image/svg+xml;base64,{base64.b64encode(drawn).decode()}",
        "no_picture": None,
    }


def _walk(evidence: Evidence) -> Walk | None:
    """The reliable part of the run for the picture; None if it contains moves that the table does not have."""
    header, refusal = evidence.header, evidence.refusal
    if header is None or evidence.result.verdict is Verdict.OTHER_SPEC:
        return None
    legs = [
        Leg(State(move.state), Trigger(move.trigger), State(move.next), seconds)
        for move, seconds in ((moment.record, moment.seconds) for moment in evidence.moments)
    ]
    doubt = None if evidence.judged else str(evidence.result.fault)
    return Walk(
        header.container, header.engine, header.spec, tuple(legs), refusal, doubt, evidence.first_bad_line
    )


def _rest(evidence: Evidence) -> dict[str, Any]:
    first = (evidence.header is not None) + len(evidence.moments) + 1
    shown = [line.decode(errors="backslashreplace")[:_RAW_CHARACTERS] for line in evidence.rest[:_RAW_LINES]]
    return {"first": first, "count": len(evidence.rest), "shown": shown, "limit": _RAW_CHARACTERS}
