"""What runsc makes of a bundle, as data: it is whole, its compiled form is equal, and a bundle is held against it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from engine.bundle.oci_config import parse
from engine.enforcement import judge as judging
from engine.enforcement import known
from engine.enforcement.asks import asks, surprises, unasked
from engine.enforcement.judge import ONLY_WITH, UNSEEN, has_cgroups, judge, unenforced, warning
from engine.enforcement.table import BY_WORD, ROWS, SURPRISES, UNASKED
from engine.options import Network, RunOptions
from engine.runsc.capabilities import SEEN, Capabilities
from tests.support.asking import asking
from tests.support.bundles import base_config
from tests.support.full_config import FULL
from tools import asked_page

CONFIGS = Path(__file__).parent / "configs"
OLD, MIDDLE, NEW = SEEN
#: Asked for by no word: always there, and always enforced.
ALWAYS = {"process.user", "process.capabilities"}
WORDS = [word for row in known.rows() for word in row.asks]


def names(config: dict[str, Any], runsc: str = MIDDLE, *, cgroups: bool = True) -> list[str]:
    """What of this config.json that runsc does not do as asked."""
    return [each.name for each in judge(asks(config, {}, "none"), runsc, has_cgroups=cgroups)]


def linux(**members: object) -> dict[str, Any]:
    spaces = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]
    return base_config(linux={"namespaces": spaces, **members})


# -- the data


def test_compiled_table_equals_the_data() -> None:
    assert Path(known.COMPILED).read_text() == known.compiled(), "run ./just compile"


def test_the_page_is_written_from_the_data() -> None:
    assert asked_page.PAGE.read_text() == asked_page.text(), "run ./just compile"
    for row in known.rows():
        assert asked_page.PAGE.read_text().count(f"| `{row.name}` |") == 1


def test_every_row_is_explained() -> None:
    about = known.about()
    assert set(about["runsc"]) == set(SEEN)
    assert all(each["sign"] and each["seen_with"] for each in about["runsc"].values())
    assert set(about["danger"]) == {str(number) for number in range(1, UNSEEN + 1)}
    for row in known.rows():
        assert row.specification.partition(",")[0] in ("config.md", "config-linux.md"), row.name
        assert len(row.specification.partition(": ")[2]) > 10, row.name
        assert all((row.asks, row.field, row.value)), row.name
        if row.danger <= 3 and set(row.becomes) & {"otherwise"}:
            assert all(how for how, what in zip(row.how, row.becomes, strict=True) if what == "otherwise")


def test_rows_are_in_order_of_danger() -> None:
    assert [row[2] for row in ROWS] == sorted(row[2] for row in ROWS)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("danger = 9", "danger"),
        ('becomes = "perhaps"', "becomes"),
        ('made_up = "x"', "made_up"),
        ("", "no specification"),
    ],
)
def test_a_row_that_is_not_whole_is_refused(
    change: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {
        "asks": '["a"]',
        "field": '"a"',
        "value": '"a"',
        "says": '"a"',
        "danger": "1",
        "becomes": '"ignored"',
    }
    if change:
        fields["specification"] = '"config.md, A: a"'
        name, _, value = change.partition(" = ")
        fields[name] = value
    (tmp_path / "about.toml").write_text((Path(known.DIRECTORY) / "about.toml").read_text())
    (tmp_path / "a.toml").write_text(
        "[a]\n" + "".join(f"{name} = {value}\n" for name, value in fields.items())
    )
    monkeypatch.setattr(known, "DIRECTORY", str(tmp_path))
    with pytest.raises(known.KnownError, match=fault):
        known.rows.__wrapped__()


def test_a_word_of_two_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(known.DIRECTORY) / "hooks.toml").read_text()
    (tmp_path / "about.toml").write_text((Path(known.DIRECTORY) / "about.toml").read_text())
    (tmp_path / "a.toml").write_text(text)
    (tmp_path / "b.toml").write_text(text.replace("[hooks-", "[other-"))
    monkeypatch.setattr(known, "DIRECTORY", str(tmp_path))
    with pytest.raises(known.KnownError, match="twice"):
        known.rows.__wrapped__()


# -- every word of it is asked for by some bundle


@pytest.mark.parametrize("word", [word for word in WORDS if word not in ALWAYS])
def test_a_bundle_that_asks_is_heard(word: str) -> None:
    asked = [found for found, _ in asks(*asking(word))]
    assert word.replace("=*", "=made-up") in asked


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
@pytest.mark.parametrize("runsc", SEEN)
def test_a_bundle_is_told_what_the_row_says(row: tuple[Any, ...], runsc: str) -> None:
    name, _, danger, becomes, how, without_cgroups, _ = row
    column = SEEN.index(runsc)
    word = next(found for found in WORDS if ROWS[BY_WORD[found]][0] == name)
    if word in ALWAYS:
        return
    for cgroups in (True, False):
        flags = sorted(ONLY_WITH.get(word, ()))[:1]
        found = judge(asks(*asking(word)), runsc, has_cgroups=cgroups, runsc_flags=flags)
        expected = without_cgroups if without_cgroups and not cgroups else becomes[column]
        told = {each.name: each for each in found}
        assert (name in told) == (expected != "enforced")
        if name in told:
            assert (told[name].becomes, told[name].danger) == (expected, danger)
            assert told[name].how == (how[column] if cgroups or not without_cgroups else "no cgroup is made")


def test_every_member_of_a_config_is_known_or_enforced() -> None:
    """What full.json has of types, options and members is in the table, or means one of few things."""
    config = parse(json.dumps(FULL).encode())
    unknown = {
        word
        for word, _ in asks(config, {}, "none")
        if word not in BY_WORD and f"{word.partition('=')[0]}=*" not in BY_WORD
    }
    assert unknown == {"process.capabilities=CAP_KILL", "linux.namespaces.path=network"}


# -- a bundle held against it


def test_the_smallest_good_bundle_is_done_as_asked() -> None:
    for runsc in SEEN:
        found = judge(asks(linux(), {}, "none"), runsc, has_cgroups=True)
        assert warning(found) is None


def test_a_warning_is_one_line_in_order_of_danger() -> None:
    config = linux(sysctl={"net.ipv4.ip_forward": "1"}, seccomp={"defaultAction": "SCMP_ACT_ALLOW"})
    config["hooks"] = {"startContainer": [{"path": "/bin/true"}]}
    config["mounts"] = [{"destination": "/o", "type": "overlay"}]
    text = warning(judge(asks(config, {}, "none"), NEW, has_cgroups=True))
    assert text is not None
    assert text.isprintable()
    places = [
        text.index(said) for said in ("seccomp", "startContainer", "/o (overlay)", "net.ipv4.ip_forward")
    ]
    assert places == sorted(places)


@pytest.mark.parametrize("file", ["podman", "runsc-spec"])
@pytest.mark.parametrize("runsc", SEEN)
def test_what_managers_write_is_one_line(file: str, runsc: str) -> None:
    config = json.loads((CONFIGS / f"{file}.json").read_text())
    found = judge(asks(config, {}, "none"), runsc, has_cgroups=True)
    assert "\n" not in (warning(found) or "")


def test_limits_are_dropped_without_a_cgroup() -> None:
    limits = linux(resources={"memory": {"limit": 1 << 26}, "pids": {"limit": 100}, "cpu": {"quota": 1}})
    assert names(limits) == []
    assert names(limits, cgroups=False) == ["memory-limit", "cpu-quota", "pids-limit"]


@pytest.mark.parametrize(
    ("user", "unmapped", "rootless", "ignored", "expected"),
    [
        (0, None, False, False, True),
        (0, None, True, False, True),
        (0, 65534, True, False, False),
        (0, None, True, True, False),
        (0, None, False, True, False),
        (1000, None, True, False, False),
    ],
)
def test_who_has_cgroups(
    user: int,
    unmapped: int | None,
    rootless: bool,
    ignored: bool,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    monkeypatch.setattr(judging, "unmapped_uid", lambda: unmapped)
    assert has_cgroups(rootless=rootless, ignore_cgroups=ignored) is expected


def test_no_limit_is_no_ask() -> None:
    none = linux(resources={"memory": {"limit": -1}, "pids": {"limit": -1}, "cpu": {"quota": 0}})
    assert names(none, cgroups=False) == []


def test_a_container_of_a_pod_joins_its_sandbox() -> None:
    spaces = [{"type": "ipc", "path": "/proc/7/ns/ipc"}, {"type": "network", "path": "/proc/7/ns/net"}]
    config = base_config(linux={"namespaces": spaces})
    assert {"namespace-path-ignored", "network-joined"} <= set(names(config))
    config["annotations"] = {"io.kubernetes.cri.container-type": "container"}
    assert not {"namespace-path-ignored", "network-joined"} & set(names(config))


def test_the_options_of_the_run_count() -> None:
    config = linux()
    for network, expected in ((Network.HOST, ["network-host"]), (Network.NONE, []), (Network.SANDBOX, [])):
        options = RunOptions("web", network=network)
        found = unenforced(config, {}, options, Capabilities(("systrap",)))
        assert [each.name for each in found] == expected


def with_flags(config: dict[str, Any], runsc: str, *flags: str, kind: str | None = None) -> list[str]:
    asked = asks(config, {0: kind}, "none")
    return [each.name for each in judge(asked, runsc, has_cgroups=True, runsc_flags=flags)]


def test_seccomp_with_runscs_own_switch_is_not_all_of_it() -> None:
    """What is open then: programs of exec before 2026, errors but EPERM, some actions."""
    flag = "--oci-seccomp=true"
    plain = linux(seccomp={"defaultAction": "SCMP_ACT_ERRNO"})
    assert [with_flags(plain, runsc) for runsc in SEEN] == [["seccomp"]] * 3
    assert [with_flags(plain, runsc, flag) for runsc in SEEN] == [["seccomp-exec"], ["seccomp-exec"], []]
    of_podman = linux(
        seccomp={
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
        }
    )
    assert with_flags(of_podman, NEW, flag) == ["seccomp-errors"]
    for action in ("KILL_PROCESS", "LOG", "NOTIFY"):
        rule = {"names": ["a"], "action": f"SCMP_ACT_{action}"}
        asked = linux(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
        assert with_flags(asked, NEW, flag) == ["seccomp-actions"]


def test_flags_of_runsc_open_and_close_what_is_mounted() -> None:
    socket = linux() | {"mounts": [{"destination": "/s", "type": "bind", "source": "/run/s"}]}
    for flag, expected in (
        *[(f"--host-uds={value}", []) for value in ("open", "all")],
        *[(f"--host-uds={value}", ["mount-socket"]) for value in ("none", "create")],
        *[(f"--overlay2=all:{medium}", ["mount-overlay", "mount-socket"]) for medium in ("self", "memory")],
        *[(f"--overlay2={value}", ["mount-socket"]) for value in ("none", "root:self")],
    ):
        assert with_flags(socket, NEW, flag, kind="socket") == expected
    socket["mounts"][0]["options"] = ["ro"]
    assert with_flags(socket, NEW, "--overlay2=all:self", kind="socket") == ["mount-socket"]


def test_a_root_without_an_overlay_has_none_added() -> None:
    for flags, expected in (((), True), (("--overlay2=none",), False), (("--overlay2=root:self",), True)):
        found = set(unasked(base_config(), has_empty_tmp=False, runsc_flags=flags))
        assert ("absent=readonly" in found) is expected


def test_what_is_the_default_anyway_is_not_missed() -> None:
    options = ["norelatime", "nostrictatime", "nolazytime", "noiversion", "nomand", "symfollow"]
    config = linux() | {"mounts": [{"destination": "/m", "type": "tmpfs", "options": options}]}
    assert [names(config, runsc) for runsc in SEEN] == [[], [], []]


def test_ipv6_is_switched_off_in_a_network_of_the_sentry() -> None:
    config = linux(sysctl={"net.ipv6.conf.all.disable_ipv6": "1"})
    for network, runsc, expected in (
        ("sandbox", NEW, []),
        ("sandbox", MIDDLE, ["sysctl-ipv6"]),
        ("none", NEW, ["sysctl"]),
    ):
        found = judge(asks(config, {}, network), runsc, has_cgroups=True)
        assert [each.name for each in found] == expected


@pytest.mark.parametrize(
    ("able", "generation"),
    [
        (Capabilities(("kvm", "ptrace")), OLD),
        (Capabilities(("systrap", "kvm", "ptrace")), MIDDLE),
        (Capabilities(("systrap", "kvm"), gofer_namespace=True), NEW),
    ],
)
def test_a_build_is_known_by_what_it_can_do(able: Capabilities, generation: str) -> None:
    assert able.generation == generation


def test_each_place_is_named_once() -> None:
    config = linux()
    config["mounts"] = [
        {"destination": place, "type": "tmpfs", "options": ["lazytime", "sync"]}
        for place in ("/a", "/b", "/a")
    ]
    (found,) = judge(asks(config, {}, "none"), NEW, has_cgroups=True)
    assert found.places == ["/a (lazytime)", "/a (sync)", "/b (lazytime)", "/b (sync)"]


# -- what is enforced and surprises, and what is added


def test_surprises_are_those_of_the_data() -> None:
    config = linux(resources={"memory": {"limit": 1 << 26}, "pids": {"limit": 8}})
    found = set(surprises(config, has_empty_tmp=True, has_cgroups=True))
    assert found == set(SURPRISES)
    assert not set(surprises(config, has_empty_tmp=True, has_cgroups=False))


@pytest.mark.parametrize(
    ("mounts", "has_empty_tmp", "expected"),
    [
        ([], False, False),
        ([], True, True),
        ([{"destination": "/tmp", "type": "tmpfs", "options": ["size=1m"]}], True, False),
        ([{"destination": "/x", "type": "tmpfs", "options": ["size=1m"]}], False, False),
        ([{"destination": "/x", "type": "tmpfs", "options": ["mode=700"]}], False, True),
        ([{"destination": "/x", "type": "tmpfs"}], False, True),
    ],
)
def test_memory_that_grows_is_a_surprise(
    mounts: list[dict[str, Any]], has_empty_tmp: bool, expected: bool
) -> None:
    config = linux(resources={"memory": {"limit": 1 << 26}}) | {"mounts": mounts}
    found = set(surprises(config, has_empty_tmp=has_empty_tmp, has_cgroups=True))
    assert (found == {"surprise=memory_and_tmpfs"}) == expected


def test_what_is_added_is_what_is_left_out() -> None:
    assert set(unasked(base_config(), has_empty_tmp=True)) == set(UNASKED)
    mounts = [{"destination": place} for place in ("/proc", "/sys", "/dev", "/dev/shm", "/tmp/")]
    config = base_config(mounts=mounts, root={"path": "r", "readonly": True}, process={"env": ["HOME=/"]})
    assert not set(unasked(config, has_empty_tmp=True))


def test_the_files_are_small_and_one_concern_each() -> None:
    for file in Path(known.DIRECTORY).glob("*.toml"):
        assert tomllib.loads(file.read_text()), file.name
        assert file.read_text().startswith("# "), f"{file.name} does not say what it is about"
