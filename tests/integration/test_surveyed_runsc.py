"""The data on what runsc does as asked holds for the installed runsc: a part of the survey, another one each day."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

#: Of so many parts, one is tried; all of them by `python -m tests.matrix`.
PARTS = 8


def test_data_and_runsc_agree(runsc: Path) -> None:
    part = int(time.time()) // 86400 % PARTS + 1
    command = [sys.executable, "-P", "-m", "engine", "survey", "--json", f"--part={part}/{PARTS}"]
    if os.geteuid() != 0:
        pytest.skip("needs root: without it most rows are not tried")
    done = subprocess.run(
        [*command, f"--runsc={runsc}"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)["cases"]
    assert len(found) >= 10
    assert [each for each in found if not each["agrees"]] == [], f"part {part} of {PARTS}"
    assert done.returncode == 0
