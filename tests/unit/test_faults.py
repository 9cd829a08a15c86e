"""Which public faults a version of gVisor has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.doctor.part import Part, Status
from engine.doctor.platforms import name_faults
from engine.runsc.faults import FAULTS, fault_line, faults_of, parse_version


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("runsc version release-20260817.0-70-g3c5eee17d\nspec: 1.2.1", (20260817, 0, 70)),
        ("release-20260817.0", (20260817, 0, 0)),
        ("runsc version 0.0~20240729.0\nspec: 1.2.0", (20240729, 0, 0)),
        ("runsc version VERSION_MISSING", None),
        ("release-2026081.0", None),
        ("release-20260817.0-dirty", None),
        ("", None),
    ],
)
def test_a_version_is_read_from_what_runsc_prints(text: str, version: tuple[int, int, int] | None) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            "0.0~20221219.0",
            ["CVE-2023-7258", "CVE-2024-10026", "CVE-2024-10603", "CVE-2025-2713", "CVE-2026-96812"],
        ),
        ("0.0~20240729.0", ["CVE-2024-10026", "CVE-2024-10603", "CVE-2025-2713", "CVE-2026-96812"]),
        ("release-20241028.0", ["CVE-2025-2713", "CVE-2026-96812"]),
        ("release-20250319.0", ["CVE-2026-96812"]),
        ("release-20260817.0", ["CVE-2026-96812"]),
        ("release-20260817.0-6-g0000000", ["CVE-2026-96812"]),
        ("release-20260817.0-7-g573a9e73c", []),
        ("release-20261116.0", []),
    ],
)
def test_a_version_has_the_faults_before_their_fix(text: str, names: list[str]) -> None:
    version = parse_version(text)
    assert version is not None
    assert [fault.name for fault in faults_of(version)] == names


def test_every_fault_has_its_own_record_and_a_span() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    for fault in FAULTS:
        assert fault.source.endswith(f"/{fault.name}.json")
        assert fault.since < fault.fixed


def test_doctor_names_the_faults_with_a_hint() -> None:
    runsc = Part("runsc", Status.OK, "", "", detail={"version": "runsc version 0.0~20240729.0"})
    part = name_faults(runsc)
    assert part.status is Status.DEGRADED
    assert part.hint
    assert [each["name"] for each in part.detail["faults"]][-1] == "CVE-2026-96812"
    fixed = name_faults(replace(runsc, detail={"version": "release-20261116.0"}))
    assert (fixed.status, fixed.hint) == (Status.OK, "")
    assert name_faults(replace(runsc, detail={})).status is Status.MISSING


def test_a_version_that_is_not_known_is_not_said_to_be_sound() -> None:
    assert fault_line("not recorded") != fault_line("release-20261116.0")
    assert "CVE-2026-96812" in fault_line("release-20260817.0")
