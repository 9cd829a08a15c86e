"""What each step would record in a state of the spec: the one mapping from the spec's variables to recorded facts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from engine.options import ExecPolicy, Network, Platform
from engine.runsc.arguments import RUN, build_environment, global_flags
from engine.runsc.installation import RUNSC, SENTRY, SIDECARS
from engine.state.container import EXEC_ALLOW, GIVEN_BUNDLE, LOCK, RUNSC_ROOT, RUNTIME, component
from engine.traces.move import Facts, PolicyOutcome, Strength, Trigger
from tools.conformance.moment import Moment, PartMoment

#: None of the trusted paths: on these the guard allows one owner more, and the spec has no such owner.
_FOLDER = "/vendor/bin"
_PROGRAM = f"{_FOLDER}/{RUNSC}"
_RELEASE = "release-20260914.0"

_CONTAINER, _BUNDLE, _PLATFORM = "web", "/bundle", "systrap"
_STATE = f"/base/{component(_CONTAINER)}"
_OWN = f"{_STATE}/{RUNSC_ROOT}"
_PLACES = ("/base", _STATE, _OWN, f"{_OWN}/{RUNTIME}")

_APART = "/programs"
_SIZE = 1 << 20

_COPIES = {"base": f"{_OWN}/{EXEC_ALLOW}/stage-1/runsc", "apart": f"{_APART}/stage-1/runsc"}

_ROOT, _CALLER, _STRANGER = 0, 1000, 12345


class StepRefusesError(Exception):
    """The step itself raises: what is wrong is nothing that it records, so no guard can see it."""


class NotYetError(Exception):
    """The step is not over: another move of it, which leaves the run where it is, comes first."""


def _user(now: Moment) -> int:
    return _ROOT if now.as_root else _CALLER


def _bundle(sha256: str) -> Facts:
    return {"sha256": sha256, "path": _BUNDLE, "rootfs": f"{_BUNDLE}/rootfs"}


def header_of(now: Moment) -> Facts:
    return {
        "container": _CONTAINER,
        "options": {
            "rootless": now.rootless,
            "require_exec_policy": now.required,
            "exec_policy": str(ExecPolicy.AUTO if now.wanted else ExecPolicy.OFF),
            "runsc": _PROGRAM if now.found_by == "option" else None,
            "network": str(Network.NONE),
            "platform": str(Platform.AUTO),
            "ignore_cgroups": False,
        },
        "bundle": _bundle("as_validated"),
        "host": {"user": _user(now)},
    }


def _resolve(now: Moment, _: Moment | None) -> Facts:
    return {"path": "" if now.runsc.path == "absent" else _PROGRAM, "found_by": now.found_by}


#: The inode of each file, by its names.
_INODES: dict[tuple[str, str], int] = {}


def _identity(file: str, part: PartMoment) -> Facts:
    """Only the vendor's file is ever written anew; each other one is a file of its own."""
    written = int(part.rewritten and file == "vendor")
    inode = _INODES.setdefault((part.name, file), len(_INODES) + 1)
    return {"device": 1, "inode": inode, "size": _SIZE, "ctime_ns": written}


#: How the facts of a file that must be refused differ from those of one that may be trusted.
_FAULTS: Mapping[str, Facts] = {
    "not_a_program": {"mode": "0644"},
    "loose_mode": {"mode": "0777"},
    "foreign_owner": {"owner": _STRANGER},
}


def _validate(now: Moment, _: Moment | None) -> Facts:
    if any(part.path in {"absent", "loose_chain"} for part in now.parts):
        raise StepRefusesError  # the walk to the file is judged and not recorded
    if {"vendor", "other"} <= {part.path for part in now.parts}:
        raise StepRefusesError  # so is what release a file says that it is of
    facts = {
        **_judged(now.runsc),
        "path": _PROGRAM,
        "wrapper": None,
        "trusted_owners": sorted({_ROOT, _user(now)}),
        "immutable_store": False,
        "platforms": [_PLATFORM],
        "platform": _PLATFORM,
        "starts_sidecars": bool(now.sidecars),
    }
    sidecars = [
        {"name": name, "path": f"{_FOLDER}/{SIDECARS}/{name}", **_judged(part)} for name, part in _named(now)
    ]
    return {**facts, "release": _RELEASE, "sidecars": sidecars} if sidecars else facts


def _named(now: Moment) -> list[tuple[str, PartMoment]]:
    """The sidecars by their names in an installation; the spec's `sentry` is the one that becomes the sandbox."""
    return [(SENTRY if part.name == "sentry" else part.name, part) for part in now.sidecars]


def _judged(part: PartMoment) -> Facts:
    return {
        "identity": _identity(part.path, part),
        "owner": _ROOT,
        "mode": "0755",
        **_FAULTS.get(part.path, {}),
    }


_MODES = {"private": "0700", "loose": "0755"}


def _secure_root(now: Moment, after: Moment | None) -> Facts:
    if now.base != "trusted" or now.root == "swapped":  # the walk to the directories, judged and not recorded
        raise StepRefusesError
    if now.handle != "current" or now.waits_for_gc:
        raise NotYetError
    if now.lock != "Nobody":
        raise StepRefusesError
    return _directories(_MODES[after.root if after else "private"], now, after)


def _directories(mode: str, now: Moment, at: Moment | None) -> Facts:
    user = _user(now)
    facts = {
        "user": user,
        "directories": [{"owner": user, "mode": mode, "path": path} for path in _PLACES],
        "lock": f"{_STATE}/{LOCK}",
        "cleaned": [],
    }
    if at is None or at.lies != "apart":
        return facts
    apart = "0700" if at.programs == "trusted" else "0755"
    return {**facts, "programs": {"owner": user, "mode": apart, "path": _APART}}


