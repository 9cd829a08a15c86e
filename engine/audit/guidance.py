"""Published guidance: what a run's controls show of it, and as plainly what they do not cover."""

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
    """How far a run goes towards what a section asks for."""

    MET = "met by this run"
    PARTLY = "partly"
    NOT_MET = "not met"
    NOT_SHOWN = "not shown: no container ran"
    NOT_COVERED = "not covered"


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a guide, what of it this run shows through `controls` (their keys), and what it does not."""

    guide: str
    section: str
    asks: str
    coverage: Coverage
    shows: str
    lacks: str
    controls: tuple[str, ...] = ()


def matrix(evidence: Evidence, found: Sequence[Control], *, is_signed: bool) -> list[Section]:
    """The sections that the controls of this run speak to. `is_signed`: its trace's signature was verified."""
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
            "The SHA-256 of the very runsc that ran, so the runs of a vulnerable build can be found.",
            "Watching for vulnerabilities and updating runsc.",
            ("trusted", "staged"),
        ),
        Section(
            NIST,
            "4.4.2",
            "Unbounded network access from containers",
            egress if ran else Coverage.NOT_SHOWN,
            f"The run's network: {network or 'not known'}.",
            "Filtering or watching traffic, where there is a network.",
            ("network",),
        ),
        Section(
            NIST,
            "4.4.3",
            "Insecure container runtime configurations",
            partly("arguments"),
            "runsc's arguments and environment are fixed and recorded; so is the digest of config.json.",
            "What config.json asks for (capabilities, mounts, seccomp); profiles of SELinux or AppArmor.",
            ("arguments", "unchanged"),
        ),
        Section(
            NIST,
            "4.4.5",
            "Rogue containers",
            partly("unchanged"),
            f"A record of this container's creation: user id, time, bundle; it is {signed}.",
            "Who is behind the user id; containers that were started without the engine; checks of the image.",
            ("unchanged", "arguments"),
        ),
        Section(
            NIST,
            "4.5.2",
            "Shared kernel",
            partly("arguments"),
            "gVisor's Sentry, not the host's kernel, answers the container's system calls: less of risk 3.5.2.",
            "The countermeasure itself, to keep containers and other workloads on different hosts.",
            ("arguments",),
        ),
        Section(
            NIST,
            "4.5.5",
            "Host OS file system tampering",
            partly("trusted", "private", "staged"),
            "The runtime's binary and state cannot be written by other users of the host.",
            "The host's directories that config.json may mount into the container.",
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


#: What nothing here speaks to: the guide, its sections, and why.
UNCOVERED: tuple[tuple[str, str, str], ...] = (
    (
        NIST,
        "4.1, 4.2, 4.3",
        "Images, registries and orchestrators come before the engine, which is given a bundle.",
    ),
    (NIST, "4.4.4", "What happens inside the container is not watched."),
    (NIST, "4.5.1, 4.5.3, 4.5.4, 4.6", "The host's system, its users and its hardware are the operator's."),
    (
        CIS,
        "5.4-5.6, 5.11-5.13, 5.16-5.22, 5.26, 5.29, 5.31, 5.32",
        "Decided by the bundle's config.json, of which the trace has the digest: look into the file that has it.",
    ),
    (CIS, "1, 4", "The host and the building of images are not looked at."),
    (
        CIS,
        "2, 3, 6, 7, the rest of 5",
        "They are about Docker's daemon, client and swarm, which are not used.",
    ),
)


def uncovered(guide: str) -> Iterator[tuple[str, str]]:
    """The sections of `guide` that nothing here speaks to, and why."""
    return ((sections, why) for name, sections, why in UNCOVERED if name == guide)
