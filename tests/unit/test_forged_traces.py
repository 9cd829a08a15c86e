"""Forged traces: whoever can write a file can chain it anew, so each fact is held to what the engine can have written.

One table has, field by field, values that no engine writes, and the code of the fault. The traces are chained and
numbered as the engine does it.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args, is_typeddict

import pytest

from engine.bundle.pods import CGROUP_PARENT, MEMBER
from engine.runsc.capabilities import CREATION_FLAGS
from engine.state.container import component
from engine.traces.move import Trigger
from engine.traces.schema import FACTS
from engine.verify.faults import FaultCode
from engine.verify.trace_check import TraceResult, Verdict, verify
from tests.support.stories import CONFIG, Line, Story, save, with_unenforced, written
from tools.trace_fields import fields

VALIDATE, ROOT, STAGE, POLICY, EXEC = 2, 3, 4, 5, 6
NAMES = ["gvisor-sentry-prewarmer", "gvisor_sentry"]
BASE = "/var/base"
FLAGS = CREATION_FLAGS[0]


def check(lines: list[Line], path: Path) -> TraceResult:
    (result,) = verify([str(save(path, written(lines)))])
    return result


def with_creation_flags(lines: list[Line]) -> None:
    lines[VALIDATE]["facts"]["creation_flags"] = [*FLAGS]
    argv = lines[EXEC]["facts"]["argv"]
    at = argv.index("run")
    argv[at:at] = FLAGS
    with_unenforced(lines, CONFIG)


def of_a_set(path: Path) -> list[Line]:
    """A rootless run of several files under an enforced policy."""
    lines = Story(rootless=True, required=True, enforced=True, user=1000).lines(path)
    validated, staged = lines[VALIDATE]["facts"], lines[STAGE]["facts"]
    directory = staged["path"].removesuffix("/runsc")
    staged |= {"from_store": True, "hashed": False, "compared": True}
    one = copy.deepcopy(staged)
    del one["version"]
    validated |= {"sidecars": [], "starts_sidecars": True, "release": "release-20260914.0"}
    staged["sidecars"] = []
    for number, name in enumerate(NAMES):
        identity = {**validated["identity"], "inode": 4001 + number}
        file = {"name": name, "path": f"/opt/gv/gvisor-bin/{name}", "identity": identity}
        validated["sidecars"].append({**file, "owner": 0, "mode": "0755"})
        made = {"pinned": dict(identity), "made_from": dict(identity), "sha256": f"e{number}" * 32}
        staged["sidecars"].append({"name": name, **one, "path": f"{directory}/gvisor-bin/{name}", **made})
    lines[POLICY]["facts"]["allowed"] += [
        staged["path"],
        *(sidecar["path"] for sidecar in staged["sidecars"]),
    ]
    with_creation_flags(lines)
    return lines


def of_one(path: Path) -> list[Line]:
    """Root's run of a runsc of one file."""
    return Story().lines(path)


def of_told(path: Path) -> list[Line]:
    """As `of_one`, with what runsc does not do as asked."""
    lines = of_one(path)
    with_unenforced(lines, CONFIG)
    return lines


TRACES: dict[str, Callable[[Path], list[Line]]] = {"set": of_a_set, "one": of_one, "told": of_told}


@pytest.mark.parametrize("of", TRACES)
def test_what_the_engine_writes_conforms(tmp_path: Path, of: str) -> None:
    assert check(TRACES[of](tmp_path / "good"), tmp_path / "trace").verdict is Verdict.CONFORMS


def test_what_runsc_was_given_is_not_left_out(tmp_path: Path) -> None:
    """As if an older engine had given it the caller's config.json, which that engine had another spec for."""
    for form in (1, 2, 3):
        lines = of_one(tmp_path / f"good{form}")
        lines[0]["format"] = form
        if form < 3:
            lines[STAGE]["facts"]["mode"] = "0500"
        facts = lines[EXEC]["facts"]
        facts["argv"][facts["argv"].index("--bundle") + 1] = lines[0]["bundle"]["path"]
        del facts["config"]
        result = check(lines, tmp_path / f"trace{form}")
        assert result.fault is not None
        assert form == 1 or result.fault.code == FaultCode.FACTS_CONTRADICT


