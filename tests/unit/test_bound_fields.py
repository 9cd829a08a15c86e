"""Every field of a trace is bound or free, and a change of a bound one is reported, with its line.

Real traces of every kind are changed in one field, or two, numbered and chained anew, and judged with config.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from engine.bundle.pods import MEMBER, SANDBOXES, TYPES, of_sandbox
from engine.lifecycle.spec_graph import spec_graph
from engine.state.container import component
from engine.traces.asked_schema import FREE
from engine.traces.move import State
from engine.traces.schema import FACTS, Copy, Header, Record
from engine.verify.trace_check import judge
from engine.verify.with_bundle import differs, recorded_of
from tests.support.forgeries import OUTSIDE, Leaf, at, changed, is_exact, leaves, others, table_of
from tests.support.stories import CONFIG, STEPS, Line, Story, given_facts, with_unenforced, written
from tests.unit.test_forged_traces import of_a_set
from tools.trace_fields import fields


def all_asked(path: Path) -> list[Line]:
    """Root's run of a bundle that asks for all there is."""
    lines = Story().lines(path)
    with_config(lines, ALL)
    for bundle in (lines[0]["bundle"], lines[6]["facts"]["bundle"]):
        bundle["grants"] = ["binds_socket"]
    lines[0]["options"]["root_digest"] = True
    lines[0]["asked"]["root"]["sha256"] = "5b" * 32
    lines[0]["asked"]["mounts"][0] |= {"leads_to": "/run/other.sock", "kind": "socket"}
    return lines


def with_config(lines: list[Line], config: bytes) -> None:
    """As if that had been the bundle's config.json, and nothing on the host were a link, a socket or a device."""
    recorded = recorded_of(config, "/base/b")
    lines[0]["asked"] = recorded.pop("asked")
    lines[0]["bundle"] |= {name: each for name, each in recorded.items() if each or name != "hints"}
    lines[6]["facts"]["bundle"] = dict(lines[0]["bundle"])
    lines[6]["facts"]["config"] = given_facts(config, "/base/b")


def of_a_pod(path: Path) -> list[Line]:
    """A container that joins the sandbox of a pod."""
    return with_sandbox(Story().lines(path))


def with_sandbox(lines: list[Line]) -> list[Line]:
    """As if the container joined the sandbox of a pod."""
    base = lines[3]["facts"]["directories"][0]["path"]
    container = f"{base}/{component('pod')}"
    paths = (container, f"{container}/runsc-root")
    of = {"owner": 0, "mode": "0700", "created": False}
    directories = [{"path": each, **of} for each in paths]
    lines[3]["facts"]["sandbox"] = {"id": "pod", "directories": directories, "sha256": "cd" * 32}
    lines[6]["facts"]["argv"][2] = paths[1]
    return lines


def with_flags(path: Path) -> list[Line]:
    """Flags of runsc that are passed on."""
    lines = Story().lines(path)
    flags = ["--overlay2=none", "--strace=true", "--dcache=5"]
    lines[0]["options"]["runsc_flags"] = flags
    for bundle in (lines[0]["bundle"], lines[6]["facts"]["bundle"]):
        bundle["grants"] = [*bundle.get("grants", ()), "root_on_host", "logs_data"]
    argv = lines[6]["facts"]["argv"]
    at = argv.index("--platform") + 2
    argv[at:at] = flags
    return lines


def named_alone(path: Path) -> list[Line]:
    """A container of podman 5, which joins the sandbox that its config.json names without more."""
    lines = of_a_pod(path)
    with_config(lines, NAMED)
    lines[6]["facts"]["config"] = given_facts(NAMED, "/base/b", MEMBER)
    return lines


def sandbox_of_a_pod(path: Path) -> list[Line]:
    """A pod's sandbox, which is put into the pod's cgroup."""
    lines = Story().lines(path)
    with_config(lines, OF_POD)
    lines[6]["facts"]["config"] = given_facts(OF_POD, "/base/b", of_sandbox(json.loads(OF_POD)))
    return lines


