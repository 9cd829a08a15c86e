"""The report of a run: the worst first, nothing claimed that was not verified, and no string that becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.audit import html, model_check, picture
from engine.audit.asked_sections import asked_sections
from engine.audit.check_yourself import carried, checks
from engine.audit.controls import Status, controls
from engine.audit.fleet import fleet_page, traces_in
from engine.audit.guidance import Coverage, matrix
from engine.audit.model_check import ModelCheck
from engine.audit.report import run_page
from engine.bundle.grant_codes import CODES
from engine.errors import Reason
from engine.lifecycle.spec_graph import spec_graph
from engine.spec import render
from engine.state.container import component
from engine.traces.move import Trigger
from engine.verify.evidence import Outcome, ReportError, read
from engine.verify.signature import Signers, sign
from tests.support.refusals import one_line, refuses
from tests.support.report_traces import HOSTILE, check_result, credulous, poisoned, poisoned_trace, rewritten
from tests.support.stories import CONFIG, Line, Story, given_facts, retold, save, written
from tests.unit.test_forged_traces import of_a_set
from tests.unit.test_signature import new_key
from tests.unit.test_tlc_render import GOOD


@pytest.fixture(autouse=True, scope="module")
def pictures_are_drawn_once() -> Iterator[None]:
    """A call of dot takes 40 ms, and most pages here have one of few pictures."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(picture, "_draw", cache(picture._draw))
        yield


class Page(HTMLParser):
    """What a page is made of: each tag with the names of its attributes, its texts, its anchors."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self._hidden = 0
        self.feed(content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.ids += [str(value) for name, value in attrs if name == "id"]
        self.links += [str(value) for name, value in attrs if name in ("href", "src", "action")]
        self._hidden += tag in ("style", "script", "title")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "script", "title")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text = f"{self.text} {data}"

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def page_of(trace: Path, check: dict[str, Any] | None = None, signers: Signers | None = None) -> Page:
    result = None if check is None else saved(trace.parent / "check.json", check)
    return Page(run_page(str(trace), check=result, signers=signers))


def saved(path: Path, said: Any) -> ModelCheck:
    path.write_text(json.dumps(said))
    return model_check.load(str(path))


def test_the_reason_of_a_refusal_is_the_first_thing(private: Path) -> None:
    page = page_of(Story(steps=3, end="refused").write(private / "t"))
    before, _, after = page.words.partition("Refused in stage")
    assert before.endswith("Audit report of one run: web ")
    assert after.startswith(": failure 'base' is full Hint: free space What was to run")
    assert "Handed to runsc" not in page.words


def test_a_good_run_shows_every_control_with_its_evidence(private: Path) -> None:
    page = page_of(Story().write(private / "t"))
    assert "Handed to runsc after every step" in page.words
    for shown in (
        hashlib.sha256(CONFIG).hexdigest(),
        "cd" * 32,
        "/usr/bin/runsc",
        "uid 0 (root)",
        "0555",
        "0700",
        "inode 217",
        "6.18.0",
    ):
        assert shown in page.words, shown
    assert "not reached" not in page.words


@pytest.mark.parametrize(
    ("story", "said"),
    [
        (Story(), "How it ended is not known: nobody supervised"),
        (Story(supervised=True), "How it ended is not known: the engine that supervised it was killed"),
        (Story(end="ended", supervised=True), "It ended with exit code 3"),
        (Story(end="ended", supervised=True, signal="SIGKILL"), "It ended by signal SIGKILL"),
    ],
)
def test_the_page_says_how_it_ended(private: Path, story: Story, said: str) -> None:
    page = page_of(story.write(private / "t"))
    assert said in page.words
    assert "Handed to runsc after every step" in page.words
    assert ("memory limit" in page.words.partition(said)[2][:200]) is (story.end == "ended")


def test_what_deserves_a_word_and_hints_are_shown(private: Path) -> None:
    def granting(lines: list[Line]) -> list[Line]:
        for bundle in (lines[0]["bundle"], lines[6]["facts"]["bundle"]):
            bundle |= {"hints": {"dev.gvisor.spec.mount.a.share": "pod"}, "grants": ["binds_etc"]}
        lines[0]["asked"]["mounts"][1] |= {"leads_to": "/etc", "writable": False}
        return lines

    page = page_of(rewritten(Story().write(private / "t"), granting))
    assert "Handed to runsc after every step" in page.words
    assert "binds_etc" in page.words
    assert "dev.gvisor.spec.mount.a.share pod" in page.words


def granting_the_host(lines: list[Line]) -> list[Line]:
    """The host's / can be written, by an administrator; as the engine records it."""
    mount = {"destination": "/host", "type": "bind", "source": "/", "writable": True}
    lines[0]["asked"]["mounts"].append(mount)
    lines[0]["asked"]["capabilities"]["bounding"] = ["CAP_KILL", "CAP_SYS_ADMIN"]
    for bundle in (lines[0]["bundle"], lines[6]["facts"]["bundle"]):
        bundle["grants"] = ["binds_host", "writable_system", "capabilities"]
    return lines


