"""What a build of runsc can do: asked of the real builds, and of files that have or lack a flag's tag."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.options import Platform, RunOptions
from engine.runsc.arguments import RunscArguments, build_argv
from engine.runsc.binary import platform_package
from engine.runsc.capabilities import UNKNOWN, Capabilities, capabilities, has_verb

PACKAGE = platform_package("systrap")
GOFER = b'flag:"gofer-network-namespace"'
RELEASE = b'flag:"sidecar-release-enforcement-policy"'


def told(path: Path, content: bytes) -> Capabilities:
    path.write_bytes(content)
    with path.open("rb") as file:
        return capabilities(file.fileno())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (PACKAGE, Capabilities(("systrap",))),
        (PACKAGE + bytes(700_000) + GOFER, Capabilities(("systrap",), gofer_namespace=True)),
        (PACKAGE + GOFER + bytes(700_000) + RELEASE, Capabilities(("systrap",), True, True)),
        (PACKAGE + RELEASE, Capabilities(("systrap",))),
        (PACKAGE + bytes(1 << 20) + GOFER, Capabilities(("systrap",))),
        (GOFER + RELEASE, UNKNOWN),
        (b"", UNKNOWN),
    ],
)
def test_a_flag_is_known_near_a_platform_only(tmp_path: Path, content: bytes, expected: Capabilities) -> None:
    assert vars(told(tmp_path / "runsc", content)) == vars(expected)


@pytest.mark.parametrize("offset", range(-64, 64, 7))
def test_a_tag_over_the_end_of_a_chunk_is_found(tmp_path: Path, offset: int) -> None:
    content = PACKAGE + bytes((1 << 18) + offset) + GOFER
    assert told(tmp_path / "runsc", content).gofer_namespace


def test_an_older_build_is_given_no_flag_of_a_newer() -> None:
    assert UNKNOWN.creation_flags() == Capabilities(("systrap",)).creation_flags() == ()


def test_the_flags_of_a_build_come_before_the_verb() -> None:
    flags = Capabilities(("systrap",), gofer_namespace=True, enforces_release=True).creation_flags()
    assert flags == (
        "--gofer-network-namespace",
        "new",
        "--sidecar-release-enforcement-policy",
        "ALWAYS",
    )
    argv = build_argv(
        "/s",
        "/r",
        RunOptions("web"),
        Platform.SYSTRAP,
        "/b",
        RunscArguments(verb="create"),
        creation_flags=flags,
    )
    assert argv.index("ALWAYS") < argv.index("create")
    assert argv.index("new") < argv.index("create")


@pytest.mark.parametrize(
    ("content", "has"),
    [(b"\0\x0b*cmd.Update\0\x0b", True), (b"*cmd.UpdateOther\0", False), (b"update", False)],
)
def test_a_verb_is_known_by_its_type(tmp_path: Path, content: bytes, has: bool) -> None:
    path = tmp_path / "runsc"
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert has_verb(descriptor, "update") == has
    finally:
        os.close(descriptor)