def put(lines: list[Line], number: int, field: str, value: Any) -> None:
    """Sets a fact; `value` may be a function of the one that was there."""
    *path, last = field.split(".")
    place: Any = lines[number]["facts"]
    for key in path:
        place = place[int(key)] if isinstance(place, list) else place[key]
    where: Any = int(last) if isinstance(place, list) else last
    place[where] = value(place[where]) if callable(value) else value


def without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda facts: {name: value for name, value in facts.items() if name != key}


#: Values that a path of a program never has.
PATHS = [
    "",
    "runsc",
    "gv/runsc",
    "//opt/gv/runsc",
    "/opt//gv/runsc",
    "/opt/gv/../runsc",
    "/opt/./runsc",
    "/opt/gv/",
]
MODES = ["755", "00755", "0o755", "-755", "0755 ", "7_55", "rwxr", "0000", "0644", "0775", "0757"]
DIGESTS = ["", "CD" * 32, "cd" * 31, "cd" * 33, "cg" * 32, "sha256:" + "cd" * 32]
IDENTITIES = ["device", "inode", "size", "mtime_ns", "ctime_ns"]
GIVEN = f"{BASE}/{component('web')}/runsc-root/bundle"
STAGED = f"{BASE}/{component('web')}/runsc-root/exec-allow/stage-1-2"

