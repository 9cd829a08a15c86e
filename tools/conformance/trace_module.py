"""Traces for TLC to judge: `trace_module` makes a TLA+ module of them, `judge` runs it.

The module extends the spec and lets a behaviour go on only as the next line says; the engine's inner moves and
what the world has to do for a line to come about are free. A trace is a behaviour of the spec if and only if TLC
gets to its last line. This shares nothing with `verify` but the reading of a line, so each can be held against the
other. All traces go into one module, as TLC takes longer to start than to judge.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from engine.lifecycle.resolve import TRUSTED_PATHS
from engine.options import ExecPolicy
from engine.runsc.installation import RUNSC
from engine.spec.models import Specs
from engine.spec.tlc import Tlc
from engine.spec.values import Value, format_value
from engine.traces.move import Oom, PolicyOutcome, Trigger
from engine.traces.reader import read_header, read_record
from engine.traces.schema import Header, Record

MODULE = "TraceCheck"

_TEXT = """---- MODULE TraceCheck ----
(* Generated: whether each of `Traces` is a behaviour of the spec. *)
EXTENDS Supervision

VARIABLES
    trace,  \\* which of the traces
    line    \\* how many of its lines the behaviour has followed

Traces == <<
{traces}
>>

Run   == CHOOSE r \\in Runs : TRUE
Lines == Traces[trace].lines
Given == Lines[line + 1]

TraceInit ==
    /\\ trace \\in DOMAIN Traces
    /\\ line = 0
    /\\ option = [r \\in Runs |-> Traces[trace].option]
    /\\ leftover = [i \\in Ids |-> FALSE]
    /\\ supervised = [r \\in Runs |-> Traces[trace].supervised]
    /\\ SupervisedInit

Place == IF ends[Run] = <<>> THEN state[Run] ELSE "ended"

Takes ==
{steps}

\\* What the line records is what the spec has there.
Agrees ==
    CASE Given.trigger = "resolve"      -> (Given.file = "absent") <=> (path["runsc"] = "absent")
      [] Given.trigger = "validate"     -> Given.file = path["runsc"]
      [] Given.trigger = "secure_root"  -> Given.root = root'[id[Run]] /\\ Given.place = place'[Run]
      [] Given.trigger = "stage"        -> /\\ Given.unchanged <=> CopyIsWhatWasPinned(Run)
                                         /\\ Given.place = place[Run]
      [] Given.trigger = "apply_policy" -> Given.policy = policy'[Run]
      [] Given.trigger = "exec"         -> Given.bundle = seen[Run].bundle /\\ Given.program = "copy"
      [] Given.trigger = "end"          -> Given.how = known[Run]
      [] OTHER                          -> TRUE

\\* Line 0 is the header, of which only the digest is here.
Above == IF line = 0 THEN Traces[trace].digest ELSE Lines[line].digest

Follows ==
    /\\ line < Len(Lines)
    /\\ Given.seq = line + 1
    /\\ Given.previous = Above
    /\\ Given.from = Place
