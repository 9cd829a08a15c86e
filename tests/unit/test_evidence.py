"""Where traces lie: where a reboot clears nothing, in one place for bases below /run; gc removes none unasked."""

from __future__ import annotations

import json
import os
import pwd
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.cli.main import main
from engine.errors import Reason, TraceError
from engine.lifecycle.secure_root import secure_root
from engine.state import base as bases
from engine.state import evidence
from engine.state.base import open_base
from engine.state.gc import Collected, collect
from engine.traces.chained import ChainedRun
from engine.traces.writer import Trace
from tests.support.refusals import refuses

DAY = 86_400
USER = 4242
WRITTEN = "20260101T000000Z-0123abcd.jsonl"


@pytest.fixture
def home(private: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of an ordinary user, for whom this process now acts."""
    made = private / "home"
    made.mkdir()
    for module in (bases, evidence):
        monkeypatch.setattr(module, "ordinary_user", lambda: USER)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_dir=str(made)))
    return made


def volatile(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base that is taken for one that a reboot clears."""
    monkeypatch.setattr(evidence, "_VOLATILE", f"{path}/")
    return path / "base"


def old_trace(place: Path, container_id: str, base: Path | None = None, *, days: int = 60) -> Path:
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = place / f"{container_id}-{WRITTEN}"
    named = (
        ""
        if base is None
        else f'{{"trigger":"secure_root","facts":{{"directories":[{{"path":"{base}"}}]}}}}\n'
    )
    path.write_text("{}\n" + named)
    then = time.time() - days * DAY
    os.utime(path, (then, then))
    return path


def gc(base: Path, **environment: str) -> Collected:
    return collect({"ENGINE_ARTIFACT_BASE": str(base), **environment}, traces_older_than=30 * DAY)


def test_roots_traces_outlive_a_boot_whatever_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "ordinary_user", lambda: None)
    for environment in ({}, {"XDG_STATE_HOME": "/elsewhere", "HOME": "/root"}):
        assert evidence.default_place(environment) == "/var/lib/gvisor-engine/traces"
        for base in ("/run/gvisor-engine", "/run/containerd/gvisor-engine/k8s.io"):
            assert evidence.choose_place(base, environment) == "/var/lib/gvisor-engine/traces"


def test_a_users_traces_are_below_xdg_state_and_else_by_the_uid(home: Path) -> None:
    of_uid = f"{home}/.local/state/gvisor-engine/traces"
    assert evidence.default_place({"XDG_STATE_HOME": "/state"}) == "/state/gvisor-engine/traces"
    for environment in ({}, {"XDG_STATE_HOME": ""}, {"XDG_STATE_HOME": "relative"}, {"HOME": "/other"}):
        assert evidence.default_place(environment) == of_uid
    assert evidence.choose_place(bases.default_base(), {}) == of_uid


@pytest.mark.parametrize("path", ["/", "relative", "/nonexistent", ""])
def test_without_a_home_the_base_has_the_traces(
    home: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert home.is_dir()
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_dir=path))
    assert evidence.choose_place("/run/user/4242/gvisor-engine", {}) == "/run/user/4242/gvisor-engine/traces"


def test_a_base_outside_of_run_has_its_own_traces() -> None:
    assert evidence.choose_place("/srv/base", {"XDG_STATE_HOME": "/state"}) == "/srv/base/traces"
    assert evidence.choose_place("/runs/base", {}) == "/runs/base/traces"


def test_the_place_is_made_private_with_all_above_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = volatile(home.parent, monkeypatch)
    base = bases.open_base(str(path))
    place = evidence.open_place(base, {})
    assert place.path == f"{home}/.local/state/gvisor-engine/traces"
    assert os.stat(place.path).st_mode & 0o777 == 0o700
    place.close()
    base.close()