#: Where, which fact, values that the engine never writes, and the fault.
FORGED: list[tuple[str, int, str, Any, str]] = [
    ("one", VALIDATE, "path", [*PATHS, "/", "/opt/gv\0/runsc"], "binary_is_trusted"),
    ("one", VALIDATE, "wrapper", PATHS, "binary_is_trusted"),
    ("one", VALIDATE, "mode", MODES, "binary_is_trusted"),
    ("one", VALIDATE, "owner", [-1, 1000, 4242], "binary_is_trusted"),
    ("one", VALIDATE, "identity.device", [-1], "binary_is_trusted"),
    ("one", VALIDATE, "identity.inode", [-1, 0], "binary_is_trusted"),
    ("one", VALIDATE, "identity.size", [-1, 0, 3], "binary_is_trusted"),
    *(("one", VALIDATE, f"identity.{name}", [5], "copy_is_what_was_pinned") for name in IDENTITIES),
    (
        "one",
        VALIDATE,
        "trusted_owners",
        [[], [1000], [0, 0], [0, 4242, 4243], [0, -1], [4242, 0]],
        "binary_is_trusted",
    ),
    ("set", VALIDATE, "trusted_owners", [[0], [1000], [1000, 0], [0, 1000, 1000]], "binary_is_trusted"),
    ("one", VALIDATE, "immutable_store", [True], "binary_is_trusted"),
    (
        "one",
        VALIDATE,
        "platforms",
        [["ptrace"], ["systrap", "systrap"], ["kvm", "systrap"], ["systrap", "auto"], ["none"], []],
        "binary_is_trusted",
    ),
    ("one", VALIDATE, "platform", ["auto", "ptrace", "kvm", "", "none"], "binary_is_trusted"),
    (
        "set",
        VALIDATE,
        "creation_flags",
        [
            FLAGS[2:],
            FLAGS[:3],
            [*FLAGS, "--debug"],
            ["--debug-log", "/tmp/x"],
            [*FLAGS[:1], "host", *FLAGS[2:]],
        ],
        "binary_is_trusted",
    ),
    ("set", VALIDATE, "creation_flags", [[], FLAGS[:2]], "arguments_are_the_engines"),
    ("one", VALIDATE, "creation_flags", [FLAGS, FLAGS[:2]], "facts_contradict"),
    ("told", VALIDATE, "unenforced.0.name", ["made-up", "apparmor", "hooks-run"], FaultCode.FACTS_CONTRADICT),
    ("told", VALIDATE, "unenforced.0.becomes", ["otherwise", "refused"], FaultCode.FACTS_CONTRADICT),
    ("set", VALIDATE, "starts_sidecars", [False], "sidecars_are_trusted"),
    ("one", VALIDATE, "starts_sidecars", [True], "sidecars_are_trusted"),
    (
        "set",
        VALIDATE,
        "sidecars",
        [
            [],
            lambda files: files[:1],
            lambda files: files[::-1],
            lambda files: [files[0], *files],
            lambda files: [*files, *(_another(files[1], f"z{number:02}") for number in range(15))],
        ],
        "sidecars_are_trusted",
    ),
    (
        "set",
        VALIDATE,
        "sidecars",
        [lambda files: [*files, _another(files[1], "z")], lambda files: files[1:]],
        "sidecars_are_what_was_pinned",
    ),
    (
        "set",
        VALIDATE,
        "sidecars.0.name",
        [
            "",
            ".",
            "..",
            "a/b",
            "../runsc",
            "a\nb",
            "é",
            "a" * 65,
            "a" * 300,
            ".hidden",
            "gvisor_sentry",
            "z",
            "other",
        ],
        "sidecars_are_trusted",
    ),
    (
        "set",
        VALIDATE,
        "sidecars.0.path",
        [
            *PATHS,
            f"/opt/other/{NAMES[0]}",
            f"/nix/store/../../x/{NAMES[0]}",
            f"/opt/gv/gvisor-bin/{NAMES[1]}",
        ],
        "sidecars_are_trusted",
    ),
    ("set", VALIDATE, "sidecars.0.mode", MODES, "sidecars_are_trusted"),
    ("set", VALIDATE, "sidecars.0.owner", [-1, 4242], "sidecars_are_trusted"),
    ("set", VALIDATE, "sidecars.0.identity.inode", [0, -1, 4002, 217], "sidecars_are_trusted"),
    ("set", VALIDATE, "sidecars.0.identity.device", [-1], "sidecars_are_trusted"),
    ("set", VALIDATE, "sidecars.0.identity.size", [0], "sidecars_are_trusted"),
    *(
        ("set", VALIDATE, f"sidecars.0.identity.{name}", [5], "sidecars_are_what_was_pinned")
        for name in IDENTITIES
    ),
    (
        "set",
        VALIDATE,
        "release",
        [
            "",
            "20260914",
            "release-",
            "release-2026091",
            "release-20260914.0\n",
            "release-" + "9" * 200,
            "Release-20260914",
        ],
        "sidecars_are_trusted",
    ),
    ("one", VALIDATE, "release", [None, "release-20260914.0"], "sidecars_are_trusted"),
    (
        "one",
        STAGE,
        "path",
        [
            *PATHS,
            "/usr/bin/runsc",
            f"{STAGED}/",
            f"{STAGED}/sh",
            f"{STAGED}/gvisor-bin/runsc",
            f"{STAGED}/../runsc",
            f"{STAGED}/../stage-1-3/runsc",
            f"{STAGED}\n/runsc",
            f"{STAGED[:-3]}/runsc",
            f"{BASE}/{component('web')}/runsc-root/exec-allow/stage-/runsc",
            f"{BASE}/{component('db')}/runsc-root/exec-allow/stage-1-2/runsc",
            f"{BASE}/staged/runsc",
        ],
        "copy_is_where_programs_lie",
    ),
    *(
        (of, STAGE, f"{of_what}{field}", values, code)
        for of, of_what, code in (
            ("one", "", "copy_is_what_was_pinned"),
            ("set", "", "copy_is_what_was_pinned"),
            ("set", "sidecars.1.", "sidecars_are_what_was_pinned"),
        )
        for field, values in (
            ("sha256", DIGESTS),
            ("size", [0, -1, 5]),
            ("mode", ["0700", "0500", "555", "0555 "]),
            *((f"{made}.{name}", [6]) for made in ("pinned", "made_from") for name in IDENTITIES),
        )
    ),
    (
        "one",
        STAGE,
        "version",
        [
            "",
            "20260914",
            "release-x",
            "0.0~2024072",
            "0.0~20240729.0-x",
            "0.0~2024072x.0",
            "0.0~20240729" + ".0" * 90,
        ],
        "copy_is_what_was_pinned",
    ),
    ("set", STAGE, "version", ["release-20260914.1", "0.0~20260914.0"], "copy_is_what_was_pinned"),
    ("one", STAGE, "hashed", [False], "copy_is_what_was_pinned"),
    ("one", STAGE, "compared", [True], "copy_is_what_was_pinned"),
    ("set", STAGE, "from_store", [False], "copy_is_what_was_pinned"),
    ("set", STAGE, "shared", [False], "copy_is_what_was_pinned"),
    ("set", STAGE, "hashed", [True], "copy_is_what_was_pinned"),
    ("set", STAGE, "compared", [False], "copy_is_what_was_pinned"),
    ("set", STAGE, "sidecars.0.from_store", [False], "sidecars_are_what_was_pinned"),
    ("set", STAGE, "sidecars.0.shared", [False], "sidecars_are_what_was_pinned"),
    ("set", STAGE, "sidecars.0.hashed", [True], "sidecars_are_what_was_pinned"),
    ("set", STAGE, "sidecars.0.compared", [False], "sidecars_are_what_was_pinned"),
    ("set", STAGE, "sidecars.0.name", ["gvisor_sentry", "other", ".."], "sidecars_are_what_was_pinned"),
    (
        "set",
        STAGE,
        "sidecars.0.path",
        [
            *PATHS,
            f"{STAGED}/{NAMES[0]}",
            f"{STAGED}/gvisor-bin/../{NAMES[0]}",
            f"/opt/gv/gvisor-bin/{NAMES[0]}",
        ],
        "sidecars_are_what_was_pinned",
    ),
    (
        "set",
        STAGE,
        "sidecars",
        [[], lambda files: files[:1], lambda files: files[::-1], lambda files: [*files, files[0]]],
        "sidecars_are_what_was_pinned",
    ),
    ("one", STAGE, "sidecars", [[]], "sidecars_are_what_was_pinned"),
    ("one", POLICY, "outcome", ["enforced", "unavailable"], "policy_permits"),
    ("set", POLICY, "outcome", ["unavailable", "not_applicable"], "policy_permits"),
    ("set", POLICY, "mechanism", [None, "", "landlock", "seccomp"], "policy_permits"),
    ("one", POLICY, "mechanism", ["locked-mounts"], "policy_permits"),
    ("set", POLICY, "strength", [None, "sealed"], "policy_permits"),
    ("one", POLICY, "strength", ["host", "sealed"], "policy_permits"),
    (
        "set",
        POLICY,
        "allowed",
        [
            [],
            lambda paths: paths[1:],
            lambda paths: paths[:1],
            lambda paths: paths[:-1],
            lambda paths: paths[::-1],
            lambda paths: [*paths, "/"],
            *(
                lambda paths, more=more: [paths[0], more, *paths[1:]]
                for more in (
                    *(
                        "/",
                        "//",
                        "",
                        ".",
                        "usr/bin",
                        "/usr//bin",
                        "/usr/../bin",
                        "/usr/bin/",
                        "/base/b/rootfs",
                    ),
                    *(
                        BASE,
                        f"/{BASE}",
                        f"{BASE}/staged",
                        f"{BASE}/{component('db')}",
                        STAGED,
                        f"{STAGED}/runsc",
                    ),
                    *(f"{STAGED}/gvisor-bin", f"{BASE}/{component('web')}/runsc-root/runtime", "/a\0b"),
                )
            ),
        ],
        "policy_permits",
    ),
    ("one", POLICY, "allowed", [["/"], ["/base/b/rootfs"]], "policy_permits"),
    (
        "set",
        POLICY,
        "open",
        [
            [],
            ["mount", "allowed"],
            ["memfd", "memfd", "allowed", "mount"],
            ["stdin", "memfd", "allowed", "mount"],
            ["allowed"],
            ["mount"],
            ["memfd"],
            ["other", "allowed", "mount"],
            ["fd 2", "allowed", "mount"],
            ["fd 4", "fd 3", "allowed", "mount"],
            ["fd 3", "stdin", "allowed", "mount"],
            ["fd 03", "allowed", "mount"],
            ["terminal"],
            ["terminal", "allowed", "mount"],
        ],
        "policy_permits",
    ),
    ("one", POLICY, "open", [["memfd"]], "policy_permits"),
    ("set", POLICY, "ids", [None], "policy_permits"),
    ("one", POLICY, "ids", ["all"], "policy_permits"),
    ("set", POLICY, "reason", ["", "why not"], "policy_permits"),
    ("one", POLICY, "reason", [None, ""], "policy_permits"),
    ("set", EXEC, "argv", [[], lambda argv: ["/bin/sh", *argv[1:]]], "executes_the_staged_copy"),
    (
        "set",
        EXEC,
        "argv",
        [
            lambda argv: argv[:1],
            lambda argv: argv[:-1],
            lambda argv: [*argv[:-1], "db"],
            lambda argv: [*argv, "web"],
            lambda argv: _but(argv, "--rootless", []),
            lambda argv: _but(argv, "--rootless", ["--rootless", "--debug"]),
            lambda argv: _but(argv, "--rootless", ["--rootless", "--TESTONLY-unsafe-nonroot"]),
            lambda argv: _but(argv, "--rootless", ["--rootless", "--ignore-cgroups"]),
            lambda argv: _but(argv, "none", ["host"]),
            lambda argv: _but(argv, "systrap", ["ptrace"]),
            lambda argv: _but(argv, FLAGS[0], ["--gofer-network-namespace", "host", "--x"]),
            lambda argv: _but(argv, FLAGS[3], ["NEVER"]),
            lambda argv: [each for each in argv if each not in FLAGS],
            lambda argv: [each for each in argv if each not in FLAGS[2:]],
            lambda argv: _but(argv, "run", [*FLAGS, "run"]),
            lambda argv: _but(argv, "run", ["--overlay2", "none", "run"]),
            lambda argv: _but(argv, "run", ["--log", "/l", "--log-format", "xml", "run"]),
            lambda argv: _but(argv, "run", ["--log-format", "json", "--log", "/l", "run"]),
            lambda argv: _but(argv, "run", ["do"]),
            lambda argv: _but(argv, "run", ["exec"]),
            lambda argv: _but(argv, "run", ["restore"]),
            lambda argv: _but(argv, GIVEN, ["/base/b"]),
            lambda argv: _but(argv, GIVEN, [f"{GIVEN}/c"]),
            lambda argv: [*argv[:-1], "--pid-file", "relative", "web"],
            lambda argv: [*argv[:-1], "--console-socket", "/c", "--pid-file", "/p", "web"],
            lambda argv: [*argv[:-1], "--pass-fd=4:4", "web"],
            lambda argv: [*argv[:-1], "--pass-fd=3:0", "web"],
            lambda argv: [*argv[:-1], "--user-log", "/x", "web"],
        ],
        "arguments_are_the_engines",
    ),
    ("one", EXEC, "argv", [lambda argv: _but(argv, "run", [*FLAGS, "run"])], "arguments_are_the_engines"),
    (
        "one",
        EXEC,
        "environment",
        [
            {},
            *(
                lambda given, more=more: {**given, **more}
                for more in (
                    {"GVISOR_SIDECAR_BINARIES_DIR": "/evil"},
                    {"GVISOR_ENFORCE_RELEASE": "0"},
                    {"LD_PRELOAD": "/evil.so"},
                    {"PATH": "/evil"},
                    {"HOME": "/home/user"},
                    {"USER": "user"},
                    {"LOGNAME": ""},
                    {"TMPDIR": "/tmp"},
                    {"XDG_RUNTIME_DIR": "/run/user/0"},
                )
            ),
            *(without(name) for name in ("PATH", "TMPDIR", "XDG_RUNTIME_DIR", "HOME", "USER", "LOGNAME")),
        ],
        "arguments_are_the_engines",
    ),
    ("one", EXEC, "bundle.path", ["/elsewhere"], "bundle_is_unchanged"),
    ("one", EXEC, "bundle.sha256", ["00" * 32], "bundle_is_unchanged"),
    ("one", EXEC, "bundle.rootfs", ["/"], "bundle_is_unchanged"),
    ("one", EXEC, "bundle.hooks", [1], "bundle_is_unchanged"),
    ("one", EXEC, "bundle.hints", [{}, {"dev.gvisor.spec.mount.a.share": "pod"}], "bundle_is_unchanged"),
    ("one", EXEC, "bundle.grants", [[], ["binds_etc"]], "bundle_is_unchanged"),
    ("one", EXEC, "config.sha256", [sha256(CONFIG).hexdigest()], "config_is_as_judged"),
    ("one", EXEC, "config.changes", [{}, {"mount_sources": 0}], "config_is_as_judged"),
    ("one", EXEC, "config.changes.root_path", ["/", "/base/b"], "config_is_as_judged"),
    ("one", EXEC, "config.changes.mount_sources", [0, -1], "config_is_as_judged"),
    ("one", EXEC, "config.changes", [{"mount_sources": 1}], "facts_contradict"),
    (
        *("one", EXEC, "config.changes.annotations"),
        [
            *({"a": "b"}, MEMBER),
            *({CGROUP_PARENT: path} for path in ("/", "", "/other", "/pod1/../pod2", "/pod1/a", "a:pod1")),
            {CGROUP_PARENT: "/pod1", "a": "b"},
        ],
        "facts_contradict",
    ),
    ("one", EXEC, "config.changes.annotations", [{}], "config_is_as_judged"),
]