def test_what_was_given_is_said_before_what_stood_between(private: Path) -> None:
    page = page_of(rewritten(Story().write(private / "t"), granting_the_host))
    first, _, rest = page.words.partition("Outcome")
    for said in (
        "Handed to runsc after every step",
        CODES["binds_host"],
        CODES["writable_system"],
        "/host, writable, from /",
        "CAP_SYS_ADMIN",
        "/bin/app --serve",
        "uid 999, gid 998, also 5",
        "uid 0 (root) on node7, who logged in as uid 1000",
        "/base/b/rootfs, read-only",
        "memory.limit = 536870912",
    ):
        assert said in first, said
    assert "✓ conforms" in rest
    plain = page_of(Story().write(private / "plain"))
    assert "deserves a word" not in plain.words
    assert "/data, writable, from /srv/data" in plain.words.partition("Outcome")[0]


def test_an_older_trace_says_that_what_was_asked_was_not_recorded(private: Path) -> None:
    def older(lines: list[Line]) -> list[Line]:
        lines[0]["format"] = 1
        del lines[0]["asked"], lines[2]["facts"]["unenforced"], lines[6]["facts"]["config"]
        lines[4]["facts"]["mode"] = "0500"
        argv = lines[6]["facts"]["argv"]
        argv[argv.index("--bundle") + 1] = lines[0]["bundle"]["path"]
        lines[0]["host"] = {key: lines[0]["host"][key] for key in ("kernel", "machine", "user")}
        return lines

    page = page_of(rewritten(Story().write(private / "t"), older))
    assert "Handed to runsc after every step" in page.words
    assert "not recorded by this older engine" in page.words.partition("Outcome")[0]
    assert "5.2, 5.4-5.6, 5.11-5.13" in page.words


def coverage_of(trace: Path) -> dict[str, Coverage]:
    evidence, _ = read(str(trace), spec_graph())
    return {row.section: row.coverage for row in asked_sections(evidence)}


ANSWERED = [
    *("5.2", "5.4", "5.5", "5.6", "5.11", "5.12", "5.13", "5.16", "5.17", "5.18"),
    *("5.19", "5.20", "5.21", "5.22", "5.26", "5.29", "5.31", "5.32"),
]


def of_limits(lines: list[Line]) -> None:
    lines[0]["asked"]["limits"] = {"memory.limit": -1, "pids.limit": 0, "cpu.shares": 512}


def of_no_cgroup(lines: list[Line]) -> None:
    lines[0]["options"]["ignore_cgroups"] = True


def open_to_the_host(lines: list[Line]) -> None:
    asked = lines[0]["asked"]
    asked["root"]["readonly"] = asked["no_new_privileges"] = False
    asked["mounts"][1] |= {"shared": True}
    asked["devices"] = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]
    del asked["seccomp"], asked["apparmor"]


@pytest.mark.parametrize(
    ("change", "not_met"),
    [
        (lambda _: None, {"5.2", "5.12", "5.31"}),
        (of_limits, {"5.2", "5.11", "5.29", "5.31"}),
        (of_no_cgroup, {"5.2", "5.11", "5.12", "5.29", "5.31"}),
        (granting_the_host, {"5.2", "5.4", "5.6", "5.12", "5.31"}),
        (open_to_the_host, {"5.2", "5.12", "5.13", "5.18", "5.20", "5.22", "5.26", "5.31"}),
    ],
)
def test_the_matrix_answers_from_the_trace_what_was_asked(
    private: Path, change: Callable[[list[Line]], object], not_met: set[str]
) -> None:
    def changed(lines: list[Line]) -> list[Line]:
        change(lines)
        if change is open_to_the_host:
            for bundle in (lines[0]["bundle"], lines[6]["facts"]["bundle"]):
                bundle["grants"] = ["devices"]
        if change is of_no_cgroup:
            argv = lines[6]["facts"]["argv"]
            argv.insert(argv.index("--network"), "--ignore-cgroups")
        return retold(lines)

    trace = rewritten(Story().write(private / "t"), changed)
    assert page_of(trace).words.count("Handed to runsc after every step") == 1
    found = coverage_of(trace)
    assert sorted(found, key=lambda number: int(number[2:])) == ANSWERED
    assert {number for number, coverage in found.items() if coverage is Coverage.NOT_MET} == not_met


