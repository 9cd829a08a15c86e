"""The security controls of a run, each with the evidence in the trace.

A control holds if its step was recorded and the machine's guards, evaluated again, accept what was recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from engine.bundle.grant_codes import CODES
from engine.lifecycle.machine import LIFECYCLE
from engine.options import Network
from engine.traces.move import Facts, PolicyOutcome, Trigger
from engine.verify.evidence import Evidence


class Status(StrEnum):
    """What the trace shows of a control."""

    HELD = "held"
    NOT_ENFORCED = "not enforced"
    NOT_APPLICABLE = "not applicable"
    REFUSED = "refused the run"
    BROKEN = "contradicted by the facts"
    NOT_REACHED = "not reached"


#: A fact in a report: one value, a list, or a table whose first row is the header.
Shown = str | Sequence[str] | Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Control:
    """One control: what it ensures, its status, and the evidence by label."""

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
    #: The step's guards that belong to this control; None for all.
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


# -- Evidence of each step --------------------------------------------------------------------------------------------


def _resolve(facts: Facts, _: Facts) -> Mapping[str, Shown]:
    return {"path": facts["path"], "found by": facts["found_by"]}


def _validate(facts: Facts, _: Facts) -> Mapping[str, Shown]:
    sidecars = [("path", "owner", "mode", "identity", "changed (ctime)")]
    sidecars += [
        (
            file["path"],
            _user(file["owner"]),
            file["mode"],
            _identity(file["identity"]),
            f"{file['identity']['ctime_ns']} ns since 1970",
        )
        for file in facts.get("sidecars", ())
    ]
    return {
        "path without symbolic links": facts["path"],
        "wrapper script": facts["wrapper"] or "none",
        "owner": _user(facts["owner"]),
        "mode": facts["mode"],
        "trusted owners": ", ".join(_user(user) for user in facts["trusted_owners"]),
        "immutable store": _yes(facts["immutable_store"]),
        "identity": _identity(facts["identity"]),
        "changed (ctime)": f"{facts['identity']['ctime_ns']} ns since 1970",
        **(
            {"sidecars": sidecars, "release": facts.get("release") or "not recorded"}
            if "sidecars" in facts
            else {}
        ),
    }


def _secure_root(facts: Facts, _: Facts) -> Mapping[str, Shown]:
    rows = [("directory", "owner", "mode", "created by this run")]
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
        "leftovers of an earlier run, removed": facts["cleaned"] or "nothing",
    }


def _stage(facts: Facts, _: Facts) -> Mapping[str, Shown]:
    copy = _copy(facts)
    sidecars = [tuple(copy)]
    sidecars += [tuple(_copy(file).values()) for file in facts.get("sidecars", ())]
    return {**copy, **({"sidecars": sidecars} if "sidecars" in facts else {})}


def _copy(facts: Facts) -> dict[str, str]:
    """What is shown of one staged file."""
    return {
        "copy": facts["path"],
        "SHA-256": facts["sha256"],
        "SHA-256 computed by": "this run" if facts["hashed"] else "an earlier run of the same user",
        "content": "compared with the source, byte by byte"
        if facts["compared"]
        else ("the copy of an earlier run" if facts["from_store"] else "copied from the source"),
        "size": _bytes(facts["size"]),
        "mode": facts["mode"],
        "source after copying": f"device {facts['pinned']['device']}, inode {facts['pinned']['inode']}, "
        f"ctime {facts['pinned']['ctime_ns']} ns",
    }


def _policy(facts: Facts, header: Facts) -> Mapping[str, Shown]:
    return {
        "outcome": facts["outcome"],
        "mechanism": facts["mechanism"] or "none",
        "strength": facts["strength"] or "none",
        "executable paths": facts["allowed"] or "not restricted",
        "remaining bypasses": facts["open"] or "none listed",
        "uids of the supervisor": facts["ids"] or "the caller's",
        "reason": facts["reason"] or "none given",
        "required": _yes(header["options"]["require_exec_policy"]),
    }


def given_of(handed_off: Facts | None) -> Mapping[str, Shown]:
    """What runsc was given in the place of the caller's config.json, by the facts of `exec`, if there are any."""
    given = None if handed_off is None else handed_off.get("config")
    if given is None:
        return {}
    changes = given.get("changes", {})
    said = [f"root.path: {changes['root_path']}"] if "root_path" in changes else []
    if "mount_sources" in changes:
        said.append(f"sources of bind mounts made absolute: {changes['mount_sources']}")
    said += [f"annotation added: {name} = {value}" for name, value in changes.get("annotations", {}).items()]
    return {
        "SHA-256 of config.json as given to runsc": given["sha256"],
        "changed in it by the engine": said or "nothing",
    }


