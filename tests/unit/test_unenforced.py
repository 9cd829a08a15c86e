"""What runsc will not do as asked is said, recorded, checked again in the trace, and refused where that is wanted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.bundle.bundle import open_bundle
from engine.cli.main import main
from engine.enforcement import judge as judging
from engine.enforcement import known
from engine.enforcement.asks import asks
from engine.enforcement.judge import for_state, judge
from engine.enforcement.recorded import config_of, contradicts
from engine.enforcement.table import BY_WORD, ROWS, UNRECORDED
from engine.errors import Reason, ValidateError
from engine.lifecycle.resolve import Resolved
from engine.lifecycle.validate import hold_against, validate
from engine.oci.creation import _Creation
from engine.oci.flags import Flags
from engine.oci.network import ANNOTATION
from engine.oci.request import Request
from engine.options import Platform, RunOptions
from engine.runsc.arguments import RUN
from engine.runsc.binary import platform_package
from engine.runsc.capabilities import SEEN
from engine.state.record import ENFORCEMENT, OWN, WARNING, without_own
from engine.traces.asked import asked_facts
from engine.verify.faults import FaultCode
from engine.verify.trace_check import judge as judge_trace
from engine.verify.trace_check import verify
from engine.verify.with_bundle import differs, recorded_of
from tests.support.asking import asking
from tests.support.bundles import NAMESPACES, base_config, make_bundle
from tests.support.refusals import refuses
from tests.support.stories import CONFIG, Line, Story, given_facts, save, with_unenforced, written
from tests.unit.test_bound_fields import with_sandbox
from tests.unit.test_forged_traces import VALIDATE

SECCOMP = {"linux": {**NAMESPACES, "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}}


# -- the same words from what a trace records


class Bundle:
    """As much of a bundle as `asked_facts` reads."""

    def __init__(self, config: dict[str, Any], kinds: dict[int, str | None]) -> None:
        from engine.bundle.grants import Source
        from engine.bundle.oci_config import is_bind

        self.config = config
        self.sources = {
            index: Source(mount["source"], mount["source"], kinds.get(index))
            for index, mount in enumerate(config.get("mounts", ()))
            if is_bind(mount)
        }


@pytest.mark.parametrize("word", sorted(BY_WORD.keys() - {"process.user", "process.capabilities"}))
def test_what_is_recorded_tells_the_same(word: str) -> None:
    config, kinds, network = asking(word)
    asked = asked_facts(Bundle(config, kinds))

    def rows(of: dict[str, Any]) -> set[str]:
        found = judge(asks(of, kinds, network), SEEN[0], has_cgroups=False)
        return {each.name for each in found} - UNRECORDED

    assert rows(config_of(asked)) == rows(config)
    if ROWS[BY_WORD[word]][0] not in UNRECORDED:
        assert BY_WORD[word] in {
            BY_WORD.get(found, BY_WORD.get(f"{found.partition('=')[0]}=*"))
            for found, _ in asks(config_of(asked), kinds, network)
        }


@pytest.mark.parametrize("joins_a_pod", [False, True])
def test_namespace_paths_are_a_members_sandboxs(joins_a_pod: bool) -> None:
    """Before its directories are there, a trace does not say that a container joins a pod."""
    config: dict[str, Any] = {
        **base_config(),
        "linux": {"namespaces": [{"type": "ipc", "path": "/proc/1/ns/ipc"}]},
    }
    config["linux"]["maskedPaths"] = ["/masked"]
    if joins_a_pod:
        config["annotations"] = {"io.kubernetes.cri.container-type": "container"}
    found = judge(asks(config, {}, "sandbox"), SEEN[0], has_cgroups=True)
    said = [{"name": each.name, "becomes": each.becomes} for each in found]
    assert ("namespace-path-ignored" in {each["name"] for each in said}) is not joins_a_pod
    binary = {"platforms": ["ptrace"], "creation_flags": []}
    options = {"network": "sandbox", "rootless": False, "ignore_cgroups": False, "user": 0}
    asked = asked_facts(Bundle(config, {}))
    assert contradicts(said, binary, asked, options) is None
    for joins in (False, True):
        assert (contradicts(said, binary, asked, options, joins) is None) is (joins is joins_a_pod)
    less = [each for each in said if each["name"] != "masked-paths"]
    assert len(less) == len(said) - 1
    assert contradicts(less, binary, asked, options) is not None


# -- the run


def validated(bundle: Path, binary: Path, **options: Any) -> list[tuple[str, str]]:
    with open_bundle(str(bundle)) as opened:
        found = hold_against(
            validate(Resolved(str(binary), "option"), Platform.AUTO), opened, RunOptions("web", **options)
        )
        found.close()
    facts = found.facts()["unenforced"]
    return [(each["name"], each["becomes"]) for each in facts]


def test_validate_records_what_is_not_done(private: Path, binary: Path) -> None:
    bundle = make_bundle(private / "bundle", **SECCOMP)
    assert validated(bundle, binary) == [("seccomp", "ignored")]


def test_what_is_required_and_not_done_is_refused(private: Path, binary: Path) -> None:
    bundle = make_bundle(private / "bundle", **SECCOMP)
    with refuses(ValidateError, Reason.NOT_ENFORCED, "seccomp", str(binary)):
        validated(bundle, binary, require_enforced=True)


def test_what_nobody_sees_is_not_refused(private: Path, binary: Path) -> None:
    mounts = [{"destination": "/m", "type": "tmpfs", "options": ["relatime"]}]
    bundle = make_bundle(private / "bundle", mounts=mounts, linux=NAMESPACES)
    assert validated(bundle, binary, require_enforced=True) == [("option-relatime", "ignored")]


def test_rootless_limits_are_refused(private: Path, binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(
        private / "bundle", linux={**NAMESPACES, "resources": {"memory": {"limit": 1 << 27}}}
    )
    assert validated(bundle, binary, require_enforced=True) == []
    monkeypatch.setattr(judging, "unmapped_uid", lambda: 65534)
    assert validated(bundle, binary, rootless=True) == [("memory-limit", "ignored")]
    with refuses(ValidateError, Reason.NOT_ENFORCED, "memory limit"):
        validated(bundle, binary, rootless=True, require_enforced=True)


# -- check-bundle


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["check-bundle", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_check_bundle_tells_it_without_a_run(
    private: Path, binary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {"memory": {"limit": 1 << 27}, "pids": {"limit": 8}}
    bundle = make_bundle(private / "bundle", linux={**SECCOMP["linux"], "resources": limits})
    code, out, err = checked(capsys, str(bundle), "--runsc", str(binary), "--json")
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert (told["runsc"], told["taken_for"]) == (str(binary), "2024-07")
    assert [each["name"] for each in told["not_as_asked"]] == ["seccomp"]
    assert len(told["surprises"]) == 2
    assert any("/proc" in each for each in told["added"])
    code, out, err = checked(capsys, str(bundle), "--runsc", str(binary))
    assert (code, err) == (0, "")
    assert "seccomp (ignored)" in out


def test_check_bundle_refuses_what_is_required(
    private: Path, binary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(private / "bundle", **SECCOMP)
    code, out, err = checked(capsys, str(bundle), "--runsc", str(binary), "--require-enforced", "--json")
    assert (code, out) == (125, "")
    assert json.loads(err)["refused"]["reason"] == Reason.NOT_ENFORCED


def test_check_bundle_counts_the_flags_of_runsc(private: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = private / "other"
    has = b'flag:"oci-seccomp" flag:"overlay2"'
    program.write_bytes(b"\x7fELF" + platform_package("systrap") + has)
    program.chmod(0o755)
    bundle = make_bundle(private / "bundle", **SECCOMP)
    flags = ("--runsc-flag=oci-seccomp", "--runsc-flag=overlay2=none")
    code, out, _ = checked(capsys, str(bundle), "--runsc", str(program), "--json", *flags)
    told = json.loads(out)
    assert (code, [each["name"] for each in told["not_as_asked"]]) == (0, ["seccomp-exec"])
    assert not any("overlay" in each for each in told["added"])
    code, _, err = checked(capsys, str(bundle), "--runsc", str(program), "--runsc-flag=nosuch")
    assert code == 2
    assert "nosuch" in err


def test_check_bundle_says_that_all_is_done(
    private: Path, binary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(private / "bundle", linux=NAMESPACES)
    code, out, _ = checked(capsys, str(bundle), "--runsc", str(binary), "--json")
    assert (code, json.loads(out)["not_as_asked"]) == (0, [])


# -- a manager's container


def of(config: dict[str, Any], runsc: str = SEEN[1]) -> dict[str, str]:
    return for_state(judge(asks(config, {}, "none"), runsc, has_cgroups=True))


def test_state_has_all_and_start_says_what_no_manager_asks_for() -> None:
    config = base_config(**SECCOMP)
    assert of(config) == {ENFORCEMENT: "seccomp ignored"}
    config["hooks"] = {"startContainer": [{"path": "/bin/true"}]}
    shown = of(config)
    assert shown[ENFORCEMENT] == "seccomp ignored, hooks-start-container ignored"
    assert "startContainer" in shown[WARNING]
    assert of(base_config(linux=NAMESPACES)) == {}


def test_what_managers_ask_for_by_default_says_nothing_at_start() -> None:
    config = json.loads((Path(__file__).parent / "configs" / "runsc-spec.json").read_text())
    assert set(of(config)) == {ENFORCEMENT}


# -- what a trace says of it


def of_story(path: Path, change: Callable[[list[Line]], None] = lambda _: None, **story: Any) -> list[Line]:
    lines = Story(**story).lines(path)
    with_unenforced(lines, CONFIG)
    change(lines)
    return lines


def fault(lines: list[Line], path: Path) -> str | None:
    (result,) = verify([str(save(path, written(lines)))])
    return None if result.fault is None else str(result.fault.code)


def unenforced(lines: list[Line]) -> list[dict[str, str]]:
    return lines[VALIDATE]["facts"]["unenforced"]  # type: ignore[no-any-return]


def test_a_true_list_conforms(private: Path) -> None:
    lines = of_story(private / "a")
    assert [each["name"] for each in unenforced(lines)][:3] == ["seccomp", "readonly-paths", "masked-paths"]
    assert fault(lines, private / "b") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.pop(0),
        lambda said: said.append({"name": "option-other", "becomes": "otherwise"}),
        lambda said: said.append({"name": "made-up", "becomes": "ignored"}),
        lambda said: said.insert(0, {"name": "hooks-start-container", "becomes": "ignored"}),
        lambda said: said[0].update(becomes="otherwise"),
        lambda said: said.reverse(),
        lambda said: said.insert(0, dict(said[0])),
    ],
)
def test_a_list_that_no_engine_writes_is_a_fault(
    change: Callable[[list[dict[str, str]]], None], private: Path
) -> None:
    lines = of_story(private / "a", lambda lines: change(unenforced(lines)))
    assert fault(lines, private / "b") == FaultCode.FACTS_CONTRADICT


def test_a_list_with_what_was_required_is_a_fault(private: Path) -> None:
    def require(lines: list[Line]) -> None:
        lines[0]["options"]["require_enforced"] = True

    assert fault(of_story(private / "a", require), private / "b") == FaultCode.FACTS_CONTRADICT


@pytest.mark.parametrize(("user", "conforms"), [(0, True), (1000, False)])
def test_rootless_root_may_have_cgroups(user: int, conforms: bool, private: Path) -> None:
    def limited(lines: list[Line]) -> None:
        unenforced(lines)[:] = [
            each for each in unenforced(lines) if each["name"] not in ("memory-limit", "pids-limit")
        ]

    lines = of_story(private / "a", user=user, rootless=True)
    assert {"memory-limit", "pids-limit"} <= {each["name"] for each in unenforced(lines)}
    assert fault(lines, private / "b") is None
    limited(lines)
    assert (fault(lines, private / "c") is None) is conforms


def test_who_joins_no_pod_has_not_its_namespaces(private: Path) -> None:
    """Else what becomes of a path of a namespace could be left out of any trace."""
    lines = of_story(private / "a")
    joined = [each for each in unenforced(lines) if each["name"] != "network-joined"]
    assert len(joined) == len(unenforced(lines)) - 1
    unenforced(lines)[:] = joined
    assert fault(lines, private / "b") == FaultCode.FACTS_CONTRADICT
    with_sandbox(lines)
    assert fault(lines, private / "c") is None


def test_a_member_that_names_its_sandbox_alone_has_its_namespaces(private: Path, binary: Path) -> None:
    """As podman 5 does: no annotation says that it is a member."""
    spaces = [{"type": kind, "path": f"/proc/7/ns/{kind}"} for kind in ("ipc", "uts")]
    linux = {"namespaces": [*NAMESPACES["namespaces"][:2], {"type": "mount"}, *spaces]}
    bundle = make_bundle(
        private / "bundle", linux=linux, annotations={"io.kubernetes.cri-o.SandboxID": "pod"}
    )
    for joins, expected in ((True, []), (False, ["namespace-path-ignored"])):
        with open_bundle(str(bundle)) as opened:
            found = validate(Resolved(str(binary), "option"), Platform.AUTO)
            hold_against(found, opened, RunOptions("web"), joins).close()
            assert [each["name"] for each in found.facts()["unenforced"]] == expected


def test_a_list_that_was_cut_may_have_more(private: Path) -> None:
    def cut(lines: list[Line]) -> None:
        lines[0]["asked"]["cut"] = {"environment": {"count": 9999, "sha256": "ab" * 32}}
        names = [each["name"] for each in unenforced(lines)]
        assert "environment-twice" not in names
        unenforced(lines).append({"name": "environment-twice", "becomes": "otherwise"})
        unenforced(lines).sort(key=lambda each: [row[0] for row in ROWS].index(each["name"]))

    assert fault(of_story(private / "a", cut), private / "b") is None


def test_a_list_of_another_engine_is_not_judged(private: Path) -> None:
    def older(lines: list[Line]) -> None:
        lines[0]["engine"] = "0.0.9"
        unenforced(lines).pop(0)

    assert fault(of_story(private / "a", older), private / "b") is None


def test_a_trace_without_the_list_is_a_fault(private: Path) -> None:
    """The engines that recorded none had another spec."""
    for engine in ("0.1.0", "0.0.9"):
        lines = of_story(private / engine)
        lines[0]["engine"] = engine
        del lines[VALIDATE]["facts"]["unenforced"]
        assert fault(lines, private / f"changed-{engine}") == FaultCode.FACTS_CONTRADICT


def test_what_only_config_json_tells_is_checked_with_it(private: Path) -> None:
    document = json.loads(CONFIG)
    document["mounts"][1]["options"] = ["rbind", "nodev"]
    config = json.dumps(document).encode()
    lines = Story().lines(private / "a")
    recorded = recorded_of(config, lines[0]["bundle"]["path"])
    lines[0]["asked"] = recorded.pop("asked")
    lines[0]["bundle"] |= {name: value for name, value in recorded.items() if value != {}}
    lines[6]["facts"]["bundle"] = dict(lines[0]["bundle"])
    lines[6]["facts"]["config"] = given_facts(config, lines[0]["bundle"]["path"])
    with_unenforced(lines, config)

    def differing() -> str | None:
        from engine.lifecycle.spec_graph import spec_graph

        judged = judge_trace("", [line + b"\n" for line in written(lines)], spec_graph())
        assert judged.result.fault is None
        assert judged.header is not None
        return differs(judged.header, config, judged.moves)

    assert differing() is None
    assert "option-nodev" in {each["name"] for each in unenforced(lines)}
    unenforced(lines)[:] = [each for each in unenforced(lines) if each["name"] != "option-nodev"]
    assert "option-nodev" in (differing() or "")


def test_the_report_says_what_was_not_done(private: Path) -> None:
    from engine.audit.report import run_page

    path = save(private / "trace", written(of_story(private / "a")))
    page = run_page(str(path), check=None, signers=None).decode()
    assert "asked for, and not enforced" in page
    assert re.search(r"ignored: [^<]*\bmasked paths\b", page)
    assert all(row.says for row in known.rows())


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_warning_is_one_line_of_the_managers_log(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    common = Flags(values={"log": str(log), "log-format": form})
    Request({}, common, "start", Flags(), ()).warn('not "so"\nas asked')
    (line,) = log.read_text().splitlines()
    if form == "json":
        said = json.loads(line)
        assert said.keys() == {"msg", "level", "time"}
        assert (said["level"], said["msg"]) == ("warning", 'not "so"\nas asked')
    else:
        assert "level=warning" in line
    said_on_stderr = capsys.readouterr().err
    assert said_on_stderr.startswith("engine-oci: warning: ")
    assert said_on_stderr.rstrip("\n").isprintable()  # a mount's destination may hold anything


def test_no_bundle_speaks_for_the_engine() -> None:
    """`start` says, and `state` shows, what the engine found, and never what a bundle has under that name."""
    own = {ENFORCEMENT: "nothing", WARNING: "all is well", ANNOTATION: "none", f"{OWN}later": "x"}
    given = {**own, "org.example": "stays", "dev.gvisor.spec.mount.a.share": "pod"}
    assert without_own(given) == {"org.example": "stays", "dev.gvisor.spec.mount.a.share": "pod"}
    config = {**base_config(), "annotations": given}
    creation = _Creation(RunOptions("web"), Opened(config), RUN, None, "c", {}, None, None)  # type: ignore[arg-type]
    assert creation._record.annotations == without_own(given)
    creation.learned(())
    assert creation._record.annotations == without_own(given)


class Opened:
    """As much of a bundle as its record needs."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config, self.path = config, "/b"