def test_nothing_that_was_asked_is_met_where_nothing_ran(private: Path) -> None:
    found = coverage_of(Story(steps=2, end="refused").write(private / "t"))
    assert set(found.values()) == {Coverage.NOT_SHOWN}


def with_sidecars(lines: list[Line]) -> list[Line]:
    """As of an installation: runsc's own facts stand for each sidecar's, too."""
    validated, staged = lines[2]["facts"], lines[4]["facts"]
    for number, name in enumerate(("gvisor-sentry-prewarmer", "gvisor_sentry")):
        identity = {**validated["identity"], "inode": 4001 + number}
        validated.setdefault("sidecars", []).append(
            {
                "name": name,
                "path": f"/opt/gvisor/gvisor-bin/{name}",
                "identity": identity,
                "owner": validated["owner"],
                "mode": validated["mode"],
            }
        )
        copy = {key: value for key, value in staged.items() if key not in ("sidecars", "version")}
        path = f"{staged['path'].removesuffix('/runsc')}/gvisor-bin/{name}"
        staged.setdefault("sidecars", []).append(
            {**copy, "name": name, "path": path, "sha256": f"e{number}" * 32}
            | {"pinned": identity, "made_from": identity}
        )
    validated |= {"release": "release-20260914.0", "starts_sidecars": True}
    return lines


def test_each_file_of_an_installation_is_shown(private: Path) -> None:
    page = page_of(rewritten(Story().write(private / "t"), with_sidecars))
    assert "Handed to runsc after every step" in page.words
    for shown in (
        "/opt/gvisor/gvisor-bin/gvisor_sentry",
        "inode 4001",
        "inode 4002",
        "e0" * 32,
        "e1" * 32,
        "release-20260914.0",
    ):
        assert shown in page.words, shown


@pytest.mark.parametrize(("step", "key"), [(2, "trusted"), (4, "staged")])
def test_one_file_that_is_not_as_it_must_be_breaks_its_control(private: Path, step: int, key: str) -> None:
    def change(lines: list[Line]) -> list[Line]:
        lines[0]["spec"] = "00" * 32
        with_sidecars(lines)[step]["facts"]["sidecars"][1]["mode"] = "0777"
        return lines

    evidence, _ = read(str(rewritten(Story().write(private / "t"), change)), spec_graph())
    assert {each.key: each.status for each in controls(evidence)}[key] is Status.BROKEN


@pytest.mark.parametrize("steps", range(7))
def test_a_control_is_held_only_if_its_step_was_recorded(private: Path, steps: int) -> None:
    evidence, _ = read(str(Story(steps=steps, end="killed").write(private / "t")), spec_graph())
    recorded = list(Trigger)[:steps]
    for control in controls(evidence):
        assert (control.status is Status.NOT_REACHED) == (control.trigger not in recorded)
    assert evidence.outcome is (Outcome.HANDED_OFF if steps == 6 else Outcome.UNFINISHED)


def test_a_refused_step_is_where_the_run_stopped(private: Path) -> None:
    for steps, trigger in enumerate(list(Trigger)[:6]):
        story = Story(steps=steps, end="refused")
        evidence, _ = read(str(story.write(private / f"t{steps}")), spec_graph())
        assert evidence.stopped_in is trigger
        assert {each.trigger for each in controls(evidence) if each.status is Status.REFUSED} == {trigger}


def test_an_execve_that_the_kernel_refused_is_a_refusal(private: Path) -> None:
    evidence, _ = read(str(Story(steps=6, end="refused").write(private / "t")), spec_graph())
    assert (evidence.outcome, evidence.stopped_in) == (Outcome.REFUSED, Trigger.EXEC)
    assert not any(
        row.coverage.startswith("met") for row in matrix(evidence, controls(evidence), is_signed=False)
    )