def _another(file: dict[str, Any], name: str) -> dict[str, Any]:
    return {**file, "name": name, "path": f"/opt/gv/gvisor-bin/{name}"}


def _but(argv: list[str], argument: str, instead: list[str]) -> list[str]:
    at = argv.index(argument)
    return [*argv[:at], *instead, *argv[at + 1 :]]


@pytest.mark.parametrize(("of", "line", "field", "values", "code"), FORGED)
def test_a_value_that_no_engine_writes_is_noticed(
    tmp_path: Path, of: str, line: int, field: str, values: list[Any], code: str
) -> None:
    good = TRACES[of](tmp_path / "good")
    for value in values:
        lines = copy.deepcopy(good)
        if isinstance(value, list | dict):
            value = copy.deepcopy(value)  # noqa: PLW2901
        if field.rsplit(".", maxsplit=1)[-1] not in ("sidecars", "release") or of == "set":
            put(lines, line, field, value)
        else:
            lines[line]["facts"][field] = value
        result = check(lines, tmp_path / "forged")
        shown = lines[line]["facts"]
        assert result.fault is not None, (field, shown)
        assert result.fault.code == code, (field, shown)


def known_fields(kind: type, within: str = "") -> Iterator[str]:
    """Every fact of `kind`, with those in it; what is in a list has a name without a number."""
    for name, inner, _ in fields(kind):
        parts = [part for part in (inner, *get_args(inner)) if is_typeddict(part)]
        if not parts:
            yield f"{within}{name}"
        for part in parts:
            yield from known_fields(part, f"{within}{name}.")


