"""Attestations hold for another implementation: Go's of DSSE and in-toto, with the signatures of Go's own library.

Its program, tests/others/dsse/, has its modules' digests in go.sum; the first build downloads them. Where they cannot
be had, these tests are skipped; OpenSSL checks attestations in tests/unit/test_attestation.py.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from engine.lifecycle.spec_graph import spec_graph
from engine.verify import evidence
from engine.verify.attestation import PAYLOAD_TYPE, SUFFIX, attest
from engine.verify.statement import statement
from tests.support.dsse import new_key, signed
from tests.support.stories import Story

PROGRAM = Path(__file__).parents[1] / "others" / "dsse"
STORIES = {
    "handed off": Story(),
    "ended": Story(end="ended", supervised=True),
    "refused": Story(steps=2, end="refused"),
    "no UTF-8": Story(name="\udcff\udcfe"),
}


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("go") / "dsse"
    had = in_go("mod", "download")
    if had.returncode and "SECURITY ERROR" not in had.stderr:
        pytest.skip(f"Go's modules cannot be downloaded: {had.stderr.strip()[-200:]}")
    made = in_go("build", "-o", str(built), ".")
    assert made.returncode == 0, made.stderr
    return built


def in_go(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["go", *arguments],
        cwd=PROGRAM,
        env={**os.environ, "GOFLAGS": "-mod=readonly"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def read_in_go(program: Path, public: str, envelope: Path) -> Any:
    """The statement as Go read it; None if it does not take the envelope."""
    done = subprocess.run(
        [program, public, envelope], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode == 1:
        return None
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def attested(directory: Path, story: Story, key: Path) -> Path:
    trace = story.write(directory / "trace.jsonl")
    attest(str(trace), str(key))
    return trace


@pytest.mark.parametrize("kind", ["ed25519", "P-256", "P-384", "P-521"])
@pytest.mark.parametrize("story", STORIES)
def test_go_reads_every_member_as_it_was_written(
    program: Path, tmp_path: Path, kind: str, story: str
) -> None:
    key = new_key(tmp_path / "key", kind)
    trace = attested(tmp_path, STORIES[story], key)
    found = read_in_go(program, f"{key}.pub", Path(f"{trace}{SUFFIX}"))
    assert found == statement(*evidence.read(str(trace), spec_graph()))


def test_go_takes_no_other_key_and_no_other_payload(program: Path, tmp_path: Path) -> None:
    key, other = new_key(tmp_path / "key"), new_key(tmp_path / "other")
    beside = Path(f"{attested(tmp_path, Story(), key)}{SUFFIX}")
    assert read_in_go(program, f"{other}.pub", beside) is None
    said = json.loads(beside.read_bytes())
    payload = base64.b64decode(said["payload"]).replace(b'"0755"', b'"0777"')
    beside.write_text(json.dumps({**said, "payload": base64.b64encode(payload).decode()}))
    assert read_in_go(program, f"{key}.pub", beside) is None
    beside.write_text(json.dumps(signed(PAYLOAD_TYPE, payload, key)))
    assert read_in_go(program, f"{key}.pub", beside) is not None  # only the signature was wrong
