"""Check a trace against config.json of its bundle, as the trace alone has only the digest of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine import __version__
from engine.bundle.bundle import CONFIG_NAME, MAX_CONFIG_SIZE
from engine.bundle.given import given_config
from engine.bundle.grants import Source
from engine.bundle.oci_config import KINDS_OF_HOOKS, hints, is_bind, parse
from engine.bundle.pods import MEMBER, names_sandbox_alone, of_sandbox
from engine.digest import sha256
from engine.enforcement.recorded import contradicts_config
from engine.errors import BundleError, Reason, hint_for
from engine.lifecycle.spec_graph import SpecGraph, spec_graph
from engine.linux.regular_files import read_named
from engine.traces.asked import asked_facts
from engine.traces.move import Trigger
from engine.traces.schema import Header, Record
from engine.verify.faults import Fault, FaultCode
from engine.verify.trace_check import TraceResult, Verdict, judge
from engine.verify.trace_file import lines_of, open_trace

#: What the file system of the host said of a mount's source; config.json does not say it.
_OF_HOST = frozenset({"leads_to", "kind"})


class _Config:
    """What `asked_facts` reads of a bundle: its config.json, and the paths of its bind mounts, not looked up."""

    def __init__(self, config: dict[str, Any], bundle: str) -> None:
        self.config = config
        self.sources: Mapping[int, Source] = {
            number: Source(path, path, None)
            for number, mount in enumerate(config.get("mounts", ()))
            if is_bind(mount)
            for path in (os.path.normpath(os.path.join(bundle, mount["source"])),)
        }


def read_config(bundle: str) -> bytes:
    """The bytes of config.json in the directory `bundle`. Raises `BundleError`."""
    path = os.path.join(bundle, CONFIG_NAME)
    try:
        return read_named(path, MAX_CONFIG_SIZE)
    except OSError as error:
        raise BundleError(
            f"{path!r}: {error.strerror}",
            reason=Reason.BUNDLE_ABSENT,
            hint=hint_for(error, "give the directory with config.json"),
        ) from None


def verify(paths: Sequence[str], config: bytes, graph: SpecGraph | None = None) -> Iterator[TraceResult]:
    """Check the traces `paths`, each of one run of the bundle whose config.json has the bytes `config`."""
    graph = graph or spec_graph()
    for path in paths:
        try:
            with open_trace(path) as file:
                judged = judge(path, lines_of(file), graph)
        except OSError as error:
            why = f"{error.strerror}; give files that you can read"
            yield TraceResult(path, Verdict.UNREADABLE, 1, 0, None, why=why)
            continue
        result = judged.result
        if (
            result.verdict.is_good
            and judged.header is not None
            and (what := differs(judged.header, config, judged.moves))
        ):
            fault = Fault(1, FaultCode.CONFIG_DIFFERS, what)
            result = replace(result, verdict=Verdict.DIFFERS, records=0, state=None, fault=fault)
        yield result


def recorded_of(config: bytes, path: str) -> dict[str, Any]:
    """What the header of a run of the bundle at `path` with this config.json has of it: digest, hooks, hints, `asked`.

    Nothing on the host is looked at. Raises `BundleError`.
    """
    document = parse(config)
    hooks = document.get("hooks", {})
    return {
        "sha256": sha256(config),
        "hooks": sum(len(hooks.get(kind, ())) for kind in KINDS_OF_HOOKS),
        "hints": hints(document),
        "asked": asked_facts(_Config(document, path)),
    }


def differs(header: Header, config: bytes, moves: Sequence[Record[Any, Any]] = ()) -> str | None:
    """What the trace says of the bundle and the config.json with the bytes `config` does not; None if nothing.

    `moves`: its further lines, what runsc does not do as asked, and what it was given.
    """
    bundle = header.bundle
    if sha256(config) != bundle["sha256"]:
        return f"{CONFIG_NAME} has another digest than the trace"
    try:
        whole = recorded_of(config, bundle["path"])
    except BundleError as error:
        return f"no run has it: {error.what}"
    said: dict[str, Any] = {**bundle, "hints": bundle.get("hints", {})}
    names = [name for name in ("hooks", "hints") if whole[name] != said[name]]
    if isinstance(header.asked, dict):
        there, recorded = _comparable(whole["asked"]), _comparable(header.asked)
        names += sorted(
            name for name in there.keys() | recorded.keys() if there.get(name) != recorded.get(name)
        )
    if names:
        return f"{CONFIG_NAME} does not ask for the {names[0]} that is recorded"
    return _differs_in_what_is_done(header, config, moves) or next(
        (what for move in moves if (what := _gives_another(move, header, config))), None
    )


def _differs_in_what_is_done(header: Header, config: bytes, moves: Sequence[Record[Any, Any]]) -> str | None:
    for move in moves:
        if move.trigger != Trigger.VALIDATE or "unenforced" not in move.facts:
            continue
        if header.engine != __version__ or not isinstance(header.asked, dict):
            return None
        said = move.facts["unenforced"]
        run = {**header.options, "user": header.host["user"]}
        joins = next(("sandbox" in each.facts for each in moves if each.trigger == Trigger.SECURE_ROOT), None)
        what = contradicts_config(said, move.facts, parse(config), header.asked, run, joins)
        return what and f"what it says is not done as asked of {CONFIG_NAME} is not so: {what}"
    return None


def _gives_another(move: Record[Any, Any], header: Header, config: bytes) -> str | None:
    """Why runsc cannot have been given what the `move` says; None if it can, or the move does not say."""
    if move.trigger != Trigger.EXEC or "config" not in move.facts:
        return None
    said = move.facts["config"]
    changes = said.get("changes", {})
    document, added = parse(config), changes.get("annotations")
    try:
        given = given_config(config, document, header.bundle["path"], header.bundle["sha256"], added)
    except BundleError as error:
        return f"no run has it: {error.what}"
    of_pod = MEMBER if names_sandbox_alone(document) else of_sandbox(document)
    if given.digest == said["sha256"] and given.changes == changes and added in (None, of_pod):
        return None
    return f"{CONFIG_NAME} with the changes that are recorded is not what runsc was given"


def _comparable(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Without what config.json does not say; if mounts were cut, how many are kept depends on that, too."""
    facts = {name: value for name, value in asked.items() if name != "cut"}
    cut = {name: dict(each) for name, each in asked.get("cut", {}).items()}
    facts["root"] = {name: value for name, value in asked["root"].items() if name != "sha256"}
    facts["mounts"] = [
        {name: value for name, value in mount.items() if name not in _OF_HOST} for mount in asked["mounts"]
    ]
    if "mounts" in cut:
        facts["mounts"] = facts["mounts"][:1]
        del cut["mounts"]["sha256"]
    facts["cut"] = cut
    return facts