@pytest.mark.parametrize(
    ("trigger", "line"),
    [
        (Trigger.VALIDATE, VALIDATE),
        (Trigger.STAGE, STAGE),
        (Trigger.APPLY_POLICY, POLICY),
        (Trigger.EXEC, EXEC),
    ],
)
def test_every_fact_is_in_the_table(trigger: str, line: int) -> None:
    forged = {
        ".".join(part for part in field.split(".") if not part.isdigit())
        for _, number, field, _, _ in FORGED
        if number == line
    }
    assert set(known_fields(FACTS[trigger])) <= forged


# -- several facts at once


def strip_sidecars(lines: list[Line]) -> None:
    """As if the set had been runsc alone."""
    for number in (VALIDATE, STAGE):
        del lines[number]["facts"]["sidecars"]
    del lines[VALIDATE]["facts"]["release"]


def strip_all_but_allowed(lines: list[Line]) -> None:
    """And as if the trace were of before it was recorded what a runsc starts."""
    strip_sidecars(lines)
    del lines[VALIDATE]["facts"]["starts_sidecars"]


def in_nix_by_a_detour(lines: list[Line]) -> None:
    facts = lines[VALIDATE]["facts"]
    facts |= {"path": "/nix/store/../../x/runsc", "owner": 4242, "mode": "0555", "immutable_store": True}