@pytest.mark.parametrize("how", ["loose parent", "link", "file", "loose itself"])
def test_a_place_that_others_can_change_is_refused(
    how: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = volatile(home.parent, monkeypatch)
    above = home / ".local/state/gvisor-engine"
    above.mkdir(parents=True)
    if how == "loose parent":
        above.chmod(0o777)
    elif how == "link":
        (above / "traces").symlink_to(home)
    elif how == "file":
        (above / "traces").touch()
    else:
        (above / "traces").mkdir()
        (above / "traces").chmod(0o755)
    base = bases.open_base(str(path))
    with refuses(TraceError, Reason.ROOT_NOT_PRIVATE, ".local/state/gvisor-engine"):
        evidence.open_place(base, {})
    base.close()


def test_gc_removes_old_traces_of_both_places_and_none_unasked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, chosen = volatile(home.parent, monkeypatch), home / "state"
    paths = [
        old_trace(home / ".local/state/gvisor-engine/traces", "web"),
        old_trace(chosen / "gvisor-engine/traces", "web"),
        old_trace(base / "traces", "web"),  # of an engine that kept them there
    ]
    base.chmod(0o700)
    young = old_trace(chosen / "gvisor-engine/traces", "young", days=1)
    environment = {"ENGINE_ARTIFACT_BASE": str(base), "XDG_STATE_HOME": str(chosen)}
    assert collect(environment).removed == ()
    found = gc(base, XDG_STATE_HOME=str(chosen))
    assert set(found.removed) == {str(path) for path in paths}
    assert (found.foreign, found.failed, young.exists()) == ((), (), True)


def test_gc_keeps_the_trace_of_a_container_that_lives_in_another_base(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, other = volatile(home.parent, monkeypatch), home.parent / "other"
    place = home / ".local/state/gvisor-engine/traces"
    root = secure_root("web", {"ENGINE_ARTIFACT_BASE": str(other)})
    lives, over, gone = (
        old_trace(place, "web", other),
        old_trace(place, "db", other),
        old_trace(place, "web2", home / "gone"),
    )
    assert set(gc(base).removed) == {str(over), str(gone)}
    root.close()
    assert gc(base).removed == (str(lives),)


def test_gc_names_what_is_no_trace_and_a_place_that_is_not_private(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, place = volatile(home.parent, monkeypatch), home / ".local/state/gvisor-engine/traces"
    old_trace(place, "web", days=1)
    (place / "notes").touch()
    assert gc(base).foreign == (str(place / "notes"),)
    place.chmod(0o755)
    assert gc(base).foreign == (str(place),)


def test_gc_names_what_others_can_change_above_a_place(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, loose = volatile(home.parent, monkeypatch), home / ".local"
    old = old_trace(loose / "state/gvisor-engine/traces", "web")
    loose.chmod(0o777)
    found = gc(base)
    assert (found.removed, found.foreign, found.failed) == ((), (str(loose),), ())
    assert old.exists()


def test_a_base_in_a_trace_that_nobody_can_trust_keeps_the_trace(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, loose = volatile(home.parent, monkeypatch), home / "loose"
    (loose / "base").mkdir(parents=True)
    loose.chmod(0o777)
    kept = old_trace(home / ".local/state/gvisor-engine/traces", "web", loose / "base")
    assert gc(base).removed == ()
    assert kept.exists()


def test_no_descriptor_stays_open(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = volatile(home.parent, monkeypatch)
    old_trace(home / ".local/state/gvisor-engine/traces", "web", base)
    before = len(os.listdir("/proc/self/fd"))
    gc(base)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_chain_of_each_place_is_looked_at(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """podman gives XDG_STATE_HOME to some verbs only."""
    base, chosen = volatile(home.parent, monkeypatch), home / "state"
    base.mkdir(mode=0o700)
    monkeypatch.setenv("ENGINE_ARTIFACT_BASE", str(base))
    traces = []
    for environment in ({}, {"XDG_STATE_HOME": str(chosen)}):
        trace = Trace("web", {})
        with (
            closing(open_base(str(base))) as opened,
            closing(evidence.open_place(opened, environment)) as place,
            closing(ChainedRun(place, trace, "web")) as chained,
        ):
            chained.end(trace)
        trace.close()
        assert trace.path is not None
        traces.append(Path(trace.path))
    places = [trace.parent for trace in traces]
    assert len(set(places)) == 2
    for state_home in ("", str(chosen)):
        monkeypatch.setenv("XDG_STATE_HOME", state_home)
        assert main(["trace", "verify", "--host", "--json"]) == 0
        paths = [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()]
        assert (paths[0], set(paths)) == (
            str(places[bool(state_home)] / "chain"),
            {str(place / "chain") for place in places} if state_home else {str(places[0] / "chain")},
        )
    (chosen / "gvisor-engine").rename(chosen / "moved")
    (chosen / "gvisor-engine").symlink_to("moved")
    assert main(["trace", "verify", "--host", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    traces[0].unlink()
    assert main(["trace", "verify", "--host"]) == 1
    assert str(traces[0]) in capsys.readouterr().out
    (places[1] / "chain").unlink()  # where a run of now would be
    assert main(["trace", "verify", "--host"]) == 1
    (places[0] / "chain").unlink()
    assert main(["trace", "verify", "--host"]) == 125