def test_unenforced_execute_policy_is_not_reported_to_hold(private: Path) -> None:
    for enforced, status in ((True, Status.HELD), (False, Status.NOT_ENFORCED)):
        story = Story(rootless=True, enforced=enforced, user=1000)
        evidence, _ = read(str(story.write(private / str(enforced))), spec_graph())
        assert {control.key: control.status for control in controls(evidence)}["policy"] is status


@pytest.mark.parametrize(
    ("network", "met", "status"),
    [
        ("none", "met by this run", Status.HELD),
        ("sandbox", "not covered", Status.NOT_APPLICABLE),
        ("host", "not met", Status.NOT_ENFORCED),
    ],
)
def test_the_matrix_says_of_the_network_what_the_run_had(
    private: Path, network: str, met: str, status: Status
) -> None:
    def change(lines: list[Line]) -> list[Line]:
        lines[0]["options"]["network"] = network
        argv = lines[6]["facts"]["argv"]
        argv[argv.index("--network") + 1] = network
        for bundle in (lines[0]["bundle"], lines[6]["facts"]["bundle"]) if network == "host" else ():
            bundle["grants"] = ["host_network"]
        return retold(lines)

    evidence, _ = read(str(rewritten(Story().write(private / "t"), change)), spec_graph())
    found = controls(evidence)
    rows = {row.section: row.coverage for row in matrix(evidence, found, is_signed=False)}
    assert (rows["4.4.2"], found[-1].status) == (met, status)
    assert (rows["5.10"] == "met by this run") == (network in ("none", "sandbox"))


def test_facts_that_the_machine_does_not_permit_do_not_hold(private: Path) -> None:
    """A trace of another spec is not judged by it, but its facts are still asked for what they permit."""

    def change(lines: list[Line]) -> list[Line]:
        lines[0]["spec"] = "00" * 32
        lines[2]["facts"]["mode"] = "0777"
        return lines

    trace = rewritten(Story().write(private / "t"), change)
    evidence, _ = read(str(trace), spec_graph())
    assert {each.key: each.status for each in controls(evidence)}["trusted"] is Status.BROKEN
    page = page_of(trace)
    assert "of another spec" in page.words
    assert "All 7 lines" not in page.words


def test_nothing_behind_the_first_bad_line_is_evidence(private: Path) -> None:
    trace = Story().write(private / "t")
    trace.write_bytes(trace.read_bytes().replace(b'"mode":"0755"', b'"mode":"0777"'))
    page = page_of(trace)
    assert page.words.index("This trace does not conform to the spec Line 3") < page.words.index("Outcome")
    evidence, _ = read(str(trace), spec_graph())
    held = [control.key for control in controls(evidence) if control.status is not Status.NOT_REACHED]
    assert held == ["resolved"]
    assert "5 lines from the first bad one on" in page.words
    assert "Handed to runsc" not in page.words


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"null\n", b"\xff\xfe", b"<script>alert(1)</script>\n", b"[" * 9999]
)
def test_what_is_no_trace_is_reported_as_that(private: Path, content: bytes) -> None:
    trace = private / "t"
    trace.write_bytes(content)
    page = page_of(trace, check_result())
    assert "This trace does not conform" in page.words
    assert "Nothing is known of the run" in page.words
    assert "✓ held" not in page.words


# The model checker's verdict


def test_the_verdict_is_shown_for_the_very_spec_only(private: Path) -> None:
    trace = Story().write(private / "t")
    page = page_of(trace, check_result())
    assert "Of this spec: 2 properties hold in 3,048 distinct states; all 1 mutants are caught" in page.words
    assert "NoStepSkipped" in page.words
    for other in (check_result(spec="00" * 32), check_result(spec=None), None):
        page = page_of(trace, other)
        assert "Model checking ! not verified" in page.words
        assert "NoStepSkipped" not in page.words


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"mutants": []}, "no mutants were tried"),
        ({"gaps": None}, "only some models were checked"),
        ({"gaps": [{"action": "A", "at": "x:1:2", "after": None}]}, "1 parts of the spec were never reached"),
        ({"models": []}, "no property was checked"),
        ({"ok": False}, "the check reports failure"),
        (
            {"mutants": [{**check_result()["mutants"][0], "killed": False}]},
            "mutant policy-is-skipped survived",
        ),
        (
            {"models": [{**check_result()["models"][0], "properties": {"TypeOK": "violated"}}]},
            "TypeOK violated",
        ),
        (
            {
                "models": [
                    {**check_result()["models"][0], "surprises": ["3 states, where the manifest has 4"]}
                ]
            },
            "3 states, where the manifest has 4",
        ),
    ],
)
def test_a_check_that_is_not_whole_and_well_verifies_nothing(
    private: Path, change: dict[str, Any], why: str
) -> None:
    page = page_of(Story().write(private / "t"), check_result(**change))
    assert "Model checking ✗ not verified" in page.words
    assert why in page.words


