"""The controls that stood between a container and the host, each with what the trace recorded of it.

A control holds when its step was recorded and the machine's guards, asked again, permit it. The matrix maps them to
published guidance, and says as plainly what they do not cover.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from engine.audit.evidence import Evidence, Outcome
from engine.lifecycle.machine import LIFECYCLE, Facts, PolicyOutcome, Trigger
from engine.options import Network


class Status(StrEnum):
    """What the trace shows of a control."""

    HELD = "held"
    NOT_ENFORCED = "not enforced"
    NOT_APPLICABLE = "not applicable"
    REFUSED = "refused the run"
    BROKEN = "not permitted by the facts"
    NOT_REACHED = "not reached"


#: A fact as it is shown: one value, a list of them, or a table (its first row is the head).
Shown = str | Sequence[str] | Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Control:
    """One control: what it ensures, whether it held, and the evidence for that, by label."""

    key: str
    title: str
    trigger: Trigger
    ensures: str
    status: Status
    evidence: Mapping[str, Shown]
    note: str | None = None


@dataclass(frozen=True, slots=True)
class _Control:
    key: str
    title: str
    trigger: Trigger
    ensures: str
    show: Callable[[Facts, Facts], Mapping[str, Shown]]
    status: Callable[[Facts, Facts], tuple[Status, str | None]] = lambda _facts, _header: (Status.HELD, None)
    #: Those of the step's guards that belong to this control; None for all.
    guards: frozenset[str] | None = None


def controls(evidence: Evidence) -> list[Control]:
    """Every control, in the order of the lifecycle."""
    return [_judge(control, evidence) for control in _CONTROLS]


def _judge(control: _Control, evidence: Evidence) -> Control:
    def judged(status: Status, shown: Mapping[str, Shown], note: str | None = None) -> Control:
        return Control(control.key, control.title, control.trigger, control.ensures, status, shown, note)

    facts = evidence.facts.get(control.trigger)
    refusal = evidence.refusal
    if facts is None:
        if refusal is not None and evidence.stopped_in is control.trigger and control.guards != frozenset():
            return judged(
                Status.REFUSED,
                {"reason": refusal.reason or "not recorded", "what": refusal.what, "hint": refusal.hint},
            )
        return judged(Status.NOT_REACHED, {})
    header = evidence.facts["header"]
    shown = control.show(facts, header)
    for row in LIFECYCLE:
        for guard in row.guards if row.trigger is control.trigger else ():
            if (control.guards is None or guard.name in control.guards) and not _holds(guard.holds, evidence):
                return judged(Status.BROKEN, shown, f"{guard.otherwise} (guard {guard.name})")
    if control.trigger is Trigger.EXEC and refusal is not None:
        return judged(Status.REFUSED, shown, refusal.what)
    status, note = control.status(facts, header)
    return judged(status, shown, note)


def _holds(guard: Callable[[Mapping[str, Facts]], bool], evidence: Evidence) -> bool:
    try:
        return guard(evidence.facts)
    except (LookupError, ValueError, TypeError):
        return False


# -- What is shown of each step ---------------------------------------------------------------------------------------


def _resolve(facts: Facts, _: Facts) -> Mapping[str, Shown]:
    return {"path": facts["path"], "found by": facts["found_by"]}


def _validate(facts: Facts, _: Facts) -> Mapping[str, Shown]:
    identity = facts["identity"]
    return {
        "path, free of links": facts["path"],
        "wrapper it was unwrapped from": facts["wrapper"] or "none",
        "owner": _user(facts["owner"]),
        "mode": facts["mode"],
        "owners that are trusted": ", ".join(_user(user) for user in facts["trusted_owners"]),
        "immutable store": _yes(facts["immutable_store"]),
        "identity": f"device {identity['device']}, inode {identity['inode']}, {_bytes(identity['size'])}",
        "changed (ctime)": f"{identity['ctime_ns']} ns since 1970",
    }


def _secure_root(facts: Facts, _: Facts) -> Mapping[str, Shown]:
    rows = [("directory", "owner", "mode", "made by this run")]
    rows += [
        (directory["path"], _user(directory["owner"]), directory["mode"], _yes(directory["created"]))
        for directory in facts["directories"]
    ]
    joined = facts.get("sandbox")
    if joined is not None:
        rows += [
            (directory["path"], _user(directory["owner"]), directory["mode"], _yes(directory["created"]))
            for directory in joined["directories"]
        ]
    return {
        "effective user": _user(facts["user"]),
        "directories": rows,
        **({"sandbox joined": joined["id"]} if joined is not None else {}),
        "lock held": facts["lock"],
        "left by an earlier run, removed": facts["cleaned"] or "nothing",
    }


def _stage(facts: Facts, _: Facts) -> Mapping[str, Shown]:
    return {
        "copy": facts["path"],
        "SHA-256": facts["sha256"],
        "which comes from": "this run's own reading"
        if facts["hashed"]
        else "the record of an earlier run of the same user",
        "bytes": "compared with the source, one by one"
        if facts["compared"]
        else ("those of an earlier run's copy" if facts["from_store"] else "copied from the source"),
        "size": _bytes(facts["size"]),
        "mode": facts["mode"],
        "source after the last byte": f"device {facts['pinned']['device']}, inode {facts['pinned']['inode']}, "
        f"ctime {facts['pinned']['ctime_ns']} ns",
    }


def _policy(facts: Facts, header: Facts) -> Mapping[str, Shown]:
    return {
        "outcome": facts["outcome"],
        "mechanism": facts["mechanism"] or "none",
        "strength": facts["strength"] or "none",
        "may be executed": facts["allowed"] or "not restricted",
        "ways left open": facts["open"] or "none listed",
        "ids of the supervisor": facts["ids"] or "the caller's",
        "reason": facts["reason"] or "none given",
        "required": _yes(header["options"]["require_exec_policy"]),
    }


def _bundle(facts: Facts, header: Facts) -> Mapping[str, Shown]:
    before, after = header["bundle"], facts["bundle"]
    return {
        "SHA-256 of config.json, before": before["sha256"],
        "and right before the hand-off": after["sha256"],
        "root file system": after["rootfs"],
        "hooks, which run on the host": str(after["hooks"]),
    }


def _argv(facts: Facts, _: Facts) -> Mapping[str, Shown]:
    variables = [("variable", "value"), *facts["environment"].items()]
    return {"arguments": facts["argv"], "whole environment": variables}


def _network(_facts: Facts, header: Facts) -> Mapping[str, Shown]:
    return {"network": header["options"]["network"]}


def _policy_status(facts: Facts, _: Facts) -> tuple[Status, str | None]:
    return {
        PolicyOutcome.ENFORCED: (Status.HELD, None),
        PolicyOutcome.UNAVAILABLE: (
            Status.NOT_ENFORCED,
            "Nothing limits what a supervisor that was broken out of may execute on the host.",
        ),
        PolicyOutcome.NOT_APPLICABLE: (Status.NOT_APPLICABLE, "It concerns rootless runs only."),
    }[PolicyOutcome(facts["outcome"])]


def _bundle_status(_facts: Facts, header: Facts) -> tuple[Status, str | None]:
    if hooks := header["bundle"]["hooks"]:
        return Status.HELD, f"{hooks} hooks of the bundle run on the host, outside the sandbox."
    return (
        Status.HELD,
        "runsc opens the bundle by its path: until it does, whoever may write there can change it.",
    )


def _network_status(_facts: Facts, header: Facts) -> tuple[Status, str | None]:
    return {
        Network.NONE: (Status.HELD, "Only a loopback device inside."),
        Network.SANDBOX: (
            Status.NOT_APPLICABLE,
            "gVisor's own network stack; nothing here restricts what it reaches.",
        ),
        Network.HOST: (Status.NOT_ENFORCED, "The container shares the host's network."),
    }.get(
        header["options"]["network"], (Status.NOT_ENFORCED, "The recorded network is not one that is known.")
    )


_CONTROLS: tuple[_Control, ...] = (
    _Control(
        "resolved",
        "runsc comes from a trusted place",
        Trigger.RESOLVE,
        "The runtime is the one that was asked for, or from a trusted system path; root never searches PATH.",
        _resolve,
    ),
    _Control(
        "trusted",
        "Nobody untrusted could have written the binary",
        Trigger.VALIDATE,
        "A regular, executable file that group and others cannot write, of a trusted owner, on a path that only "
        "trusted users can rewrite. It is held open from here on.",
        _validate,
    ),
    _Control(
        "private",
        "The state directories are private",
        Trigger.SECURE_ROOT,
        "Each is a directory of the effective user with mode 0700, reached without following a link.",
        _secure_root,
    ),
    _Control(
        "staged",
        "What runs is the bytes that were judged",
        Trigger.STAGE,
        "A private copy with mode 0500, read by this run or an earlier one from the file that was held open, which had "
        "not changed at the last byte.",
        _stage,
    ),
    _Control(
        "policy",
        "The supervisor executes only what is allowed",
        Trigger.APPLY_POLICY,
        "Rootless: a supervisor that was broken out of cannot execute the host's programs.",
        _policy,
        _policy_status,
    ),
    _Control(
        "unchanged",
        "The bundle is the one that was validated",
        Trigger.EXEC,
        "config.json and the root file system's directory are looked at again right before the hand-off. The contents "
        "of the root file system are not hashed.",
        _bundle,
        _bundle_status,
        guards=frozenset({"bundle_is_unchanged"}),
    ),
    _Control(
        "arguments",
        "runsc is given exact arguments, and nothing of the caller's environment",
        Trigger.EXEC,
        "execve is given the descriptor of the staged copy, these arguments and these variables.",
        _argv,
        guards=frozenset({"executes_the_staged_copy"}),
    ),
    _Control(
        "network",
        "The container's network is cut off",
        Trigger.EXEC,
        "With network none there is nothing to reach from inside.",
        _network,
        _network_status,
        guards=frozenset(),
    ),
)


def _user(uid: int) -> str:
    return f"uid {uid} (root)" if uid == 0 else f"uid {uid}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _bytes(size: int) -> str:
    return f"{size:,} bytes"


# -- The matrix -------------------------------------------------------------------------------------------------------

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
