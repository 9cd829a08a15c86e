"""Published guidance: what the controls of a run show of it, and what they do not cover."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from engine.audit.controls import Control, Status
from engine.options import Network
from engine.verify.evidence import Evidence, Outcome

NIST = "NIST SP 800-190"

CIS = "CIS Docker Benchmark v1.6.0"


class Coverage(StrEnum):
    """How far a run meets a section."""

    MET = "met by this run"
    PARTLY = "partly"
    NOT_MET = "not met"
    NOT_SHOWN = "not shown: no container ran"
    NOT_COVERED = "not covered"


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a guide: what this run shows of it through `controls` (their keys), and what it does not."""

    guide: str
    section: str
    asks: str
    coverage: Coverage
    shows: str
    lacks: str
    controls: tuple[str, ...] = ()


def matrix(evidence: Evidence, found: Sequence[Control], *, is_signed: bool) -> list[Section]:
    """The sections that this run's controls address. `is_signed`: the trace's signature was verified."""
    ran = evidence.outcome is Outcome.HANDED_OFF
    held = {control.key: control.status is Status.HELD for control in found}
    network = evidence.facts["header"]["options"]["network"] if evidence.header is not None else None

    def partly(*keys: str) -> Coverage:
        if not ran:
            return Coverage.NOT_SHOWN
        return Coverage.PARTLY if all(held[key] for key in keys) else Coverage.NOT_MET

    egress = {Network.NONE: Coverage.MET, Network.SANDBOX: Coverage.NOT_COVERED}.get(
        Network(network) if network in set(Network) else Network.HOST, Coverage.NOT_MET
    )
    separate = Coverage.MET if network in {Network.NONE, Network.SANDBOX} else Coverage.NOT_MET
    signed = "signed" if is_signed else "not shown to be signed"
    return [
        Section(
            NIST,
            "4.4.1",
            "Vulnerabilities within the runtime software",
            partly("staged"),
            "The SHA-256 of the runsc that ran: the runs of a vulnerable build can be found.",
            "Watching for vulnerabilities and updating runsc.",
            ("trusted", "staged"),
        ),
        Section(
            NIST,
            "4.4.2",
            "Unbounded network access from containers",
            egress if ran else Coverage.NOT_SHOWN,
            f"The run's network: {network or 'not known'}.",
            "Filtering or monitoring traffic, if there is a network.",
            ("network",),
        ),
        Section(
            NIST,
            "4.4.3",
            "Insecure container runtime configurations",
            partly("arguments"),
            "runsc's arguments and environment are fixed and recorded, and so is what config.json asks for.",
            "Whether these settings are what the container needs; SELinux or AppArmor profiles.",
            ("arguments", "unchanged"),
        ),
        Section(
            NIST,
            "4.4.5",
            "Rogue containers",
            partly("unchanged"),
            f"A record of this container's creation: user id, time, bundle; it is {signed}.",
            "The person behind the user id; containers started without the engine; checks of the image.",
            ("unchanged", "arguments"),
        ),
        Section(
            NIST,
            "4.5.2",
            "Shared kernel",
            partly("arguments"),
            "gVisor's Sentry, not the host's kernel, handles the container's system calls: it lowers risk 3.5.2.",
            "The countermeasure itself: separate hosts for containers and for other workloads.",
            ("arguments",),
        ),
        Section(
            NIST,
            "4.5.5",
            "Host OS file system tampering",
            Coverage.NOT_MET
            if ran and "writable_system" in _grants(evidence)
            else partly("trusted", "private", "staged"),
            "Other users of the host cannot write the runtime's binary and state.",
            _given_of_the_host(evidence),
            ("trusted", "private", "staged"),
        ),
        Section(
            CIS,
            "5.10",
            "The host's network namespace is not shared",
            separate if ran else Coverage.NOT_SHOWN,
            f"The run's network: {network or 'not known'}.",
            "Nothing: this is the whole recommendation.",
            ("network",),
        ),
    ]


def _grants(evidence: Evidence) -> Sequence[str]:
    return () if evidence.header is None else evidence.header.bundle.get("grants", ())


def _given_of_the_host(evidence: Evidence) -> str:
    header = evidence.header
    if header is None or not isinstance(header.asked, dict):
        return "Host directories that config.json mounts into the container."
    writable = [
        mount["source"] for mount in header.asked["mounts"] if "source" in mount and mount["writable"]
    ]
    if not writable:
        return "No file or directory of the host can be written by the container."
    return f"The container can write {len(writable)} files or directories of the host: {', '.join(writable[:5])}."


#: Sections that no control addresses: the guide, the sections, and why.
UNCOVERED: tuple[tuple[str, str, str], ...] = (
    (
        NIST,
        "4.1, 4.2, 4.3",
        "The engine starts from a bundle; images, registries and orchestrators come before it.",
    ),
    (NIST, "4.4.4", "The engine does not monitor what happens inside the container."),
    (
        NIST,
        "4.5.1, 4.5.3, 4.5.4, 4.6",
        "The operator is responsible for the host's system, users and hardware.",
    ),
    (CIS, "1, 4", "The engine checks neither the host nor how images are built."),
    (
        CIS,
        "2, 3, 6, 7, the rest of 5",
        "They concern Docker's daemon, client and swarm, which the engine does not use.",
    ),
)


#: Those that what was asked answers; an older engine did not record it.
_ASKED = (
    CIS,
    "5.2, 5.4-5.6, 5.11-5.13, 5.16-5.22, 5.26, 5.29, 5.31, 5.32",
    "Set in config.json, which an older engine did not record. The trace has its digest: check that file.",
)


def uncovered(guide: str, *, asked_is_recorded: bool) -> Iterator[tuple[str, str]]:
    """The sections of `guide` that nothing in the trace answers, and why."""
    rows = UNCOVERED if asked_is_recorded else (_ASKED, *UNCOVERED)
    return ((sections, why) for name, sections, why in rows if name == guide)
