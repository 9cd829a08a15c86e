"""What runsc is given says what was judged: absolute paths to the same directories, and all else as it was."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engine.bundle.bundle import open_bundle
from engine.bundle.given import GivenConfig, given_config, is_given
from engine.bundle.oci_config import parse
from engine.digest import sha256
from engine.errors import BundleError, ExecError, Reason, SecureRootError
from engine.lifecycle.given_config import give_config
from engine.lifecycle.secure_root import secure_root
from engine.linux.files import PrivateDirectory
from engine.state.base import open_base
from tests.support.bundles import base_config, make_bundle
from tests.support.refusals import refuses


def given(data: bytes, bundle: str = "/bundle", **more: Any) -> GivenConfig:
    return given_config(data, parse(data), bundle, **more)


def with_member(text: str, root: str = "rootfs") -> bytes:
    """A config.json with this unknown member, which no rule reads."""
    return json.dumps(base_config(root={"path": root}))[:-1].encode() + b',"x":' + text.encode() + b"}"


def test_what_needs_no_change_is_given_byte_by_byte() -> None:
    data = b" \n" + with_member("[1e5 , 1.0]", root="/srv/root") + b"\n"
    told = given(data)
    assert (told.data, told.digest, told.changes) == (data, sha256(data), {})


@pytest.mark.parametrize(
    "text",
    [
        "-0",
        "-0.0",
        "1.10",
        "1e5",
        "1E+5",
        "1e999",
        "0.1000000000000000055511151231257827",
        "9" * 100,
        "-1",
        "0",
    ],
)
def test_a_number_is_given_as_it_was_written(text: str) -> None:
    assert f'"x":{{"a":[{text},"{text}"]}}'.encode() in given(with_member(f'{{"a":[{text},"{text}"]}}')).data


@pytest.mark.parametrize(
    "text",
    [r"\\u0000" + "1.5" + r"\\u0000", r"\"\\u0000", r"\ud83d\ude00", "\u2028é", r"\/", "<&>", r"\u0001"],
)
def test_a_string_is_given_as_it_was_meant(text: str) -> None:
    data = with_member(f'["{text}",{{"{text}":1.5}}]')
    assert json.loads(given(data).data)["x"] == json.loads(data)["x"]


def test_only_what_runsc_would_make_absolute_by_the_bundle_is_changed() -> None:
    mounts = [
        {"destination": "/a", "type": "bind", "source": "a/../b"},
        {"destination": "/c", "source": "c", "options": ["rbind"]},
        {"destination": "/d", "type": "bind", "source": "/d"},
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/e", "type": "tmpfs"},
    ]
    told = given(json.dumps(base_config(mounts=mounts, root={"path": "./inner/rootfs/"})).encode(), "/b")
    written = json.loads(told.data)
    assert written["root"] == {"path": "/b/inner/rootfs"}
    assert [mount.get("source") for mount in written["mounts"]] == ["/b/b", "/b/c", "/d", "proc", None]
    assert told.changes == {"root_path": "/b/inner/rootfs", "mount_sources": 2}


def test_annotations_are_added_beside_the_others() -> None:
    data = json.dumps(base_config(root={"path": "/r"}, annotations={"a": "1"})).encode()
    told = given(data, annotations={"b": "2"})
    assert json.loads(told.data) == json.loads(data) | {"annotations": {"a": "1", "b": "2"}}
    none = json.dumps(base_config(root={"path": "/r"}, annotations=None)).encode()
    assert json.loads(given(none, annotations={"b": "2"}).data)["annotations"] == {"b": "2"}


# --- The directory that runsc is given ------------------------------------------------------------------------

HOOKS = {"prestart": [{"path": "/bin/true"}]}


@pytest.fixture
def parent(private: Path) -> Iterator[PrivateDirectory]:
    with closing(open_base(str(private / "parent"))) as opened:
        yield opened


@pytest.mark.parametrize(
    ("root", "hooks", "link"),
    [
        ("rootfs", HOOKS, "rootfs"),
        ("rootfs", {}, None),
        ("rootfs", None, None),
        ("inner/rootfs", HOOKS, None),
        ("..", HOOKS, None),
        (".", HOOKS, None),
        ("/rootfs", HOOKS, None),
    ],
)
def test_hooks_find_the_root_beside_config_json(
    parent: PrivateDirectory, root: str, hooks: object, link: str | None
) -> None:
    config = given(json.dumps(base_config(root={"path": root}, hooks=hooks)).encode())
    written = give_config(parent, config)
    with closing(written):
        links = {
            name: os.readlink(f"{written.path}/{name}") for name in os.listdir(written.path) if name == link
        }
        assert set(os.listdir(written.path)) == {"config.json", *links}
        assert links == ({} if link is None else {link: f"/bundle/{link}"})
        assert written.changed() is None
        assert Path(written.path, "config.json").read_bytes() == config.data
        assert written.discard() == [written.path]
    assert os.listdir(parent.path) == []


def test_nothing_is_left_of_a_copy_that_could_not_be_written(
    parent: PrivateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("engine.lifecycle.given_config.write_all", full)
    config = given(json.dumps(base_config(hooks=HOOKS)).encode())
    with refuses(ExecError, Reason.FAILURE, "config.json"):
        give_config(parent, config)
    assert os.listdir(parent.path) == []


# --- Paths that JSON cannot hold ------------------------------------------------------------------------------

#: runsc reads U+FFFD in the place of the byte: the path of a directory that somebody else can make.
NOT_UTF_8, TAKEN_FOR = "b\udcff", "b\ufffd"


def test_a_bundle_whose_root_runsc_would_find_elsewhere_is_refused(private: Path) -> None:
    make_bundle(private / TAKEN_FOR)
    bundle = make_bundle(private / NOT_UTF_8)
    with refuses(BundleError, Reason.BUNDLE_UNSAFE, "rootfs", "UTF-8"):
        open_bundle(str(bundle))


def test_a_bundle_whose_mount_runsc_would_find_elsewhere_is_refused(private: Path) -> None:
    mounts = [{"destination": "/data", "type": "bind", "source": "data"}]
    root = make_bundle(private / "other") / "rootfs"
    bundle = make_bundle(private / NOT_UTF_8, root={"path": str(root)}, mounts=mounts)
    (bundle / "data").mkdir()
    with refuses(BundleError, Reason.BUNDLE_UNSAFE, "data", "UTF-8"):
        open_bundle(str(bundle))


def test_a_bundle_with_absolute_paths_may_be_anywhere(private: Path) -> None:
    root = make_bundle(private / "other") / "rootfs"
    with open_bundle(str(make_bundle(private / NOT_UTF_8, root={"path": str(root)}))) as bundle:
        assert bundle.given.data == bundle.data


def test_a_trace_in_which_runsc_found_the_root_elsewhere_could_not_be_written() -> None:
    for rootfs, is_possible in (("/b/rootfs", True), ("/b\udcff/rootfs", False)):
        said = {"sha256": "1" * 64, "changes": {"root_path": rootfs}}
        assert is_given(said, {"sha256": "0" * 64, "rootfs": rootfs}) is is_possible


def test_a_base_that_runsc_would_find_elsewhere_is_refused(private: Path) -> None:
    base = private / NOT_UTF_8
    with refuses(SecureRootError, Reason.ROOT_NOT_PRIVATE, "UTF-8"):
        secure_root("web", {"ENGINE_ARTIFACT_BASE": str(base)})
    assert not base.exists()
