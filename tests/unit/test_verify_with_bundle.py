"""`engine trace verify --bundle`: what is recorded as asked for is what config.json asks for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from engine.cli.main import main
from engine.verify.faults import FaultCode
from engine.verify.trace_check import Verdict
from engine.verify.with_bundle import verify
from tests.support.stories import CONFIG, Story, save, written


def test_a_trace_of_this_config_conforms(tmp_path: Path) -> None:
    [result] = verify([str(Story().write(tmp_path / "trace"))], CONFIG)
    assert result.verdict is Verdict.CONFORMS, result


def test_another_config_differs(tmp_path: Path) -> None:
    [result] = verify([str(Story().write(tmp_path / "trace"))], CONFIG + b"\n")
    assert result.fault is not None
    assert (result.fault.line, result.fault.code) == (1, FaultCode.CONFIG_DIFFERS)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["process"]["args"].append("--more"),
        lambda config: config["linux"].pop("seccomp"),
        lambda config: config["mounts"].pop(0),
        lambda config: config.update(annotations={"dev.gvisor.spec.mount.a.share": "pod"}),
        lambda config: config.update(hooks={"poststop": [{"path": "/bin/true"}]}),
        lambda config: config.pop("process"),
    ],
)
def test_a_trace_with_the_digest_of_another_config_differs(tmp_path: Path, change: object) -> None:
    config = json.loads(CONFIG)
    change(config)  # type: ignore[operator]
    other = json.dumps(config).encode()
    lines = Story().lines(tmp_path / "trace")
    for bundle in (lines[0]["bundle"], lines[6]["facts"]["bundle"]):
        bundle["sha256"] = hashlib.sha256(other).hexdigest()
    [result] = verify([str(save(tmp_path / "forged", written(lines)))], other)
    assert result.fault is not None
    assert (result.fault.line, result.fault.code) == (1, FaultCode.CONFIG_DIFFERS)


def test_command_compares_with_the_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = str(Story().write(tmp_path / "trace"))
    (tmp_path / "config.json").write_bytes(CONFIG)
    assert main(["trace", "verify", trace, "--bundle", str(tmp_path)]) == 0
    (tmp_path / "config.json").write_bytes(b"{}")
    assert main(["trace", "verify", trace, "--bundle", str(tmp_path)]) == 1
    assert "config.json has another digest" in capsys.readouterr().out


def test_command_refuses_a_bundle_for_many_runs(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["trace", "verify", "a", "--runs", "--bundle", str(tmp_path)])
    assert ended.value.code == 2