def test_what_engine_check_says_can_be_given_to_the_report(private: Path) -> None:
    said = render.as_data(replace(GOOD, spec=spec_graph().spec))
    check = saved(private / "check.json", json.loads(json.dumps(said)))
    assert check.said.spec == spec_graph().spec
    assert list(check.properties) == ["Small", "Tiny"]


@pytest.mark.parametrize("said", [None, [], {}, {**check_result(), "models": [{}]}, check_result(ok="yes")])
def test_what_is_no_result_of_a_check_is_refused(private: Path, said: Any) -> None:
    with refuses(ReportError, Reason.MALFORMED):
        saved(private / "check.json", said)


# The signature


def test_the_report_says_what_was_verified_and_what_was_not(private: Path) -> None:
    trace, key = Story().write(private / "t"), new_key(private / "key")
    signers = Signers.of_key(f"{key}.pub")
    assert "Signature ! not signed" in page_of(trace, signers=signers).words
    sign(str(trace), str(key))
    assert "Signature ! signed, not checked" in page_of(trace).words
    page = page_of(trace, signers=signers)
    assert "Signature ✓ verified" in page.words
    verified, _, rest = page.words.partition("Verified here")[2].partition("Not verified")
    assert "The signature over the whole file" in verified
    assert "hash chain" in verified
    assert "a signature has no trusted time" in rest
    mallory = Signers.of_key(f"{new_key(private / 'mallory')}.pub")
    page = page_of(trace, signers=mallory)
    assert "Handed to runsc" not in page.words.partition("The signature does not verify")[0]
    assert "Signature ✗ does not verify" in page.words


# Hostile strings


#: The tags of a page, each with the names of its attributes.
Structure = list[tuple[str, tuple[str, ...]]]


def structure(trace: Path) -> Structure:
    return page_of(trace).tags


STORIES = (Story(), Story(steps=2, end="refused"), Story(rootless=True, enforced=True, user=1000))


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> list[Structure]:
    """The structure of the page of each story whose strings all end in "-x"."""
    place = tmp_path_factory.mktemp("harmless")
    with credulous():
        return [
            structure(poisoned_trace(place / str(index), story, "-x")) for index, story in enumerate(STORIES)
        ]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("story", range(len(STORIES)))
def test_no_string_of_a_trace_becomes_markup(
    private: Path, story: int, text: str, harmless: list[Structure]
) -> None:
    trace = poisoned_trace(private / "hostile", STORIES[story], text)
    with credulous():
        content = run_page(str(trace), check=None, signers=None)
    assert Page(content).tags == harmless[story]
    assert not re.search(rb"[\x00-\x09\x0b-\x1f]|\xe2\x80[\xa8-\xae]", content)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(exclude_categories=()), min_size=1, max_size=40),
    story=st.sampled_from(range(len(STORIES))),
)
def test_no_string_at_all_becomes_markup(
    private: Path, text: str, story: int, harmless: list[Structure]
) -> None:
    trace = private / "hostile"
    trace.unlink(missing_ok=True)
    with credulous():
        # After "-x" no version is one, as in `harmless`: what is known of a version is another page.
        assert structure(poisoned_trace(trace, STORIES[story], f"-x{text}")) == harmless[story]