def landlock(lines: list[Line]) -> None:
    """A policy of an earlier version, whose paths are not judged; it knew no sidecars."""
    lines[0]["options"]["exec_policy"] = "landlock"
    lines[POLICY]["facts"] |= {"mechanism": "landlock", "allowed": ["/"]}


def the_whole_host(lines: list[Line]) -> None:
    lines[0]["bundle"]["rootfs"] = lines[EXEC]["facts"]["bundle"]["rootfs"] = "/"
    lines[0]["asked"]["root"]["path"] = "/"
    lines[POLICY]["facts"]["allowed"][0] = "/"


def an_owner_on_a_path_that_is_not_trusted(lines: list[Line]) -> None:
    lines[0]["options"]["runsc"] = lines[1]["facts"]["path"] = "/opt/gv/runsc"
    lines[VALIDATE]["facts"]["trusted_owners"].append(65534)


@pytest.mark.parametrize(
    ("forge", "code"),
    [
        (strip_sidecars, "sidecars_are_trusted"),
        (strip_all_but_allowed, "policy_permits"),
        (in_nix_by_a_detour, "binary_is_trusted"),
        (landlock, "policy_permits"),
        (the_whole_host, "policy_permits"),
        (an_owner_on_a_path_that_is_not_trusted, "binary_is_trusted"),
    ],
)
def test_facts_that_do_not_go_together_are_noticed(
    tmp_path: Path, forge: Callable[[list[Line]], None], code: str
) -> None:
    lines = of_a_set(tmp_path / "good")
    forge(lines)
    result = check(lines, tmp_path / "forged")
    assert result.fault is not None
    assert result.fault.code == code


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("path", "relative/runsc", "found_a_path"),
        ("path", "/elsewhere/runsc", "found_a_path"),
        ("path", "/usr/bin/../bin/runsc", "found_a_path"),
        ("found_by", "trusted path", "found_a_path"),
        ("found_by", "PATH", "found_a_path"),
    ],
)
def test_a_runsc_that_was_not_chosen_is_noticed(tmp_path: Path, field: str, value: str, code: str) -> None:
    lines = of_one(tmp_path / "good")
    lines[1]["facts"][field] = value
    result = check(lines, tmp_path / "forged")
    assert result.fault is not None
    assert (result.fault.line, result.fault.code) == (2, code)