def _stage(now: Moment, _: Moment | None) -> Facts:
    if any(part.copied == "nothing" for part in now.parts):
        if any(part.copied != "nothing" and part.was_rewritten for part in now.parts):
            raise StepRefusesError  # each is compared once it is copied
        if now.nest != "own":
            raise StepRefusesError
        raise NotYetError
    return _copy(now)


def _copy_path(now: Moment) -> str:
    return _COPIES.get(now.lies, _COPIES["base"])


def _copy(now: Moment) -> Facts:
    path = _copy_path(now)
    facts = {"path": path, **_staged(now.runsc, now)}
    directory = path.removesuffix("/runsc")
    sidecars = [
        {"name": name, "path": f"{directory}/{SIDECARS}/{name}", **_staged(part, now)}
        for name, part in _named(now)
    ]
    return {**facts, "sidecars": sidecars} if sidecars else facts


def _staged(part: PartMoment, now: Moment) -> Facts:
    pinned = _identity(part.pinned, part)
    return {
        "sha256": "0" * 64,
        "size": _SIZE,
        "mode": "0555",
        "pinned": pinned,
        "made_from": pinned,
        "from_store": part.shared,
        "shared": part.shared,
        "hashed": not part.shared,
        "compared": part.shared and not now.as_root,
    }


def _apply_policy(now: Moment, _: Moment | None) -> Facts:
    """As policy.py settles it, whatever is required: whether that will do is the guard's to say."""
    if now.rootless and now.wanted:
        if now.in_force == "in_part":
            raise StepRefusesError
        if now.probed == "untried" or (now.probed == "usable" and now.in_force == "nothing"):
            raise NotYetError
    return _policy(now)


def _policy(now: Moment) -> Facts:
    nothing: Facts = {"mechanism": None, "strength": None, "ids": None, "allowed": [], "open": []}
    if not now.rootless:
        return {**nothing, "outcome": PolicyOutcome.NOT_APPLICABLE, "reason": "it is not rootless"}
    if now.in_force != "whole":
        return {**nothing, "outcome": PolicyOutcome.UNAVAILABLE, "reason": "it cannot be had"}
    staged = _copy(now)
    files = [file["path"] for file in (staged, *staged["sidecars"])] if now.sidecars else []
    return {
        "outcome": PolicyOutcome.ENFORCED,
        "mechanism": str(ExecPolicy.LOCKED_MOUNTS),
        "strength": str(Strength.SEALED),
        "ids": "single",
        "allowed": [f"{_BUNDLE}/rootfs", *files],
        "open": [],
        "reason": None,
    }


def _exec(now: Moment, _: Moment | None) -> Facts:
    """Once the last look was taken, what it saw counts; before it, what it would see."""
    if now.seen != "unseen":
        return _hand_off(now, now.seen)
    if now.base != "trusted" or now.root != "private":  # looked at, and not recorded
        raise StepRefusesError
    if now.lies == "apart" and now.programs != "trusted":
        raise StepRefusesError
    if now.sidecars and any(part.on_disk != part.copied for part in now.parts):
        raise StepRefusesError
    if any(part.shared and part.copied == "evil_since" for part in now.parts):
        raise StepRefusesError  # the lease is broken
    if now.config == "replaced":
        raise StepRefusesError
    if now.bundle == "root_changed":
        return _hand_off(now, now.bundle)
    raise NotYetError


def _hand_off(now: Moment, bundle: str) -> Facts:
    flags = global_flags(_OWN, str(Network.NONE), _PLATFORM, now.rootless, ignore_cgroups=False)
    return {
        "argv": [_copy_path(now), *flags, RUN.verb, "--bundle", f"{_OWN}/{GIVEN_BUNDLE}", _CONTAINER],
        "environment": build_environment(_PLACES[-1]),
        "bundle": _bundle(bundle),
        "config": {"sha256": _bundle("as_validated")["sha256"]},
    }


#: What each step records, from the spec's state before it and (where the spec takes the step) after it.
STEPS: Mapping[Trigger, Callable[[Moment, Moment | None], Facts]] = {
    Trigger.RESOLVE: _resolve,
    Trigger.VALIDATE: _validate,
    Trigger.SECURE_ROOT: _secure_root,
    Trigger.STAGE: _stage,
    Trigger.APPLY_POLICY: _apply_policy,
    Trigger.EXEC: _exec,
}


#: What a step records, or raises.
Outcome = Facts | StepRefusesError | NotYetError


def attempt(trigger: Trigger, now: Moment, after: Moment | None = None) -> Facts:
    """What the step records. Raises `StepRefusesError` or `NotYetError`."""
    if now.failed:
        raise StepRefusesError
    return STEPS[trigger](now, after)


def outcome_of(trigger: Trigger, now: Moment, after: Moment | None) -> Outcome:
    try:
        return attempt(trigger, now, after)
    except (StepRefusesError, NotYetError) as stopped:
        return stopped


def could_report(trigger: Trigger, now: Moment) -> Facts | None:
    """What the step would record if it reported the variables as they are in `now`, at whatever time that is."""
    match trigger:
        case Trigger.SECURE_ROOT:
            return _directories(_MODES[now.root], now, now) if now.root in _MODES else None
        case Trigger.STAGE:
            return None if now.runsc.pinned == "nothing" else _copy(now)
        case Trigger.APPLY_POLICY:
            return _policy(now)
        case Trigger.EXEC:
            return _hand_off(now, now.bundle)
        case _:
            try:
                return STEPS[trigger](now, None)
            except StepRefusesError:
                return None


def key_of(facts: Facts) -> str:
    return json.dumps(facts, sort_keys=True)