@pytest.fixture(scope="module")
def of_no_trace(tmp_path_factory: pytest.TempPathFactory) -> Structure:
    """The structure of the page of a file that is no trace."""
    path = tmp_path_factory.mktemp("no-trace") / "u"
    path.write_bytes(b"x")
    return structure(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_no_bytes_at_all_become_markup(private: Path, content: bytes, of_no_trace: Structure) -> None:
    (private / "t").write_bytes(content.replace(b"\n", b""))
    found = structure(private / "t")
    assert not content.replace(b"\n", b"") or found == of_no_trace


@pytest.mark.parametrize("text", HOSTILE)
def test_no_name_of_a_file_and_no_word_of_a_check_becomes_markup(private: Path, text: str) -> None:
    name = (
        text.replace("/", "|")
        .replace("\0", "")
        .encode("utf-8", "surrogatepass")
        .decode("utf-8", "surrogateescape")
    )
    place = private / name
    place.mkdir()
    trace = Story().write(place / f"{name}.jsonl")
    check = poisoned(check_result(), text.encode("utf-8", "replace").decode())
    check["spec"] = spec_graph().spec
    plain = private / "plain"
    plain.mkdir()
    harmless = poisoned(check_result(), "-x")
    harmless["spec"] = spec_graph().spec
    assert page_of(trace, check).tags == page_of(Story().write(plain / "t"), harmless).tags


# Check this yourself


@pytest.mark.parametrize(
    "story", [Story(), Story(steps=1, end="refused"), Story(end="ended", supervised=True)]
)
def test_each_command_says_what_the_page_says(private: Path, story: Story) -> None:
    """The trace is saved under the name that the page gives it, and the commands are run there."""
    path = story.write(private / "trace.jsonl")
    evidence, content = read(str(path), spec_graph())
    (file,) = carried(evidence, content)
    assert file.link is not None
    assert base64.b64decode(file.link.partition(",")[2]) == path.read_bytes()
    ran = 0
    for check in checks(evidence, [file]):
        if " trace.jsonl" in check.command and not check.command.startswith("engine"):
            done = subprocess.run(
                check.command, shell=True, cwd=private, capture_output=True, text=True, check=True
            )
            assert done.stdout.split()[0] == check.expected
            ran += 1
        assert check.command in page_of(path).words
    assert ran == 2


@pytest.mark.parametrize("name", ["with space", "quote\"d's", "new\nline", "back\\slash", "\udcff\udcfe"])
def test_a_command_names_any_path_for_a_shell(private: Path, name: str) -> None:
    evidence, content = read(str(Story(name=name).write(private / "trace.jsonl")), spec_graph())
    found = checks(evidence, carried(evidence, content))
    assert all(check.command.isprintable() for check in found)
    printed = {
        subprocess.run(
            ["bash", "-c", f"printf %s {check.command.removeprefix('sha256sum ')}"],
            capture_output=True,
            check=True,
        ).stdout: check.expected
        for check in found
        if check.command.startswith("sha256sum ")
    }
    assert printed[os.fsencode(f"/{name}/b/config.json")] == evidence.facts["header"]["bundle"]["sha256"]
    given = evidence.facts["exec"]["config"]
    copy = f"/var/{name}/{component('web')}/runsc-root/bundle/config.json"
    assert printed.get(os.fsencode(copy)) == (given["sha256"] if "changes" in given else None)


def test_what_runsc_was_given_is_on_the_page(private: Path) -> None:
    words = page_of(Story().write(private / "trace.jsonl")).words
    assert "SHA-256 of config.json as given to runsc" in words
    assert given_facts(CONFIG, "/base/b")["sha256"] in words
    assert "root.path: /base/b/rootfs" in words


@pytest.mark.parametrize("argv", [[], ["--bundle"], ["a"]])
def test_a_trace_of_another_spec_may_give_runsc_anything(private: Path, argv: list[str]) -> None:
    lines = Story().lines(private / "first")
    lines[0]["spec"] = "00" * 32
    lines[6]["facts"]["argv"] = argv
    assert "as given to runsc" in page_of(save(private / "t", written(lines))).words


def test_a_trace_of_another_spec_may_say_anything_of_its_files(private: Path) -> None:
    path = save(private / "t", written([{**line} for line in of_a_set(private / "first")]))

    def change(lines: list[Line]) -> list[Line]:
        lines[0]["spec"] = "00" * 32
        lines[2]["facts"]["sidecars"] = []
        return lines

    words = page_of(rewritten(path, change)).words
    assert "sha256sum" in words
    assert "gvisor-bin/gvisor_sentry is still the one that ran" in words


def test_a_trace_that_is_too_large_is_not_in_the_page(private: Path) -> None:
    path = Story().write(private / "t")
    path.write_bytes(path.read_bytes() + b"x" * (1 << 20))
    evidence, content = read(str(path), spec_graph())
    (file,) = carried(evidence, content)
    assert file.link is None
    assert file.sha256 == evidence.sha256
    assert "too large to be in the page" in page_of(path).words


# The fleet


def test_fleet_counts_every_run_and_lists_unreliable_first(private: Path) -> None:
    for number in range(5):
        Story().write(private / f"good{number}.jsonl")
    Story(steps=2, end="refused").write(private / "refused.jsonl")
    Story(steps=2, end="killed").write(private / "killed.jsonl")
    edited = Story().write(private / "edited.jsonl")
    edited.write_bytes(edited.read_bytes().replace(b"0755", b"0777"))
    rewritten(
        Story().write(private / "other.jsonl"), lambda lines: [{**lines[0], "spec": "00" * 32}, *lines[1:]]
    )
    (private / "loop.jsonl").mkdir()
    page = Page(fleet_page(traces_in(str(private)), signers=None))
    assert "1 of 9 traces are not reliable" in page.words
    kinds = (
        "does not conform 1",
        "unreadable 0",
        "of another spec 1",
        "refused 1",
        "unfinished 1",
        "handed off 5",
    )
    for kind in kinds:
        assert kind in page.words, kind
    listed = page.words.partition("9 of 9 runs are shown.")[2]
    order = [
        listed.index(name)
        for name in ("edited.jsonl", "other.jsonl", "refused.jsonl", "killed.jsonl", "good")
    ]
    assert order == sorted(order)


def test_the_fleet_shows_a_page_of_runs_and_says_of_how_many(private: Path) -> None:
    base = Story().write(private / "t0.jsonl")
    for number in range(1, 120):
        os.link(base, private / f"t{number}.jsonl")
    content = fleet_page(traces_in(str(private)), signers=None)
    page = Page(content)
    assert "50 of 120 runs are shown. The others need JavaScript" in page.words
    data = re.search(rb'<script type="application/json" id="data">(.*?)</script>', content, re.DOTALL)
    assert data is not None
    assert len(json.loads(data[1])["rows"]) == 120


def test_the_fleet_checks_signatures_where_asked(private: Path) -> None:
    key = new_key(private / "key")
    for number in range(3):
        trace = Story().write(private / f"t{number}.jsonl")
        if number:
            sign(str(trace), str(key))
    trace.write_bytes(Story(steps=1, end="refused").write(private / "x").read_bytes())
    page = Page(fleet_page(traces_in(str(private)), signers=Signers.of_key(f"{key}.pub")))
    assert "1 verified, 1 does not verify, 1 not signed" in page.words
    assert "1 of 3 traces are not reliable" in page.words


@pytest.mark.parametrize("text", HOSTILE)
def test_no_string_of_a_fleet_becomes_markup(private: Path, text: str) -> None:
    pages = []
    for name, ending in (("harmless", "-x"), ("hostile", text)):
        (private / name).mkdir()
        for number, story in enumerate(STORIES):
            poisoned_trace(private / name / f"t{number}.jsonl", story, ending)
        with credulous():
            pages.append(fleet_page(traces_in(str(private / name)), signers=None))
    assert Page(pages[0]).tags == Page(pages[1]).tags
    assert pages[1].count(b"<script") == 2
    assert pages[1].count(b"</script") == 2


def test_times_that_cannot_be_are_no_obstacle(private: Path) -> None:
    """A forger may date a run to any year; a chart has no more bars for it."""
    for number, year in enumerate(("0001", "1970", "2026", "9999")):

        def change(lines: list[Line], year: str = year) -> list[Line]:
            return [{**line, "time": year + line["time"][4:]} for line in lines]

        rewritten(Story().write(private / f"t{number}.jsonl"), change)
    content = fleet_page(traces_in(str(private)), signers=None)
    assert content.count(b'<rect class="ran" x=') <= 30


def test_a_directory_without_traces_is_refused(private: Path) -> None:
    (private / "link.jsonl").symlink_to("/dev/zero")
    for path in (private, private / "none"):
        with pytest.raises(ReportError):
            traces_in(str(path))


# The page as a file


def test_a_page_loads_nothing_and_every_anchor_leads_somewhere(private: Path) -> None:
    trace = Story().write(private / "t.jsonl")
    for content in (
        run_page(str(trace), check=saved(private / "c", check_result()), signers=None),
        fleet_page([str(trace), str(trace)], signers=None),
    ):
        page = Page(content)
        assert page.links
        for link in page.links:
            assert link.startswith(("#", "data:image/svg+xml", "data:application/octet-stream;")), link[:80]
            assert not link.startswith("#") or link[1:] in page.ids, link
        assert len(page.ids) == len(set(page.ids))
        assert b"default-src 'none'" in content
        assert not re.search(rb"url\(|@import|https?:", content.replace(b"http://www.w3.org/2000/svg", b""))


def test_only_the_fleets_own_script_may_run(private: Path) -> None:
    trace = Story().write(private / "t.jsonl")
    assert b"script-src 'none'" in run_page(str(trace), check=None, signers=None)
    assert not any(tag == "script" for tag, _ in page_of(trace).tags)
    content = fleet_page([str(trace)], signers=None)
    script = content.rpartition(b"<script>")[2].partition(b"</script>")[0]
    digest = re.search(rb"script-src 'sha256-([^']+)'", content)
    assert digest is not None
    import base64

    assert base64.b64decode(digest[1]) == hashlib.sha256(script).digest()


def test_a_report_is_written_whole_or_not_at_all(private: Path) -> None:
    target = private / "report.html"
    html.write(str(target), b"old")
    html.write(str(target), b"new")
    assert target.read_bytes() == b"new"
    (private / "taken").mkdir()
    with pytest.raises(ReportError):
        html.write(str(private / "taken"), b"x")
    assert sorted(path.name for path in private.iterdir()) == ["report.html", "taken"]


# The command line


def engine(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "engine", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_report_sign_and_verify_from_the_command_line(private: Path) -> None:
    trace, key = Story().write(private / "t.jsonl"), new_key(private / "key")
    bad = private / "bad.jsonl"
    bad.write_bytes(trace.read_bytes().replace(b"0755", b"0777"))
    assert engine("trace", "sign", trace, "--key", key).stdout == f"signed: {trace}.sig\n"
    done = engine("trace", "verify", trace, "--key", f"{key}.pub")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"signature: verified: the holder of {key}.pub\n")
    assert engine("trace", "verify", bad).returncode == 1
    assert engine("trace", "verify", trace, bad, "--json").stdout.count("\n") == 2
    (private / "check.json").write_text(json.dumps(check_result()))
    for arguments in ([trace, "--check", private / "check.json"], [trace, bad], ["--traces", private]):
        done = engine("report", *arguments, "--output", private / "r.html")
        assert (done.returncode, done.stdout) == (0, f"written: {private / 'r.html'}\n"), done.stderr
        assert (private / "r.html").read_bytes().startswith(b"<!doctype html>")


@pytest.mark.parametrize(
    "arguments",
    [
        ["report"],
        ["report", "t", "--traces", "d"],
        ["report", "--traces", "d", "--check", "c"],
        ["report", "t", "u", "--check", "c"],
        ["report", "t", "--key", "k", "--signers", "s", "--identity", "i"],
        ["report", "t", "--signers", "s"],
        ["trace", "verify", "t", "--identity", "i"],
        ["trace", "sign", "t"],
        ["trace"],
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str]) -> None:
    done = engine(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    one_line(done.stderr)


def test_a_missing_extra_is_one_line_with_the_hint(private: Path) -> None:
    trace = Story().write(private / "t.jsonl")
    arguments = ["report", str(trace)]
    code = f"import sys; sys.modules['jinja2'] = None; from engine.cli.main import main; sys.exit(main({arguments!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert one_line(done.stderr).endswith("pip install 'gvisor-engine[audit]'")


@pytest.mark.parametrize("arguments", [("trace", "sign"), ("trace", "verify"), ("report",)])
def test_a_missing_ssh_keygen_is_one_line_with_its_package(private: Path, arguments: tuple[str, ...]) -> None:
    trace, key = Story().write(private / "t.jsonl"), new_key(private / "key")
    given = [*arguments, str(trace), "--key", str(key if "sign" in arguments else f"{key}.pub")]
    code = (
        "import engine.verify.ssh_keygen as s; s.PROGRAMS = ()\n"
        f"from engine.cli.main import main; raise SystemExit(main({given!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (125, "")
    assert "openssh-client" in one_line(done.stderr)


def test_a_run_imports_nothing_of_the_audit() -> None:
    code = (
        "import sys; import engine.cli.main, engine.lifecycle.runner, engine.bundle.bundle; "
        "print({'jinja2', 'msgspec', 'subprocess'} & set(sys.modules), "
        "[name for name in sys.modules if name.startswith('engine.audit')])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set() []\n"