STORIES: dict[str, Callable[[Path], list[Line]]] = {
    "root": Story().lines,
    "user": Story(user=1000, rootless=True).lines,
    "enforced": Story(user=1000, rootless=True, enforced=True, required=True).lines,
    "a set of files": of_a_set,
    "trusted path": Story(found_by="trusted path").lines,
    "PATH": Story(found_by="PATH", user=1000).lines,
    "all is asked for": all_asked,
    "of a pod": of_a_pod,
    "with flags of runsc": with_flags,
    "named alone": named_alone,
    "sandbox of a pod": sandbox_of_a_pod,
    "ended": Story(end="ended", supervised=True).lines,
    "ended by a signal": Story(end="ended", supervised=True, signal="SIGKILL").lines,
    "execve refused": Story(end="refused").lines,
    **{f"refused in {STEPS[n]}": Story(steps=n, end="refused").lines for n in range(6)},
}
MOST_FREE = 12
#: Bound by facts beside them: their changes are in `test_forged_traces`. The digest of the line above is written anew.
UNCHANGED = {
    *(
        "Header.previous",
        "Record.previous",
        "Record.error",
        "ApplyPolicyFacts.ids",
        "Directory.created",
        "Options.require_strict_bundle",
        "Options.require_enforced",
    ),
    *(
        f"{kind}.{name}"
        for kind in ("StageFacts", "StagedSidecar")
        for name in ("from_store", "shared", "hashed")
    ),
}
ALL = json.dumps(
    {
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/bin/app", *(f"--argument={number}" for number in range(200))],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "capabilities": {
                kind: ["CAP_KILL"]
                for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")
            },
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {
                "destination": "/s",
                "type": "bind",
                "source": "/srv/a.sock",
                "options": ["rbind", "rshared", "ro"],
            },
            {"destination": "/t", "type": "bind", "source": "data", "options": ["ro"]},
        ],
        "hooks": {"poststop": [{"path": "/bin/true"}]},
        "linux": {
            "mountLabel": "a_label",
            "uidMappings": [{"containerID": 0, "hostID": 0, "size": 9}],
            "devices": [{"path": "/dev/a", "type": "c", "major": 1, "minor": 3}],
        },
        "annotations": {"dev.gvisor.spec.mount.a.share": "pod"},
    }
).encode()
NAMED = json.dumps({**json.loads(CONFIG), "annotations": {SANDBOXES[1]: "pod"}}).encode()
OF_POD = json.dumps(
    {
        **json.loads(CONFIG),
        "annotations": {TYPES[0]: "sandbox"},
        "linux": {**json.loads(CONFIG)["linux"], "cgroupsPath": "/kubepods/pod7/sandbox"},
    }
).encode()
CONFIGS = {"all is asked for": ALL, "named alone": NAMED, "sandbox of a pod": OF_POD}


def tables() -> Iterator[type]:
    """Every table of the schema."""
    from engine.traces.refusal_schema import Error

    found: list[type] = [Header, Record, *FACTS.values(), Error]
    for kind in found:
        yield kind
        found += [
            inner
            for _, hint, _ in fields(kind)
            if (inner := table_of(hint)) is not None and inner not in found
        ]


def test_every_field_is_bound_or_free() -> None:
    for kind in tables():
        for name, hint, says in fields(kind):
            if table_of(hint) is None and (kind, name) != (Record, "facts"):
                assert bool(says.bound) is not bool(says.free), f"{kind.__name__}.{name}"
            assert says.free in ("", *FREE), f"{kind.__name__}.{name}"


def test_few_fields_are_free() -> None:
    free = {
        # A sidecar's copy has the fields of runsc's, and each line has a time.
        f"{kind.__name__}.{name}".replace("StagedSidecar.", "StageFacts.").replace("Record.", "Header.")
        for kind in tables()
        for name, _, says in fields(kind)
        if says.free
    }
    assert len(free) <= MOST_FREE, sorted(free)