@pytest.mark.parametrize(
    ("chosen", "found", "conforms"),
    [
        ("runsc", "/cwd/runsc", True),
        ("./a/../runsc", "/cwd/runsc", True),
        ("../x/runsc", "/x/runsc", True),
        (".", "/cwd", True),
        ("/usr//bin/runsc", "/usr/bin/runsc", True),
        ("//usr/bin/runsc", "//usr/bin/runsc", True),
        ("x/runsc", "/cwd/runsc", False),
        ("/usr/bin/runsc", "/usr/local/bin/runsc", False),
        (None, "/usr/local/bin/runsc", True),
        (None, "/usr/sbin/runsc", False),
    ],
)
def test_the_path_is_the_chosen_one_or_a_trusted_one(
    tmp_path: Path, chosen: str | None, found: str, conforms: bool
) -> None:
    lines = of_one(tmp_path / "good")[:2]
    lines[0]["options"]["runsc"] = chosen
    lines[1]["facts"] = {"path": found, "found_by": "option" if chosen else "trusted path"}
    assert check(lines, tmp_path / "trace").verdict is (Verdict.INCOMPLETE if conforms else Verdict.DIFFERS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user", 1000),
        ("lock", "/var/base/lock"),
        ("cleaned", ["/etc"]),
        ("cleaned", ["stage-1-2"]),
        *(
            (f"directories.{number}.path", path)
            for number in range(4)
            for path in ("/", "/var/base/../x", "x")
        ),
        ("directories.0.path", "//var/base"),
        ("directories.1.path", f"{BASE}/{component('db')}"),
        ("directories.3.path", f"{BASE}/{component('web')}/runsc-root/exec-allow"),
        ("programs", {"path": "programs", "owner": 0, "mode": "0700", "created": True}),
        ("programs", {"path": "/var/../programs", "owner": 0, "mode": "0700", "created": True}),
    ],
)
def test_directories_that_are_not_the_containers_are_noticed(
    tmp_path: Path, field: str, value: object
) -> None:
    lines = of_one(tmp_path / "good")
    if field == "programs":
        lines[ROOT]["facts"][field] = value
    else:
        put(lines, ROOT, field, value)
    result = check(lines, tmp_path / "forged")
    assert result.fault is not None
    assert (result.fault.line, result.fault.code) == (4, "root_is_private")


# -- what engines do write


@pytest.mark.parametrize("keep", [(), ("creation_flags",), ("starts_sidecars",)])
@pytest.mark.parametrize("of", TRACES)
def test_a_trace_of_before_a_field_was_recorded_conforms(
    tmp_path: Path, of: str, keep: tuple[str, ...]
) -> None:
    lines = TRACES[of](tmp_path / "good")
    for field in {"creation_flags", "starts_sidecars"} - set(keep):
        del lines[VALIDATE]["facts"][field]
    assert check(lines, tmp_path / "old").verdict is Verdict.CONFORMS