Counts  == line' = line + 1 /\\ trace' = trace /\\ PrintT(<<trace, line'>>)

Line ==
    /\\ Follows
    /\\ Takes
    /\\ Given.to = Place'
    /\\ Agrees
    /\\ Counts

\\* The line of a hand-off is written before execve.  If the kernel refuses, the run is where it was, and refuses.
Attempt ==
    /\\ Follows
    /\\ Given.trigger = "exec" /\\ Given.to = "handed_off"
    /\\ Agrees
    /\\ ENABLED Exec(Run)
    /\\ line + 1 < Len(Lines) /\\ Lines[line + 2].trigger = "refuse" /\\ Lines[line + 2].from = state[Run]
    /\\ Counts
    /\\ UNCHANGED allVars

Inner == Advance(Run) /\\ UNCHANGED <<state, trace, line, supervision>>

\\* Before an end is recorded, runsc and the container end, and the supervisor learns it.
Ends ==
    /\\ line < Len(Lines)
    /\\ Given.trigger = "end"
    /\\ RunscEnds(Run) \\/ SupervisedEnds(Run) \\/ Wait(Run)
    /\\ UNCHANGED <<trace, line>>

\\* Only what the next line asks for: what else the world does makes no difference to it.
World ==
    /\\ line < Len(Lines)
    /\\ \\/ Given.trigger = "refuse" /\\ Fail(Run)
       \\/ Given.trigger \\in {{"resolve", "validate"}} /\\ SwapBinary /\\ path'["runsc"] = Given.file
       \\/ Given.trigger = "stage" /\\ ~Given.unchanged /\\ RewriteBinary
       \\/ Given.trigger = "exec" /\\ Given.bundle = "changed" /\\ ChangeBundle(Run)
    /\\ UNCHANGED <<trace, line, supervision>>

\\* Where a trace is wrong there is no way on: a deadlock, which is an answer and no fault.
TraceNext == Line \\/ Attempt \\/ Inner \\/ World \\/ Ends
TraceSpec == TraceInit /\\ [][TraceNext]_<<allVars, trace, line>>
====
"""

_CONFIGURATION = """SPECIFICATION TraceSpec
CONSTANTS
    Runs = {r1}
    Ids = {c1}
    Nobody = Nobody
    Gc = Gc
    Parts = {"runsc"}
    Files = {"vendor", "absent", "not_a_program", "loose_mode", "foreign_owner"}
    Rootless = {TRUE, FALSE}
    Required = {TRUE, FALSE}
    Wanted = {TRUE, FALSE}
    AsRoot = {TRUE, FALSE}
    FoundBy = {"option", "PATH"}
    Enforceable = {TRUE, FALSE}
    Places = {"apart", "base"}
    Moves = {"fail", "binary", "rewrite", "bundle"}
    Budget = 3
    Tireless = FALSE
    AfterFailure = TRUE
    Pinning = TRUE
    Supervised = {TRUE, FALSE}
    Endings = {"by_itself", "by_a_signal"}
"""

_FOLLOWED = re.compile(r"<<(\d+), (\d+)>>")


def judge(traces: Sequence[Sequence[bytes]], specs: Specs, tlc: Tlc) -> tuple[int, ...]:
    """Of each trace, how many lines TLC finds to be a behaviour of the spec; its header counts as one.

    A trace is given by its lines without newlines. Raises `BadLineError` for one that is not a header or a move,
    and `CheckError` when TLC cannot answer.
    """
    files = {**specs.files, f"{MODULE}.tla": trace_module(traces)}
    output = tlc.run(files, MODULE, _CONFIGURATION, name=MODULE, quick=True, deadlock=False)
    followed = [0] * len(traces)
    for said in output.loose:
        if found := _FOLLOWED.fullmatch(said.strip()):
            trace, line = int(found[1]) - 1, int(found[2])
            followed[trace] = max(followed[trace], line)
    return tuple(1 + lines for lines in followed)


def trace_module(traces: Sequence[Sequence[bytes]]) -> str:
    """The module in which TLC follows each of `traces`. Raises `BadLineError`."""
    steps = "\n".join(
        f'    \\/ Given.trigger = "{trigger}" /\\ {_action(trigger)}(Run)'
        + ("" if trigger is Trigger.END else " /\\ UNCHANGED supervision")
        for trigger in Trigger
    )
    return _TEXT.format(traces=",\n".join(map(_trace, traces)), steps=steps)


def _action(trigger: str) -> str:
    """The spec's action for a trigger of the machine: `secure_root` is `SecureRoot`."""
    return "".join(word.capitalize() for word in trigger.split("_"))


def _trace(lines: Sequence[bytes]) -> str:
    header = read_header(lines[0])
    moves = [read_record(line) for line in lines[1:]]
    digests = [sha256(line + b"\n").hexdigest() for line in lines]
    told = ",\n    ".join(
        format_value(words | {"digest": digest})
        for words, digest in zip(_lines(header, moves), digests[1:], strict=True)
    )
    option = format_value(_option(header, moves))
    supervised = format_value(bool(header.options.get("supervise", False)))
    about = f'option |-> {option}, supervised |-> {supervised}, digest |-> "{digests[0]}"'
    return f"  [{about}, lines |-> <<\n    {told} >>]"


def _option(header: Header, moves: Sequence[Record[Any, Any]]) -> dict[str, Value]:
    searched = any(move.trigger == Trigger.RESOLVE and move.facts["found_by"] == "PATH" for move in moves)
    return {
        "rootless": header.options["rootless"],
        "required": header.options["require_exec_policy"],
        "wanted": header.options["exec_policy"] != ExecPolicy.OFF,
        "asRoot": header.host["user"] == 0,
        "foundBy": "PATH" if searched else "option",
    }


#: A move's words but for those that its trigger records; what it does not record is not looked at.
_WORDS: Mapping[str, Value] = {
    "file": "vendor",
    "root": "private",
    "place": "base",
    "unchanged": True,
    "policy": "none_yet",
    "bundle": "unseen",
    "program": "copy",
    "how": "by_itself",
}


def _lines(header: Header, moves: Sequence[Record[Any, Any]]) -> Iterator[dict[str, Value]]:
    """Each move in the spec's words."""
    recorded: dict[str, Mapping[str, Any]] = {}
    for move in moves:
        recorded[move.trigger] = move.facts
        words: dict[str, Value] = {"seq": move.seq, "previous": move.previous}
        words |= {"from": move.state, "trigger": move.trigger, "to": move.next}
        yield {**_WORDS, **words, **_facts(move.trigger, header, recorded)}


def _facts(trigger: str, header: Header, recorded: Mapping[str, Mapping[str, Any]]) -> dict[str, Value]:
    facts = recorded[trigger]
    words: dict[str, Value] = {}
    match trigger:
        case Trigger.RESOLVE:
            words["file"] = "vendor" if _is_found(facts, header.options["runsc"]) else "absent"
        case Trigger.VALIDATE:
            words["file"] = _kind(facts)
        case Trigger.SECURE_ROOT:
            private = {"owner": facts["user"], "mode": "0700"}
            apart = [facts["programs"]] if "programs" in facts else []
            directories = (*facts["directories"], *apart)
            own = [{key: directory[key] for key in private} == private for directory in directories]
            words["root"] = "private" if own == [True] * (4 + len(apart)) else "loose"
            words["place"] = "apart" if apart else "base"
        case Trigger.STAGE:
            binary = recorded.get(Trigger.VALIDATE, {})
            before = binary.get("identity")
            same = before == facts["pinned"] == facts["made_from"] and facts["size"] == before["size"]
            believed = not facts["from_store"] or binary["owner"] == header.host["user"]
            words["unchanged"] = same and facts["compared"] is not believed
            words["place"] = _place(facts["path"], recorded.get(Trigger.SECURE_ROOT, {}))
        case Trigger.APPLY_POLICY:
            words["policy"] = _outcome(facts)
        case Trigger.EXEC:
            copy = recorded.get(Trigger.STAGE, {}).get("path")
            words["bundle"] = "as_validated" if facts["bundle"] == header.bundle else "changed"
            words["program"] = "copy" if facts["argv"][:1] == [copy] else "another"
        case Trigger.END:
            words["how"] = _how(facts, header)
    return words


def _is_found(resolved: Mapping[str, Any], chosen: str | None) -> bool:
    """Whether the search that is recorded can end at the path that is recorded."""
    path, found_by = resolved["path"], resolved["found_by"]
    if not os.path.isabs(path) or (chosen is None) is (found_by == "option"):
        return False
    if chosen is not None:
        # Where a relative one leads depends on the current directory, which is not recorded.
        return path == os.path.abspath(chosen) if os.path.isabs(chosen) else True
    return path in TRUSTED_PATHS if found_by == "trusted path" else os.path.basename(path) == RUNSC


def _outcome(policy: Mapping[str, Any]) -> str:
    """What became of the policy; only one that is enforced has a mechanism, and only another has a reason."""
    is_enforced = policy["outcome"] == PolicyOutcome.ENFORCED
    agrees = (policy["mechanism"] is not None) is (policy["reason"] is None) is is_enforced
    return str(policy["outcome"]) if agrees else "contradicted"


def _how(end: Mapping[str, Any], header: Header) -> str:
    """How runsc ended; what nobody can have seen is said to contradict itself."""
    agrees = (end["exit_code"] is None) is not (end["signal"] is None)
    counted = (end["oom_counter"] is None) is (end["oom"] == Oom.UNKNOWN)
    limited = end["oom_counter"] is None or not header.options["ignore_cgroups"]
    numbers = (end["duration_ns"], *end["resources"].values(), end["exit_code"] or 0)
    if not (agrees and counted and limited and min(numbers) >= 0 and (end["exit_code"] or 0) <= 255):
        return "contradicted"
    return "by_itself" if end["signal"] is None else "by_a_signal"


def _place(path: str, root: Mapping[str, Any]) -> str:
    """Where the copy at `path` lies, of a run that has secured `root`."""
    places = {directory["path"] + "/exec-allow": "base" for directory in root.get("directories", [])[2:3]}
    if "programs" in root:
        places = {root["programs"]["path"]: "apart"}
    found = re.fullmatch(r"(.*)/stage-[^/]*/[^/]+", path, re.DOTALL)
    return places.get(found[1], "elsewhere") if found else "elsewhere"


def _kind(binary: Mapping[str, Any]) -> str:
    """The kind of file that has these facts."""
    mode = int(binary["mode"], 8)
    if mode & 0o022:
        return "loose_mode"
    if not mode & 0o111:
        return "not_a_program"
    if binary["owner"] not in binary["trusted_owners"] and not binary["immutable_store"]:
        return "foreign_owner"
    return "vendor"