@cache
def traces() -> dict[str, list[Line]]:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        found = {
            name: lines(Path(place) / str(number)) for number, (name, lines) in enumerate(STORIES.items())
        }
    for name, lines in found.items():
        with_unenforced(lines, CONFIGS.get(name, CONFIG))
    return found


def reported(lines: list[Line], config: bytes = CONFIG) -> int | None:
    """The line that is reported of these, chained anew, with the config.json at hand; None if they conform."""
    judged = judge("", [line + b"\n" for line in written(lines)], spec_graph())
    if judged.result.fault is not None:
        return judged.result.fault.line
    assert judged.header is not None
    return None if differs(judged.header, config, judged.moves) is None else 1


def wrong_values(lines: list[Line], leaf: Leaf) -> list[Any]:
    """Values in the place of this one that no engine wrote there."""
    value = at(lines, leaf)
    if leaf.says.free or leaf.field == "Record.previous":
        return []
    found = others(value, leaf.kind) if is_exact(leaf, lines) else OUTSIDE.get(leaf.field, [])
    if leaf.field == "RefuseFacts.cleaned" and lines[-1]["state"] == State.VALIDATED:
        found = [["relative"]]  # no line says what `secure_root` had made when it failed
    return [other for other in found if other != value]


@pytest.mark.parametrize("name", STORIES)
def test_a_trace_that_was_not_changed_conforms(name: str) -> None:
    assert reported(traces()[name], CONFIGS.get(name, CONFIG)) is None


@pytest.mark.parametrize("name", STORIES)
def test_a_change_of_a_bound_field_is_reported(name: str) -> None:
    lines = traces()[name]
    taken = [
        (leaf.field, leaf.line, other)
        for leaf in leaves(lines)
        for other in wrong_values(lines, leaf)
        if reported(changed(lines, leaf, other), CONFIGS.get(name, CONFIG)) is None
    ]
    assert not taken


def go_together(one: Leaf, two: Leaf, lines: list[Line]) -> bool:
    """Whether one of these is bound by the other and may have several values: both may be right again."""
    return any(
        f"`{other.field.partition('.')[2]}`" in leaf.says.bound and not is_exact(leaf, lines)
        for leaf, other in ((one, two), (two, one))
    )


def is_within(one: Leaf, two: Leaf) -> bool:
    return one.line == two.line and one.place[: len(two.place)] == two.place


@settings(
    derandomize=True,
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(st.data())
def test_a_change_of_two_bound_fields_is_reported(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(STORIES)))
    lines = traces()[name]
    bound = [leaf for leaf in leaves(lines) if wrong_values(lines, leaf)]
    one, two = data.draw(st.lists(st.sampled_from(bound), min_size=2, max_size=2, unique=True))
    assume(not (go_together(one, two, lines) or is_within(one, two) or is_within(two, one)))
    forged = lines
    for leaf in (one, two):
        forged = changed(forged, leaf, data.draw(st.sampled_from(wrong_values(lines, leaf))))
    assert reported(forged, CONFIGS.get(name, CONFIG)) is not None, (one, two)


def test_a_free_field_is_taken_as_it_is() -> None:
    taken, free = set(), set()
    for name, lines in traces().items():
        for leaf in leaves(lines):
            if leaf.says.free:
                free.add(leaf.field)
                if any(
                    reported(changed(lines, leaf, other), CONFIGS.get(name, CONFIG)) is None
                    for other in others(at(lines, leaf), leaf.kind)
                    if other != at(lines, leaf)
                ):
                    taken.add(leaf.field)
    assert free == taken


def test_every_field_is_in_a_trace_and_is_changed() -> None:
    bound = {
        f"{kind.__name__}.{name}"
        for kind in tables()
        for name, hint, says in fields(kind)
        if says.bound and kind is not Copy and table_of(hint) is None and (kind, name) != (Record, "facts")
    }
    changes = {
        leaf.field for lines in traces().values() for leaf in leaves(lines) if wrong_values(lines, leaf)
    }
    assert bound - changes <= UNCHANGED
