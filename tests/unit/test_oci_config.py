"""config.json is read strictly: each rule refuses with the path and what is wanted, and lets the good through.

oci_config.toml is the table: a value at a path of configs/full.json, which has every known member, and the verdict.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.bundle.linux import SECCOMP_ACTIONS, SECCOMP_ARCHITECTURES, SECCOMP_FLAGS, SECCOMP_OPERATORS
from engine.bundle.oci_config import hints, parse
from engine.bundle.process import CAPABILITY_NAMES, RLIMIT_TYPES
from engine.bundle.strict_json import MAX_NUMBER_LENGTH
from engine.errors import BundleError, Reason
from tests.support.bundles import base_config
from tests.support.full_config import (
    FULL,
    MAPS,
    MEMBERS,
    TABLE,
    Step,
    at,
    changed,
    encoded,
    matches,
    without,
    written,
)
from tests.support.refusals import refuses

HERE = Path(__file__).parent
GOOD = json.dumps(base_config()).encode()


def spliced(steps: tuple[Step, ...], text: str) -> bytes:
    """FULL with the JSON `text` at the path."""
    return encoded(changed(steps, "STANDIN")).replace(b'"STANDIN"', text.encode())


def refusal(data: bytes, reason: str = Reason.CONFIG_INVALID) -> BundleError:
    with refuses(BundleError, reason) as caught:
        parse(data)
    error = caught.value
    assert len(str(error)) < 400
    assert error.member is None or error.member in error.what
    assert "SECRET" not in str(error)
    return error


NAMED = [steps for steps, _ in MEMBERS if isinstance(steps[-1], str)]


# --- The table ------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    rule: str
    data: bytes
    #: What the refusal names; None where the configuration is accepted as it is.
    member: str | None
    #: More that the refusal must say.
    named: str = ""


def accepted() -> Iterator[Case]:
    rows = [(dotted, value) for dotted, values in TABLE["accepted"].items() for value in values]
    rows += [
        ("process.capabilities.bounding", list(CAPABILITY_NAMES)),
        ("process.rlimits", [{"type": kind, "soft": 0, "hard": 1} for kind in RLIMIT_TYPES]),
        ("linux.seccomp.architectures", list(SECCOMP_ARCHITECTURES)),
        ("linux.seccomp.flags", list(SECCOMP_FLAGS)),
        ("linux.seccomp.syscalls", [{"names": ["a"], "action": action} for action in SECCOMP_ACTIONS]),
    ]
    rows += [("linux.seccomp.syscalls.1.args.0.op", operator) for operator in SECCOMP_OPERATORS]
    for dotted, value in rows:
        yield Case(f"accepted-{dotted}", encoded(changed(at(dotted), value)), None)
    for dotted in ("unknown", "vm", "zos", "process.unknown", "linux.unknown", "hooks.unknown"):
        for value in (None, True, 5, 1.5, 1e300, -0.0, "x", [], {}, [None, {"a": [1.5]}]):
            yield Case(f"unknown-{dotted}", encoded(changed(at(dotted), value)), None)
    for dotted in MAPS:
        value = {
            "linux.resources.rdma": {"hcaObjects": 1},
            "linux.timeOffsets": {},
            "linux.netDevices": {},
        }.get(dotted, "x")
        yield Case(f"map-{dotted}", encoded(changed(at(dotted), {"name": value, "NAME": value})), None)
    annotations = {**HINTS, **dict.fromkeys(NO_HINTS, "x")}
    yield Case("hints", encoded(base_config(annotations=annotations)), None)


#: Every name that runsc reads in release-20220103.0 to release-20260817.0, and its neighbours that may come to be read.
FOR_RUNSC = (
    *("dev.gvisor.flag.host-uds", "dev.gvisor.bundle.experimental", "dev.gvisor.container-name-remap.1"),
    *(f"dev.gvisor.spec.rootfs.{field}" for field in ("source", "type", "overlay", "options", "directfs")),
    *("dev.gvisor.spec.cgroup-parent", "dev.gvisor.tar.rootfs.upper", "dev.gvisor.tar.rootfs.upper.a"),
    *(f"dev.gvisor.internal.{name}" for name in ("nvproxy", "tpuproxy", "cpufeatures", "seccomp.a")),
    *("dev.gvisor.internal.checkpoint.path", "dev.gvisor.internal.fscheckpoint.path"),
    *(
        "dev.gvisor.",
        "dev.gvisor.new",
        "dev.gvisor.spec.mount",
        "dev.gvisor.spec.mount.",
        "dev.gvisor.spec.new",
    ),
    *(
        f"dev.gvisor.spec.mount.{rest}"
        for rest in ("a", ".type", "a.b.type", "a.new", "type", "a.", "a.Type")
    ),
)
#: What managers write, and gVisor's shim, and names that only look as if runsc read them.
HINTS = {
    **{f"dev.gvisor.spec.mount.a-b_1.{field}": "x" for field in ("source", "type", "share", "options")},
    **{f"dev.gvisor.spec.mount.cache.{field}": "x" for field in ("lifecycle", "directfs")},
    "dev.gvisor.empty-dir.cache.force-shared": "true",
}
NO_HINTS = (
    *("dev.gvisor-engine.no-network", "dev.gvisor", "Dev.gvisor.flag.debug", "x.dev.gvisor.flag.debug"),
    *("io.kubernetes.cri.container-type", "io.podman.annotations.label", "run.oci.handler", "org.a/key"),
)


def refused() -> Iterator[Case]:
    for section in ("refused", "refused_together", "refused_text"):
        for dotted, values in TABLE[section].items():
            for value in values:
                text = value if section == "refused_text" else json.dumps(value)
                yield Case(f"{section}-{dotted}", spliced(at(dotted), text), written(at(dotted)))
    for path, texts in TABLE["twice"].items():
        yield from (Case(f"twice-{path}", text.encode(), path) for text in texts)
    for data in (b"[]", b'"a"', b"null", b"5", b"5.5", b"true"):
        yield Case("no-object", data, "$")
    yield Case(
        "second-namespace",
        encoded(changed(at("linux.namespaces.8"), {"type": "network"})),
        "$.linux.namespaces[8].type",
    )
    # With these runsc of some release runs something else than the rest of config.json and its arguments say.
    for name in FOR_RUNSC:
        annotations = {"dev.gvisor.spec.mount.tmp.share": "pod", name: "SECRETVALUE"}
        yield Case(
            f"for-runsc-{name}", encoded(base_config(annotations=annotations)), f'$.annotations["{name}"]'
        )
    yield Case("key", encoded(changed(("annotations", "org.a/key"), 5)), '$.annotations["org.a/key"]')
    for dotted in ("annotations", "process", "linux.resources.rdma"):
        for text in (r"\u0000", r"\ud800"):
            data = encoded(changed(at(f"{dotted}.STANDIN"), "x")).replace(b"STANDIN", text.encode())
            yield Case(f"bad-name-{dotted}", data, written(at(dotted)))


def is_optional(steps: tuple[Step, ...]) -> bool:
    """Whether the member is one that the specification names, and may be left out."""
    is_of_the_users_choice = ".".join(map(str, steps[:-1])) in MAPS
    is_named = isinstance(steps[-1], str) and not is_of_the_users_choice
    return is_named and not matches(steps, TABLE["members"]["required"])


def refused_everywhere() -> Iterator[Case]:
    """What is refused of every member of FULL."""
    for steps, _ in MEMBERS:
        if not is_optional(steps):
            yield Case(f"null-{written(steps)}", encoded(changed(steps, None)), written(steps))
        if matches(steps, TABLE["members"]["required"]):
            yield Case(f"missing-{written(steps)}", encoded(without(steps)), written(steps))
    for steps in NAMED:
        # Another name of the same length, which is in no other place, is turned into the same one in the text.
        name, stand_in = str(steps[-1]), "\x7f" * len(str(steps[-1]))
        text = json.dumps(changed((*steps[:-1], stand_in), 5), ensure_ascii=False).replace(stand_in, name)
        yield Case(f"twice-{written(steps)}", text.encode(), written(steps))
        # Go reads a name in another case, or with letters that fold to ASCII, as the known one.
        if ".".join(map(str, steps[:-1])) not in MAPS:
            twin = (*steps[:-1], name.upper() if name != name.upper() else name.lower())
            yield Case(f"case-{written(steps)}", encoded(changed(twin, 5)), written(twin), repr(name))
    for name, known in (("hoo\u212as", "hooks"), ("proce\u017f\u017f", "process")):
        text = json.dumps({**FULL, name: 5}, ensure_ascii=False)
        yield Case(f"folded-{known}", text.encode(), f"$[{json.dumps(name)}]", repr(known))


CASES = [*accepted(), *refused(), *refused_everywhere()]


@pytest.mark.parametrize("case", CASES, ids=[case.rule for case in CASES])
def test_config_gets_the_verdict_of_the_table(case: Case) -> None:
    if case.member is None:
        assert parse(case.data) == json.loads(case.data)
        return
    error = refusal(case.data)
    assert error.member == case.member
    assert case.named in error.what


def test_table_and_full_config_name_the_same_members() -> None:
    for pattern in TABLE["members"]["required"] + TABLE["members"]["needed_by_another"]:
        assert any(matches(steps, [pattern]) for steps, _ in MEMBERS), pattern


def test_member_that_is_not_required_may_be_left_out() -> None:
    for steps in NAMED:
        if not matches(steps, TABLE["members"]["required"] + TABLE["members"]["needed_by_another"]):
            config = without(steps)
            assert parse(encoded(config)) == config


def test_optional_member_that_is_null_is_absent() -> None:
    names = [steps for steps, _ in MEMBERS if is_optional(steps)]
    needed = [steps for steps in names if matches(steps, TABLE["members"]["needed_by_another"])]
    for steps in names:
        data = encoded(changed(steps, None))
        if steps in needed:
            assert refusal(data).member == written(steps[:-1])
        else:
            assert parse(data) == without(steps)
    assert parse(encoded({**FULL, "windows": None, "solaris": None, "freebsd": None})) == FULL


# --- What is accepted whole -----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [base_config(), FULL], ids=["minimal", "full"])
def test_good_config_is_returned_as_it_is(config: dict[str, Any]) -> None:
    assert parse(encoded(config)) == config
    assert parse(json.dumps(config, indent="\t", ensure_ascii=False).encode() + b"\n\r\n") == config


@pytest.mark.parametrize("name", ["runsc-spec", "podman"])
def test_config_as_runtimes_and_engines_write_it_is_accepted(name: str) -> None:
    """What `runsc spec` prints; and podman's, with an absolute root, a systemd cgroup, hooks and Go's escapes."""
    config = json.loads((HERE / "configs" / f"{name}.json").read_text())
    text = json.dumps(config).replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")
    assert parse(text.encode()) == config


def test_whole_surrogate_pair_and_escaped_backslash_are_text() -> None:
    data = encoded(base_config(hostname="STANDIN")).replace(b"STANDIN", rb"\ud83e\uddea \\u0000 \\ud800")
    assert parse(data)["hostname"] == "\U0001f9ea \\u0000 \\ud800"


# --- What costs too much, and what is not JSON ----------------------------------------------------------------


@pytest.mark.parametrize("digits", [MAX_NUMBER_LENGTH + 1, 5000, 1_000_000])
@pytest.mark.parametrize("dotted", ["process.oomScoreAdj", "unknown"])
def test_number_of_absurd_length_is_refused_unread(dotted: str, digits: int) -> None:
    data = spliced(at(dotted), "9" * digits)
    begun = time.process_time()
    assert refusal(data).member == written(at(dotted))
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"", ""),
        (b" \n\t\r\n", ""),
        (b"\xef\xbb\xbf" + GOOD, ""),
        (GOOD.decode().encode("utf-16"), "0xff at offset 0"),
        (b'{"hostname":"\xff"}', "0xff at offset 13"),
        (b'{"hostname":"\xed\xa0\x80"}', "0xed at offset 13"),
        (b'{"hostname":"\xc0\x80"}', "0xc0 at offset 13"),
        (GOOD + b"x", "Extra data"),
        (GOOD + b"{}", "Extra data"),
        (GOOD + b"\0", "Extra data"),
        (GOOD[:-1], "Expecting ',' delimiter"),
        (b"{\n'a': 1}", "Expecting property name"),
        (b'{"a":\n\n 01}', "Expecting ',' delimiter at line 3, column 3"),
        (b'{"a":"\0"}', "column 7"),
        (b'{"a":"\n"}', "Invalid control character at line 1, column 7"),
        (b'{"a":"\\x"}', "Invalid \\escape"),
        (b'{"a":1,}', ""),
        (b"nul", "column 1"),
        (b"// a comment\n" + GOOD, "Expecting value at line 1, column 1"),
    ],
)
def test_text_that_is_not_json_is_refused_with_its_place(data: bytes, where: str) -> None:
    assert where in refusal(data, Reason.CONFIG_NOT_JSON).what


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ("[[0],", "]")])
@pytest.mark.parametrize("depth", [200_000, 1_000_000])
def test_deep_nesting_is_refused(opening: str, closing: str, depth: int) -> None:
    begun = time.process_time()
    refusal((opening * depth + "0" + closing * depth).encode(), Reason.CONFIG_NOT_JSON)
    assert time.process_time() - begun < 1


def test_misfit_in_deepest_allowed_nesting_is_found() -> None:
    deep = '{"a":' * 300 + "NaN" + "}" * 300
    error = refusal(json.dumps(base_config(unknown="STANDIN")).replace('"STANDIN"', deep).encode())
    assert str(error.member).startswith("$.unknown.a.a.a")
    assert "…" in str(error.member)


# --- Secrets, length, speed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dotted", ["process.env", "process.args", "annotations", "hooks.prestart.0.env"])
@pytest.mark.parametrize(
    "value", ["SECRET", ["SECRET", 5], [["SECRET"]], [{"k": "SECRET"}], {"k": ["SECRET"]}, 5]
)
def test_refusal_shows_no_secret(dotted: str, value: object) -> None:
    refusal(encoded(changed(at(dotted), value)))


@pytest.mark.parametrize(
    ("dotted", "value"),
    [
        ("process.cwd", "x" * 1_000_000),
        ("process.cwd", "\x1b[31m\u202e" * 1000),
        ("process.capabilities.bounding.0", "\n" * 5000),
        ("annotations", {"k" * 100_000: 5}),
        ("annotations", {"\x1b\n\u2028" * 1000: 5}),
        ("process.user.uid", 10**99),
        ("linux.timeOffsets", {"k" * 1000: {"secs": "x"}}),
    ],
)
def test_refusal_of_huge_or_hostile_text_is_one_short_line(dotted: str, value: object) -> None:
    refusal(encoded(changed(at(dotted), value)))
    refusal(json.dumps(changed(at(dotted), value), ensure_ascii=False).encode())


def test_ten_thousand_mounts_are_checked_in_time() -> None:
    config = copy.deepcopy(FULL)
    config["mounts"] = [
        {
            "destination": f"/mnt/{number}/" + "d" * 300,
            "type": "bind",
            "source": f"/srv/{number}/é",
            "options": ["rbind", "rw", "nosuid", "nodev"],
        }
        for number in range(10_000)
    ]
    data = encoded(config) + b" " * 500_000
    assert len(data) > 4_500_000
    best = min(timed(data) for _ in range(5))
    assert best < 0.3


def timed(data: bytes) -> float:
    begun = time.process_time()
    parse(data)
    return time.process_time() - begun


# --- Properties -----------------------------------------------------------------------------------------------

#: A busy machine is no reason to fail.
unhurried = settings(deadline=None)

fragments = st.sampled_from(
    [
        *(
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b'"',
            b"\\",
            b"\\u0000",
            b"\\ud800",
            b"null",
            b"NaN",
            b"-0",
            b"1e9",
        ),
        *(b'"process":', b'"root":', b'"ociVersion":"1.0.0"', b'"hoo\xe2\x84\xaas":', b"\0", b"\xff", b"\n"),
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text() | st.sampled_from(list(FULL)), inside),
    max_leaves=20,
)


def outcome(data: bytes) -> dict[str, Any] | str:
    try:
        return parse(data)
    except BundleError as error:
        return str(error)


def parses_or_refuses_in_one_line(data: bytes) -> None:
    answer = outcome(data)
    assert isinstance(answer, dict) or (answer.isprintable() and len(answer) < 400)


@unhurried
@given(st.binary() | st.lists(fragments).map(b"".join))
def test_any_bytes_are_parsed_or_refused_in_one_line(data: bytes) -> None:
    parses_or_refuses_in_one_line(data)


@unhurried
@given(json_values)
def test_any_json_is_parsed_or_refused_in_one_line(value: object) -> None:
    parses_or_refuses_in_one_line(json.dumps(value).encode())


@unhurried
@given(st.sampled_from(MEMBERS), json_values)
def test_any_value_is_parsed_or_refused_in_one_line(
    member: tuple[tuple[Step, ...], Any], value: object
) -> None:
    parses_or_refuses_in_one_line(encoded(changed(member[0], value)))


@unhurried
@given(st.integers(0, len(encoded(FULL))), st.integers(0, 20), st.binary(max_size=4) | fragments)
def test_damaged_config_is_parsed_or_refused_in_one_line(start: int, length: int, put: bytes) -> None:
    data = encoded(FULL)
    parses_or_refuses_in_one_line(data[:start] + put + data[start + length :])


WRONG_KINDS: list[object] = [{"a": 1}, [[]], "SECRETVALUE", True, 5, 1.5]


@settings(unhurried, max_examples=300)
@given(st.sampled_from(MEMBERS), st.sampled_from(WRONG_KINDS))
def test_value_of_the_wrong_kind_is_refused_by_its_path(
    member: tuple[tuple[Step, ...], Any], other: object
) -> None:
    steps, value = member
    if type(other) is type(value):
        return
    error = refusal(encoded(changed(steps, other)))
    assert error.member == written(steps)


def test_hints_are_the_annotations_that_runsc_reads() -> None:
    config = parse(encoded(base_config(annotations={**HINTS, **dict.fromkeys(NO_HINTS, "x")})))
    assert hints(config) == HINTS
    assert hints(parse(encoded(base_config()))) == {}


@pytest.mark.parametrize("more", [0, 1])
def test_hints_are_few_as_a_trace_has_all_of_them(more: int) -> None:
    """A header with more than a mebibyte is in no trace that conforms."""
    names = [f"dev.gvisor.spec.mount.{number:08}.type" for number in range(1024)]
    longest = dict.fromkeys(names, "x" * ((1 << 16) // len(names) - len(names[0])))
    longest[names[0]] += "x" * more
    data = encoded(base_config(annotations={**longest, "other": "x" * 100_000}))
    if more:
        with refuses(BundleError, Reason.CONFIG_INVALID, "annotations", 1 << 16):
            parse(data)
    else:
        assert parse(data)["annotations"].keys() == {*names, "other"}