def _bundle(facts: Facts, header: Facts) -> Mapping[str, Shown]:
    before, after = header["bundle"], facts["bundle"]
    return {
        "SHA-256 of config.json, before": before["sha256"],
        "SHA-256 of config.json, at hand-off": after["sha256"],
        **given_of(facts),
        "root file system": after["rootfs"],
        "hooks (run on the host)": str(after["hooks"]),
        "grants that deserve a word": [f"{code}: {CODES[code]}" for code in after.get("grants", ())]
        or "none",
        "annotations for runsc": [("annotation", "value"), *hints.items()]
        if (hints := after.get("hints"))
        else "none",
    }


def _argv(facts: Facts, _: Facts) -> Mapping[str, Shown]:
    variables = [("variable", "value"), *facts["environment"].items()]
    return {"arguments": facts["argv"], "environment": variables}


def _network(_facts: Facts, header: Facts) -> Mapping[str, Shown]:
    return {"network": header["options"]["network"]}


def _policy_status(facts: Facts, _: Facts) -> tuple[Status, str | None]:
    return {
        PolicyOutcome.ENFORCED: (Status.HELD, None),
        PolicyOutcome.UNAVAILABLE: (
            Status.NOT_ENFORCED,
            "After an escape into the supervisor, any program of the host can be executed.",
        ),
        PolicyOutcome.NOT_APPLICABLE: (Status.NOT_APPLICABLE, "Applies to rootless runs only."),
    }[PolicyOutcome(facts["outcome"])]


def _bundle_status(_facts: Facts, header: Facts) -> tuple[Status, str | None]:
    if hooks := header["bundle"]["hooks"]:
        return Status.HELD, f"{hooks} hooks of the bundle run on the host, outside the sandbox."
    return (
        Status.HELD,
        "runsc opens the bundle by path: until then, anyone who can write there can change it.",
    )


def _network_status(_facts: Facts, header: Facts) -> tuple[Status, str | None]:
    return {
        Network.NONE: (Status.HELD, "The container has only a loopback device."),
        Network.SANDBOX: (
            Status.NOT_APPLICABLE,
            "gVisor's network stack is used; the engine does not restrict what it reaches.",
        ),
        Network.HOST: (Status.NOT_ENFORCED, "The container shares the host's network."),
    }.get(header["options"]["network"], (Status.NOT_ENFORCED, "The recorded network is unknown."))


_CONTROLS: tuple[_Control, ...] = (
    _Control(
        "resolved",
        "runsc comes from a trusted place",
        Trigger.RESOLVE,
        "runsc is the requested one, or comes from a trusted system path. Root never searches PATH.",
        _resolve,
    ),
    _Control(
        "trusted",
        "Only trusted users could have written the binary",
        Trigger.VALIDATE,
        "The binary is a regular, executable file of a trusted owner, and so is each program that it starts from "
        "gvisor-bin. Group and others cannot write them, and only trusted users can change their paths. They stay open "
        "from this check on.",
        _validate,
    ),
    _Control(
        "private",
        "The state directories are private",
        Trigger.SECURE_ROOT,
        "Each directory belongs to the effective user, has mode 0700, and is opened without following links.",
        _secure_root,
    ),
    _Control(
        "staged",
        "The binary that runs is the one that was validated",
        Trigger.STAGE,
        "runsc and each of its sidecars is a copy with mode 0555 in a private directory. This run or an earlier one "
        "made it from the open file, which was unchanged after the last byte was read.",
        _stage,
    ),
    _Control(
        "policy",
        "The supervisor can execute only allowed programs",
        Trigger.APPLY_POLICY,
        "In a rootless run, an escape into the supervisor cannot execute the host's programs.",
        _policy,
        _policy_status,
    ),
    _Control(
        "unchanged",
        "The bundle is the one that was validated",
        Trigger.EXEC,
        "config.json and the root file system's directory are checked again right before the hand-off. The content "
        "of the root file system is not hashed.",
        _bundle,
        _bundle_status,
        guards=frozenset({"bundle_is_unchanged"}),
    ),
    _Control(
        "arguments",
        "runsc gets fixed arguments and none of the caller's environment",
        Trigger.EXEC,
        "execve gets the descriptor of the staged copy, these arguments and these variables.",
        _argv,
        guards=frozenset({"executes_the_staged_copy", "arguments_are_the_engines"}),
    ),
    _Control(
        "network",
        "The container has no network",
        Trigger.EXEC,
        "With network none the container can reach nothing.",
        _network,
        _network_status,
        guards=frozenset(),
    ),
)


def _user(uid: int) -> str:
    return f"uid {uid} (root)" if uid == 0 else f"uid {uid}"


def _identity(identity: Facts) -> str:
    return f"device {identity['device']}, inode {identity['inode']}, {_bytes(identity['size'])}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _bytes(size: int) -> str:
    return f"{size:,} bytes"