@pytest.mark.parametrize(
    ("before", "verb", "after"),
    [
        ([], "run", []),
        (["--log-format", "text"], "create", ["--pid-file", "/p"]),
        (["--log", "l", "--log-format", "json", "--systemd-cgroup"], "create", ["--console-socket", "/c"]),
        (["--log-format", "json"], "create", ["--pid-file", "/p", "--console-socket", "/c"]),
        (["--log-format", "text"], "run", ["--detach"]),
        (["--log-format", "text"], "run", ["--pid-file", "/p", "--detach", "--pass-fd=3:3", "--pass-fd=4:4"]),
        (["--log-format", "text"], "restore", ["--image-path", "/i"]),
        (["--log-format", "text"], "restore", ["--console-socket", "/c", "--image-path", "/i", "--detach"]),
    ],
)
def test_arguments_that_a_manager_asks_for_conform(
    tmp_path: Path, before: list[str], verb: str, after: list[str]
) -> None:
    lines = of_a_set(tmp_path / "good")
    argv = lines[EXEC]["facts"]["argv"]
    at = argv.index("run")
    lines[EXEC]["facts"]["argv"] = [*argv[:at], *before, verb, "--bundle", GIVEN, *after, "web"]
    assert check(lines, tmp_path / "trace").verdict is Verdict.CONFORMS


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[VALIDATE]["facts"].update(release=None),
        lambda lines: lines[STAGE]["facts"].update(version=None),
        lambda lines: lines[STAGE]["facts"].pop("version"),
        lambda lines: (
            lines[VALIDATE]["facts"].update(release=None),
            lines[STAGE]["facts"].update(version="0.0~20240729.0"),
        ),
        lambda lines: lines[VALIDATE]["facts"].update(platforms=["systrap"]),
        lambda lines: lines[VALIDATE]["facts"].update(trusted_owners=[0, 1000, 65534], owner=65534),
        lambda lines: lines[POLICY]["facts"].update(strength="sealed", open=["memfd", "stdout"]),
        lambda lines: lines[POLICY]["facts"].update(strength="sealed", open=["stdout", "fd 3", "fd 10"]),
        lambda lines: lines[POLICY]["facts"].update(open=["memfd", "fd 4", "allowed", "mount", "terminal"]),
        lambda lines: lines[POLICY]["facts"]["allowed"].insert(1, "/srv/data"),
        lambda lines: (
            lines[POLICY]["facts"]["allowed"].insert(1, "/var"),
            lines[0]["asked"]["mounts"].append({"destination": "/v", "source": "/var", "writable": False}),
        ),
        lambda lines: lines[ROOT]["facts"].update(cleaned=[f"{BASE}/{component('web')}/runsc-root"]),
    ],
)
def test_other_values_that_an_engine_writes_conform(
    tmp_path: Path, change: Callable[[list[Line]], object]
) -> None:
    lines = of_a_set(tmp_path / "good")
    change(lines)
    result = check(lines, tmp_path / "trace")
    assert result.verdict is Verdict.CONFORMS, result.fault


def test_a_field_that_is_no_fact_is_still_no_fact(tmp_path: Path) -> None:
    lines = of_one(tmp_path / "good")
    lines[VALIDATE]["facts"]["starts_sidecars"] = "no"
    result = check(lines, tmp_path / "forged")
    assert result.fault is not None
    assert result.fault.code == FaultCode.NOT_OF_SCHEMA


def test_every_part_that_refuses_a_run_is_known() -> None:
    """A command that starts no run, or that only reads traces, refuses none."""
    for module in ("cli.run", "lifecycle.runner", "oci.creation", "oci.network", "oci.pod", "runsc.command"):
        importlib.import_module(f"engine.{module}")
    from engine.errors import EngineError
    from engine.verify.move_checks import PARTS

    def parts(kind: type[EngineError]) -> Iterator[str]:
        if isinstance(step := kind.step, str):
            yield step
        for each in kind.__subclasses__():
            yield from parts(each)

    others = {"check", "audit", "diagram", "gc", "report", "workers", "signature", "detach", "survey"}
    assert set(parts(EngineError)) - others <= PARTS


def test_a_refusal_by_what_refuses_nothing_is_noticed(tmp_path: Path) -> None:
    lines = Story(steps=3, end="refused").lines(tmp_path / "good")
    lines[-1]["error"]["step"] = "elsewhere"
    result = check(lines, tmp_path / "forged")
    assert result.fault is not None
    assert result.fault.code == FaultCode.STEP_OF_ANOTHER_STATE
